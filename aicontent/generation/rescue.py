"""Return rows whose lease has run out to the queue. Called by workers, callers and the cleanup."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import peewee

from ..database.availability import connected, survived
from ..database.constraints import CONFLICTS, error_code, refusal
from ..database.statement import slot, statement_of
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import check_budget, check_number
from ..fields.scalars import MAX_INTEGER, to_utc
from ..records.loading import load
from ..records.lookup import FAILED, GENERATING, PENDING, status_of
from ..records.partitioning import key_columns, of_users, row_key
from ..table import ContentTable
from .defaults import MAX_ATTEMPTS
from .events import say
from .failures import LEASE_RAN_OUT, with_failure

_LOOKED_UP = 5000
"""Rows per look-up."""

_BATCH = 500

_NAMED = 10
"""The most rows that a report names."""

_Row = tuple[str, Any]
"""The id of a row, and its user."""


@dataclass(frozen=True)
class RescueReport:
    """How many rows with an expired lease are pending again, and how many failed for good.

    `blocked` counts rows that the database refused to change; `named` has up to ten pairs of such
    an id and its reason. `left` is True if the budget or `stop` ended the run with rows left.
    """

    requeued: int = 0
    failed: int = 0
    left: bool = False
    blocked: int = 0
    named: tuple[tuple[str, str], ...] = ()


def checked_attempts(number: int) -> int:
    """Check `max_attempts` and return it; raise ArgumentError if it is not a positive int."""
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
    """Return rows whose lease has run out to the queue; see `AIGeneratedContent.rescue_stale`."""
    stale, most = is_stale(model, now), checked_attempts(max_attempts)
    check_budget(max_rows, max_seconds)
    if dry_run:
        rows: Any = model.select(_has_used_up(model, most)).where(stale).tuples()
        failed = Counter(bool(used_up) for (used_up,) in rows)
        return RescueReport(failed[False], failed[True])
    database = database_of(model)
    backend, report, started = backend_of(database), RescueReport(), time.monotonic()
    is_alone = not backend.in_transaction(database)
    aside: set[str] = set()  # rows that are locked, or that the database refuses to change
    batches: list[list[_Row]] = []
    with connected(database), backend.pace(database) as pace:
        while True:
            if not batches:
                rows = survived(database, partial(_stale_rows, model, stale, aside))
                batches = [rows] if rows else []
            allowed = _BATCH if max_rows is None else max_rows - report.requeued - report.failed
            is_late = max_seconds is not None and time.monotonic() - started >= max_seconds
            if not batches or is_late or allowed <= 0 or (stop is not None and stop()):
                return replace(report, left=bool(batches))
            batch, size = batches[-1], min(pace.size if is_alone else _BATCH, allowed)
            rows = batch[-size:]
            del batch[-size:]
            if not batch:
                batches.pop()
            try:
                freed, took = survived(database, partial(_free, model, rows, now, most))
            except peewee.PeeweeException as error:
                why = refusal(error)
                if error_code(error) in CONFLICTS:
                    aside |= {id for id, _ in rows}
                elif why is None:
                    raise
                elif len(rows) > 1:  # halve the batch to find the row that fails the statement
                    batches += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
                else:
                    ((id, _),) = rows
                    aside.add(id)
                    named = (*report.named, (id, why))[:_NAMED]
                    report = replace(report, blocked=report.blocked + 1, named=named)
                continue
            aside |= {id for id, _ in rows} - {content.id for content in freed}
            ends = Counter(content.status for content in freed)
            report = replace(
                report,
                requeued=report.requeued + ends[ContentStatus.PENDING],
                failed=report.failed + ends[ContentStatus.FAILED],
            )
            if is_alone:
                pace.rest(took, _BATCH)


def _stale_rows(model: Any, stale: Any, aside: set[str]) -> list[_Row]:
    query = model.select(model.id, model.user).where(stale).limit(_LOOKED_UP)
    if aside:
        query = query.where(~backend_of(database_of(model)).any_of(model.id, aside))
    return list(query.tuples())


def _free(
    model: type[ContentTable], rows: list[_Row], now: datetime | None, max_attempts: int
) -> tuple[list[Any], float]:
    """Free rows in a transaction; return them, and the seconds that others may have waited."""
    database = database_of(model)
    with backend_of(database).writing(database):
        began = time.monotonic()  # after the wait for SQLite's lock
        freed = rescue(model, dict(rows), max_attempts, now)
        return freed, time.monotonic() - began


def is_stale(model: type[ContentTable], now: datetime | None = None) -> Any:
    """Return the condition that a row's lease has run out, at `now` or by the database's clock."""
    clock = backend_of(database_of(model)).statement_clock()
    cutoff = clock if now is None else to_utc(now, "now")
    return (model.status == GENERATING) & (model.lease_expires_at < cutoff)


def rescue(
    model: Any, users: Mapping[str, Any], max_attempts: int, now: datetime | None = None
) -> list[Any]:
    """Make rows with an expired lease pending again, or failed if they have used up attempts.

    Args:
        model: the bound model.
        users: the users of the rows, by the ids of the rows. A row that another transaction has
            locked or completed meanwhile is skipped.
        max_attempts: how many failures a row may have if no request or claim set a number.
        now: an aware datetime to compare leases with; the database's clock by default.

    Returns:
        The rows that were changed.
    """
    backend = backend_of(database_of(model))

    def build() -> tuple[Any, Sequence[Any]]:
        status = status_of(model)
        cutoff = backend.statement_clock() if now is None else slot(":now")
        stale = (status == GENERATING) & (model.lease_expires_at < cutoff)
        same_users = of_users(model, slot(":users"))
        same = [backend.any_of(model.id, slot(":ids")), *same_users, stale]
        chosen = unlocked(model, same)
        is_last = _has_used_up(model, slot(":max_attempts"))
        ends = peewee.Case(None, [(is_last, FAILED)], PENDING)
        changes = {
            "status": ends,
            "metadata": with_failure(model, LEASE_RAN_OUT),
            "failures": model.failures + 1,
            "lease_expires_at": None,
            **backend.columns_of_update(),
        }
        columns = (model.id, model.user, model.type, model.status, model.attempts)
        is_chosen = row_key(model).in_(chosen)
        query: Any = model.update(changes).where(is_chosen, *same_users, stale)
        return query.returning(*columns), columns

    values: dict[str, Any] = {
        ":ids": backend.array(users),
        ":users": backend.array({*map(model.user.db_value, users.values())}),
        ":max_attempts": max_attempts,
    }
    if now is not None:
        values[":now"] = backend.time_parameter(to_utc(now, "now"))
    rows = statement_of(model, "rescue", values, build).rows(values)
    rescued = [load(model, row) for row in rows]
    for content in rescued:
        say("rescued", content, note=f"{LEASE_RAN_OUT}, and it is {content.status}")
    return rescued


def unlocked(model: Any, conditions: list[Any]) -> Any:
    """Select the keys of rows that no other transaction has locked."""
    query = model.select(*key_columns(model)).where(*conditions)
    return backend_of(database_of(model)).skipping_locked(query)


def _has_used_up(model: Any, max_attempts: Any) -> Any:
    return model.failures + 1 >= peewee.fn.COALESCE(model.max_attempts, max_attempts)
