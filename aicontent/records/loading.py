"""Create model instances from database rows, faster than Peewee's constructor does."""

from collections.abc import Sequence
from typing import Any

import peewee

from ..database.internals import LOADED
from ..database.statement import Statement
from ..database.supported import backend_of, database_of
from ..fields.document import DocumentAccessor, selected_as_text
from ..fields.users import UserAccessor
from .record import R, Record


def load(model: type[R], row: dict[str, Any]) -> R:
    """Return a model instance with the values of a row, as Peewee would; it takes the dict over."""
    instance: Any
    if is_plain(model):
        instance = model.__new__(model)
        instance.__data__, instance.__rel__ = row, {}
        instance._dirty, instance._document_texts, instance.is_new = set(), {}, False
    else:
        instance = model(**LOADED, **row)
        instance._dirty.clear()
    loaded: R = instance
    return loaded


def columns_of(model: type[Record]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return what a statement selects to load a model's rows, and the fields that read it."""
    backend = backend_of(database_of(model))
    fields = model._meta.sorted_fields
    columns, readers = zip(*(selected_as_text(backend, field) for field in fields), strict=True)
    return columns, readers


def load_row(model: type[R], statement: Statement, row: tuple[Any, ...]) -> R:
    """Return a row of a statement that selects `columns_of` as a model instance."""
    instance = load(model, statement.read(row))
    if is_plain(model):  # a host's constructor may have changed the documents
        instance._stored_texts = statement.documents(row)
    return instance


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
