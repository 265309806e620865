"""Run migrations, and know the schema that they add up to."""
