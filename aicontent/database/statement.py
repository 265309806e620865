"""SQL that Peewee writes once per binding of a model; calls change only its values.

Peewee builds the SQL of a query for each call, which takes longer than most queries do. Here a
query is built once, with slots in the place of values. Its SQL is cached with the model's class,
and a call fills the slots.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import peewee

from .internals import driver_errors
from .supported import database_of

CACHE_SIZE = 500
"""The most statements cached per binding: an UPDATE is one for each set of columns."""

_CACHE = "_aicontent_statements"
"""The attribute of a model class with its database and statements, which are freed with it."""


class Slot:
    """A place among a statement's values, which a call fills by this name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def slot(name: str) -> Any:
    """Return the node of a slot for a query; a call brings its value as the driver takes it."""
    return peewee.Value(Slot(name), converter=False, unpack=False)


def literal(text: str) -> peewee.SQL:
    """Return a text as a constant, by which the planner knows that a partial index applies."""
    return peewee.SQL(f"'{text}'")


ONE: Any = peewee.SQL("1")
"""The limit of a query for one row: PostgreSQL does not know a parameter when it keeps a plan."""


@dataclass(frozen=True)
class Computed:
    """A value or a condition that the database computes.

    `key` tells it from others in the cache, `build` makes its node for a model, and `parameters`
    fill its slots.
    """

    key: str
    build: Callable[[Any], Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Statement:
    """A query of one model whose SQL is built, for one database.

    Args:
        query: the query, with slots.
        fields: the fields of the rows that it returns, in order.
    """

    def __init__(self, query: Any, database: peewee.Database, fields: Sequence[Any]) -> None:
        self._database = database
        self._sql, self._values = query.bind(database).sql()
        self._names = [field.name for field in fields]
        self._readers = [
            (field.name, reader, keeps_null)
            for field in fields
            for reader, keeps_null in [_from_driver(field)]
            if reader is not None
        ]

    def rows(self, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Execute it and return its rows, by attribute."""
        return self.read(self.fetch(parameters))

    def fetch(self, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Execute it and return its rows as the driver does."""
        values = [parameters[v.name] if type(v) is Slot else v for v in self._values]
        cursor = self._database.execute_sql(self._sql, values)
        with driver_errors:
            fetched: list[tuple[Any, ...]] = cursor.fetchall()
        return fetched

    def read(self, fetched: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
        """Return the driver's rows by attribute, their values converted to Python's."""
        rows = [dict(zip(self._names, row, strict=True)) for row in fetched]
        for row in rows:
            for name, reader, keeps_null in self._readers:
                value = row[name]
                if value is not None or not keeps_null:
                    row[name] = reader(value)
        return rows


def statement_of(
    model: Any,
    key: Hashable,
    values: Mapping[str, Any],
    build: Callable[[], tuple[Any, Sequence[Any]]],
) -> Statement:
    """Return a statement of a model's binding, built at its first use.

    Args:
        model: the bound model.
        key: names the statement in the cache, together with the names of its values; None if
            it must not be cached.
        values: its values by name. A statement with an SQL expression of the caller's is not
            cached.
        build: returns its query and the fields of its rows.

    Raises:
        NotBoundError: the model has no database.
    """
    database = database_of(model)
    bound, statements = model.__dict__.get(_CACHE, (None, {}))
    if bound is not database:
        statements = {}
        setattr(model, _CACHE, (database, statements))
    names: list[Hashable] = []
    for name, value in values.items():
        if type(value) is Computed:
            names.append((name, value.key))
        elif isinstance(value, peewee.Node):
            key = None
        else:
            names.append(name)
    meta = model._meta
    # A host may move the table, add fields, and override how queries are built.
    cached_as = key and (meta.schema, meta.table_name, len(meta.fields), key, *names)
    if not builds_as_peewee(model):
        cached_as = None
    statement: Statement | None = statements.get(cached_as)
    if statement is None:
        query, fields = build()
        statement = Statement(query, database, fields)
        # Another thread may have bound the model to another database meanwhile.
        if cached_as is not None and database_of(model) is database:
            if len(statements) >= CACHE_SIZE:
                statements.clear()
            statements[cached_as] = statement  # two threads may build it at once; either will do
    return statement


def forget_statements(model: Any) -> None:
    """Empty a model's cache, because one of its fields was replaced."""
    if _CACHE in model.__dict__:
        delattr(model, _CACHE)


def parameters_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that fill the slots of a statement."""
    parameters: dict[str, Any] = {}
    for name, value in values.items():
        parameters |= value.parameters if isinstance(value, Computed) else {name: value}
    return parameters


def computed_names(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the values that the database computes."""
    return [n for n, value in values.items() if isinstance(value, (Computed, peewee.Node))]


def to_driver(field: Any) -> Callable[[Any], Any]:
    """Return the function that converts a field's value to a driver's parameter."""
    # A foreign key answers to the names of the other table's columns, so the class is asked.
    own = hasattr(type(field), "parameter")
    convert: Callable[[Any], Any] = field.parameter if own else field.db_value
    return convert


def _from_driver(field: Any) -> tuple[Callable[[Any], Any] | None, bool]:
    """Return what converts a driver's value, and whether it leaves NULL alone; a host's may not."""
    own = hasattr(type(field), "read_value")
    return (field.read_value if own else field.python_value), own


def driver_values(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as the driver takes them, except those that the database computes.

    A host's field may convert its value to an SQL expression.
    """
    fields = model._meta.fields
    return {
        name: value
        if isinstance(value, (Computed, peewee.Node))
        else to_driver(fields[name])(value)
        for name, value in values.items()
    }


def with_slots(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for a query: slots, or the nodes of what the database computes."""
    return {
        name: value.build(model)
        if isinstance(value, Computed)
        else value
        if isinstance(value, peewee.Node)
        else slot(name)
        for name, value in values.items()
    }


def builds_as_peewee(model: Any) -> bool:
    """Tell whether a host leaves Peewee's own way to build the model's queries."""
    base: Any = peewee.Model
    return (
        model.select.__func__ is base.select.__func__
        and model.update.__func__ is base.update.__func__
        and model.insert.__func__ is base.insert.__func__
    )
