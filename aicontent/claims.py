"""Who may generate what was asked for, until when, and how that ends.

Whoever claims a row holds it until its lease ends, and writes what came of it by statements that
are fenced by the number of the attempt: one who has lost the row changes nothing. How a row moves
on is drawn in docs/claims.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self, TypedDict, Unpack

import peewee

from .documents import kind_of, shortened
from .durations import Duration, seconds_of
from .enums import ContentStatus
from .errors import LeaseLostError, ValidationError
from .fields import clock_after, to_utc
from .reasons import LEASE_RAN_OUT, reason_of, with_failure
from .requests import RequestableModel
from .validation import MAX_INTEGER

LEASE = timedelta(minutes=5)
"""How long a claim holds: several times what a model takes for its longest answer."""

MAX_ATTEMPTS = 3
"""How often generation is begun before a row counts as failed."""

# A constant, not a parameter: only so is the partial index known to serve.
_PENDING = peewee.SQL(f"'{ContentStatus.PENDING}'")


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


def attempts_of(number: int) -> int:
    """Return a number of attempts, looked at."""
    is_int = isinstance(number, int) and not isinstance(number, bool)
    if not (is_int and 1 <= number <= MAX_INTEGER):
        rule = f"must be an int from 1 to {MAX_INTEGER}"
        raise ValidationError("max_attempts", rule, kind_of(number))
    return number


@dataclass(frozen=True)
class RescueReport:
    """What became of rows whose lease had run out: how many may be claimed anew, how many have
    failed for good."""

    requeued: int = 0
    failed: int = 0


class ClaimableModel(RequestableModel):
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
        other: Any = cls.alias()
        oldest = other.select(other.id).where(other.status == _PENDING)
        if types is not None:
            oldest = oldest.where(other.type.in_(cls._types(types)))
        oldest = oldest.order_by(other.created_at, other.id).limit(1)
        if cls._database().for_update:
            oldest = oldest.for_update("FOR NO KEY UPDATE SKIP LOCKED")
        return cls._claimed(oldest, seconds_of(lease, "lease"))

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
            changes["expires_at"] = clock_after(self._database(), seconds)
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
        has_left = self.attempts < attempts_of(max_attempts)
        status = ContentStatus.PENDING if retry and has_left else ContentStatus.FAILED
        self._end(status, metadata=with_failure(type(self), reason_of(reason)))

    def extend_lease(self, lease: Duration = LEASE) -> None:
        """Hold this claimed row for so long from now, in seconds or as a timedelta.

        Raises:
            LeaseLostError: the claim is over. ValidationError: the lease cannot be one.
        """
        seconds = seconds_of(lease, "lease")
        self._fenced(lease_expires_at=clock_after(self._database(), seconds))

    @classmethod
    def rescue_stale(
        cls,
        max_attempts: int = MAX_ATTEMPTS,
        *,
        now: datetime | None = None,
        dry_run: bool = False,
    ) -> RescueReport:
        """Free the rows whose lease has run out: they are pending again, or failed when they
        had their attempts, in one statement. Rows without a lease, which other programs have
        made generating, are theirs.

        Args:
            max_attempts: how many attempts a row has.
            now: the moment to judge by, aware; the database's clock by default.
            dry_run: count, and change nothing.

        Raises:
            ValidationError: an argument is not what it should be. NotBoundError: the model has
                no database.
        """
        stale, most = cls._stale(now), attempts_of(max_attempts)
        if dry_run:
            found: Any = cls.select(cls.attempts).where(stale).tuples()
            failed = Counter(attempts >= most for (attempts,) in found)
            return RescueReport(failed[False], failed[True])
        return cls._rescued(stale, most)

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
    def _free(cls, condition: Any) -> Any:
        """Select the ids of rows that no other transaction has locked."""
        free: Any = cls.select(cls.id).where(condition)
        if cls._database().for_update:
            free = free.for_update("FOR NO KEY UPDATE SKIP LOCKED")
        return free

    @classmethod
    def _claimed(cls, id: Any, seconds: float) -> Self | None:
        """Claim a row, if it is pending."""
        claim = cls._as_claimed(seconds) | {"attempts": cls.attempts + 1} | cls._touched()
        query: Any = cls.update(claim).where(cls.id == id, cls.status == _PENDING).returning(cls)
        return next(iter(list(query.execute())), None)

    @classmethod
    def _as_claimed(cls, seconds: float) -> dict[str, Any]:
        return {
            "status": ContentStatus.GENERATING,
            "attempts": 1,
            "lease_expires_at": clock_after(cls._database(), seconds),
        }

    @classmethod
    def _stale(cls, now: datetime | None = None) -> Any:
        moment = clock_after(cls._database(), 0) if now is None else to_utc(now, "now")
        return (cls.status == ContentStatus.GENERATING) & (cls.lease_expires_at < moment)

    @classmethod
    def _rescued(cls, stale: Any, max_attempts: int) -> RescueReport:
        # Who is just completing a row is not waited for.
        stale &= cls.id.in_(cls._free(stale))
        used_up = cls.attempts >= max_attempts
        rescue = {
            "status": peewee.Case(
                None, [(used_up, ContentStatus.FAILED.value)], ContentStatus.PENDING.value
            ),
            "metadata": with_failure(cls, LEASE_RAN_OUT),
            "lease_expires_at": None,
            **cls._touched(),
        }
        rows: Any = cls.update(rescue).where(stale).returning(cls.status).tuples()
        counts = Counter(status for (status,) in rows.execute())
        return RescueReport(counts[ContentStatus.PENDING], counts[ContentStatus.FAILED])

    def _end(self, status: ContentStatus, **changes: Any) -> None:
        self._fenced(status=status, lease_expires_at=None, **changes)

    def _fenced(self, **changes: Any) -> None:
        """Write changes to the claimed row, if this attempt at it is still the one."""
        if not self._update_row(changes, *self._held()):
            raise LeaseLostError(self.id, self.attempts, self._whereabouts())

    def _held(self) -> tuple[Any, ...]:
        cls = type(self)
        return (
            cls.status == ContentStatus.GENERATING,
            cls.attempts == self.attempts,
            # One that a program without leases has made generating is that program's.
            cls.lease_expires_at.is_null(False),
        )

    def _whereabouts(self) -> str:
        cls = type(self)
        found: Any = cls.select(cls.status, cls.attempts).where(cls.id == self.id).tuples()
        for status, attempts in found:
            return f"it is {status} now, at attempt {attempts}"
        return "it was deleted"
