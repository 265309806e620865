"""Serve or generate content in an event loop, once for all callers of the same request."""

import asyncio
from copy import deepcopy
from typing import Any

from ..database.supported import database_of
from ..generation.arguments import check_generate
from ..generation.single_flight import Flight, flight
from ..generation.steps import Generating, Pause
from ..table import C
from .driver import Driver

_FLIGHTS = "_aicontent_flights"
"""The attribute of an event loop that holds its calls, so that they end with the loop."""


async def get_or_generate(model: type[C], *request: Any, **options: Any) -> C:
    """Serve or generate content; see `AIGeneratedContent.aget_or_generate`."""
    check_generate(request[-1])
    call = flight("aget_or_generate", model, *request, **options)
    # A copy, because the caller may change the payload before a thread reads it.
    call.attributes["request_payload"] = deepcopy(call.attributes["request_payload"])
    loop = asyncio.get_running_loop()
    flights: _Flights | None = getattr(loop, _FLIGHTS, None)
    if flights is None:
        flights = _Flights()
        setattr(loop, _FLIGHTS, flights)
    content: C = await flights.serve(call)
    return content


class _Flights:
    """Runs the calls of one event loop, each as a task."""

    def __init__(self) -> None:
        self._leading: dict[Any, _Caller] = {}
        """For each request, its first caller, which the others wait for."""
        self.watching: dict[Any, _Caller] = {}
        """For each row in flight, the caller that generates it, or one that polls it."""
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop has only weak references

    async def serve(self, call: Flight) -> Any:
        attributes, database = call.attributes, database_of(call.model)
        # The key has `refresh`, because other callers get the stored content during a refresh.
        key = (call.model, database, attributes["user"], attributes["fingerprint"], call.refresh)
        awaited = None
        if (leader := self._leading.get(key)) is not None:
            await asyncio.wait([leader.row], timeout=call.wait)
            awaited = leader.row.result() if leader.row.done() else None
        caller = _Caller(self, call, awaited)
        self._leading.setdefault(key, caller)
        task = caller.start()
        self._tasks.add(task)

        def end(_: object) -> None:
            self._tasks.discard(task)
            if self._leading.get(key) is caller:
                del self._leading[key]
            caller.end()

        task.add_done_callback(end)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if not caller.is_paid:
                task.cancel()
            raise
        return task.result()


class _Caller(Driver[Any]):
    """Runs one call; it waits for other calls of this loop without polling their rows."""

    def __init__(self, flights: _Flights, call: Flight, awaited: str | None) -> None:
        super().__init__(call.steps(awaited), database_of(call.model))
        self.row: asyncio.Future[str | None] = self._loop.create_future()
        """The id of the row that this call generates or waits for, or None."""
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._watching = flights.watching
        self._watched: set[Any] = set()

    async def pause(self, step: Pause) -> None:
        if step.awaited is None:
            await super().pause(step)
            return
        watcher = self._watch(step.awaited)
        if watcher is self:
            await super().pause(step)
        else:
            await asyncio.wait([watcher._ended], timeout=step.most)

    async def generate(self, step: Generating) -> tuple[Any, bool]:
        self._watching.pop((self._database, step.content.id), None)
        self._watch(step.content.id)
        return await super().generate(step)

    def _watch(self, id: str) -> "_Caller":
        if not self.row.done():
            self.row.set_result(id)
        key = self._database, id
        self._watched.add(key)
        return self._watching.setdefault(key, self)

    def end(self) -> None:
        """Wake the calls that wait for this one."""
        for key in self._watched:
            if self._watching.get(key) is self:
                del self._watching[key]
        for future in (self.row, self._ended):
            if not future.done():
                future.set_result(None)
