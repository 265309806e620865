"""A look at a database: what is missing or wrong, without changing anything."""

from __future__ import annotations

import peewee

from .catalog import Catalog
from .errors import UnsupportedDatabaseError
from .migrate import TABLE, applied
from .model import AIGeneratedContent

TRIGGER = "update_ai_generated_content_updated_at"

INDEXES = (
    "idx_ai_content_user_type",
    "idx_ai_content_status",
    "idx_ai_content_type_level",
    "idx_ai_content_created",
    "idx_ai_content_expires",
    "idx_ai_content_usage",
    "idx_ai_content_cache_lookup",
)

CONSTRAINTS = tuple(
    f"{TABLE}_{name}"
    for name in (
        "userid_foreign",
        "type_check",
        "status_check",
        "validationScore_check",
        "estimatedCompletionTime_check",
        "generationTimeMs_check",
        "tokenUsage_check",
        "usageCount_check",
    )
)


def check(database: peewee.Database) -> list[str]:
    """Look whether a database is sound for this package.

    Args:
        database: any Peewee SQLite or PostgreSQL database.

    Returns:
        The problems, each a sentence with its remedy; empty when there are none.

    Raises:
        UnsupportedDatabaseError: it is neither SQLite nor PostgreSQL.
        peewee.OperationalError: it cannot be reached.
    """
    if not isinstance(database, (peewee.SqliteDatabase, peewee.PostgresqlDatabase)):
        raise UnsupportedDatabaseError("expected a peewee SqliteDatabase or PostgresqlDatabase")
    opened = database.connect(reuse_if_open=True)
    try:
        return [*_settings(database), *_schema(database)]
    finally:
        if opened:
            database.close()


def _settings(database: peewee.Database) -> list[str]:
    if isinstance(database, peewee.SqliteDatabase) and not database.foreign_keys:
        return [
            "foreign keys are off: open the database with pragmas={'foreign_keys': 1}, or "
            "deleting a user leaves the user's content behind"
        ]
    return []


def _schema(database: peewee.Database) -> list[str]:
    from .router import available  # peewee_migrate is loaded by those who need it

    catalog = Catalog(database)
    done = applied(database)
    table = catalog.relation(TABLE)
    if not done:
        if table is not None:
            return [f"{TABLE} was not made by aicontent's migrations: see docs/schema.md"]
        return [f"there is no table {TABLE}: run `aicontent migrate`"]
    known = available()
    problems = [
        f"migration {n} is pending: run `aicontent migrate`" for n in known if n not in done
    ]
    problems += [
        f"migration {n} is of a newer aicontent: upgrade the package"
        for n in done
        if n not in known
    ]
    if table is None:
        return [
            *problems,
            f"{TABLE} was dropped behind the migrations: restore it from a backup, or begin anew "
            "with `aicontent rollback` and `aicontent migrate`",
        ]
    if catalog.relation("users") is None:
        problems.append("there is no users table: restore it; content belongs to users")
    columns = [field.column_name for field in AIGeneratedContent._meta.sorted_fields]
    found = (
        ("column", columns, table.columns),
        ("index", INDEXES, catalog.indexes(TABLE)),
        ("trigger", [TRIGGER], catalog.triggers(TABLE)),
        ("constraint", CONSTRAINTS, catalog.constraints(TABLE)),
    )
    for what, expected, present in found:
        problems += [
            f"{what} {name} is missing: add it again as the migration does"
            for name in expected
            if name not in present
        ]
    return problems
