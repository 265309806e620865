"""Translate the database's constraint errors into this package's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import peewee

from ..errors import DuplicateIdError, DuplicateRequestError, MigrationError, UnknownUserError
from .backend import error_code
from .supported import backend_of

_IN_FLIGHT = "ai_generated_content.userId, ai_generated_content.fingerprint"


@contextmanager
def constraints_explained(database: peewee.Database) -> Iterator[None]:
    """Run one statement; if it fails, an open transaction stays usable.

    Raises:
        UnknownUserError, DuplicateIdError, DuplicateRequestError: instead of the database's own
            error.
    """
    with backend_of(database).statement_savepoint(database):
        try:
            yield
        except peewee.IntegrityError as error:
            raise _explained(error) from error


def _explained(error: peewee.IntegrityError) -> Exception:
    code = error_code(error)
    diagnostics = getattr(getattr(error, "orig", None), "diag", None)
    name = getattr(diagnostics, "constraint_name", None)
    if code == "SQLITE_CONSTRAINT_FOREIGNKEY" or (name or "").endswith("_userid_foreign"):
        return UnknownUserError("user: the users table has no such id; store the user first")
    # The error of a host's own unique index is not translated.
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
