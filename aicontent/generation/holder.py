"""What the holder of a claimed row does with it: fail, release, and extend the lease.

The statements are fenced by the number of the attempt, so a worker that has lost the row changes
nothing. docs/explanation/claims.md shows the states.
"""

from typing import Any

import peewee

from ..database.availability import survived
from ..database.statement import Computed, Slot, literal, slot
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import ArgumentError, LeaseLostError, kind_of
from ..records.instances import check_selected
from ..records.loading import load
from ..records.lookup import status_of
from ..records.record import update
from .arguments import Duration, seconds_of
from .events import say
from .failures import reason_of, with_failure
from .rescue import MAX_ATTEMPTS, checked_attempts

_GENERATING, _PENDING = literal(ContentStatus.GENERATING), literal(ContentStatus.PENDING)
_FAILED = literal(ContentStatus.FAILED)


def fail(
    content: Any,
    reason: str | BaseException,
    retry: bool | None,
    delay: Duration | None,
    max_attempts: int | None,
) -> None:
    """Give a claimed row up; see `AIGeneratedContent.fail`."""
    if not (retry is None or isinstance(retry, bool)):
        raise ArgumentError("retry", "must be True, False or None", kind_of(retry))
    if delay is not None and retry is False:
        raise ArgumentError("delay", "needs retry=True", kind_of(delay))
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
    # A text may repeat content.
    note = why if isinstance(reason, BaseException) else ""
    say("failed" if content.status == ContentStatus.FAILED else "retried", content, note=note)


def _retried(delay: float, retry: bool | None) -> dict[str, Any]:
    """Return the changes that put a row back; with `retry` None, a row that is not queued fails."""
    later = seconds_from_now("delay", delay)
    if retry:
        return {"status": ContentStatus.PENDING, "retry_at": later if delay else None}

    # The statement decides, because a request may join the row until then.
    def status(model: Any) -> Any:
        return peewee.Case(None, [(model.queued, _PENDING)], _FAILED)

    def retry_at(model: Any) -> Any:
        return peewee.Case(None, [(model.queued, later.build(model))])

    return {
        "status": Computed("pending if queued", status),
        "retry_at": Computed("delayed if queued", retry_at, later.parameters),
    }


def release(content: Any) -> None:
    """Give a claimed row back unharmed; see `AIGeneratedContent.release`."""
    _end(content, status=ContentStatus.PENDING)
    say("released", content)


def abandon(content: Any, reason: str) -> None:
    """Fail a row that this process has entered, and let it expire: its request is answered.

    If a worker was asked for it meanwhile, it is released instead.
    """
    now = Computed("now", lambda model: backend_of(database_of(model)).statement_clock())
    changes = {"status": ContentStatus.FAILED, "lease_expires_at": None, "expires_at": now}
    held = _fence_of(content).parameters
    is_alone = Computed("alone", lambda model: _is_held(model) & ~model.queued, held)
    if not update(content, {**changes, "metadata": _failure(reason)}, is_alone):
        release(content)


def extend_lease(content: Any, lease: Duration) -> None:
    """Hold a claimed row longer; see `AIGeneratedContent.extend_lease`."""
    _fenced(content, lease_expires_at=seconds_from_now("lease", seconds_of(lease, "lease")))


def renew(content: Any, lease: float) -> bool:
    """Extend the lease of a claimed row without changing the instance; False if it is lost."""
    known = ("id", "user", "attempts")
    row = {name: content.__data__[name] for name in known if name in content.__data__}
    twin = load(type(content), [row])[0]
    changes = {"lease_expires_at": seconds_from_now("lease", lease)}
    return update(twin, changes, _fence_of(twin))


def _failure(reason: str) -> Computed:
    """Return the metadata with a failure in it."""
    values = {":reason": reason}
    return Computed("failure", lambda model: with_failure(model, slot(":reason")), values)


def _end(content: Any, **changes: Any) -> None:
    _fenced(content, **{"lease_expires_at": None, "retry_at": None, **changes})


def _fenced(content: Any, **changes: Any) -> None:
    """Write changes to the claimed row, if this attempt still holds it."""
    check_claimed(content)
    database = database_of(type(content))
    if not survived(database, lambda: update(content, changes, _fence_of(content))):
        raise LeaseLostError(content.id, content.attempts, state_of(content))


def check_claimed(content: Any) -> None:
    """Refuse an instance that no claim has returned.

    Raises:
        LeaseLostError: it has another status than a claimed one.
    """
    check_selected(content, "id", "status", "attempts")
    has_lease = content.__data__.get("lease_expires_at", True) is not None
    if content.status != ContentStatus.GENERATING or not has_lease:
        why = f"this instance has it as {content.status} without a lease, so call claim() first"
        raise LeaseLostError(content.id, content.attempts, why)


def _fence_of(content: Any) -> Computed:
    return Computed("fence", _is_held, {":attempt": content.attempts})


def _is_held(model: Any) -> Any:
    # A program without leases may have made the row generating; then the row is that program's.
    has_lease = model.lease_expires_at.is_null(False)
    return (status_of(model) == _GENERATING) & (model.attempts == slot(":attempt")) & has_lease


def state_of(content: Any) -> str:
    """Return why a claim is over."""
    model: Any = type(content)
    rows = model.select(model.status, model.attempts).where(model.id == content.id).tuples()
    for status, attempts in rows:
        is_now = f"it is {status} now, at attempt {attempts}"
        if status in (ContentStatus.COMPLETED, ContentStatus.CACHED):
            return f"{is_now}: another answer was first"
        return (
            f"its lease ran out, and {is_now}: claim with a longer lease, or call extend_lease() "
            "while generating"
        )
    return "it was deleted"


def seconds_from_now(name: str, seconds: float) -> Computed:
    """Return the time that lies some seconds after now, by the database's clock."""

    def build(model: Any) -> Any:
        return backend_of(database_of(model)).clock_after(Slot(f":{name}"))

    return Computed(name, build, {f":{name}": seconds})
