"""Find rows, and count a use in the same statement."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, cast

import peewee

from ..database.availability import survived
from ..database.statement import ONE, Computed, literal, slot, statement_of
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..fields.policy import plain_text
from ..fields.scalars import now_in_utc
from .instances import gone
from .loading import columns_of, load_row
from .partitioning import of_user
from .record import R, update

PENDING, GENERATING = literal(ContentStatus.PENDING), literal(ContentStatus.GENERATING)
COMPLETED, FAILED = literal(ContentStatus.COMPLETED), literal(ContentStatus.FAILED)
"""The statuses as SQL constants, for conditions: see `literal`."""

Scope = Callable[[Any, Any, Any], Any]
"""Adds conditions and an order to a query of a table: `(table, query, now) -> query`."""


ANYBODY: Any = object()
"""The default for any user: None would hide the mistake of a missing user."""


def get_by_id(model: type[R], pk: Any, user: Any = ANYBODY) -> R:
    """Return the row with an id; see `AIGeneratedContent.get_by_id`."""
    key: Any = model._meta.primary_key
    field: Any = model._meta.fields["user"]
    values = {} if user is ANYBODY else {"user": field.key_parameter(user)}
    if isinstance(pk, peewee.Node):
        return model.get(key == pk, *_equal(model, values))
    values["id"] = key.db_value(pk)

    def scope(table: Any, query: Any, _: Any) -> Any:
        return query.where(*_equal(table, {name: slot(name) for name in values}))

    content = find(model, "by id", scope, values)
    if content is None:
        missing: Any = model
        whose = "" if user is ANYBODY else " for this user"
        raise missing.DoesNotExist(f"{model.__name__} has no row with id {values['id']!r}{whose}")
    return content


def by_user_and_type(model: type[R], user: Any, type: str) -> peewee.ModelSelect[R]:
    """Select a user's content of one type; see `AIGeneratedContent.find_by_user_and_type`."""
    table: Any = model
    newest_first = (table.created_at.desc(), table.id.desc())
    wanted = _wanted(model, user, type)
    query: peewee.ModelSelect[R] = model.select().where(*_equal(table, wanted))
    return query.order_by(*newest_first)


def reusable_content(
    model: type[R], user: Any, type: str, level: str | None, now: datetime | None
) -> peewee.ModelSelect[R]:
    """Select content to serve again; see `AIGeneratedContent.find_reusable_content`."""
    wanted = _wanted(model, user, type, level)
    query: peewee.ModelSelect[R] = reusable(
        model, model.select(), _equal(model, wanted), now_in_utc(now)
    )
    return query


def first_reusable(
    model: type[R], user: Any, type: str, level: str | None, now: datetime | None
) -> R | None:
    """Return the first reusable content; see `AIGeneratedContent.first_reusable`."""
    return find(model, *_first_reusable(model, user, type, level, now))


def reuse(
    model: type[R], user: Any, type: str, level: str | None, now: datetime | None
) -> R | None:
    """Return the first reusable content and count a use; see `AIGeneratedContent.reuse`."""
    return use(model, *_first_reusable(model, user, type, level, now))


def mark_accessed(content: Any, now: datetime | None) -> None:
    """Count one use of the content; see `AIGeneratedContent.mark_accessed`."""
    used_at = now_in_utc(now)
    if content.is_new:
        content.last_accessed_at = used_at
        content.usage_count = (content.usage_count or 0) + 1
        return
    one_more = Computed("one more", _one_more)
    if not update(content, {"usage_count": one_more, "last_accessed_at": used_at}):
        raise gone(content)


def find(model: type[R], key: Hashable, scope: Scope, values: Mapping[str, Any]) -> R | None:
    """Return the first row of a query, without counting a use.

    Args:
        model: the bound model.
        key: the name of the statement in the cache.
        scope: adds the conditions and the order to the query, with slots for values.
        values: the parameters for the slots. `now` replaces the database's clock. `use` needs
            `user`.
    """

    def build() -> tuple[Any, Sequence[Any]]:
        columns, readers = columns_of(model)
        query = scope(model, model.select(*columns), _now(model, values))
        return query.limit(ONE), readers

    return first_row(model, ("find", key), values, build)


