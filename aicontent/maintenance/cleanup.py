"""Delete expired rows, and failed rows created over 24 hours ago, in short batches."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import peewee

from ..database.statement import literal
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import ArgumentError, check_number, kind_of
from ..table import ContentTable
from .batches import Reason, batches_of, next_size
from .defaults import FAILED_AFTER

_FIRST_BATCH = 20


@dataclass(frozen=True)
class CleanupReport:
    """What a cleanup deleted, or would delete.

    `expired` and `failed` count rows, each under one reason; `longest_batch` is in seconds;
    `left` tells whether rows to delete are still there.
    """

    expired: int = 0
    failed: int = 0
    batches: int = 0
    longest_batch: float = 0.0
    left: bool = False
    dry_run: bool = False

    @property
    def deleted(self) -> int:
        """All deleted rows."""
        return self.expired + self.failed


def cleanup(
    model: type[ContentTable],
    now: datetime,
    *,
    failed_after: timedelta,
    batch_size: int,
    max_rows: int | None,
    max_seconds: float | None,
    dry_run: bool,
    progress: Callable[[CleanupReport], object] | None,
    stop: Callable[[], bool] | None,
) -> CleanupReport:
    """Delete expired and failed rows; see `AIGeneratedContent.cleanup`."""
    _check_arguments(failed_after, batch_size, max_rows, max_seconds)
    if dry_run:
        return count_due(model, now, failed_after)
    reasons = reasons_of(model, now, _moment_before(now, failed_after))
    report = CleanupReport()
    size, started = min(batch_size, _FIRST_BATCH), time.monotonic()
    with batches_of(database_of(model)) as batches:
        for reason in reasons:
            batches.begin(reason)
            while True:
                is_late = max_seconds is not None and time.monotonic() - started >= max_seconds
                allowed = sys.maxsize if max_rows is None else max_rows - report.deleted
                if is_late or allowed <= 0 or (stop is not None and stop()):
                    return replace(report, left=any(each.any() for each in reasons))
                deleted, took = batches.delete(min(size, allowed))
                if deleted:
                    report = _counted(report, reason.name, deleted, took)
                    if progress is not None:
                        progress(report)
                    size = next_size(size, took, batches.seconds, batch_size)
                    batches.rest(took)
                elif not reason.any():
                    break
                elif not batches.wait_for_others():
                    return replace(report, left=True)
    return report


def count_due(
    model: type[ContentTable], now: datetime, failed_after: timedelta = FAILED_AFTER
) -> CleanupReport:
    """Count the rows that a cleanup would delete."""
    reasons = reasons_of(model, now, _moment_before(now, failed_after))
    counts = {reason.name: reason.select(model.id).count() for reason in reasons}
    return CleanupReport(**counts, left=any(counts.values()), dry_run=True)


def reasons_of(model: type[ContentTable], now: datetime, failed_before: datetime) -> list[Reason]:
    """Return the two reasons to delete a row; no row has both."""
    clock = backend_of(database_of(model)).statement_clock()
    is_held = (model.status == ContentStatus.GENERATING) & (model.lease_expires_at > clock)
    expired = (model.expires_at < now) & ~peewee.fn.COALESCE(is_held, peewee.SQL("false"))
    unexpired = model.expires_at.is_null() | (model.expires_at >= now)
    is_failed = model.status == literal(ContentStatus.FAILED)
    failed = is_failed & (model.created_at < failed_before) & unexpired
    return [
        Reason("expired", model, expired, model.expires_at, "idx_ai_content_expires"),
        Reason("failed", model, failed, model.created_at, "idx_ai_content_failed"),
    ]


def _moment_before(now: datetime, duration: timedelta) -> datetime:
    try:
        return now - duration
    except OverflowError:
        raise ArgumentError("now", "must be later than failed_after", "less") from None


def _counted(report: CleanupReport, reason: str, deleted: int, took: float) -> CleanupReport:
    counts = {reason: getattr(report, reason) + deleted, "batches": report.batches + 1}
    return replace(report, **counts, longest_batch=max(report.longest_batch, took))


def _check_arguments(
    failed_after: timedelta, batch_size: int, max_rows: int | None, max_seconds: float | None
) -> None:
    if not isinstance(failed_after, timedelta) or failed_after < timedelta(0):
        raise ArgumentError(
            "failed_after", "must be a timedelta, not negative", kind_of(failed_after)
        )
    check_number(batch_size, "batch_size", 1)
    if max_rows is not None:
        check_number(max_rows, "max_rows", 0)
    if max_seconds is not None:
        check_number(max_seconds, "max_seconds", 0, whole=False)
