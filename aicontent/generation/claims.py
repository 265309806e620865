"""Claim pending rows under a lease. docs/explanation/claims.md shows the states."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import peewee

from ..database.availability import survived
from ..database.statement import ONE, Slot, slot, statement_of
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import AIContentError, ArgumentError, kind_of
from ..fields.policy import plain_text
from ..records.loading import columns_of, load, load_row
from ..records.lookup import PENDING, status_of, unexpired
from ..records.partitioning import is_partitioned, key_columns, of_user, row_key
from ..records.validation import validate
from ..table import C, ContentTable
from .arguments import seconds_of
from .defaults import Duration
from .failures import UNREADABLE, backoff
from .holder import fail, release, seconds_from_now
from .rescue import checked_attempts, unlocked

_RETRY_LOOKS = 1.0
"""Seconds between two searches for due retries while other rows are pending: PostgreSQL takes
longer to plan the query than to execute it."""

_LOOKED_AT = "_aicontent_retries_looked_at"


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

    backend = backend_of(database)

    def first(is_due: Any, order: Any) -> Any:
        chosen = status_of(model) == PENDING, is_due, unexpired(model, backend.statement_clock())
        query = model.select(*key_columns(model)).where(*chosen)
        if names:
            query = query.where(model.type.in_([slot(name) for name in names]))
        return backend.skipping_locked(query.order_by(order, model.id).limit(ONE))

    def retried() -> Any:
        return first(model.retry_at <= backend.statement_clock(), model.retry_at)

    def fresh() -> Any:
        return first(model.retry_at.is_null(), model.created_at)

    # Each query has its own index, so that rows whose retry is not due cost nothing.
    looks = {"retried": retried, "fresh": fresh}
    looked_at = model.__dict__.get(_LOOKED_AT, -_RETRY_LOOKS)
    if time.monotonic() - looked_at < _RETRY_LOOKS:
        looks = {"fresh": fresh, "retried": retried}
    for name, select_key in looks.items():
        has_row = True
        while has_row:
            content, has_row = survived(
                database, partial(_claim, model, name, select_key, names, seconds, most)
            )
            if content is not None:
                return content
        if name == "retried":
            setattr(model, _LOOKED_AT, time.monotonic())
    return None


def claim_row(
    model: type[C], id: str, user: Any, lease: float, max_attempts: int | None = None
) -> C | None:
    """Claim one row for `lease` seconds, if it is pending and no other transaction has locked it.

    Args:
        model: the bound model.
        id: the id of the row.
        user: the id of its user, as a parameter for the driver.
        lease: the lease in seconds.
        max_attempts: how many failures the row may have, if no earlier claim allowed more.

    Raises:
        NotBoundError: the model has no database.
    """
    return _claim_row(model, id, user, lease, max_attempts)[0]


def _claim_row(
    model: type[C], id: str, user: Any, lease: float, max_attempts: int | None
) -> tuple[C | None, bool]:
    def select_key() -> Any:
        return unlocked(model, [model.id == slot("id"), *of_user(model, slot("user"))])

    return _claim(model, "row", select_key, {"id": id, "user": user}, lease, max_attempts)


def attributes_of_claim(lease: float, max_attempts: int | None) -> dict[str, Any]:
    """Return the attributes of a row that is inserted with a claim of `lease` seconds."""
    return {
        "status": ContentStatus.GENERATING,
        "attempts": 1,
        "lease_expires_at": seconds_from_now("lease", lease),
        "max_attempts": max_attempts,
        "queued": False,
    }


def types_of(model: type[ContentTable], types: Collection[str] | str) -> list[str]:
    """Check types and return their names.

    Raises:
        ArgumentError: `types` is empty.
        ValidationError: one type is unknown.
    """
    names = [types] if isinstance(types, str) else types
    if not (isinstance(names, Collection) and names):
        raise ArgumentError("types", "must name types, or be None for all", kind_of(types))
    for name in names:
        validate(model, {"type": name}, partial=True)
    return [plain_text(name) for name in names]


def _claim(
    model: type[C],
    key: str,
    select_key: Callable[[], Any],
    values: Mapping[str, Any],
    lease: float,
    max_attempts: int | None,
) -> tuple[C | None, bool]:
    """Claim the row whose key a query selects, if it is pending.

    Args:
        model: the bound model.
        key: the name of the query in the statement cache.
        select_key: builds the query.
        values: the parameters of the query by name.
        lease: the lease in seconds.
        max_attempts: how many failures the row may have, if no earlier claim allowed more.

    Returns:
        The content, and whether there was a row. A row that cannot be read gets a failure, and
        the content is None.
    """
    database = database_of(model)
    backend = backend_of(database)
    if is_partitioned(model) and "user" not in values:
        # PostgreSQL would plan an UPDATE without the user once per partition.
        with backend.atomic(database):
            key_of_row = statement_of(
                model, ("pick", key), values, lambda: (select_key(), key_columns(model))
            )
            row = next(iter(key_of_row.fetch(values)), None)
            if row is None:
                return None, False
            id, user = row
            return _claim_row(model, id, model.user.db_value(user), lease, max_attempts)

    def build() -> tuple[Any, Sequence[Any]]:
        changes = {
            "status": ContentStatus.GENERATING,
            "attempts": model.attempts + 1,
            "lease_expires_at": backend.clock_after(Slot(":lease")),
            **backend.columns_of_update(),
        }
        if key != "fresh":
            changes["retry_at"] = None
        if max_attempts is not None:  # the largest number of all claims counts
            most = peewee.Cast(slot(":max_attempts"), "integer")
            is_less = model.max_attempts.is_null() | (model.max_attempts < most)
            changes["max_attempts"] = peewee.Case(None, [(is_less, most)], model.max_attempts)
        same_row = [row_key(model) == select_key(), status_of(model) == PENDING]
        if "user" in values:
            same_row += of_user(model, slot("user"))
        query: Any = model.update(changes).where(*same_row)
        columns, readers = columns_of(model)
        return query.returning(*columns), readers

    parameters = {**values, ":lease": lease, ":max_attempts": max_attempts}
    statement = statement_of(model, ("claim", key, max_attempts is None), values, build)
    rows = statement.fetch(parameters)
    if not rows:
        return None, False
    try:
        content = load_row(model, statement, rows[0])
    except (ValueError, TypeError, RecursionError) as error:
        unread = _unread(model, rows[0])
        # Retry, because another worker may be able to read the row.
        delay = backoff(unread.failures)
        why = f"{UNREADABLE}: {type(error).__name__}"
        fail(unread, why, retry=True, delay=delay, max_attempts=None)
        return None, True
    except AIContentError:  # this worker is the cause, for example because zstd is not installed
        release(_unread(model, rows[0]))
        raise
    content._claimed_at = time.monotonic()
    return content, True


def _unread(model: type[C], row: tuple[Any, ...]) -> Any:
    """Return the content of a claimed row without its documents."""
    by_name = dict(zip(model._meta.sorted_field_names, row, strict=True))
    names = ("id", "user", "attempts", "failures", "max_attempts", "type", "status")
    return load(model, {name: by_name[name] for name in names})
