"""Measure reuse(), hits, create() and claims under load, from several threads and processes.

`run` calls this module once per backend. The alternative is the driver with hand-written SQL.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple

from . import load_data
from .load_worker import Measured, Task
from .processes import in_checkout, processes, receive, send

OPERATIONS = {
    "reuse": "reuse()",
    "hit": "get_or_generate() that finds stored content",
    "create": "create()",
    "claim": "claim() and complete()",
}
CONTESTANTS = ("aicontent", "driver")

CLAIMS_A_SECOND = 15_000
"""Pending rows per second of a turn. No contestant claims more."""

_WORKER = """
from benchmarks.load_worker import serve
serve()
"""


class Setting(NamedTuple):
    """The conditions of a turn."""

    synchronous_commit: str | None
    """PostgreSQL's setting, "on" or "off"; None on SQLite."""
    workers: str
    """The workers are "threads" of one process, or "processes" with one thread each."""
    number: int


class Sample(NamedTuple):
    """The figures of a turn, or of all turns in the same setting. Times are in microseconds."""

    a_second: float
    """Calls a second."""
    p50: float
    p99: float
    longest: float
    locked: int
    """Calls that SQLite refused, because the database was locked for longer than the timeout."""


def measure(
    url: str,
    rows: int,
    characters: int,
    numbers: Sequence[int],
    seconds: float,
    rounds: int,
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Measure each operation with each number of threads of one process, and of processes.

    Args:
        url: an empty database.
        rows: the number of rows of the table.
        characters: the size of each document.
        numbers: the numbers of threads, and of processes with one thread. One thread and one
            process are the same, and are measured once.
        seconds: how long a turn takes.
        rounds: the number of turns of each contestant.
        folder: a directory for a temporary file.

    Yields:
        A result per operation, synchronous_commit, and number of threads or processes.
    """
    inputs = folder / "load.json"
    database = load_data.prepare(url, rows, characters, int(seconds * CLAIMS_A_SECOND), inputs)
    settings = _settings(url, numbers)
    turns = list(product(settings, CONTESTANTS))
    order = random.Random(9)
    with processes([in_checkout(_WORKER)] * max(numbers)) as started:
        for operation in OPERATIONS:
            samples: dict[tuple[Setting, str], list[Sample]] = {turn: [] for turn in turns}
            for _ in range(rounds):
                for turn in order.sample(turns, len(turns)):
                    setting, contestant = turn
                    its_url = _with_commit(url, setting.synchronous_commit)
                    task = Task(its_url, contestant, operation, str(inputs), 1, seconds)
                    load_data.restore(database)
                    samples[turn].append(_turn(started, setting, task))
            for setting in settings:
                figures = {name: _medians(samples[setting, name])._asdict() for name in CONTESTANTS}
                yield {"operation": operation, **setting._asdict(), **figures}


def _settings(url: str, numbers: Sequence[int]) -> list[Setting]:
    workers = [("threads", number) for number in numbers]
    workers += [("processes", number) for number in numbers if number > 1]
    commits = (None,) if url.startswith("sqlite") else ("on", "off")
    return [Setting(commit, *each) for commit, each in product(commits, workers)]


def heading(result: dict[str, Any]) -> str:
    """Return the heading of the table that a result belongs to."""
    commit = result["synchronous_commit"]
    setting = f", synchronous_commit = {commit}" if commit else ""
    locked = "" if commit else "  locked"
    figures = "".join(f"{name:>11}{'p50':>8}{'p99':>9}{'longest':>9}" for name in CONTESTANTS)
    return (
        f" {OPERATIONS[result['operation']]}{setting}, calls a second, µs per call\n"
        f"  {'':<14}{figures}{'of driver':>11}{locked}"
    )


def line(result: dict[str, Any]) -> str:
    """Format a result as a line below its heading."""
    ours, driver = (result[name] for name in CONTESTANTS)
    number, kind = result["number"], result["workers"]
    name = "1 thread" if number == 1 else f"{number} {kind}"
    figures = "".join(
        f"{each['a_second']:>11,.0f}{each['p50']:>8,.0f}{each['p99']:>9,.0f}"
        f"{each['longest'] / 1000:>6,.0f} ms"
        for each in (ours, driver)
    )
    ratio = ours["a_second"] / driver["a_second"]
    locked = "" if result["synchronous_commit"] else f"{ours['locked']} and {driver['locked']}"
    return f"  {name:<14}{figures}{ratio:>11.2f}  {locked}".rstrip()


def _with_commit(url: str, commit: str | None) -> str:
    """Return the URL of connections with this synchronous_commit."""
    if commit is None:
        return url
    separator = "&" if "?" in url else "?"
    return f"{url}{separator}options=-csynchronous_commit%3D{commit}"


def _turn(started: Sequence[Popen[str]], setting: Setting, task: Task) -> Sample:
    """Let the first of the started processes do a task at the same time."""
    if setting.workers == "threads":
        used, task = started[:1], task._replace(threads=setting.number)
    else:
        used = started[: setting.number]
    for process in used:
        send(process, json.dumps(task))
    for process in used:
        receive(process)
    for process in used:
        send(process, "start")
    results = [Measured(*json.loads(receive(process))) for process in used]
    times = sorted(time for result in results for time in result.microseconds)
    return Sample(
        a_second=sum(result.a_second for result in results),
        p50=_percentile(times, 50),
        p99=_percentile(times, 99),
        longest=times[-1],
        locked=sum(result.locked for result in results),
    )


def _percentile(times: Sequence[int], percent: int) -> int:
    return times[len(times) * percent // 100]


def _medians(samples: Sequence[Sample]) -> Sample:
    """Return the medians of the turns, their longest call, and all locked calls."""
    rates, p50, p99, longest, locked = zip(*samples, strict=True)
    median = statistics.median
    return Sample(median(rates), median(p50), median(p99), max(longest), sum(locked))
