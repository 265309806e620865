"""The deletion policy: what has expired, and what failed a day ago, in short batches."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import peewee

from .documents import kind_of
from .enums import ContentStatus
from .errors import ValidationError
from .integrity import database_code

if TYPE_CHECKING:
    from .model import AIGeneratedContent

FAILED_AFTER = timedelta(hours=24)
"""How long a failed row is kept for a look at it: the specification's 24 hours."""

BATCH_SIZE = 1000
"""The most rows of one DELETE."""

_FIRST_BATCH = 50
_LONGEST_BATCH = 0.05
"""Seconds a batch is meant to take: SQLite's write lock is held so long, and rows on
PostgreSQL. A batch grows and shrinks to stay below it."""

_LOCK_WAIT = "1s"

_LOOKED_UP = 50_000
"""Rows that are looked up at once on SQLite: the more, the more neighbours; 2 MB of memory."""


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
    reasons = _reasons(model, now, failed_before)
    if dry_run:
        counts = {name: model.select().where(rule).count() for name, rule, _ in reasons}
        return CleanupReport(**counts, left=any(counts.values()), dry_run=True)
    batches_of_kind = _Locking if model._database().for_update else _Sorted
    report = CleanupReport()
    size, started = min(batch_size, _FIRST_BATCH), time.monotonic()
    for name, rule, order in reasons:
        batches = batches_of_kind(model, rule, order)
        while True:
            allowed = budget.rows_left(report, time.monotonic() - started)
            if allowed <= 0:
                left = any(_any(model, each) for _, each, _ in reasons)
                return replace(report, left=left)
            began = time.monotonic()
            deleted = batches.delete(min(size, allowed))
            took = time.monotonic() - began
            if deleted:
                report = replace(
                    report,
                    **{name: getattr(report, name) + deleted},
                    batches=report.batches + 1,
                    longest_batch=max(report.longest_batch, took),
                )
                if progress is not None:
                    progress(report)
                if took > _LONGEST_BATCH:
                    size = max(1, int(size * _LONGEST_BATCH / took))
                elif took < _LONGEST_BATCH / 2:
                    size = min(batch_size, size * 2)
            elif not _any(model, rule):
                break
            elif not batches.wait_for_others():
                return replace(report, left=True)
    return report


def _reasons(
    model: type[AIGeneratedContent], now: datetime, failed_before: datetime
) -> list[tuple[str, Any, Any]]:
    expired = model.expires_at < now
    kept = model.expires_at.is_null() | (model.expires_at >= now)
    # A constant, not a parameter: only so is the partial index known to serve.
    is_failed = model.status == peewee.SQL(f"'{ContentStatus.FAILED}'")
    failed = is_failed & (model.created_at < failed_before) & kept
    return [("expired", expired, model.expires_at), ("failed", failed, model.created_at)]


class _Locking:
    """Batches on PostgreSQL, where rows are locked: a second cleaner takes other rows."""

    def __init__(self, model: type[AIGeneratedContent], rule: Any, order: Any) -> None:
        self._model = model
        self._rule = rule
        self._order = order
        self._ids = model.select(model.id).where(rule).order_by(order)

    def delete(self, limit: int) -> int:
        """Delete up to so many rows by one statement, which looks and deletes: a row that was
        renewed meanwhile survives. By id, not by the last value seen: many rows may share one
        expiry."""
        batch: Any = self._ids.limit(limit).for_update("FOR UPDATE SKIP LOCKED")  # type: ignore[arg-type]
        # The array makes PostgreSQL look once, not once a row.
        ids = peewee.fn.ANY(peewee.fn.ARRAY(batch))
        return int(self._model.delete().where(self._model.id == ids).execute())

    def wait_for_others(self) -> bool:
        """Wait a while for rows that others have locked; False when they stay locked."""
        database = self._model._database()
        try:
            with database.atomic():
                database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (_LOCK_WAIT,))
                list(self._ids.limit(1).for_update().tuples())
        except peewee.OperationalError as error:
            if database_code(error) != "55P03":  # lock_not_available
                raise
            return False
        return True


class _Sorted(_Locking):
    """Batches on SQLite: many rows are looked up at once, without a lock, and deleted in the
    order in which they are stored. Neighbours share pages of the table and of most indexes;
    deleting by expiry wrote twice as much. Each is judged again when it is deleted."""

    _rows: list[int] | None = None

    def delete(self, limit: int) -> int:
        if not self._rows:
            found: Any = self._model.select(peewee.SQL("rowid")).where(self._rule)
            rows = found.order_by(self._order).limit(_LOOKED_UP).tuples()
            self._rows = sorted((row for (row,) in rows), reverse=True)
        if not self._rows:
            return 0  # without taking the write lock for nothing
        part = self._rows[-limit:]
        del self._rows[-limit:]
        chosen = peewee.SQL("rowid IN (SELECT value FROM json_each(?))", (json.dumps(part),))
        deleted = int(self._model.delete().where(chosen, self._rule).execute())
        if not deleted:
            self._rows = None  # another cleaner is ahead: look again
        return deleted

    def wait_for_others(self) -> bool:
        """Nothing to wait for: SQLite locks no rows."""
        return True


def _any(model: type[AIGeneratedContent], rule: Any) -> bool:
    return bool(list(model.select(model.id).where(rule).limit(1).tuples()))


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
