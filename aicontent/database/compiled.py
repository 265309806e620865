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

from ..records.validation import SCHEMA

_MOST = 500
"""Statements that are kept for a binding: an UPDATE is one for each set of columns."""


class Slot:
    """Stands among a statement's values for one that a call brings by this name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def slot(name: str) -> Any:
    """Return the node of a slot, for a query; a call brings its value as the driver takes it."""
    return peewee.Value(Slot(name), converter=False, unpack=False)


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
        self._names = [field.name for field in fields]
        self._readers = [(f.name, f.python_value) for f in fields if not _is_read_as_it_is(f)]

    def rows(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Execute it and return its rows, by attribute."""
        given = [values[v.name] if type(v) is Slot else v for v in self._values]
        cursor = self._database.execute_sql(self._sql, given)
        with driver_errors:
            found = cursor.fetchall()
        rows = [dict(zip(self._names, row, strict=True)) for row in found]
        for row in rows:
            for name, read in self._readers:
                row[name] = read(row[name])
        return rows


_IDENTITIES = (
    peewee.Field.adapt,
    peewee.IntegerField.adapt,
    peewee.FloatField.adapt,
    peewee.CharField.adapt,
)
"""What leaves a value that a driver returns for such a column as it is."""


def _is_read_as_it_is(field: Any) -> bool:
    kind = type(field.rel_field if isinstance(field, peewee.ForeignKeyField) else field)
    # Of a column of the host's own it is not known what the driver returns.
    if field.column_name not in SCHEMA["properties"]:
        return False
    return kind.python_value is peewee.Field.python_value and kind.adapt in _IDENTITIES


class Statements:
    """The statements of a model on one database; a rebind begins new ones."""

    def __init__(self, database: peewee.Database) -> None:
        self.database = database
        self._made: dict[Hashable, Statement] = {}

    def get(self, key: Hashable) -> Statement | None:
        """Return the statement of a key, if it was made."""
        return self._made.get(key)

    def keep(self, key: Hashable, statement: Statement) -> None:
        """Keep a statement. Two threads may make the same one at once; either will do."""
        if len(self._made) >= _MOST:
            self._made.clear()
        self._made[key] = statement
