"""Convert objects of model clients to JSON types. docs/explanation/claims.md has the rules."""

import dataclasses
import numbers
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from ..errors import ValidationError, kind_of
from .policy import MAX_DEPTH


def as_json(value: Any, field: str) -> Any:
    """Convert a value to JSON types; parts of unknown types stay, and `policy` refuses them later.

    Args:
        value: any value.
        field: the name of the attribute, for the error message.

    Raises:
        ValidationError: the value is nested too deeply, two of its keys convert to the same text,
            or one of its methods fails.
    """
    try:
        return _converted(value, field, 0)
    except ValidationError:
        raise
    except Exception as error:  # a method of the caller's object, such as model_dump(), failed
        rule = f"must be JSON, but converting it failed with {type(error).__name__}"
        raise ValidationError(field, rule, kind_of(value)) from error


def _converted(value: Any, field: str, depth: int) -> Any:
    if type(value) in _SAME:
        return value
    if depth > MAX_DEPTH:  # also ends cycles
        rule = f"must be nested at most {MAX_DEPTH} levels deep"
        raise ValidationError(field, rule, "a deeper document")
    if isinstance(value, Mapping):
        converted = {_key(k, field): _converted(v, field, depth + 1) for k, v in value.items()}
        if len(converted) < len(value):
            raise ValidationError(field, "must have keys that differ as text", kind_of(value))
        return converted
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_converted(item, field, depth + 1) for item in value]
    plain = _plain(value)
    return value if plain is value else _converted(plain, field, depth + 1)


_SAME = {str, int, float, bool, type(None)}


def _plain(value: Any) -> Any:
    """Convert a value one step towards JSON types, or return it unchanged."""
    if isinstance(value, type):
        return value
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "model_dump"):  # pydantic models, which most model clients return
        try:
            return value.model_dump(mode="json")
        except TypeError:  # another library's model_dump() has no argument `mode`
            return value.model_dump()
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and similar libraries
        return value.tolist()
    if isinstance(value, Decimal):
        is_whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if is_whole and abs(value.adjusted()) < 100 else float(value)
    if isinstance(value, numbers.Number) and not isinstance(value, (int, float)):
        if isinstance(value, numbers.Integral):
            return int(value)
        return float(value) if isinstance(value, numbers.Real) else value
    return value


def _key(key: Any, field: str) -> Any:
    plain = key if isinstance(key, (str, tuple)) else _converted(key, field, MAX_DEPTH)
    if isinstance(plain, bool):
        return str(plain).lower()
    return str(plain) if isinstance(plain, int) else plain
