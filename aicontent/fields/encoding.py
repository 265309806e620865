"""Writing documents as JSON text that both backends keep exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal


def snapshot(document: object) -> str | None:
    """Return its text, which tells whether a document was changed since, or None when what was
    put in cannot be stored."""
    try:
        return encode(document)
    except (RecursionError, TypeError, ValueError):
        return None


def encode(document: object) -> str:
    """Write a checked document as compact JSON text that both backends keep exactly.

    jsonb keeps 1e+23 as the integer 100000000000000000000000, which is not equal to the float;
    written out with a fractional part it stays that float. Python writes an exponent with a
    plus sign only for floats of 1e16 and more, so the slow way is taken only for those (and for
    the rare text that contains "e+").
    """
    text = dumps(document)
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


dumps = _encoder(sort_keys=False)
"""What `encode` does for documents without floats of 1e16 and more."""
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
