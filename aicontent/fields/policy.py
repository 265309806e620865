"""Check JSON documents and texts: accept only values that both databases return unchanged.

SQLite stores nearly any text. PostgreSQL's jsonb does not, and stores numbers as exact decimals.
"""

import math
from contextlib import suppress
from typing import Any

from ..errors import ValidationError, kind_of, shortened
from .encoding import dumps, encode

MAX_DEPTH = 200
"""Levels of nesting. SQLite's JSON functions fail at 1,000 levels, and Python's decoder at 1,000
minus the depth of the caller's stack. Real content needs far less than 200."""

MAX_INT_DIGITS = 4300
"""The most digits of an integer that Python converts to or from text."""

_INT_LIMIT = 10**MAX_INT_DIGITS


def check_text(text: str, field: str) -> None:
    """Check that PostgreSQL can store a string.

    Raises:
        ValidationError: the string has a NUL character, which jsonb and text reject, or a lone
            surrogate, which UTF-8 cannot encode.
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
    """Return a plain `str` for a string that may be a member of a `str` enumeration.

    Drivers call `str()`, which may return the member's name.
    """
    return str.__str__(text)


def check_document(document: object, field: str) -> None:
    """Check a document, and refuse one that a backend would reject or change.

    Args:
        document: dicts with string keys, lists, strings, finite numbers, booleans and None.
        field: the name of the attribute, for the error message.

    Raises:
        ValidationError: with the path to the fault, such as `generated_data.steps[2].text`.
    """
    try:
        _check(document, 0)
    except ValidationError as error:
        raise ValidationError(shortened(field + error.field), error.rule, error.kind) from None


def decoded_text(document: object, field: str) -> str:
    """Check and encode a document that a JSON decoder created.

    It has only JSON types, so checking its text is enough, and takes a third of the time.

    Raises:
        ValidationError: as for `check_document`.
    """
    try:
        text = encode(document)
        text.isascii() or text.encode()
    except (ValueError, RecursionError):
        check_document(document, field)  # raises with the path
        raise
    # Each level of nesting takes at least two characters.
    deep = len(text) > 2 * MAX_DEPTH and text.count("{") + text.count("[") >= MAX_DEPTH
    if deep or "\\u0000" in text:
        check_document(document, field)  # it may be valid, because strings may contain brackets
    return text


def checked_text(document: object, field: str) -> str:
    """Check a document and encode it as JSON text.

    Raises:
        ValidationError: as for `check_document`.
    """
    if _is_plain(document, 0):
        with suppress(UnicodeEncodeError):
            text = dumps(document)
            text.isascii() or text.encode()
            if "\\u0000" not in text:
                return text
    check_document(document, field)  # raises with the path, if the document is not valid
    return encode(document)


_SHORT = 2**53


def _is_plain(value: object, depth: int) -> bool:
    """Return whether a document has only JSON types, limited depth, and numbers of usual size.

    Checking the text of such a document is enough, and takes half the time.
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
    # The path to an error is built from the inside: each level adds its step to a raised error.
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
            raise ValidationError("", "must be a finite number, as JSON requires", kind_of(value))
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
