"""Index completed content in the order in which it is reused.

The first entry for a user and a type, and a level if one is asked for, is what `reuse()` serves:
however many rows that user has, one is read. Without these the rows are read and sorted, or the
index on usageCount is walked.

Where the table is large and in use, PostgreSQL can build either index beforehand by CREATE INDEX
CONCURRENTLY; one that is there already is kept.
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
