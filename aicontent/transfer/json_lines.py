"""Parse JSON lines into rows that are ready for the database. Nothing is stored here."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from ..database.backend import Backend
from ..database.bulk_load import Row
from ..database.statement import to_driver
from ..errors import ArgumentError, ValidationError, kind_of, shortened
from ..fields.document import DocumentField
from ..fields.policy import decoded_text
from ..fields.scalars import UTCDateTimeField, to_utc
from ..records.insertion import BATCH
from ..table import RULES, ContentTable, user_field, users_model

_BATCH_BYTES = 1_000_000
"""Fewer rows make a batch if their lines are longer, so that memory stays bounded."""

COLUMNS: Mapping[str, Any] = ContentTable._meta.columns

_ATTRIBUTES = {field.name: column for column, field in COLUMNS.items()}


@dataclass(frozen=True)
class Refused:
    """A line that was not stored: its number, from 1, and the reason."""

    line: int
    reason: str


@dataclass
class Batch:
    """Rows by their ids, with the numbers of their lines; refused lines; the bytes of all lines."""

    rows: dict[str, tuple[int, Row]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    size: int = 0


def batches(
    lines: Iterable[bytes], backend: Backend, user_id_type: str = "integer"
) -> Iterator[Batch]:
    """Parse lines by the table's column names into rows for one kind of database.

    `user_id_type` is the type of `userId` in the database.

    Required are `id`, `userId`, `type` and `requestPayload`. Times are ISO 8601 with their zone.
    A column that a line omits gets the table's default.
    """
    parser = _Parser(backend, user_id_type)
    batch = Batch()
    for number, size, record in objects(lines):
        try:
            row = record if isinstance(record, str) else parser.row(record)
        except ValidationError as error:
            row = str(by_column(error))
        count = len(batch.rows) + len(batch.refused)
        # A second row of the same id must find the first one stored.
        is_repeated = not isinstance(row, str) and row[0] in batch.rows
        if is_repeated or count == BATCH or batch.size + size > _BATCH_BYTES:
            yield batch
            batch = Batch()
        if isinstance(row, str):
            batch.refused.append(Refused(number, row))
        else:
            batch.rows[row[0]] = number, row
        batch.size += size
    yield batch


def by_column(error: ValidationError) -> ValidationError:
    """Return an error that names the line's column instead of the model's attribute."""
    attribute = re.split(r"\W", error.field, maxsplit=1)[0]
    column = _ATTRIBUTES.get(attribute, attribute)
    return ValidationError(column + error.field[len(attribute) :], error.rule, error.kind)


MAX_LINE = 64_000_000
"""The most bytes of a line; a document has at most 16 MB, unless an import allows more."""


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Read the lines of a file; of a line that is too long, only as much as shows that."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE + 1)


def objects(lines: Iterable[bytes]) -> Iterator[tuple[int, int, dict[str, Any] | str]]:
    """Parse JSON lines in UTF-8; empty lines are skipped.

    Yields:
        A line's number, its bytes, and its object, or the reason why it has none.

    Raises:
        ArgumentError: a line is not bytes.
    """
    for number, line in enumerate(lines, 1):
        if not isinstance(line, bytes):
            raise ArgumentError(
                "lines", "must be bytes: open the file with mode 'rb'", kind_of(line)
            )
        if line and not line.isspace():
            yield number, len(line), _object(line)


def _object(line: bytes) -> dict[str, Any] | str:
    if len(line) > MAX_LINE:
        return f"must have at most {MAX_LINE:,} bytes a line"
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg}: column {error.colno}"
    except RecursionError:
        return "not JSON that can be read: nested too deeply"
    except ValueError:  # Python limits the digits of an integer
        return "not JSON that can be read: an integer is too long"
    if isinstance(record, dict):
        return record
    return f"content: must be one JSON object a line; got {kind_of(record)}"


class _Parser:
    def __init__(self, backend: Backend, user_id_type: str) -> None:
        user = user_field(users_model(user_id_type))
        columns = {**COLUMNS, user.column_name: user}
        self._time_text = backend.time_text
        # Plain values: another process may parse the lines, and marshal knows no enumerations.
        self._defaults = {
            field.column_name: getattr(default, "value", default)
            for field, default in ContentTable._meta.defaults.items()
            if not callable(default)
        }
        self._converters = [(name, self._converter(field)) for name, field in columns.items()]

    def row(self, record: Mapping[str, Any]) -> Row:
        """Return the values of a line's object in the order of the columns.

        Raises:
            ValidationError: the first rule that is broken.
        """
        if not record.keys() <= COLUMNS.keys():
            for column in record:
                field_of(column)
        # The rules are for values; a column without one becomes NULL.
        values = {column: value for column, value in record.items() if value is not None}
        for column in self._defaults.keys() - record.keys():
            values[column] = self._defaults[column]
        RULES.check(values)
        return [
            convert(values[column]) if column in values else None
            for column, convert in self._converters
        ]

    def _converter(self, field: Any) -> Callable[[Any], Any]:
        if isinstance(field, DocumentField):
            return lambda value: decoded_text(value, field.name)
        if isinstance(field, UTCDateTimeField):
            name = field.column_name
            return lambda value: self._time_text(to_utc(time_of(name, value), name))
        return to_driver(field)


def field_of(column: str) -> Any:
    """Return the model's field of a column.

    Raises:
        ValidationError: there is no such column.
    """
    if column not in COLUMNS:
        raise ValidationError(shortened(column), "is no column of the table", "an unknown name")
    return COLUMNS[column]


def time_of(column: str, value: object) -> datetime:
    """Return the time of a line's ISO 8601 text.

    Raises:
        ValidationError: it is no such text.
    """
    try:
        return datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        rule = "must be an ISO 8601 time, such as 2026-05-01T12:00:00Z"
        raise ValidationError(column, rule, kind_of(value)) from None
