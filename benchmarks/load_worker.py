"""Call one operation in threads as fast as possible, and record the time of each call.

`load` starts processes that run `serve()`.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import peewee

import aicontent

from .load_contestants import AIContentWithClaims, DriverWithClaims
from .requests import Request

_WARM_UP = 20
"""Calls of each thread before the measurement: the first ones open files and build SQL."""

_LOCKED = (peewee.OperationalError, sqlite3.OperationalError)
"""The errors of aicontent and of the driver if the database is locked, among other reasons."""

Call = Callable[[], Any]
"""A function that calls an operation once, and returns None if there was nothing to do."""


class Task(NamedTuple):
    """The work of one process in a turn."""

    url: str
    contestant: str
    """One of `load.CONTESTANTS`."""
    operation: str
    """A key of `load.OPERATIONS`."""
    inputs: str
    """The path of the file that `load_data` has written."""
    threads: int
    seconds: float


class Measured(NamedTuple):
    """The figures of a thread, or of all threads of a process."""

    a_second: float
    """Calls a second."""
    locked: int
    """Calls that SQLite refused, because the database was locked for longer than the timeout."""
    microseconds: list[int]
    """The time of each call."""


def serve() -> None:
    """Do the tasks that the input names, one after the other.

    For each line with a task, print "ready" when its threads are prepared. Start them at the next
    line, and print their figures as JSON.
    """
    for line in iter(sys.stdin.readline, ""):
        threads = Threads(Task(*json.loads(line)))
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(threads.run()), flush=True)


class Threads:
    """Threads that call an operation, each with its own connection."""

    def __init__(self, task: Task) -> None:
        """Start the threads, and wait until all have called the operation a few times."""
        self._task, self._database = task, aicontent.connect(task.url)
        self._inputs = json.loads(Path(task.inputs).read_text("utf-8"))
        self._ours = AIContentWithClaims(self._database) if task.contestant == "aicontent" else None
        self._measured: list[Measured] = []
        self._ready, self._start = (threading.Barrier(task.threads + 1) for _ in range(2))
        self._threads = [threading.Thread(target=self._run) for _ in range(task.threads)]
        for thread in self._threads:
            thread.start()
        self._ready.wait()

    def run(self) -> Measured:
        """Start the measurement in all threads, and wait for its end."""
        self._start.wait()
        for thread in self._threads:
            thread.join()
        if len(self._measured) < len(self._threads):
            raise RuntimeError("a thread has failed: see its error above")
        rates, locked, times = zip(*self._measured, strict=True)
        return Measured(sum(rates), sum(locked), [time for each in times for time in each])

    def _run(self) -> None:
        try:
            with self._database.connection_context():
                calls = cycle(self._calls())
                for _ in range(_WARM_UP):
                    with suppress(*_LOCKED):  # the measurement counts these errors
                        next(calls)()
                self._ready.wait()
                self._start.wait()
                self._measured.append(_measure(calls, self._task.seconds))
        except BaseException:
            self._ready.abort()
            raise

    def _calls(self) -> list[Call]:
        contestant = self._ours or DriverWithClaims(self._database)
        inputs = self._inputs
        calls: dict[str, list[Call]] = {
            "reuse": [partial(contestant.reuse, *lookup) for lookup in inputs["lookups"]],
            "hit": [partial(contestant.hit, Request(*each)) for each in inputs["requests"]],
            "create": [partial(contestant.create, values) for values in inputs["rows"]],
            "claim": [contestant.claim_and_complete],
        }
        chosen = calls[self._task.operation]
        random.shuffle(chosen)
        return chosen


def _measure(calls: Iterator[Call], seconds: float) -> Measured:
    """Call until the time is over, or until there is nothing to do."""
    times: list[float] = []
    completed = locked = 0
    start = before = time.perf_counter()
    deadline = start + seconds
    while before < deadline:
        try:
            if next(calls)() is None:
                break
            completed += 1
        except _LOCKED as error:
            if "locked" not in str(error):
                raise
            locked += 1
        now = time.perf_counter()
        times.append(now - before)
        before = now
    if not times:
        raise RuntimeError("nothing was measured: the table has no row for the operation")
    return Measured(completed / (before - start), locked, [round(each * 1e6) for each in times])
