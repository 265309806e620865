"""Every error that this package raises on purpose, under one root, and the words they share."""

import peewee

_SHOWN = 40
"""Characters of each end of a long name that a message repeats."""


def kind_of(value: object) -> str:
    """Describe a value for an error message without repeating it: it may be private or long."""
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
    """Return a number with its noun: "1 row", "2,000 rows"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shortened(text: str, shown: int = _SHOWN) -> str:
    """Shorten a long text for an error message: keep its two ends of so many characters."""
    return text if len(text) <= 2 * shown else f"{text[:shown]}…{text[-shown:]}"


def printable(text: str, replacement: str = "?") -> str:
    """Return text that a terminal can show: control characters cannot command it."""
    return "".join(c if c.isprintable() else replacement for c in text)


def one_line(error: BaseException) -> str:
    """Return an error's text as one line."""
    return " ".join(str(error).split())


class AIContentError(Exception):
    """The root of this package's errors: catch it to catch all of them.

    `row` is the number (from 1) of the row at fault, if the caller passed many rows at once.
    """

    row: int | None = None

    def __str__(self) -> str:
        text = self._message()
        return text if self.row is None else f"row {self.row}: {text}"

    def _message(self) -> str:
        return super().__str__()


class ValidationError(AIContentError, ValueError):
    """A value breaks a rule of the table; nothing was written.

    `field` is the model's attribute (with the path inside a document), `rule` what the value
    has to satisfy, `kind` a description of the value that never repeats it.
    """

    def __init__(self, field: str, rule: str, kind: str) -> None:
        super().__init__(field, rule, kind)
        self.field = field
        self.rule = rule
        self.kind = kind

    def _message(self) -> str:
        return f"{self.field}: {self.rule}; got {self.kind}"


class ArgumentError(ValidationError):
    """An argument that the program chooses breaks its rule: `lease`, `generate`, `batch_size`.

    Another `ValidationError` shows a mistake of a client, this one a mistake of the service itself.
    """


def check_number(
    value: object, field: str, least: float, most: float | None = None, *, whole: bool = True
) -> None:
    """Check an argument that must be a number.

    Raises:
        ArgumentError: it is no int (or no number, if it need not be `whole`), or out of range.
    """
    kind = int if whole else (int, float)
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not (is_number and value >= least and (most is None or value <= most)):  # type: ignore[operator]
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        noun = "an int" if whole else "a number"
        raise ArgumentError(field, f"must be {noun} {limits}", kind_of(value))


def check_budget(max_rows: object, max_seconds: object) -> None:
    """Check the arguments that end a long job early; None is no limit.

    Raises:
        ArgumentError: one is no number, or is negative.
    """
    if max_rows is not None:
        check_number(max_rows, "max_rows", 0)
    if max_seconds is not None:
        check_number(max_seconds, "max_seconds", 0, whole=False)


class UnknownUserError(AIContentError, peewee.IntegrityError):
    """The row's user is not in the users table; nothing was written."""


class DuplicateIdError(AIContentError, peewee.IntegrityError):
    """A row with this id is stored already; nothing was written."""


class DuplicateRequestError(AIContentError, peewee.IntegrityError):
    """A row for this user's request is pending or generating already; nothing was written."""


class GeneratedContentError(AIContentError):
    """What `generate` returned cannot be stored; `generated` holds it, so that it is not lost."""

    def __init__(self, why: str, generated: object = None) -> None:
        super().__init__(why)  # without the content, which a log could repeat
        self.generated = generated


class ContentNotStoredError(GeneratedContentError, peewee.OperationalError):
    """The database could not take what `generate` returned, despite retries."""


class LeaseLostError(AIContentError):
    """The claim on this content is over, or it has an answer already; nothing was written.

    `id` is the content's id, `attempt` the number of the claim that is over, `why` the state of
    the row.
    """

    def __init__(self, id: str, attempt: int, why: str) -> None:
        super().__init__(id, attempt, why)
        self.id = id
        self.attempt = attempt
        self.why = why

    def _message(self) -> str:
        return f"attempt {self.attempt} at content {self.id}: {self.why}; nothing was written"


class InProgressError(AIContentError):
    """Another caller is still generating this content, and the time to wait is over.

    `id` is the content's id, `waited` the seconds that this caller waited.
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
    """Another caller was generating this content while this one waited, and failed.

    `id` is the content's id, `reason` the recorded reason, without secrets.
    """

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(id, reason)
        self.id = id
        self.reason = reason

    def _message(self) -> str:
        return f"generating content {self.id} failed: {self.reason}; the next call tries again"


class OpenTransactionError(AIContentError):
    """A transaction is open where it would hold its locks while content is generated."""


class RunningLoopError(AIContentError):
    """A plain call was made in the thread of an event loop, which would stand still meanwhile."""


class ContentGoneError(AIContentError):
    """The row was deleted (by the cleanup, or with its user) since this instance was loaded."""


class NotBoundError(AIContentError):
    """The model has no database yet."""


class UnsupportedDatabaseError(AIContentError):
    """The model cannot work on this database as it is configured."""


class DatabaseURLError(AIContentError, ValueError):
    """A database URL cannot be understood. The message never repeats a password."""


class DatabaseUnavailableError(AIContentError):
    """A database cannot be reached, read, or written at the moment."""


class MigrationError(AIContentError):
    """The schema is missing or outdated, or a migration failed; nothing was changed."""


class UsersTableError(MigrationError):
    """The host's users table is missing, or its id cannot be referenced."""


class TableConflictError(MigrationError):
    """A table of our name exists that our migrations did not create."""


class CorruptDocumentError(AIContentError, ValueError):
    """A stored compressed document cannot be read."""
