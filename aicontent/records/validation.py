"""Validate rows by the rules of their columns, before they are written.

The rules are JSON Schema, as in the specification's model. fastjsonschema compiles them at the
first use rather than at import, which is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import peewee

from ..database.statement import EXPRESSIONS
from ..errors import ValidationError, kind_of
from ..fields.scalars import RuledField

if TYPE_CHECKING:
    from fastjsonschema import JsonSchemaValueException

Check = Callable[[Mapping[str, object]], object]


class Rules:
    """The rules of a table, combined from the rules of its columns.

    Args:
        fields: the table's fields.

    Raises:
        TypeError: a field has no rule.
    """

    def __init__(self, fields: Iterable[peewee.Field]) -> None:
        self._columns: dict[str, Any] = {field.column_name: field for field in fields}
        columns = self._columns.items()
        for name, field in columns:
            if not isinstance(field, RuledField):
                raise TypeError(f"column {name} has no rule: use a type of fields/")
        self.schema: dict[str, Any] = {
            # In draft 4, 1.0 is not an integer.
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "object",
            "required": [name for name, field in columns if field.is_required],
            "properties": {name: dict(field.validation_rule) for name, field in columns},
        }
        self._compiled: dict[bool, Check] = {}

    def check(
        self,
        row: Mapping[str, object],
        columns: Mapping[str, peewee.Field] | None = None,
        *,
        partial: bool = False,
    ) -> None:
        """Validate values by column name.

        Args:
            row: the values.
            columns: the fields whose names an error uses; a host may have renamed them.
            partial: whether the values are an update, in which required columns may be missing.

        Raises:
            ValidationError: a value is not valid; the error describes the first one.
        """
        if partial not in self._compiled:
            import fastjsonschema

            omitted = "required" if partial else None
            schema = {key: value for key, value in self.schema.items() if key != omitted}
            self._compiled[partial] = fastjsonschema.compile(schema, use_default=False)
        try:
            self._compiled[partial](row)
        except ValueError as raised:  # the base of fastjsonschema's error, without an import
            error: Any = raised
            missing = (name for name in self.schema["required"] if name not in row)
            column = error.path[1] if len(error.path) > 1 else next(missing)
            raise ValidationError(
                (columns or self._columns)[column].name, _rule_text(error), _kind_text(error)
            ) from None


def validate(model: Any, values: Mapping[str, Any], *, partial: bool = False) -> None:
    """Validate values by the model's JSON Schema rules; the field types check more on writing.

    Args:
        model: a `Record` with rules.
        values: the values by attribute.
        partial: whether the values are an update, in which required values may be missing and
            values may be SQL expressions.

    Raises:
        ValidationError: a value is not valid; the error describes the first one.
    """
    fields = model._meta.fields
    row = {
        fields[name].column_name: value
        for name, value in values.items()
        if not (partial and isinstance(value, EXPRESSIONS))
    }
    model._aicontent_rules.check(row, model._meta.columns, partial=partial)


def check_values(model: Any, values: Mapping[str, Any], *, partial: bool = False) -> None:
    """Check values by all rules: the model's JSON Schema rules and those of the field types.

    Args and Raises:
        As for `validate`.
    """
    validate(model, values, partial=partial)
    for name, value in values.items():
        model._meta.fields[name].db_value(value)


def _rule_text(error: JsonSchemaValueException) -> str:
    definition = error.rule_definition
    if error.rule == "required":
        return "is required"
    if "description" in error.definition:
        return str(error.definition["description"])
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
    "boolean": "True or False",
    "null": "None",
}

_RULES = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "minLength": "must have at least {} character",
    "maxLength": "must have at most {} characters",
    "pattern": "must be 64 hexadecimal digits, as aicontent.fingerprint() returns",
}


def _kind_text(error: JsonSchemaValueException) -> str:
    if error.rule == "required":
        return "nothing"
    value = error.value
    # For an enumeration, show a short value: it is most likely a mistyped name.
    if error.rule == "enum" and isinstance(value, str) and len(value) <= 40:
        return repr(value)
    return kind_of(value)
