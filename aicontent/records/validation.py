"""The specification's JSON Schema, applied to a row before it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import fastjsonschema
import peewee

from ..enums import ContentStatus, ContentType
from ..errors import ValidationError
from ..fields.policy import kind_of

MAX_INTEGER = 2**31 - 1
"""PostgreSQL's `integer`, which the specification's integer columns are."""

_COUNTER = {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_INTEGER}
_NULLABLE_OBJECT = {"type": ["object", "null"]}
_NULLABLE_ARRAY = {"type": ["array", "null"]}

SCHEMA: dict[str, Any] = {
    # Draft 4 is the one in which 1.0 is not an integer.
    "$schema": "http://json-schema.org/draft-04/schema#",
    "type": "object",
    "required": ["id", "userId", "type", "status", "requestPayload"],
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": 36},
        "userId": {"type": "integer", "minimum": -MAX_INTEGER - 1, "maximum": MAX_INTEGER},
        "type": {"type": "string", "enum": [member.value for member in ContentType]},
        "status": {"type": "string", "enum": [member.value for member in ContentStatus]},
        "requestPayload": {"type": "object"},
        "generatedData": _NULLABLE_OBJECT,
        "validationResults": _NULLABLE_OBJECT,
        "metadata": _NULLABLE_OBJECT,
        "level": {"type": ["string", "null"], "maxLength": 10},
        "topics": _NULLABLE_ARRAY,
        "focusAreas": _NULLABLE_ARRAY,
        "estimatedCompletionTime": _COUNTER,
        "validationScore": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "generationTimeMs": _COUNTER,
        "tokenUsage": _COUNTER,
        "modelUsed": {"type": ["string", "null"], "maxLength": 50},
        "usageCount": _COUNTER | {"type": "integer"},
        "fingerprint": {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
        "attempts": _COUNTER | {"type": "integer"},
    },
}
"""The schema over the row's column names, as in the specification's model. Beyond it: integers
end where the column's type ends, an id is not empty, and there are the columns that claims
need. The times are checked by their field, which knows datetimes; JSON Schema does not."""


@cache
def _compiled(*, partial: bool) -> Callable[[Mapping[str, object]], object]:
    # Compiled at the first use: an import must not pay the milliseconds it takes.
    schema = {key: SCHEMA[key] for key in SCHEMA if not (partial and key == "required")}
    check: Callable[[Mapping[str, object]], object] = fastjsonschema.compile(
        schema, use_default=False
    )
    return check


def validate_row(
    row: Mapping[str, object], columns: Mapping[str, peewee.Field], *, partial: bool = False
) -> None:
    """Hold a row to the schema.

    Args:
        row: values by column name.
        columns: the model's field of each column, for the message.
        partial: the row is an update: what it must have is not asked for.

    Raises:
        ValidationError: the first rule that is broken.
    """
    try:
        _compiled(partial=partial)(row)
    except fastjsonschema.JsonSchemaValueException as error:
        column = error.path[1] if len(error.path) > 1 else _first_missing(row)
        raise ValidationError(columns[column].name, _rule_text(error), _kind_text(error)) from None


def _first_missing(row: Mapping[str, object]) -> str:
    missing: str = next(name for name in SCHEMA["required"] if name not in row)
    return missing


def _rule_text(error: fastjsonschema.JsonSchemaValueException) -> str:
    definition = error.rule_definition
    if error.rule == "required":
        return "is required"
    if error.rule == "type":
        kinds = [definition] if isinstance(definition, str) else definition
        return "must be " + " or ".join(_PYTHON_NAMES[kind] for kind in kinds)
    if error.rule == "enum":
        return "must be one of " + ", ".join(definition)
    return _RULES[str(error.rule)].format(definition)


_PYTHON_NAMES = {
    "object": "a dict",
    "array": "a list",
    "string": "a str",
    "integer": "an int",
    "number": "a number",
    "null": "None",
}

_RULES = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "minLength": "must have at least {} character",
    "maxLength": "must have at most {} characters",
    "pattern": "must be 64 hexadecimal digits, as aicontent.fingerprint() returns",
}


def _kind_text(error: fastjsonschema.JsonSchemaValueException) -> str:
    if error.rule == "required":
        return "nothing"
    value = error.value
    # A mistyped name is the likeliest mistake there, and it is short.
    if error.rule == "enum" and isinstance(value, str) and len(value) <= 40:
        return repr(value)
    return kind_of(value)
