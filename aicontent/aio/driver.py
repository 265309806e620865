"""Run the steps of a generation in an event loop. Called by `flights` and `workers`."""

import asyncio
import inspect
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Generic, TypeVar

import peewee

from ..database.supported import backend_of, database_of
from ..errors import GeneratedContentError
from ..generation.arguments import is_async
from ..generation.renewal import Claim
from ..generation.steps import Ended, Generating, Pause, Query, Renewing, Step, Steps, advance, run
from .threads import Runner, UsingThreads, in_thread

T = TypeVar("T")


class Driver(Generic[T]):
    """Runs the steps of one call.

    A cancellation ends a pause or an async `generate` at once. Statements and a plain `generate`
    end first, so that an answer is stored or the claimed row is released.
    """

    is_paid = False
    """Whether this call has begun to generate content."""

    _threads: Runner

    def __init__(self, steps: Steps[T], database: peewee.Database) -> None:
        self._steps, self._database = steps, database
        self._loop = asyncio.get_running_loop()
        self._cancelled: asyncio.CancelledError | None = None
        self._running: Future[Any] | asyncio.Future[Any] | None = None

    def start(self) -> asyncio.Task[T]:
        """Start a task that runs all steps. Its error need not be awaited: the row records it."""
        task = asyncio.create_task(self.run())
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def run(self) -> T:
        """Run all steps, and return their result."""
        async with UsingThreads(self._database, self) as self._threads:
            return await self._run()

    def is_dropped(self) -> bool:
        """Return whether the loop was closed before the end of the steps."""
        return self._loop.is_closed()

    def end_dropped(self) -> None:
        """End the steps in this thread, and release a claimed row."""
        running: Step = Query(self._running.result) if self._running else Pause(0)
        with suppress(BaseException):  # the row records the error
            run(_cancelled_after(running, self._steps))

    async def pause(self, step: Pause) -> None:
        """Wait for another caller."""
        await asyncio.sleep(step.seconds)

    async def generate(self, step: Generating) -> tuple[Any, bool]:
        """Call an async function here and any other one in a thread; await its result."""
        self.is_paid = True
        if is_async(step.generate):
            returned, left_open = step.generate(step.content), False
        else:
            returned, left_open = await self._finished(in_thread(step))
        if inspect.isawaitable(returned):
            if self._cancelled is not None:
                if inspect.iscoroutine(returned):
                    returned.close()  # otherwise Python warns that it was never awaited
                raise self._cancelled
            returned = await returned
        return returned, left_open

    async def _run(self) -> T:
        try:
            result = await self._end_of_steps()
        except GeneratedContentError:  # it holds an answer that must not be lost
            raise
        except Exception as error:
            if self._cancelled is None:
                raise
            raise self._cancelled from error
        if self._cancelled is not None:
            raise self._cancelled
        return result

    async def _end_of_steps(self) -> T:
        value: Any = None
        error: BaseException | None = None
        while not isinstance(step := advance(self._steps, value, error), Ended):
            value = error = None
            try:
                value = await self._do(step)
            except BaseException as raised:
                if isinstance(raised, GeneratorExit) and not self._loop.is_running():
                    raise  # the loop has ended, so nothing can be awaited
                error = raised
        return step.result

    async def _do(self, step: Step) -> Any:
        if isinstance(step, Query):
            return await self._finished(self._threads.submit(step))
        if isinstance(step, Renewing):
            return self._renewed(step)
        if self._cancelled is not None:
            raise self._cancelled
        if isinstance(step, Pause):
            return await self.pause(step)
        return await self.generate(step)

    async def _finished(self, future: Future[Any] | asyncio.Future[Any]) -> Any:
        """Wait for a thread to finish, even if this task is cancelled."""
        waiting, self._running = asyncio.wrap_future(future), future
        while not waiting.done():
            try:
                await asyncio.wait([waiting])
            except asyncio.CancelledError as error:
                self._cancelled = error
        self._running = None
        return waiting.result()

    @contextmanager
    def _renewed(self, step: Renewing) -> Iterator[None]:
        database = database_of(type(step.content))
        if not backend_of(database).connects_twice(database):
            yield
            return
        claim = Claim(step.content, step.lease)
        renewal = asyncio.create_task(self._renew(claim))
        try:
            yield
        finally:
            with suppress(RuntimeError):  # the loop is closed
                renewal.cancel()

    async def _renew(self, claim: Claim) -> None:
        is_held = True
        while is_held:
            await asyncio.sleep(claim.due_in())
            renewal = Query(partial(claim.renew, connect=True))
            is_held = await asyncio.wrap_future(self._threads.submit(renewal))


def _cancelled_after(step: Step, steps: Steps[T]) -> Steps[T]:
    """Run the steps that follow a step, but cancel pauses and calls of `generate`."""
    while True:
        value: Any = None
        error: BaseException | None = asyncio.CancelledError()
        if isinstance(step, Query):
            try:
                value, error = (yield step), None
            except BaseException as raised:  # noqa: BLE001 - the generator handles or raises it
                error = raised
        elif isinstance(step, Renewing):
            value, error = nullcontext(), None
        following = advance(steps, value, error)
        if isinstance(following, Ended):
            return following.result
        step = following
