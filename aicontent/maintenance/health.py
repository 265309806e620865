"""A look at a database: what is missing or wrong, without changing anything."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import peewee

from ..binding import for_database, foreign_keys_on, resolved
from ..database.catalog import Catalog
from ..database.connections import connected
from ..errors import AIContentError
from ..fields.compression import zstd
from ..fields.scalars import to_utc
from ..schema.history import applied, available
from ..schema.migrate import TABLE

CLOCK_SKEW = timedelta(seconds=5)
"""How far two clocks may differ. Whether content has expired is judged by the client's, when it
was made by the server's."""

OVERDUE = timedelta(days=1)
"""How long what may go may stay: the timer cleans up every hour."""


def check(
    database: peewee.Database, *, dropped: Collection[str] = (), now: datetime | None = None
) -> list[str]:
    """Look whether a database is sound for this package, and whether the cleanup runs.

    That the cleanup does not run is told by what it would have deleted a day ago: so it is also
    told of one whose budget is too small, and a service that has nothing to delete needs none.

    Args:
        database: any Peewee SQLite or PostgreSQL database.
        dropped: names of indexes that were dropped on purpose.
        now: the client's moment, aware; the current one by default.

    Returns:
        The problems, each a sentence with its remedy; empty when there are none.

    Raises:
        UnsupportedDatabaseError: it is neither SQLite nor PostgreSQL. ValidationError: `now`.
        peewee.OperationalError: it cannot be reached.
    """
    database = resolved(database)
    with connected(database):
        moment = datetime.now(UTC) if now is None else to_utc(now, "now")
        clock = _clock(database, moment)  # before anything that takes time
        problems = [*_settings(database), *_schema(database, dropped)]
        # A model is bound to what is sound alone.
        if not problems:
            problems += _overdue(database, moment)
            problems += _unreadable(database)
        return [*problems, *clock]


def expected(database: peewee.Database) -> dict[str, str]:
    """Return how all migrations together define the table on this kind of database."""
    kind = "sqlite" if isinstance(database, peewee.SqliteDatabase) else "postgresql"
    text = files("aicontent.schema").joinpath(f"{kind}.json").read_text("utf-8")
    definitions: dict[str, str] = json.loads(text)
    return definitions


def _settings(database: peewee.Database) -> list[str]:
    if isinstance(database, peewee.SqliteDatabase) and not foreign_keys_on(database):
        return [
            "foreign keys are off: open the database with pragmas={'foreign_keys': 1}, or "
            "deleting a user leaves the user's content behind"
        ]
    return []


def _clock(database: peewee.Database, now: datetime) -> list[str]:
    if isinstance(database, peewee.SqliteDatabase):  # whose clock is the client's
        return []
    skew = database.execute_sql("SELECT clock_timestamp()").fetchone()[0] - now
    if abs(skew) <= CLOCK_SKEW:
        return []
    fast = "ahead of" if skew > timedelta(0) else "behind"
    return [
        f"the server's clock is {abs(skew).total_seconds():,.0f} s {fast} this machine's: content "
        "expires that much too early or too late; synchronise both (chrony, systemd-timesyncd)"
    ]


def _overdue(database: peewee.Database, now: datetime) -> list[str]:
    model, then = for_database(database), now - OVERDUE
    due, stale = model.cleanup(then, dry_run=True), model.rescue_stale(now=then, dry_run=True)
    late = {
        "could have gone": due.deleted,
        "whose lease ran out could have been freed": stale.requeued + stale.failed,
    }
    return [
        f"{rows:,} rows {what} over a day ago: see that the cleanup runs "
        "(`systemctl list-timers aicontent-cleanup.timer`), and that its budget is enough"
        for what, rows in late.items()
        if rows
    ]


def _unreadable(database: peewee.Database) -> list[str]:
    """Tell of documents that were compressed, where nothing is there to read them by; the newest
    rows are looked at."""
    if not isinstance(database, peewee.SqliteDatabase):
        return []
    columns = ("requestPayload", "generatedData", "validationResults")
    kinds = " OR ".join(f"typeof(\"{column}\") = 'blob'" for column in columns)
    newest = f'SELECT * FROM {TABLE} ORDER BY "createdAt" DESC LIMIT 100'  # noqa: S608
    sql = f"SELECT 1 FROM ({newest}) AS newest WHERE {kinds} LIMIT 1"  # noqa: S608 - constants
    if database.execute_sql(sql).fetchone() is None:
        return []
    try:
        zstd()
    except AIContentError as error:
        return [str(error)]
    return []


def _schema(database: peewee.Database, dropped: Collection[str]) -> list[str]:
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
        wanted = expected(database)
        for name in dropped:
            wanted.pop(f"index {name}", None)
        problems = _damage(wanted, catalog.definitions(TABLE))
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
        else f"{name} is not what the migrations make, so drop it and add it again: it is "
        f"{found[name]}, not {definition}"
        for name, definition in expected.items()
        if found.get(name) != definition
    ]
