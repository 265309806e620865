"""Store large documents compressed.

PostgreSQL compresses them by itself, from now on with lz4 if the server has it, which is faster
than its default. Stored documents stay as they are. On SQLite the checks accept documents that a
program has compressed with zstd.
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
# The documents that no statement queries.
COMPRESSED = ("requestPayload", "generatedData", "validationResults")

# The number at the beginning of each zstd frame (RFC 8878, 3.1.1). Text sorts before all blobs.
IS_ZSTD = "\"{column}\" >= x'28b52ffd' AND \"{column}\" < x'28b52ffe'"
BEFORE = 'CHECK ("{column}" IS NULL OR json_valid("{column}"))'
AFTER = f'CHECK ("{{column}}" IS NULL OR ({IS_ZSTD}) OR json_valid("{{column}}"))'


def migrate(migrator, database, *, fake=False):
    """Choose lz4, or widen the checks."""
    if fake:  # peewee-migrate replays migrations on a database that answers nothing
        return
    if isinstance(database, SqliteDatabase):
        migrator.run(_change_checks, database, BEFORE, AFTER)
    else:
        _choose(migrator, database, "lz4")


def rollback(migrator, database, *, fake=False):
    """Go back to the default, and to the narrow checks, if nothing is compressed."""
    if not database.table_exists(TABLE):
        return
    if isinstance(database, SqliteDatabase):
        _refuse_compressed(database)
        migrator.run(_change_checks, database, AFTER, BEFORE)
    else:
        _choose(migrator, database, "default")


def _choose(migrator, database, method):
    methods = "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"
    # Servers before 14 have no such setting.
    (known,) = database.execute_sql(methods).fetchone() or ((),)
    if "lz4" not in known:
        return
    changes = ", ".join(f'ALTER COLUMN "{name}" SET COMPRESSION {method}' for name in DOCUMENTS)
    # A partition does not follow its table in this.
    partitions = database.execute_sql(
        "SELECT format('%%I.%%I', relnamespace::regnamespace, relname) FROM pg_class "
        "WHERE oid IN (SELECT relid FROM pg_partition_tree(to_regclass(%s)) WHERE level > 0)",
        (TABLE,),
    ).fetchall()
    for table in (f'"{TABLE}"', *(name for (name,) in partitions)):
        migrator.sql(f"ALTER TABLE {table} {changes}")


def _change_checks(database, old, new):
    # SQLite has no statement for it.
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
        _copy_table(database, sql)  # a defensive SQLite, as that of macOS
    finally:
        database.execute_sql("PRAGMA writable_schema = RESET")


def _write_schema(database, sql):
    """Change the table's definition alone, as SQLite documents it for a change that affects no
    stored value (lang_altertable.html, section 7)."""
    (version,) = database.execute_sql("PRAGMA schema_version").fetchone()
    database.execute_sql(
        "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?", (sql, TABLE)
    )
    # Each connection, this one too, must read the schema again.
    database.execute_sql(f"PRAGMA schema_version = {version + 1}")


def _copy_table(database, sql):
    """Copy the table: this needs its size again on the disk."""
    dependents = database.execute_sql(
        "SELECT DISTINCT other.name FROM sqlite_master AS other, "
        "pragma_foreign_key_list(other.name) AS key "
        "WHERE other.type = 'table' AND other.name <> ? AND lower(key.\"table\") = ?",
        (TABLE, TABLE),
    ).fetchall()
    if dependents:  # dropping the old table would delete their rows
        names = ", ".join(name for (name,) in dependents)
        raise IntegrityError(
            f"this SQLite is defensive, so that {TABLE} has to be made anew, but tables reference "
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
            f"documents in {TABLE} are compressed, which the schema before knows nothing of: "
            "export the content, and import it into a database of that schema"
        )
