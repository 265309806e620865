"""Create ai_generated_content, the specification's table, on SQLite and PostgreSQL.

The migration is plain SQL and imports nothing from the package, so that a change of the model does
not change it.
"""

import re

from peewee import IntegrityError, SqliteDatabase

TABLE = "ai_generated_content"
FUNCTION = "ai_generated_content_set_updated_at"
TRIGGER = "update_ai_generated_content_updated_at"

TYPES = (
    "lesson",
    "vocabulary_drill",
    "grammar_exercise",
    "cultural_content",
    "personalized_exercise",
    "pronunciation_drill",
    "conversation_practice",
)
STATUSES = ("pending", "generating", "completed", "failed", "cached")
COUNTERS = ("estimatedCompletionTime", "generationTimeMs", "tokenUsage", "usageCount")
DOCUMENTS = (
    "requestPayload",
    "generatedData",
    "validationResults",
    "metadata",
    "topics",
    "focusAreas",
)

# Name, PostgreSQL's type, SQLite's type, the rest of the definition, comment.
COLUMNS = (
    ("id", "varchar(36)", "VARCHAR(36)", "NOT NULL", None),
    ("userId", "integer", "INTEGER", "NOT NULL", None),
    ("type", "text", "TEXT", "NOT NULL", None),
    ("status", "text", "TEXT", "NOT NULL DEFAULT 'pending'", None),
    ("requestPayload", "jsonb", "TEXT", "NOT NULL", "Original ContentRequest data"),
    ("generatedData", "jsonb", "TEXT", "NULL", "Final structured content"),
    ("validationResults", "jsonb", "TEXT", "NULL", "Results from ContentValidator"),
    ("metadata", "jsonb", "TEXT", "NULL", "Generation metadata (timing, model, etc.)"),
    ("level", "varchar(10)", "VARCHAR(10)", "NULL", "User level when content was generated"),
    ("topics", "jsonb", "TEXT", "NULL", "Array of topics covered"),
    ("focusAreas", "jsonb", "TEXT", "NULL", "Areas of focus for personalization"),
    ("estimatedCompletionTime", "integer", "INTEGER", "NULL", "Estimated time in minutes"),
    ("validationScore", "real", "REAL", "NULL", "Content validation score 0-1"),
    ("generationTimeMs", "integer", "INTEGER", "NULL", "Time taken to generate in milliseconds"),
    ("tokenUsage", "integer", "INTEGER", "NULL", "AI tokens used for generation"),
    ("modelUsed", "varchar(50)", "VARCHAR(50)", "NULL", "AI model used for generation"),
    ("usageCount", "integer", "INTEGER", "DEFAULT 0", "How many times this content was accessed"),
    ("lastAccessedAt", "timestamptz", "TEXT", "NULL", "When content was last accessed"),
    ("expiresAt", "timestamptz", "TEXT", "NULL", "When cached content expires"),
    ("createdAt", "timestamptz", "TEXT", "NOT NULL DEFAULT {now}", None),
    ("updatedAt", "timestamptz", "TEXT", "NOT NULL DEFAULT {now}", None),
)

INDEXES = (
    ("idx_ai_content_user_type", ("userId", "type")),
    ("idx_ai_content_status", ("status",)),
    ("idx_ai_content_type_level", ("type", "level")),
    ("idx_ai_content_created", ("createdAt",)),
    ("idx_ai_content_expires", ("expiresAt",)),
    ("idx_ai_content_usage", ("usageCount",)),
    ("idx_ai_content_cache_lookup", ("userId", "type", "level", "status")),
)

# Times on SQLite are text of fixed width, so that text sorts like the times. %f has three digits.
# 'now' has one value during a statement and its triggers.
SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
SQLITE_TIME = "NNNN-NN-NN NN:NN:NN.NNNNNN".replace("N", "[0-9]")


# The range of times that Python supports in every time zone: drivers cannot read others, such as
# infinity.
POSTGRES_TIME = '"{}" >= to_timestamp(-62135510400) AND "{}" < to_timestamp(253402214400)'


def _listed(values):
    return ", ".join(f"'{value}'" for value in values)


def _user_id_type(database, sqlite):
    """Return the type of userId, which is the type of users.id, or the base type of its domain."""
    if sqlite:
        columns = database.execute_sql("SELECT name, type FROM pragma_table_info('users')")
        (type,) = [type for name, type in columns.fetchall() if name.lower() == "id"] or [""]
        if "INT" in type.upper() or not type:
            return "BIGINT" if "BIG" in type.upper() else "INTEGER"
        return type if re.fullmatch(r"[A-Za-z]+( ?\(\d+\))?", type) else "TEXT"
    row = database.execute_sql(
        "SELECT format_type(coalesce(nullif(t.typbasetype, 0), t.oid), "
        "CASE t.typbasetype WHEN 0 THEN a.atttypmod ELSE t.typtypmod END) "
        "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "WHERE a.attrelid = to_regclass('users') AND a.attname = 'id'"
    ).fetchone()
    return "integer" if row is None or row[0] == "smallint" else row[0]


def _checks():
    """Return the checks that bulk statements and other programs must not bypass."""
    yield "type_check", f'"type" IN ({_listed(TYPES)})'
    yield "status_check", f'"status" IN ({_listed(STATUSES)})'
    yield "validationScore_check", '"validationScore" BETWEEN 0 AND 1'
    for column in COUNTERS:
        yield f"{column}_check", f'"{column}" >= 0'


