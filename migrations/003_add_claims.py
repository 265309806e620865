"""Add the columns of claims: the fingerprint of a request, its attempts, and the lease.

Each column is nullable or has a default, so programs that know only the specification's columns
continue to work. Their rows have no fingerprint, so the unique index never refuses them.
"""

from peewee import SqliteDatabase

TABLE = "ai_generated_content"

# Name, PostgreSQL's definition, SQLite's definition, comment. Each constraint is on its own line.
COLUMNS = (
    (
        "fingerprint",
        "varchar(64) NULL",
        'VARCHAR(64) NULL\n  CONSTRAINT "{table}_fingerprint_length" '
        'CHECK (length("fingerprint") <= 64)',
        "SHA-256 of what was asked, in hexadecimal digits",
    ),
    (
        "attempts",
        'integer NOT NULL DEFAULT 0\n  CONSTRAINT "{table}_attempts_check" CHECK ("attempts" >= 0)',
        'INTEGER NOT NULL DEFAULT 0\n  CONSTRAINT "{table}_attempts_check" '
        'CHECK (typeof("attempts") = \'integer\' AND "attempts" BETWEEN 0 AND 2147483647)',
        "How many times generation was begun",
    ),
    (
        "leaseExpiresAt",
        'timestamptz NULL\n  CONSTRAINT "{table}_leaseExpiresAt_range" CHECK ({range})',
        'TEXT NULL\n  CONSTRAINT "{table}_leaseExpiresAt_utc" '
        "CHECK (\"leaseExpiresAt\" GLOB '{time}')",
        "When whoever is generating counts as lost",
    ),
)
POSTGRES_TIME = '"{}" >= to_timestamp(-62135510400) AND "{}" < to_timestamp(253402214400)'
SQLITE_TIME = "NNNN-NN-NN NN:NN:NN.NNNNNN".replace("N", "[0-9]")

INDEXES = (
    # Each request is in flight at most once.
    (
        "UNIQUE INDEX",
        "idx_ai_content_in_flight",
        '("userId", "fingerprint")',
        "\"status\" IN ('pending', 'generating')",
    ),
    # For lookups of content by its request.
    (
        "INDEX",
        "idx_ai_content_fingerprint",
        '("userId", "fingerprint")',
        '"fingerprint" IS NOT NULL',
    ),
    # For the oldest pending row. The status is the same in all of its rows; it makes SQLite prefer
    # this index to the one on status. With the type, rows of other types need not be read.
    (
        "INDEX",
        "idx_ai_content_pending",
        '("status", "createdAt", "id", "type")',
        "\"status\" = 'pending'",
    ),
)


def migrate(migrator, database, *, fake=False):
    """Add the columns and their indexes."""
    sqlite = isinstance(database, SqliteDatabase)
    for name, postgres, lite, comment in COLUMNS:
        definition = (lite if sqlite else postgres).format(
            table=TABLE, time=SQLITE_TIME, range=POSTGRES_TIME.format(name, name)
        )
        migrator.sql(f'ALTER TABLE "{TABLE}" ADD COLUMN "{name}" {definition}')
        if not sqlite:
            migrator.sql(f"""COMMENT ON COLUMN "{TABLE}"."{name}" IS '{comment}'""")
    for kind, name, columns, where in INDEXES:
        migrator.sql(f'CREATE {kind} "{name}" ON "{TABLE}" {columns} WHERE {where}')


def rollback(migrator, database, *, fake=False):
    """Drop the indexes and the columns, unless the table was dropped without the migrations."""
    if not database.table_exists(TABLE):
        return
    # Without the column of the lease, these rows would stay generating for ever.
    migrator.sql(
        f'UPDATE "{TABLE}" SET "status" = \'pending\' '
        'WHERE "status" = \'generating\' AND "leaseExpiresAt" IS NOT NULL'
    )
    for _, name, _, _ in reversed(INDEXES):
        migrator.sql(f'DROP INDEX IF EXISTS "{name}"')
    for name, _, _, _ in reversed(COLUMNS):
        migrator.sql(f'ALTER TABLE "{TABLE}" DROP COLUMN "{name}"')
