"""A look at a database: what is missing or wrong, without changing anything."""

from __future__ import annotations

import json
from pathlib import Path

import peewee

from .binding import connected, foreign_keys_on, resolved
from .catalog import Catalog
from .history import applied, available
from .migrate import TABLE


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
    database = resolved(database)
    with connected(database):
        return [*_settings(database), *_schema(database)]


def expected(database: peewee.Database) -> dict[str, str]:
    """Return how all migrations together define the table on this kind of database."""
    kind = "sqlite" if isinstance(database, peewee.SqliteDatabase) else "postgresql"
    text = Path(__file__).with_name(f"schema_{kind}.json").read_text("utf-8")
    definitions: dict[str, str] = json.loads(text)
    return definitions


def _settings(database: peewee.Database) -> list[str]:
    if isinstance(database, peewee.SqliteDatabase) and not foreign_keys_on(database):
        return [
            "foreign keys are off: open the database with pragmas={'foreign_keys': 1}, or "
            "deleting a user leaves the user's content behind"
        ]
    return []


def _schema(database: peewee.Database) -> list[str]:
    catalog = Catalog(database)
    done = applied(database)
    table = catalog.relation(TABLE)
    if not done:
        if table is not None:
            return [f"{TABLE} was not made by aicontent's migrations: see docs/schema.md"]
        return [f"there is no table {TABLE}: run `aicontent migrate`"]
    known = available()
    problems = [
        *(f"migration {n} is pending: run `aicontent migrate`" for n in known if n not in done),
        *(
            f"migration {n} is of a newer aicontent: upgrade the package"
            for n in done
            if n not in known
        ),
    ]
    if table is None or table.kind != "table":
        return [
            *problems,
            f"{TABLE} was dropped behind the migrations: restore it from a backup, or begin anew "
            "with `aicontent rollback` and `aicontent migrate`",
        ]
    if catalog.relation("users", anywhere=True) is None:
        problems.append("there is no users table: restore it; content belongs to users")
    if not problems:  # else the table cannot be what the last migration makes of it
        problems = _damage(expected(database), catalog.definitions(TABLE))
    orphans = catalog.orphans(TABLE)
    if orphans:
        problems.append(
            f"{orphans:,} rows belong to users that are gone, from a time when foreign keys were "
            "off: delete them"
        )
    return problems


def _damage(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return [
        f"{name} is missing: add it again as the migration does"
        if name not in found
        else f"{name} is not what the migrations make: it is {found[name]}, not {definition}"
        for name, definition in expected.items()
        if found.get(name) != definition
    ]
