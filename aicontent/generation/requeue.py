"""Requeue failed rows: make them pending again. Called by `aicontent requeue` and by hosts."""

from collections.abc import Collection, Iterable
from typing import Any

import peewee

from ..database.availability import connected
from ..database.statement import builds_as_peewee
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import ArgumentError, DuplicateRequestError, kind_of, printable, shortened
from ..fields.policy import check_text
from ..records.lookup import COMPLETED, GENERATING, PENDING, unexpired
from .arguments import seconds_of
from .claims import types_of
from .defaults import Duration

_BATCH = 500
"""Rows per UPDATE: other writers to SQLite wait while it runs."""

_STATUSES = (ContentStatus.FAILED, ContentStatus.GENERATING)


def requeue(
    model: Any,
    *,
    status: str,
    types: Collection[str] | str | None,
    ids: Collection[str] | str | None,
    failed_within: Duration | None,
    dry_run: bool,
) -> int:
    """Make failed rows pending; see `AIGeneratedContent.requeue`."""
    if status not in _STATUSES:
        raise ArgumentError("status", f"must be one of {', '.join(_STATUSES)}", kind_of(status))
    if not isinstance(dry_run, bool):
        raise ArgumentError("dry_run", "must be True or False", kind_of(dry_run))
    database = database_of(model)
    backend = backend_of(database)
    # Expired requests are not needed any more, and claim() skips them.
    wanted = [model.status == status, unexpired(model, backend.statement_clock())]
    if status == ContentStatus.GENERATING:
        wanted.append(model.lease_expires_at.is_null())
    if types is not None:
        wanted.append(model.type.in_(types_of(model, types)))
    if failed_within is not None:
        since = backend.clock_after(-seconds_of(failed_within, "failed_within"))
        wanted.append(model.updated_at >= since)
    with connected(database):
        chosen = None if ids is None else _checked(model, ids, status)
        if chosen is not None:
            wanted.append(backend.any_of(model.id, chosen))
        wanted.append(~peewee.fn.EXISTS(_preferred(model, status, chosen)))
        return sum(_requeue(model, wanted, batch, dry_run) for batch in _batches(model, wanted))


def _checked(model: Any, ids: Collection[str] | str, status: str) -> list[str]:
    chosen = [ids] if isinstance(ids, str) else list(ids) if isinstance(ids, Collection) else []
    if not (chosen and all(isinstance(id, str) for id in chosen)):
        raise ArgumentError("ids", "must name rows, or be None for all", kind_of(ids))
    for id in chosen:
        check_text(id, "ids")
    backend = backend_of(database_of(model))
    columns = (model.id, model.status, model.lease_expires_at.is_null())
    rows = model.select(*columns).where(backend.any_of(model.id, chosen)).tuples()
    states = {id: (now, bool(is_free)) for id, now, is_free in rows}
    for id in chosen:
        if states.get(id) not in ((status, True), (ContentStatus.FAILED, False)):
            now, is_free = states.get(id, ("not stored", True))
            is_now = f"is {now}" if is_free else f"is {now} under a lease"
            rule = f"must be ids of {status} rows" + (" without a lease" if not is_free else "")
            name = printable(shortened(id)) or "an empty text"
            raise ArgumentError("ids", rule, f"{name}, which {is_now}")
    return chosen


def _preferred(model: Any, status: str, chosen: list[str] | None) -> Any:
    """Select other rows of the same request that prevent a requeue: in flight, newer, answers."""
    other, backend = model.alias(), backend_of(database_of(model))
    is_newer = (other.created_at > model.created_at) | (
        (other.created_at == model.created_at) & (other.id > model.id)
    )
    in_flight = other.status.in_([PENDING, GENERATING])
    rival = (other.status == status) & is_newer
    if chosen is not None:
        rival &= backend.any_of(other.id, chosen)
    is_valid = unexpired(other, backend.statement_clock())
    answered = (other.status == COMPLETED) & is_newer & is_valid
    same = (other.user == model.user) & (other.fingerprint == model.fingerprint)
    preferred = other.select(peewee.SQL("1")).where(
        same, other.id != model.id, in_flight | rival | answered
    )
    if builds_as_peewee(model):
        return preferred
    return preferred.where(other.id.in_(model.select(model.id)))  # applies the host's select()


def _batches(model: Any, wanted: list[Any]) -> Iterable[list[str]]:
    last = None
    while True:
        query = model.select(model.created_at, model.id).where(*wanted)
        if last is not None:
            created_at, id = last
            later = (model.created_at > created_at) | (model.id > id)
            query = query.where(model.created_at >= created_at, later)
        rows = list(query.order_by(model.created_at, model.id).limit(_BATCH).tuples())
        if not rows:
            return
        last = rows[-1]
        yield [id for _, id in rows]


def _requeue(model: Any, wanted: list[Any], ids: list[str], dry_run: bool) -> int:
    if dry_run:
        return len(ids)
    backend = backend_of(database_of(model))
    changes = {
        "status": ContentStatus.PENDING,
        "failures": 0,
        "lease_expires_at": None,
        "retry_at": None,
        "queued": True,
    }
    query = model.update(changes).where(backend.any_of(model.id, ids), *wanted)
    try:
        with backend.constraints_explained(database_of(model)):
            return int(query.execute())
    except DuplicateRequestError:  # another caller inserted one of these requests meanwhile
        if len(ids) == 1:
            return 0
        return sum(_requeue(model, wanted, [id], False) for id in ids)
