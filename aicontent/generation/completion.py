"""Complete rows: store the first finished answer, even if another worker holds the row.

An answer costs money, so it is stored unless the row already has one. docs/explanation/claims.md
lists the rules.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import reduce
from operator import or_
from typing import Any, TypedDict

import peewee

from ..database.availability import survived
from ..database.statement import Computed
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import LeaseLostError, ValidationError, kind_of, shortened
from ..fields.json_types import as_json
from ..fields.scalars import CountField
from ..records.instances import check_selected, mark_saved
from ..records.lookup import FAILED, GENERATING, PENDING, status_of
from ..records.record import insert, update
from ..records.validation import validate
from .arguments import seconds_of
from .defaults import Duration
from .events import say
from .holder import check_claimed, seconds_from_now, state_of


class Outcome(TypedDict, total=False):
    """The attributes that can be stored with a generated document.

    Arguments of `AIGeneratedContent.complete`, and names for the costs that `generate` returns.
    """

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


def complete(content: Any, generated_data: Any, outcome: Mapping[str, Any]) -> None:
    """Store the generated document of a claimed row; see `AIGeneratedContent.complete`."""
    check_selected(content, "id", "attempts", "expires_at")
    changes = changes_of(content, outcome)
    if content.expires_at is not None and "expires_at" not in changes:
        # This was the expiry of the request: an answer after that time can still be served.
        changes["expires_at"] = Computed("unexpired", _unexpired)
    changes |= {"status": ContentStatus.COMPLETED, "lease_expires_at": None, "retry_at": None}
    if not content.attempts:  # an instance without a claim; otherwise the UPDATE tests the row
        check_claimed(content)
    if not with_document(
        generated_data,
        lambda document: survived(
            database_of(type(content)),
            lambda: update(content, {"generated_data": document, **changes}, _IS_UNANSWERED),
        ),
    ):
        _check_stored(content, generated_data)
    say("generated", content)


def store_as_new(content: Any, generated_data: Any, outcome: Mapping[str, Any]) -> None:
    """Insert a completed row with the answer to a claimed row that was deleted meanwhile.

    Raises:
        ValidationError: as for `complete`.
        UnknownUserError: the user was deleted too.
        DuplicateIdError: the row still exists.
    """
    model = type(content)
    ended = {"status", "lease_expires_at", "expires_at", "created_at", "updated_at"}
    unchanged = {name: value for name, value in content.__data__.items() if name not in ended}
    changes = changes_of(content, outcome)

    def store(document: Any) -> None:
        values = {**unchanged, **changes, "generated_data": document}
        new = model(**values, status=ContentStatus.COMPLETED)
        insert(new)
        content.__data__ |= new.__data__
        mark_saved(content, content.__data__, {})

    with_document(generated_data, store)
    say("generated", content)


def with_document(answer: Any, store: Callable[[Any], Any]) -> Any:
    """Store an answer unchanged, or converted to JSON types if that fails.

    Raises:
        ValidationError: the answer cannot be stored, and nothing was written.
    """
    if isinstance(answer, dict):
        with suppress(ValidationError):  # it may contain types that need a conversion
            return store(answer)
    converted = as_json(answer, "generated_data")
    if not isinstance(converted, dict):
        rule = "must be a dict, or an object that becomes one, such as a pydantic model"
        raise ValidationError("generated_data", rule, kind_of(answer))
    return store(converted)


def changes_of(content: Any, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that an outcome changes.

    Raises:
        ValidationError: an attribute is unknown, or its value is not valid.
    """
    changes: dict[str, Any] = {}
    for name, value in outcome.items():
        if name not in Outcome.__annotations__:
            rule = f"is not an outcome; the outcomes are {', '.join(Outcome.__annotations__)}"
            raise ValidationError(shortened(str(name)), rule, "an unknown name")
        plain = as_json(value, name)
        if name == "expires_in" and plain is not None:
            seconds = seconds_of(plain, "expires_in")
            changes["expires_at"] = seconds_from_now("expires_in", seconds)
        elif plain is not None:
            is_count = isinstance(content._meta.fields[name], CountField)
            whole = is_count and isinstance(plain, float) and plain.is_integer()
            changes[name] = int(plain) if whole else plain
    if "metadata" in changes:
        validate(type(content), {"metadata": changes["metadata"]}, partial=True)
        check_selected(content, "metadata")
        earlier = content.metadata if isinstance(content.metadata, dict) else {}
        changes["metadata"] = {**earlier, **changes["metadata"]}
    return changes


_IS_UNANSWERED = Computed(
    "unanswered",
    # OR instead of IN: SQLite builds a table for each IN of more than two values.
    lambda model: reduce(
        or_, (status_of(model) == status for status in (PENDING, GENERATING, FAILED))
    ),
)


def _check_stored(content: Any, answer: Any) -> None:
    """Accept a row that already has this answer, because the database's reply may have been lost.

    Raises:
        LeaseLostError: the row has another answer, or was deleted.
    """
    model = type(content)
    row = model.get_or_none(model.id == content.id)
    if row is None or row.generated_data != as_json(answer, "generated_data"):
        raise LeaseLostError(content.id, content.attempts, state_of(content))
    content.__data__ |= row.__data__
    mark_saved(content, content.__data__, {})


def _unexpired(model: Any) -> Any:
    now = backend_of(database_of(model)).statement_clock()
    return peewee.Case(None, [(model.expires_at > now, model.expires_at)])
