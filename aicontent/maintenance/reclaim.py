"""Return the space of deleted rows to the file system; SQLite only."""

from dataclasses import dataclass

import peewee

from ..database.availability import connected
from ..database.constraints import error_code
from ..database.supported import backend_of, resolved
from ..errors import DatabaseUnavailableError


@dataclass(frozen=True)
class ReclaimReport:
    """The bytes that were freed, and the method: "vacuum", "incremental" or "nothing"."""

    freed: int
    way: str


def reclaim(database: peewee.Database) -> ReclaimReport:
    """Shrink a SQLite file by the space it no longer uses. Call it outside any transaction.

    If the database was created with `PRAGMA auto_vacuum = INCREMENTAL`, this runs in short steps.
    Otherwise it is a VACUUM, which rewrites the whole file: it needs as much free disk space
    again, and blocks other writers until it is done.

    Args:
        database: a SQLite database.

    Returns:
        How many bytes the files shrank.

    Raises:
        UnsupportedDatabaseError: it is not SQLite; PostgreSQL's autovacuum does this by itself.
        DatabaseUnavailableError: another connection is active, or the disk is full. Nothing is
            lost.
    """
    database = resolved(database)
    try:
        with connected(database):
            return ReclaimReport(*backend_of(database).reclaim(database))
    except peewee.OperationalError as error:
        if not error_code(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL")):
            raise
        raise DatabaseUnavailableError(
            f"no space was returned: free some disk space or try again later: {error}"
        ) from error
