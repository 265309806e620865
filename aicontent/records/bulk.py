"""Insert and update many rows: validated, in batches, in one transaction."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby, islice
from typing import Any, TypeVar

import peewee

from ..database.bulk_load import Row
from ..database.internals import data_with_relations
from ..database.statement import driver_values
from ..database.supported import backend_of, database_of
from ..errors import AIContentError, ValidationError, check_number, kind_of
from ..fields.scalars import is_ours
from .insertion import BATCH, USER, Insertion
from .instances import check_selected, check_times, field_named, mark_saved, stored_user
from .loading import is_plain
from .partitioning import of_users
from .record import Record, insert
from .validation import check_values

S = TypeVar("S")
T = TypeVar("T")

_UPDATE_BATCH = 200
"""Rows per UPDATE: the database searches its CASE for each row, which takes quadratic time."""


def create_many(model: type[Record], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Validate and insert many rows; see `AIGeneratedContent.create_many`."""
    database = database_of(model)
    ids: list[str] = []
    source = iter(rows)
    hosts = [field.name for field in model._meta.sorted_fields if not is_ours(field)]
    insertions: dict[tuple[str, ...], Insertion] = {}

    def omitted(values: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(name for name in hosts if name not in values)

    with backend_of(database).atomic(database):
        while batch := _each(islice(source, BATCH), len(ids), partial(values_of, model)):
            # Rows that omit the same columns, which get the database's defaults, share an INSERT.
            for names, group in groupby(batch, omitted):
                if names not in insertions:
                    insertions[names] = Insertion(model, names)
                ids += _insert(model, insertions[names], list(group), len(ids))
    return ids


def bulk_update(
    model: type[Record], contents: Sequence[Record], fields: Iterable[Any], batch_size: int | None
) -> int:
    """Update some attributes of many instances; see `AIGeneratedContent.bulk_update`."""
    size = _UPDATE_BATCH if batch_size is None else batch_size
    check_number(size, "batch_size", 1)
    names = [field_named(model, field).name for field in fields]
    _each(contents, 0, lambda content: _check_update(model, content, names))
    if not names:
        return 0
    database = database_of(model)
    written = 0
    computed = {n for c in contents for n in names if isinstance(c.__data__.get(n), peewee.Node)}
    read = [field_named(model, name) for name in ("id", "updated_at", *computed)]
    stored: dict[Any, Record] = {}
    with backend_of(database).atomic(database):
        for first in range(0, len(contents), size):
            batch = contents[first : first + size]
            written += _update(model, batch, names, first)
            chosen = read[0].in_([content._pk for content in batch])
            stored |= {row._pk: row for row in model.select(*read).where(chosen)}
    for content in contents:
        row = stored.get(content._pk)
        if row is not None:  # None if the row was deleted
            content.__data__ |= {n: v for n, v in row.__data__.items() if n in content.__data__}
            mark_saved(content, names, {})
    return written


def _check_update(model: type[Record], content: Record, names: Sequence[str]) -> None:
    data = data_with_relations(content)
    if content.is_new:
        raise ValidationError("id", "must be of a stored row: call save() first", "a new instance")
    check_selected(content, "id", *names)
    values = {name: data.get(name) for name in names}
    check_times(values)
    check_values(model, values, partial=True)


def _update(model: type[Record], batch: Sequence[Record], names: Sequence[str], before: int) -> int:
    """Write a batch with one statement."""
    database = database_of(model)
    backend = backend_of(database)

    fields, key = [field_named(model, name) for name in names], field_named(model, "id")

    def update(batch: Sequence[Record]) -> int:
        changes = {field: _case(field, key, batch) for field in fields}
        users = {stored_user(each) for each in batch}
        chosen = [key.in_([each._pk for each in batch])]
        if None not in users:
            chosen += of_users(model, users)
        return int(model.update(changes).where(*chosen).execute())

    try:
        with backend.statement_savepoint(database):
            return update(batch)
    except peewee.IntegrityError:
        # Update the rows one by one, to find the row that fails.
        for number, content in enumerate(batch, before + 1):
            with _numbered(number):
                user = driver_values(model, {"user": content.__data__.get("user")})["user"]
                with backend.constraints_explained(database, user):
                    update([content])
        raise


def _case(field: Any, key: peewee.Field, batch: Sequence[Any]) -> Any:
    """Return a CASE with the value of each instance by its id; None if all values are None.

    PostgreSQL would give a CASE of NULLs the type text.
    """
    values = [getattr(content, field.safe_name) for content in batch]
    if all(value is None for value in values):
        return None
    values = [v if isinstance(v, peewee.Node) else field.case_value(v) for v in values]
    ids = [key.to_value(content._pk) for content in batch]
    return peewee.Case(key, list(zip(ids, values, strict=True)))


def values_of(model: type[Record], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a new row: the mapping, and defaults for missing attributes.

    Raises:
        ValidationError: a key of the mapping is not an attribute of the model.
    """
    if not isinstance(row, Mapping):
        raise ValidationError("content", "must be a mapping of attributes", kind_of(row))
    # Creating an instance gives the same values, but takes four times as long.
    if (
        is_plain(model)
        and all(name in model._meta.fields for name in row)
        and not any(isinstance(value, peewee.Model) for value in row.values())
    ):
        return {**model._meta.get_default_dict(), **row}
    return dict(model(**row).__data__)


@contextmanager
def _numbered(number: int) -> Iterator[None]:
    """Add the number of the row to an error."""
    try:
        yield
    except AIContentError as error:
        error.row = number
        raise
    except peewee.IntegrityError as error:  # from a constraint that a host has added
        error.add_note(f"row {number}")
        raise


def _each(rows: Iterable[S], before: int, call: Callable[[S], T]) -> list[T]:
    """Call a function with each row; `before` is the number of rows in earlier batches."""
    results = []
    for number, row in enumerate(rows, before + 1):
        with _numbered(number):
            results.append(call(row))
    return results


def _insert(
    model: type[Record], insertion: Insertion, batch: list[dict[str, Any]], before: int
) -> list[str]:
    """Insert rows with the same columns, and return their ids."""
    rows = _each(batch, before, insertion.converted)
    if any(map(insertion.has_expression, rows)):
        _each(batch, before, lambda values: insert(model(**values)))
    else:
        _execute(database_of(model), insertion, rows, before)
    return [row[0] for row in rows]


def _execute(
    database: peewee.Database, insertion: Insertion, batch: list[Row], before: int
) -> None:
    backend = backend_of(database)
    if insertion.row_at_fault is not None:
        try:
            insertion.execute(batch)
        except peewee.IntegrityError:
            place = insertion.row_at_fault
            user = batch[place][USER]
            with _numbered(before + place + 1), backend.constraints_explained(database, user):
                raise
        return
    try:
        with backend.atomic(database):
            insertion.execute(batch)
    except peewee.IntegrityError:
        # Insert the rows one by one, to find the row that fails.
        for number, row in enumerate(batch, before + 1):
            with _numbered(number), backend.constraints_explained(database, row[USER]):
                insertion.execute([row])
