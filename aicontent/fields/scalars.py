"""Column types: each holds its Python value to what both databases can keep."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import peewee

from ..database.compiled import Slot
from ..errors import ValidationError
from .policy import check_text, kind_of

SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
"""SQLite's clock in the one text form that times have there. SQLite computes 'now' once per
statement, so a statement that sets it and the trigger that sets it agree."""


def clock(database: peewee.Database) -> peewee.SQL:
    """Return the database's clock, as the columns' defaults and the trigger read it."""
    postgresql = isinstance(database, peewee.PostgresqlDatabase)
    return peewee.SQL("CURRENT_TIMESTAMP" if postgresql else SQLITE_NOW)


def clock_now(database: peewee.Database) -> peewee.SQL:
    """Return the database's clock as it is at the statement, also where the transaction began
    long ago."""
    postgresql = isinstance(database, peewee.PostgresqlDatabase)
    return peewee.SQL("statement_timestamp()" if postgresql else SQLITE_NOW)


def clock_after(database: peewee.Database, seconds: str) -> peewee.SQL:
    """Return the moment so many seconds from now, by that clock; a call of the statement brings
    them by the name `seconds`."""
    if isinstance(database, peewee.PostgresqlDatabase):
        sql = "statement_timestamp() + make_interval(secs => %s)"
        return peewee.SQL(sql, (Slot(seconds),))
    later = SQLITE_NOW.replace("'now'", "'now', printf('%+.3f seconds', ?)")
    return peewee.SQL(later, (Slot(seconds),))


def to_utc(moment: datetime, field: str) -> datetime:
    """Return an aware moment in UTC.

    Raises:
        ValidationError: it is not a datetime, is naive (its moment would be a guess), or lies
            outside 0001-01-02 to 9999-12-30 in UTC. For "never" there is None.
    """
    if isinstance(moment, datetime) and moment.tzinfo is UTC and 1 < moment.year < 9999:
        return moment
    rule = "must be an aware datetime, such as datetime.now(timezone.utc)"
    if not isinstance(moment, datetime):
        raise ValidationError(field, rule, kind_of(moment))
    if moment.utcoffset() is None:
        raise ValidationError(field, rule, "a naive one")
    # A day within Python's years, so that it can be read in the zone of any session.
    if not _FIRST <= moment <= _LAST:
        raise ValidationError(field, "must be from 0001-01-02 to 9999-12-30", "one outside")
    return moment.astimezone(UTC)


_FIRST = datetime(1, 1, 2, tzinfo=UTC)
_LAST = datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)


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

    def parameter(self, value: Any) -> Any:
        if isinstance(value, peewee.Node):
            raise ValidationError(self.name, "must be a datetime here", "an SQL expression")
        return self.db_value(value)

    def python_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        return value if value is None else value.astimezone(UTC)


class _CheckedText(peewee.Field):
    """The characters are checked by the field, because queries bring text too."""

    def db_value(self, value: Any) -> Any:
        if isinstance(value, str):
            check_text(value, self.name)
        return super().db_value(value)  # type: ignore[no-untyped-call]


class TextColumn(_CheckedText, peewee.CharField):
    """Text of a limited length, which is a rule of validation and of the database."""


class EnumColumn(_CheckedText, peewee.TextField):
    """One of an enumeration's texts; Python gets the member."""

    def __init__(self, enum: type[StrEnum], **options: Any) -> None:
        super().__init__(**options)
        self._members = {member.value: member for member in enum}

    def python_value(self, value: Any) -> Any:
        return self._members.get(value, value)


class FractionField(peewee.FieldDatabaseHook, peewee.FloatField):
    """A finite number of six digits: what the specification's float, four bytes on PostgreSQL,
    gives back unchanged. SQLite has eight bytes, and would store NaN as NULL without a word."""

    field_type = "REAL"
    _cast = False

    def _db_hook(self, database: peewee.Database | None) -> None:
        self._cast = isinstance(database, peewee.PostgresqlDatabase)

    def db_value(self, value: Any) -> Any:
        value = self.parameter(value)
        # Compared as eight bytes, 0.9 would not equal the 0.9 that four bytes hold.
        if self._cast and isinstance(value, float):
            return peewee.Cast(peewee.Value(value, converter=False), "REAL")
        return value

    def parameter(self, value: Any) -> Any:
        value = super().db_value(value)  # type: ignore[no-untyped-call]
        if not isinstance(value, float):
            return value
        if not math.isfinite(value):
            raise ValidationError(self.name, "must be a finite number", kind_of(value))
        # Below this PostgreSQL refuses a four-byte float instead of rounding it to 0.
        return float(f"{value:.6g}") if abs(value) >= _SMALLEST_REAL else 0.0


_SMALLEST_REAL = 1.175495e-38
