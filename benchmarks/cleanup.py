"""Measure cleanup() against one unbounded DELETE, alone and with concurrent calls of reuse()."""

from __future__ import annotations

import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import peewee

import aicontent
from aicontent import ContentType

from .processes import PAUSE, concurrently, output, processes, python
from .tables import LEVELS, USERS, due

GROUPS = 6
"""The number of groups of due rows that `measure` needs."""

_SQLITE_ROWS, _POSTGRESQL_ROWS = 5_000, 50_000
"""Rows that cleanup() deletes during calls of reuse(). On SQLite it pauses for these calls."""
_WARM_UP_CALLS = 50


def measure(url: str, idle_seconds: float) -> Iterator[tuple[str, str, str, str]]:
    """Measure on a database that has GROUPS groups of due rows.

    Args:
        url: the database.
        idle_seconds: how long reuse() is measured while nothing is deleted.

    Yields:
        The name, the figure of cleanup(), that of one DELETE, and the ratio.
    """
    database = aicontent.connect(url, timeout=60)
    model = aicontent.for_database(database)
    with database.connection_context():
        empty = [_seconds(lambda: model.cleanup(due(0))) * 1000 for _ in range(5)]
        first = f"the first {empty[0]:,.1f} ms"
        yield "nothing to delete", f"{statistics.median(empty):,.1f} ms", "", first
        yield from _alone(database, url)
        yield from _with_callers(database, url, idle_seconds)
    yield from _several(url)


def _alone(database: peewee.Database, url: str) -> Iterator[tuple[str, str, str, str]]:
    """Delete two groups with cleanup() and two with one DELETE, in turns."""
    model = aicontent.for_database(database)
    is_sqlite = isinstance(database, peewee.SqliteDatabase)
    rates: dict[bool, list[float]] = {True: [], False: []}
    locks = {True: 0.0, False: 0.0}
    for group in range(4):
        now, is_ours = due(group + 1), bool(group % 2)
        with ExitStack() as stack:
            stop = stack.enter_context(concurrently(WriteLock, url)) if is_sqlite else None
            start = time.perf_counter()
            deleted = model.cleanup(now).deleted if is_ours else _one_delete(database, now)
            seconds = time.perf_counter() - start
            locked = stop()[0]["longest"] if stop else 0.0
        rates[is_ours].append(deleted / seconds)
        locks[is_ours] = max(locks[is_ours], locked)
    ours, theirs = statistics.mean(rates[True]), statistics.mean(rates[False])
    yield "rows deleted a second", f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}"
    if is_sqlite:
        yield "longest write lock", f"{locks[True]:,.0f} ms", f"{locks[False]:,.0f} ms", ""


def _with_callers(
    database: peewee.Database, url: str, idle_seconds: float
) -> Iterator[tuple[str, str, str, str]]:
    """Measure the time of concurrent calls of reuse()."""
    model = aicontent.for_database(database)
    is_sqlite = isinstance(database, peewee.SqliteDatabase)
    max_rows = _SQLITE_ROWS if is_sqlite else _POSTGRESQL_ROWS
    idle = _reuse_during(url, lambda: time.sleep(idle_seconds))
    ours = _reuse_during(url, lambda: model.cleanup(due(5), max_rows=max_rows))
    theirs = _reuse_during(url, lambda: _one_delete(database, due(5)))
    for name in ("p50", "p99", "max"):
        yield (
            f"concurrent reuse(), {name}",
            f"{ours[name]:,.1f} ms",
            f"{theirs[name]:,.1f} ms",
            f"{ours[name] / idle[name]:.1f} x idle ({idle[name]:,.1f} ms)",
        )


def _reuse_during(url: str, call: Callable[[], Any]) -> dict[str, float]:
    with concurrently(ReuseCalls, url) as stop:
        call()
        return stop()[0]


class ReuseCalls:
    """Call reuse() for random users as a busy service does, and time each call."""

    def __init__(self, database: peewee.Database) -> None:
        self._model = aicontent.for_database(database)
        self._rng = random.Random(7)
        self._types = list(ContentType)
        self._seconds: list[float] = []
        for _ in range(_WARM_UP_CALLS):
            self.step()
        self._seconds.clear()

    def step(self) -> None:
        user, type = self._rng.randint(1, USERS), self._rng.choice(self._types)
        start = time.perf_counter()
        self._model.reuse(user, type, self._rng.choice(LEVELS))
        self._seconds.append(time.perf_counter() - start)
        time.sleep(PAUSE)

    def result(self) -> dict[str, float]:
        seconds = sorted(self._seconds)
        return {
            "calls": len(seconds),
            "p50": seconds[len(seconds) // 2] * 1000,
            "p99": seconds[int(len(seconds) * 0.99)] * 1000,
            "max": seconds[-1] * 1000,
        }


class WriteLock:
    """Measure the longest time for which SQLite's write lock is not available."""

    def __init__(self, database: peewee.Database) -> None:
        self._connection: Any = database.connection()
        self._connection.execute("PRAGMA busy_timeout = 0")
        self._longest = 0.0
        self._locked_since: float | None = None

    def step(self) -> None:
        now = time.perf_counter()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("ROLLBACK")
            self._locked_since = None
        except sqlite3.OperationalError:
            self._locked_since = self._locked_since or now
            self._longest = max(self._longest, now - self._locked_since)
        time.sleep(0.0005)

    def result(self) -> dict[str, float]:
        return {"longest": self._longest * 1000}


_CLEAN = """
import sys, aicontent
from datetime import datetime
database = aicontent.connect(sys.argv[1], timeout=60)
report = aicontent.for_database(database).cleanup(datetime.fromisoformat(sys.argv[2]))
print(report.deleted)
"""


def _several(url: str) -> Iterator[tuple[str, str, str, str]]:
    """Delete half of the last group with two processes, and the other half with four."""
    database = aicontent.connect(url, timeout=60)
    half = due(5) + (due(6) - due(5)) / 2
    for count, now in ((2, half), (4, due(6))):
        start = time.perf_counter()
        with processes([[*python(_CLEAN), url, now.isoformat()]] * count) as started:
            deleted = sum(int(output(process)) for process in started)
        rate = deleted / (time.perf_counter() - start)
        with database.connection_context():
            remaining = _due_rows(aicontent.for_database(database), now).count()
        rest = f"{deleted:,} deleted, {remaining:,} remaining"
        yield f"{count} concurrent cleanups", f"{rate:,.0f} rows/s", "", rest


def _one_delete(database: peewee.Database, now: datetime) -> int:
    model: Any = aicontent.for_database(database)
    with database.atomic():
        return int(model.delete().where(_is_due(model, now)).execute())


def _due_rows(model: Any, now: datetime) -> Any:
    return model.select().where(_is_due(model, now))


def _is_due(model: Any, now: datetime) -> Any:
    has_failed = (model.status == "failed") & (model.created_at < now - timedelta(days=1))
    return (model.expires_at < now) | has_failed


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
