"""Read and change the state of a model instance. Called by modules that write or load rows."""

from collections.abc import Iterable, Mapping
from typing import Any

import peewee

from ..database.statement import to_driver
from ..errors import ContentGoneError, ValidationError, shortened
from ..fields.document import DocumentField
from ..fields.encoding import snapshot
from .partitioning import is_partitioned

SET_BY_DATABASE = ("created_at", "updated_at")
"""The times that the database sets in a new row, so that all writers use one clock."""


def stored_user(content: Any) -> Any:
    """Return the user whose partition has the row; None on a plain table, or if it is unknown."""
    model = type(content)
    if "user" in content._dirty or not is_partitioned(model):
        return None
    return to_driver(model._meta.fields["user"])(content.__data__.get("user"))


def mark_saved(content: Any, names: Iterable[str], written: Mapping[str, Any]) -> None:
    """Mark attributes as stored; `written` has the texts of their documents."""
    content.is_new = False
    content._dirty.difference_update(names)
    for name in names:
        value = content.__data__.get(name)
        if isinstance(value, (dict, list)):
            is_document = isinstance(content._meta.fields[name], DocumentField)
            text = written.get(name) if is_document else None
            content._document_texts[name] = text if isinstance(text, str) else snapshot(value)
        else:
            content._document_texts.pop(name, None)


def check_selected(content: Any, *names: str) -> None:
    """Check that the query of an instance selected these attributes.

    Raises:
        ValidationError: the query did not select one of them, so its value is unknown.
    """
    for name in names:
        if name not in content.__data__ and content._is_selected:
            raise ValidationError(name, "must be selected by the query for this call", "nothing")


def check_times(changes: Mapping[str, Any]) -> None:
    """Check that an update does not set `created_at` or `updated_at` to None.

    Raises:
        ValidationError: one of them is None.
    """
    for name in SET_BY_DATABASE:
        if changes.get(name, name) is None:
            raise ValidationError(name, "must be a time in a stored row", "None")


def gone(content: Any) -> ContentGoneError:
    """Return the error for a row that was deleted meanwhile."""
    return ContentGoneError(f"content {content._pk} was deleted; nothing was written")


def field_named(model: Any, name: peewee.Field | str) -> peewee.Field:
    """Return the model's field by its name, or by the same field of another class or an alias.

    Raises:
        ValidationError: the model has no such attribute.
    """
    name = name.name if isinstance(name, peewee.Field) else name
    field = getattr(model, name, None)
    if not isinstance(field, peewee.Field):
        known = ", ".join(model._meta.sorted_field_names)
        rule = f"is not an attribute; the attributes are {known}"
        raise ValidationError(shortened(str(name)), rule, "an unknown name")
    return field
