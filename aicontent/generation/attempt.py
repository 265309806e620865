"""Run one attempt: generate the content of a claimed row and store it, or give up the row."""

import inspect
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import peewee

from ..database.availability import is_temporary, retried
from ..database.statement import driver_values
from ..database.supported import backend_of, database_of
from ..enums import ContentStatus
from ..errors import (
    AIContentError,
    ContentNotStoredError,
    DuplicateIdError,
    GeneratedContentError,
    LeaseLostError,
    OpenTransactionError,
    ValidationError,
    kind_of,
    one_line,
    printable,
    shortened,
)
from ..fields.json_types import as_json
from ..records.validation import validate
from .completion import Outcome, changes_of, store_as_new
from .events import say
from .renewal import renewed
from .steps import Generating, Query, Renewing, Steps

STORE_FOR = 30.0
"""Seconds to retry storing an answer while the database is unavailable: a new one costs more."""

FAIL_FOR = 2.0
"""Seconds to retry giving up a row: enough to replace a lost connection."""

_NOTED = 20
"""The most refused costs to note in the metadata, so that it stays small."""

_COSTS = "costs"
"""The key in `metadata["refused"]` for costs that are not a mapping with string keys."""

_LEFT_OPEN = "generate() left a transaction open, which was rolled back"


class _Answer:
    """The result of `generate`: a document, its costs, and why other costs were refused."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self.costs: dict[str, Any] = {}
        self.refused: dict[str, str] = {}


def attempt(
    content: Any,
    generate: Callable[[Any], Any],
    *,
    lease: float,
    expires_in: float | None,
    give_up: Callable[[Exception], None],
) -> Steps[bool]:
    """Yield the steps that generate the content of a claimed row and complete the row.

    Args:
        content: the claimed content; a host may override its `complete` and `release`.
        generate: the function that returns the document.
        lease: the lease in seconds, which is renewed while `generate` runs.
        expires_in: the seconds after which the content expires; None for no expiry.
        give_up: a function that fails the row after an error, which is its argument and is then
            raised unchanged. An exception that is not an `Exception`, such as KeyboardInterrupt,
            releases the row instead.

    Returns:
        Whether the answer was stored; False if another attempt stored one first.

    Raises:
        GeneratedContentError: the result of `generate` cannot be stored.
        OpenTransactionError: `generate` left a transaction open; its content was stored.
        And all errors of `generate`.
    """
    try:
        with (yield Renewing(content, lease, renewed)):
            began = time.monotonic()
            returned, left_open = yield Generating(content, generate, _called)
            answer = _answer(returned)
            took = {"generation_time_ms": int((time.monotonic() - began) * 1000)}
            outcome = {"expires_in": expires_in, **took}
            stored: bool = yield Query(partial(_store, content, answer, outcome))
    except GeneratorExit:  # the driver is gone, because the process ends
        raise
    except BaseException as error:
        yield Query(partial(end, content, error, give_up))
        raise
    if left_open:
        raise OpenTransactionError(
            f"{_LEFT_OPEN}; its content was stored as {content.id}: end every transaction in "
            "generate() before it returns"
        )
    return stored


def end(content: Any, error: BaseException, give_up: Callable[[Exception], None]) -> None:
    """Give up a claimed row after an error, so that it does not wait for its lease to run out.

    After an interruption, the row is released instead.
    """

    def call() -> None:
        with suppress(LeaseLostError):  # another attempt has the row, or a reply was lost
            if isinstance(error, Exception):
                give_up(error)
            else:
                content.release()

    try:
        retried(database_of(type(content)), FAIL_FOR, call)
    except Exception as another:  # noqa: BLE001 - it becomes a note of the first error
        why = one_line(another) if is_temporary(another) else type(another).__name__
        error.add_note(f"content {content.id} could not be given up: {why}")


def _called(content: Any, generate: Callable[[Any], Any]) -> tuple[Any, bool]:
    """Call `generate`; return its result, and whether it left a transaction open."""
    database = database_of(type(content))
    backend = backend_of(database)
    if backend.is_bridged:  # a thread cannot use the connections of an asyncio database
        return generate(content), False
    was_closed = database.is_closed()

    def left_open() -> bool:
        is_open = database.in_transaction() or backend.in_transaction(database)
        backend.roll_back(database)
        return is_open

    try:
        try:
            returned = generate(content)
        except BaseException as error:
            if left_open():
                error.add_note(_LEFT_OPEN)
            raise
        return returned, left_open()
    finally:
        if was_closed and not database.is_closed():
            database.close()  # generate() opened it with a statement


def _answer(returned: Any) -> _Answer:
    parts = returned if isinstance(returned, tuple) else (returned, None)
    for each in parts:
        if inspect.iscoroutine(each):
            each.close()  # otherwise Python warns that it was never awaited
    if parts and inspect.isawaitable(parts[0]):
        raise GeneratedContentError(
            f"generate() returned an awaitable ({kind_of(parts[0])}), which was not awaited: call "
            "aget_or_generate() or awork() instead"
        )
    if len(parts) != 2:
        rule = "generate() must return a dict, or a pair of a dict and a mapping of its costs"
        raise GeneratedContentError(f"{rule}; it returned {kind_of(returned)}", returned)
    answer, costs = _Answer(parts[0]), parts[1]
    try:
        # Python values rather than JSON, because JSON would turn a Decimal into text.
        costs = costs.model_dump() if hasattr(costs, "model_dump") else costs
        named = {k: v for k, v in costs.items() if isinstance(k, str)} if costs is not None else {}
        answer.costs, has_all = named, len(named) == len(costs or ())
    except Exception:  # noqa: BLE001 - a model client may return any object
        has_all = False
    if not has_all:
        answer.refused[_COSTS] = "must be a mapping whose names are strings"
    return answer


def _store(content: Any, answer: _Answer, defaults: dict[str, Any]) -> bool:
    """Store an answer; return False if another attempt stored one first.

    Raises:
        GeneratedContentError: the answer cannot be stored.
    """
    costs = {name: value for name, value in answer.costs.items() if value is not None}
    outcome = {**defaults, **costs}

    def store() -> bool:
        try:
            content.complete(answer.document, **outcome)
        except LeaseLostError as error:
            if not is_lost(content, error):
                raise
            model = type(content)
            row = model.select(model.status).where(model.id == content.id).first()
            if row is None:
                try:
                    store_as_new(content, answer.document, outcome)
                except DuplicateIdError:  # the row exists, but the host's select() hides it
                    return False
            elif row.status != ContentStatus.COMPLETED:  # such as cached, which a host may set
                raise
            return row is None
        return True

    try:
        if not answer.refused:
            with suppress(ValidationError):  # a cost or the document is not valid: find out below
                return retried(database_of(type(content)), STORE_FOR, store)
        outcome = _sound(content, answer, defaults, costs)
        return retried(database_of(type(content)), STORE_FOR, store)
    except Exception as error:
        is_known = isinstance(error, (AIContentError, peewee.PeeweeException))
        if not (is_known or is_temporary(error)) and _is_stored_again(content, store):
            raise  # an unknown error may be a time limit's, an interruption like KeyboardInterrupt
        if is_temporary(error):
            say("unstored", content, note=type(error).__name__)
            why = f"the answer for content {content.id} was not stored: {one_line(error)}"
            raise ContentNotStoredError(why, answer.document) from error
        # The message of a database's error may repeat the content.
        why = str(error) if isinstance(error, AIContentError) else type(error).__name__
        why = f"the result of generate() cannot be stored: {why}"
        raise GeneratedContentError(why, answer.document) from error
    except BaseException as interruption:
        if not _is_stored_again(content, store):  # once more, because the answer is paid for
            say("unstored", content, note=type(interruption).__name__)
            interruption.add_note(f"the answer for content {content.id} was not stored")
        raise


def _is_stored_again(content: Any, store: Callable[[], bool]) -> bool:
    """Try once more to store after an interruption; return whether that succeeded."""
    try:
        retried(database_of(type(content)), FAIL_FOR, store)
    except Exception:  # noqa: BLE001 - the interruption is raised
        return False
    return True


def _sound(
    content: Any, answer: _Answer, defaults: dict[str, Any], costs: dict[str, Any]
) -> dict[str, Any]:
    """Return the costs that can be stored, and note in the metadata why others were refused."""
    sound, refused = dict(defaults), answer.refused
    for name, value in costs.items():
        try:
            changes = changes_of(content, {name: value})
            validate(type(content), changes, partial=True)
            driver_values(type(content), changes)
        except ValidationError as error:
            refused[printable(shortened(name))] = error.rule
        else:
            sound[name] = value
    if not refused:
        return sound
    metadata = as_json(sound.get("metadata", {}), "metadata")
    refused = dict(islice(refused.items(), _NOTED))
    names = {*Outcome.__annotations__, _COSTS}
    known = [name if name in names else "an unknown name" for name in refused]
    say("refused", content, note=", ".join(known))
    return {**sound, "metadata": {**metadata, "refused": refused}}


def is_lost(content: Any, error: BaseException) -> bool:
    """Return whether an error says that the claim on this content is over."""
    return isinstance(error, LeaseLostError) and (
        (error.id, error.attempt) == (content.id, content.attempts)
    )
