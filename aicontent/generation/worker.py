"""Work off pending rows: claim, generate, store, and try again later what failed."""

import random
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from ..database.availability import connected, retried, survived
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import (
    ArgumentError,
    ContentNotStoredError,
    GeneratedContentError,
    OpenTransactionError,
    kind_of,
)
from ..records.lookup import unexpired
from .arguments import Duration, check_generate, refuse_transaction, seconds_of
from .attempt import STORE_FOR, attempt
from .claims import types_of
from .events import say
from .failures import backoff
from .renewal import lease_seconds
from .rescue import MAX_ATTEMPTS, checked_attempts
from .steps import run

_IDLE = (0.5, 1.5)
"""Seconds to sleep when nothing is due: jitter keeps workers from looking at the same moments."""

_STEP = 0.1
"""Seconds after which a sleeping worker asks whether to stop."""

_RESCUES = 30.0
"""The most seconds between two looks for the rows of workers that were lost: half a lease."""


@dataclass(frozen=True)
class WorkReport:
    """How many rows a worker completed, failed for good, put back to retry, and released."""

    completed: int = 0
    failed: int = 0
    retried: int = 0
    released: int = 0


def work(
    model: Any,
    generate: Callable[[Any], Any],
    *,
    types: Collection[str] | str | None,
    lease: Duration | None,
    stop: Callable[[], bool] | None,
    until_empty: bool,
    max_attempts: int | None,
    expires_in: Duration | None,
    progress: Callable[[WorkReport], object] | None,
) -> WorkReport:
    """Work off pending rows; see `AIGeneratedContent.work`."""
    database = database_of(model)
    refuse_transaction(database, "work")
    check_generate(generate)
    names = None if types is None else types_of(model, types)
    seconds = lease_seconds(database, lease)
    most = MAX_ATTEMPTS if max_attempts is None else checked_attempts(max_attempts)
    lifetime = None if expires_in is None else seconds_of(expires_in, "expires_in")
    if not isinstance(until_empty, bool):
        raise ArgumentError("until_empty", "must be True or False", kind_of(until_empty))
    for name, call in (("stop", stop), ("progress", progress)):
        if call is not None and not callable(call):
            raise ArgumentError(name, "must be callable, or None", kind_of(call))
    is_told, report, rescue_at = stop or bool, WorkReport(), time.monotonic()

    def claimed(_: bool) -> Any:
        return model.claim(names, seconds, max_attempts=max_attempts)

    while not is_told():
        if time.monotonic() >= rescue_at:
            retried(database, STORE_FOR, lambda _: model.rescue_stale(most))
            pause = min(_RESCUES, seconds / 2) * random.uniform(0.5, 1)  # noqa: S311
            rescue_at = time.monotonic() + pause
        content = retried(database, STORE_FOR, claimed)
        if content is None:
            if until_empty and not _has_pending(model, names):
                break
            _sleep(is_told)
            continue
        failures = content.failures
        try:
            _attempt(content, generate, seconds, lifetime)
        finally:
            report = _counted(report, content, failures)
            if progress is not None:
                progress(report)
    return report


def _counted(report: WorkReport, content: Any, failures: int) -> WorkReport:
    if content.status == ContentStatus.GENERATING:  # it could not be given up
        return report
    put_back = "released" if content.failures == failures else "retried"
    ends = {ContentStatus.COMPLETED: "completed", ContentStatus.FAILED: "failed"}
    name = ends.get(content.status, put_back)
    return replace(report, **{name: getattr(report, name) + 1})


def _attempt(
    content: Any, generate: Callable[[Any], Any], lease: float, expires_in: float | None
) -> None:
    """Run one attempt; a failure is logged, and the row is put back.

    Raises:
        ContentNotStoredError: the database is unavailable. And interruptions.
    """

    def give_up(error: Exception) -> None:
        content.fail(error, retry=True, delay=backoff(content.failures or 0))

    try:
        steps = attempt(content, generate, lease=lease, expires_in=expires_in, give_up=give_up)
        if not run(steps):
            content.status = ContentStatus.COMPLETED  # by another attempt
    except ContentNotStoredError:
        raise
    except Exception as error:  # noqa: BLE001 - generate() may raise anything
        # Not the text of the error, which may repeat a prompt.
        what = type(error).__qualname__
        if not isinstance(error, (GeneratedContentError, OpenTransactionError)):
            place = traceback.extract_tb(error.__traceback__)[-1]
            what += f" at {place.filename}:{place.lineno}"
        say("error", content, note=what)


def _has_pending(model: Any, types: list[str] | None) -> bool:
    now = backend_of(database_of(model)).statement_clock()
    query = model.select().where(
        model.status == ContentStatus.PENDING,
        unexpired(model, now),
    )
    if types:
        query = query.where(model.type.in_(types))
    database = database_of(model)
    with connected(database):
        return bool(survived(database, query.exists))


def _sleep(is_told: Callable[[], bool]) -> None:
    until = time.monotonic() + random.uniform(*_IDLE)  # noqa: S311 - no secret
    while time.monotonic() < until and not is_told():
        time.sleep(_STEP)
