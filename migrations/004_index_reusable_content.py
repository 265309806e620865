"""Index completed content in the order in which it is reused.

`reuse()` serves the first entry for a user and a type (and a level), so it reads one row, however
many rows the user has. Without these indexes the database reads and sorts all of them, or walks
the index on usageCount.

If the table is large and in use, build these indexes on PostgreSQL before the migration with
CREATE INDEX CONCURRENTLY; the migration keeps an existing index.
"""

TABLE = "ai_generated_content"
INDEXES = (
    ("idx_ai_content_reuse", '"userId", "type", "usageCount", "createdAt" DESC'),
    ("idx_ai_content_reuse_level", '"userId", "type", "level", "usageCount", "createdAt" DESC'),
)


def migrate(migrator, database, *, fake=False):
    """Create the partial indexes."""
    for name, columns in INDEXES:
        migrator.sql(
            f'CREATE INDEX IF NOT EXISTS "{name}" ON "{TABLE}" ({columns}) '
            "WHERE \"status\" = 'completed'"
        )


def rollback(migrator, database, *, fake=False):
    """Drop the partial indexes."""
    for name, _ in reversed(INDEXES):
        migrator.sql(f'DROP INDEX IF EXISTS "{name}"')
