"""Parse JSON lines into rows that are ready for the database. Called by the importer."""

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
"""The most bytes of a batch's lines, so that long lines do not fill the memory."""

COLUMNS: Mapping[str, Any] = ContentTable._meta.columns

_ATTRIBUTES = {field.name: column for column, field in COLUMNS.items()}


@dataclass(frozen=True)
class Refused:
    """A line that an import did not store: its number, from 1, and the reason."""

    line: int
    reason: str


@dataclass
class Batch:
    """A batch of parsed lines.

    `rows` maps ids to a line's number and its row, `size` is the bytes of all lines.
    """

    rows: dict[str, tuple[int, Row]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    size: int = 0


def batches(
    lines: Iterable[bytes], backend: Backend, user_id_type: str = "integer"
) -> Iterator[Batch]:
    """Parse JSON lines with the table's column names into batches of rows.

    Args:
        lines: lines of bytes, as for `import_lines`. A column that a line omits gets the table's
            default.
        backend: the backend that will store the rows.
        user_id_type: the type of `userId` in the database.
    """
    parser = _Parser(backend, user_id_type)
    batch = Batch()
    for number, size, record in objects(lines):
        try:
            row = record if isinstance(record, str) else parser.row(record)
        except ValidationError as error:
            row = str(by_column(error))
        count = len(batch.rows) + len(batch.refused)
        # The first row with an id must be stored before the second one is tested for a conflict.
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
    """Return the error with the column's name instead of the model's attribute."""
    attribute = re.split(r"\W", error.field, maxsplit=1)[0]
    column = _ATTRIBUTES.get(attribute, attribute)
    return ValidationError(column + error.field[len(attribute) :], error.rule, error.kind)


MAX_LINE = 64_000_000
"""The most bytes of a line. A document has at most 16 MB, unless an import allows more."""


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Read the lines of a file; a line that is too long is cut, so that it is refused."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE + 1)


def objects(lines: Iterable[bytes]) -> Iterator[tuple[int, int, dict[str, Any] | str]]:
    """Parse JSON lines in UTF-8, and skip empty lines.

    Yields:
        A line's number, its size in bytes, and its object, or the reason why it is not one.

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
        return "cannot be read as JSON: nested too deeply"
    except ValueError:  # Python limits the digits of an integer
        return "cannot be read as JSON: an integer is too long"
    if isinstance(record, dict):
        return record
    return f"content: each line must be one JSON object; got {kind_of(record)}"


class _Parser:
    def __init__(self, backend: Backend, user_id_type: str) -> None:
        user = user_field(users_model(user_id_type))
        columns = {**COLUMNS, user.column_name: user}
        self._time_text = backend.time_text
        # Plain values, because rows may come from another process through marshal, which cannot
        # encode enumerations.
        self._defaults = {
            field.column_name: getattr(default, "value", default)
            for field, default in ContentTable._meta.defaults.items()
            if not callable(default)
        }
        self._converters = [(name, self._converter(field)) for name, field in columns.items()]

    def row(self, record: Mapping[str, Any]) -> Row:
        """Return the values of a line's object in the order of the columns.

        Raises:
            ValidationError: a value is not valid; the error describes the first one.
        """
        if not record.keys() <= COLUMNS.keys():
            for column in record:
                field_of(column)
        # The rules apply to values only: a column that is null becomes NULL.
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
    """Return the field of a column.

    Raises:
        ValidationError: the table has no such column.
    """
    if column not in COLUMNS:
        if column in _ATTRIBUTES:
            rule = "a line must use the column's name"
            raise ValidationError(_ATTRIBUTES[column], rule, column)
        raise ValidationError(shortened(column), "is not a column of the table", "an unknown name")
    return COLUMNS[column]


def time_of(column: str, value: object) -> datetime:
    """Parse the ISO 8601 text of a time.

    Raises:
        ValidationError: the value is not an ISO 8601 text.
    """
    try:
        return datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        rule = "must be an ISO 8601 time, such as 2026-05-01T12:00:00Z"
        raise ValidationError(column, rule, kind_of(value)) from None
