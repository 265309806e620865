"""Measure each index: its size, and the bytes of log that a call writes with and without it.

The log's bytes are the index's cost in writes: they do not depend on the disk, as times do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import peewee

import aicontent

from .hot_paths import DELETE_NEW_ROWS, Lookup, choose_lookups, generate_new_rows
from .tables import TABLE, checkpoint

CALLS = ("create", "reuse", "claim")
HEADING = f"  {'bytes of log a call':<28}{'MB':>8}" + "".join(
    f"{name:>10}{'without':>9}" for name in CALLS
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
        url: the database. PostgreSQL writes a whole page to its log when it first changes the page
            after a checkpoint, so use a server with `full_page_writes = off`.
        characters: the size of a new row's document.
        calls: the number of calls of each kind.
    """
    database: Any = aicontent.connect(url)
    with database.connection_context():
        is_sqlite = isinstance(database, peewee.SqliteDatabase)
        if is_sqlite:  # the file of the log must grow, instead of being written again
            database.pragma("wal_autocheckpoint", 0)
            checkpoint(database)
        model = aicontent.for_database(database)
        database.execute_sql(f"UPDATE {TABLE} SET status = 'cached' WHERE status = 'pending'")
        rng = random.Random(5)
        lookups = rng.choices(choose_lookups(database, rng), k=calls)
        new_rows = list(generate_new_rows(rng, characters))[:calls]

        def costs() -> dict[str, float]:
            return _costs(database, model, lookups, new_rows)

        costs()  # reads the pages, and compiles the statements
        for name, definition, size in database.execute_sql(
            _SQLITE if is_sqlite else _POSTGRESQL
        ).fetchall():
            with_index = costs()
            database.execute_sql(f'DROP INDEX "{name}"')
            yield {"index": name, "bytes": size, "with": with_index, "without": costs()}
            database.execute_sql(definition)


def _costs(
    database: Any, model: Any, lookups: Sequence[Lookup], new_rows: Sequence[Any]
) -> dict[str, float]:
    """Return the bytes of log of one create(), one reuse(), and one claim() with complete()."""
    pending = {"status": "pending", "generated_data": None}

    def claim() -> None:
        content = model.claim()
        content.complete(new_rows[0]["generated_data"])

    costs = {
        "create": _log_of(database, [lambda row=row: model.create(**row) for row in new_rows]),
        "reuse": _log_of(database, [lambda each=each: model.reuse(*each) for each in lookups]),
    }
    model.create_many(
        {**row, **pending, "fingerprint": f"{number:064x}"} for number, row in enumerate(new_rows)
    )
    costs["claim"] = _log_of(database, [claim] * len(new_rows))
    database.execute_sql(DELETE_NEW_ROWS)
    return costs


def _log_of(database: Any, calls: Sequence[Callable[[], Any]]) -> float:
    before = _log_position(database)
    for call in calls:
        call()
    return (_log_position(database) - before) / len(calls)


def _log_position(database: Any) -> int:
    """Return the bytes that the database has written to its write-ahead log."""
    if isinstance(database, peewee.SqliteDatabase):
        return Path(f"{database.database}-wal").stat().st_size
    sql = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
    return int(database.execute_sql(sql).fetchone()[0])


def line(result: dict[str, Any]) -> str:
    """Format a result as a line of the table under HEADING."""
    costs = "".join(
        f"{result['with'][name]:>10,.0f}{result['without'][name]:>9,.0f}" for name in CALLS
    )
    return f"  {result['index']:<28}{result['bytes'] / 1e6:>8,.1f}{costs}"
