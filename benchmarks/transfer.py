"""Measure the commands stats, export and import against the drivers' bulk operations."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import peewee

import aicontent

from .processes import output, processes, python
from .tables import TABLE, fill, generate_rows


def measure(
    url: str, empty: tuple[str, str], imported: int, characters: int, folder: Path
) -> Iterator[tuple[str, str, str, str]]:
    """Measure on a filled database, and import into an empty one.

    Args:
        url: the filled database.
        empty: two empty databases, one for the import and one for the alternative.
        imported: the number of rows to import.
        characters: the size of a document.
        folder: a folder for the exported lines.

    Yields:
        The name, the figure of aicontent, that of the alternative, and the ratio.
    """
    seconds, megabytes = _run("stats", "--database", url)
    yield "stats", f"{seconds:,.1f} s ({megabytes} MB)", "", ""
    all_lines, some_lines = folder / "all.jsonl", folder / "some.jsonl"
    seconds, megabytes = _run("export", str(all_lines), "--database", url)
    with all_lines.open("rb") as lines:
        exported = sum(1 for _ in lines)
    yield _rates("exported", exported / seconds, _driver_export(url), megabytes)
    with all_lines.open("rb") as lines, some_lines.open("wb") as file:
        file.writelines(islice(lines, imported))
    all_lines.unlink()
    aicontent.migrate(aicontent.connect(empty[0]), create_users=True)
    seconds, megabytes = _run("import", str(some_lines), "--database", empty[0])
    some_lines.unlink()
    rows = list(generate_rows(imported, characters))
    start = time.perf_counter()
    fill(aicontent.connect(empty[1]), iter(rows))
    driver = imported / (time.perf_counter() - start)
    yield _rates("imported", imported / seconds, driver, megabytes)


def _rates(verb: str, ours: float, driver: float, megabytes: int) -> tuple[str, str, str, str]:
    name, ratio = f"rows {verb} a second", f"{ours / driver:.2f}"
    return name, f"{ours:,.0f} ({megabytes} MB)", f"{driver:,.0f}", ratio


# A small process starts the command and reads its peak memory. Linux would count the memory of
# this process as the command's.
_WITH_PEAK_MEMORY = """
import resource, subprocess, sys
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
subprocess.run(sys.argv[1:], check=True, **quiet)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


def _run(*args: str) -> tuple[float, int]:
    """Run an aicontent command; return its seconds and its peak memory in megabytes."""
    program = str(Path(sys.executable).parent / "aicontent")
    start = time.perf_counter()
    with processes([[*python(_WITH_PEAK_MEMORY), program, *args]]) as (process,):
        megabytes = int(output(process))
    return time.perf_counter() - start, megabytes


def _driver_export(url: str) -> float:
    """Read all rows with the driver, write them as JSON, and return the rows per second."""
    database = aicontent.connect(url)
    start = time.perf_counter()
    count = 0
    with database.connection_context(), open("/dev/null", "w") as file, database.atomic():
        sql = f"SELECT * FROM {TABLE}"
        if isinstance(database, peewee.SqliteDatabase):
            cursor = database.execute_sql(sql)
        else:
            cursor = database.connection().cursor("export", withhold=True)
            cursor.itersize = 500
            cursor.execute(sql)
        for row in cursor:
            file.write(json.dumps(row, default=str) + "\n")
            count += 1
    return count / (time.perf_counter() - start)
