"""The cleanup measured: against one unbounded DELETE, and beside those who use the table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import peewee

import aicontent

from .benchmark_beside import beside
from .benchmark_data import due

GROUPS = 6
_BESIDE_SQLITE, _BESIDE_POSTGRESQL = 5_000, 50_000
"""Rows that go beside callers of reuse(), for whom the cleanup slows down on SQLite."""

Line = tuple[str, str, str, str]
"""What was measured, ours, the alternative, and the ratio."""


def measure(url: str, quiet: float) -> Iterator[Line]:
    """Measure on a database that benchmark_data has filled with GROUPS groups; `quiet` is for how
    many seconds reuse() is watched with nothing beside it."""
    database = aicontent.connect(url, timeout=60)
    model = aicontent.for_database(database)
    is_sqlite = isinstance(database, peewee.SqliteDatabase)
    with database.connection_context():
        idle = [_seconds(lambda: model.cleanup(due(0))) * 1000 for _ in range(5)]
        first = f"the first {idle[0]:,.1f} ms"
        yield "idle run", f"{sorted(idle)[2]:,.1f} ms", "", first
        ours: list[float] = []
        theirs: list[float] = []
        locks = [0.0, 0.0]
        for group in range(4):
            now, is_ours = due(group + 1), bool(group % 2)
            with ExitStack() as stack:
                watch = stack.enter_context(beside("lock", url)) if is_sqlite else None
                began = time.perf_counter()
                deleted = model.cleanup(now).deleted if is_ours else _one_delete(database, now)
                took = time.perf_counter() - began
                held = watch()[0]["longest"] if watch else 0.0
            (ours if is_ours else theirs).append(deleted / took)
            locks[is_ours] = max(locks[is_ours], held)
        best, other = _middle(ours), _middle(theirs)
        yield "rows deleted a second", f"{best:,.0f}", f"{other:,.0f}", f"{best / other:.2f}"
        if is_sqlite:
            yield "longest write lock", f"{locks[1]:,.0f} ms", f"{locks[0]:,.0f} ms", ""
        yield from _beside(database, url, quiet)
    yield from _several(url)


def _beside(database: peewee.Database, url: str, quiet: float) -> Iterator[Line]:
    model = aicontent.for_database(database)
    idle = _reuse_beside(url, lambda: time.sleep(quiet))
    is_sqlite = isinstance(database, peewee.SqliteDatabase)
    most = _BESIDE_SQLITE if is_sqlite else _BESIDE_POSTGRESQL
    ours = _reuse_beside(url, lambda: model.cleanup(due(5), max_rows=most))
    theirs = _reuse_beside(url, lambda: _one_delete(database, due(5)))
    for name in ("p50", "p99", "max"):
        yield (
            f"reuse() beside it, {name}",
            f"{ours[name]:,.1f} ms",
            f"{theirs[name]:,.1f} ms",
            f"{ours[name] / idle[name]:.1f} x idle ({idle[name]:,.1f} ms)",
        )


def _reuse_beside(url: str, work: Callable[[], Any]) -> dict[str, float]:
    with beside("reuse", url) as end:
        work()
        return end()[0]


def _several(url: str) -> Iterator[Line]:
    """Let two, then four cleaners go at half of the last group each."""
    half = due(5) + (due(6) - due(5)) / 2
    for cleaners, now in ((2, half), (4, due(6))):
        began = time.perf_counter()
        running = [
            subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _CLEAN, url, now.isoformat()],
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(cleaners)
        ]
        reports = [json.loads(process.communicate()[0]) for process in running]
        deleted = sum(deleted for deleted, _ in reports)
        took = time.perf_counter() - began
        left = any(left for _, left in reports)
        yield (
            f"{cleaners} cleaners",
            f"{deleted / took:,.0f} rows/s",
            "",
            f"{deleted:,} gone, left: {left}",
        )


_CLEAN = """
import json, sys, aicontent
from datetime import datetime
database = aicontent.connect(sys.argv[1], timeout=60)
report = aicontent.for_database(database).cleanup(datetime.fromisoformat(sys.argv[2]))
print(json.dumps([report.deleted, report.left]))
"""


def _one_delete(database: peewee.Database, now: datetime) -> int:
    model: Any = aicontent.for_database(database)
    failed = (model.status == "failed") & (model.created_at < now - timedelta(days=1))
    with database.atomic():
        return int(model.delete().where((model.expires_at < now) | failed).execute())


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _middle(values: list[float]) -> float:
    return sum(values) / len(values)
