"""Statements that Peewee writes once for a binding; after that only their values change.

Peewee builds the SQL of a query anew for each call, which costs more than most queries do. Here a
query is written once, with slots in the place of values; its SQL is kept with the model's binding,
and a call fills the slots.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import peewee
from peewee import __exception_wrapper__ as driver_errors  # type: ignore[attr-defined]

_MOST = 500
"""Statements that are kept for a binding: an UPDATE is one for each set of columns."""


class Slot:
    """Stands among a statement's values for one that a call brings by this name."""

    def __init__(self, name: str, convert: Callable[[Any], Any] | None = None) -> None:
        self.name = name
        self.convert = convert


def slot(name: str, field: Any = None) -> Any:
    """Return the node of a slot, for a query.

    Args:
        name: by which a call brings the value.
        field: a field whose way to the driver the value takes; without one it goes as it is.
    """
    convert = None if field is None else getattr(field, "parameter", field.db_value)
    return peewee.Value(Slot(name, convert), converter=False, unpack=False)


@dataclass(frozen=True)
class Computed:
    """A value or a condition that the database computes.

    `key` tells it from others, `build` makes its node for a model, and `given` fills its slots.
    """

    key: str
    build: Callable[[Any], Any]
    given: Mapping[str, Any] = field(default_factory=dict)


class Statement:
    """A query of one model whose SQL is made, on one database.

    Args:
        query: the query, with slots.
        fields: the fields that its rows have, in their order.
    """

    def __init__(self, query: Any, database: peewee.Database, fields: Sequence[Any]) -> None:
        self._database = database
        self._sql, self._values = query.bind(database).sql()
        self._readers = [(field.name, _reader_of(field)) for field in fields]

    def rows(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Execute it and return its rows, by attribute."""
        given = [
            value
            if type(value) is not Slot
            else values[value.name]
            if value.convert is None
            else value.convert(values[value.name])
            for value in self._values
        ]
        cursor = self._database.execute_sql(self._sql, given)
        with driver_errors:
            rows = cursor.fetchall()
        return [
            {
                name: value if read is None or value is None else read(value)
                for (name, read), value in zip(self._readers, row, strict=True)
            }
            for row in rows
        ]


def _reader_of(field: Any) -> Callable[[Any], Any] | None:
    # What the drivers return for these is what Python gets.
    if isinstance(field, peewee.ForeignKeyField):
        field = field.rel_field
    plain = peewee.IntegerField, peewee.AutoField, peewee.FloatField, peewee.CharField
    return None if type(field) in plain else field.python_value


class Statements:
    """The statements of a model on one database; a rebind begins new ones."""

    def __init__(self, database: peewee.Database) -> None:
        self.database = database
        self._made: dict[Hashable, Statement] = {}

    def get(self, key: Hashable, make: Callable[[], tuple[Any, Sequence[Any]]]) -> Statement:
        """Return the statement of a key; `make` returns its query and the fields of its rows.

        Two threads may make the same one at once; either will do.
        """
        statement = self._made.get(key)
        if statement is None:
            query, fields = make()
            statement = Statement(query, self.database, fields)
            if len(self._made) >= _MOST:
                self._made.clear()
            self._made[key] = statement
        return statement
