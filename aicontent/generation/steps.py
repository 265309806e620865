"""Separate the rules of a generation from its waiting: the steps, and the driver of plain threads.

A generator holds the rules and yields steps; a driver runs each one and sends back what came of it.
`run` is the driver of threads; `aio.driver` has that of an event loop.
"""

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """Statements on the database."""

    call: Callable[[], Any]

    def run(self) -> Any:
        """Execute them."""
        return _stopping_nothing(self.call)


@dataclass(frozen=True)
class Pause:
    """A wait for what another caller does.

    A driver that can tell when the row of the id `awaited` is done waits for that instead, at most
    `most` seconds.
    """

    seconds: float
    awaited: str | None = None
    most: float = 0.0

    def run(self) -> None:
        """Sleep."""
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Renewing:
    """Leads to a context manager that renews the lease of a claimed row."""

    content: Any
    lease: float
    call: Callable[[Any, float], AbstractContextManager[None]]

    def run(self) -> AbstractContextManager[None]:
        """Return that of threads."""
        return self.call(self.content, self.lease)


@dataclass(frozen=True)
class Generating:
    """A call of the function that generates the content of a claimed row.

    It leads to what the function returned, and to whether it left a transaction open.
    """

    content: Any
    generate: Callable[[Any], Any]
    call: Callable[[Any, Callable[[Any], Any]], tuple[Any, bool]]

    def run(self) -> tuple[Any, bool]:
        """Call it in this thread."""
        return _stopping_nothing(partial(self.call, self.content, self.generate))


Step = Query | Pause | Renewing | Generating
"""What a driver runs. `run()` runs it in this thread, and returns what came of it."""


def _stopping_nothing(call: Callable[[], T]) -> T:
    """Call; StopIteration, at which the steps would end, becomes another error."""
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError("StopIteration was raised") from error


@dataclass(frozen=True)
class Ended(Generic[T]):
    """Stands for the next step when there is none."""

    result: T


class _Exit(BaseException):
    """Stands for a GeneratorExit of a step, at which Python would close the steps."""


Steps = Generator[Step, Any, T]


def advance(steps: Steps[T], value: Any, error: BaseException | None) -> Step | Ended[T]:
    """Go on to the next step with what came of the last one: a value, or an error.

    Raises:
        Whatever the steps end with, if they do not return.
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
    """Run all steps in this thread, and return what they lead to.

    An error of a step, or an interruption, is raised where the step was asked for.
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
