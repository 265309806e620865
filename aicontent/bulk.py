"""Many rows at once: validated, then written in batches within one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import peewee

from .documents import kind_of
from .errors import AIContentError, ValidationError
from .fields import clock
from .integrity import constraints_explained

if TYPE_CHECKING:
    from .writing import ValidatedModel

BATCH = 500
"""Rows of one INSERT: 21 columns each, within SQLite's 32,766 parameters."""


@contextmanager
def numbered(number: int) -> Iterator[None]:
    """Tell in an error which of many rows it is about."""
    try:
        yield
    except AIContentError as error:
        error.row = number
        raise
    except peewee.IntegrityError as error:  # a rule of the host's own
        error.add_note(f"row {number}")
        raise


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


def validated(model: type[ValidatedModel], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values to insert for one row, held to all rules.

    Raises:
        ValidationError: the first rule that is broken.
    """
    if not isinstance(row, Mapping):
        raise ValidationError("content", "must be a mapping of attributes", kind_of(row))
    values = model.insertable_values(model(**row).__data__)
    model.check(values)
    return values


def check_updates(
    model: type[ValidatedModel], instances: Iterable[ValidatedModel], names: Iterable[str]
) -> None:
    """Hold these attributes of stored instances to all rules.

    Raises:
        ValidationError: with `row`, the number of the instance at fault, from 1.
    """
    names = list(names)
    for number, instance in enumerate(instances, 1):
        with numbered(number):
            model.check({name: instance.__data__.get(name) for name in names}, partial=True)


def _validated(
    model: type[ValidatedModel], rows: Iterable[Mapping[str, Any]], before: int
) -> list[dict[str, Any]]:
    batch = []
    for number, row in enumerate(rows, before + 1):
        with numbered(number):
            batch.append(validated(model, row))
    return batch


def _insert(
    model: type[ValidatedModel],
    database: peewee.Database,
    batch: list[dict[str, Any]],
    before: int,
) -> None:
    blank = dict.fromkeys(model._meta.sorted_field_names)
    blank |= dict.fromkeys(("created_at", "updated_at"), clock(database))
    rows = [blank | values for values in batch]
    try:
        with database.atomic():
            model.insert_many(rows).execute()
    except peewee.IntegrityError:
        # One by one, to learn which row it was.
        for number, row in enumerate(rows, before + 1):
            with numbered(number), constraints_explained(database):
                model.insert(row).execute()
