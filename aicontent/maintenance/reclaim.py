"""Giving space that deleted rows left behind back to the file system; SQLite only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peewee

from ..binding import resolved
from ..database.connections import connected
from ..database.constraints import database_code
from ..errors import DatabaseUnavailableError, UnsupportedDatabaseError

_INCREMENTAL = 2
_PAGES = 1000
"""Pages of one incremental step, a short transaction each."""


@dataclass(frozen=True)
class ReclaimReport:
    """What was given back: bytes, and by which way ("vacuum", "incremental" or "nothing")."""

    freed: int
    way: str


def reclaim(database: peewee.Database) -> ReclaimReport:
    """Shrink a SQLite file by the space it no longer uses. Call it outside any transaction.

    Where the database was made with `PRAGMA auto_vacuum = INCREMENTAL` this goes in short
    steps. Else it is a VACUUM, which writes the whole file anew: it needs as much free space
    again, and keeps others from writing until it is done.

    Args:
        database: a SQLite database.

    Returns:
        How many bytes the files are smaller.

    Raises:
        UnsupportedDatabaseError: it is not SQLite; PostgreSQL's autovacuum does this by itself.
        DatabaseUnavailableError: another connection is in the way, or the disk is full. Nothing
            is lost then.
    """
    database = resolved(database)
    if not isinstance(database, peewee.SqliteDatabase):
        raise UnsupportedDatabaseError(
            "only SQLite gives space back on request; PostgreSQL's autovacuum does it by itself"
        )
    try:
        with connected(database):
            return _reclaim(database)
    except peewee.OperationalError as error:
        if not database_code(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL")):
            raise
        raise DatabaseUnavailableError(
            f"no space was given back, try again later or make room: {error}"
        ) from error


def _reclaim(database: peewee.SqliteDatabase) -> ReclaimReport:
    if not database.pragma("freelist_count"):
        return ReclaimReport(0, "nothing")
    _checkpoint(database)  # so that the log is not counted as space that was freed
    before = _size(database)
    if database.pragma("auto_vacuum") == _INCREMENTAL:
        way = "incremental"
        while database.pragma("freelist_count"):
            # It frees a page a row that is fetched: not to fetch them all is not to free them.
            database.execute_sql(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
    else:
        way = "vacuum"
        database.execute_sql("VACUUM")
    _checkpoint(database)
    return ReclaimReport(before - _size(database), way)


def _checkpoint(database: peewee.SqliteDatabase) -> None:
    # The file shrinks only when the log is written back, for which no one may be reading.
    row: Any = database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if row and row[0]:
        raise DatabaseUnavailableError(
            "the space is free but not given back yet: another connection reads or writes; "
            "try again later"
        )


def _size(database: peewee.SqliteDatabase) -> int:
    names = (str(database.database), f"{database.database}-wal")
    return sum(path.stat().st_size for path in map(Path, names) if path.exists())
