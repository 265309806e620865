"""Serve stored content or generate it, once for all callers that ask for it at the same time."""

import random
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

from ..database.availability import connected, is_temporary, survived
from ..database.internals import is_pool_exhausted
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus, ContentTypeLike, Served
from ..errors import (
    ArgumentError,
    ContentNotStoredError,
    GenerationFailedError,
    InProgressError,
    OpenTransactionError,
    kind_of,
)
from ..records.lookup import Scope, find, use
from ..records.partitioning import of_user
from ..table import C, new_id
from .arguments import check_generate, refuse_loop, refuse_transaction, seconds_of
from .attempt import attempt, end, is_lost
from .claims import attributes_of_claim, claim_row
from .defaults import MAX_ATTEMPTS, Duration
from .events import say
from .failures import LEASE_RAN_OUT, backoff, failure_of, recorded_reason
from .holder import abandon
from .renewal import lease_seconds
from .requests import answer_of, attributes_of, enter, newest_answer, reusable_answer
from .rescue import checked_attempts, is_stale, rescue
from .steps import Pause, Query, Steps, run

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two polls of a row that another caller generates. A poll reads one row by key."""

_RESTARTS = 10
"""How often a call may begin again after its wait, because the row that it found was deleted."""


def get_or_generate(model: type[C], *request: Any, **options: Any) -> C:
    """Serve or generate content; see `AIGeneratedContent.get_or_generate`."""
    refuse_loop("get_or_generate")
    check_generate(request[-1], "aget_or_generate")
    content: C = run(flight("get_or_generate", model, *request, **options).steps())
    return content


def flight(
    call: str,
    model: type[C],
    user: Any,
    type: ContentTypeLike,
    request_payload: dict[str, Any],
    generate: Callable[[Any], Any],
    *,
    level: str | None,
    variant: Any,
    wait: Duration,
    expires_in: Duration | None,
    serve_stale: bool,
    refresh: bool,
    mark: bool,
    lease: Duration | None,
    max_attempts: int | None,
) -> "Flight":
    """Check the arguments of `get_or_generate`, and return the call.

    `call` is the name of the called method, for error messages.
    """
    refuse_transaction(database_of(model), call)
    for name, flag in (("serve_stale", serve_stale), ("refresh", refresh), ("mark", mark)):
        if not isinstance(flag, bool):
            raise ArgumentError(name, "must be True or False", kind_of(flag))
    return Flight(
        model=model,
        attributes=attributes_of(model, user, type, request_payload, level, variant, {}),
        generate=generate,
        wait=seconds_of(wait, "wait", may_be_zero=True),
        expires_in=None if expires_in is None else seconds_of(expires_in, "expires_in"),
        serve_stale=serve_stale,
        refresh=refresh,
        mark=mark,
        lease=None if lease is None else seconds_of(lease, "lease"),
        max_attempts=None if max_attempts is None else checked_attempts(max_attempts),
        began=time.monotonic(),
    )


class Flight(NamedTuple):
    """One call of `get_or_generate`; times are in seconds.

    Each step executes a few statements, and returns content and whether this call has claimed it.
    If another caller has the content in flight, the call polls its row by id. If a step returns
    no content, the row was deleted or has a status that no step handles, and the call begins
    again.
    """

    model: Any
    attributes: dict[str, Any]
    generate: Callable[[Any], Any]
    wait: float
    expires_in: float | None
    serve_stale: bool
    refresh: bool
    mark: bool
    lease: float | None
    max_attempts: int | None
    began: float

    def steps(self, awaited: str | None = None) -> Steps[Any]:
        """Yield the steps of the call; `awaited` is the id of the row in flight, if known."""
        pause, restarts = _FIRST_PAUSE, 0
        remaining = self.wait - (time.monotonic() - self.began)
        if awaited is not None and remaining > 0 and not self.serve_stale:
            yield Pause(pause, awaited, remaining)
        while True:
            waited = time.monotonic() - self.began
            try:
                look = self._begin if awaited is None else partial(self._look, awaited, True)
                content, is_claimed = yield Query(partial(self._looked, look))
            except Exception as error:
                if not is_pool_exhausted(error) or waited >= self.wait:
                    raise
            else:
                if is_claimed:
                    return (yield from self._generate(content))
                if content is not None and content.served is not None:
                    return content
                restarts += content is None
                awaited = None if content is None else content.id
            waited = time.monotonic() - self.began
            if waited >= self.wait and (awaited or restarts > _RESTARTS):
                raise InProgressError(awaited or "of this request", waited)
            # Jitter keeps the waiting callers from polling at the same time.
            jitter = random.uniform(0.5, 1)  # noqa: S311 - no secret
            remaining = max(0.0, self.wait - waited)
            yield Pause(min(pause * jitter, remaining), awaited, remaining)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _looked(self, look: Callable[[], Any]) -> Any:
        database = database_of(self.model)
        with connected(database):
            return survived(database, look)

    def _begin(self) -> tuple[Any, bool]:
        content = self._use_reusable(Served.STORED)
        if content is not None:
            return content, False
        # A copy, because generate() may change the content's payload, not the caller's.
        payload = deepcopy(self.attributes["request_payload"])
        self.attributes.setdefault("id", new_id())
        attributes = self.attributes | {"request_payload": payload}
        content, is_new = enter(
            self.model,
            attributes,
            unless_completed=not self.refresh,
            columns=(self.model.id,),
            **attributes_of_claim(self._lease, self.max_attempts),
        )
        if content is None:
            return None, False
        if not is_new:
            return self._look(content.id, False)
        content._claimed_at = time.monotonic()
        try:
            # Another caller may have inserted and completed a row between the first SELECT and
            # the insert of this row, but not later.
            earlier = survived(database_of(self.model), partial(self._use_reusable, Served.STORED))
            if earlier is None:
                return content, True
            abandon(content, "another caller had just completed it")
        except BaseException as error:
            end(content, error, partial(self._give_up, content))
            raise
        return earlier, False

    def _look(self, id: str, is_waiting: bool) -> tuple[Any, bool]:
        """Read the row in flight. A caller that waits claims it only when its retry is due."""
        model, user = self.model, self.attributes["user"]
        now = backend_of(database_of(model)).statement_clock()
        stale, is_due = is_stale(model), model.retry_at.is_null() | (model.retry_at <= now)
        columns = (model.id, model.status, model.metadata, model.queued)
        query = model.select(*columns, stale.alias("is_stale"), is_due.alias("is_due"))
        row = next(iter(list(query.where(model.id == id, *of_user(model, user)))), None)
        if row is None:
            return None, False
        if row.status == ContentStatus.GENERATING and row.is_stale:
            for freed in rescue(model, {id: user}, self.max_attempts or MAX_ATTEMPTS):
                row.status, row.metadata = freed.status, failure_of(LEASE_RAN_OUT)
        match row.status:
            case ContentStatus.COMPLETED:
                # Serve it even if it has expired, because it was generated for this caller too.
                return self._use_completed(id, Served.WAITED), False
            case ContentStatus.FAILED:
                content = self._use_reusable(Served.STORED) or self._use_stale()
                if content is None:
                    raise GenerationFailedError(id, recorded_reason(row.metadata))
                return content, False
            case ContentStatus.PENDING:
                content = self._use_reusable(Served.STORED) or (
                    self._use_stale() if row.queued else None
                )
                if content is not None:
                    return content, False
                if is_waiting and not row.is_due:
                    return row, False
                content = claim_row(model, id, self._user, self._lease, self.max_attempts)
                return (content, True) if content is not None else (row, False)
            case ContentStatus.GENERATING:
                return self._use_stale() or row, False
        return None, False

    def _generate(self, content: Any) -> Steps[Any]:
        try:
            stored = yield from attempt(
                content,
                self.generate,
                lease=self._lease,
                expires_in=self.expires_in,
                give_up=partial(self._give_up, content),
            )
        except (OpenTransactionError, ContentNotStoredError):
            raise
        except Exception as error:
            other = yield Query(partial(self._instead, content, error))
            if other is None:
                raise
            return other
        if stored:
            content.served = Served.GENERATED
            return content
        other = yield Query(partial(self._completed, content.id))
        if other is None:  # the row was deleted meanwhile
            raise GenerationFailedError(content.id, "its row was deleted")
        return other

    def _completed(self, id: str) -> Any:
        with connected(database_of(self.model)):
            return self._use_completed(id, Served.STORED)

    def _give_up(self, content: Any, error: Exception) -> None:
        """Fail the row, or retry it if request() asked for it too."""
        content.fail(error, retry=None, delay=backoff(content.failures or 0))

    def _instead(self, content: Any, error: Exception) -> Any:
        """Return content to serve instead of raising an error, if there is any."""
        has_lost = is_lost(content, error)
        if not (has_lost or self.serve_stale):
            return None
        try:
            with connected(database_of(self.model)):
                if has_lost:
                    served = self._use_completed(content.id, Served.STORED)
                    return served or self._use_reusable(Served.STORED)
                return self._use_stale()
        except Exception as another:
            if not is_temporary(another):
                raise
            return None

    @property
    def _user(self) -> Any:
        """The user's id, as a parameter for the driver."""
        return self.model.user.rel_field.db_value(self.attributes["user"])

    @property
    def _lease(self) -> float:
        return lease_seconds(database_of(self.model), self.lease)

    def _use_reusable(self, served: Served) -> Any:
        return None if self.refresh else self._use("request", reusable_answer, served)

    def _use_stale(self) -> Any:
        return (
            self._use("expired request", newest_answer, Served.STALE) if self.serve_stale else None
        )

    def _use_completed(self, id: str, served: Served) -> Any:
        return self._use("completed", answer_of, served, {"id": id, "user": self._user})

    def _use(
        self, key: str, scope: Scope, served: Served, values: dict[str, Any] | None = None
    ) -> Any:
        # Without `now`, expiry is tested with the database's clock, as leases are.
        if values is None:
            values = {"user": self._user, "fingerprint": self.attributes["fingerprint"]}
        content = (use if self.mark else find)(self.model, key, scope, values)
        if content is not None:
            content.served = served
            say(served, content, time.monotonic() - self.began)
        return content
