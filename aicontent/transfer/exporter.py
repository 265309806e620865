"""Content as JSON lines: the same bytes for the same content, from either database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import peewee
from peewee import __exception_wrapper__ as driver_errors  # type: ignore[attr-defined]

from ..binding import for_database
from ..database.among import among, parameter
from ..database.connections import connected
from ..errors import AIContentError
from ..fields.compression import decompressed
from ..fields.document import DocumentField
from ..fields.encoding import canonical
from ..fields.scalars import FractionField, UTCDateTimeField

_BATCH = 200
"""Rows that are read at once: few enough for documents of 100 KB, and no slower than more."""


def export_lines(
    database: peewee.Database,
    *,
    user: Any = None,
    type: str | None = None,
    status: str | None = None,
) -> Iterator[bytes]:
    """Read content as JSON lines, in the order of the ids.

    All is read in one transaction, so it is the content of one moment; nobody is kept from
    writing meanwhile. Call it outside any transaction, and let the thread that calls it read.

    Args:
        database: where the table is.
        user, type, status: only that user's content, only that type, only that status.

    Returns:
        An iterator over the rows, each a JSON object by the table's column names, with the end
        of its line. Times are ISO 8601 in UTC, and the keys of documents are sorted: content
        that was moved to the other kind of database comes out of it as the same bytes.

    Raises:
        ValidationError: an argument cannot be what it should be.
        AIContentError: on the way, a row that another program wrote cannot be read.
    """
    return _lines(selected(database, user, type, status))


def selected(database: peewee.Database, user: Any, type: str | None, status: str | None) -> Any:
    """Select the ids of what `export_lines` reads; it raises what that raises."""
    model: Any = for_database(database)
    given = {"user": user, "type": type, "status": status}
    wanted = {name: value for name, value in given.items() if value is not None}
    model.check(wanted, partial=True)
    query = model.select(model.id)
    for name, value in wanted.items():
        query = query.where(model._meta.fields[name] == value)
    return query


def _lines(ids: Any) -> Iterator[bytes]:
    model = ids.model
    database = model._database()
    # By bytes, whatever the collation of a PostgreSQL database.
    key = (
        peewee.NodeList((model.id, peewee.SQL('COLLATE "C"'))) if database.for_update else model.id
    )
    read = _Reader(model, key)
    with connected(database), _moment(database):
        for batch in _batches(database, ids.order_by(key)):
            yield from read(batch)


class _Reader:
    """Reads rows by their ids, by one SQL text."""

    def __init__(self, model: Any, key: Any) -> None:
        self._database = model._database()
        fields = model._meta.sorted_fields
        self._columns = [(field.column_name, _reader_of(field)) for field in fields]
        chosen = among(self._database, model.id, ())
        texts = [_text_of(self._database, field) for field in fields]
        self._sql = model.select(*texts).where(chosen).order_by(key).sql()[0]

    def __call__(self, ids: list[str]) -> Iterator[bytes]:
        id = "the first"
        try:
            with driver_errors:
                for row in self._database.execute_sql(self._sql, (parameter(self._database, ids),)):
                    id = row[0]
                    yield self._line(row)
        except (ValueError, RecursionError, peewee.DataError) as error:
            raise _unreadable(f"content {id}", error) from error
        except peewee.OperationalError as error:
            if "decode" not in str(error):
                raise
            raise _unreadable(f"the content after {id}", error) from error

    def _line(self, row: tuple[Any, ...]) -> bytes:
        values = {
            column: value if read is None or value is None else read(value)
            for (column, read), value in zip(self._columns, row, strict=True)
        }
        return canonical(values).encode() + b"\n"


def _unreadable(what: str, error: Exception) -> AIContentError:
    return AIContentError(
        f"{what} cannot be read ({error}): another program wrote it; mend or delete that row"
    )


def _text_of(database: peewee.Database, field: peewee.Field) -> Any:
    # What the driver's own decoding fails on, it does not tell the row of.
    if isinstance(field, DocumentField) and isinstance(database, peewee.PostgresqlDatabase):
        return field.cast("text")
    if isinstance(field, UTCDateTimeField) and isinstance(database, peewee.PostgresqlDatabase):
        utc = peewee.NodeList((field, peewee.SQL("AT TIME ZONE 'UTC'")))
        text = peewee.fn.to_char(utc, peewee.SQL("'YYYY-MM-DD HH24:MI:SS.US'"))
        return peewee.fn.COALESCE(text, field.cast("text"))  # of infinity, to be refused
    return field


def _reader_of(field: Any) -> Callable[[Any], Any] | None:
    if isinstance(field, DocumentField):
        return _document
    if isinstance(field, UTCDateTimeField):
        return _iso
    if isinstance(field, FractionField):
        return field.parameter  # six digits: what the column keeps
    return None


def _document(text: str | bytes) -> Any:
    return json.loads(decompressed(text) if isinstance(text, bytes) else text)


def _iso(text: str) -> str:
    return datetime.fromisoformat(text).isoformat(timespec="microseconds") + "Z"


@contextmanager
def _moment(database: peewee.Database) -> Iterator[None]:
    """A transaction that sees one moment, and keeps nobody from writing."""
    if isinstance(database, peewee.SqliteDatabase):
        with database.transaction("DEFERRED"):
            yield
        return
    with database.transaction():
        database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _batches(database: peewee.Database, ids: Any) -> Iterator[list[str]]:
    sql, values = ids.sql()
    if isinstance(database, peewee.SqliteDatabase):
        cursor = database.execute_sql(sql, values)
        while rows := cursor.fetchmany(_BATCH):
            yield [id for (id,) in rows]
        return
    # The driver would read all ids before it gave out the first.
    database.execute_sql(f"DECLARE aicontent_export NO SCROLL CURSOR FOR {sql}", values)
    fetch = f"FETCH {_BATCH} FROM aicontent_export"
    while rows := database.execute_sql(fetch).fetchall():
        yield [id for (id,) in rows]
