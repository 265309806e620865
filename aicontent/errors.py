"""Every error this package raises on purpose, under one root."""

from __future__ import annotations

import peewee


class AIContentError(Exception):
    """The root: catch it to catch whatever this package raises.

    `row` is the number (from 1) of the row at fault when many were handed in at once.
    """

    row: int | None = None

    def __str__(self) -> str:
        text = self._message()
        return text if self.row is None else f"row {self.row}: {text}"

    def _message(self) -> str:
        return super().__str__()


class ValidationError(AIContentError, ValueError):
    """A value that the table must not hold; nothing was written.

    `field` is the model's attribute (with the path inside a document), `rule` what the value
    has to satisfy, `kind` what it was instead: never the value itself, which may be a whole
    document or private.
    """

    def __init__(self, field: str, rule: str, kind: str) -> None:
        super().__init__(field, rule, kind)
        self.field = field
        self.rule = rule
        self.kind = kind

    def _message(self) -> str:
        return f"{self.field}: {self.rule}; got {self.kind}"


class UnknownUserError(AIContentError, peewee.IntegrityError):
    """The row names a user that the users table does not have; nothing was written."""


class DuplicateIdError(AIContentError, peewee.IntegrityError):
    """A row with this id is stored already; nothing was written."""


class DuplicateRequestError(AIContentError, peewee.IntegrityError):
    """A row for this user's request is pending or generating already; nothing was written."""


class LeaseLostError(AIContentError):
    """Whoever claimed this content has it no longer; nothing was written.

    `id` is the content's, `attempt` the number of the claim that is over.
    """

    def __init__(self, id: str, attempt: int, why: str) -> None:
        super().__init__(id, attempt, why)
        self.id = id
        self.attempt = attempt
        self.why = why

    def _message(self) -> str:
        return f"attempt {self.attempt} at content {self.id}: {self.why}; nothing was written"


class InProgressError(AIContentError):
    """Someone else is still generating this content, and the time to wait is over.

    `id` is the content's, `waited` the seconds.
    """

    def __init__(self, id: str, waited: float) -> None:
        super().__init__(id, waited)
        self.id = id
        self.waited = waited

    def _message(self) -> str:
        return (
            f"content {self.id} is still being generated after {self.waited:.1f} s of waiting: "
            "ask again later, or with a longer wait"
        )


class GenerationFailedError(AIContentError):
    """Whoever was generating the content that this caller waited for has failed.

    `id` is the content's, `reason` what was noted, without secrets.
    """

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(id, reason)
        self.id = id
        self.reason = reason

    def _message(self) -> str:
        return f"generating content {self.id} failed: {self.reason}; the next call tries anew"


class OpenTransactionError(AIContentError):
    """Generating takes long, and would keep the caller's transaction open meanwhile."""

    def _message(self) -> str:
        return (
            "get_or_generate() was called within a transaction, which would hold its locks for as "
            "long as generating takes: call it outside atomic()"
        )


class ContentGoneError(AIContentError):
    """The row was deleted (cleanup, a cascade) since this instance was loaded."""


class NotBoundError(AIContentError):
    """The model has no database yet."""


class UnsupportedDatabaseError(AIContentError):
    """A database the model cannot work on as it is configured."""


class DatabaseURLError(AIContentError, ValueError):
    """A database URL that cannot be understood. The message never repeats a password."""


class DatabaseUnavailableError(AIContentError):
    """A database that cannot be reached, read, or written at the moment."""


class MigrationError(AIContentError):
    """The schema cannot be changed; the database is as it was."""


class UsersTableError(MigrationError):
    """The host's users table is missing, or its id cannot be referenced."""


class TableConflictError(MigrationError):
    """A table of our name exists that our migrations did not make."""


class CorruptDocumentError(AIContentError, ValueError):
    """A stored document that was compressed cannot be read."""
