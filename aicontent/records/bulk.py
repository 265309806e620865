"""Many rows at once: validated, then written in batches within one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Self

import peewee

from ..database.constraints import constraints_explained
from ..errors import AIContentError, ValidationError
from ..fields.policy import kind_of
from .insertion import BATCH, Insertion, Row
from .record import ValidatedModel


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
            instance._saved(instance.__data__, {})

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


def values_of(model: type[ValidatedModel], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return all values of a new row: those given, and the model's defaults.

    Raises:
        ValidationError: a name is no attribute.
    """
    if not isinstance(row, Mapping):
        raise ValidationError("content", "must be a mapping of attributes", kind_of(row))
    # An instance would be made of the same for each row, in four times the time.
    if (
        model._is_filled_plainly()
        and all(name in model._meta.fields for name in row)
        and not any(isinstance(value, peewee.Model) for value in row.values())
    ):
        return {**model._meta.get_default_dict(), **row}
    return dict(model(**row).__data__)


def _create_many(
    model: type[ValidatedModel], database: peewee.Database, rows: Iterable[Mapping[str, Any]]
) -> list[str]:
    ids: list[str] = []
    source = iter(rows)
    insertion = Insertion(model)
    with database.atomic():
        while batch := _bound(model, insertion, islice(source, BATCH), len(ids)):
            _insert(database, insertion, batch, len(ids))
            ids += (row[0] for row in batch)
    return ids


def _bound(
    model: type[ValidatedModel],
    insertion: Insertion,
    rows: Iterable[Mapping[str, Any]],
    before: int,
) -> list[Row]:
    batch = []
    for number, row in enumerate(rows, before + 1):
        with _numbered(number):
            batch.append(insertion.bound(values_of(model, row)))
    return batch


def _insert(database: peewee.Database, insertion: Insertion, batch: list[Row], before: int) -> None:
    if insertion.goes_by_row:
        # No savepoint, for which SQLite would copy each page that changes.
        try:
            insertion.execute(batch)
        except peewee.IntegrityError:
            with _numbered(before + insertion.at + 1), constraints_explained(database):
                raise
        return
    try:
        with database.atomic():
            insertion.execute(batch)
    except peewee.IntegrityError:
        # One by one, to learn which row it was.
        for number, row in enumerate(batch, before + 1):
            with _numbered(number), constraints_explained(database):
                insertion.execute([row])
