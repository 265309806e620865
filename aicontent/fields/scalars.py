"""Define the field types of single values. Each converts its values for both databases."""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

import peewee

from ..database.supported import known_backend, unproxied
from ..errors import ValidationError, kind_of
from .policy import check_text, plain_text

V = TypeVar("V")
"""The type of an instance's attribute."""
A = TypeVar("A")
"""Another type that may be assigned to the attribute."""

Rule = Mapping[str, Any]
"""The rule of a column's values, as a JSON Schema."""

CHECKED_BY_FIELD: Rule = {}
"""The rule of times: JSON Schema has no datetimes, so `UTCDateTimeField` checks them."""

MAX_INTEGER = 2**31 - 1
"""The largest PostgreSQL `integer`, the type of the specification's integer columns."""


class RuledField(peewee.Field, Generic[V]):
    """Base class of fields with a validation rule, which is a required argument.

    For type checkers, a column is annotated with the type of its values, such as
    `ShortTextField[str | None]`.

    Args:
        rule: the rule of the column's values.
        required: whether a new row must have a value for the column.
    """

    def __init__(self, *args: Any, rule: Rule, required: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        # Long names, because a foreign key has the other table's columns as attributes.
        self.validation_rule = rule
        self.is_required = required

    if TYPE_CHECKING:  # Peewee's stubs give types only for the values of Peewee's own fields

        def __new__(cls, *args: Any, **options: Any) -> Self: ...
        @overload
        def __get__(self, instance: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> V: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...
        def __set__(self, instance: object, value: V) -> None: ...

    @property
    def read_value(self) -> Callable[[Any], Any] | None:
        """Return the conversion of a driver's value to Python's; None if they are the same."""
        is_plain = type(self).python_value is peewee.Field.python_value
        return None if is_plain else self.python_value


def is_ours(field: object) -> bool:
    """Return whether a field is a column of this package, rather than one that a host has added."""
    return isinstance(field, RuledField)


class _CheckedText(RuledField[V]):
    """A text field that checks the characters of its values, including those in queries."""

    def db_value(self, value: Any) -> Any:
        if isinstance(value, str):
            check_text(value, self.name)
            value = plain_text(value)
        return super().db_value(value)  # type: ignore[no-untyped-call]


class ShortTextField(_CheckedText[V], peewee.CharField):
    """Text of a limited length."""


class EnumField(_CheckedText[V], peewee.TextField, Generic[V, A]):
    """A text of an enumeration. Python gets the member, and may set the member or its text."""

    if TYPE_CHECKING:  # pyright must find both methods in one class to see that they differ

        @overload
        def __get__(self, instance: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> V: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...
        def __set__(self, instance: object, value: V | A) -> None: ...

    def __init__(self, enum: type[StrEnum], **options: Any) -> None:
        super().__init__(rule={"type": "string", "enum": [m.value for m in enum]}, **options)
        self._members = _Members((member.value, member) for member in enum)

    def python_value(self, value: Any) -> Any:
        return self._members[value]

    @property
    def read_value(self) -> Callable[[Any], Any] | None:
        is_ours = type(self).python_value is EnumField.python_value
        return self._members.__getitem__ if is_ours else super().read_value


class _Members(dict[Any, Any]):
    """Maps texts to the members of an enumeration, and any other text to itself.

    A dict is faster than a function.
    """

    def __missing__(self, text: Any) -> Any:
        return text


class CountField(RuledField[V], peewee.IntegerField):
    """An integer."""


class FlagField(RuledField[V], peewee.BooleanField):
    """A boolean, which SQLite stores as 1 or 0."""

    read_value = bool
    python_value = staticmethod(bool)


class _BackendHook(peewee.FieldDatabaseHook):
    backend: Any = None

    def _db_hook(self, database: peewee.Database | None) -> None:
        self.backend = known_backend(unproxied(database))


class UTCDateTimeField(_BackendHook, RuledField[V], peewee.DateTimeField):
    """A time: timestamptz on PostgreSQL, UTC text of fixed width on SQLite.

    Text of fixed width sorts like the times. Python gets and sets aware datetimes.
    """

    field_type = "TIMESTAMPTZ"

    def __init__(self, **options: Any) -> None:
        super().__init__(rule=CHECKED_BY_FIELD, **options)

    def db_value(self, value: Any) -> Any:
        if value is None or isinstance(value, peewee.Node):
            return value
        utc = to_utc(value, self.name)
        return self.backend.time_parameter(utc) if self.backend else utc

    def parameter(self, value: Any) -> Any:
        if isinstance(value, peewee.Node):
            raise ValidationError(self.name, "must be a datetime here", "an SQL expression")
        return self.db_value(value)

    def python_value(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value if value is None else value.astimezone(UTC)
        if len(value) == _WIDTH:
            try:
                return datetime.fromisoformat(f"{value}+00:00")  # faster than replace()
            except ValueError:
                pass  # another program has written an offset
        return datetime.fromisoformat(value).replace(tzinfo=UTC)


_WIDTH = len("2026-01-01 00:00:00.000000")


class FractionField(_BackendHook, RuledField[V], peewee.FloatField):
    """A finite number, rounded to six digits, which PostgreSQL's four bytes store unchanged.

    SQLite stores eight bytes, and would store NaN as NULL without an error.
    """

    field_type = "REAL"

    def db_value(self, value: Any) -> Any:
        value = self.parameter(value)
        is_real = isinstance(value, float) and self.backend is not None
        # A parameter of eight bytes, such as 0.9, does not equal the same number in four bytes.
        return self.backend.typed(value, "REAL") if is_real else value

    def parameter(self, value: Any) -> Any:
        value = super().db_value(value)  # type: ignore[no-untyped-call]
        if not isinstance(value, float):
            return value
        if not math.isfinite(value):
            raise ValidationError(self.name, "must be a finite number", kind_of(value))
        # PostgreSQL refuses a smaller number for a four-byte float instead of rounding it to 0.
        return float(f"{value:.6g}") if abs(value) >= _SMALLEST_REAL else 0.0


_SMALLEST_REAL = 1.175495e-38


def to_utc(value: datetime, field: str) -> datetime:
    """Convert an aware datetime to UTC.

    Raises:
        ValidationError: the value is not a datetime, is naive (its time zone is unknown), or is
            outside 0001-01-02 to 9999-12-30 in UTC. Use None for "never", not a far date.
    """
    if isinstance(value, datetime) and value.tzinfo is UTC and 1 < value.year < 9999:
        return value
    rule = "must be an aware datetime, such as datetime.now(timezone.utc)"
    if not isinstance(value, datetime):
        raise ValidationError(field, rule, kind_of(value))
    if value.utcoffset() is None:
        raise ValidationError(field, rule, "a naive datetime")
    # One day less than Python's range, so that the time exists in every session's time zone.
    if not _FIRST <= value <= _LAST:
        rule = "must be from 0001-01-02 to 9999-12-30"
        raise ValidationError(field, rule, "a datetime outside this range")
    return value.astimezone(UTC)


_FIRST = datetime(1, 1, 2, tzinfo=UTC)
_LAST = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)


def now_in_utc(now: datetime | None) -> datetime:
    """Return `now` in UTC, or the current time if it is None."""
    return datetime.now(UTC) if now is None else to_utc(now, "now")
