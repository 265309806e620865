"""Read error codes of databases, and translate constraint errors into this package's errors."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any

import peewee

from ..errors import DuplicateIdError, DuplicateRequestError, UnknownUserError, shortened

_IN_FLIGHT = "ai_generated_content.userId, ai_generated_content.fingerprint"

# PostgreSQL names the indexes of a partition by the partition and the columns.
_IN_FLIGHT_INDEX = r"idx_ai_content_in_flight|\w+_userId_fingerprint_idx\d*"

_SQLITE_TEXTS = {
    "FOREIGN KEY constraint failed": "SQLITE_CONSTRAINT_FOREIGNKEY",
    "UNIQUE constraint failed": "SQLITE_CONSTRAINT_UNIQUE",
    "CHECK constraint failed": "SQLITE_CONSTRAINT_CHECK",
    "is locked": "SQLITE_BUSY",
    "readonly database": "SQLITE_READONLY",
    "unable to open": "SQLITE_CANTOPEN",
}


def error_code(error: BaseException) -> str:
    """Return the code of a database's error: a SQLSTATE, the name of a SQLite error, or ""."""
    cause = _cause(error)
    for attribute in ("pgcode", "sqlstate", "sqlite_errorname"):
        code = getattr(cause, attribute, None)
        if code and code != "SQLITE_CONSTRAINT":  # SQLCipher's driver has no extended code
            return str(code)
    # pysqlite3, which Peewee prefers if it is newer, has no names of errors.
    return next((code for text, code in _SQLITE_TEXTS.items() if text in str(error)), "")


def _cause(error: BaseException) -> BaseException:
    """Return the driver's error, which Peewee may have wrapped once or twice."""
    while isinstance(inner := getattr(error, "orig", None), BaseException):
        error = inner
    return error


def _said(error: BaseException, name: str) -> str | None:
    """Return a part of PostgreSQL's error report, by its name in psycopg's `diag`."""
    cause = _cause(error)
    diagnostics = getattr(cause, "diag", None)
    if diagnostics is None and hasattr(cause, "constraint_name"):  # an error of asyncpg
        diagnostics, name = (
            cause,
            {"message_primary": "message", "message_detail": "detail"}.get(name, name),
        )
    said: str | None = getattr(diagnostics, name, None)
    return said


def true_reason(error: BaseException, outer: BaseException | None) -> BaseException:
    """Return the error that caused a rollback, if `error` is the error of that rollback.

    A rollback fails if SQLite has already ended the transaction because the disk is full, or if
    the connection is lost. `outer` is the exception that was handled when the transaction began.
    """
    first, each = error, error.__context__
    while any(text in str(first) for text in _AFTERMATH) and each not in (None, outer):
        if isinstance(each, peewee.PeeweeException):
            first = each
        each = each.__context__
    return first


_AFTERMATH = "cannot rollback", "no such savepoint", "connection already closed", "is closed"


def reason_of_error(error: BaseException) -> str:
    """Return the message of a database's error in one line, without the values of the row."""
    text = _said(error, "message_primary") or str(error)
    text = text.partition(" with text ")[0]  # SQLite repeats the text that it cannot decode
    return shortened(" ".join(text.split()), 100)


def remedy(error: BaseException) -> str | None:
    """Return the remedy for a database's error, or None if it is unknown."""
    code, text = error_code(error), str(error)
    known = (
        remedy
        for signs, remedy in _REMEDIES.items()
        if code.startswith(signs[0]) or any(sign in text for sign in signs[1])
    )
    return next(known, None)


