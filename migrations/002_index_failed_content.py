"""Index failed content by age, for the cleanup.

The index holds the failed rows alone, so it costs next to nothing, and a cleanup that finds
nothing to delete does not have to look through all rows of one status.
"""

TABLE = "ai_generated_content"
INDEX = "idx_ai_content_failed"


def migrate(migrator, database, *, fake=False):
    """Create the partial index."""
    migrator.sql(f"""CREATE INDEX "{INDEX}" ON "{TABLE}" ("createdAt") WHERE "status" = 'failed'""")


def rollback(migrator, database, *, fake=False):
    """Drop the partial index."""
    migrator.sql(f'DROP INDEX IF EXISTS "{INDEX}"')
