"""Field types of single values. Each converts a value to what both databases can store."""

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
"""What else may be assigned to it."""

Rule = Mapping[str, Any]
"""What a column's values must satisfy, in JSON Schema's terms."""

CHECKED_BY_FIELD: Rule = {}
"""The rule of times: JSON Schema knows no datetimes, so `UTCDateTimeField` checks them."""

MAX_INTEGER = 2**31 - 1
"""PostgreSQL's `integer`, which the specification's integer columns are."""


class RuledField(peewee.Field, Generic[V]):
    """A field that cannot be declared without its validation rule.

    A column is annotated with the type of its values, such as `ShortTextField[str | None]`, for
    type checkers.

    Args:
        rule: the rule of the column's values.
        required: whether a new row must have a value for it.
    """

    def __init__(self, *args: Any, rule: Rule, required: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        # A foreign key answers to the names of the other table's columns, hence the long names.
        self.validation_rule = rule
        self.is_required = required

    if TYPE_CHECKING:  # Peewee's stubs type the values of Peewee's own fields alone

        def __new__(cls, *args: Any, **options: Any) -> Self: ...
        @overload
        def __get__(self, instance: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> V: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...
        def __set__(self, instance: object, value: V) -> None: ...

    @property
    def read_value(self) -> Callable[[Any], Any] | None:
        """Converts a driver's value to Python's; None where they are the same."""
        is_plain = type(self).python_value is peewee.Field.python_value
        return None if is_plain else self.python_value


def is_ours(field: object) -> bool:
    """Tell a column of this package's table from one that a host has added."""
    return isinstance(field, RuledField)


class _CheckedText(RuledField[V]):
    """Checks characters in the field, because queries bring text too."""

    def db_value(self, value: Any) -> Any:
        if isinstance(value, str):
            check_text(value, self.name)
            value = plain_text(value)
        return super().db_value(value)  # type: ignore[no-untyped-call]


class ShortTextField(_CheckedText[V], peewee.CharField):
    """Text of a limited length."""


class EnumField(_CheckedText[V], peewee.TextField, Generic[V, A]):
    """One of an enumeration's texts; Python gets the member, and may set either."""

    if TYPE_CHECKING:  # pyright must find both methods in one class to see that they differ

        @overload
        def __get__(self, instance: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> V: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...
        def __set__(self, instance: object, value: V | A) -> None: ...

    def __init__(self, enum: type[StrEnum], **options: Any) -> None:
        super().__init__(rule={"type": "string", "enum": [m.value for m in enum]}, **options)
        self._members = {member.value: member for member in enum}

    def python_value(self, value: Any) -> Any:
        return self._members.get(value, value)


class CountField(RuledField[V], peewee.IntegerField):
    """An integer."""


class FlagField(RuledField[V], peewee.BooleanField):
    """True or False, which SQLite stores as 1 or 0."""

    read_value = bool
    python_value = staticmethod(bool)


class _BackendHook(peewee.FieldDatabaseHook):
    backend: Any = None

    def _db_hook(self, database: peewee.Database | None) -> None:
        self.backend = known_backend(unproxied(database))


class UTCDateTimeField(_BackendHook, RuledField[V], peewee.DateTimeField):
    """A moment: timestamptz on PostgreSQL, UTC text of one width on SQLite.

    Text of one width compares as times do. Python gets and sets aware datetimes.
    """

    field_type = "TIMESTAMPTZ"

    def __init__(self, **options: Any) -> None:
        super().__init__(rule=CHECKED_BY_FIELD, **options)

    def db_value(self, value: Any) -> Any:
        if value is None or isinstance(value, peewee.Node):
            return value
        moment = to_utc(value, self.name)
        return self.backend.time_parameter(moment) if self.backend else moment

    def parameter(self, value: Any) -> Any:
        if isinstance(value, peewee.Node):
            raise ValidationError(self.name, "must be a datetime here", "an SQL expression")
        return self.db_value(value)

    def python_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        return value if value is None else value.astimezone(UTC)


class FractionField(_BackendHook, RuledField[V], peewee.FloatField):
    """A finite number of six digits, which four bytes on PostgreSQL return unchanged.

    SQLite has eight bytes, and would store NaN as NULL without an error.
    """

    field_type = "REAL"

    def db_value(self, value: Any) -> Any:
        value = self.parameter(value)
        is_real = isinstance(value, float) and self.backend is not None
        # Compared as eight bytes, 0.9 would not equal the 0.9 that four bytes hold.
        return self.backend.typed(value, "REAL") if is_real else value

    def parameter(self, value: Any) -> Any:
        value = super().db_value(value)  # type: ignore[no-untyped-call]
        if not isinstance(value, float):
            return value
        if not math.isfinite(value):
            raise ValidationError(self.name, "must be a finite number", kind_of(value))
        # Below this PostgreSQL refuses a four-byte float instead of rounding it to 0.
        return float(f"{value:.6g}") if abs(value) >= _SMALLEST_REAL else 0.0


_SMALLEST_REAL = 1.175495e-38


def to_utc(moment: datetime, field: str) -> datetime:
    """Return an aware moment in UTC.

    Raises:
        ValidationError: it is not a datetime, is naive (its moment would be a guess), or lies
            outside 0001-01-02 to 9999-12-30 in UTC. "Never" is None, not a far date.
    """
    if isinstance(moment, datetime) and moment.tzinfo is UTC and 1 < moment.year < 9999:
        return moment
    rule = "must be an aware datetime, such as datetime.now(timezone.utc)"
    if not isinstance(moment, datetime):
        raise ValidationError(field, rule, kind_of(moment))
    if moment.utcoffset() is None:
        raise ValidationError(field, rule, "a naive datetime")
    # A day within Python's years, so that any session's time zone can show it.
    if not _FIRST <= moment <= _LAST:
        raise ValidationError(field, "must be from 0001-01-02 to 9999-12-30", "one outside")
    return moment.astimezone(UTC)


_FIRST = datetime(1, 1, 2, tzinfo=UTC)
_LAST = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)


def moment_of(now: datetime | None) -> datetime:
    """Return the moment to judge by: an aware datetime in UTC, or the current one for None."""
    return datetime.now(UTC) if now is None else to_utc(now, "now")
