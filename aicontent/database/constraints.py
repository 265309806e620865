"""Read a database's error codes, and translate constraint errors into this package's errors."""

import peewee

from ..errors import DuplicateIdError, DuplicateRequestError, UnknownUserError, shortened

_IN_FLIGHT = "ai_generated_content.userId, ai_generated_content.fingerprint"

_SQLITE_TEXTS = {
    "FOREIGN KEY constraint failed": "SQLITE_CONSTRAINT_FOREIGNKEY",
    "UNIQUE constraint failed": "SQLITE_CONSTRAINT_UNIQUE",
    "CHECK constraint failed": "SQLITE_CONSTRAINT_CHECK",
    "is locked": "SQLITE_BUSY",
    "readonly database": "SQLITE_READONLY",
    "unable to open": "SQLITE_CANTOPEN",
}


def error_code(error: BaseException) -> str:
    """Return the code that a database gave its error: a SQLSTATE, SQLite's name, or ""."""
    cause = getattr(error, "orig", error)  # Peewee lets some errors of the driver through
    for attribute in ("pgcode", "sqlstate", "sqlite_errorname"):
        code = getattr(cause, attribute, None)
        if code and code != "SQLITE_CONSTRAINT":  # SQLCipher's driver says no more
            return str(code)
    # pysqlite3, which Peewee prefers where it is newer, has no names for errors.
    return next((code for text, code in _SQLITE_TEXTS.items() if text in str(error)), "")


def refusal(error: BaseException) -> str | None:
    """Return why the database refuses to delete a row; None if the row is not the reason.

    The text is the database's, without what it says of the row's content.
    """
    if not error_code(error).startswith(_REFUSALS):
        return None
    diagnostics = getattr(getattr(error, "orig", None), "diag", None)
    text = getattr(diagnostics, "message_primary", None) or str(error)
    return shortened(" ".join(text.split()), 100)


_REFUSALS = "23", "27", "09", "P0", "SQLITE_CONSTRAINT"
"""Constraints, and what triggers raise."""


def explained(error: peewee.IntegrityError, only_users: bool) -> Exception:
    """Return this package's error for a constraint error, or the same error of a host's own.

    `only_users` says that the table references users alone: SQLite does not name a foreign key.
    """
    code = error_code(error)
    diagnostics = getattr(getattr(error, "orig", None), "diag", None)
    name = getattr(diagnostics, "constraint_name", None)
    if (code == "SQLITE_CONSTRAINT_FOREIGNKEY" and only_users) or (name or "").endswith(
        "_userid_foreign"
    ):
        return UnknownUserError("user: the users table has no such id; store the user first")
    # The error of a host's own unique index is not translated.
    if str(error).endswith("ai_generated_content.id") or name == "ai_generated_content_pkey":
        return DuplicateIdError("id: a row with this id is stored already; leave the id out")
    if name == "idx_ai_content_in_flight" or str(error).endswith(_IN_FLIGHT):
        return DuplicateRequestError(
            "fingerprint: this user's request is in flight already; request() returns its row"
        )
    return error
