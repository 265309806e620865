"""Define the scale of a run, and store its results. `__main__` and `run` use it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

BACKENDS = ("sqlite", "postgresql")
PARTS = (
    "hot",
    "storage",
    "indexes",
    "transfer",
    "cleanup",
    "claims",
    "concurrent",
    "caches",
    "load",
    "partitions",
)


@dataclass(frozen=True)
class Scale:
    """The sizes and numbers of repetitions of a run."""

    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 5_000_000)
    """Rows of the table for the hot paths."""
    characters: int = 4_000
    """Characters of each document."""
    rounds: int = 15
    calls: int = 100
    large_user_rows: int = 10_000
    rows: int = 1_000_000
    """Rows of the table for the other parts."""
    stored: int = 5_000
    due: int = 100_000
    """Rows that one cleanup deletes."""
    imported: int = 200_000
    pending: int = 100_000
    workers: tuple[int, ...] = (1, 4, 16)
    seconds: float = 5.0
    load_rows: int = 50_000
    load_seconds: float = 3.0
    """Seconds of one turn of each number of workers under load."""
    requests: int = 200
    """Concurrent requests, each for one of the topics."""
    topics: int = 20
    partitions: tuple[int, ...] = (1, 8, 32, 64)
    generation: float = 1.0
    """Seconds that the model takes for each of the concurrent requests."""

    def resized(self, sizes: tuple[int, ...]) -> Scale:
        """Return the scale with these sizes. The other parts use the largest one."""
        rows = max(sizes)
        due = min(self.due, rows // 10)
        return replace(self, sizes=sizes, rows=rows, load_rows=rows, due=due)


QUICK = Scale(
    sizes=(3_000,),
    rounds=1,
    calls=10,
    large_user_rows=1_000,
    rows=3_000,
    stored=100,
    due=100,
    imported=500,
    pending=1_500,
    workers=(2,),
    seconds=0.3,
    load_rows=3_000,
    load_seconds=0.1,
    requests=20,
    topics=4,
    partitions=(2,),
    generation=0.1,
)
"""A run of two minutes, which tests the benchmark. It is too short to judge speed."""


class Results:
    """Store the results of a run in a JSON file, which is valid after each result."""

    def __init__(self, file: Path | None, scale: Scale, parts: Sequence[str]) -> None:
        self._file, self._scale = file, scale
        self.parts: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}

    def add(self, part: str, result: dict[str, Any]) -> None:
        """Add a result, and rewrite the file."""
        self.parts[part].append(result)
        if self._file is None:
            return
        document = {"scale": asdict(self._scale), **self.parts}
        temporary = self._file.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(document, indent=1, default=str) + "\n")
            os.replace(temporary, self._file)
        finally:
            temporary.unlink(missing_ok=True)
