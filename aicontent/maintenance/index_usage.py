"""Report which indexes queries use and which only cost, as PostgreSQL has counted."""

import peewee

from ..database.availability import connected
from ..database.catalog import IndexUsage
from ..database.supported import backend_of, resolved
from ..table import TABLE


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
        return backend_of(database).catalog(database).index_usage(TABLE)
