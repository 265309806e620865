"""Store large documents compressed.

PostgreSQL compresses documents by itself. It now uses lz4, if the server supports it, which is
faster than the default; documents that are already stored are not changed. On SQLite the checks now
accept documents that a program has compressed with zstd.
"""

from peewee import IntegrityError, OperationalError, SqliteDatabase

TABLE = "ai_generated_content"
DOCUMENTS = (
    "requestPayload",
    "generatedData",
    "validationResults",
    "metadata",
    "topics",
    "focusAreas",
)
# The documents whose JSON no statement queries.
COMPRESSED = ("requestPayload", "generatedData", "validationResults")

# The magic number of each zstd frame (RFC 8878, 3.1.1). SQLite sorts all text before blobs.
IS_ZSTD = "\"{column}\" >= x'28b52ffd' AND \"{column}\" < x'28b52ffe'"
BEFORE = 'CHECK ("{column}" IS NULL OR json_valid("{column}"))'
AFTER = f'CHECK ("{{column}}" IS NULL OR ({IS_ZSTD}) OR json_valid("{{column}}"))'


def migrate(migrator, database, *, fake=False):
    """Set the compression to lz4 on PostgreSQL; let the checks accept zstd on SQLite."""
    if fake:  # peewee-migrate replays migrations on a database that returns no rows
        return
    if isinstance(database, SqliteDatabase):
        migrator.run(_change_checks, database, BEFORE, AFTER)
    else:
        _choose(migrator, database, "lz4")


def rollback(migrator, database, *, fake=False):
    """Restore the default compression, or the previous checks if no document is compressed."""
    if not database.table_exists(TABLE):
        return
    if isinstance(database, SqliteDatabase):
        _refuse_compressed(database)
        migrator.run(_change_checks, database, AFTER, BEFORE)
    else:
        _choose(migrator, database, "default")


def _choose(migrator, database, method):
    methods = "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"
    # PostgreSQL before version 14 does not have this setting.
    (known,) = database.execute_sql(methods).fetchone() or ((),)
    if "lz4" not in known:
        return
    changes = ", ".join(f'ALTER COLUMN "{name}" SET COMPRESSION {method}' for name in DOCUMENTS)
    # Partitions do not inherit a change of the compression.
    partitions = database.execute_sql(
        "SELECT format('%%I.%%I', relnamespace::regnamespace, relname) FROM pg_class "
        "WHERE oid IN (SELECT relid FROM pg_partition_tree(to_regclass(%s)) WHERE level > 0)",
        (TABLE,),
    ).fetchall()
    for table in (f'"{TABLE}"', *(name for (name,) in partitions)):
        migrator.sql(f"ALTER TABLE {table} {changes}")


def _change_checks(database, old, new):
    # SQLite has no statement that changes a check.
    (sql,) = database.execute_sql(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (TABLE,)
    ).fetchone()
    for column in COMPRESSED:
        sql = sql.replace(old.format(column=column), new.format(column=column))
    database.execute_sql("PRAGMA writable_schema = ON")
    try:
        _write_schema(database, sql)
    except OperationalError as error:
        if "may not be modified" not in str(error):
            raise
        _copy_table(database, sql)  # SQLite is in defensive mode, as on macOS
    finally:
        database.execute_sql("PRAGMA writable_schema = RESET")


def _write_schema(database, sql):
    """Change only the table's definition, as SQLite's documentation describes for changes that do
    not affect stored values (lang_altertable.html, section 7)."""
    (version,) = database.execute_sql("PRAGMA schema_version").fetchone()
    database.execute_sql(
        "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?", (sql, TABLE)
    )
    # All connections, including this one, must read the schema again.
    database.execute_sql(f"PRAGMA schema_version = {version + 1}")


def _copy_table(database, sql):
    """Copy the table, which needs free disk space of the table's size."""
    dependents = database.execute_sql(
        "SELECT DISTINCT other.name FROM sqlite_master AS other, "
        "pragma_foreign_key_list(other.name) AS key "
        "WHERE other.type = 'table' AND other.name <> ? AND lower(key.\"table\") = ?",
        (TABLE, TABLE),
    ).fetchall()
    if dependents:  # dropping the old table would delete their rows
        names = ", ".join(name for (name,) in dependents)
        raise IntegrityError(
            f"SQLite is in defensive mode, so {TABLE} must be copied, but other tables reference "
            f"it ({names}): migrate with SQLITE_DBCONFIG_DEFENSIVE off"
        )
    others = database.execute_sql(
        "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type <> 'table' AND sql NOT NULL",
        (TABLE,),
    ).fetchall()
    database.execute_sql(sql.replace(f'CREATE TABLE "{TABLE}"', f'CREATE TABLE "{TABLE}_new"', 1))
    database.execute_sql(f'INSERT INTO "{TABLE}_new" SELECT * FROM "{TABLE}"')
    database.execute_sql(f'DROP TABLE "{TABLE}"')
    database.execute_sql(f'ALTER TABLE "{TABLE}_new" RENAME TO "{TABLE}"')
    for (each,) in others:
        database.execute_sql(each)


def _refuse_compressed(database):
    conditions = " OR ".join(f"({IS_ZSTD.format(column=column)})" for column in COMPRESSED)
    found = database.execute_sql(f'SELECT 1 FROM "{TABLE}" WHERE {conditions} LIMIT 1').fetchone()
    if found:
        raise IntegrityError(
            f"documents in {TABLE} are compressed, which the previous schema does not support: "
            "export the content, and import it into a database with that schema"
        )
