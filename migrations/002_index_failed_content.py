"""Index failed content by age, for the cleanup.

The index has only failed rows, so it costs little. With it, a cleanup without failed rows to delete
does not search all rows of one status.
"""

TABLE = "ai_generated_content"
INDEX = "idx_ai_content_failed"


def migrate(migrator, database, *, fake=False):
    """Create the partial index."""
    migrator.sql(f"""CREATE INDEX "{INDEX}" ON "{TABLE}" ("createdAt") WHERE "status" = 'failed'""")


def rollback(migrator, database, *, fake=False):
    """Drop the partial index."""
    migrator.sql(f'DROP INDEX IF EXISTS "{INDEX}"')
