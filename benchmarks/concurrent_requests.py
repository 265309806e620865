"""Measure many concurrent requests for few topics: seconds, generations, threads, stalls.

`concurrent_ways` defines the ways to serve them. This process measures one after the other.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peewee

import aicontent

from .concurrent_ways import LANGCHAIN, WAYS, Model, Way, cashews_cache, has_langchain
from .processes import PAUSE

HEADING = (
    f"  {'':<32}{'seconds':>9}{'of ours':>9}{'generations':>13}{'threads':>9}{'connections':>13}"
    f"{'stall':>9}  errors"
)

_SETTLE = 0.5
"""Seconds before each run, so that PostgreSQL can end the sessions of the previous run."""

_CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def measure(
    url: str, requests: int, topics: int, seconds: float, rounds: int
) -> Iterator[dict[str, Any]]:
    """Measure each way on an empty database, ours first.

    Args:
        url: the database.
        requests: the concurrent requests of a run.
        topics: the number of different topics, which are requested in turns.
        seconds: how long the model takes.
        rounds: the number of runs of each way. The run with the median time is the result.
    """
    database = aicontent.connect(url)
    aicontent.migrate(database, create_users=True)
    with database.connection_context():
        aicontent.for_database(database).user.rel_model.create()
    ways = dict(WAYS)
    if isinstance(database, peewee.SqliteDatabase):
        ways["cashews, on diskcache"] = cashews_cache
    ours = 0.0
    for name, way in ways.items():
        if name == LANGCHAIN and not has_langchain():
            yield {"name": name, "skipped": "langchain-community is not installed"}
            continue
        runs = []
        for number in range(rounds):
            asked = [f"{name}, {number}, {n % topics}" for n in range(requests)]
            runs.append(_run(way, url, asked, seconds))
        median = sorted(runs, key=lambda run: float(run["seconds"]))[len(runs) // 2]
        ours = ours or median["seconds"]
        yield {"name": name, "ratio": median["seconds"] / ours, **median}


def line(result: dict[str, Any]) -> str:
    """Format a result as a line below HEADING."""
    name = f"  {result['name']:<32}"
    if "skipped" in result:
        return f"{name}skipped: {result['skipped']}"
    errors = ", ".join(f"{count} {kind}" for kind, count in result["errors"].items())
    connections = "" if result["connections"] is None else result["connections"]
    return (
        f"{name}{result['seconds']:>9.2f}{result['ratio']:>9.2f}{result['generations']:>13}"
        f"{result['threads']:>9}{connections:>13}{result['stall']:>6,.0f} ms  {errors or 0}"
    )


def _run(way: Way, url: str, asked: list[str], seconds: float) -> dict[str, Any]:
    model = Model(seconds)
    time.sleep(_SETTLE)
    with _most(url) as most:
        result = asyncio.run(_ask(way, url, asked, model))
    return {**result, "generations": len(model.generated), **most}


async def _ask(way: Way, url: str, asked: list[str], model: Model) -> dict[str, Any]:
    async with way(url, model) as ask:
        stalls: list[float] = []
        watch = asyncio.create_task(_watch(stalls))
        await asyncio.sleep(PAUSE)
        start = time.perf_counter()
        results = await asyncio.gather(*map(ask, asked), return_exceptions=True)
        seconds = time.perf_counter() - start
        await asyncio.sleep(PAUSE)  # _watch() records a stall at the end only after it
        watch.cancel()
    errors = Counter(type(each).__name__ for each in results if isinstance(each, BaseException))
    return {"seconds": seconds, "stall": max(stalls) * 1000, "errors": dict(errors)}


async def _watch(stalls: list[float]) -> None:
    """Sleep repeatedly, and record how late the event loop wakes this task."""
    while True:
        due = time.perf_counter() + PAUSE
        await asyncio.sleep(PAUSE)
        stalls.append(time.perf_counter() - due)


@contextmanager
def _most(url: str) -> Iterator[dict[str, int | None]]:
    """Yield the maximum of this process's threads and PostgreSQL connections during the block.

    A thread counts them every few milliseconds. It does not count itself and its connection.
    """
    most: dict[str, int | None] = {"threads": 0, "connections": None}
    is_ready, is_over = threading.Event(), threading.Event()
    database = None if url.startswith("sqlite") else peewee.PostgresqlDatabase(url)

    def count(name: str, number: int) -> None:
        most[name] = max(most[name] or 0, number)

    def watch() -> None:
        while not is_over.wait(PAUSE):
            count("threads", threading.active_count() - 1)
            if database is not None:
                count("connections", database.execute_sql(_CONNECTIONS).fetchone()[0])
            is_ready.set()
        if database is not None:
            database.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    is_ready.wait()
    try:
        yield most
    finally:
        is_over.set()
        watcher.join()
