"""Add the columns of retries, and index pending rows by the time when they are due.

`attempts` counts all claims; `failures` counts claims that failed or lost their lease. Each column
is nullable or has a default, so programs that know only the specification's columns continue to
work.
"""

from peewee import SqliteDatabase

TABLE = "ai_generated_content"

# Name, PostgreSQL's definition, SQLite's definition, comment. Each constraint is on its own line.
COLUMNS = (
    (
        "failures",
        'integer NOT NULL DEFAULT 0\n  CONSTRAINT "{table}_failures_check" CHECK ("failures" >= 0)',
        'INTEGER NOT NULL DEFAULT 0\n  CONSTRAINT "{table}_failures_check" '
        'CHECK (typeof("failures") = \'integer\' AND "failures" BETWEEN 0 AND 2147483647)',
        "How many attempts failed or lost their lease",
    ),
    (
        "maxAttempts",
        'integer NULL\n  CONSTRAINT "{table}_maxAttempts_check" CHECK ("maxAttempts" >= 1)',
        'INTEGER NULL\n  CONSTRAINT "{table}_maxAttempts_check" '
        "CHECK (typeof(\"maxAttempts\") IN ('integer', 'null') "
        'AND "maxAttempts" BETWEEN 1 AND 2147483647)',
        "The number of failures after which the row is failed",
    ),
    (
        "retryAt",
        'timestamptz NULL\n  CONSTRAINT "{table}_retryAt_range" CHECK ({range})',
        'TEXT NULL\n  CONSTRAINT "{table}_retryAt_utc" CHECK ("retryAt" GLOB \'{time}\')',
        "When a pending row may be claimed again",
    ),
    (
        "queued",
        "boolean NOT NULL DEFAULT true",
        'INTEGER NOT NULL DEFAULT 1\n  CONSTRAINT "{table}_queued_check" '
        'CHECK ("queued" BETWEEN 0 AND 1)',
        "Whether a worker was asked for it, not one caller alone",
    ),
)
POSTGRES_TIME = '"{}" >= to_timestamp(-62135510400) AND "{}" < to_timestamp(253402214400)'
SQLITE_TIME = "NNNN-NN-NN NN:NN:NN.NNNNNN".replace("N", "[0-9]")

# Rows that wait for a retry have a separate index in the order in which they are due, so that a
# claim does not read rows that are not due. With COALESCE in the condition, only these indexes
# match a claim. Otherwise PostgreSQL reads and sorts all pending rows through the index of the
# status, if its statistics are outdated. SQLite needs an equal first column to choose them.
BEFORE = (
    ("idx_ai_content_pending", '("status", "createdAt", "id", "type")', "\"status\" = 'pending'"),
)
STATUS = "COALESCE(\"status\", '')"
AFTER = (
    (
        "idx_ai_content_pending",
        '({first}"createdAt", "id", "type")',
        f"{STATUS} = 'pending' AND \"retryAt\" IS NULL",
    ),
    (
        "idx_ai_content_retry",
        '({first}"retryAt", "id", "type")',
        f"{STATUS} = 'pending' AND \"retryAt\" IS NOT NULL",
    ),
)


def migrate(migrator, database, *, fake=False):
    """Add the columns, and split the index of pending rows."""
    sqlite = isinstance(database, SqliteDatabase)
    for name, postgres, lite, comment in COLUMNS:
        definition = (lite if sqlite else postgres).format(
            table=TABLE, time=SQLITE_TIME, range=POSTGRES_TIME.format(name, name)
        )
        migrator.sql(f'ALTER TABLE "{TABLE}" ADD COLUMN "{name}" {definition}')
        if not sqlite:
            migrator.sql(f"""COMMENT ON COLUMN "{TABLE}"."{name}" IS '{comment}'""")
    _replace_indexes(migrator, BEFORE, AFTER, f"{STATUS}, " if sqlite else "")


def rollback(migrator, database, *, fake=False):
    """Restore the index and drop the columns, unless the table was dropped without migrations."""
    if not database.table_exists(TABLE):
        return
    _replace_indexes(migrator, AFTER, BEFORE)
    for name, _, _, _ in reversed(COLUMNS):
        migrator.sql(f'ALTER TABLE "{TABLE}" DROP COLUMN "{name}"')


def _replace_indexes(migrator, old, new, first=""):
    for name, _, _ in old:
        migrator.sql(f'DROP INDEX IF EXISTS "{name}"')
    for name, columns, condition in new:
        key = columns.format(first=first)
        migrator.sql(f'CREATE INDEX "{name}" ON "{TABLE}" {key} WHERE {condition}')
