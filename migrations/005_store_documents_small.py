"""Let large documents take less room.

PostgreSQL compresses them by itself: from here on by lz4, where the server has it, which is several
times faster than its default; what is stored already stays as it is. On SQLite the checks admit a
document compressed by zstd, which a program has to ask for.
"""

from peewee import IntegrityError, SqliteDatabase

TABLE = "ai_generated_content"
DOCUMENTS = (
    "requestPayload",
    "generatedData",
    "validationResults",
    "metadata",
    "topics",
    "focusAreas",
)
# Those that statements do not look into.
COMPRESSED = ("requestPayload", "generatedData", "validationResults")

# The number that each frame of zstd begins with (RFC 8878, 3.1.1); text comes before all blobs.
IS_ZSTD = "\"{column}\" >= x'28b52ffd' AND \"{column}\" < x'28b52ffe'"
BEFORE = 'CHECK ("{column}" IS NULL OR json_valid("{column}"))'
AFTER = f'CHECK ("{{column}}" IS NULL OR ({IS_ZSTD}) OR json_valid("{{column}}"))'


def migrate(migrator, database, *, fake=False):
    """Choose lz4, or widen the checks."""
    if fake:  # peewee-migrate replays it, on a database that answers nothing
        return
    if isinstance(database, SqliteDatabase):
        _change_checks(migrator, database, BEFORE, AFTER)
    else:
        _choose(migrator, database, "lz4")


def rollback(migrator, database, *, fake=False):
    """Go back to the default, and to the narrow checks, if nothing is compressed."""
    if not database.table_exists(TABLE):
        return
    if isinstance(database, SqliteDatabase):
        _refuse_compressed(database)
        _change_checks(migrator, database, AFTER, BEFORE)
    else:
        _choose(migrator, database, "default")


def _choose(migrator, database, method):
    methods = "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"
    (known,) = database.execute_sql(methods).fetchone() or ((),)  # of no server before 14
    if "lz4" not in known:
        return
    changes = ", ".join(f'ALTER COLUMN "{name}" SET COMPRESSION {method}' for name in DOCUMENTS)
    migrator.sql(f'ALTER TABLE "{TABLE}" {changes}')


def _change_checks(migrator, database, old, new):
    # SQLite has no statement for it. This is the way that its documentation gives for changes
    # that no stored value depends on (lang_altertable.html, section 7); the other one, a copy
    # of the table, would take its size again, and hours where it is large.
    (version,) = database.execute_sql("PRAGMA schema_version").fetchone()
    migrator.sql("PRAGMA writable_schema = ON")
    for column in COMPRESSED:
        migrator.sql(
            "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = ?",
            old.format(column=column),
            new.format(column=column),
            TABLE,
        )
    # Each connection, this one too, is to read the schema anew.
    migrator.sql(f"PRAGMA schema_version = {version + 1}")
    migrator.sql("PRAGMA writable_schema = RESET")


def _refuse_compressed(database):
    conditions = " OR ".join(f"({IS_ZSTD.format(column=column)})" for column in COMPRESSED)
    found = database.execute_sql(f'SELECT 1 FROM "{TABLE}" WHERE {conditions} LIMIT 1').fetchone()
    if found:
        raise IntegrityError(
            f"documents in {TABLE} are compressed, which the schema before knows nothing of: "
            "export the content, and import it into a database of that schema"
        )
