"""Check what several calls are called with: durations, `generate`, and an open transaction."""

import inspect
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import peewee

from ..database.supported import backend_of
from ..errors import ArgumentError, OpenTransactionError, RunningLoopError, kind_of

Duration = float | timedelta
"""Seconds, or a timedelta."""

LONGEST = timedelta(days=36_525)
"""A hundred years: longer than any use, and within the years of both databases."""


def seconds_of(duration: Duration, field: str, *, may_be_zero: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        duration: seconds, or a timedelta.
        field: the argument's name, for the message.
        may_be_zero: whether zero is valid here.

    Raises:
        ArgumentError: it is neither, is negative, or is longer than a hundred years.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    least = "0 or more" if may_be_zero else "more than 0"
    rule = f"must be a timedelta or a number of seconds, {least}, at most a hundred years"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    most = LONGEST.total_seconds()
    # NaN fails each comparison.
    if not (is_number and 0 <= value <= most and (value > 0 or may_be_zero)):
        raise ArgumentError(field, rule, kind_of(value))
    return float(value)


def refuse_loop(call: str) -> None:
    """Refuse a call that would block this thread's event loop.

    Raises:
        RunningLoopError: an event loop runs in this thread.
    """
    asyncio = sys.modules.get("asyncio")  # if it was not imported, there is no loop
    if asyncio is None:
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RunningLoopError(
        f"{call}() would block the event loop that runs in this thread: await a{call}() instead"
    )


def refuse_transaction(database: peewee.Database, call: str) -> None:
    """Refuse a call within a transaction, which would hold its locks while content is generated.

    Raises:
        OpenTransactionError: this thread has a transaction open.
    """
    if backend_of(database).in_transaction(database):
        raise OpenTransactionError(
            f"{call}() was called within a transaction, which would hold its locks for as long as "
            "generating takes: call it outside atomic()"
        )


def is_async(generate: Any) -> bool:
    """Tell whether a function, or an object that can be called, is async."""
    return _is_kind(inspect.iscoroutinefunction, generate)


def _is_kind(tell: Callable[[Any], bool], generate: Any) -> bool:
    return tell(generate) or tell(getattr(generate, "__call__", None))  # noqa: B004


def check_generate(generate: Any, async_call: str | None = None) -> None:
    """Refuse anything but a function of one argument, before a row is entered.

    `async_call` is the call that takes an async function, if this one does not.

    Raises:
        ArgumentError: it is not callable, or calling it would only begin the work.
    """
    if async_call and is_async(generate):
        rule = f"must be a plain function here: await {async_call}(), which takes an async one"
        raise ArgumentError("generate", rule, "an async function")
    kinds = {
        "an async generator function": inspect.isasyncgenfunction,
        "a generator function": inspect.isgeneratorfunction,
    }
    for name, tell in kinds.items():
        if _is_kind(tell, generate):
            raise ArgumentError("generate", "must be a function that returns its content", name)
    rule = "must be a function of one argument, the content"
    if not callable(generate):
        raise ArgumentError("generate", rule, kind_of(generate))
    try:
        inspect.signature(generate).bind(None)
    except TypeError:
        raise ArgumentError("generate", rule, "one of other arguments") from None
    except ValueError:  # a function that is written in C may have no signature
        return
