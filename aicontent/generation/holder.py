"""Fail, release, and extend the lease of a claimed row. Called by the holder of the claim.

Each statement tests the number of the attempt, so a worker that has lost the row changes nothing.
docs/explanation/claims.md shows the states.
"""

from typing import Any

import peewee

from ..database.availability import survived
from ..database.statement import Computed, Slot, slot
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import ArgumentError, LeaseLostError, kind_of
from ..records.instances import check_selected
from ..records.loading import load
from ..records.lookup import FAILED, GENERATING, PENDING, status_of
from ..records.record import update
from .arguments import seconds_of
from .defaults import MAX_ATTEMPTS, Duration
from .events import say
from .failures import reason_of, with_failure
from .rescue import checked_attempts


def fail(
    content: Any,
    reason: str | BaseException,
    retry: bool | None,
    delay: Duration | None,
    max_attempts: int | None,
) -> None:
    """Mark a claimed row failed or retry it; see `AIGeneratedContent.fail`."""
    if not (retry is None or isinstance(retry, bool)):
        raise ArgumentError("retry", "must be True, False or None", kind_of(retry))
    if delay is not None and retry is False:
        raise ArgumentError("delay", "needs retry=True or retry=None", kind_of(delay))
    check_selected(content, "failures", "max_attempts")
    seconds = 0.0 if delay is None else seconds_of(delay, "delay", may_be_zero=True)
    most = content.max_attempts if max_attempts is None else checked_attempts(max_attempts)
    has_left = retry is not False and (content.failures or 0) + 1 < (most or MAX_ATTEMPTS)
    why = reason_of(reason)
    _end(
        content,
        metadata=_failure(why),
        failures=Computed("one more failure", lambda model: model.failures + 1),
        max_attempts=most,
        **(_retried(seconds, retry) if has_left else {"status": ContentStatus.FAILED}),
    )
    # A reason that is a text may repeat content, so it is not logged.
    note = why if isinstance(reason, BaseException) else ""
    say("failed" if content.status == ContentStatus.FAILED else "retried", content, note=note)


def _retried(delay: float, retry: bool | None) -> dict[str, Any]:
    """Return the changes for a retry; if `retry` is None, a row that is not queued fails."""
    later = seconds_from_now("delay", delay)
    if retry:
        return {"status": ContentStatus.PENDING, "retry_at": later if delay else None}

    # The UPDATE tests `queued`, because request() may set it at any time before.
    def status(model: Any) -> Any:
        return peewee.Case(None, [(model.queued, PENDING)], FAILED)

    def retry_at(model: Any) -> Any:
        return peewee.Case(None, [(model.queued, later.build(model))])

    return {
        "status": Computed("pending if queued", status),
        "retry_at": Computed("delayed if queued", retry_at, later.parameters),
    }


def release(content: Any) -> None:
    """Return a claimed row to the queue; see `AIGeneratedContent.release`."""
    _end(content, status=ContentStatus.PENDING)
    say("released", content)


def abandon(content: Any, reason: str) -> None:
    """Fail and expire a row that this call inserted, because its request has an answer.

    If `request()` asked for the row meanwhile, it is released instead.
    """
    now = Computed("now", lambda model: backend_of(database_of(model)).statement_clock())
    changes = {"status": ContentStatus.FAILED, "lease_expires_at": None, "expires_at": now}
    held = _fence_of(content).parameters
    is_alone = Computed("alone", lambda model: _is_held(model) & ~model.queued, held)
    if not update(content, {**changes, "metadata": _failure(reason)}, is_alone):
        release(content)


def extend_lease(content: Any, lease: Duration) -> None:
    """Extend the lease of a claimed row; see `AIGeneratedContent.extend_lease`."""
    _fenced(content, lease_expires_at=seconds_from_now("lease", seconds_of(lease, "lease")))


def renew(content: Any, lease: float) -> bool:
    """Extend a claimed row's lease without changing the instance; False if the claim is lost."""
    known = ("id", "user", "attempts")
    row = {name: content.__data__[name] for name in known if name in content.__data__}
    twin = load(type(content), row)
    changes = {"lease_expires_at": seconds_from_now("lease", lease)}
    return update(twin, changes, _fence_of(twin))


def _failure(reason: str) -> Computed:
    """Return the row's metadata with the failure recorded in it."""
    values = {":reason": reason}
    return Computed("failure", lambda model: with_failure(model, slot(":reason")), values)


def _end(content: Any, **changes: Any) -> None:
    _fenced(content, **{"lease_expires_at": None, "retry_at": None, **changes})


def _fenced(content: Any, **changes: Any) -> None:
    """Write changes to the claimed row, if this attempt still holds its claim."""
    check_claimed(content)
    database = database_of(type(content))
    if not survived(database, lambda: update(content, changes, _fence_of(content))):
        raise LeaseLostError(content.id, content.attempts, state_of(content))


def check_claimed(content: Any) -> None:
    """Check that an instance comes from a claim.

    Raises:
        LeaseLostError: the instance is not generating, or has no lease.
    """
    check_selected(content, "id", "status", "attempts")
    has_lease = content.__data__.get("lease_expires_at", True) is not None
    if content.status != ContentStatus.GENERATING or not has_lease:
        why = f"this instance is {content.status} and was not claimed: call claim() first"
        raise LeaseLostError(content.id, content.attempts, why)


def _fence_of(content: Any) -> Computed:
    return Computed("fence", _is_held, {":attempt": content.attempts})


def _is_held(model: Any) -> Any:
    # If a row is generating without a lease, another program has it.
    has_lease = model.lease_expires_at.is_null(False)
    return (status_of(model) == GENERATING) & (model.attempts == slot(":attempt")) & has_lease


def state_of(content: Any) -> str:
    """Return why a claim is over."""
    model: Any = type(content)
    rows = model.select(model.status, model.attempts).where(model.id == content.id).tuples()
    for status, attempts in rows:
        is_now = f"the row is now {status}, at attempt {attempts}"
        if status in (ContentStatus.COMPLETED, ContentStatus.CACHED):
            return f"{is_now}: another answer was stored first"
        return (
            f"the lease ran out, and {is_now}: claim with a longer lease, or call extend_lease() "
            "while generating"
        )
    return "the row was deleted"


def seconds_from_now(name: str, seconds: float) -> Computed:
    """Return the time in some seconds, by the database's clock; `name` names the parameter."""

    def build(model: Any) -> Any:
        return backend_of(database_of(model)).clock_after(Slot(f":{name}"))

    return Computed(name, build, {f":{name}": seconds})
