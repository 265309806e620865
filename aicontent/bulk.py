"""Many rows at once: validated, then written in batches within one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Self

import peewee

from .documents import kind_of
from .errors import AIContentError, ValidationError
from .fields import clock
from .integrity import constraints_explained
from .writing import SET_BY_DATABASE, ValidatedModel

_BATCH = 500
"""Rows of one INSERT: 21 columns each, within SQLite's 32,766 parameters."""


class BulkModel(ValidatedModel):
    """Adds to the base of the model what takes many rows at once."""

    @classmethod
    def create_many(cls, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """Validate and insert many rows, all of them or none.

        Args:
            rows: the keyword arguments of `create`, one mapping a row; any iterable. It is
                read in batches inside the transaction: one that is slow to make its rows
                keeps others from writing to SQLite meanwhile.

        Returns:
            The ids, in the order of the rows.

        Raises:
            ValidationError, UnknownUserError, DuplicateIdError: with `row`, the number of the
                row at fault, from 1.
            NotBoundError: the model has no database.
        """
        return _create_many(cls, cls._database(), rows)

    @classmethod
    def bulk_create(cls, model_list: Iterable[Self], batch_size: int | None = None) -> None:
        """Peewee's name for inserting instances: here validated, all of them or none.

        Args:
            model_list: new instances; their times stay unset until they are loaded again.
            batch_size: accepted as Peewee does, and not needed.

        Raises:
            As `create_many`.
        """
        instances = list(model_list)
        cls.create_many(instance._with_relations() for instance in instances)
        for instance in instances:
            instance._saved(instance.__data__)

    @classmethod
    def bulk_update(
        cls, model_list: Iterable[Self], fields: Iterable[Any], batch_size: int | None = None
    ) -> int:
        """Peewee's name for updating many instances: here validated before the first is written.

        Args:
            model_list: stored instances.
            fields: fields or their names.
            batch_size: instances of one UPDATE; all of them by default.

        Returns:
            The number of rows written.

        Raises:
            ValidationError: with `row`, the number of the instance at fault, from 1.
        """
        instances = list(model_list)
        names = [cls._field(field).name for field in fields]
        for number, instance in enumerate(instances, 1):
            with _numbered(number):
                cls.check({name: instance.__data__.get(name) for name in names}, partial=True)
        written: int = super().bulk_update(  # type: ignore[no-untyped-call]
            instances, names, batch_size
        )
        return written


@contextmanager
def _numbered(number: int) -> Iterator[None]:
    """Tell in an error which of many rows it is about."""
    try:
        yield
    except AIContentError as error:
        error.row = number
        raise
    except peewee.IntegrityError as error:  # a rule of the host's own
        error.add_note(f"row {number}")
        raise


def _create_many(
    model: type[ValidatedModel], database: peewee.Database, rows: Iterable[Mapping[str, Any]]
) -> list[str]:
    ids: list[str] = []
    source = iter(rows)
    with database.atomic():
        while batch := _validated(model, islice(source, _BATCH), len(ids)):
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


def _validated(
    model: type[ValidatedModel], rows: Iterable[Mapping[str, Any]], before: int
) -> list[dict[str, Any]]:
    batch = []
    for number, row in enumerate(rows, before + 1):
        with _numbered(number):
            batch.append(validated(model, row))
    return batch


def _insert(
    model: type[ValidatedModel],
    database: peewee.Database,
    batch: list[dict[str, Any]],
    before: int,
) -> None:
    blank = dict.fromkeys(model._meta.sorted_field_names)
    blank |= dict.fromkeys(SET_BY_DATABASE, clock(database))
    rows = [blank | values for values in batch]
    try:
        with database.atomic():
            model.insert_many(rows).execute()
    except peewee.IntegrityError:
        # One by one, to learn which row it was.
        for number, row in enumerate(rows, before + 1):
            with _numbered(number), constraints_explained(database):
                model.insert(row).execute()
