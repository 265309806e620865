"""Export content as JSON lines. Equal content gives equal bytes from SQLite and PostgreSQL."""

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
"""Rows per read. With documents of 100 KB they take 20 MB; larger batches are no faster."""


def export_lines(
    database: peewee.Database,
    *,
    user: Any = None,
    type: ContentTypeLike | None = None,
    status: ContentStatusLike | None = None,
) -> Iterator[bytes]:
    """Export content as JSON lines, sorted by id.

    One transaction reads all rows from a consistent snapshot, and blocks no writer. Call it
    outside any transaction, and read the lines in the thread that calls it.

    Args:
        database: the database with the content table.
        user, type, status: export only content with this value of the column.

    Returns:
        An iterator over lines of bytes. Each is a JSON object with the table's column names, and
        ends with a newline. Times are ISO 8601 in UTC, and the keys of documents are sorted:
        content that was moved from SQLite to PostgreSQL or back is exported as the same bytes,
        except for the hyphens in the UUID of a user, which SQLite does not store.

    Raises:
        ValidationError: an argument is not valid for its column.
        AIContentError: a row that another program wrote cannot be read; the iterator raises it.
    """
    return _lines(selected(database, user, type, status))


def selected(database: peewee.Database, user: Any, type: str | None, status: str | None) -> Any:
    """Select the ids of the rows to export; arguments and errors are those of `export_lines`."""
    model: Any = detected_model(ContentTable, database)
    arguments = {"user": user, "type": type, "status": status}
    wanted = {name: value for name, value in arguments.items() if value is not None}
    if isinstance(user, UUID):
        user = str(user)  # SQLite stores it as text
    if user is not None:
        wanted["user"] = model._meta.fields["user"].id_of(user)
    check_values(model, wanted, partial=True)
    query = model.select(model.id)
    for name, value in wanted.items():
        query = query.where(model._meta.fields[name].in_([value, without_hyphens(value)]))
    return query


def read_newest(database: peewee.Database, number: int) -> None:
    """Read the newest rows as an export does, to check them. It may run inside a transaction.

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
    """Reads rows by their ids, with one SQL text that is built once."""

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
        """Read the rows with these ids, which are sorted by their bytes."""
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
    """Turn the errors of an unreadable row into AIContentError; `what` returns its name."""
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
        f"{what} cannot be read ({reason_of_error(error)}), because another program wrote it: "
        "repair or delete that row"
    )


def _selected_column(backend: Backend, field: peewee.Field) -> Any:
    # Selected as text, because an error while the driver decodes does not say in which row it is.
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
        return field.parameter  # rounds to the six digits that the column stores
    if isinstance(field, FlagField):
        return bool
    if isinstance(field, UserField):
        return str if isinstance(field.rel_field, peewee.UUIDField) else None
    return None


def _document(text: str | bytes) -> Any:
    return json.loads(decompressed(text) if isinstance(text, bytes) else text)


def _iso(text: str) -> str:
    return datetime.fromisoformat(text).isoformat(timespec="microseconds") + "Z"
