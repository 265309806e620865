"""Claim pending rows under a lease, and end claims: complete, fail, extend.

A worker holds a claimed row until its lease ends. Its statements are fenced by the number of the
attempt, so a worker that has lost the row changes nothing. docs/claims.md shows the states.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, TypedDict, cast

import peewee

from ..database.statement import Computed, Slot, slot
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import LeaseLostError, ValidationError, kind_of, shortened
from ..records.lookup import first_row
from ..records.record import update
from ..records.validation import validate
from ..table import C, ContentTable
from .durations import Duration, seconds_of
from .failures import reason_of, with_failure
from .rescue import checked_attempts, unlocked

LEASE = timedelta(minutes=5)
"""How long a claim holds: several times what a model takes for its longest answer."""

# Constants, not parameters, so that the planner knows that the partial indexes apply.
_PENDING = peewee.SQL(f"'{ContentStatus.PENDING}'")
_GENERATING = peewee.SQL(f"'{ContentStatus.GENERATING}'")


class Outcome(TypedDict, total=False):
    """What may be stored with a generated document."""

    expires_in: Duration | None
    validation_results: dict[str, Any] | None
    validation_score: float | None
    token_usage: int | None
    model_used: str | None
    generation_time_ms: int | None
    estimated_completion_time: int | None
    topics: list[Any] | None
    focus_areas: list[Any] | None
    metadata: dict[str, Any] | None


def claim(model: type[C], types: Collection[str] | str | None, lease: Duration) -> C | None:
    """Claim the oldest pending row; see `AIGeneratedContent.claim`."""
    names = {} if types is None else {f"type{i}": t for i, t in enumerate(_types(model, types))}

    def oldest() -> Any:
        table: Any = model.alias()
        query = table.select(table.id).where(table.status == _PENDING)
        if names:
            query = query.where(table.type.in_([slot(name) for name in names]))
        query = query.order_by(table.created_at, table.id).limit(1)
        return backend_of(database_of(model)).skipping_locked(query)

    return _claim(model, "oldest", oldest, names, seconds_of(lease, "lease"))


def claim_row(model: type[C], id: str, lease: float) -> C | None:
    """Claim one row for `lease` seconds, if it is pending and no other transaction has locked it.

    Raises:
        NotBoundError: the model has no database.
    """
    return _claim(model, "row", lambda: unlocked(model, model.id == slot("id")), {"id": id}, lease)


def attributes_of_claim(lease: float) -> dict[str, Any]:
    """Return the attributes of a new row that is claimed for `lease` seconds as it is inserted."""
    return {
        "status": ContentStatus.GENERATING,
        "attempts": 1,
        "lease_expires_at": _seconds_from_now("lease", lease),
    }


def complete(content: ContentTable, generated_data: dict[str, Any], outcome: Outcome) -> None:
    """Store the generated document of a claimed row; see `AIGeneratedContent.complete`."""
    if not isinstance(generated_data, dict):
        raise ValidationError("generated_data", "must be a dict", kind_of(generated_data))
    changes: dict[str, Any] = {n: v for n, v in outcome.items() if v is not None}
    for name in changes:
        if name not in Outcome.__annotations__:
            rule = f"is no outcome; the outcomes are {', '.join(Outcome.__annotations__)}"
            raise ValidationError(shortened(name), rule, "an unknown name")
    if "metadata" in changes:
        validate(type(content), {"metadata": changes["metadata"]}, partial=True)
        changes["metadata"] = {**(content.metadata or {}), **changes["metadata"]}
    if "expires_in" in changes:
        seconds = seconds_of(changes.pop("expires_in"), "expires_in")
        changes["expires_at"] = _seconds_from_now("expires_in", seconds)
    _end(content, ContentStatus.COMPLETED, generated_data=generated_data, **changes)


def fail(
    content: ContentTable, reason: str | BaseException, retry: bool, max_attempts: int
) -> None:
    """Give a claimed row up; see `AIGeneratedContent.fail`."""
    if not isinstance(retry, bool):
        raise ValidationError("retry", "must be True or False", kind_of(retry))
    has_left = cast(int, content.attempts) < checked_attempts(max_attempts)
    status = ContentStatus.PENDING if retry and has_left else ContentStatus.FAILED
    failure = Computed(
        "failure",
        lambda model: with_failure(model, slot(":reason")),
        {":reason": reason_of(reason)},
    )
    _end(content, status, metadata=failure)


def extend_lease(content: ContentTable, lease: Duration) -> None:
    """Hold a claimed row longer; see `AIGeneratedContent.extend_lease`."""
    _fenced(content, lease_expires_at=_seconds_from_now("lease", seconds_of(lease, "lease")))


def _types(model: type[ContentTable], types: Collection[str] | str) -> list[str]:
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
) -> C | None:
    """Claim the row whose id a query selects, if it is pending; `values` fill its slots."""
    database = database_of(model)
    backend = backend_of(database)

    def build() -> tuple[Any, list[Any]]:
        changes = {
            "status": ContentStatus.GENERATING,
            "attempts": model.attempts + 1,
            "lease_expires_at": backend.clock_after(Slot(":lease")),
            **backend.columns_of_update(),
        }
        query: Any = model.update(changes).where(model.id == select_id(), model.status == _PENDING)
        return query.returning(model), model._meta.sorted_fields

    # If the row cannot be decompressed, roll the claim back, so that it does not use up an attempt.
    with database.atomic() if backend.documents_are_text else nullcontext():
        return first_row(model, ("claim", key), {**values, ":lease": lease}, build)


def _end(content: ContentTable, status: ContentStatus, **changes: Any) -> None:
    _fenced(content, status=status, lease_expires_at=None, **changes)


def _fenced(content: ContentTable, **changes: Any) -> None:
    """Write changes to the claimed row, if this attempt still holds it."""
    fence = Computed("fence", _is_held, {":attempt": content.attempts})
    if not update(content, changes, fence):
        raise LeaseLostError(content.id, content.attempts, _state(content))


def _is_held(model: Any) -> Any:
    # A program without leases may have made the row generating; then the row is that program's.
    has_lease = model.lease_expires_at.is_null(False)
    return (model.status == _GENERATING) & (model.attempts == slot(":attempt")) & has_lease


def _state(content: ContentTable) -> str:
    if content.status != ContentStatus.GENERATING:
        return f"this instance has it as {content.status}, so call claim() first"
    model = type(content)
    rows: Any = model.select(model.status, model.attempts).where(model.id == content.id).tuples()
    for status, attempts in rows:
        return (
            f"its lease ran out, and it is {status} now, at attempt {attempts}: claim with a "
            "longer lease, or call extend_lease() while generating"
        )
    return "it was deleted"


def _seconds_from_now(name: str, seconds: float) -> Computed:
    """Return the time that lies some seconds after now, by the database's clock."""

    def build(model: Any) -> Any:
        return backend_of(database_of(model)).clock_after(Slot(f":{name}"))

    return Computed(name, build, {f":{name}": seconds})
