"""The errors that this package raises, with one base class, and helpers for their messages."""

import peewee

_SHOWN = 40
"""Characters of each end of a long text that a message repeats."""


def kind_of(value: object) -> str:
    """Describe a value by its type and size: an error message must not repeat private content."""
    name = type(value).__name__
    if isinstance(value, str):
        return f"{name} of {counted(len(value), 'character')}"
    if isinstance(value, (dict, list, tuple, set)):
        return f"{name} of {counted(len(value), 'item')}"
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63):
        return f"{name} {value!r}"
    return name


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, singular or plural: "1 row", "2,000 rows"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shortened(text: str, shown: int = _SHOWN) -> str:
    """Shorten a long text for an error message to its first and last `shown` characters."""
    return text if len(text) <= 2 * shown else f"{text[:shown]}…{text[-shown:]}"


def printable(text: str, replacement: str = "?") -> str:
    """Replace control characters in a text, so that it cannot control a terminal."""
    return "".join(c if c.isprintable() else replacement for c in text)


def one_line(error: BaseException) -> str:
    """Return an error's text as one line."""
    return " ".join(str(error).split())


class AIContentError(Exception):
    """Base class of this package's errors: catch it to catch all of them.

    `row` is the number of the invalid row, from 1, if the caller passed many rows.
    """

    row: int | None = None

    def __str__(self) -> str:
        text = self._message()
        return text if self.row is None else f"row {self.row}: {text}"

    def _message(self) -> str:
        return super().__str__()


class ValidationError(AIContentError, ValueError):
    """A value is not valid for its column; nothing was written.

    `field` is the model's attribute, with the path inside a document; `rule` is the rule that the
    value breaks; `kind` describes the value without repeating it.
    """

    def __init__(self, field: str, rule: str, kind: str) -> None:
        super().__init__(field, rule, kind)
        self.field = field
        self.rule = rule
        self.kind = kind

    def _message(self) -> str:
        return f"{self.field}: {self.rule}; got {self.kind}"


class ArgumentError(ValidationError):
    """An argument that the service itself sets is not valid: `lease`, `generate`, `batch_size`.

    Any other `ValidationError` may come from a client's data; this one is a bug in the service.
    """


def check_number(
    value: object, field: str, least: float, most: float | None = None, *, whole: bool = True
) -> None:
    """Check an argument that must be a number from `least` to `most`.

    Raises:
        ArgumentError: it is not an int (or, without `whole`, not a number), or is out of range.
    """
    kind = int if whole else (int, float)
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not (is_number and value >= least and (most is None or value <= most)):  # type: ignore[operator]
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        noun = "an int" if whole else "a number"
        raise ArgumentError(field, f"must be {noun} {limits}", kind_of(value))


def check_budget(max_rows: object, max_seconds: object) -> None:
    """Check the arguments that end a long job early; None means no limit.

    Raises:
        ArgumentError: one of them is not a number, or is negative.
    """
    if max_rows is not None:
        check_number(max_rows, "max_rows", 0)
    if max_seconds is not None:
        check_number(max_seconds, "max_seconds", 0, whole=False)


class UnknownUserError(AIContentError, peewee.IntegrityError):
    """The user of the row is not in the users table; nothing was written."""


class DuplicateIdError(AIContentError, peewee.IntegrityError):
    """A row with this id is already stored; nothing was written."""


class DuplicateRequestError(AIContentError, peewee.IntegrityError):
    """A row for this user's request is already pending or generating; nothing was written."""


class GeneratedContentError(AIContentError):
    """The result of `generate` cannot be stored; `generated` holds it, so that it is not lost."""

    def __init__(self, why: str, generated: object = None) -> None:
        super().__init__(why)  # without the content, which a log could repeat
        self.generated = generated


class ContentNotStoredError(GeneratedContentError, peewee.OperationalError):
    """The result of `generate` was not stored, because the database failed despite retries."""


class LeaseLostError(AIContentError):
    """The claim on this content is over, or it already has an answer; nothing was written.

    `id` is the content's id, `attempt` the number of the lost claim, `why` the state of the row.
    """

    def __init__(self, id: str, attempt: int, why: str) -> None:
        super().__init__(id, attempt, why)
        self.id = id
        self.attempt = attempt
        self.why = why

    def _message(self) -> str:
        return f"attempt {self.attempt} at content {self.id}: {self.why}; nothing was written"


class InProgressError(AIContentError):
    """Another caller is still generating this content after the time that this one may wait.

    `id` is the content's id, `waited` how many seconds this caller waited.
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
    """The caller that generated this content failed while this one waited.

    `id` is the content's id, `reason` the recorded reason, without secrets.
    """

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(id, reason)
        self.id = id
        self.reason = reason

    def _message(self) -> str:
        return f"generating content {self.id} failed: {self.reason}; the next call tries again"


class OpenTransactionError(AIContentError):
    """A transaction is open, and would hold its locks while content is generated."""


class RunningLoopError(AIContentError):
    """A blocking call was made in the thread of an event loop: await the async method instead."""


class ContentGoneError(AIContentError):
    """The row was deleted after this instance was loaded, by the cleanup or with its user."""


class NotBoundError(AIContentError):
    """The model has no database yet: call `aicontent.bind` first."""


class UnsupportedDatabaseError(AIContentError):
    """This package does not support the database, or not with its configuration."""


class DatabaseURLError(AIContentError, ValueError):
    """A database URL is malformed, or its scheme is unknown. The message repeats no password."""


class DatabaseUnavailableError(AIContentError):
    """A database cannot be reached, read, or written now."""


class MigrationError(AIContentError):
    """The schema is missing or outdated, or a migration failed; nothing was changed."""


class UsersTableError(MigrationError):
    """The host's users table is missing, or a foreign key cannot reference its id."""


class TableConflictError(MigrationError):
    """A table ai_generated_content exists that this package's migrations did not create."""


class CorruptDocumentError(AIContentError, ValueError):
    """A stored compressed document cannot be read."""
