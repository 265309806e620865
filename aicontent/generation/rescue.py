"""What lost workers have left behind: rows whose lease has run out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import peewee

from ..enums import ContentStatus
from ..errors import ValidationError
from ..fields.policy import kind_of
from ..fields.scalars import clock_now, to_utc
from ..records.validation import MAX_INTEGER
from .failures import LEASE_RAN_OUT, with_failure
from .requests import RequestableModel

MAX_ATTEMPTS = 3
"""How often generation is begun before a row counts as failed."""


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


class RescuableModel(RequestableModel):
    """Adds to the base of the model how rows in flight are freed."""

    # The columns it goes by, which the model has.
    id: Any
    status: Any
    attempts: Any
    lease_expires_at: Any

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

    @classmethod
    def _stale(cls, now: datetime | None = None) -> Any:
        moment = clock_now(cls._database()) if now is None else to_utc(now, "now")
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

    @classmethod
    def _free(cls, condition: Any) -> Any:
        """Select the ids of rows that no other transaction has locked."""
        return cls._skipping_locked(cls.select(cls.id).where(condition))

    @classmethod
    def _skipping_locked(cls, query: Any) -> Any:
        if cls._database().for_update:
            return query.for_update("FOR NO KEY UPDATE SKIP LOCKED")
        return query
