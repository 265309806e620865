"""Measure caches: hits and misses a second of one thread, and the memory that a cache adds.

A miss looks for an answer, takes a document that is already there, and stores it. Only aicontent
keeps concurrent callers from generating the same answer, and only its first contestant counts uses.
The contestants take turns in random order, each on its own database.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import Any

import aicontent

from .cache_contestants import AIContent, Cache
from .cache_libraries import CONTESTANTS
from .hot_paths import medians_of
from .processes import in_checkout, output, processes
from .requests import Request
from .tables import generate_document

HEADING = (
    f"  {'':<32}{'hits/s':>9}{'of ours':>9}{'misses/s':>10}{'of ours':>9}{'MB':>8}{'of ours':>9}"
    "  durability"
)

_STORED = 10
"""Stored answers for each call of a turn."""
_PROCESSES = 3
"""Processes whose memory is measured, if there are as many rounds. The median is the result."""

_CHILD = """
from benchmarks.cache_memory import report
report(*sys.argv[1:])
"""


def names(backend: str) -> list[str]:
    """Return the names of the contestants that work on a backend, ours first."""
    return [name for name, each in CONTESTANTS.items() if backend in each.backends]


def measure(
    urls: dict[str, str], characters: int, rounds: int, calls: int
) -> Iterator[dict[str, Any]]:
    """Measure each contestant on its own empty database.

    Args:
        urls: the databases, by the name of the contestant.
        characters: the size of a document.
        rounds: the number of turns of each contestant.
        calls: the number of hits or misses in a turn.
    """
    contestants, skipped = {}, []
    for name, url in urls.items():
        contestant = CONTESTANTS[name]
        if not contestant.is_installed():
            package = contestant.package.replace("_", "-")
            skipped.append({"name": name, "skipped": f"{package} is not installed"})
            continue
        if issubclass(contestant, AIContent):
            _migrate(url)
        contestants[name] = contestant(url)
    document = generate_document(random.Random(8), characters)
    hits, misses = _rates(contestants, document, rounds, calls)
    results: list[dict[str, Any]] = [
        {
            "name": name,
            "hits": hits[name],
            "misses": misses[name],
            "memory": _added_memory(name, urls[name], min(_PROCESSES, rounds)),
            "durability": contestant.durability(),
        }
        for name, contestant in contestants.items()
    ]
    ours = results[0]
    for result in results:
        figures = ("hits", "misses", "memory")
        yield {**result, "of ours": {each: result[each] / ours[each] for each in figures}}
    yield from skipped


def line(result: dict[str, Any]) -> str:
    """Format a result as a line below HEADING."""
    name = f"  {result['name']:<32}"
    if "skipped" in result:
        return f"{name}skipped: {result['skipped']}"
    ratio = result["of ours"]
    return (
        f"{name}{result['hits']:>9,.0f}{ratio['hits']:>9.2f}"
        f"{result['misses']:>10,.0f}{ratio['misses']:>9.2f}"
        f"{result['memory'] / 1e6:>8.1f}{ratio['memory']:>9.2f}  {result['durability']}"
    )


def _migrate(url: str) -> None:
    database = aicontent.connect(url)
    aicontent.migrate(database, create_users=True)
    with database.connection_context():
        aicontent.for_database(database).user.rel_model.create()


def _rates(
    contestants: dict[str, Cache], document: Any, rounds: int, calls: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the hits and the misses a second by the name of the contestant."""
    numbers = count()
    rng = random.Random(9)

    def requests(number: int) -> list[Request]:
        return [_request(each) for each in islice(numbers, number)]

    stored = requests(_STORED * calls)
    for contestant in contestants.values():
        contestant.ask_all(stored, document)

    def hits(contestant: Cache) -> float:
        return _seconds(contestant, rng.choices(stored, k=calls), {})

    def misses(contestant: Cache) -> float:
        return _seconds(contestant, requests(calls), document)

    rates = []
    for turn in (hits, misses):
        turns = {name: partial(turn, each) for name, each in contestants.items()}
        microseconds = medians_of(turns, rounds)
        rates.append({name: 1e6 / each for name, each in microseconds.items()})
    return rates[0], rates[1]


def _request(number: int) -> Request:
    return Request(1, "lesson", {"topic": f"topic {number}", "minutes": 15}, "A2")


def _seconds(contestant: Cache, requests: Sequence[Request], generated: Any) -> float:
    """Return the seconds per request, after a check that each has an answer."""
    start = time.perf_counter()
    documents = contestant.ask_all(requests, generated)
    seconds = time.perf_counter() - start
    if not all(documents):
        raise LookupError(f"{contestant.name} does not find a stored answer")
    return seconds / len(requests)


def _added_memory(name: str, url: str, count: int) -> float:
    """Return the bytes that the import and the first use of a contestant add to a process."""
    added = []
    for number in range(count):
        child = in_checkout(_CHILD, name, url, f"process {number}")
        with processes([child]) as (process,):
            added.append(int(output(process)))
    return statistics.median(added)
