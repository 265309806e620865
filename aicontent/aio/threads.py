"""Run statements in a few threads per database, so that they do not block event loops.

The default thread pool of an event loop could deadlock: `generate` may need it, for example to
resolve a host name, while all of its threads wait for content of that `generate`.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import peewee

from ..database.availability import keeping_connection
from ..database.internals import pool_size
from ..database.supported import backend_of
from ..generation.steps import Step

THREADS = 4
"""Threads per database, each with one connection. More threads would wait for Python's global
lock. A smaller connection pool has one thread per connection."""

_LOOKS = 0.5
"""Seconds after which an idle thread checks for calls whose loop was closed."""

_Job = tuple[Future[Any], Context, Step]


class Call(Protocol):
    """A call that uses the threads."""

    def is_dropped(self) -> bool:
        """Return whether the loop was closed before the call ended."""

    def end_dropped(self) -> None:
        """End the call in this thread."""


class Threads:
    """The threads of one database. Each keeps a connection for as long as calls need them."""

    def __init__(self, database: peewee.Database) -> None:
        self.calls: set[Call] = set()
        self._database = database
        self._most = min(THREADS, pool_size(database) or THREADS)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._changed = threading.Lock()
        self._unfinished = 0
        self._ends: list[Future[None]] = []

    def submit(self, step: Step) -> Future[Any]:
        """Run a step in one of the threads, with the contextvars of the caller."""
        future: Future[Any] = Future()
        with self._changed:
            self._unfinished += 1
            if len(self._ends) < min(self._unfinished, self._most):
                self._start()
        self._jobs.put((future, copy_context(), step))
        return future

    def leave(self, calls: set[Call]) -> list[Future[None]]:
        """Remove calls. After the last call, end the threads and return a future for each end."""
        with _changed:
            is_over = bool(self.calls) and self.calls <= calls
            self.calls -= calls
            if not is_over:
                return []
            if _used.get(self._database) is self:
                del _used[self._database]
        for _ in self._ends:
            self._jobs.put(None)
        return self._ends

    def _end_dropped(self) -> None:
        """End the calls whose loop was closed."""
        with _changed:
            dropped = {call for call in self.calls if call.is_dropped()}
            self.leave(dropped)
        for call in dropped:  # in new threads, because a plain generate may still run
            name = "aicontent-end"
            threading.Thread(target=call.end_dropped, name=name, daemon=True).start()

    def _start(self) -> None:
        end: Future[None] = Future()
        name = f"aicontent-database-{len(self._ends)}"
        thread = threading.Thread(target=self._run, args=(end,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process cannot start another thread
            if not self._ends:
                self._unfinished -= 1
                raise
            return
        self._ends.append(end)

    def _run(self, end: Future[None]) -> None:
        try:
            with keeping_connection(self._database):
                while True:
                    try:
                        job = self._jobs.get(timeout=_LOOKS)
                    except Empty:
                        self._end_dropped()
                        continue
                    if job is None:
                        break
                    self._do(*job)
                    del job  # otherwise it keeps the content in memory
        finally:
            end.set_result(None)

    def _do(self, future: Future[Any], context: Context, step: Step) -> None:
        settle: Callable[[], None] | None = None
        if future.set_running_or_notify_cancel():
            settle = _outcome(future, partial(context.run, step.run))
        with self._changed:
            self._unfinished -= 1
        if settle is not None:
            settle()


class Here:
    """Replaces the threads if a database has one connection: steps run in the calling thread.

    Such a database is in memory, or in the transaction of a test.
    """

    def submit(self, step: Step) -> Future[Any]:
        """Run a step in this thread."""
        future: Future[Any] = Future()
        _outcome(future, step.run)()
        return future


class Bridge:
    """Replaces the threads for an asyncio database of Peewee: steps run in the loop."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def submit(self, step: Step) -> asyncio.Future[Any]:
        """Run a step as a task, because Peewee gives each task its own connection."""
        loop = asyncio.get_running_loop()
        return _Uninterrupted(self._database.run(step.run), loop=loop)


class _Uninterrupted(asyncio.Task[Any]):
    """A task that ignores cancellation: a half-finished step could not release its claimed row."""

    def cancel(self, msg: Any = None) -> bool:
        return False


Runner = Threads | Here | Bridge
"""An object that runs the statements of one database."""


def in_thread(step: Step) -> Future[Any]:
    """Start a thread that runs a step with the contextvars of the caller."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # from now on it cannot be cancelled
    call = partial(copy_context().run, step.run)
    # A second Ctrl-C ends the process without waiting for this thread.
    threading.Thread(
        target=lambda: _outcome(future, call)(), name="aicontent-generate", daemon=True
    ).start()
    return future


def _outcome(future: Future[Any], call: Callable[[], Any]) -> Callable[[], None]:
    """Call a function; return the call that stores its result or its error in the future."""
    try:
        return partial(future.set_result, call())
    except BaseException as error:  # noqa: BLE001 - the future raises it
        return partial(future.set_exception, error)


_used: dict[peewee.Database, Threads] = {}
_changed = threading.RLock()


class UsingThreads:
    """Use the threads of a database, which start with the first call and end with the last one."""

    def __init__(self, database: peewee.Database, call: Call) -> None:
        self._database, self._call = database, call
        self._threads: Threads | None = None

    async def __aenter__(self) -> Runner:
        backend = backend_of(self._database)
        if backend.is_bridged:
            return Bridge(self._database)
        if not backend.connects_twice(self._database):
            return Here()
        with _changed:
            self._threads = _used.setdefault(self._database, Threads(self._database))
            self._threads.calls.add(self._call)
        return self._threads

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        threads = self._threads
        ends = threads.leave({self._call}) if threads is not None else []
        if ends and kind is not GeneratorExit:  # GeneratorExit means that the loop has ended
            await asyncio.wait([asyncio.wrap_future(end) for end in ends])


def _forget() -> None:
    """Forget the threads in a forked process, because a fork does not copy threads."""
    global _changed
    _used.clear()
    _changed = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
