"""Define the steps of a generation, and run them in a thread.

A generator has the rules and yields steps. A driver runs each step and sends the result back, so
that threads and event loops share the rules. `run` is the driver for threads; `aio.driver` is the
driver for event loops.
"""

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import partial
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Query(NamedTuple):
    """A step that executes statements on the database."""

    call: Callable[[], Any]

    def run(self) -> Any:
        """Execute the statements."""
        return _without_stop_iteration(self.call)


class Pause(NamedTuple):
    """A step that waits for another caller.

    If the driver knows when the row with the id `awaited` is done, it waits for that instead, for
    at most `most` seconds.
    """

    seconds: float
    awaited: str | None = None
    most: float = 0.0

    def run(self) -> None:
        """Sleep for `seconds`."""
        time.sleep(self.seconds)


class Renewing(NamedTuple):
    """A step whose result is a context manager that renews the lease of a claimed row."""

    content: Any
    lease: float
    call: Callable[[Any, float], AbstractContextManager[None]]

    def run(self) -> AbstractContextManager[None]:
        """Return the context manager for threads."""
        return self.call(self.content, self.lease)


class Generating(NamedTuple):
    """A step that calls the function that generates the content of a claimed row.

    Its result is the function's result, and whether the function left a transaction open.
    """

    content: Any
    generate: Callable[[Any], Any]
    call: Callable[[Any, Callable[[Any], Any]], tuple[Any, bool]]

    def run(self) -> tuple[Any, bool]:
        """Call the function in this thread."""
        return _without_stop_iteration(partial(self.call, self.content, self.generate))


Step = Query | Pause | Renewing | Generating
"""A step for a driver. Its `run()` runs it in this thread, and returns the result."""


def _without_stop_iteration(call: Callable[[], T]) -> T:
    """Call a function; replace StopIteration, which would end the generator of the steps."""
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError("StopIteration was raised") from error


class Ended(Generic[T]):
    """Replaces the next step after the last one; `result` is the result of all steps."""

    def __init__(self, result: T) -> None:
        self.result = result


class _Exit(BaseException):
    """Replaces the GeneratorExit of a step, which would close the generator of the steps."""


Steps = Generator[Step, Any, T]


def advance(steps: Steps[T], value: Any, error: BaseException | None) -> Step | Ended[T]:
    """Send the result or the error of the last step to the generator; return the next step.

    Raises:
        The error that ends the steps.
    """
    try:
        if error is None:
            return steps.send(value)
        return steps.throw(_Exit(error) if isinstance(error, GeneratorExit) else error)
    except StopIteration as end:
        return Ended(end.value)
    except _Exit as stand_in:
        raise stand_in.args[0] from None


def run(steps: Steps[T]) -> T:
    """Run all steps in this thread, and return their result.

    An error of a step, or an interruption, is raised where the generator yielded the step.
    """
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = advance(steps, value, error)
            if isinstance(step, Ended):
                return step.result
            value = error = None
            value = step.run()
        except BaseException as raised:
            if getgeneratorstate(steps) == GEN_CLOSED:
                raise
            error = raised
