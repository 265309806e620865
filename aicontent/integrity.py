"""What a database refuses, in this package's terms, with the caller's transaction kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import peewee

from .errors import DuplicateIdError, UnknownUserError


def database_code(error: peewee.PeeweeException) -> str:
    """Return what the database calls an error: PostgreSQL's SQLSTATE, SQLite's name, or ""."""
    cause = getattr(error, "orig", None)
    for attribute in ("pgcode", "sqlstate", "sqlite_errorname"):
        code = getattr(cause, attribute, None)
        if code:
            return str(code)
    return ""


@contextmanager
def constraints_explained(database: peewee.Database) -> Iterator[None]:
    """Run one statement whose failure leaves an open transaction usable.

    Raises:
        UnknownUserError, DuplicateIdError: instead of the database's own error.
    """
    # A failed statement spoils PostgreSQL's transaction; behind a savepoint it does not.
    with database.savepoint() if database.in_transaction() else nullcontext():
        try:
            yield
        except peewee.IntegrityError as error:
            raise _explained(error) from error


def _explained(error: peewee.IntegrityError) -> Exception:
    code = database_code(error)
    if code in ("23503", "SQLITE_CONSTRAINT_FOREIGNKEY"):
        return UnknownUserError("user: the users table has no such id; store the user first")
    if code in ("23505", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE"):
        return DuplicateIdError("id: a row with this id is stored already; leave the id out")
    return error
