"""Add the user to statements that find rows by id, if the table is partitioned by user.

PostgreSQL then plans and searches one partition instead of all.
"""

from typing import Any

import peewee

from ..database.availability import survived
from ..database.supported import backend_of, database_of

_FORM = "_aicontent_form"
"""The attribute of a model class with its database, its table, and whether that is partitioned."""


def is_partitioned(model: Any) -> bool:
    """Return whether the model's table is partitioned by user."""
    database = database_of(model)
    backend = backend_of(database)
    if not backend.has_partitions:
        return False
    table = model._meta.schema, model._meta.table_name
    known = model.__dict__.get(_FORM, (None, None, False))
    if known[0] is not database or known[1] != table:
        catalog = backend.catalog(database)
        answer = survived(database, lambda: catalog.is_partitioned(*table))
        if answer is None:  # the table does not exist yet, so the answer may change
            return False
        known = database, table, answer
        setattr(model, _FORM, known)
    return bool(known[2])


def key_columns(model: Any) -> list[Any]:
    """Return the columns that identify a row: the id, and the user if the table is partitioned."""
    return [model.id, model.user] if is_partitioned(model) else [model.id]


def row_key(model: Any) -> Any:
    """Return the operand to compare with a query that selects `key_columns`."""
    columns = key_columns(model)
    return columns[0] if len(columns) == 1 else peewee.Tuple(*columns)


def of_user(model: Any, user: Any) -> list[Any]:
    """Return the condition that limits a statement to a user's partition; [] on a plain table.

    `user` is a user's id, or a slot for it.
    """
    return [model.user == user] if is_partitioned(model) else []


def of_users(model: Any, users: Any) -> list[Any]:
    """Return the condition for the partitions of several users; [] on a plain table."""
    backend = backend_of(database_of(model))
    return [backend.any_of(model.user, users)] if is_partitioned(model) else []
