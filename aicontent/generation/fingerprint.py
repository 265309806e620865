"""What was asked, as one short text: the same for the same request, wherever it is computed."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

from ..fields.policy import check_document, check_text
from ..records.validation import validate_row

_quoted = json.JSONEncoder(ensure_ascii=False).encode


def fingerprint(
    type: str, request_payload: dict[str, Any], level: str | None = None, variant: Any = None
) -> str:
    """Return the SHA-256 of a request, in hexadecimal digits.

    It is taken of the canonical JSON of `{"level": …, "request": …, "type": …, "variant": …}` as
    RFC 8785 writes it: keys sorted by UTF-16 code units, no white space, one form of each number
    (1.0 is 1). Beyond that document, integers from 2^53 on keep all their digits. The user is
    no part of it, and belongs to every lookup by it.

    Args:
        type: a ContentType or its text.
        request_payload: what is asked.
        level: the learner's level; an empty one is none.
        variant: whatever else makes the answer another one, as JSON: the model, the version of
            the prompt or of the output's schema.

    Raises:
        ValidationError: an argument cannot be what it should be.
    """
    from ..model import AIGeneratedContent  # which builds on this

    row = {"type": type, "requestPayload": request_payload, "level": level}
    validate_row(row, AIGeneratedContent._meta.columns, partial=True)
    check_text(level or "", "level")
    check_document(request_payload, "request_payload")
    check_document(variant, "variant")
    text = canonical_text(
        {
            "level": level or None,
            "request": request_payload,
            "type": str(type),
            "variant": variant,
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_text(value: Any) -> str:
    """Return a checked document's one text."""
    if isinstance(value, dict):
        keys = sorted(value, key=_utf16)
        return "{" + ",".join(f"{_quoted(key)}:{canonical_text(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical_text, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    return _quoted(value)


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _number(value: float) -> str:
    # As ECMAScript's Number::toString, on which RFC 8785 builds: the digits are Python's, the
    # fewest that tell the number, but an exponent begins elsewhere and is written otherwise.
    if value == 0:
        return "0"
    text = float.__repr__(value)  # whatever a subclass makes of it
    if 1e-6 <= abs(value) < 1e21:
        return f"{Decimal(text):f}".removesuffix(".0")
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent):+d}"
