"""Build the INSERT of many rows once, and execute it for batches of rows."""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

import peewee

from ..database.bulk_load import BulkInsert, Loader, Row
from ..database.statement import to_driver
from ..database.supported import backend_of, database_of
from ..fields.scalars import is_ours
from .instances import SET_BY_DATABASE
from .partitioning import key_columns
from .record import Record
from .validation import validate

BATCH = 500
"""The most rows of one INSERT: 24 columns each, within SQLite's 32,766 parameters."""

USER = 1
"""The position of the user in a row."""

_TWO_ROWS = re.compile(r"(?P<head>.* VALUES )(?P<row>\(.+\)), (?P=row)(?P<tail>.*)", re.DOTALL)


class Insertion:
    """An INSERT of any number of rows into the model's table.

    Args:
        model: the bound model.
        omitted: columns of a host that the rows omit, so that they get the database's defaults.
        replace: overwrite the existing row with the same id, unless it is already equal.
    """

    def __init__(
        self, model: type[Record], omitted: Collection[str] = (), *, replace: bool = False
    ) -> None:
        self._model = model
        self._database = database_of(model)
        fields = [field for field in model._meta.sorted_fields if field.name not in omitted]
        self._converters = [(field.name, to_driver(field)) for field in fields]
        self._host_fields = [i for i, field in enumerate(fields) if not is_ours(field)]
        self._insert = _bulk_insert(model, fields, replace=replace)
        self._replaces = replace
        self._loader: Loader | None = (
            None if replace else backend_of(self._database).loader(self._database, self._insert)
        )

    @property
    def row_at_fault(self) -> int | None:
        """Return the index of the row that failed, from 0; None if the loader does not know it.

        If the loader knows it, the insertion needs no savepoint, for which SQLite would copy each
        page that it changes.
        """
        return self._loader.position if self._loader else None

    def converted(self, values: Mapping[str, Any]) -> Row:
        """Validate one row's values, by attribute, and convert them to parameters for the driver.

        A missing value becomes NULL. A missing `created_at` or `updated_at` becomes the time of
        the database's clock.

        Raises:
            ValidationError: a value is not valid; the error describes the first one.
        """
        validate(self._model, values)
        return [convert(values.get(name)) for name, convert in self._converters]

    def has_expression(self, row: Row) -> bool:
        """Return whether a host's field converted its value to an SQL expression."""
        return any(isinstance(row[i], peewee.Node) for i in self._host_fields)

    def execute(self, rows: Sequence[Row]) -> list[str]:
        """Insert at most BATCH rows, and return the ids of the rows that were written.

        Raises:
            peewee.IntegrityError: the database refused a row, or a trigger or a policy suppressed
                one.
        """
        stored = self._loader.load(rows) if self._loader is not None else None
        if stored is None:
            parameters = [value for row in rows for value in row]
            cursor: Any = self._database.execute_sql(self._insert.sql(len(rows)), parameters)
            if self._replaces:
                return [row[0] for row in cursor.fetchall()]
            stored = cursor.rowcount
        if stored < len(rows):
            raise peewee.IntegrityError("a trigger or a policy of the table suppressed the row")
        return [row[0] for row in rows]


def _bulk_insert(
    model: type[Record], fields: Sequence[peewee.Field], *, replace: bool
) -> BulkInsert:
    """Let Peewee build an INSERT of two rows, and split it into reusable parts."""
    meta = model._meta
    backend = backend_of(database_of(model))
    row: dict[str, Any] = dict.fromkeys(field.name for field in fields)
    now = backend.clock()
    row |= {name: peewee.fn.COALESCE(peewee.Value(None), now) for name in SET_BY_DATABASE}
    query: Any = model.insert_many([row, row]).returning()
    if replace:
        conflict = _replacing(model, now, backend.distinct_from)
        query = query.on_conflict(**conflict).returning(meta.primary_key)
    parts = _TWO_ROWS.fullmatch(query.sql()[0])
    assert parts is not None  # noqa: S101 - for mypy
    return BulkInsert(
        table=".".join(f'"{name}"' for name in (meta.schema, meta.table_name) if name),
        columns=[field.column_name for field in fields],
        clock_columns=[i for i, field in enumerate(fields) if field.name in SET_BY_DATABASE],
        **parts.groupdict(),
    )


def _replacing(model: type[Record], now: peewee.SQL, distinct_from: str) -> dict[str, Any]:
    key, fields = model._meta.primary_key, model._meta.sorted_fields
    # The trigger sets updatedAt. createdAt is not changed if the new row has none.
    new = {
        field: getattr(peewee.EXCLUDED, field.column_name)
        for field in fields
        if field is not key and field.name != "updated_at"
    }
    attempts = model._meta.fields["attempts"]
    fewer = new[attempts] < attempts
    new[attempts] = peewee.Case(None, [(fewer, attempts)], new[attempts])
    created = model._meta.fields["created_at"]
    new[created] = peewee.Case(None, [(new[created] == now, created)], new[created])
    changed = (
        # Documents are compared as text, because in jsonb 1 and 1.0 are equal.
        peewee.Expression(field.cast("text"), distinct_from, peewee.Cast(value, "text"))
        if isinstance(field, peewee.JSONField)
        else peewee.Expression(field, distinct_from, value)
        for field, value in new.items()
    )
    # The WHERE skips rows that are already equal.
    return {"conflict_target": key_columns(model), "update": new, "where": reduce(or_, changed)}
