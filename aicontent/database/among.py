"""A condition on many values that is one parameter, so that its SQL text stays the same."""

from __future__ import annotations

import json
from collections.abc import Iterable

import peewee


def among(
    database: peewee.Database, column: peewee.Node, values: Iterable[int | str]
) -> peewee.NodeList:
    """Return the condition that a column has one of the values."""
    postgresql = isinstance(database, peewee.PostgresqlDatabase)
    sql = "= ANY(%s)" if postgresql else "IN (SELECT value FROM json_each(?))"
    return peewee.NodeList((column, peewee.SQL(sql, (parameter(database, values),))))


def parameter(database: peewee.Database, values: Iterable[int | str]) -> list[int | str] | str:
    """Return the values as that one parameter."""
    postgresql = isinstance(database, peewee.PostgresqlDatabase)
    return list(values) if postgresql else json.dumps(list(values))
