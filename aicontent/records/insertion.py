"""Many rows at once, by SQL that Peewee makes once and not for each row; by COPY where it can."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import reduce
from operator import or_
from types import NoneType
from typing import Any

import peewee
from peewee import __exception_wrapper__ as driver_errors  # type: ignore[attr-defined]

from ..errors import ValidationError
from ..fields.scalars import clock
from .record import SET_BY_DATABASE, ValidatedModel
from .statements import to_driver
from .validation import SCHEMA

BATCH = 500
"""The most rows of one INSERT: 24 columns each, within SQLite's 32,766 parameters."""

Row = list[Any]
"""A row's values as the driver takes them, in the order of the columns."""

_TWO_ROWS = re.compile(r"(?P<head>.* VALUES )(?P<row>\(.+\)), (?P=row)(?P<tail>.*)", re.DOTALL)


class Insertion:
    """An INSERT of any number of rows into the model's table.

    Args:
        model: the bound model.
        replace: overwrite the row of an id that is stored, unless it is the same already.
    """

    at = 0
    """Where it goes by row: the row it came to, from 0."""

    def __init__(self, model: type[ValidatedModel], *, replace: bool = False) -> None:
        self._model = model
        self._database = model._database()
        self._replaces = replace
        self.goes_by_row = not replace and isinstance(self._database, peewee.SqliteDatabase)
        fields = model._meta.sorted_fields
        self._columns = [field.column_name for field in fields]
        self._parameters = [(f.name, to_driver(f)) for f in fields]
        self._table = _quoted(model)
        self._copies = not replace and _may_copy(self._database, self._table)
        self._of_host = [
            (place, field.name)
            for place, field in enumerate(fields)
            if field.column_name not in SCHEMA["properties"]
        ]
        self._times = [i for i, field in enumerate(fields) if field.name in SET_BY_DATABASE]
        now = clock(self._database)
        row = dict.fromkeys(model._meta.sorted_field_names)
        row |= {name: peewee.fn.COALESCE(peewee.Value(None), now) for name in SET_BY_DATABASE}
        query: Any = model.insert_many([row, row]).returning()
        if replace:
            query = query.on_conflict(**_replacing(model, now)).returning(model._meta.primary_key)
        found = _TWO_ROWS.fullmatch(query.sql()[0])
        assert found is not None  # noqa: S101 - for mypy
        self._head, self._row, self._tail = found.group("head", "row", "tail")

    def bound(self, values: Mapping[str, Any]) -> Row:
        """Return one row's values, by attribute, held to all rules and ready for the driver.

        What is missing becomes NULL; the times that the database sets, its clock.

        Raises:
            ValidationError: the first rule that is broken.
        """
        self._model._validate(values)
        row = [parameter(values.get(name)) for name, parameter in self._parameters]
        for place, name in self._of_host:
            if isinstance(row[place], peewee.Node):
                rule = "must be a value among many rows: use create() for this one"
                raise ValidationError(name, rule, "an expression")
        return row

    def execute(self, rows: Sequence[Row]) -> list[str]:
        """Insert the rows, at most BATCH, and return the ids of those that were written."""
        if not self._replaces and (self._each(rows) or (self._copies and self._copy(rows))):
            return [row[0] for row in rows]
        sql = self._head + ", ".join([self._row] * len(rows)) + self._tail
        cursor = self._database.execute_sql(sql, [value for row in rows for value in row])
        return [row[0] for row in (cursor.fetchall() if self._replaces else rows)]

    def _each(self, rows: Sequence[Row]) -> bool:
        """Insert the rows by one prepared statement on SQLite, which parses no long SQL then."""
        if not self.goes_by_row:
            return False
        with driver_errors:
            self._database.cursor().executemany(self._head + self._row, self._counted(rows))
        return True

    def _counted(self, rows: Sequence[Row]) -> Iterator[Row]:
        for self.at, row in enumerate(rows):
            yield row

    def _copy(self, rows: Sequence[Row]) -> bool:
        """Insert the rows by COPY, 1.5 times as fast, and tell whether it could be."""
        if not all(isinstance(value, _COPIED) for row in rows for value in row):
            return False
        given = {index for index in self._times for row in rows if row[index] is not None}
        if any(row[index] is None for index in given for row in rows):
            return False  # a column has one default for all rows, or none
        left_out = set(self._times) - given
        kept = [index for index in range(len(self._columns)) if index not in left_out]
        lines = ("\t".join([_copied(row[index]) for index in kept]) for row in rows)
        columns = ", ".join(f'"{self._columns[index]}"' for index in kept)
        sql = f"COPY {self._table} ({columns}) FROM STDIN"
        text = "\n".join(lines) + "\n"
        with driver_errors:
            cursor: Any = self._database.cursor()
            if hasattr(cursor, "copy_expert"):
                cursor.copy_expert(sql, io.StringIO(text))
            else:  # psycopg 3
                with cursor.copy(sql) as copy:
                    copy.write(text)
        return True


def _may_copy(database: peewee.Database, table: str) -> bool:
    """Tell whether COPY can be: in UTF-8, and without row-level security."""
    if isinstance(database, peewee.SqliteDatabase):
        return False
    if database.execute_sql("SHOW client_encoding").fetchone()[0] != "UTF8":
        return False
    sql = "SELECT row_security_active(to_regclass(%s)::oid)"
    return not database.execute_sql(sql, (table,)).fetchone()[0]


def _quoted(model: type[ValidatedModel]) -> str:
    names = (model._meta.schema, model._meta.table_name)
    return ".".join(f'"{name}"' for name in names if name)


_COPIED = (str, int, float, datetime, NoneType)


def _copied(value: object) -> str:
    if value is None:
        return r"\N"
    text = str(value).replace("\\", r"\\")
    return text.replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")


def _replacing(model: type[ValidatedModel], now: peewee.SQL) -> dict[str, Any]:
    key, fields = model._meta.primary_key, model._meta.sorted_fields
    # updatedAt is the trigger's, and createdAt stays when a row comes without one.
    new = {
        field: getattr(peewee.EXCLUDED, field.column_name)
        for field in fields
        if field is not key and field.name != "updated_at"
    }
    created = model._meta.fields["created_at"]
    new[created] = peewee.Case(None, [(new[created] == now, created)], new[created])
    differ = "IS DISTINCT FROM" if model._database().for_update else "IS NOT"
    changed = (
        # As text, for jsonb takes 1 and 1.0 for the same.
        peewee.Expression(field.cast("text"), differ, peewee.Cast(value, "text"))
        if isinstance(field, peewee.JSONField)
        else peewee.Expression(field, differ, value)
        for field, value in new.items()
    )
    # A row that already is what it is to become is left alone.
    return {"conflict_target": [key], "update": new, "where": reduce(or_, changed)}
