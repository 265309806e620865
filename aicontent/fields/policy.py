"""The policy for JSON documents: accept only documents that both databases return unchanged.

SQLite stores nearly any text. PostgreSQL's jsonb does not, and stores numbers as exact decimals.
"""

import math
from contextlib import suppress
from typing import Any

from ..errors import ValidationError, kind_of, shortened
from .encoding import dumps, encode

MAX_DEPTH = 200
"""Levels of nesting. SQLite's JSON functions stop at 1,000, and so does Python's decoder, less the
caller's stack. Real content needs far less than 200."""

MAX_INT_DIGITS = 4300
"""Digits of an integer: the length at which Python itself refuses to write or read one."""

_INT_LIMIT = 10**MAX_INT_DIGITS


def check_text(text: str, field: str) -> None:
    """Refuse a string that PostgreSQL cannot hold.

    Raises:
        ValidationError: it has a NUL character, which jsonb and text reject, or a lone surrogate,
            which UTF-8 cannot encode.
    """
    if "\0" in text:
        place = text.index("\0")
        raise ValidationError(
            field, "must not contain NUL (U+0000): remove it", f"one at character {place}"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(
            field,
            "must be valid Unicode: replace lone surrogates, or decode the source again",
            f"U+{ord(text[error.start]):04X} at character {error.start}",
        ) from None


def plain_text(text: str) -> str:
    """Return the characters of a string, which may be a member of a `str` enumeration.

    `str()` would return the member's name, and drivers call it.
    """
    return str.__str__(text)


def check_document(document: object, field: str) -> None:
    """Refuse a document that one of the backends would reject or change.

    Args:
        document: dicts with string keys, lists, strings, finite numbers, booleans and None.
        field: the attribute it belongs to, for the message.

    Raises:
        ValidationError: with the path to the fault, such as `generated_data.steps[2].text`.
    """
    try:
        _check(document, 0)
    except ValidationError as error:
        raise ValidationError(shortened(field + error.field), error.rule, error.kind) from None


def decoded_text(document: object, field: str) -> str:
    """Check and encode a document that came from a JSON decoder.

    It holds nothing but JSON's types, so its text shows what else to check, in a third of the
    time.

    Raises:
        ValidationError: as `check_document`.
    """
    try:
        text = encode(document)
        text.isascii() or text.encode()
    except (ValueError, RecursionError):
        check_document(document, field)  # raises with the path
        raise
    # Each level takes two characters.
    deep = len(text) > 2 * MAX_DEPTH and text.count("{") + text.count("[") >= MAX_DEPTH
    if deep or "\\u0000" in text:
        check_document(document, field)  # brackets in strings count too, so it may be valid
    return text


def checked_text(document: object, field: str) -> str:
    """Check and encode a document.

    Raises:
        ValidationError: as `check_document`.
    """
    if _is_plain(document, 0):
        with suppress(UnicodeEncodeError):
            text = dumps(document)
            text.isascii() or text.encode()
            if "\\u0000" not in text:
                return text
    check_document(document, field)  # raises with the path, if there is a fault
    return encode(document)


_SHORT = 2**53


def _is_plain(value: object, depth: int) -> bool:
    """Tell whether a document has only JSON's types, bounded depth, and numbers of usual size.

    Its text then shows what else to check, in half the time.
    """
    kind = type(value)
    if kind is dict:
        items: Any = value.values()  # type: ignore[attr-defined]
        if not _ONLY_STR.issuperset(map(type, value)):  # type: ignore[call-overload]
            return False
    elif kind is list:
        items = value
    elif kind is int or kind is float:
        return -_SHORT < value < _SHORT  # type: ignore[operator]
    else:
        return kind is str or kind is bool or value is None
    if depth >= MAX_DEPTH:
        return False
    for item in items:  # noqa: SIM110 - all() takes a third longer
        if type(item) is not str and not _is_plain(item, depth + 1):
            return False
    return True


_ONLY_STR = {str}


def _check(value: object, depth: int) -> None:
    if depth >= MAX_DEPTH and isinstance(value, (dict, list)):
        raise ValidationError(
            "", f"must be nested at most {MAX_DEPTH} levels deep", "a deeper document"
        )
    # Each level prepends its own step to the path only when an error passes through it.
    if isinstance(value, str):
        check_text(value, "")
    elif isinstance(value, dict):
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