def _sqlite_checks(user_id):
    """Return the checks that SQLite needs because it does not enforce column types."""
    for column, length in (("id", 36), ("level", 10), ("modelUsed", 50)):
        yield f"{column}_length", f'length("{column}") <= {length}'
    # No range, because an id of eight bytes may be declared INTEGER. The foreign key limits it.
    kind = "integer" if "INT" in user_id.upper() else "text"
    yield f"userId_{kind}", f"typeof(\"userId\") = '{kind}'"
    for column in COUNTERS:
        whole = f"typeof(\"{column}\") IN ('integer', 'null')"
        yield f"{column}_integer", f'{whole} AND "{column}" BETWEEN -2147483648 AND 2147483647'
    for column in DOCUMENTS:
        # Some versions of json_valid return false for NULL.
        yield f"{column}_json", f'"{column}" IS NULL OR json_valid("{column}")'
    # updatedAt needs no check: the trigger corrects it.
    for column in ("lastAccessedAt", "expiresAt", "createdAt"):
        range = f"\"{column}\" BETWEEN '0001-01-02' AND '9999-12-31'"
        yield f"{column}_utc", f"\"{column}\" GLOB '{SQLITE_TIME}' AND {range}"


def _postgres_checks():
    for column in ("lastAccessedAt", "expiresAt", "createdAt", "updatedAt"):
        yield f"{column}_range", POSTGRES_TIME.format(column, column)


def _create_table(sqlite, user_id, is_partitioned):
    now = f"({SQLITE_NOW})" if sqlite else "CURRENT_TIMESTAMP"
    types = {"userId": user_id}
    lines = [
        f'"{name}" {types.get(name, lite if sqlite else postgres)} {rest.format(now=now)}'
        for name, postgres, lite, rest, _ in COLUMNS
    ]
    # PostgreSQL requires the partition key in each unique key.
    key = '"id", "userId"' if is_partitioned else '"id"'
    lines.append(f'CONSTRAINT "{TABLE}_pkey" PRIMARY KEY ({key})')
    lines.append(
        f'CONSTRAINT "{TABLE}_userid_foreign" '
        'FOREIGN KEY ("userId") REFERENCES "users" ("id") ON DELETE CASCADE'
    )
    checks = [*_checks(), *(_sqlite_checks(user_id) if sqlite else _postgres_checks())]
    lines += [f'CONSTRAINT "{TABLE}_{name}" CHECK ({rule})' for name, rule in checks]
    form = ' PARTITION BY HASH ("userId")' if is_partitioned else ""
    return f'CREATE TABLE "{TABLE}" (\n  ' + ",\n  ".join(lines) + f"\n){form}"


def _create_sqlite_trigger():
    # WHEN ends the recursion with PRAGMA recursive_triggers. It also saves a second write of the
    # row if a statement has already set updatedAt to the current time.
    return f"""
        CREATE TRIGGER "{TRIGGER}" AFTER UPDATE ON "{TABLE}" FOR EACH ROW
        WHEN NEW."updatedAt" IS NOT {SQLITE_NOW}
        BEGIN
            UPDATE "{TABLE}" SET "updatedAt" = {SQLITE_NOW} WHERE rowid = NEW.rowid;
        END
    """


def _create_postgresql_trigger():
    # A specific name, because the host's database may have a function with a common name.
    yield f"""
        CREATE FUNCTION "{FUNCTION}"() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW."updatedAt" = CURRENT_TIMESTAMP;
            RETURN NEW;
        END;
        $$
    """
    yield (
        f'CREATE TRIGGER "{TRIGGER}" BEFORE UPDATE ON "{TABLE}" '
        f'FOR EACH ROW EXECUTE FUNCTION "{FUNCTION}"()'
    )


def migrate(migrator, database, *, fake=False):
    """Create the table, its indexes, its trigger and its comments.

    `aicontent.migrate(partitions=...)` sets `is_partitioned` on the migrator, and creates the
    partitions after the last migration.
    """
    sqlite = isinstance(database, SqliteDatabase)
    user_id = "INTEGER" if fake else _user_id_type(database, sqlite)
    is_partitioned = getattr(migrator, "is_partitioned", False)
    migrator.sql(_create_table(sqlite, user_id, is_partitioned))
    for name, columns in INDEXES:
        quoted = ", ".join(f'"{column}"' for column in columns)
        migrator.sql(f'CREATE INDEX "{name}" ON "{TABLE}" ({quoted})')
    if sqlite:
        migrator.sql(_create_sqlite_trigger())
        return
    for statement in _create_postgresql_trigger():
        migrator.sql(statement)
    for name, *_, comment in COLUMNS:
        if comment:
            migrator.sql(f"""COMMENT ON COLUMN "{TABLE}"."{name}" IS '{comment}'""")


def _refuse_dependents(database):
    # PostgreSQL refuses this by itself. SQLite would first delete the table's rows, which cascades
    # to other tables.
    dependents = database.execute_sql(
        "SELECT DISTINCT other.name FROM sqlite_master AS other, "
        "pragma_foreign_key_list(other.name) AS key "
        "WHERE other.type = 'table' AND other.name <> ? AND lower(key.\"table\") = ?",
        (TABLE, TABLE),
    ).fetchall()
    if dependents:
        names = ", ".join(name for (name,) in dependents)
        raise IntegrityError(f"other tables reference {TABLE}: drop {names} first")


def rollback(migrator, database, *, fake=False):
    """Drop the table and its function, without CASCADE."""
    if isinstance(database, SqliteDatabase):
        _refuse_dependents(database)
    # This also drops the table's indexes, its trigger and its partitions.
    migrator.sql(f'DROP TABLE IF EXISTS "{TABLE}"')
    if not isinstance(database, SqliteDatabase):
        migrator.sql(f'DROP FUNCTION IF EXISTS "{FUNCTION}"()')
