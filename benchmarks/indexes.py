"""Measure each index: its size, and the hot paths with and without it."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peewee

import aicontent

from .hot_paths import DELETE_NEW_ROWS, Lookup, choose_lookups, generate_new_rows
from .tables import TABLE

ROUNDS = 5
HEADING = (
    f"  {'':<28}{'MB':>8}{'create':>10}{'without':>10}{'reuse':>10}{'without':>10}  WAL of reuse"
)

_SQLITE = f"""
    SELECT name, sql, (SELECT sum(pgsize) FROM dbstat WHERE dbstat.name = each.name)
    FROM sqlite_master AS each WHERE type = 'index' AND tbl_name = '{TABLE}' AND sql IS NOT NULL
"""
_POSTGRESQL = f"""
    SELECT indexname, indexdef, pg_relation_size(quote_ident(indexname)::regclass)
    FROM pg_indexes WHERE tablename = '{TABLE}' AND indexname <> '{TABLE}_pkey'
"""


def measure(url: str, characters: int, calls: int) -> Iterator[dict[str, Any]]:
    """For each index of a filled table: drop it, measure without it, and create it again.

    Args:
        url: the database.
        characters: the size of a new row's document.
        calls: the number of calls in each of the ROUNDS with the index and without it.
    """
    database: Any = aicontent.connect(url)
    with database.connection_context():
        model = aicontent.for_database(database)
        rng = random.Random(5)
        lookups = choose_lookups(database, rng)
        new_rows = list(generate_new_rows(rng, characters))[:calls]

        def costs() -> dict[str, float]:
            return _costs(database, model, rng.choices(lookups, k=ROUNDS * calls), new_rows)

        costs()  # warms up
        is_sqlite = isinstance(database, peewee.SqliteDatabase)
        indexes = database.execute_sql(_SQLITE if is_sqlite else _POSTGRESQL).fetchall()
        for name, definition, size in indexes:
            with_index = costs()
            database.execute_sql(f'DROP INDEX "{name}"')
            yield {"index": name, "bytes": size, "with": with_index, "without": costs()}
            database.execute_sql(definition)


def _costs(
    database: Any, model: Any, lookups: Sequence[Lookup], new_rows: Sequence[Any]
) -> dict[str, float]:
    calls = len(lookups) // ROUNDS
    create, reuse, log = [], [], []
    for number in range(ROUNDS):
        create.append(_seconds(lambda: [model.create(**row) for row in new_rows]) / len(new_rows))
        chosen = lookups[number * calls : (number + 1) * calls]
        log_before = _log_position(database)
        reuse.append(
            _seconds(lambda chosen=chosen: [model.reuse(*each) for each in chosen]) / calls
        )
        log.append((_log_position(database) - log_before) / calls)
    database.execute_sql(DELETE_NEW_ROWS)
    return {
        "create": statistics.median(create) * 1e6,
        "reuse": statistics.median(reuse) * 1e6,
        "log": statistics.median(log),
    }


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _log_position(database: peewee.Database) -> int:
    """Return the bytes that PostgreSQL has written to its write-ahead log, or 0 on SQLite."""
    if isinstance(database, peewee.SqliteDatabase):
        return 0
    sql = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
    return int(database.execute_sql(sql).fetchone()[0])


def line(result: dict[str, Any]) -> str:
    """Format a result as a line of the table under HEADING, in microseconds and bytes."""
    with_index, without = result["with"], result["without"]
    log = f"  {with_index['log']:,.0f} | {without['log']:,.0f} bytes" if with_index["log"] else ""
    return (
        f"  {result['index']:<28}{result['bytes'] / 1e6:>8,.1f}{with_index['create']:>10,.0f}"
        f"{without['create']:>10,.0f}{with_index['reuse']:>10,.0f}{without['reuse']:>10,.0f}{log}"
    )
