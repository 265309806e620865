"""Check a database for missing or damaged parts, and check that the cleanup and workers run."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import peewee

from ..database.availability import connected
from ..database.supported import backend_of, resolved
from ..errors import counted
from ..fields.scalars import now_in_utc
from ..schema.history import applied, available, expected_definitions
from ..schema.partitions import partition_problems
from ..table import TABLE, user_id_type
from .row_problems import row_problems

CLOCK_SKEW = timedelta(seconds=5)
"""How far the two clocks may differ: expiry is tested with the client's clock, and the server's
clock sets `createdAt`."""


def check(
    database: peewee.Database, *, dropped: Collection[str] = (), now: datetime | None = None
) -> list[str]:
    """Check the schema, the settings and the rows of a database, and that its jobs run.

    If rows should have been deleted a day ago, the cleanup does not run or its budget is too
    small. If rows have been pending for a day, no worker runs. The newest thousand rows are read
    to find damaged ones.

    Args:
        database: any Peewee SQLite or PostgreSQL database.
        dropped: names of indexes that were dropped on purpose.
        now: the client's time as an aware datetime; the current time by default.

    Returns:
        The problems, each a sentence with its remedy; empty if there are none.

    Raises:
        UnsupportedDatabaseError: the database is neither SQLite nor PostgreSQL.
        ValidationError: `now` is not an aware datetime.
        peewee.OperationalError: the database cannot be reached.
    """
    database = resolved(database)
    with connected(database):
        current = now_in_utc(now)
        backend = backend_of(database)
        unreadable = backend.session_problems(database)
        if unreadable:
            return unreadable
        clock = _clock(database, current)  # first, because the rest takes time
        encoding = backend.catalog(database).encoding_problem()
        settings = backend.configuration_problem(database), encoding
        problems = [*filter(None, settings), *_schema(database, dropped)]
        # The rows can be queried only if the schema is as expected.
        if not problems:
            problems += row_problems(database, current)
        return [*problems, *clock]


def _clock(database: peewee.Database, now: datetime) -> list[str]:
    server = backend_of(database).catalog(database).server_time()
    skew = timedelta(0) if server is None else server.astimezone(UTC) - now
    if abs(skew) <= CLOCK_SKEW:
        return []
    direction = "ahead of" if skew > timedelta(0) else "behind"
    return [
        f"the server's clock is {abs(skew).total_seconds():,.0f} s {direction} this machine's: "
        "content expires too early or too late by that time: synchronise both clocks (chrony, "
        "systemd-timesyncd)"
    ]


def _schema(database: peewee.Database, dropped: Collection[str]) -> list[str]:
    backend = backend_of(database)
    done = applied(database)
    catalog = backend.catalog(database)
    table = catalog.relation(TABLE)
    if not done:
        if table is not None:
            return [f"aicontent did not create {TABLE}: see docs/guides/migrating.md"]
        other = catalog.hidden_in(TABLE)
        if other is not None:
            return [
                f"the table {TABLE} is not in the schema {catalog.schema()} but in {other}: "
                f"put {other} first on the search path"
            ]
        return [f"there is no table {TABLE}: run `aicontent migrate`"]
    known = available()
    problems = [
        *(f"migration {n} is pending: run `aicontent migrate`" for n in known if n not in done),
        *(
            f"migration {n} comes from a newer aicontent: upgrade the package"
            for n in done
            if n not in known
        ),
    ]
    if table is None or table.kind != "table":
        return [
            *problems,
            f"{TABLE} was dropped without the migrations: restore it from a backup, or create it "
            "again with `aicontent rollback` and `aicontent migrate`",
        ]
    if catalog.relation("users", anywhere=True) is None:
        problems.append("there is no users table, which content references: restore it")
    if not problems:  # while a migration is pending, the definitions differ
        partitions, id_type = catalog.partitions(TABLE), user_id_type(database)
        expected = expected_definitions(
            backend.name, id_type, is_partitioned=partitions is not None
        )
        for name in dropped:
            if expected.pop(f"index {name}", None) is None:
                problems.append(f"no migration creates an index {name}: check the dropped names")
        actual = catalog.definitions(TABLE)
        problems += _differences(expected, actual)
        if partitions is not None and actual["partition key"] == expected["partition key"]:
            problems += partition_problems(partitions)
    orphans = catalog.orphans(TABLE)
    if orphans:
        problems.append(
            f"{counted(orphans, 'row belongs', 'rows belong')} to users that do not exist, because "
            "foreign keys were off: turn them on, and delete the content of missing users"
        )
    return problems


_RECREATE = "drop it and add it again"
_REMEDY = {
    "column": "change it back with ALTER TABLE, without dropping it",
    "partition": "move the content to a table that `aicontent migrate --partitions` creates",
}


def _differences(expected: dict[str, str], actual: dict[str, str]) -> list[str]:
    return [
        f"{name} is missing: add it again as the migration does"
        if name not in actual
        else f"{name} differs from the migrations, so "
        f"{_REMEDY.get(name.split()[0], _RECREATE)}: it is {actual[name]}, not {definition}"
        for name, definition in expected.items()
        if actual.get(name) != definition
    ]
