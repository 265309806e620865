"""Who works beside a cleanup, in processes of their own, and what it was like for them.

Run as `python -m aicontent.scripts.benchmark_beside KIND URL`, a process says that it is ready,
works until its input ends, and prints what it found as JSON.
"""

from __future__ import annotations

import json
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peewee

import aicontent
from aicontent import ContentType

from .benchmark_data import USERS

PAUSE = 0.005
"""Seconds between two calls of reuse(): a busy service, not a loop."""


@contextmanager
def beside(kind: str, url: str) -> Iterator[Callable[[], dict[str, float]]]:
    """Have such a process; the function ends it and returns what it found."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", __name__, kind, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101 - for mypy
    process.stdout.readline()
    found: dict[str, float] = {}

    def end() -> dict[str, float]:
        if not found:
            found.update(json.loads(process.communicate()[0]))
        return found

    try:
        yield end
    finally:
        end()


def reuse(database: peewee.Database) -> Callable[[], dict[str, float]]:
    """Call reuse() for random users, and remember how long each call took."""
    model = aicontent.for_database(database)
    chance, types = random.Random(7), list(ContentType)  # noqa: S311
    took: list[float] = []

    def step() -> dict[str, float]:
        user, kind = chance.randint(1, USERS), chance.choice(types)
        began = time.perf_counter()
        model.reuse(user, kind, chance.choice(("A1", "A2", "B1", "B2", "C1")))
        took.append(time.perf_counter() - began)
        time.sleep(PAUSE)
        return {}

    def result() -> dict[str, float]:
        took.sort()
        return {
            "calls": len(took),
            "p50": took[len(took) // 2] * 1000,
            "p99": took[int(len(took) * 0.99)] * 1000,
            "max": took[-1] * 1000,
        }

    step.result = result  # type: ignore[attr-defined]
    for _ in range(50):
        step()
    took.clear()
    return step


def lock(database: peewee.Database) -> Callable[[], dict[str, float]]:
    """See how long SQLite's write lock cannot be had at a stretch."""
    connection: Any = database.connection()
    connection.execute("PRAGMA busy_timeout = 0")
    longest, since = 0.0, None

    def step() -> dict[str, float]:
        nonlocal longest, since
        now = time.perf_counter()
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            since = None
        except Exception:  # noqa: BLE001 - it is locked
            since = since or now
            longest = max(longest, now - since)
        time.sleep(0.0005)
        return {}

    step.result = lambda: {"longest": longest * 1000}  # type: ignore[attr-defined]
    return step


def main(kind: str, url: str) -> None:
    """Work until the input ends."""
    database = aicontent.connect(url, timeout=60)
    with database.connection_context():
        step: Any = {"reuse": reuse, "lock": lock}[kind](database)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            step()
    print(json.dumps(step.result()))


if __name__ == "__main__":
    main(*sys.argv[1:])
