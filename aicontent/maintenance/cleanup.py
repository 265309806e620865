"""The deletion policy: what has expired, and what failed a day ago, in short batches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import peewee

from ..enums import ContentStatus
from ..errors import ValidationError
from ..fields.policy import kind_of
from .batches import Batches, Reason, batches_of

if TYPE_CHECKING:
    from ..model import AIGeneratedContent

FAILED_AFTER = timedelta(hours=24)
"""How long a failed row is kept for a look at it: the specification's 24 hours."""

BATCH_SIZE = 5000
"""The most rows of one DELETE."""

_FIRST_BATCH = 20


@dataclass(frozen=True)
class CleanupReport:
    """What a cleanup deleted, or would delete.

    `expired` and `failed` count rows, each under one reason; `longest_batch` is in seconds;
    `left` tells whether rows that could go are still there.
    """

    expired: int = 0
    failed: int = 0
    batches: int = 0
    longest_batch: float = 0.0
    left: bool = False
    dry_run: bool = False

    @property
    def deleted(self) -> int:
        """All rows that went."""
        return self.expired + self.failed


@dataclass(frozen=True)
class Budget:
    """When to stop early: after so many rows or seconds, or when `stop` says so."""

    max_rows: int | None = None
    max_seconds: float | None = None
    stop: Callable[[], bool] | None = None

    def rows_left(self, report: CleanupReport, seconds: float) -> int:
        """Return how many rows the next batch may have; 0 is the end."""
        if self.stop is not None and self.stop():
            return 0
        if self.max_seconds is not None and seconds >= self.max_seconds:
            return 0
        return sys.maxsize if self.max_rows is None else self.max_rows - report.deleted


def cleanup(
    model: type[AIGeneratedContent],
    now: datetime,
    *,
    failed_after: timedelta = FAILED_AFTER,
    batch_size: int = BATCH_SIZE,
    budget: Budget,
    dry_run: bool = False,
    progress: Callable[[CleanupReport], object] | None = None,
) -> CleanupReport:
    """Delete what may go; see `AIGeneratedContent.cleanup`."""
    _check_arguments(failed_after, batch_size, budget)
    try:
        failed_before = now - failed_after
    except OverflowError:
        raise ValidationError("now", "must lie after failed_after", "less") from None
    reasons = reasons_of(model, now, failed_before)
    if dry_run:
        counts = {reason.name: reason.select(model.id).count() for reason in reasons}
        return CleanupReport(**counts, left=any(counts.values()), dry_run=True)
    report = CleanupReport()
    size, started = min(batch_size, _FIRST_BATCH), time.monotonic()
    with batches_of(model._database()) as batches:
        for reason in reasons:
            batches.begin(reason)
            while True:
                allowed = budget.rows_left(report, time.monotonic() - started)
                if allowed <= 0:
                    left = any(each.any() for each in reasons)
                    return replace(report, left=left)
                deleted, took = batches.delete(min(size, allowed))
                if deleted:
                    report = _counted(report, reason.name, deleted, took)
                    if progress is not None:
                        progress(report)
                    size = _next_size(size, took, batches, batch_size)
                    batches.rest(took)
                elif not reason.any():
                    break
                elif not batches.wait_for_others():
                    return replace(report, left=True)
    return report


def _counted(report: CleanupReport, reason: str, deleted: int, took: float) -> CleanupReport:
    counts = {reason: getattr(report, reason) + deleted, "batches": report.batches + 1}
    return replace(report, **counts, longest_batch=max(report.longest_batch, took))


def _next_size(size: int, took: float, batches: Batches, most: int) -> int:
    if took > batches.seconds:
        return max(1, int(size * batches.seconds / took))
    return min(most, size * 2) if took < batches.seconds / 2 else size


def reasons_of(
    model: type[AIGeneratedContent], now: datetime, failed_before: datetime
) -> list[Reason]:
    """Return the two reasons to delete a row, which no row has both of."""
    expired = model.expires_at < now
    kept = model.expires_at.is_null() | (model.expires_at >= now)
    # A constant, not a parameter: only so is the partial index known to serve.
    is_failed = model.status == peewee.SQL(f"'{ContentStatus.FAILED}'")
    failed = is_failed & (model.created_at < failed_before) & kept
    return [
        Reason("expired", model, expired, model.expires_at, "idx_ai_content_expires"),
        Reason("failed", model, failed, model.created_at, "idx_ai_content_failed"),
    ]


def _check_arguments(failed_after: timedelta, batch_size: int, budget: Budget) -> None:
    if not isinstance(failed_after, timedelta) or failed_after < timedelta(0):
        raise ValidationError(
            "failed_after", "must be a timedelta, not negative", kind_of(failed_after)
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValidationError("batch_size", "must be an int of at least 1", kind_of(batch_size))
    rows, seconds = budget.max_rows, budget.max_seconds
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 0):
        raise ValidationError("max_rows", "must be an int, not negative, or None", kind_of(rows))
    if seconds is not None and not (isinstance(seconds, (int, float)) and seconds >= 0):
        raise ValidationError(
            "max_seconds", "must be a number, not negative, or None", kind_of(seconds)
        )
