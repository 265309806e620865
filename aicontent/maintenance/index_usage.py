"""Which indexes serve, and which only cost: what PostgreSQL itself has counted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import peewee

from ..binding import resolved
from ..database.catalog import OURS
from ..database.connections import connected
from ..schema.migrate import TABLE


@dataclass(frozen=True)
class IndexUse:
    """An index: its bytes, how often it was scanned, and whether it keeps a rule (a primary key
    or a unique index) and so is needed even if no query uses it."""

    name: str
    size: int
    scans: int
    keeps_rule: bool

    @property
    def idle(self) -> bool:
        """Whether it costs and has never served."""
        return self.scans == 0 and not self.keeps_rule


@dataclass(frozen=True)
class IndexUsage:
    """The table's indexes by name, the writes that had to keep them up to date, and since when
    all that is counted: None where PostgreSQL does not say, so since the database was made."""

    indexes: list[IndexUse]
    writes: int
    since: datetime | None


def index_usage(database: peewee.Database) -> IndexUsage | None:
    """Return how the table's indexes were used on this server; a replica counts for itself.

    Args:
        database: where the table is.

    Returns:
        None on SQLite, which counts nothing.

    Raises:
        UnsupportedDatabaseError: it is neither SQLite nor PostgreSQL.
    """
    database = resolved(database)
    if isinstance(database, peewee.SqliteDatabase):
        return None
    with connected(database):
        rows = database.execute_sql(_INDEXES, (TABLE,)).fetchall()
        told = database.execute_sql(_WRITES, (TABLE,)).fetchone()
    writes, since = told or (0, None)
    return IndexUsage([IndexUse(*row) for row in rows], int(writes), since)


_INDEXES = f"""
    SELECT s.indexrelname, pg_relation_size(s.indexrelid), s.idx_scan, x.indisunique
    FROM pg_stat_user_indexes s JOIN pg_index x ON x.indexrelid = s.indexrelid
    WHERE s.relid = {OURS} ORDER BY s.indexrelname
"""  # noqa: S608 - constants

_WRITES = f"""
    SELECT t.n_tup_ins + t.n_tup_upd - t.n_tup_hot_upd, d.stats_reset
    FROM pg_stat_user_tables t, pg_stat_database d
    WHERE t.relid = {OURS} AND d.datname = current_database()
"""  # noqa: S608 - constants
