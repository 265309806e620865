"""Compute statistics: rows, costs, savings through reuse, rows due for deletion, index usage."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import peewee

from ..database.availability import connected
from ..database.catalog import IndexUsage
from ..database.supported import backend_of, resolved
from ..generation.rescue import rescue_stale
from ..table import TABLE, ContentTable, bound_model
from .cleanup import count_due

LARGEST = 5
"""How many of the largest documents are listed."""


@dataclass(frozen=True)
class Group:
    """Statistics of the rows of one type and status.

    `uses` counts how often these rows were served again. `tokens_spent` and `seconds_spent` are
    the cost of generating them. `tokens_saved` and `seconds_saved` are the savings through reuse:
    the uses of each row times its cost.
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
    """Statistics of the table.

    `expired` and `failed` count the rows that a cleanup would delete now, `stale` the rows whose
    lease has run out. `size` is the bytes of the database file (SQLite) or of the table with its
    indexes (PostgreSQL), `free` the unused bytes in it. `largest` has the ids of the rows with
    the largest `generated_data` and its stored size in bytes.
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
        """Return the sums by "type" or by "status"; the other attribute is then ""."""
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
    """Return the sum of groups."""
    counts: Counter[str] = Counter()
    for group in groups:
        counts.update({k: v for k, v in vars(group).items() if k not in ("type", "status")})
    return Group(**({"type": "", "status": ""} | name), **counts)  # type: ignore[arg-type]


def stats(database: peewee.Database, now: datetime | None = None) -> Stats:
    """Return statistics of the table: rows by type and status, costs, savings, and sizes.

    It reads the whole table once. A million rows of 4 KB take seconds if they are in memory,
    otherwise as long as the disk takes to read them. The memory used does not grow with the table.

    Args:
        database: the database with the content table.
        now: an aware datetime at which to test expiry; the current time by default.

    Raises:
        UnsupportedDatabaseError: as for `bind`.
        peewee.DatabaseError: the table does not exist.
    """
    database = resolved(database)
    catalog = backend_of(database).catalog(database)
    model = bound_model(ContentTable, database)
    with connected(database):
        due = count_due(model, now)
        stale = rescue_stale(model, now=now, dry_run=True)
        totals = catalog.totals(TABLE, LARGEST)
        size, free = catalog.sizes(TABLE)
    groups = [
        Group(*(*counts, ms / 1000, ms_saved / 1000)) for *counts, ms, ms_saved in totals.sums
    ]
    return Stats(
        groups=sorted(groups, key=lambda group: (group.type, group.status)),
        expired=due.expired,
        failed=due.failed,
        stale=stale.requeued + stale.failed,
        oldest_pending=model.created_at.python_value(totals.oldest_pending),
        size=size,
        free=free,
        largest=totals.largest,
    )


def index_usage(database: peewee.Database) -> IndexUsage | None:
    """Return how often queries on this PostgreSQL server used each index of the table.

    Each replica has its own counts.

    Args:
        database: the database with the content table.

    Returns:
        The usage, or None on SQLite, which has no such counts.

    Raises:
        UnsupportedDatabaseError: the database is neither SQLite nor PostgreSQL.
    """
    database = resolved(database)
    with connected(database):
        return backend_of(database).catalog(database).index_usage(TABLE)
