"""Nest the transactions of one thread in a transaction that a test rolls back.

Called by `aicontent.testing`. The backend then reports only the nested transactions as open.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import peewee

_STATE = "_aicontent_nested"
_SET, _ROLL_BACK, _RELEASE = (
    f'{words} "aicontent_test"'
    for words in ("SAVEPOINT", "ROLLBACK TO SAVEPOINT", "RELEASE SAVEPOINT")
)


class Nested:
    """Replacements for the database's methods that control connections and transactions.

    Peewee calls them for the outermost `atomic()`, which becomes a savepoint here. The connection
    stays open, because closing it would end the test's transaction.
    """

    def __init__(self, database: Any, errors_abort: bool, has_ended: Callable[[], bool]) -> None:
        self.thread = threading.get_ident()
        self.is_open = False
        self._database, self._errors_abort = database, errors_abort
        self._has_ended = has_ended
        self._connect, self._execute = database.connect, database.execute_sql

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Use the open connection."""
        return bool(self._connect(reuse_if_open=True))

    def close(self) -> bool:
        """Keep the connection open; raise Peewee's error if a transaction is open."""
        if self._database.in_transaction():
            raise peewee.OperationalError("Attempting to close database while transaction is open.")
        return True

    def begin(self, *_: Any, **__: Any) -> None:
        """Set a savepoint."""
        if self.is_open:
            raise peewee.OperationalError("cannot start a transaction within a transaction")
        self._execute(_SET)
        self.is_open = True

    def commit(self) -> None:
        """Release the savepoint."""
        if self.is_open:
            self._execute(_RELEASE)
        self.is_open = False

    def rollback(self) -> None:
        """Roll back to the savepoint."""
        if self.is_open:
            self._execute(_ROLL_BACK)
        self.commit()

    def execute_sql(self, *args: Any, **options: Any) -> Any:
        """Execute a statement. If it fails outside `atomic()`, the test's transaction continues."""
        if self.is_open or not self._errors_abort or self._has_ended():
            return self._execute(*args, **options)
        self._execute(_SET)
        try:
            cursor = self._execute(*args, **options)
        except BaseException:
            with suppress(peewee.PeeweeException):
                self._execute(_ROLL_BACK)
            raise
        if not self._has_ended():
            self._execute(_RELEASE)
        return cursor


def nested_of(database: Any) -> Nested | None:
    """Return the replacements that this thread uses, or None outside of a test's transaction."""
    nested = getattr(database, _STATE, None)
    return nested if nested is not None and nested.thread == threading.get_ident() else None


@contextmanager
def nested_transactions(
    database: Any, *, errors_abort: bool, has_ended: Callable[[], bool]
) -> Iterator[None]:
    """Nest this thread's transactions in the open one. Other threads are not affected.

    `errors_abort` is whether the failure of a statement aborts the whole transaction; `has_ended`
    returns whether an SQL statement has ended it.
    """
    from unittest.mock import patch  # imported here, because that takes as long as this package

    nested = Nested(database, errors_abort, has_ended)
    names = ("connect", "close", "begin", "commit", "rollback", "execute_sql")
    replaced: Any = {n: _by_thread(nested, getattr(nested, n), getattr(database, n)) for n in names}
    with patch.multiple(database, create=True, **replaced | {_STATE: nested}):
        yield


def _by_thread(
    nested: Nested, inside: Callable[..., Any], outside: Callable[..., Any]
) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        is_inside = threading.get_ident() == nested.thread
        return (inside if is_inside else outside)(*args, **options)

    return call
