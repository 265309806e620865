"""Return the space of deleted rows to the file system; SQLite only."""

from dataclasses import dataclass

import peewee

from ..database.availability import connected
from ..database.constraints import error_code
from ..database.supported import backend_of, resolved
from ..errors import DatabaseUnavailableError


@dataclass(frozen=True)
class ReclaimReport:
    """The bytes freed, and the method: "vacuum", "incremental", or "nothing" to free."""

    freed: int
    way: str


def reclaim(database: peewee.Database) -> ReclaimReport:
    """Return the space of deleted rows in a SQLite file to the file system.

    If the database was created with `PRAGMA auto_vacuum = INCREMENTAL`, this runs in short steps.
    Otherwise it runs VACUUM, which rewrites the whole file: it needs free disk space of the same
    size, and blocks other writers until it ends. Call it outside any transaction.

    Args:
        database: a SQLite database.

    Returns:
        How many bytes the files shrank, and the method.

    Raises:
        UnsupportedDatabaseError: the database is not SQLite; PostgreSQL's autovacuum frees space.
        DatabaseUnavailableError: another connection is active, or the disk is full. No content
            is lost.
    """
    database = resolved(database)
    try:
        with connected(database):
            return ReclaimReport(*backend_of(database).reclaim(database))
    except peewee.OperationalError as error:
        if not error_code(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL")):
            raise
        raise DatabaseUnavailableError(
            f"no space was returned ({error}): free some disk space, or try again later"
        ) from error
