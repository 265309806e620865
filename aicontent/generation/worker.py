"""Run workers: claim pending rows, generate and store their content, and retry failures later."""

import random
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
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
from ..records.lookup import PENDING, unexpired
from .arguments import check_generate, refuse_loop, refuse_transaction, seconds_of
from .attempt import STORE_FOR, attempt
from .claims import types_of
from .defaults import MAX_ATTEMPTS, Duration
from .events import say
from .failures import backoff
from .renewal import lease_seconds
from .rescue import checked_attempts
from .steps import Pause, Query, Steps, run

_IDLE = (0.5, 1.5)
"""Seconds to sleep when no row is due: jitter keeps workers from polling at the same time."""

_STEP = 0.1
"""Seconds after which a sleeping worker calls `stop`."""

_RESCUES = 30.0
"""The most seconds between two searches for rows of dead workers: half a lease."""


@dataclass(frozen=True)
class WorkReport:
    """How many rows a worker completed, failed for good, returned for a retry, and released."""

    completed: int = 0
    failed: int = 0
    retried: int = 0
    released: int = 0


def work(model: Any, generate: Callable[[Any], Any], **options: Any) -> WorkReport:
    """Run a worker in this thread; see `AIGeneratedContent.work`."""
    refuse_loop("work")
    check_generate(generate, "awork")
    all_work = Work("work", model, generate, **options)
    run(all_work.steps())
    return all_work.report


class Work:
    """One call of `work` or `awork`; all workers of `awork` share it. Times are in seconds.

    The arguments and errors are those of the method; `call` is its name for error messages.
    """

    report = WorkReport()
    rescue_at = 0.0
    looks_at = 0.0
    """When to poll again, after a worker found no due row."""

    def __init__(
        self,
        call: str,
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
    ) -> None:
        database = database_of(model)
        refuse_transaction(database, call)
        if not isinstance(until_empty, bool):
            raise ArgumentError("until_empty", "must be True or False", kind_of(until_empty))
        for name, function in (("stop", stop), ("progress", progress)):
            if function is not None and not callable(function):
                raise ArgumentError(name, "must be callable, or None", kind_of(function))
        self.model, self.generate = model, generate
        self.types = None if types is None else types_of(model, types)
        self.lease = lease_seconds(database, lease)
        self.should_stop = stop or bool
        self.until_empty = until_empty
        self.max_attempts = None if max_attempts is None else checked_attempts(max_attempts)
        self.expires_in = None if expires_in is None else seconds_of(expires_in, "expires_in")
        self.progress = progress

    def steps(self) -> Steps[None]:
        """Yield the steps of one worker: claim and generate rows until `stop` returns True."""
        try:
            yield from self._steps()
        except BaseException:
            self.should_stop = lambda: True  # the other workers finish the attempts they began
            raise

    def _steps(self) -> Steps[None]:
        while not self.should_stop():
            now = time.monotonic()
            if now < self.looks_at:
                yield Pause(min(_STEP, self.looks_at - now))
                continue
            if now >= self.rescue_at:
                pause = min(_RESCUES, self.lease / 2) * random.uniform(0.5, 1)  # noqa: S311
                self.rescue_at = now + pause
                most = self.max_attempts or MAX_ATTEMPTS
                yield self._query(partial(self.model.rescue_stale, most))
            content = yield self._query(self._claim)
            if content is not None:
                yield from self._attempt(content)
            elif self.until_empty and not (yield self._query(self._has_pending)):
                return
            else:
                self.looks_at = time.monotonic() + random.uniform(*_IDLE)  # noqa: S311

    def _query(self, call: Callable[[], Any]) -> Query:
        return Query(partial(retried, database_of(self.model), STORE_FOR, call))

    def _claim(self) -> Any:
        return self.model.claim(self.types, self.lease, max_attempts=self.max_attempts)

    def _has_pending(self) -> bool:
        model, database = self.model, database_of(self.model)
        now = backend_of(database).statement_clock()
        query = model.select().where(
            model.status == PENDING,
            unexpired(model, now),
        )
        if self.types:
            query = query.where(model.type.in_(self.types))
        with connected(database):
            return bool(survived(database, query.exists))

    def _attempt(self, content: Any) -> Steps[None]:
        """Run one attempt; after a failure, log it and retry the row later.

        Raises:
            ContentNotStoredError: the database is unavailable. And interruptions.
        """

        def give_up(error: Exception) -> None:
            content.fail(error, retry=True, delay=backoff(content.failures or 0))

        failures = content.failures
        try:
            is_stored = yield from attempt(
                content,
                self.generate,
                lease=self.lease,
                expires_in=self.expires_in,
                give_up=give_up,
            )
            if not is_stored:
                content.status = ContentStatus.COMPLETED  # another attempt completed the row
        except ContentNotStoredError:
            raise
        except Exception as error:  # noqa: BLE001 - generate() may raise anything
            # The text of the error is not logged, because it may repeat a prompt.
            what = type(error).__qualname__
            if not isinstance(error, (GeneratedContentError, OpenTransactionError)):
                place = traceback.extract_tb(error.__traceback__)[-1]
                what += f" at {place.filename}:{place.lineno}"
            say("error", content, note=what)
        finally:
            self.report = _counted(self.report, content, failures)
            if self.progress is not None:
                self.progress(self.report)


def _counted(report: WorkReport, content: Any, failures: int) -> WorkReport:
    if content.status == ContentStatus.GENERATING:  # giving up the row failed
        return report
    put_back = "released" if content.failures == failures else "retried"
    ends = {ContentStatus.COMPLETED: "completed", ContentStatus.FAILED: "failed"}
    name = ends.get(content.status, put_back)
    return replace(report, **{name: getattr(report, name) + 1})
