"""Run migrations, and describe the schema that they create."""
