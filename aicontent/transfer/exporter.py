"""Export content as JSON lines: equal content gives equal bytes, from either backend."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import Any
from uuid import UUID

import peewee

from ..database.availability import connected
from ..database.backend import Backend
from ..database.constraints import reason_of_error
from ..database.internals import driver_errors
from ..database.supported import backend_of, database_of
from ..enums import ContentStatusLike, ContentTypeLike
from ..errors import AIContentError, kind_of
from ..fields.compression import decompressed
from ..fields.document import DocumentField
from ..fields.encoding import canonical
from ..fields.scalars import FlagField, FractionField, UTCDateTimeField
from ..fields.users import UserField, without_hyphens
from ..records.validation import check_values
from ..table import ContentTable, detected_model

_BATCH = 200
"""Rows that are read at once: few enough for documents of 100 KB, and no slower than more."""


def export_lines(
    database: peewee.Database,
    *,
    user: Any = None,
    type: ContentTypeLike | None = None,
    status: ContentStatusLike | None = None,
) -> Iterator[bytes]:
    """Read content as JSON lines, in the order of the ids.

    One transaction reads all of it, so it is the content of one moment; no writer is blocked
    meanwhile. Call it outside any transaction, and read the lines in the thread that calls it.

    Args:
        database: where the table is.
        user, type, status: only that user's content, only that type, only that status.

    Returns:
        An iterator over the rows, each a JSON object by the table's column names, with the end
        of its line. Times are ISO 8601 in UTC, and the keys of documents are sorted: content
        that was moved to the other kind of database is exported from it as the same bytes, except
        for the hyphens in a UUID of a user, which SQLite has not.

    Raises:
        ValidationError: an argument breaks a rule of its column.
        AIContentError: while reading, a row that another program wrote cannot be read.
    """
    return _lines(selected(database, user, type, status))


def selected(database: peewee.Database, user: Any, type: str | None, status: str | None) -> Any:
    """Select the ids that `export_lines` reads; it raises the same errors."""
    model: Any = detected_model(ContentTable, database)
    arguments = {"user": user, "type": type, "status": status}
    wanted = {name: value for name, value in arguments.items() if value is not None}
    if isinstance(user, UUID):
        user = str(user)  # a text on SQLite
    if user is not None:
        wanted["user"] = model._meta.fields["user"].id_of(user)
    check_values(model, wanted, partial=True)
    query = model.select(model.id)
    for name, value in wanted.items():
        query = query.where(model._meta.fields[name].in_([value, without_hyphens(value)]))
    return query


def read_newest(database: peewee.Database, number: int) -> None:
    """Read the newest rows as an export does, also within a transaction.

    Raises:
        AIContentError: a row cannot be read.
    """
    model: Any = detected_model(ContentTable, database)
    newest = model.select(model.id).order_by(model.created_at.desc()).limit(number)
    query = model.select(model.id).where(model.id.in_(newest))
    key = backend_of(database).bytewise(model.id)
    read, backend = _Reader(model), backend_of(database)
    is_open = backend.in_transaction(database)
    with nullcontext() if is_open else backend.snapshot(database):
        with _fault_of(lambda: "an id"):
            ids = [id for (id,) in database.execute_sql(*query.order_by(key).sql())]
        for start in range(0, len(ids), _BATCH):
            for _ in read(ids[start : start + _BATCH]):
                pass


def _lines(ids: Any) -> Iterator[bytes]:
    model = ids.model
    database = database_of(model)
    backend = backend_of(database)
    read = _Reader(model)
    with connected(database), backend.snapshot(database):
        sql, parameters = ids.order_by(backend.bytewise(model.id)).sql()
        for batch in backend.stream(database, sql, parameters, _BATCH):
            yield from read(batch)


class _Reader:
    """Reads rows by their ids, with one SQL text."""

    def __init__(self, model: Any) -> None:
        self._database = database_of(model)
        self._backend = backend_of(self._database)
        fields = model._meta.sorted_fields
        self._columns = [(field.column_name, _converter(field)) for field in fields]
        chosen = self._backend.any_of(model.id, ())
        columns = [_selected_column(self._backend, field) for field in fields]
        rows = model.select(*columns).where(chosen)
        self._sql = rows.order_by(self._backend.bytewise(model.id)).sql()[0]

    def __call__(self, ids: list[Any]) -> Iterator[bytes]:
        """Read the rows of these ids, which are in the order of their bytes."""
        for id in ids:
            if not isinstance(id, str):
                raise _unreadable("an id", TypeError(f"it is {kind_of(id)}"))
        read = 0
        with _fault_of(lambda: f"content {ids[read]}"):
            for row in self._database.execute_sql(self._sql, (self._backend.array(ids),)):
                line = self._line(row)
                read += 1
                yield line

    def _line(self, row: tuple[Any, ...]) -> bytes:
        values = {
            column: value if convert is None or value is None else convert(value)
            for (column, convert), value in zip(self._columns, row, strict=True)
        }
        return canonical(values).encode() + b"\n"


@contextmanager
def _fault_of(what: Callable[[], str]) -> Iterator[None]:
    """Raise the errors of a row that cannot be read; `what` names it."""
    try:
        with driver_errors:
            yield
    except (TypeError, ValueError, RecursionError, peewee.DataError) as error:
        raise _unreadable(what(), error) from error
    except peewee.OperationalError as error:
        if "decode" not in str(error):
            raise
        raise _unreadable(what(), error) from error


def _unreadable(what: str, error: Exception) -> AIContentError:
    return AIContentError(
        f"{what} cannot be read ({reason_of_error(error)}): another program wrote it; repair or "
        "delete that row"
    )


def _selected_column(backend: Backend, field: peewee.Field) -> Any:
    # As text, because an error in the driver's own decoding does not say which row is at fault.
    if isinstance(field, DocumentField):
        return backend.document_text(field)
    if isinstance(field, UTCDateTimeField):
        return backend.utc_text(field)
    return field


def _converter(field: Any) -> Callable[[Any], Any] | None:
    if isinstance(field, DocumentField):
        return _document
    if isinstance(field, UTCDateTimeField):
        return _iso
    if isinstance(field, FractionField):
        return field.parameter  # the six digits that the column stores
    if isinstance(field, FlagField):
        return bool
    if isinstance(field, UserField):
        return str if isinstance(field.rel_field, peewee.UUIDField) else None
    return None


def _document(text: str | bytes) -> Any:
    return json.loads(decompressed(text) if isinstance(text, bytes) else text)


def _iso(text: str) -> str:
    return datetime.fromisoformat(text).isoformat(timespec="microseconds") + "Z"
