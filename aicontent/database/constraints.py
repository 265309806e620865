"""What a database refuses, in this package's terms, with the caller's transaction kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import peewee

from ..errors import DuplicateIdError, DuplicateRequestError, MigrationError, UnknownUserError

_SQLITE_TEXTS = {
    "FOREIGN KEY constraint failed": "SQLITE_CONSTRAINT_FOREIGNKEY",
    "UNIQUE constraint failed": "SQLITE_CONSTRAINT_UNIQUE",
    "CHECK constraint failed": "SQLITE_CONSTRAINT_CHECK",
    "is locked": "SQLITE_BUSY",
    "readonly database": "SQLITE_READONLY",
    "unable to open": "SQLITE_CANTOPEN",
}


_IN_FLIGHT = "ai_generated_content.userId, ai_generated_content.fingerprint"


def database_code(error: peewee.PeeweeException) -> str:
    """Return what the database calls an error: PostgreSQL's SQLSTATE, SQLite's name, or ""."""
    cause = getattr(error, "orig", None)
    for attribute in ("pgcode", "sqlstate", "sqlite_errorname"):
        code = getattr(cause, attribute, None)
        if code:
            return str(code)
    # pysqlite3, which Peewee prefers where it is newer, gives no names.
    return next((code for text, code in _SQLITE_TEXTS.items() if text in str(error)), "")


@contextmanager
def constraints_explained(database: peewee.Database) -> Iterator[None]:
    """Run one statement whose failure leaves an open transaction usable.

    Raises:
        UnknownUserError, DuplicateIdError, DuplicateRequestError: instead of the database's own
            error.
    """
    # A failed statement spoils PostgreSQL's transaction; behind a savepoint it does not.
    is_postgresql = isinstance(database, peewee.PostgresqlDatabase)
    with database.savepoint() if is_postgresql and in_transaction(database) else nullcontext():
        try:
            yield
        except peewee.IntegrityError as error:
            raise _explained(error) from error


def in_transaction(database: peewee.Database) -> bool:
    """Tell whether a transaction is open here, be it one that Peewee did not begin."""
    if database.is_closed():
        return False
    connection: Any = database.connection()
    if isinstance(database, peewee.PostgresqlDatabase):
        return bool(connection.info.transaction_status)  # 0 is idle
    return bool(connection.in_transaction)


def _explained(error: peewee.IntegrityError) -> Exception:
    code = database_code(error)
    diagnostics = getattr(getattr(error, "orig", None), "diag", None)
    name = getattr(diagnostics, "constraint_name", None)
    if code == "SQLITE_CONSTRAINT_FOREIGNKEY" or (name or "").endswith("_userid_foreign"):
        return UnknownUserError("user: the users table has no such id; store the user first")
    # A host's own unique index is the host's own matter.
    if str(error).endswith("ai_generated_content.id") or name == "ai_generated_content_pkey":
        return DuplicateIdError("id: a row with this id is stored already; leave the id out")
    if code == "SQLITE_CONSTRAINT_CHECK" and str(error).endswith("_json"):
        return MigrationError(
            "this table takes no compressed documents yet: run `aicontent migrate`"
        )
    if name == "idx_ai_content_in_flight" or str(error).endswith(_IN_FLIGHT):
        return DuplicateRequestError(
            "fingerprint: this user's request is in flight already; request() returns its row"
        )
    return error
