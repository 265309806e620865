"""Report which indexes queries use and which only cost, as PostgreSQL has counted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import peewee

from ..database.supported import backend_of, connected, resolved
from ..table import TABLE


@dataclass(frozen=True)
class IndexUse:
    """An index: its bytes, how often it was scanned, and whether it enforces a rule.

    A primary key or unique index enforces a rule, so it is needed even if no query uses it.
    """

    name: str
    size: int
    scans: int
    keeps_rule: bool

    @property
    def idle(self) -> bool:
        """Whether it costs, but no query has used it."""
        return self.scans == 0 and not self.keeps_rule


@dataclass(frozen=True)
class IndexUsage:
    """The table's indexes by name, and the writes that had to update them.

    `since` is when counting began: None where PostgreSQL does not say, so since the database was
    created.
    """

    indexes: list[IndexUse]
    writes: int
    since: datetime | None


def index_usage(database: peewee.Database) -> IndexUsage | None:
    """Return how queries on this server used the table's indexes; a replica counts separately.

    Args:
        database: where the table is.

    Returns:
        None on SQLite, which counts nothing.

    Raises:
        UnsupportedDatabaseError: it is neither SQLite nor PostgreSQL.
    """
    database = resolved(database)
    with connected(database):
        scans = backend_of(database).index_scans(database, TABLE)
    if scans is None:
        return None
    return IndexUsage([IndexUse(*row) for row in scans.indexes], scans.writes, scans.since)
