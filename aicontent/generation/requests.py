"""What is asked for: one row in flight for a user's request, however many ask at once."""

from __future__ import annotations

from typing import Any, Self

import peewee

from ..enums import ContentStatus
from ..errors import AIContentError, ValidationError
from ..records.lookup import UsedModel
from .fingerprint import fingerprint

# A constant, not parameters: only so is the partial index known to serve.
_IN_FLIGHT = peewee.SQL(
    f"(\"status\" IN ('{ContentStatus.PENDING}', '{ContentStatus.GENERATING}'))"
)

_TRIES = 100
"""That often a row may be in the way and gone at the next look."""

_NOT_FOR_THE_REQUEST = ("status", "generated_data", "fingerprint", "attempts", "lease_expires_at")


class RequestableModel(UsedModel):
    """Adds to the base of the model how content is asked for."""

    # The columns it goes by, which the model has.
    user: Any
    fingerprint: Any

    @classmethod
    def request(
        cls,
        user: Any,
        type: str,
        request_payload: dict[str, Any],
        *,
        level: str | None = None,
        variant: Any = None,
        **values: Any,
    ) -> Self:
        """Return the row in flight for this user's request, or a new pending one: there is one,
        however many ask at once. Whether there is content already is not looked at.

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.
            request_payload, level, variant: what is asked, as `aicontent.fingerprint` takes it.
                The variant is noted in `metadata["variant"]` too, for whoever generates.
            values: further attributes of a new row; one in flight stays as it is.

        Raises:
            ValidationError, UnknownUserError: nothing was written, and a transaction that was
                open still is.
            NotBoundError: the model has no database.
        """
        return cls._entered(cls._asked(user, type, request_payload, level, variant, values))[0]

    @classmethod
    def _asked(
        cls,
        user: Any,
        type: str,
        request_payload: dict[str, Any],
        level: str | None,
        variant: Any,
        values: dict[str, Any],
    ) -> dict[str, Any]:
        """Return the attributes of a new row for a request."""
        for name in _NOT_FOR_THE_REQUEST:
            if name in values:
                raise ValidationError(name, "is set by what follows: leave it out", "one")
        key = cls._user_id(user)
        # Before it is looked up: "7" is not user 7.
        cls._validate({"user": key}, partial=True)
        asked = {
            "user": key,
            "type": type,
            "request_payload": request_payload,
            "level": level or None,
            "fingerprint": fingerprint(type, request_payload, level, variant),
        }
        if variant is not None:
            metadata = values.get("metadata")
            cls._validate({"metadata": metadata}, partial=True)
            asked["metadata"] = {**(metadata or {}), "variant": variant}
        return {**values, **asked}

    @classmethod
    def _in_flight(cls, asked: dict[str, Any]) -> Self | None:
        same = (cls.user == asked["user"], cls.fingerprint == asked["fingerprint"])
        return next(iter(list(cls.select().where(*same, _IN_FLIGHT).limit(1))), None)

    @classmethod
    def _entered(cls, asked: dict[str, Any], **claimed: Any) -> tuple[Self, bool]:
        """Return the row in flight for a request, and whether it is the one entered here."""
        content = cls(**asked, **claimed)
        for _ in range(_TRIES):
            # First a look, for inserting would wait for a transaction that is just ending it.
            found = cls._in_flight(asked)
            if found is not None:
                return found, False
            if content._insert_row(
                action="nothing",
                conflict_target=[cls.user, cls.fingerprint],
                conflict_where=_IN_FLIGHT,
            ):
                return content, True
        raise AIContentError(
            f"a row for request {content.fingerprint} is neither there nor can it be inserted: see "
            "that no trigger of the database's suppresses it"
        )