_REMEDIES = {
    (("SQLITE_FULL", "53100"), ("is full",)): "make room on the disk, and try again",
    (("SQLITE_CORRUPT", "SQLITE_NOTADB", "XX001", "XX002"), ("disk image is malformed",)): (
        "the database is damaged: restore a backup, or save its rows with sqlite3's .recover"
    ),
    (("57014",), ()): (
        "the server cancelled it: raise statement_timeout for this role, if that is the reason"
    ),
    (("25006",), ()): "write to the primary server",
    (("SQLITE_READONLY",), ("readonly",)): (
        "give this user the right to write the file and its folder"
    ),
    (("42501",), ()): "this role needs the grants that docs/guides/postgresql.md lists",
    (("SQLITE_BUSY", "SQLITE_LOCKED"), ("is locked",)): (
        "another process holds its lock: try again later, or set a longer timeout"
    ),
    (("SQLITE_IOERR",), ()): "see the system's log, the free space (df) and ulimit -f",
    ((), ("max_locks_per_transaction",)): (
        "raise the server's max_locks_per_transaction: see docs/guides/scaling.md"
    ),
    ((), ("no partition of relation",)): "a partition is missing: run `aicontent check`",
    (
        ("SQLITE_NOMEM", "53200"),
        ("out of memory",),
    ): "give the server or this process more memory",
    (("53300",), ()): "try again, or allow more connections (max_connections)",
    (("57P", "08", "25P03", "25P04"), ("closed the connection", "already closed", "is closed")): (
        "the server ended the connection: see its log, and try again"
    ),
    ((), ("Could not decode",)): "another program wrote that row: repair or delete it",
}
"""Remedies by error codes, and by words of the message for drivers without codes."""


MOVED = "40001"
"""SQLSTATE of a serialization failure, or of a row that was moved to another partition."""

CONFLICTS = (MOVED, "40P01")
"""SQLSTATEs of conflicts with other transactions: serialization failure and deadlock."""


def refusal(error: BaseException) -> str | None:
    """Return why the database refuses one row; None if the error has another cause.

    A host's trigger may raise any code, so only the codes of general failures are excluded.
    """
    code = error_code(error)
    if not code:
        is_of_a_row = isinstance(error, peewee.IntegrityError)
    elif code.startswith("SQLITE"):
        is_of_a_row = code.startswith(_SQLITE_REFUSALS)
    else:
        is_of_a_row = not code.startswith(_FAILURES)
    return reason_of_error(error) if is_of_a_row else None


_SQLITE_REFUSALS = ("SQLITE_CONSTRAINT", "SQLITE_TOOBIG", "SQLITE_MISMATCH")
_FAILURES = ("08", "25", "28", "40", "42", "53", "55P03", "57", "58", "F0", "XX")
"""SQLSTATEs of a connection, of rights, of resources, of a lock, and of the server."""


class Explaining:
    """Runs one statement, and translates its constraint error.

    Args:
        savepoint: the savepoint of the statement.
        lacks_user: returns whether a foreign key error without a name is that of the user.
    """

    def __init__(
        self, savepoint: AbstractContextManager[Any], lacks_user: Callable[[], bool]
    ) -> None:
        self._savepoint, self._lacks_user = savepoint, lacks_user

    def __enter__(self) -> None:
        self._savepoint.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._savepoint.__exit__(kind, error, trace)
        if isinstance(error, peewee.IntegrityError):
            raise explained(error, self._lacks_user()) from error


def explained(error: peewee.IntegrityError, lacks_user: bool) -> Exception:
    """Return this package's error for a constraint error; return a host's own error unchanged.

    `lacks_user` is whether a foreign key error on SQLite, which has no name, is that of the user.
    """
    code = error_code(error)
    name = _said(error, "constraint_name")
    if (code == "SQLITE_CONSTRAINT_FOREIGNKEY" and lacks_user) or (name or "").endswith(
        "_userid_foreign"
    ):
        return UnknownUserError("user: the users table has no such id; store the user first")
    # The error of a host's own unique index is not translated.
    if str(error).endswith("ai_generated_content.id") or _is_key(name, error):
        return DuplicateIdError("id: a row with this id is already stored; omit the id")
    if str(error).endswith(_IN_FLIGHT) or re.fullmatch(_IN_FLIGHT_INDEX, name or ""):
        return DuplicateRequestError(
            "fingerprint: this user's request is already in flight; call request() to get its row"
        )
    _forget_row(error)
    return error


def _is_key(name: str | None, error: BaseException) -> bool:
    """Return whether a constraint is the primary key of the table or of one of its partitions."""
    is_of_partition = (name or "").endswith("_pkey") and '(id, "userId")=' in (
        _said(error, "message_detail") or ""
    )
    return name == "ai_generated_content_pkey" or is_of_partition


@contextmanager
def without_rows() -> Iterator[None]:
    """Remove the values of rows from the messages of a database's errors."""
    try:
        yield
    except peewee.DatabaseError as error:
        _forget_row(error)
        raise


def _forget_row(error: peewee.PeeweeException) -> None:
    primary = _said(error, "message_primary")
    if primary:
        error.args = (primary,)  # the detail and the context repeat the values of the row
