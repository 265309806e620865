"""Delete expired rows, and rows that failed over 24 hours ago, in short batches."""

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any

import peewee

from ..database.supported import backend_of, database_of
from ..errors import ArgumentError, check_budget, check_number
from ..fields.scalars import to_utc
from ..generation.arguments import seconds_of
from ..generation.defaults import Duration
from ..records.lookup import FAILED, GENERATING
from ..table import ContentTable
from .batches import Batches, Reason
from .defaults import FAILED_AFTER

NAMED = 10
"""The most blocked rows that a report names."""


@dataclass(frozen=True)
class CleanupReport:
    """The rows that a cleanup deleted, or with `dry_run` would delete.

    `expired` and `failed` count rows; no row counts twice. `longest_batch` is in seconds. `left`
    is True if rows remain that another run can delete. `blocked` counts rows that are due and
    that the database refuses to delete; `named` has up to ten pairs of such an id and its reason.
    """

    expired: int = 0
    failed: int = 0
    batches: int = 0
    longest_batch: float = 0.0
    left: bool = False
    blocked: int = 0
    named: tuple[tuple[str, str], ...] = ()
    dry_run: bool = False

    @property
    def deleted(self) -> int:
        """The number of all deleted rows."""
        return self.expired + self.failed


def cleanup(
    model: type[ContentTable],
    now: datetime | None,
    *,
    failed_after: Duration,
    batch_size: int,
    max_rows: int | None,
    max_seconds: float | None,
    dry_run: bool,
    progress: Callable[[CleanupReport], object] | None,
    stop: Callable[[], bool] | None,
) -> CleanupReport:
    """Delete expired and failed rows; see `AIGeneratedContent.cleanup`."""
    check_number(batch_size, "batch_size", 1)
    check_budget(max_rows, max_seconds)
    reasons = reasons_of(model, now, failed_after)
    if dry_run:
        return _counted(reasons)
    report, started = CleanupReport(), time.monotonic()
    database = database_of(model)
    all_batches = [Batches(reason) for reason in reasons]
    waiting = deque(all_batches)
    with backend_of(database).pace(database) as pace:
        while waiting:
            is_late = max_seconds is not None and time.monotonic() - started >= max_seconds
            allowed = sys.maxsize if max_rows is None else max_rows - report.deleted
            if is_late or allowed <= 0 or (stop is not None and stop()):
                break
            # The two reasons take turns and share the budget, so that neither uses all of it.
            batches, share = waiting.popleft(), -(-allowed // (len(waiting) + 1))
            deleted, took = batches.delete(min(pace.size, batch_size, share))
            if not batches.is_done:
                waiting.append(batches)
            named = islice(chain(*(each.blocked.items() for each in all_batches)), NAMED)
            blocked = sum(len(each.blocked) for each in all_batches)
            report = replace(report, blocked=blocked, named=tuple(named))
            if deleted:
                report = _added(report, batches.reason.name, deleted, took)
                if progress is not None:
                    progress(report)
            if took:
                pace.rest(took, batch_size)
    return replace(report, left=any(batches.is_left() for batches in all_batches))


def count_due(
    model: type[ContentTable], now: datetime | None, failed_after: Duration = FAILED_AFTER
) -> CleanupReport:
    """Count the rows that a cleanup would delete."""
    return _counted(reasons_of(model, now, failed_after))


def _counted(reasons: list[Reason]) -> CleanupReport:
    counts = {reason.name: reason.select(reason.model.id).count() for reason in reasons}
    return CleanupReport(**counts, left=any(counts.values()), dry_run=True)


def reasons_of(
    model: type[ContentTable], now: datetime | None, failed_after: Duration
) -> list[Reason]:
    """Return the two reasons to delete a row: it expired, or it failed. No row has both.

    Raises:
        ArgumentError: `failed_after` is not a duration of at most a hundred years.
    """
    seconds = seconds_of(failed_after, "failed_after", may_be_zero=True)
    backend = backend_of(database_of(model))
    clock = backend.statement_clock()
    cutoff: Any = clock if now is None else to_utc(now, "now")
    failed_before: Any = backend.clock_after(-seconds)
    if now is not None:
        failed_before = _time_before(now, timedelta(seconds=seconds))
    is_held = (model.status == GENERATING) & (model.lease_expires_at > clock)
    expired = (model.expires_at < cutoff) & ~peewee.fn.COALESCE(is_held, peewee.SQL("false"))
    unexpired = model.expires_at.is_null() | (model.expires_at >= cutoff)
    # The specification counts from createdAt. updatedAt is tested too, because a row that was
    # requested long ago may have failed just now.
    is_old = (model.created_at < failed_before) & (model.updated_at < failed_before)
    failed = (model.status == FAILED) & is_old & unexpired
    return [
        Reason("expired", model, expired, model.expires_at, "idx_ai_content_expires"),
        Reason("failed", model, failed, model.created_at, "idx_ai_content_failed"),
    ]


def _time_before(now: datetime, duration: timedelta) -> datetime:
    try:
        return now - duration
    except OverflowError:
        raise ArgumentError("now", "must be later than failed_after", "less") from None


def _added(report: CleanupReport, reason: str, deleted: int, took: float) -> CleanupReport:
    counts = {reason: getattr(report, reason) + deleted, "batches": report.batches + 1}
    return replace(report, **counts, longest_batch=max(report.longest_batch, took))
