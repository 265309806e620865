"""Roll back the rows that a test has stored. docs/guides/testing.md has pytest fixtures."""

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
    """Run a test in a transaction, and roll the transaction back at the end.

    All calls of this package work in it, also `get_or_generate()` and `work()`; only `reclaim()`
    and `migrate()` do not. Transactions of this thread become savepoints: `atomic()` commits and
    rolls back as usual, and `get_or_generate()` inside `atomic()` is refused as usual. The
    connection stays open, even if the code under test closes it. `BEGIN` and `COMMIT` as SQL
    statements are not replaced.

    The transaction belongs to this thread's connection. Rows that other threads and processes
    store are not rolled back, and they do not see the rows of the test. Leases are not renewed
    during the test.

    Args:
        database: the database of the tests, already migrated.

    Raises:
        OpenTransactionError: a transaction is already open; or, at the end, the test has ended
            this transaction with an SQL statement or has lost its connection, so its rows may
            remain.
        UnsupportedDatabaseError: as for `aicontent.bind`.
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
            "the transaction of rolled_back() ended before its block, through an SQL statement or "
            "a lost connection: delete any rows of this test that remain in the database"
        )
