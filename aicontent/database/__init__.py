"""Database backends, and SQL that is built once."""
