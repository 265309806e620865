"""Cache the SQL of statements, so that Peewee builds each only once per binding of a model.

Peewee builds the SQL of a query in each call, which takes longer than most queries. Here a query
is built once, with slots instead of values. The class of the model has the cache, and each call
fills the slots with its parameters.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import compress
from types import MappingProxyType
from typing import Any, NamedTuple

import peewee

from .internals import driver_errors
from .supported import database_of

CACHE_SIZE = 500
"""The most cached statements per binding: each set of updated columns is another statement."""

_CACHE = "_aicontent_statements"
"""The attribute of a model class with its database and statements, so that they end with it."""


class Slot:
    """A placeholder among a statement's values, which each call fills by its name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def slot(name: str) -> Any:
    """Return a query node with a slot; its value in a call is a parameter for the driver."""
    return peewee.Value(Slot(name), converter=False, unpack=False)


def literal(text: str) -> peewee.SQL:
    """Return a text as an SQL constant, so that the planner can use a partial index.

    SQLite plans a statement again in each call if a parameter decides about a partial index, which
    takes four times as long as a look-up (c3ref/prepare.html).
    """
    return peewee.SQL(f"'{text}'")


ONE: Any = peewee.SQL("1")
"""LIMIT 1 as a constant, because a generic plan of PostgreSQL does not know a parameter."""


class Computed(NamedTuple):
    """A value or a condition that the database computes.

    `key` identifies it in the cache, `build` returns its query node for a model, and `parameters`
    fill its slots, whose names begin with a colon, so that they are not those of attributes.
    """

    key: str
    build: Callable[[Any], Any]
    parameters: Mapping[str, Any] = MappingProxyType({})


EXPRESSIONS = Computed, peewee.Node
"""The types of values that the database computes."""


class Statement:
    """The SQL of one query of a model, built for one database.

    Args:
        query: the query, with slots.
        fields: the fields of the rows that it returns, in order.
    """

    def __init__(self, query: Any, database: peewee.Database, fields: Sequence[Any]) -> None:
        self._database = database
        self._sql, self._values = query.bind(database).sql()
        self._names = [field.name for field in fields]
        readers = [(index, *_from_driver(field)) for index, field in enumerate(fields)]
        self._readers = [(i, reader) for i, reader, of_null in readers if reader and not of_null]
        self._is_document = [
            hasattr(type(field), "is_document") and field.is_document for field in fields
        ]
        self._documents = tuple(compress(self._names, self._is_document))
        self._readers_of_null = [(i, reader) for i, reader, of_null in readers if of_null]

    def rows(self, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Execute the statement and return its rows as dicts by attribute."""
        return [self.read(row) for row in self.fetch(parameters)]

    def fetch(self, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Execute the statement and return the driver's rows."""
        values = [parameters[v.name] if type(v) is Slot else v for v in self._values]
        cursor = self._database.execute_sql(self._sql, values)
        try:
            fetched: list[tuple[Any, ...]] = cursor.fetchall()
        except Exception:
            with driver_errors:  # entered only now, because it takes time without an error too
                raise
        return fetched

    def read(self, row: tuple[Any, ...]) -> dict[str, Any]:
        """Convert a row of the driver to a dict of Python values by attribute."""
        values = list(row)
        for index, reader in self._readers:
            if values[index] is not None:
                values[index] = reader(values[index])
        for index, reader in self._readers_of_null:
            values[index] = reader(values[index])
        return dict(zip(self._names, values, strict=True))

    def documents(self, row: tuple[Any, ...]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Return the attributes that are documents, and their values from the driver."""
        return self._documents, tuple(compress(row, self._is_document))


def statement_of(
    model: Any,
    key: Hashable,
    values: Mapping[str, Any],
    build: Callable[[], tuple[Any, Sequence[Any]]],
) -> Statement:
    """Return a statement from the model's cache, and build it at first use.

    Args:
        model: the bound model.
        key: the name of the statement, which identifies it in the cache together with the names
            of its values; None for a statement that must not be cached.
        values: the values by name. A statement with an SQL expression among them is not cached.
        build: a function that returns the query and the fields of its rows.

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
    # A host may rename the table, add fields, and override how queries are built.
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
            statements[cached_as] = statement  # if two threads build it, both are equal
    return statement


def forget_statements(model: Any) -> None:
    """Empty a model's statement cache, after one of its fields was replaced."""
    if _CACHE in model.__dict__:
        delattr(model, _CACHE)


def parameters_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that fill the slots of a statement."""
    parameters = dict(values)
    for name, value in values.items():
        if type(value) is Computed:
            del parameters[name]
            parameters |= value.parameters
    return parameters


def computed_names(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the values that the database computes."""
    return [n for n, value in values.items() if isinstance(value, EXPRESSIONS)]


def to_driver(field: Any) -> Callable[[Any], Any]:
    """Return the function that converts a field's value to a parameter for the driver."""
    # Look at the class, because a foreign key has the other table's columns as attributes.
    own = hasattr(type(field), "parameter")
    convert: Callable[[Any], Any] = field.parameter if own else field.db_value
    return convert


def _from_driver(field: Any) -> tuple[Any, bool]:
    """Return the conversion of a driver's value, and whether it converts NULL, as a host's may."""
    own = hasattr(type(field), "read_value")
    return (field.read_value if own else field.python_value), not own


def driver_values(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to parameters for the driver, except those that the database computes.

    A host's field may convert its value to an SQL expression.
    """
    fields = model._meta.fields
    return {
        name: value if isinstance(value, EXPRESSIONS) else to_driver(fields[name])(value)
        for name, value in values.items()
    }


def with_slots(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace values by slots for a query; a computed value becomes its query node."""
    return {
        name: value.build(model)
        if isinstance(value, Computed)
        else value
        if isinstance(value, peewee.Node)
        else slot(name)
        for name, value in values.items()
    }


def builds_as_peewee(model: Any) -> bool:
    """Return whether the model overrides none of select(), update() and insert()."""
    return (
        model.select.__func__ is _SELECT
        and model.update.__func__ is _UPDATE
        and model.insert.__func__ is _INSERT
    )


_MODEL: Any = peewee.Model
_SELECT, _UPDATE = _MODEL.select.__func__, _MODEL.update.__func__
_INSERT = _MODEL.insert.__func__
