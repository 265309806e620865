"""Content as JSON lines: what they hold, made ready for the database. Nothing is stored here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..enums import ContentStatus
from ..errors import ValidationError
from ..fields.document import DocumentField
from ..fields.policy import decoded_text, kind_of, shortened
from ..fields.scalars import UTCDateTimeField, to_utc
from ..model import AIGeneratedContent
from ..records.insertion import BATCH, Row
from ..records.statements import to_driver
from ..records.validation import validate_row

_BATCH_BYTES = 1_000_000
"""Of longer lines fewer make a batch, so that memory stays bounded."""

COLUMNS = AIGeneratedContent._meta.columns


@dataclass(frozen=True)
class Refused:
    """A line that was not stored: its number, from 1, and why."""

    line: int
    reason: str


@dataclass
class Batch:
    """Rows by their ids, with the numbers of their lines; the lines between that hold none; and
    the bytes of them all."""

    rows: dict[str, tuple[int, Row]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    size: int = 0


def batches(lines: Iterable[bytes], *, for_sqlite: bool) -> Iterator[Batch]:
    """Read lines by the table's column names into rows for one kind of database.

    The fields required are `id`, `userId`, `type` and `requestPayload`; times are ISO 8601 with
    their zone; what else a line leaves out gets the table's default.
    """
    reader = _Reader(for_sqlite)
    batch = Batch()
    for number, size, found in objects(lines):
        try:
            row = found if isinstance(found, str) else reader.row(found)
        except ValidationError as error:
            row = str(by_column(error))
        count = len(batch.rows) + len(batch.refused)
        # The second row of an id is to find the first one stored.
        again = not isinstance(row, str) and row[0] in batch.rows
        if again or count == BATCH or batch.size + size > _BATCH_BYTES:
            yield batch
            batch = Batch()
        if isinstance(row, str):
            batch.refused.append(Refused(number, row))
        else:
            batch.rows[row[0]] = number, row
        batch.size += size
    yield batch


def by_column(error: ValidationError) -> ValidationError:
    """Name what a line has: columns, not the model's attributes."""
    name = re.match(r"\w*", error.field)
    attribute = name[0] if name else ""
    column = _COLUMN_OF.get(attribute, attribute)
    return ValidationError(column + error.field[len(attribute) :], error.rule, error.kind)


_COLUMN_OF = {field.name: column for column, field in COLUMNS.items()}


def objects(lines: Iterable[bytes]) -> Iterator[tuple[int, int, dict[str, Any] | str]]:
    """Read JSON lines in UTF-8; empty ones are passed over.

    Yields:
        A line's number, its bytes, and its object, or the reason why it has none.
    """
    for number, line in enumerate(lines, 1):
        if line and not line.isspace():
            yield number, len(line), _object(line)


def _object(line: bytes) -> dict[str, Any] | str:
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg}: column {error.colno}"
    except RecursionError:
        return "not JSON that can be read: nested too deeply"
    except ValueError:  # Python's limit on the digits of an integer
        return "not JSON that can be read: an integer is too long"
    if isinstance(found, dict):
        return found
    return f"content: must be one JSON object a line; got {kind_of(found)}"


class _Reader:
    def __init__(self, for_sqlite: bool) -> None:
        self._zone = "" if for_sqlite else "+00"
        self._defaults = {"status": ContentStatus.PENDING.value, "usageCount": 0, "attempts": 0}
        self._parameters = [(name, self._parameter(field)) for name, field in COLUMNS.items()]

    def row(self, record: Mapping[str, Any]) -> Row:
        """Return the values of a line's object in the order of the columns.

        Raises:
            ValidationError: the first rule that is broken.
        """
        if not record.keys() <= COLUMNS.keys():
            for column in record:
                field_of(column)
        # The rules are for values; NULL is what a column is without one.
        values = {column: value for column, value in record.items() if value is not None}
        for column in self._defaults.keys() - record.keys():
            values[column] = self._defaults[column]
        validate_row(values, COLUMNS)
        return [
            parameter(values[column]) if column in values else None
            for column, parameter in self._parameters
        ]

    def _parameter(self, field: Any) -> Callable[[Any], Any]:
        if isinstance(field, DocumentField):
            return lambda value: decoded_text(value, field.name)
        if isinstance(field, UTCDateTimeField):
            return lambda value: self._time(field.column_name, value)
        return to_driver(field)

    def _time(self, column: str, value: object) -> str:
        moment = to_utc(time_of(column, value), column)
        return moment.replace(tzinfo=None).isoformat(" ", "microseconds") + self._zone


def field_of(column: str) -> Any:
    """Return the model's field of a column.

    Raises:
        ValidationError: there is no such column.
    """
    if column not in COLUMNS:
        raise ValidationError(shortened(column), "is no column of the table", "an unknown name")
    return COLUMNS[column]


def time_of(column: str, value: object) -> datetime:
    """Return the time that a line gives as text.

    Raises:
        ValidationError: it is no ISO 8601 text.
    """
    try:
        return datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        rule = "must be an ISO 8601 time, such as 2026-05-01T12:00:00Z"
        raise ValidationError(column, rule, kind_of(value)) from None
