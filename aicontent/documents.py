"""One policy for JSON documents, whichever database they go to.

SQLite stores nearly any text; PostgreSQL's jsonb does not, and keeps numbers as exact
decimals. What either of them would refuse or change is refused here, before a driver sees it,
so that every accepted document reads back equal from both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal

from .errors import ValidationError

MAX_DEPTH = 200
"""Levels of nesting. Python's own decoder stops near 1,000 less the caller's stack, SQLite's
JSON functions at 1,000; 200 is far beyond real content and safe under any web framework."""

MAX_INT_DIGITS = 4300
"""Digits of an integer: the length at which Python itself refuses to write or read one."""

_INT_LIMIT = 10**MAX_INT_DIGITS
_SHOWN = 40


def kind_of(value: object) -> str:
    """Describe a value for an error message without repeating it."""
    name = type(value).__name__
    if isinstance(value, str):
        return f"{name} of {_counted(len(value), 'character')}"
    if isinstance(value, (dict, list, tuple, set)):
        return f"{name} of {_counted(len(value), 'item')}"
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63):
        return f"{name} {value!r}"
    return name


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shortened(text: str) -> str:
    """Return a name or a path that fits a message: of a long one, its two ends."""
    return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}…{text[-_SHOWN:]}"


def check_text(text: str, field: str) -> None:
    """Refuse a string that PostgreSQL cannot hold.

    Raises:
        ValidationError: it has a NUL character (jsonb and text reject U+0000) or a lone
            surrogate (not encodable as UTF-8).
    """
    if "\0" in text:
        place = text.index("\0")
        raise ValidationError(
            field, "must not contain NUL (U+0000): remove it", f"one at character {place}"
        )
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(
            field,
            "must be valid Unicode: decode it anew or replace lone surrogates",
            f"U+{ord(text[error.start]):04X} at character {error.start}",
        ) from None


def check_document(document: object, field: str) -> None:
    """Refuse a document that one of the backends would reject or change.

    Args:
        document: what is to be stored: dicts with string keys, lists, strings, finite numbers,
            booleans and None.
        field: the attribute it belongs to, for the message.

    Raises:
        ValidationError: with the path to the place, such as `generated_data.steps[2].text`.
    """
    try:
        _check(document, 0)
    except ValidationError as error:
        raise ValidationError(shortened(field + error.field), error.rule, error.kind) from None


def decoded_text(document: object, field: str) -> str:
    """Check and encode a document that a JSON decoder made: one that holds nothing but JSON's
    types, so that the text tells what else there is to check, in a third of the time.

    Raises:
        ValidationError: as `check_document`.
    """
    try:
        text = encode(document)
        text.isascii() or text.encode()
    except (ValueError, RecursionError):
        check_document(document, field)  # which tells the place
        raise
    # Each level takes two characters.
    deep = len(text) > 2 * MAX_DEPTH and text.count("{") + text.count("[") >= MAX_DEPTH
    if deep or "\\u0000" in text:
        check_document(document, field)  # it may be sound
    return text


def _check(value: object, depth: int) -> None:
    # Each level prepends its own step to the path only when an error passes through it.
    if isinstance(value, str):
        check_text(value, "")
    elif isinstance(value, dict):
        _check_depth(depth)
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValidationError("", "must have strings as keys", f"a key {kind_of(key)}")
            try:
                check_text(key, "")
                _check(item, depth + 1)
            except ValidationError as error:
                shown = shortened(key)
                step = f".{shown}" if shown.isidentifier() else f"[{shown!r}]"
                raise ValidationError(step + error.field, error.rule, error.kind) from None
    elif isinstance(value, list):
        _check_depth(depth)
        for index, item in enumerate(value):
            try:
                _check(item, depth + 1)
            except ValidationError as error:
                raise ValidationError(f"[{index}]{error.field}", error.rule, error.kind) from None
    elif value is None or isinstance(value, bool):
        pass
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValidationError("", "must be a finite number: JSON has no other", kind_of(value))
    elif isinstance(value, int):
        if not -_INT_LIMIT < value < _INT_LIMIT:
            raise ValidationError(
                "", f"must have at most {MAX_INT_DIGITS} digits", "a longer integer"
            )
    else:
        raise ValidationError(
            "",
            "must be JSON: dict, list, str, int, float, bool or None",
            kind_of(value),
        )


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise ValidationError(
            "", f"must be nested at most {MAX_DEPTH} levels deep", "a deeper document"
        )


def snapshot(document: object) -> str | None:
    """Return a text that tells whether a document was changed since, whatever was put in."""
    try:
        return repr(document)
    except (RecursionError, ValueError):  # nested too deep, or an integer too long, to be stored
        return None


def encode(document: object) -> str:
    """Write a checked document as compact JSON text that both backends keep exactly.

    jsonb keeps 1e+23 as the integer 100000000000000000000000, which is not equal to the float;
    written out with a fractional part it stays that float. Python writes an exponent with a
    plus sign only for floats of 1e16 and more, so the slow way is taken only for those (and for
    the rare text that contains "e+").
    """
    text = _dumps(document)
    return _encode_slowly(document) if "e+" in text else text


def canonical(document: object) -> str:
    """Write what was read from either backend as the same text: the keys sorted, as jsonb does
    not keep their order, and no negative zero, as it has none.

    Raises:
        ValueError: it holds a number that JSON has not.
    """
    text = _dumps_sorted(document)
    return _encode_slowly(document, sort=True) if "e+" in text or "-0.0" in text else text


def _encoder(*, sort_keys: bool) -> Callable[[object], str]:
    encoder = json.JSONEncoder(
        ensure_ascii=False,
        # What is encoded is checked for its depth, or came out of a decoder: it has no cycles.
        check_circular=False,
        allow_nan=False,
        sort_keys=sort_keys,
        separators=(",", ":"),
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    # What encode() makes anew at each call, for small documents a third of its time.
    quote = json.encoder.encode_basestring
    write = make(None, encoder.default, quote, None, ":", ",", sort_keys, False, False)
    return lambda document: "".join(write(document, 0))


_dumps = _encoder(sort_keys=False)
_dumps_sorted = _encoder(sort_keys=True)


def _encode_slowly(value: object, *, sort: bool = False) -> str:
    if isinstance(value, dict):
        items = sorted(value.items()) if sort else value.items()
        pairs = (f"{_dumps(key)}:{_encode_slowly(item, sort=sort)}" for key, item in items)
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_encode_slowly(item, sort=sort) for item in value) + "]"
    if isinstance(value, float):
        if abs(value) >= 1e16:
            return f"{Decimal(float.__repr__(value)):f}.0"
        return float.__repr__(value or 0.0)  # not -0.0
    return _dumps(value)
