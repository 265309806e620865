"""Claim pending rows under a lease, and give claims up: fail, release, extend.

A worker holds a claimed row until its lease ends. Its statements here are fenced by the number of
the attempt, so a worker that has lost the row changes nothing. docs/claims.md shows the states.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import peewee

from ..database.availability import survived
from ..database.statement import Computed, Slot, slot, statement_of
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import AIContentError, LeaseLostError, ValidationError, kind_of
from ..fields.document import selected_as_text
from ..records.record import load, update
from ..records.validation import validate
from ..table import C, ContentTable
from .durations import Duration, backoff, seconds_of
from .events import say
from .failures import UNREADABLE, reason_of, with_failure
from .rescue import MAX_ATTEMPTS, checked_attempts, unlocked

LEASE = timedelta(minutes=5)
"""How long a claim holds that nobody renews: several times what a model takes for its longest
answer."""

_RETRY_LOOKS = 1.0
"""Seconds between two looks for due retries while other rows are pending: PostgreSQL takes longer
to plan a look than to execute it."""

_LOOKED_AT = "_aicontent_retries_looked_at"

# Constants, not parameters, so that the planner knows that the partial indexes apply.
_PENDING = peewee.SQL(f"'{ContentStatus.PENDING}'")
_GENERATING = peewee.SQL(f"'{ContentStatus.GENERATING}'")


def claim(
    model: type[C],
    types: Collection[str] | str | None,
    lease: Duration,
    max_attempts: int | None = None,
) -> C | None:
    """Claim a pending row that is due; see `AIGeneratedContent.claim`."""
    names = {} if types is None else {f"type{i}": t for i, t in enumerate(types_of(model, types))}
    seconds = seconds_of(lease, "lease")
    most = None if max_attempts is None else checked_attempts(max_attempts)
    database = database_of(model)

    def first(condition: Callable[[Any, Any], Any], order: str) -> Any:
        table: Any = model.alias()
        backend = backend_of(database)
        now = backend.statement_clock()
        unexpired = table.expires_at.is_null() | (table.expires_at > now)
        chosen = table.status == _PENDING, condition(table, now), unexpired
        query = table.select(table.id).where(*chosen)
        if names:
            query = query.where(table.type.in_([slot(name) for name in names]))
        return backend.skipping_locked(query.order_by(getattr(table, order), table.id).limit(1))

    def retried() -> Any:
        return first(lambda table, now: table.retry_at <= now, "retry_at")

    def fresh() -> Any:
        return first(lambda table, _: table.retry_at.is_null(), "created_at")

    # Each has an index of its own, so that rows whose retry is not due cost nothing.
    looks = {"retried": retried, "fresh": fresh}
    looked_at = model.__dict__.get(_LOOKED_AT, -_RETRY_LOOKS)
    if time.monotonic() - looked_at < _RETRY_LOOKS:
        looks = {"fresh": fresh, "retried": retried}
    for name, select_id in looks.items():
        found = True
        while found:
            content, found = survived(
                database, partial(_claim, model, name, select_id, names, seconds, most)
            )
            if content is not None:
                return content
        if name == "retried":
            setattr(model, _LOOKED_AT, time.monotonic())
    return None


def claim_row(model: type[C], id: str, lease: float, max_attempts: int | None = None) -> C | None:
    """Claim one row for `lease` seconds, if it is pending and no other transaction has locked it.

    Raises:
        NotBoundError: the model has no database.
    """
    one = {"id": id}
    return _claim(
        model, "row", lambda: unlocked(model, model.id == slot("id")), one, lease, max_attempts
    )[0]


def attributes_of_claim(lease: float, max_attempts: int | None) -> dict[str, Any]:
    """Return the attributes of a new row that is claimed for `lease` seconds as it is inserted."""
    return {
        "status": ContentStatus.GENERATING,
        "attempts": 1,
        "lease_expires_at": seconds_from_now("lease", lease),
        "max_attempts": max_attempts,
        "queued": False,
    }


def fail(
    content: Any,
    reason: str | BaseException,
    retry: bool,
    delay: Duration | None,
    max_attempts: int | None,
) -> None:
    """Give a claimed row up; see `AIGeneratedContent.fail`."""
    if not isinstance(retry, bool):
        raise ValidationError("retry", "must be True or False", kind_of(retry))
    if delay is not None and not retry:
        raise ValidationError("delay", "needs retry=True", kind_of(delay))
    seconds = 0.0 if delay is None else seconds_of(delay, "delay", may_be_zero=True)
    most = content.max_attempts if max_attempts is None else checked_attempts(max_attempts)
    failures = (content.failures or 0) + 1
    has_left = retry and failures < (most or MAX_ATTEMPTS)
    why = reason_of(reason)
    _end(
        content,
        ContentStatus.PENDING if has_left else ContentStatus.FAILED,
        metadata=_failure(why),
        failures=Computed("one more failure", lambda model: model.failures + 1),
        max_attempts=most,
        retry_at=seconds_from_now("delay", seconds) if has_left and seconds else None,
    )
    # A text may repeat content.
    note = why if isinstance(reason, BaseException) else ""
    say("retried" if has_left else "failed", content, note=note)


def release(content: Any) -> None:
    """Give a claimed row back unharmed; see `AIGeneratedContent.release`."""
    _end(content, ContentStatus.PENDING)
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
    twin = load(type(content), [{"id": content.id, "attempts": content.attempts}])[0]
    changes = {"lease_expires_at": seconds_from_now("lease", lease)}
    return update(twin, changes, _fence_of(twin))


def types_of(model: type[ContentTable], types: Collection[str] | str) -> list[str]:
    """Return the names of types, checked.

    Raises:
        ValidationError: there are none, or one is unknown.
    """
    names = [types] if isinstance(types, str) else types
    if not (isinstance(names, Collection) and names):
        raise ValidationError("types", "must name types, or be None for all", kind_of(types))
    for name in names:
        validate(model, {"type": name}, partial=True)
    return [str(name) for name in names]


def _claim(
    model: type[C],
    key: str,
    select_id: Callable[[], Any],
    values: Mapping[str, Any],
    lease: float,
    max_attempts: int | None,
) -> tuple[C | None, bool]:
    """Claim the row whose id a query selects, if it is pending; `values` fill its slots.

    Returns:
        The content, and whether there was a row. A row that cannot be read has failed instead.
    """
    database = database_of(model)
    backend = backend_of(database)

    def build() -> tuple[Any, Sequence[Any]]:
        changes = {
            "status": ContentStatus.GENERATING,
            "attempts": model.attempts + 1,
            "lease_expires_at": backend.clock_after(Slot(":lease")),
            **backend.columns_of_update(),
        }
        if key != "fresh":
            changes["retry_at"] = None
        if max_attempts is not None:  # the row allows as many as the claim that allowed most
            most = peewee.Cast(slot(":max_attempts"), "integer")
            is_less = model.max_attempts.is_null() | (model.max_attempts < most)
            changes["max_attempts"] = peewee.Case(None, [(is_less, most)], model.max_attempts)
        query: Any = model.update(changes).where(model.id == select_id(), model.status == _PENDING)
        fields = model._meta.sorted_fields
        columns, readers = zip(*(selected_as_text(backend, f) for f in fields), strict=True)
        return query.returning(*columns), readers

    parameters = {**values, ":lease": lease, ":max_attempts": max_attempts}
    statement = statement_of(model, ("claim", key, max_attempts is None), values, build)
    rows = statement.fetch(parameters)
    if not rows:
        return None, False
    try:
        content = load(model, statement.read(rows))[0]
    except (ValueError, TypeError, RecursionError) as error:
        unread = _unread(model, rows[0])
        # Another worker may be able to read it.
        delay = backoff(unread.failures)
        why = f"{UNREADABLE}: {type(error).__name__}"
        fail(unread, why, retry=True, delay=delay, max_attempts=None)
        return None, True
    except AIContentError:  # such as a missing module: this worker's fault
        release(_unread(model, rows[0]))
        raise
    content._claimed_at = time.monotonic()
    return content, True


def _unread(model: type[C], row: tuple[Any, ...]) -> Any:
    """Return the content of a claimed row without its documents."""
    by_name = dict(zip(model._meta.sorted_field_names, row, strict=True))
    names = ("id", "user", "attempts", "failures", "max_attempts", "type", "status")
    return load(model, [{name: by_name[name] for name in names}])[0]


def _failure(reason: str) -> Computed:
    """Return the metadata with a failure in it."""
    values = {":reason": reason}
    return Computed("failure", lambda model: with_failure(model, slot(":reason")), values)


def _end(content: Any, status: ContentStatus, **changes: Any) -> None:
    _fenced(content, **{"status": status, "lease_expires_at": None, "retry_at": None, **changes})


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
    has_lease = content.__data__.get("lease_expires_at", True) is not None
    if content.status != ContentStatus.GENERATING or not has_lease:
        why = f"this instance has it as {content.status} without a lease, so call claim() first"
        raise LeaseLostError(content.id, content.attempts, why)


def _fence_of(content: Any) -> Computed:
    return Computed("fence", _is_held, {":attempt": content.attempts})


def _is_held(model: Any) -> Any:
    # A program without leases may have made the row generating; then the row is that program's.
    has_lease = model.lease_expires_at.is_null(False)
    return (model.status == _GENERATING) & (model.attempts == slot(":attempt")) & has_lease


def state_of(content: Any) -> str:
    """Return why a claim is over."""
    model = type(content)
    rows: Any = model.select(model.status, model.attempts).where(model.id == content.id).tuples()
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
