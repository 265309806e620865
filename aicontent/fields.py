"""Column types: each holds its Python value to what both databases can keep."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import peewee

from .documents import check_document, check_text, encode, kind_of, snapshot
from .errors import ValidationError

SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
"""SQLite's clock in the one text form that times have there. SQLite computes 'now' once per
statement, so a statement that sets it and the trigger that sets it agree."""


def to_utc(moment: datetime, field: str) -> datetime:
    """Return an aware moment in UTC.

    Raises:
        ValidationError: it is not a datetime, is naive (its moment would be a guess), or lies
            outside the years 1 to 9999 in UTC.
    """
    rule = "must be an aware datetime, such as datetime.now(timezone.utc)"
    if not isinstance(moment, datetime):
        raise ValidationError(field, rule, kind_of(moment))
    if moment.utcoffset() is None:
        raise ValidationError(field, rule, "a naive one")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValidationError(field, "must be in the years 1 to 9999", "one outside") from None


class UTCDateTimeField(peewee.FieldDatabaseHook, peewee.DateTimeField):
    """A moment: timestamptz on PostgreSQL, UTC text of one fixed width on SQLite, where
    comparing text then compares time. Python gives and gets aware datetimes, in UTC."""

    field_type = "TIMESTAMPTZ"
    _as_text = False

    def _db_hook(self, database: peewee.Database | None) -> None:
        self._as_text = isinstance(database, peewee.SqliteDatabase)

    def db_value(self, value: Any) -> Any:
        if value is None or isinstance(value, peewee.Node):
            return value
        moment = to_utc(value, self.name)
        if self._as_text:
            return moment.replace(tzinfo=None).isoformat(" ", "microseconds")
        return moment

    def python_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        return value if value is None else value.astimezone(UTC)


class TextColumn(peewee.CharField):
    """Text of a limited length. The length is a rule of validation and of the database; the
    characters are checked here, because queries bring text too."""

    def db_value(self, value: Any) -> Any:
        if isinstance(value, str):
            check_text(value, self.name)
        return super().db_value(value)  # type: ignore[no-untyped-call]


class EnumColumn(peewee.TextField):
    """One of an enumeration's texts; Python gets the member."""

    def __init__(self, enum: type[StrEnum], **options: Any) -> None:
        super().__init__(**options)
        self.enum = enum
        self._members = {member.value: member for member in enum}

    def db_value(self, value: Any) -> Any:
        if isinstance(value, str):
            check_text(value, self.name)
        return super().db_value(value)  # type: ignore[no-untyped-call]

    def python_value(self, value: Any) -> Any:
        return self._members.get(value, value)


class FractionField(peewee.FloatField):
    """A finite number of six digits: what the specification's float, four bytes on PostgreSQL,
    gives back unchanged. SQLite has eight bytes, and would store NaN as NULL without a word."""

    field_type = "REAL"

    def db_value(self, value: Any) -> Any:
        value = super().db_value(value)  # type: ignore[no-untyped-call]
        if not isinstance(value, float):
            return value
        if not math.isfinite(value):
            raise ValidationError(self.name, "must be a finite number", kind_of(value))
        # Below this PostgreSQL refuses a four-byte float instead of rounding it to 0.
        return float(f"{value:.6g}") if abs(value) >= _SMALLEST_REAL else 0.0


_SMALLEST_REAL = 1.175495e-38


class DocumentAccessor(peewee.FieldAccessor):
    """Remembers how a stored document looked when it was first read from the instance, so that
    a change made in place (`content.metadata["k"] = 1`) is noticed and saved."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        value = instance.__data__.get(self.name)
        if isinstance(value, (dict, list)) and self.name not in instance._dirty:
            instance._as_read.setdefault(self.name, snapshot(value))
        return value


class DocumentField(peewee.JSONField):
    """A JSON document: jsonb on PostgreSQL, JSON text on SQLite."""

    accessor_class = DocumentAccessor

    def __init__(self, **options: Any) -> None:
        super().__init__(dumps=encode, **options)

    def db_value(self, value: Any) -> Any:
        if value is not None and not isinstance(value, peewee.Node):
            check_document(value, self.name)
        return super().db_value(value)  # type: ignore[no-untyped-call]
