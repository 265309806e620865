"""Add the columns of claims: the fingerprint of a request, its attempts, the lease of a claim.

Each column is nullable or has a default, so a writer that knows only the specification goes on
working. Its rows are in none of these indexes.
"""

from peewee import SqliteDatabase

TABLE = "ai_generated_content"

# Name, PostgreSQL's definition, SQLite's, comment. Constraints stand on lines of their own.
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
    # A request is in flight only once.
    (
        "UNIQUE INDEX",
        "idx_ai_content_in_flight",
        '("userId", "fingerprint")',
        "\"status\" IN ('pending', 'generating')",
    ),
    # Finds content by its request.
    (
        "INDEX",
        "idx_ai_content_fingerprint",
        '("userId", "fingerprint")',
        '"fingerprint" IS NOT NULL',
    ),
    # Finds the oldest pending row. All its rows share the status, which makes SQLite prefer it to
    # the index on the status alone. The type saves reading rows of other types.
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
    # Without a lease, no rescue would ever free them.
    migrator.sql(
        f'UPDATE "{TABLE}" SET "status" = \'pending\' '
        'WHERE "status" = \'generating\' AND "leaseExpiresAt" IS NOT NULL'
    )
    for _, name, _, _ in reversed(INDEXES):
        migrator.sql(f'DROP INDEX IF EXISTS "{name}"')
    for name, _, _, _ in reversed(COLUMNS):
        migrator.sql(f'ALTER TABLE "{TABLE}" DROP COLUMN "{name}"')
