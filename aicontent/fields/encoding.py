"""Encode documents as JSON text that both backends store without a change."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any


def snapshot(document: object) -> str | None:
    """Return a document's text, to detect a later change in place; None if it cannot be stored."""
    try:
        return encode(document)
    except (RecursionError, TypeError, ValueError):
        return None


def is_same(document: object, text: str) -> bool:
    """Return whether a document equals a JSON text, which any encoder may have written."""
    try:
        return json.dumps(document) == json.dumps(decode(text))
    except (RecursionError, TypeError, ValueError):  # it cannot be encoded, as the text could
        return False


def encode(document: object) -> str:
    """Encode a checked document as compact JSON text that both backends store without a change.

    jsonb stores 1e+23 as the integer 100000000000000000000000, which does not equal the float.
    Written without an exponent and with a fractional part, it stays a float. Python writes "e+"
    only for floats of 1e16 and more, so only documents with these, or with "e+" in a text, are
    encoded the slow way.
    """
    text = dumps(document)
    return _encode_slowly(document) if "e+" in text else text


def decode(text: str) -> Any:
    """Decode JSON as `json.loads` does, in half the time for small documents.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        document, end = _scan(text, 0)
        if end == len(text):
            return document
    except StopIteration:
        pass  # there is white space before the document, or no document
    return json.loads(text)


_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def canonical(document: object) -> str:
    """Encode a document as the same text, whichever backend it was read from.

    The keys are sorted, because jsonb does not keep their order. Negative zero becomes zero,
    because jsonb has no negative zero.

    Raises:
        ValueError: the document contains NaN or infinity, which JSON does not have.
    """
    text = _dumps_sorted(document)
    return _encode_slowly(document, sort=True) if "e+" in text or "-0.0" in text else text


def _encoder(*, sort_keys: bool) -> Callable[[object], str]:
    encoder = json.JSONEncoder(
        ensure_ascii=False,
        # A document has no cycles: its depth was checked, or a JSON decoder created it.
        check_circular=False,
        allow_nan=False,
        sort_keys=sort_keys,
        separators=(",", ":"),
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    # encode() builds this encoder in each call, which is a third of its time for small documents.
    quote = json.encoder.encode_basestring
    write = make(None, encoder.default, quote, None, ":", ",", sort_keys, False, False)
    return lambda document: "".join(write(document, 0))


dumps = _encoder(sort_keys=False)
"""Encode a document that has no floats of 1e16 or more."""
_dumps_sorted = _encoder(sort_keys=True)


def _encode_slowly(value: object, *, sort: bool = False) -> str:
    if isinstance(value, dict):
        items = sorted(value.items()) if sort else value.items()
        pairs = (f"{dumps(key)}:{_encode_slowly(item, sort=sort)}" for key, item in items)
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_encode_slowly(item, sort=sort) for item in value) + "]"
    if isinstance(value, float):
        if abs(value) >= 1e16:
            return f"{Decimal(float.__repr__(value)):f}.0"
        return float.__repr__((value or 0.0) if sort else value)  # not -0.0
    return dumps(value)
