"""Create model instances from database rows, faster than Peewee's constructor does."""

from collections.abc import Iterable, Sequence
from typing import Any

import peewee

from ..database.internals import LOADED
from ..database.statement import Statement
from ..database.supported import backend_of, database_of
from ..fields.document import DocumentAccessor, selected_as_text
from ..fields.users import UserAccessor
from .record import R, Record


def load(model: type[R], rows: Iterable[dict[str, Any]]) -> list[R]:
    """Return rows as model instances, as Peewee would."""
    if not is_plain(model):
        instances = [model(**LOADED, **row) for row in rows]
        for instance in instances:
            instance._dirty.clear()
        return instances
    instances = []
    for row in rows:
        instance = model.__new__(model)
        instance.__data__, instance.__rel__ = row, {}
        instance._dirty, instance._document_texts, instance.is_new = set(), {}, False
        instances.append(instance)
    return instances


def columns_of(model: type[Record]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return what a statement selects to load a model's rows, and the fields that read it."""
    backend = backend_of(database_of(model))
    fields = model._meta.sorted_fields
    columns, readers = zip(*(selected_as_text(backend, field) for field in fields), strict=True)
    return columns, readers


def load_rows(model: type[R], statement: Statement, rows: list[tuple[Any, ...]]) -> list[R]:
    """Return the rows of a statement that selects `columns_of` as model instances."""
    instances = load(model, statement.read(rows))
    if is_plain(model):  # a host's constructor may have changed the documents
        for instance, row in zip(instances, rows, strict=True):
            instance._stored_texts = statement.documents(row)
    return instances


def is_plain(model: type[Record]) -> bool:
    """Return whether a host overrides neither the constructor nor an attribute's accessor."""
    if model.__init__ is not Record.__init__:
        return False
    # Called for each row, so the result is cached until a host adds a field.
    number, is_known = model.__dict__.get(_KNOWN, (0, False))
    if number != len(model._meta.fields):
        fields = model._meta.sorted_fields
        is_known = all(field.accessor_class in _ACCESSORS for field in fields)
        setattr(model, _KNOWN, (len(fields), is_known))
    return bool(is_known)


_ACCESSORS = {peewee.FieldAccessor, UserAccessor, DocumentAccessor}

_KNOWN = "_aicontent_has_known_accessors"
