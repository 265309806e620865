"""Estimate the time of calls on tables that are too large to measure, from smaller tables.

A statement that uses an index reads one page per level of the index. The number of levels grows
with the logarithm of the rows in one partition. So a call takes
`base + slope * log2(rows / partitions)` while the pages that it needs are in memory; both numbers
are fitted to the measured sizes. If the table is larger than the memory, a call also waits for the
disk: for the leaf of each index and for the row, each with the probability that it is not in
memory. `base` includes the planning time, so it holds for one number of partitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import log2
from typing import Any

SIZES = (100_000_000, 1_000_000_000)

BYTES = 2_400
"""Measured bytes of a row of 1 KB with its index entries."""

PAGES = 4
"""Pages that a call for one user reads apart from the inner pages of indexes, which stay in
memory: the leaf of the index that finds the row, the row, and for an UPDATE the leaf of the primary
key and the page that receives the new version."""


@dataclass(frozen=True)
class Machine:
    """The bytes of memory for pages, and the microseconds of a read from the disk."""

    memory: float = 64e9
    read: float = 100.0


def fitted(measured: Mapping[int, float], partitions: int) -> tuple[float, float]:
    """Fit base and slope by least squares to the times of a call by the rows of the table."""
    points = [(log2(rows / partitions), time) for rows, time in measured.items()]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return mean_y - slope * mean_x, slope


def estimate(
    measured: Mapping[int, float], partitions: int, rows: int, machine: Machine | None = None
) -> float:
    """Return the microseconds of a call on a table of this many rows.

    Args:
        measured: the microseconds on smaller tables in memory, by the number of their rows.
        partitions: the number of partitions of all these tables.
        rows: the number of rows of the table to estimate.
        machine: the machine of the table; without one, the whole table is in memory.
    """
    base, slope = fitted(measured, partitions)
    time = base + slope * log2(rows / partitions)
    if machine is None:
        return time
    missing = max(0.0, 1 - machine.memory / (rows * BYTES))
    return time + missing * PAGES * machine.read


def table(results: Iterable[Mapping[str, Any]], machine: Machine) -> Iterator[str]:
    """Format a line per call: the error at the largest measured size, and estimates for SIZES.

    Args:
        results: results of the part `partitions` with one driver and at least three sizes.
        machine: the machine of the tables to estimate.
    """
    calls: dict[tuple[int, str], dict[int, float]] = {}
    for each in results:
        if not each["name"].startswith("cleanup"):
            calls.setdefault((each["partitions"], each["name"]), {})[each["rows"]] = each["ours"]
    sizes = "".join(f"{rows:>16,}" for rows in SIZES)
    yield f"  {'partitions':>10}  {'µs per call':<36}{'largest':>10}{'error':>8}{sizes}"
    for (partitions, name), times in sorted(calls.items()):
        largest = max(times)
        smaller = {rows: time for rows, time in times.items() if rows < largest}
        error = estimate(smaller, partitions, largest) / times[largest] - 1
        known = f"  {partitions:>10}  {name:<36}{times[largest]:>10,.0f}{error:>+8.0%}"
        yield known + "".join(f"{estimate(times, partitions, n, machine):>16,.0f}" for n in SIZES)
