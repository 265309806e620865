"""What the table holds, what is due to go, and what reuse has saved."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import peewee

from ..binding import for_database, resolved
from ..database.connections import connected
from ..enums import ContentStatus
from ..schema.migrate import TABLE

LARGEST = 5
"""How many of the largest documents are named."""


@dataclass(frozen=True)
class Group:
    """The rows of one type and status.

    `uses` counts how often they were served again; tokens and seconds of generation are those
    that were spent, and those that serving again has saved: uses times cost.
    """

    type: str
    status: str
    rows: int = 0
    uses: int = 0
    tokens_spent: int = 0
    tokens_saved: int = 0
    seconds_spent: float = 0.0
    seconds_saved: float = 0.0


@dataclass(frozen=True)
class Stats:
    """The state of the table.

    `expired` and `failed` are what a cleanup would delete now, `stale` the rows that are
    generating and whose lease has run out, which it would free. Sizes are in bytes: of the
    database file (SQLite) or the table with its indexes (PostgreSQL), of what in it is free, of
    the largest `generated_data` by id, as it is stored.
    """

    groups: list[Group]
    expired: int
    failed: int
    stale: int
    oldest_pending: datetime | None
    size: int
    free: int
    largest: list[tuple[str, int]]

    def by(self, attribute: str) -> list[Group]:
        """Return the groups added up by "type" or by "status", the other one being ""."""
        other = "status" if attribute == "type" else "type"
        names = dict.fromkeys(getattr(group, attribute) for group in self.groups)
        return [
            added(
                (group for group in self.groups if getattr(group, attribute) == name),
                **{attribute: name, other: ""},
            )
            for name in names
        ]


def added(groups: Iterable[Group], **name: str) -> Group:
    """Return groups as one."""
    counts: Counter[str] = Counter()
    for group in groups:
        counts.update({k: v for k, v in vars(group).items() if k not in ("type", "status")})
    return Group(**({"type": "", "status": ""} | name), **counts)  # type: ignore[arg-type]


def stats(database: peewee.Database, now: datetime | None = None) -> Stats:
    """Look at the whole table, once. A million rows of 4 KB take seconds where they are in
    memory, else as long as the disk needs. The memory needed does not grow with the table.

    Args:
        database: where the table is.
        now: the moment to judge by, aware; the current one by default.

    Raises:
        UnsupportedDatabaseError: as `bind`. peewee.DatabaseError: there is no table to look at.
    """
    database = resolved(database)
    model = for_database(database)
    with connected(database):
        due = model.cleanup(now, dry_run=True)
        stale = model.rescue_stale(now=now, dry_run=True)
        if isinstance(database, peewee.SqliteDatabase):
            groups, largest, oldest = _sqlite(database)
            free = database.pragma("freelist_count") * database.pragma("page_size")
            size = database.pragma("page_count") * database.pragma("page_size")
            log = Path(f"{database.database}-wal")
            size += log.stat().st_size if log.exists() else 0
        else:
            groups, largest, oldest = _postgresql(database)
            sql = f"SELECT pg_total_relation_size('{TABLE}')"
            size, free = database.execute_sql(sql).fetchone()[0], 0
    return Stats(
        groups=sorted(groups, key=lambda group: (group.type, group.status)),
        expired=due.expired,
        failed=due.failed,
        stale=stale.requeued + stale.failed,
        oldest_pending=model.created_at.python_value(oldest),
        size=int(size),
        free=int(free),
        largest=largest,
    )


_Found = tuple[list[Group], list[tuple[str, int]], Any]


def _sqlite(database: peewee.SqliteDatabase) -> _Found:
    # SQLite would sort the rows to group them, documents' sizes and all: in one pass over the
    # table, adding up here takes a fourth of the time.
    sql = (
        'SELECT type, status, coalesce("usageCount", 0), coalesce("tokenUsage", 0), '
        'coalesce("generationTimeMs", 0), length(CAST("generatedData" AS BLOB)), id, "createdAt" '
        f"FROM {TABLE} NOT INDEXED"
    )
    sums: dict[tuple[str, str], list[int]] = {}
    largest: list[tuple[int, str]] = []
    least, oldest = 0, None
    for kind, status, uses, tokens, ms, size, id, created in database.execute_sql(sql):
        group = sums.get((kind, status))
        if group is None:
            group = sums[kind, status] = [0] * 6
        group[0] += 1
        group[1] += uses
        group[2] += tokens
        group[3] += tokens * uses
        group[4] += ms
        group[5] += ms * uses
        if size and size > least:
            heapq.heappush(largest, (size, id))
            if len(largest) > LARGEST:
                heapq.heappop(largest)
                least = largest[0][0]
        if status == ContentStatus.PENDING and (oldest is None or created < oldest):
            oldest = created
    groups = [_group(*names, *numbers) for names, numbers in sums.items()]
    return groups, [(id, size) for size, id in sorted(largest, reverse=True)], oldest


def _postgresql(database: peewee.Database) -> _Found:
    uses, tokens, ms = (
        f'coalesce("{name}", 0)::bigint'
        for name in ("usageCount", "tokenUsage", "generationTimeMs")
    )
    sums = f"sum({uses}), sum({tokens}), sum({tokens} * {uses}), sum({ms}), sum({ms} * {uses})"
    rows = database.execute_sql(
        f'SELECT type, status, count(*), {sums}, min("createdAt") FROM {TABLE} GROUP BY 1, 2'
    ).fetchall()
    size = 'pg_column_size("generatedData")'  # as stored: nothing is read for it
    largest = database.execute_sql(
        f'SELECT id, {size} FROM {TABLE} WHERE "generatedData" IS NOT NULL '
        f"ORDER BY {size} DESC, id DESC LIMIT {LARGEST}"
    ).fetchall()
    pending = (row[-1] for row in rows if row[1] == ContentStatus.PENDING)
    return [_group(*row[:-1]) for row in rows], largest, min(pending, default=None)


def _group(kind: str, status: str, *numbers: Any) -> Group:
    rows, uses, tokens, tokens_saved, ms, ms_saved = map(int, numbers)
    return Group(kind, status, rows, uses, tokens, tokens_saved, ms / 1000, ms_saved / 1000)
