"""Separate the rules of a generation from its waiting: the steps, and the driver that runs them.

A generator holds the rules and yields steps; a driver runs each one and sends back what came of it.
`run` is the driver of plain threads.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """Statements on the database."""

    call: Callable[[], Any]

    def run(self) -> Any:
        """Execute them."""
        return self.call()


@dataclass(frozen=True)
class Pause:
    """A wait for what another caller does."""

    seconds: float

    def run(self) -> None:
        """Sleep."""
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Generating:
    """A call of the function that generates the content of a claimed row."""

    call: Callable[[], Any]

    def run(self) -> Any:
        """Call it in this thread."""
        try:
            return self.call()
        except StopIteration as error:  # which no generator can raise
            raise RuntimeError("generate() raised StopIteration") from error


class _Exit(BaseException):
    """Stands for a GeneratorExit of a step, at which Python would close the steps."""


Step = Query | Pause | Generating
Steps = Generator[Step, Any, T]


def run(steps: Steps[T]) -> T:
    """Run all steps in this thread, and return what they lead to.

    An error of a step, or an interruption, is raised where the step was asked for.
    """
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.send(value) if error is None else steps.throw(error)
            value = error = None
            value = step.run()
        except StopIteration as end:
            result: T = end.value
            return result
        except BaseException as raised:
            if getgeneratorstate(steps) != GEN_CLOSED:
                error = _Exit(raised) if isinstance(raised, GeneratorExit) else raised
            elif isinstance(raised, _Exit):
                raise raised.args[0] from None
            else:
                raise
