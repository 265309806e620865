"""Connect, reconnect, and retry while a database is unavailable for a short time.

The causes are a lock, a connection that the server has closed, an exhausted pool, and a server
that is read-only during a failover. Only this module decides when to connect or call again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import peewee

from .constraints import MOVED, error_code
from .internals import (
    discard,
    has_contexts,
    is_pool_exhausted,
    is_pooled,
    keeping_contexts,
    new_connection,
    using_connection,
    within_context,
)
from .supported import backend_of

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0

_TEMPORARY = {"25006", "40001", "40P01", "57014"}
"""SQLSTATEs that may pass, and that Peewee does not map to OperationalError: read-only server,
serialization failure, deadlock, cancelled statement."""

T = TypeVar("T")


class connected:  # noqa: N801 - it is called like a function; a generator would be slower
    """Open a connection if none is open, and close it at the end only if it was opened here.

    With `keep`, the connection stays open.
    """

    def __init__(self, database: peewee.Database, *, keep: bool = False) -> None:
        self._database, self._keep = database, keep

    def __enter__(self) -> None:
        self._opened = self._database.is_closed()
        if self._opened:
            with keeping_contexts(self._database):
                self._database.connect()

    def __exit__(self, *_: object) -> None:
        if self._opened and not (self._keep or has_contexts(self._database)):
            self._database.close()


@contextmanager
def keeping_connection(database: peewee.Database) -> Iterator[None]:
    """Keep the connection that `connected` opens until the end of the block, except with a pool."""
    if is_pooled(database):
        yield
        return
    with within_context(database):
        try:
            yield
        finally:
            if not database.is_closed():
                database.close()


@contextmanager
def own_connection(database: Any) -> Iterator[None]:
    """Open a connection for this thread; with a pool, one in addition to the pool's connections.

    An exhausted pool would otherwise refuse the connection, or let this thread wait.
    """
    if not is_pooled(database):
        with connected(database):
            yield
        return
    with using_connection(database, new_connection(database)):
        yield


def survived(database: peewee.Database, call: Callable[[], T]) -> T:
    """Call a function, and call it again if the server had closed the connection or moved the row.

    Inside a transaction the first error is raised, because the transaction is lost with the
    connection.
    """
    backend = backend_of(database)
    if not backend.can_lose_connections or backend.in_transaction(database):
        return call()
    was_open = not database.is_closed()
    try:
        return call()
    except Exception as error:
        was_closed = was_open and database.is_closed()  # the end of a transaction has closed it
        if not (_dropped(database, error) or was_closed or error_code(error) == MOVED):
            raise
    with connected(database, keep=was_open):
        return call()


def retried(database: peewee.Database, seconds: float, call: Callable[[], T]) -> T:
    """Call a function, and retry it for some seconds while the database is unavailable.

    Args:
        database: the database of the call, outside any transaction.
        seconds: how long to retry.
        call: the function. It may be called again after a call that succeeded, if the reply was
            lost.
    """
    until = time.monotonic() + seconds
    pause, was_open = _FIRST_PAUSE, not database.is_closed()
    _dropped(database)
    while True:
        try:
            with connected(database, keep=was_open):
                return call()
        except Exception as error:
            if not is_temporary(error) or time.monotonic() + pause > until:
                raise
            _dropped(database, error)
        backend_of(database).sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def is_temporary(error: BaseException) -> bool:
    """Return whether an error is temporary, so that a retry may succeed."""
    code = error_code(error)
    is_operational = isinstance(error, (peewee.OperationalError, peewee.InterfaceError))
    # SQLITE_ERROR means a statement that never succeeds, for example without its table. The error
    # of an exhausted pool is not a subclass of Peewee's errors.
    return (
        (is_operational and code != "SQLITE_ERROR")
        or code in _TEMPORARY
        or is_pool_exhausted(error)
    )


def _dropped(database: Any, error: BaseException | None = None) -> bool:
    """Discard the connection if it is lost, and return whether it was."""
    if database.in_transaction() or not backend_of(database).is_lost(database, error):
        return False
    discard(database)
    if hasattr(database, "close_idle"):
        database.close_idle()  # the pool's other connections were lost with it
    return True
