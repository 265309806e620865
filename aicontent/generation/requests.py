"""Request content: one row is in flight for a user's request, however many callers ask."""

from __future__ import annotations

from typing import Any

import peewee

from ..enums import ContentStatus
from ..errors import AIContentError, ValidationError
from ..records.record import insert, user_id
from ..records.validation import validate
from ..table import C, ContentTable
from .fingerprint import fingerprint

# A constant, not parameters, so that the planner knows that the partial index applies.
_IN_FLIGHT = peewee.SQL(
    f"(\"status\" IN ('{ContentStatus.PENDING}', '{ContentStatus.GENERATING}'))"
)

_TRIES = 100
"""How often a row may conflict with the insert and then be gone at the next look."""

_SET_LATER = {
    "status": "a new request is always pending",
    "generated_data": "complete() stores it",
    "fingerprint": "it is computed from the request",
    "attempts": "claim() counts them",
    "lease_expires_at": "claim() sets it",
}


def request(
    model: type[C],
    user: Any,
    type: str,
    request_payload: dict[str, Any],
    level: str | None,
    variant: Any,
    values: dict[str, Any],
) -> C:
    """Return the row in flight for a request; see `AIGeneratedContent.request`."""
    attributes = attributes_of(model, user, type, request_payload, level, variant, values)
    return enter(model, attributes)[0]


def attributes_of(
    model: type[ContentTable],
    user: Any,
    type: str,
    request_payload: dict[str, Any],
    level: str | None,
    variant: Any,
    values: dict[str, Any],
) -> dict[str, Any]:
    """Return the attributes of a new row for a request.

    Raises:
        ValidationError: an argument breaks a rule.
    """
    for name, reason in _SET_LATER.items():
        if name in values:
            raise ValidationError(name, f"cannot be passed to request(): {reason}", "a value")
    key = user_id(user)
    # Checked before any lookup: "7" is not user 7.
    validate(model, {"user": key}, partial=True)
    attributes = {
        "user": key,
        "type": type,
        "request_payload": request_payload,
        "level": level or None,
        "fingerprint": fingerprint(type, request_payload, level, variant),
    }
    if variant is not None:
        metadata = values.get("metadata")
        validate(model, {"metadata": metadata}, partial=True)
        attributes["metadata"] = {**(metadata or {}), "variant": variant}
    return {**values, **attributes}


def enter(model: type[C], attributes: dict[str, Any], **claim: Any) -> tuple[C, bool]:
    """Return the row in flight for a request, and whether this call inserted it.

    Args:
        model: the bound model.
        attributes: those of `attributes_of`.
        claim: further attributes of a row that is inserted as claimed.

    Raises:
        UnknownUserError, NotBoundError: nothing was written.
    """
    content = model(**attributes, **claim)
    for _ in range(_TRIES):
        # Look first: an insert would wait for a transaction that is about to end the row.
        existing = _in_flight(model, attributes)
        if existing is not None:
            return existing, False
        if insert(
            content,
            action="nothing",
            conflict_target=[model.user, model.fingerprint],
            conflict_where=_IN_FLIGHT,
        ):
            return content, True
    raise AIContentError(
        f"a row for request {content.fingerprint} neither exists nor can be inserted: check that "
        "no trigger of the database suppresses the insert"
    )


def _in_flight(model: type[C], attributes: dict[str, Any]) -> C | None:
    same = (
        model.user == attributes["user"],
        model.fingerprint == attributes["fingerprint"],
    )
    return next(iter(list(model.select().where(*same, _IN_FLIGHT).limit(1))), None)
