"""Request content: insert a pending row, unless the user's request is already in flight."""

from typing import Any

import peewee

from ..database.availability import survived
from ..database.statement import Computed, slot
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus, ContentTypeLike
from ..errors import AIContentError, ValidationError
from ..records.lookup import COMPLETED, status_of, unexpired
from ..records.partitioning import of_user
from ..records.record import insert, update
from ..records.validation import validate
from ..table import C, ContentTable, new_id
from .fingerprint import fingerprint

# A constant rather than parameters, so that the planner can use the partial index.
_IN_FLIGHT = peewee.SQL(
    f"(\"status\" IN ('{ContentStatus.PENDING}', '{ContentStatus.GENERATING}'))"
)

_TRIES = 100
"""How often an insert may conflict with a row that no longer exists at the next SELECT."""

_IS_IN_FLIGHT = Computed("in flight", lambda model: _IN_FLIGHT)


def _same(model: Any, completed: bool) -> Any:
    wanted: Any = _IN_FLIGHT
    if completed:
        now = backend_of(database_of(model)).statement_clock()
        is_completed = model.status == COMPLETED
        wanted |= is_completed & unexpired(model, now)
    same = (model.user == slot("user"), model.fingerprint == slot("fingerprint"))
    return model.select(peewee.SQL("1")).where(*same, wanted)


_IS_ENTERED = Computed("entered", lambda model: _same(model, completed=False))
_IS_ENTERED_OR_COMPLETED = Computed("completed", lambda model: _same(model, completed=True))

_SET_LATER = {
    "status": "a new request is always pending",
    "generated_data": "complete() stores it",
    "fingerprint": "it is computed from the request",
    "attempts": "claim() counts them",
    "lease_expires_at": "claim() sets it",
    "failures": "fail() counts them",
    "retry_at": "fail() sets it",
    "queued": "a request is always queued",
}


def request(model: type[C], *asked: Any) -> C:
    """Return the row in flight for a request; see `AIGeneratedContent.request`.

    `asked` are the arguments of `attributes_of`.
    """
    attributes = attributes_of(model, *asked)

    def entered() -> C | None:
        content, is_new = enter(model, attributes)
        is_asked_for = is_new or _join(content, attributes.get("expires_at"))
        return content if is_asked_for else None

    for _ in range(_TRIES):
        content = survived(database_of(model), entered)
        if content is not None:
            return content
    raise _never_entered(attributes)


def _join(content: Any, expires_at: Any) -> bool:
    """Add a request to a row in flight; return False if the row is no longer in flight.

    The row then expires at the later of the two times, and stays queued if an attempt of
    `get_or_generate` fails.
    """
    changes: dict[str, Any] = {} if content.queued else {"queued": True}
    if content.expires_at is not None:
        changes["expires_at"] = None
        if expires_at is not None:
            end = content._meta.fields["expires_at"].db_value(expires_at)
            changes["expires_at"] = Computed("later end", _later_end, {":end": end})
    return not changes or update(content, changes, _IS_IN_FLIGHT)


def _later_end(model: Any) -> Any:
    end = slot(":end")
    return peewee.Case(None, [(model.expires_at < end, end)], model.expires_at)


def attributes_of(
    model: type[ContentTable],
    user: Any,
    type: ContentTypeLike,
    request_payload: dict[str, Any],
    level: str | None,
    variant: Any,
    values: dict[str, Any],
) -> dict[str, Any]:
    """Return the attributes of a new row for a request.

    Raises:
        ValidationError: an argument is not valid.
    """
    for name, reason in _SET_LATER.items():
        if name in values:
            raise ValidationError(name, f"cannot be passed to request(): {reason}", "a value")
    attributes = {
        "user": model._meta.fields["user"].id_of(user),
        "type": type,
        "request_payload": request_payload,
        "level": level or None,
        "fingerprint": fingerprint(type, request_payload, level, variant),
    }
    if variant is not None:
        metadata = values.get("metadata")
        validate(model, {"metadata": metadata}, partial=True)
        attributes["metadata"] = {**(metadata or {}), "variant": variant}
    return {**values, **attributes}


def enter(
    model: type[C],
    attributes: dict[str, Any],
    *,
    unless_completed: bool = False,
    columns: tuple[Any, ...] = (),
    **claim: Any,
) -> tuple[C | None, bool]:
    """Return the row in flight for a request, and whether this call inserted it.

    Args:
        model: the bound model.
        attributes: the attributes that `attributes_of` returns.
        unless_completed: insert no row if the request has an answer, and return None.
        columns: the columns to read of a row that is already in flight; all by default.
        claim: further attributes for a row that is inserted with a claim.

    Raises:
        UnknownUserError, NotBoundError: nothing was written.
    """
    # If the reply is lost and the call is repeated, it finds its row by this id.
    attributes.setdefault("id", new_id())
    content = model(**attributes, **claim)
    same = (model.user == attributes["user"], model.fingerprint == attributes["fingerprint"])
    for _ in range(_TRIES):
        # The statement looks for the row before it inserts. Otherwise the insert would wait for
        # a transaction that is completing the row.
        if insert(
            content,
            _IS_ENTERED_OR_COMPLETED if unless_completed else _IS_ENTERED,
            action="nothing",
            conflict_target=[model.user, model.fingerprint],
            conflict_where=_IN_FLIGHT,
        ):
            return content, True
        existing: C | None = model.select(*columns).where(*same, _IN_FLIGHT).first()
        if existing is not None and existing.id == content.id:  # the insert's reply was lost
            return model.get_by_id(content.id), True
        if existing is not None:
            return existing, False
        answers = model.select().where(*same, model.status == COMPLETED)
        if unless_completed and answers.exists():
            return None, False
    raise _never_entered(attributes)


def reusable_answer(table: Any, query: Any, now: Any) -> Any:
    """Select the answers to a request that have not expired, the newest first."""
    return newest_answer(table, query, now).where(unexpired(table, now))


def newest_answer(table: Any, query: Any, _: Any) -> Any:
    """Select the answers to a request, the newest first."""
    is_completed = status_of(table) == COMPLETED
    same = (table.user == slot("user"), table.fingerprint == slot("fingerprint"))
    # COALESCE keeps the planner from walking the index on createdAt: one request has few rows.
    newest = peewee.fn.COALESCE(table.created_at, table.updated_at).desc()
    return query.where(*same, is_completed).order_by(newest, table.id.desc())


def answer_of(table: Any, query: Any, _: Any) -> Any:
    """Select one row by its id, if it is completed."""
    is_completed = table.status == COMPLETED
    return query.where(table.id == slot("id"), *of_user(table, slot("user")), is_completed)


def _never_entered(attributes: dict[str, Any]) -> AIContentError:
    return AIContentError(
        f"a row for request {attributes['fingerprint']} neither exists nor can be inserted: check "
        "that no trigger of the database suppresses the insert, and that no select() of your "
        "model hides the row"
    )
