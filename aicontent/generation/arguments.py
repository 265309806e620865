"""Check arguments and conditions that several calls share: durations, `generate`, transactions."""

import inspect
import sys
from collections.abc import Callable
from datetime import timedelta
from types import FunctionType
from typing import Any

import peewee

from ..database.supported import backend_of
from ..errors import ArgumentError, OpenTransactionError, RunningLoopError, kind_of
from .defaults import Duration

_OTHER_KINDS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

LONGEST = timedelta(days=36_525)
"""A hundred years: longer than any use, and within the range of times of both databases."""

_MOST_SECONDS = LONGEST.total_seconds()


def seconds_of(duration: Duration, field: str, *, may_be_zero: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        duration: seconds, or a timedelta.
        field: the argument's name, for the error message.
        may_be_zero: whether zero is valid.

    Raises:
        ArgumentError: the duration is neither, is negative, or is longer than a hundred years.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # NaN fails each of these comparisons.
    if is_number and 0 <= value <= _MOST_SECONDS and (value > 0 or may_be_zero):
        return float(value)
    least = "0 or more" if may_be_zero else "more than 0"
    rule = f"must be a timedelta or a number of seconds, {least}, at most a hundred years"
    raise ArgumentError(field, rule, kind_of(value))


def refuse_loop(call: str) -> None:
    """Refuse a call that would block this thread's event loop.

    Raises:
        RunningLoopError: an event loop runs in this thread.
    """
    asyncio = sys.modules.get("asyncio")  # no loop can run before asyncio was imported
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
    """Refuse a call inside a transaction, which would hold its locks while content is generated.

    Raises:
        OpenTransactionError: this thread has an open transaction.
    """
    if backend_of(database).in_transaction(database):
        raise OpenTransactionError(
            f"{call}() was called within a transaction, which would hold its locks while content "
            "is generated: call it outside atomic()"
        )


def is_async(generate: Any) -> bool:
    """Return whether a function, or a callable object, is async."""
    return _is_kind(inspect.iscoroutinefunction, generate)


def _is_kind(tell: Callable[[Any], bool], generate: Any) -> bool:
    return tell(generate) or tell(getattr(generate, "__call__", None))  # noqa: B004


def _is_plain(generate: Any) -> bool:
    """Return whether this is an ordinary function of exactly one argument, without a decorator."""
    if type(generate) is not FunctionType or generate.__dict__:
        return False
    code = generate.__code__
    return (code.co_argcount, code.co_kwonlyargcount, code.co_flags & _OTHER_KINDS) == (1, 0, 0)


def check_generate(generate: Any, async_call: str | None = None) -> None:
    """Check that `generate` is a function of one argument, before a row is inserted.

    `async_call` names the method that takes an async function, if the called one does not.

    Raises:
        ArgumentError: `generate` is not callable with one argument, is a generator function, or
            is async where `async_call` is set.
    """
    if _is_plain(generate):  # inspect takes longer than a hit's statement
        return
    if async_call and is_async(generate):
        rule = f"must be a plain function: to use an async one, await {async_call}()"
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
        raise ArgumentError("generate", rule, "one with other arguments") from None
    except ValueError:  # a function written in C may have no signature
        return
