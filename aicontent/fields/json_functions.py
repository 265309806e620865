"""Implement jsonb's order, paths, text and changes for SQLite.

SQLite calls `compare` as a collation and `run` as an SQL function. Its own JSON functions compare
text, round large numbers, and read keys with quotes differently from version to version.
"""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any

from .encoding import encode

_INDEX = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+")
_INTEGERS = range(-(2**63), 2**63)
_LARGEST_FLOAT = 1.7976931348623157e308

_exact = json.JSONDecoder(parse_float=Decimal).decode


def compare(left: str, right: str) -> int:
    """Compare two JSON texts as jsonb does.

    Null sorts before text, then numbers, booleans, arrays and objects. Text sorts by code point.
    """
    if left == right:
        return 0
    try:
        a, b = _key(left), _key(right)
        return (a > b) - (a < b)
    except (ValueError, RecursionError):  # not JSON; SQLite would take an error for "equal"
        return 1 if left > right else -1


_SHORT = 200
"""The longest text whose sort key is cached."""


def _key(text: str) -> tuple[Any, ...]:
    return _remembered_key(text) if len(text) <= _SHORT else _new_key(text)


def _new_key(text: str) -> tuple[Any, ...]:
    value: Any = _exact(text)
    return (-1,) if value == [] else _sort_key(value)  # jsonb sorts a top-level [] before null


_remembered_key = lru_cache(maxsize=1000)(_new_key)


def _sort_key(value: Any) -> tuple[Any, ...]:
    if value is None:
        return (0,)
    if isinstance(value, str):
        return (1, value)
    if isinstance(value, bool):
        return (3, value)
    if isinstance(value, list):
        return (4, len(value), *map(_sort_key, value))
    if isinstance(value, dict):
        return (5, len(value), *((name, _sort_key(value[name])) for name in _sorted(value)))
    return (2, value)


def _sorted(document: dict[str, Any]) -> list[str]:
    """Return the keys in jsonb's order: by length in bytes, then by bytes."""
    encoded = {name: name.encode("utf-8", "surrogatepass") for name in document}
    return sorted(document, key=lambda name: (len(encoded[name]), encoded[name]))


def run(operation: str, document: str | None, *arguments: str) -> Any:
    """Run one operation on a JSON text; the arguments are JSON texts too.

    The result for None, which is SQL's NULL, is None.
    """
    if document is None:
        return None
    return _OPERATIONS[operation](document, *map(json.loads, arguments))


_MISSING = object()


def _at(document: Any, path: list[Any], *, strict: bool = False) -> Any:
    for step in path:
        if isinstance(document, dict):
            document = document.get(str(step), _MISSING)
        elif isinstance(document, list):
            index = _index(step, strict=strict)
            inside = index is not None and -len(document) <= index < len(document)
            document = document[index] if inside else _MISSING
        else:
            return _MISSING
    return document


def _index(step: Any, *, strict: bool) -> Any:
    if _INDEX.fullmatch(str(step)):
        return int(step)
    if strict:
        raise ValueError(f"path element is not an integer: {step!r}")
    return None


def _get(document: str, path: list[Any]) -> str | None:
    value = _at(json.loads(document), path)
    return None if value is _MISSING else encode(value)


def _text(document: str) -> str | None:
    value = _exact(document)
    return value if value is None or isinstance(value, str) else _as_text(value)


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{_as_text(name)}: {_as_text(value[name])}" for name in _sorted(value))
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_text, value)) + "]"
    if isinstance(value, Decimal):
        return f"{value or value.copy_abs():f}"
    return json.dumps(value, ensure_ascii=False)


def _int(document: str) -> int | None:
    value = _number(document)
    # Truncating a larger Decimal could give an integer with very many digits.
    is_near = value is not None and abs(value) < 2**64
    return int(value) if is_near and int(value) in _INTEGERS else None


def _float(document: str) -> float | None:
    value = _number(document)
    return None if value is None or abs(value) > _LARGEST_FLOAT else float(value)


def _number(document: str) -> Any:
    value = _exact(document)
    is_number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    return value if is_number else None


def _has(document: str, keys: list[str], how: str) -> int:
    value = json.loads(document)
    if isinstance(value, dict):
        names = set(value)
    else:
        items = value if isinstance(value, list) else [value]
        names = {item for item in items if isinstance(item, str)}
    quantifier = any if how == "any" else all
    return int(quantifier(key in names for key in keys))


def _contains(document: str, value: Any) -> int:
    return _is_contained(_exact(json.dumps(value)), _exact(document))


def _contained_by(document: str, value: Any) -> int:
    return _is_contained(_exact(document), _exact(json.dumps(value)))


def _is_contained(part: Any, whole: Any) -> int:
    # In jsonb, a top-level array also contains its items.
    is_item = isinstance(whole, list) and not isinstance(part, (list, dict))
    return int(_is_within([part] if is_item else part, whole))


def _is_within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and _is_within(part[name], whole[name]) for name in part)
    if isinstance(part, list) and isinstance(whole, list):
        return all(any(_is_within(one, other) for other in whole) for one in part)
    is_scalar = not isinstance(part, (dict, list)) and not isinstance(whole, (dict, list))
    return is_scalar and _sort_key(part) == _sort_key(whole)


def _changed(change: Callable[[Any, list[Any], Any], Any]) -> Callable[..., str]:
    def changed(text: str, path: list[Any], value: Any = None) -> str:
        return encode(change(json.loads(text), path, value))

    return changed


def _set(document: Any, path: list[Any], value: Any, *, old: bool = True, new: bool = True) -> Any:
    *way, step = path or [None]
    parent = _at(document, way, strict=True)
    if isinstance(parent, dict) and path:
        if old if str(step) in parent else new:
            parent[str(step)] = value
    elif isinstance(parent, list) and path:
        index, size = _index(step, strict=True), len(parent)
        if not -size <= index < size:
            if new:
                parent.insert(size if index > 0 or not size else 0, value)
        elif old:
            parent[index] = value
    return document


def _append(document: Any, path: list[Any], value: Any) -> Any:
    target = _at(document, path)
    if isinstance(target, list):
        target.append(value)
    return document


def _remove(document: Any, path: list[Any], _: Any) -> Any:
    if path and _at(document, path, strict=True) is not _MISSING:
        parent = _at(document, path[:-1])
        del parent[str(path[-1]) if isinstance(parent, dict) else int(path[-1])]
    return document


def _update(document: Any, _: list[Any], value: dict[str, Any]) -> Any:
    if isinstance(document, dict):
        return document | value
    return [*(document if isinstance(document, list) else [document]), value]


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "get": _get,
    "text": _text,
    "int": _int,
    "float": _float,
    "has": _has,
    "contains": _contains,
    "contained_by": _contained_by,
    "set": _changed(_set),
    "insert": _changed(lambda *arguments: _set(*arguments, old=False)),
    "replace": _changed(lambda *arguments: _set(*arguments, new=False)),
    "append": _changed(_append),
    "remove": _changed(_remove),
    "update": _changed(_update),
}
