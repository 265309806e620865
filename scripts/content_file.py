"""Reading content from JSON lines: a row at a time, naming the lines that hold none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aicontent import AIGeneratedContent, ValidationError
from aicontent.fields.scalars import UTCDateTimeField
from aicontent.records.bulk import values_of
from aicontent.records.insertion import BATCH
from aicontent.transfer.json_lines import Refused, field_of, objects, time_of


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
    for number, _, found in objects(lines):
        if isinstance(found, str):
            refused.append(Refused(number, found))
            continue
        try:
            row = {"type": content_type} | _content(found) | {"user": user}
            model.check(values_of(model, row))
        except ValidationError as error:
            refused.append(Refused(number, str(error)))
            continue
        batch.append(row)
        if len(batch) == BATCH:
            stored += len(model.create_many(batch))
            batch.clear()
    stored += len(model.create_many(batch))
    return stored, refused


def _content(record: dict[str, Any]) -> dict[str, Any]:
    if "requestPayload" in record:
        return _from_columns(record)
    if "instruction" in record:
        return _from_instruction(record)
    raise ValidationError("content", "must have requestPayload or instruction", "neither")


def _from_columns(record: dict[str, Any]) -> dict[str, Any]:
    row = {}
    for column, value in record.items():
        field = field_of(column)
        is_time = isinstance(field, UTCDateTimeField) and value is not None
        row[field.name] = time_of(column, value) if is_time else value
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
