"""Compute the fingerprint of a request: equal requests have equal fingerprints in any language."""

import hashlib
import json
from decimal import Decimal
from typing import Any

from ..enums import ContentTypeLike
from ..fields.policy import check_document, check_text, plain_text
from ..table import RULES

_quoted = json.encoder.encode_basestring
_WORDS = {None: "null", True: "true", False: "false"}


def fingerprint(
    type: ContentTypeLike,
    request_payload: dict[str, Any],
    level: str | None = None,
    variant: Any = None,
) -> str:
    """Return the SHA-256 fingerprint of a request, as 64 hexadecimal digits.

    It is the hash of `{"level": …, "request": …, "type": …, "variant": …}` as canonical JSON
    (RFC 8785): keys sorted by UTF-16 code units, no white space, one form for each number (1.0 is
    1). Unlike in RFC 8785, integers of 2^53 and more keep all their digits. The user is not part
    of the hash, because every lookup is by user and fingerprint.

    Args:
        type: a ContentType or its text.
        request_payload: the request, a JSON object.
        level: the learner's level; an empty string is the same as None.
        variant: any other JSON that changes the answer: the name of the model, the version of the
            prompt or of the output's schema.

    Raises:
        ValidationError: an argument is not valid for its column.
    """
    row = {"type": type, "requestPayload": request_payload, "level": level}
    RULES.check(row, partial=True)
    check_text(level or "", "level")
    check_document(request_payload, "request_payload")
    check_document(variant, "variant")
    text = canonical_text(
        {
            "level": level or None,
            "request": request_payload,
            "type": plain_text(type),
            "variant": variant,
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_text(value: Any) -> str:
    """Return the canonical JSON of a checked document."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        is_ascii = "".join(value).isascii()  # then both orders are the same
        keys = sorted(value, key=str.__str__ if is_ascii else _utf16)
        return "{" + ",".join([f"{_quoted(k)}:{canonical_text(value[k])}" for k in keys]) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical_text, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    return _WORDS[value] if value is None or isinstance(value, bool) else int.__repr__(value)


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _number(value: float) -> str:
    # RFC 8785 uses ECMAScript's Number::toString. It writes the same digits as Python, but uses
    # exponents for other sizes of numbers and in another form.
    if value == 0:
        return "0"
    text = float.__repr__(value)  # a subclass may have another repr
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text.removesuffix(".0")
    if 1e-6 <= abs(value) < 1e21:
        return f"{Decimal(text):f}"
    return f"{mantissa}e{int(exponent):+d}"
