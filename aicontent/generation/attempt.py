"""Run one attempt: generate a claimed row's content and store it, or mark the row failed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import peewee

from ..database.supported import connected, database_of, reconnect
from ..enums import ContentStatus
from ..errors import LeaseLostError, ValidationError, kind_of
from ..records.record import mark_saved

Costs = Mapping[str, Any]
Generate = Callable[[Any], dict[str, Any] | tuple[dict[str, Any], Costs]]
"""Takes the claimed content; returns the document, alone or with its costs, which are named as in
`claims.Outcome`."""

STORE_FOR = 30.0
"""Seconds to retry storing while the database is unavailable: generating again costs more."""

FAIL_FOR = 2.0
"""Seconds for which marking a row failed is retried: enough to replace a lost connection."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


@contextmanager
def failed_by_errors(content: Any) -> Iterator[None]:
    """Mark a claimed row failed if anything is raised, so that it does not wait for its lease.

    The error is raised again unchanged.
    """
    try:
        yield
    except BaseException as error:
        if not is_lost(content, error):
            _fail(content, error)
        raise


def is_lost(content: Any, error: BaseException) -> bool:
    """Tell whether an error says that the claim on this content is over."""
    return isinstance(error, LeaseLostError) and (
        (error.id, error.attempt) == (content.id, content.attempts)
    )


def generate_and_store(
    content: Any, generate: Generate, *, lease: float, expires_in: float | None
) -> None:
    """Generate a claimed row's content, and complete the row.

    Args:
        content: the claimed content, whose `complete` a host may override.
        generate: returns its document.
        lease: the seconds for which the row was claimed.
        expires_in: the seconds after which the content expires, if it does.

    Raises:
        ValidationError: `generate` returned no document with its costs. LeaseLostError: it took
            too long. peewee.OperationalError: the content could not be stored, despite retries.
            And anything that `generate` raises.
    """
    database = database_of(type(content))
    was_closed = database.is_closed()
    began = time.monotonic()
    document, costs = _document_and_costs(generate(content))
    took = {"generation_time_ms": int((time.monotonic() - began) * 1000)}
    if was_closed and not database.is_closed():
        database.close()  # generate() opened it by running a statement
    outcome = {"expires_in": expires_in, **took, **costs}
    _retry(
        database, min(STORE_FOR, lease), lambda again: _complete(content, document, outcome, again)
    )


def _document_and_costs(answer: Any) -> tuple[Any, Costs]:
    if not isinstance(answer, tuple):
        return answer, {}
    if len(answer) == 2 and isinstance(answer[1], Mapping):
        document, costs = answer
        if all(isinstance(name, str) for name in costs):
            return document, costs
    rule = "must be a dict, or a pair of a dict and a mapping of its costs by their names"
    raise ValidationError("generated_data", rule, kind_of(answer))


def _complete(content: Any, document: Any, outcome: Costs, is_retry: bool) -> None:
    try:
        content.complete(document, **outcome)
    except LeaseLostError:
        # The previous try may have succeeded although its reply was lost.
        if not (is_retry and _is_stored(content)):
            raise


def _retry(database: peewee.Database, seconds: float, call: Callable[[bool], None]) -> None:
    """Execute a statement, and retry it for some seconds while the database is unavailable.

    `call` gets whether it is called again. A connection that the server has closed is replaced.
    """
    until = time.monotonic() + seconds
    pause, is_retry = _FIRST_PAUSE, False
    while True:
        try:
            reconnect(database)
            with connected(database):
                call(is_retry)
            return
        except Exception as error:
            if not _is_temporary(error) or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause, is_retry = min(2 * pause, _LONGEST_PAUSE), True


def _is_stored(content: Any) -> bool:
    model = type(content)
    stored: Any = model.get_or_none(
        model.id == content.id,
        model.status == ContentStatus.COMPLETED,
        model.attempts == content.attempts,
    )
    if stored is not None:
        content.__data__ |= stored.__data__
        mark_saved(content, content.__data__, {})
    return stored is not None


def _is_temporary(error: Exception) -> bool:
    """Tell whether an error may pass: a lock, a lost connection, an exhausted pool.

    The error of Peewee's pool does not derive from Peewee's errors.
    """
    pool: Any = sys.modules.get("playhouse.pool")
    exhausted = (pool.MaxConnectionsExceeded,) if pool else ()
    return isinstance(error, (peewee.OperationalError, peewee.InterfaceError, *exhausted))


def _fail(content: Any, error: BaseException) -> None:
    def fail(is_retry: bool) -> None:
        # After a try whose reply was lost, the claim is over.
        with suppress(LeaseLostError) if is_retry else nullcontext():
            content.fail(error)

    try:
        _retry(database_of(type(content)), FAIL_FOR, fail)
    except Exception as another:  # noqa: BLE001 - a note of the error that is raised
        error.add_note(f"content {content.id} could not be marked failed: {another}")
