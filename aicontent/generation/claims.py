"""Who may generate what was asked for, until when, and how that ends.

Whoever claims a row holds it until its lease ends, and writes what came of it by statements that
are fenced by the number of the attempt: one who has lost the row changes nothing. How a row moves
on is drawn in docs/claims.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, Self, TypedDict, Unpack

import peewee

from ..database.compiled import Computed, slot
from ..enums import ContentStatus
from ..errors import LeaseLostError, ValidationError
from ..fields.policy import kind_of, shortened
from ..fields.scalars import clock_after
from .durations import Duration, seconds_of
from .failures import reason_of, with_failure
from .rescue import MAX_ATTEMPTS, RescuableModel, attempts_of

LEASE = timedelta(minutes=5)
"""How long a claim holds: several times what a model takes for its longest answer."""

# Constants, not parameters: only so are the partial indexes known to serve.
_PENDING = peewee.SQL(f"'{ContentStatus.PENDING}'")
_GENERATING = peewee.SQL(f"'{ContentStatus.GENERATING}'")


class Outcome(TypedDict, total=False):
    """What may be told of generated content beside its document."""

    expires_in: Duration | None
    validation_results: dict[str, Any] | None
    validation_score: float | None
    token_usage: int | None
    model_used: str | None
    generation_time_ms: int | None
    estimated_completion_time: int | None
    topics: list[Any] | None
    focus_areas: list[Any] | None
    metadata: dict[str, Any] | None


class ClaimableModel(RescuableModel):
    """Adds to the base of the model how what was asked for becomes content."""

    # The columns it goes by, which the model has.
    id: Any
    type: Any
    status: Any
    metadata: Any
    created_at: Any
    attempts: Any
    lease_expires_at: Any

    @classmethod
    def claim(
        cls, types: Collection[str] | str | None = None, lease: Duration = LEASE
    ) -> Self | None:
        """Take the oldest pending row: it becomes generating, with a lease and one attempt more.

        Never waits for a row: on PostgreSQL it passes over those that others have locked.

        Args:
            types: only rows of these types; of all types by default.
            lease: how long the claim holds, in seconds or as a timedelta, by the database's clock.

        Returns:
            The content, or None when nothing is pending.

        Raises:
            ValidationError: an argument is not what it should be. NotBoundError: the model has
                no database.
        """
        wanted = {} if types is None else {f"type{i}": t for i, t in enumerate(cls._types(types))}

        def oldest() -> Any:
            other: Any = cls.alias()
            query = other.select(other.id).where(other.status == _PENDING)
            if wanted:
                query = query.where(other.type.in_([slot(name) for name in wanted]))
            return cls._skipping_locked(query.order_by(other.created_at, other.id).limit(1))

        return cls._claimed("oldest", oldest, wanted, seconds_of(lease, "lease"))

    def complete(self, generated_data: dict[str, Any], /, **outcome: Unpack[Outcome]) -> None:
        """Store what was generated for this claimed row, which is completed then: one statement.

        Args:
            generated_data: the document.
            outcome: what else came of it, by the names of `Outcome`. `expires_in` is how long the
                content is good for, in seconds or as a timedelta, by the database's clock;
                `metadata` is added to what the row had there when it was claimed. What is None
                or not given stays as it is.

        Raises:
            ValidationError: the row stays claimed. LeaseLostError: the claim is over, and
                another's may have brought other content. Nothing was written.
        """
        if not isinstance(generated_data, dict):
            raise ValidationError("generated_data", "must be a dict", kind_of(generated_data))
        changes: dict[str, Any] = {n: v for n, v in outcome.items() if v is not None}
        for name in changes:
            if name not in Outcome.__annotations__:
                rule = f"is no outcome; there are {', '.join(Outcome.__annotations__)}"
                raise ValidationError(shortened(name), rule, "an unknown name")
        if "metadata" in changes:
            self._validate({"metadata": changes["metadata"]}, partial=True)
            changes["metadata"] = {**(self.metadata or {}), **changes["metadata"]}
        if "expires_in" in changes:
            seconds = seconds_of(changes.pop("expires_in"), "expires_in")
            changes["expires_at"] = _after("expires_in", seconds)
        self._end(ContentStatus.COMPLETED, generated_data=generated_data, **changes)

    def fail(
        self,
        reason: str | BaseException,
        retry: bool = False,
        *,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        """Give this claimed row up: it is failed, or pending again.

        Args:
            reason: why, which goes into `metadata["lastFailure"]`, cut to 500 characters and
                without what looks like a secret; of an exception its class alone.
            retry: make it pending again, unless it had its attempts.
            max_attempts: how many attempts it has.

        Raises:
            LeaseLostError: the claim is over, and nothing was written. ValidationError: an
                argument is not what it should be.
        """
        if not isinstance(retry, bool):
            raise ValidationError("retry", "must be True or False", kind_of(retry))
        has_left = self.attempts < attempts_of(max_attempts)
        status = ContentStatus.PENDING if retry and has_left else ContentStatus.FAILED
        noted = Computed(
            "failure",
            lambda model: with_failure(model, slot(":reason")),
            {":reason": reason_of(reason)},
        )
        self._end(status, metadata=noted)

    def extend_lease(self, lease: Duration = LEASE) -> None:
        """Hold this claimed row for so long from now, in seconds or as a timedelta.

        Raises:
            LeaseLostError: the claim is over. ValidationError: the lease cannot be one.
        """
        seconds = seconds_of(lease, "lease")
        self._fenced(lease_expires_at=_after("lease", seconds))

    # Pieces of statements

    @classmethod
    def _types(cls, types: Collection[str] | str) -> list[str]:
        names = [types] if isinstance(types, str) else types
        if not (isinstance(names, Collection) and names):
            raise ValidationError("types", "must name types, or be None for all", kind_of(types))
        for name in names:
            cls._validate({"type": name}, partial=True)
        return [str(name) for name in names]

    @classmethod
    def _claimed(
        cls, key: str, id: Callable[[], Any], given: Mapping[str, Any], seconds: float
    ) -> Self | None:
        """Claim a row, if it is pending; `id` makes the query for its id, whose slots are filled
        by what is given."""
        values = {**given, ":lease": seconds}

        def make() -> tuple[Any, list[Any]]:
            claim = {
                "status": ContentStatus.GENERATING,
                "attempts": cls.attempts + 1,
                "lease_expires_at": clock_after(cls._database(), ":lease"),
                **cls._touched(),
            }
            query: Any = cls.update(claim).where(cls.id == id(), cls.status == _PENDING)
            return query.returning(cls), cls._meta.sorted_fields

        database = cls._database()
        # Whoever cannot read a document, for it is compressed, is not to use up its attempts.
        with database.atomic() if not database.for_update else nullcontext():
            return cls._first(("claim", key), values, make)

    @classmethod
    def _as_claimed(cls, seconds: float) -> dict[str, Any]:
        return {
            "status": ContentStatus.GENERATING,
            "attempts": 1,
            "lease_expires_at": _after("lease", seconds),
        }

    def _end(self, status: ContentStatus, **changes: Any) -> None:
        self._fenced(status=status, lease_expires_at=None, **changes)

    def _fenced(self, **changes: Any) -> None:
        """Write changes to the claimed row, if this attempt at it is still the one."""
        if not self._update_row(changes, Computed("held", _held, {":attempt": self.attempts})):
            raise LeaseLostError(self.id, self.attempts, self._whereabouts())

    def _whereabouts(self) -> str:
        if self.status != ContentStatus.GENERATING:
            return f"it is {self.status} as this instance has it, so call claim() first"
        cls = type(self)
        found: Any = cls.select(cls.status, cls.attempts).where(cls.id == self.id).tuples()
        for status, attempts in found:
            return (
                f"its lease ran out, and it is {status} now, at attempt {attempts}: claim with a "
                "longer lease, or call extend_lease() on the way"
            )
        return "it was deleted"


def _held(model: type[ClaimableModel]) -> Any:
    # One that a program without leases has made generating is that program's.
    has_lease = model.lease_expires_at.is_null(False)
    return (model.status == _GENERATING) & (model.attempts == slot(":attempt")) & has_lease


def _after(name: str, seconds: float) -> Computed:
    """The moment so many seconds from now, by the database's clock."""
    return Computed(
        name, lambda model: clock_after(model._database(), f":{name}"), {f":{name}": seconds}
    )
