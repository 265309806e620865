"""From a claim to its end: what was paid for is stored, and an error leaves nothing behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import peewee

from ..database.connections import connected
from ..enums import ContentStatus
from ..errors import LeaseLostError, ValidationError
from ..fields.policy import kind_of
from .claims import ClaimableModel

Costs = Mapping[str, Any]
Generate = Callable[[Any], dict[str, Any] | tuple[dict[str, Any], Costs]]
"""Takes the claimed content; returns the document, alone or with what it cost, by the names of
`claims.Outcome`."""

STORE_FOR = 30.0
"""Seconds for which storing is tried again where the database cannot take it: what was generated
cost more than that."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


@contextmanager
def ended_by_errors(content: ClaimableModel) -> Iterator[None]:
    """See to it that a claimed row is failed whatever is raised, and does not wait for its lease
    to end; the error goes on unchanged."""
    try:
        yield
    except BaseException as error:
        if not is_lost(content, error):
            _fail(content, error)
        raise


def is_lost(content: ClaimableModel, error: BaseException) -> bool:
    """Tell whether an error says that the claim on this content is over."""
    return isinstance(error, LeaseLostError) and (
        (error.id, error.attempt) == (content.id, content.attempts)
    )


def generate_and_store(
    content: ClaimableModel, generate: Generate, *, lease: float, good_for: float | None
) -> None:
    """Generate claimed content, and complete it.

    Args:
        content: what was claimed.
        generate: makes its document.
        lease: the seconds for which it was claimed.
        good_for: the seconds after which it expires, if it does.

    Raises:
        ValidationError: what was generated is no document with its costs. LeaseLostError: it
            took too long. peewee.OperationalError: it could not be stored, though it was tried
            again and again. And whatever `generate` raises.
    """
    database = content._database()
    was_closed = database.is_closed()
    began = time.monotonic()
    document, costs = _parted(generate(content))
    took = {"generation_time_ms": int((time.monotonic() - began) * 1000)}
    if was_closed and not database.is_closed():
        database.close()  # which a statement of generate's has opened by itself
    until = time.monotonic() + min(STORE_FOR, lease)
    _store(content, document, {"expires_in": good_for, **took, **costs}, until)


def _parted(made: Any) -> tuple[Any, Costs]:
    """Return what was made: the document, and its costs."""
    if not isinstance(made, tuple):
        return made, {}
    if len(made) == 2 and isinstance(made[1], Mapping) and all(isinstance(n, str) for n in made[1]):
        return made
    rule = "must be a dict, or a pair of a dict and a mapping of its costs by their names"
    raise ValidationError("generated_data", rule, kind_of(made))


def _store(content: ClaimableModel, document: Any, outcome: Costs, until: float) -> None:
    database = content._database()
    pause, was_tried = _FIRST_PAUSE, False
    while True:
        try:
            _revive(database)
            with connected(database):
                try:
                    content.complete(document, **outcome)
                except LeaseLostError:
                    # The answer to a try may be what was lost.
                    if not (was_tried and _is_stored(content)):
                        raise
            return
        except Exception as error:
            if not _may_pass(error) or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause, was_tried = min(2 * pause, _LONGEST_PAUSE), True


def _is_stored(content: ClaimableModel) -> bool:
    model = type(content)
    stored: Any = model.get_or_none(
        model.id == content.id,
        model.status == ContentStatus.COMPLETED,
        model.attempts == content.attempts,
    )
    if stored is not None:
        content.__data__ |= stored.__data__
        content._saved(content.__data__, {})
    return stored is not None


def _may_pass(error: Exception) -> bool:
    """Tell whether an error is one of the moment: a lock, a lost connection, a pool in use."""
    pool: Any = sys.modules.get("playhouse.pool")  # its error is none of Peewee's
    exhausted = (pool.MaxConnectionsExceeded,) if pool else ()
    return isinstance(error, (peewee.OperationalError, peewee.InterfaceError, *exhausted))


def _revive(database: peewee.Database) -> None:
    """Open a connection anew that was open, and that the server has closed meanwhile."""
    if database.is_closed() or database.in_transaction():
        return
    connection: Any = database.connection()
    if getattr(connection, "closed", False):  # sqlite3's has no such attribute
        database.close()
        database.connect()


def _fail(content: ClaimableModel, error: BaseException) -> None:
    database = content._database()
    try:
        _revive(database)
        with connected(database):
            content.fail(error)
    except Exception as another:  # noqa: BLE001 - told by the one that is raised
        error.add_note(f"content {content.id} could not be marked failed: {another}")
