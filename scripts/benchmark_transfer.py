"""Stats, export and import measured, as commands, beside the drivers' own bulk paths."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import peewee

import aicontent

from .benchmark_cleanup import Line
from .benchmark_data import TABLE, fill, rows


def measure(
    url: str, empty: tuple[str, str], number: int, size: int, folder: Path
) -> Iterator[Line]:
    """Look at and export a database that benchmark_data has filled; import into an empty one.

    Args:
        url: the filled database.
        empty: two databases with nothing in them.
        number: how many of the rows are imported.
        size: characters of a document.
        folder: where the lines are kept meanwhile.
    """
    seconds, memory = _run("stats", "--database", url)
    yield "stats", f"{seconds:,.1f} s ({memory} MB)", "", ""
    file = folder / "lines.jsonl"
    seconds, memory = _run("export", str(file), "--database", url)
    with file.open("rb") as lines:
        exported = sum(1 for _ in lines)
    plain = _plain_export(url)
    yield _line("exported", exported / seconds, plain, memory)
    part = folder / "part.jsonl"
    with file.open("rb") as whole, part.open("wb") as out:
        out.writelines(islice(whole, number))
    file.unlink()
    aicontent.migrate(aicontent.connect(empty[0]), create_users=True)
    seconds, memory = _run("import", str(part), "--database", empty[0])
    part.unlink()
    made = list(rows(number, size, 1, 0))
    began = time.perf_counter()
    fill(aicontent.connect(empty[1]), iter(made))
    yield _line("imported", number / seconds, number / (time.perf_counter() - began), memory)


def _line(what: str, ours: float, theirs: float, memory: int) -> Line:
    return (
        f"rows {what} a second",
        f"{ours:,.0f} ({memory} MB)",
        f"{theirs:,.0f}",
        f"{ours / theirs:.2f}",
    )


def _run(*args: str) -> tuple[float, int]:
    """Run the command; return its seconds, and the most megabytes that a process of it had."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
        "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    program = str(Path(sys.executable).parent / "aicontent")
    began = time.perf_counter()
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, program, *args], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - began, int(ran.stdout)


def _plain_export(url: str) -> float:
    """Read all rows by the driver and write them as JSON, with nothing between."""
    database = aicontent.connect(url)
    began = time.perf_counter()
    number = 0
    with database.connection_context(), open("/dev/null", "w") as out, database.atomic():
        sql = f"SELECT * FROM {TABLE}"
        if isinstance(database, peewee.SqliteDatabase):
            cursor = database.execute_sql(sql)
        else:
            cursor = database.connection().cursor("plain", withhold=True)
            cursor.itersize = 500
            cursor.execute(sql)
        for row in cursor:
            out.write(json.dumps(row, default=str) + "\n")
            number += 1
    return number / (time.perf_counter() - began)
