"""Serve content or generate it: once for all callers who ask for the same at the same time."""

from __future__ import annotations

import random
import time
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from inspect import iscoroutinefunction
from typing import Any

import peewee

from ..database.statement import slot
from ..database.supported import backend_of, connected, database_of
from ..enums import ContentStatus
from ..errors import (
    GenerationFailedError,
    InProgressError,
    LeaseLostError,
    OpenTransactionError,
    ValidationError,
    kind_of,
)
from ..records.lookup import Narrow, reusable, use
from ..table import C
from .attempt import Generate, failed_by_errors, generate_and_store, is_lost
from .claims import attributes_of_claim, claim_row
from .durations import Duration, seconds_of
from .failures import LEASE_RAN_OUT, recorded_reason
from .requests import attributes_of, enter
from .rescue import checked_attempts, is_stale, rescue

WAIT = timedelta(minutes=1)
"""How long to wait for another caller's generating: as long as a learner may have to wait."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two looks at a row that another caller generates. A look reads one row by key."""


def get_or_generate(
    model: type[C],
    user: Any,
    type: str,
    request_payload: dict[str, Any],
    generate: Generate,
    *,
    level: str | None,
    variant: Any,
    wait: Duration,
    expires_in: Duration | None,
    serve_stale: bool,
    lease: Duration,
    max_attempts: int,
) -> C:
    """Serve or generate content; see `AIGeneratedContent.get_or_generate`."""
    database = database_of(model)
    if backend_of(database).in_transaction(database):
        raise OpenTransactionError
    if not callable(generate) or iscoroutinefunction(generate):
        rule = "must be a plain function: let it call asyncio.run() for its async code"
        kind = "an async function" if iscoroutinefunction(generate) else kind_of(generate)
        raise ValidationError("generate", rule, kind)
    if not isinstance(serve_stale, bool):
        raise ValidationError("serve_stale", "must be True or False", kind_of(serve_stale))
    flight = _Flight(
        model=model,
        attributes=attributes_of(model, user, type, request_payload, level, variant, {}),
        generate=generate,
        wait=seconds_of(wait, "wait", may_be_zero=True),
        expires_in=None if expires_in is None else seconds_of(expires_in, "expires_in"),
        serve_stale=serve_stale,
        lease=seconds_of(lease, "lease"),
        max_attempts=checked_attempts(max_attempts),
    )
    content: C = flight.run()
    return content


@dataclass(frozen=True)
class _Flight:
    """One call of `get_or_generate`; times are in seconds.

    Each step executes a few statements. It returns content, and whether this call has claimed
    it. Content that another caller has in flight is looked at again, by its id. If a step
    returns no content, the row is gone or has a status that no step handles, and the call begins
    again.
    """

    model: Any
    attributes: dict[str, Any]
    generate: Generate
    wait: float
    expires_in: float | None
    serve_stale: bool
    lease: float
    max_attempts: int

    def run(self) -> Any:
        """Take steps until there is content."""
        began, pause = time.monotonic(), _FIRST_PAUSE
        awaited = None
        while True:
            with connected(database_of(self.model)):
                content, is_claimed = self._look(awaited) if awaited else self._begin()
            if is_claimed:
                return self._generate(content)
            if content is not None and content.status == ContentStatus.COMPLETED:
                return content
            awaited = None if content is None else content.id
            waited = time.monotonic() - began
            if awaited and waited >= self.wait:
                raise InProgressError(awaited, waited)
            # Jitter keeps the waiting callers from looking at the same moments.
            jitter = random.uniform(0.5, 1)  # noqa: S311 - no secret
            time.sleep(max(0.0, min(pause * jitter, self.wait - waited)))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _begin(self) -> tuple[Any, bool]:
        content = self._use_reusable()
        if content is not None:
            return content, False
        # The caller owns the payload, and generate may change the content's.
        payload = deepcopy(self.attributes["request_payload"])
        attributes = self.attributes | {"request_payload": payload}
        content, is_new = enter(self.model, attributes, **attributes_of_claim(self.lease))
        return (content, True) if is_new else self._look(content.id)

    def _look(self, id: str) -> tuple[Any, bool]:
        model = self.model
        stale = is_stale(model)
        columns = (model.id, model.status, model.metadata, stale.alias("is_stale"))
        row = next(iter(list(model.select(*columns).where(model.id == id))), None)
        if row is not None and row.status == ContentStatus.GENERATING and row.is_stale:
            rescued = rescue(model, stale & (model.id == id), self.max_attempts)
            if rescued.failed:
                raise GenerationFailedError(id, LEASE_RAN_OUT)
            if rescued.requeued:
                row.status = ContentStatus.PENDING
        if row is None:
            return None, False
        match row.status:
            case ContentStatus.COMPLETED:
                # It was generated for the callers who waited, however soon it expires.
                return self._use_completed(id), False
            case ContentStatus.FAILED:
                content = self._use_reusable()
                if content is None:
                    raise GenerationFailedError(id, recorded_reason(row.metadata))
                return content, False
            case ContentStatus.PENDING:
                content = self._use_reusable()
                if content is not None:
                    return content, False
                content = claim_row(model, id, self.lease)
                return (content, True) if content is not None else (row, False)
            case ContentStatus.GENERATING:
                return (self.serve_stale and self._use_expired()) or row, False
        return None, False

    def _generate(self, content: Any) -> Any:
        database = database_of(self.model)
        try:
            with failed_by_errors(content):
                with connected(database):
                    # Another caller may have begun and completed the request between the first
                    # look and the insert of this row, but not since.
                    earlier = self._use_reusable()
                    if earlier is not None:
                        content.fail("another caller had just completed it")
                        return earlier
                generate_and_store(
                    content, self.generate, lease=self.lease, expires_in=self.expires_in
                )
        except LeaseLostError as error:
            with connected(database):
                other = self._use_reusable() if is_lost(content, error) else None
            if other is None:
                raise
            return other
        return content

    def _use_reusable(self) -> Any:
        return self._use("request", _reusable)

    def _use_expired(self) -> Any:
        return self._use("expired request", _last_expired)

    def _use(self, key: str, narrow: Narrow) -> Any:
        # Without a moment, the database's clock judges, as it does for leases.
        values = {name: self.attributes[name] for name in ("user", "fingerprint")}
        return use(self.model, key, narrow, values)

    def _use_completed(self, id: str) -> Any:
        return use(
            self.model, "completed", lambda t, query, _: query.where(t.id == slot("id")), {"id": id}
        )


def _reusable(table: Any, query: Any, now: Any) -> Any:
    return reusable(table, query, _same_request(table), now, _is_completed(table))


def _last_expired(table: Any, query: Any, now: Any) -> Any:
    completed = query.where(*_same_request(table), _is_completed(table))
    return completed.order_by(table.expires_at.desc())


def _is_completed(table: Any) -> Any:
    # COALESCE keeps the planner from the index of all completed rows: one request has few rows.
    return peewee.fn.COALESCE(table.status, "") == ContentStatus.COMPLETED


def _same_request(table: Any) -> list[Any]:
    return [table.user == slot("user"), table.fingerprint == slot("fingerprint")]
