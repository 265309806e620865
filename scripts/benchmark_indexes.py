"""What each index costs and buys: its size, and the hot paths with it and without it."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peewee

import aicontent

from .benchmark_data import TABLE
from .benchmark_hot import MADE_HERE, Question, new_rows, questions

_SQLITE = f"""
    SELECT name, sql, (SELECT sum(pgsize) FROM dbstat WHERE dbstat.name = each.name)
    FROM sqlite_master AS each WHERE type = 'index' AND tbl_name = '{TABLE}' AND sql IS NOT NULL
"""
_POSTGRESQL = f"""
    SELECT indexname, indexdef, pg_relation_size(quote_ident(indexname)::regclass)
    FROM pg_indexes WHERE tablename = '{TABLE}' AND indexname <> '{TABLE}_pkey'
"""
HEADING = (
    f"  {'':<28}{'MB':>8}{'create':>10}{'without':>10}{'reuse':>10}{'without':>10}  WAL of reuse"
)


def measure(url: str, size: int, rounds: int, calls: int) -> Iterator[dict[str, Any]]:
    """Measure a database that benchmark_data has filled, without one index after the other.

    Args:
        url: the database.
        size: characters of a new row's document.
        rounds: how often the calls are made, with the index and without it.
        calls: calls of a round.
    """
    database: Any = aicontent.connect(url)
    with database.connection_context():
        model = aicontent.for_database(database)
        chance = random.Random(5)  # noqa: S311 - the same questions at each run
        asked, made = questions(database, chance), list(new_rows(chance, size))[:calls]

        def costs() -> dict[str, float]:
            return _costs(database, model, chance.choices(asked, k=rounds * calls), made, rounds)

        costs()  # warms up
        listed = database.execute_sql(_POSTGRESQL if database.for_update else _SQLITE).fetchall()
        for name, definition, size_of_it in listed:
            with_it = costs()
            database.execute_sql(f'DROP INDEX "{name}"')
            yield {"index": name, "bytes": size_of_it, "with": with_it, "without": costs()}
            database.execute_sql(definition)


def _costs(
    database: Any, model: Any, asked: Sequence[Question], made: Sequence[Any], rounds: int
) -> dict[str, float]:
    each = len(asked) // rounds
    creates, reuses, logged = [], [], []
    for number in range(rounds):
        creates.append(_seconds(lambda: [model.create(**values) for values in made]) / len(made))
        now = asked[number * each : (number + 1) * each]
        before = _written(database)
        reuses.append(_seconds(lambda now=now: [model.reuse(*one) for one in now]) / each)
        logged.append((_written(database) - before) / each)
    database.execute_sql(MADE_HERE)
    return {
        "create": statistics.median(creates) * 1e6,
        "reuse": statistics.median(reuses) * 1e6,
        "log": statistics.median(logged),
    }


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _written(database: peewee.Database) -> int:
    """Bytes that PostgreSQL has logged so far."""
    if isinstance(database, peewee.SqliteDatabase):
        return 0
    sql = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
    return int(database.execute_sql(sql).fetchone()[0])


def line(found: dict[str, Any]) -> str:
    """Return a line that shows what was measured, in microseconds and bytes."""
    one, other = found["with"], found["without"]
    log = f"  {one['log']:,.0f} | {other['log']:,.0f} bytes" if one["log"] else ""
    return (
        f"  {found['index']:<28}{found['bytes'] / 1e6:>8,.1f}{one['create']:>10,.0f}"
        f"{other['create']:>10,.0f}{one['reuse']:>10,.0f}{other['reuse']:>10,.0f}{log}"
    )
