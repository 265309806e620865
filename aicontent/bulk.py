"""Many rows at once: validated, then written in batches within one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import peewee

from .documents import kind_of
from .errors import AIContentError, ValidationError
from .integrity import constraints_explained

if TYPE_CHECKING:
    from .writing import ValidatedModel

BATCH = 500
"""Rows of one INSERT: 21 columns each, within SQLite's 32,766 parameters."""


def create_many(
    model: type[ValidatedModel], database: peewee.Database, rows: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Insert all rows or none; see `ValidatedModel.create_many`."""
    ids: list[str] = []
    source = iter(rows)
    with database.atomic():
        while batch := _validated(model, islice(source, BATCH), len(ids)):
            _insert(model, database, batch, len(ids))
            ids += (values["id"] for values in batch)
    return ids


def _validated(
    model: type[ValidatedModel], rows: Iterable[Mapping[str, Any]], before: int
) -> list[dict[str, Any]]:
    batch = []
    for number, row in enumerate(rows, before + 1):
        try:
            if not isinstance(row, Mapping):
                raise ValidationError("content", "must be a mapping of attributes", kind_of(row))
            values = model.validated_row(model(**row).__data__)
            for name, value in values.items():  # what the schema leaves to the fields
                model._meta.fields[name].db_value(value)
        except ValidationError as error:
            error.row = number
            raise
        batch.append(values)
    return batch


def _insert(
    model: type[ValidatedModel],
    database: peewee.Database,
    batch: list[dict[str, Any]],
    before: int,
) -> None:
    blank = dict.fromkeys(model._meta.sorted_field_names)
    blank |= dict.fromkeys(("created_at", "updated_at"), model.clock())
    rows = [blank | values for values in batch]
    try:
        with database.atomic():
            model.insert_many(rows).execute()
    except peewee.IntegrityError:
        # One by one, to learn which row it was.
        for number, row in enumerate(rows, before + 1):
            try:
                with constraints_explained(database):
                    model.insert(row).execute()
            except AIContentError as error:
                error.row = number
                raise
