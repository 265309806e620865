"""Return the rows whose lease has run out to the queue."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import peewee

from ..database.availability import connected, survived
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import check_budget, check_number
from ..fields.scalars import MAX_INTEGER, to_utc
from ..records.loading import load
from ..table import ContentTable
from .events import say
from .failures import LEASE_RAN_OUT, with_failure

_BATCH = 500

MAX_ATTEMPTS = 3
"""Failures after which a row is failed, if no claim of it allowed more."""


@dataclass(frozen=True)
class RescueReport:
    """How many rows whose lease had run out are pending again, and how many failed for good."""

    requeued: int = 0
    failed: int = 0


def checked_attempts(number: int) -> int:
    """Return a number of attempts, or raise ArgumentError if it is not a positive integer."""
    check_number(number, "max_attempts", 1, MAX_INTEGER)
    return number


def rescue_stale(
    model: type[ContentTable],
    max_attempts: int = MAX_ATTEMPTS,
    *,
    now: datetime | None = None,
    max_rows: int | None = None,
    max_seconds: float | None = None,
    dry_run: bool = False,
    stop: Callable[[], bool] | None = None,
) -> RescueReport:
    """Free the rows whose lease has run out; see `AIGeneratedContent.rescue_stale`."""
    stale, most = is_stale(model, now), checked_attempts(max_attempts)
    check_budget(max_rows, max_seconds)
    if dry_run:
        rows: Any = model.select(_has_used_up(model, most)).where(stale).tuples()
        failed = Counter(bool(used_up) for (used_up,) in rows)
        return RescueReport(failed[False], failed[True])
    database = database_of(model)
    backend, report, started = backend_of(database), RescueReport(), time.monotonic()
    if backend.in_transaction(database):
        return rescue(model, stale, most)
    with connected(database), backend.pace(database) as pace:
        while True:
            began = time.monotonic()
            is_late = max_seconds is not None and began - started >= max_seconds
            allowed = _BATCH if max_rows is None else max_rows - report.requeued - report.failed
            size = min(pace.size, _BATCH, allowed)
            if is_late or size <= 0 or (stop is not None and stop()):
                return report
            freed = survived(database, partial(rescue, model, stale, most, size))
            rows = freed.requeued + freed.failed
            if not rows:  # the others are locked, or a trigger keeps them as they are
                return report
            report = RescueReport(report.requeued + freed.requeued, report.failed + freed.failed)
            pace.rest(time.monotonic() - began, _BATCH)


def is_stale(model: type[ContentTable], now: datetime | None = None) -> Any:
    """Return the condition that a row's lease has run out, by default by the database's clock."""
    clock = backend_of(database_of(model)).statement_clock()
    moment = clock if now is None else to_utc(now, "now")
    return (model.status == ContentStatus.GENERATING) & (model.lease_expires_at < moment)


def rescue(
    model: type[ContentTable], stale: Any, max_attempts: int, most: int | None = None
) -> RescueReport:
    """Make stale rows pending again, or failed if they used up their attempts.

    Args:
        model: the bound model.
        stale: a condition that implies `is_stale`.
        max_attempts: how many attempts a row has that no claim allowed a number.
        most: the most rows.
    """
    # Skip locked rows: a worker may be completing them.
    stale &= model.id.in_(unlocked(model, stale, most))
    used_up = _has_used_up(model, max_attempts)
    changes = {
        "status": peewee.Case(
            None, [(used_up, ContentStatus.FAILED.value)], ContentStatus.PENDING.value
        ),
        "metadata": with_failure(model, LEASE_RAN_OUT),
        "failures": model.failures + 1,
        "lease_expires_at": None,
        **backend_of(database_of(model)).columns_of_update(),
    }
    columns = (model.id, model.user, model.type, model.status, model.attempts)
    rows: Any = model.update(changes).where(stale).returning(*columns).dicts()
    rescued = load(model, list(rows.execute()))
    for content in rescued:
        say("rescued", content, note=f"{LEASE_RAN_OUT}, and it is {content.status}")
    counts: Counter[Any] = Counter(content.status for content in rescued)
    return RescueReport(counts[ContentStatus.PENDING], counts[ContentStatus.FAILED])


def unlocked(model: type[ContentTable], condition: Any, most: int | None = None) -> Any:
    """Select the ids of rows, at most so many, that no other transaction has locked."""
    query = model.select(model.id).where(condition).limit(most)
    return backend_of(database_of(model)).skipping_locked(query)


def _has_used_up(model: Any, max_attempts: int) -> Any:
    return model.failures + 1 >= peewee.fn.COALESCE(model.max_attempts, max_attempts)
