"""Who works while something is measured, in processes of their own, and what it was like for them.

Run as `python -m aicontent.scripts.benchmark_beside KIND URL`, a process says that it is ready,
begins when it gets a line, works until its input ends, and prints what it found as JSON.
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
from aicontent import AIGeneratedContent, ContentType

from .benchmark_data import TABLE, USERS

PAUSE = 0.005
"""Seconds between two calls of reuse(): a busy service, not a loop."""


@contextmanager
def beside(kind: str, url: str, number: int = 1) -> Iterator[Callable[[], list[dict[str, float]]]]:
    """Have such processes, which begin together; the function ends them and returns what each
    found."""
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", __name__, kind, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]
    for process in processes:
        process.stdout.readline()  # type: ignore[union-attr]
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    found: list[dict[str, float]] = []

    def end() -> list[dict[str, float]]:
        if not found:
            for process in processes:
                process.stdin.close()  # type: ignore[union-attr]
                process.stdin = None
            found.extend(json.loads(process.communicate()[0]) for process in processes)
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


def claim(database: peewee.Database) -> Callable[[], dict[str, float]]:
    """Claim content and complete it, as fast as it goes."""
    model = aicontent.for_database(database)

    def work() -> bool:
        content = model.claim()
        if content is not None:
            content.complete({"title": "done"})
        return content is not None

    return _counted(work)


def driver(database: peewee.Database) -> Callable[[], dict[str, float]]:
    """Do what `claim` does by SQLite's driver alone, with the statements that are sent there."""
    connection: Any = database.connection()
    columns = ", ".join(f'"{name}"' for name in AIGeneratedContent._meta.columns)
    now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    oldest = f"SELECT id FROM {TABLE} WHERE status = 'pending' ORDER BY \"createdAt\", id LIMIT 1"
    begin = f"""
        UPDATE {TABLE} SET status = 'generating', attempts = attempts + 1, "updatedAt" = {now},
            "leaseExpiresAt" = strftime('%Y-%m-%d %H:%M:%f000', 'now', '+300.000 seconds')
        WHERE id = ({oldest}) AND status = 'pending' RETURNING {columns}
    """
    end = f"""
        UPDATE {TABLE} SET status = 'completed', "generatedData" = ?, "leaseExpiresAt" = NULL,
            "updatedAt" = {now}
        WHERE id = ? AND status = 'generating' AND attempts = ? RETURNING "updatedAt"
    """

    def work() -> bool:
        rows = connection.execute(begin).fetchall()
        for row in rows:
            json.loads(row[4])
            connection.execute(end, ('{"title":"done"}', row[0], row[-2])).fetchall()
        return bool(rows)

    return _counted(work)


def procrastinate(database: peewee.Database) -> Callable[[], dict[str, float]]:
    """Fetch a job and finish it, by procrastinate's own functions."""
    connection: Any = database.connection()
    cursor = connection.cursor()
    fetch = (
        "SELECT id, status, task_name, priority, lock, queueing_lock, args, scheduled_at, "
        "queue_name, attempts, worker_id FROM procrastinate_fetch_job_v2(NULL, NULL)"
    )

    def work() -> bool:
        cursor.execute(fetch)
        (job, *_) = cursor.fetchone()
        if job is not None:
            cursor.execute("SELECT procrastinate_finish_job_v1(%s, 'succeeded', false)", (job,))
        return job is not None

    return _counted(work)


def _counted(work: Callable[[], bool]) -> Callable[[], dict[str, float]]:
    """Count how often work is done, and in how many seconds, until there is none left."""
    done, began, ended = 0, 0.0, 0.0

    def step() -> dict[str, float]:
        nonlocal done, began, ended
        began = began or time.perf_counter()
        if not ended and work():
            done += 1
        else:
            ended = ended or time.perf_counter()
            time.sleep(PAUSE)
        return {}

    def result() -> dict[str, float]:
        return {"a_second": done / ((ended or time.perf_counter()) - began)}

    step.result = result  # type: ignore[attr-defined]
    return step


KINDS = {
    "reuse": reuse,
    "lock": lock,
    "claim": claim,
    "the driver": driver,
    "procrastinate": procrastinate,
}


def main(kind: str, url: str) -> None:
    """Work until the input ends."""
    database = aicontent.connect(url, timeout=60)
    with database.connection_context():
        step: Any = KINDS[kind](database)
        print("ready", flush=True)
        sys.stdin.readline()
        while not select.select([sys.stdin], [], [], 0)[0]:
            step()
    print(json.dumps(step.result()))


if __name__ == "__main__":
    main(*sys.argv[1:])
