"""Reading content from JSON lines: a row at a time, naming the lines that hold none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aicontent import AIGeneratedContent, ValidationError
from aicontent.bulk import validated
from aicontent.documents import kind_of, shortened
from aicontent.fields import UTCDateTimeField

BATCH = 500


@dataclass(frozen=True)
class Refused:
    """A line that was not stored, and why."""

    line: int
    reason: str


def load(
    model: type[AIGeneratedContent], lines: Iterable[bytes], user: int, content_type: str
) -> tuple[int, list[Refused]]:
    """Store what the lines hold as content of one user.

    Args:
        model: the bound model.
        lines: JSON lines in UTF-8.
        user: whose content it becomes, whatever a line says.
        content_type: the type of lines that do not name one.

    Returns:
        How many lines were stored, and those that were not.
    """
    stored, refused = 0, []
    batch: list[dict[str, Any]] = []
    for number, row in _rows(lines, content_type):
        if isinstance(row, str):
            refused.append(Refused(number, row))
            continue
        row["user"] = user
        try:
            validated(model, row)
        except ValidationError as error:
            refused.append(Refused(number, str(error)))
            continue
        batch.append(row)
        if len(batch) == BATCH:
            stored += len(model.create_many(batch))
            batch.clear()
    stored += len(model.create_many(batch))
    return stored, refused


def _rows(lines: Iterable[bytes], content_type: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig"))
            yield number, _content(record, content_type)
        except UnicodeDecodeError as error:
            yield number, f"not UTF-8 at byte {error.start}"
        except json.JSONDecodeError as error:
            yield number, f"not JSON: {error.msg} at column {error.colno}"
        except ValidationError as error:
            yield number, str(error)
        except RecursionError:
            yield number, "not JSON that can be read: nested too deeply"
        except ValueError:  # Python's limit on the digits of an integer
            yield number, "not JSON that can be read: an integer is too long"


def _content(record: object, content_type: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValidationError("content", "must be one JSON object a line", kind_of(record))
    if "requestPayload" in record:
        return {"type": content_type} | _from_columns(record)
    if "instruction" in record:
        return {"type": content_type} | _from_instruction(record)
    raise ValidationError("content", "must have requestPayload or instruction", "neither")


def _from_columns(record: dict[str, Any]) -> dict[str, Any]:
    columns = AIGeneratedContent._meta.columns
    row = {}
    for column, value in record.items():
        if column not in columns:
            raise ValidationError(shortened(column), "is no column of the table", "an unknown name")
        field = columns[column]
        if isinstance(field, UTCDateTimeField) and isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                raise ValidationError(column, "must be an ISO 8601 time", "another text") from None
        row[field.name] = value
    row.pop("id", None)  # the copy is a row of its own
    return row


def _from_instruction(record: dict[str, Any]) -> dict[str, Any]:
    similarity = record.get("similarity")
    score = 1 - similarity if isinstance(similarity, (int, float)) else None
    verdict = record.get("status", "ok")
    return {
        "request_payload": {key: record[key] for key in ("instruction", "input") if key in record},
        "generated_data": {"output": record["output"]} if "output" in record else None,
        "validation_results": {"status": verdict, "similarity": similarity},
        "validation_score": score,
        "status": "completed" if verdict == "ok" else "failed",
    }
