"""Roll back what a test of a host has stored. docs/guides/testing.md has the fixtures."""

from collections.abc import Iterator
from contextlib import contextmanager

import peewee

from .database.availability import connected
from .database.nested import nested_transactions
from .database.supported import backend_of, supported
from .errors import OpenTransactionError

__all__ = ["rolled_back"]


@contextmanager
def rolled_back(database: peewee.Database) -> Iterator[None]:
    """Run a test in a transaction, and roll it back at the end.

    Within it everything of this package works that works outside a transaction,
    `get_or_generate()` and `work()` included; only `reclaim()` and `migrate()` do not. This
    thread's own transactions become savepoints: `atomic()` commits and rolls back as always, and
    `get_or_generate()` within `atomic()` is refused as always. The connection stays open, even if
    the code under test closes it. `BEGIN` and `COMMIT` as SQL statements are not replaced.

    The transaction belongs to this thread's connection. What other threads and processes store is
    not rolled back, and they do not see the rows of the test. No lease is renewed meanwhile.

    Args:
        database: the database of the tests, migrated already.

    Raises:
        OpenTransactionError: a transaction is open already; or, at the end, the test has ended
            this one by an SQL statement or has lost its connection, so its rows may remain.
        UnsupportedDatabaseError: as `bind`.
    """
    database = supported(database)
    backend = backend_of(database)
    if backend.has_begun(database):
        raise OpenTransactionError(
            "rolled_back() begins a transaction itself: call it outside atomic() and outside "
            "another rolled_back()"
        )
    with connected(database):
        database.begin()
        connection = database.connection()

        def has_ended() -> bool:
            return not backend.has_begun(database) or database.connection() is not connection

        errors_abort = backend.errors_abort_transactions
        try:
            with nested_transactions(database, errors_abort=errors_abort, has_ended=has_ended):
                yield
            ended = has_ended()
        finally:
            backend.roll_back(database)
    if ended:
        raise OpenTransactionError(
            "the transaction of rolled_back() was ended before its block, by an SQL statement or "
            "with its connection: rows of this test may remain in the database"
        )