def use(model: type[R], key: Hashable, scope: Scope, values: Mapping[str, Any]) -> R | None:
    """Count a use of the first row of a query, and return it. The arguments are those of `find`."""

    def build() -> tuple[Any, Sequence[Any]]:
        now = _now(model, values)
        # The model rather than an alias of it, because an alias ignores the host's select().
        first = scope(model, model.select(cast(Any, model).id), now).limit(ONE)
        # After a wait for a lock, PostgreSQL tests the row again and may take the next one.
        backend = backend_of(database_of(model))
        first = backend.locking(first)
        changes = {"usage_count": _one_more(model), "last_accessed_at": now}
        changes |= backend.columns_of_update()
        same_user = of_user(model, slot("user"))
        query: Any = model.update(changes).where(cast(Any, model).id == first, *same_user)
        columns, readers = columns_of(model)
        return query.returning(*columns), readers

    return first_row(model, ("use", key), values, build)


def first_row(
    model: type[R],
    key: Hashable,
    values: Mapping[str, Any],
    build: Callable[[], tuple[Any, Sequence[Any]]],
) -> R | None:
    """Execute a cached statement, and return its first row as an instance."""
    statement = statement_of(model, key, values, build)
    rows = survived(database_of(model), partial(statement.fetch, values))
    return load_row(model, statement, rows[0]) if rows else None


def status_of(table: Any) -> Any:
    """Return the status as an expression that no index matches, for conditions on a few rows.

    With outdated statistics, PostgreSQL may choose the index of a status that many rows have.
    """
    return peewee.fn.COALESCE(table.status, literal(""))


def unexpired(table: Any, now: Any) -> Any:
    """Return the condition that a row has not expired at a time."""
    return table.expires_at.is_null() | (table.expires_at > now)


def reusable(table: Any, query: Any, same: list[Any], now: Any) -> Any:
    """Limit a query to completed content that has not expired: least used first, then newest.

    `same` are the conditions on user, type and level.
    """
    return query.where(
        *same,
        table.status == COMPLETED,
        unexpired(table, now),
    ).order_by(table.usage_count.asc(), table.created_at.desc())


def _first_reusable(
    model: Any, user: Any, type: str, level: str | None, now: datetime | None
) -> tuple[Hashable, Scope, dict[str, Any]]:
    wanted = _wanted(model, user, type, level)

    def scope(table: Any, query: Any, now: Any) -> Any:
        same = _equal(table, {name: slot(name) for name in wanted})
        return reusable(table, query, same, now)

    return "reusable", scope, wanted | {"now": model.expires_at.db_value(now_in_utc(now))}


def _wanted(model: Any, user: Any, type: str, level: str | None = None) -> dict[str, Any]:
    # Validate, because a value that no row can have is a mistake of the caller, not a cache miss.
    row = {"type": type, "level": level}
    model._aicontent_rules.check(row, model._meta.columns, partial=True)
    fields = model._meta.fields
    # The rules have accepted the type, so that its characters need no check.
    wanted = {"user": fields["user"].key_parameter(user), "type": plain_text(type)}
    return wanted | {"level": fields["level"].db_value(level)} if level else wanted


def _equal(table: Any, values: Mapping[str, Any]) -> list[Any]:
    return [getattr(table, name) == value for name, value in values.items()]


def _now(model: Any, values: Mapping[str, Any]) -> Any:
    if "now" in values:
        return slot("now")
    return backend_of(database_of(model)).statement_clock()


def _one_more(model: Any) -> Any:
    return peewee.fn.COALESCE(model.usage_count, 0) + 1
