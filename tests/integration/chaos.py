"""Kill workers at random while they work: `python chaos.py URL KILLS` prints a JSON report.

Each worker logs its steps in single writes that a kill cannot split. The test of the workers runs
this program and reads the report.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aicontent

WORKERS = 4
MAX_ATTEMPTS = 3
LEASE = 0.25
"""Seconds; some attempts take longer and lose their lease."""
NOTE = len(f"run {uuid.uuid4()} 1\n")
"""Bytes of a line in the log."""


def work(url: str, log: int) -> None:
    database = aicontent.connect(url, timeout=60)
    model = aicontent.for_database(database)
    chance, supervisor = random.Random(), os.getppid()

    def note(what: str) -> None:
        os.write(log, f"{what} {content.id} {content.attempts}\n".encode())

    while os.getppid() == supervisor:
        content = model.claim(lease=LEASE)
        if content is None:
            time.sleep(0.01)
            continue
        note("run")
        time.sleep(LEASE * 1.5 if chance.random() < 0.1 else chance.uniform(0, 0.01))
        try:
            if chance.random() < 0.05:
                content.fail("by chance", retry=True, max_attempts=MAX_ATTEMPTS)
                note("fail")
            else:
                content.complete({"attempt": content.attempts})
                note("done")
        except aicontent.LeaseLostError:
            note("late")


def start(url: str, log: int) -> int:
    process = os.fork()
    if process:
        return process
    try:
        work(url, log)
    finally:
        os._exit(1)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def supervise(url: str, kills: int, log: int) -> Any:
    """Kill and replace this number of workers, then let the others finish the rows in flight.

    A kill comes after a random number of log lines, so that a slow machine also works between two.
    """
    workers = [start(url, log) for _ in range(WORKERS)]
    database = aicontent.connect(url, timeout=60)
    model: Any = aicontent.for_database(database)
    user = model.user.rel_model.create().id
    in_flight = model.select().where(model.status.in_(("pending", "generating")))
    number = 0
    for _ in range(kills):
        size = os.fstat(log).st_size + random.uniform(0, 60 * NOTE)
        while os.fstat(log).st_size < size:
            while in_flight.count() < 40:
                number += 1
                model.request(user, "lesson", {"number": number})
            model.rescue_stale(MAX_ATTEMPTS)
        place = random.randrange(WORKERS)
        kill(workers[place])
        workers[place] = start(url, log)
    while in_flight.exists():
        model.rescue_stale(MAX_ATTEMPTS)
    for worker in workers:
        kill(worker)
    return model


def faults(model: Any, notes: list[list[str]]) -> Iterator[str]:
    rows = {content.id: content for content in model.select()}
    runs = Counter((id, attempt) for what, id, attempt in notes if what == "run")
    for (id, attempt), number in runs.items():
        if number != 1:
            yield f"attempt {attempt} at {id} was run {number} times"
        if int(attempt) > min(MAX_ATTEMPTS, rows[id].attempts):
            yield f"attempt {attempt} at {id} is one too many"
    for what, id, attempt in notes:
        if what == "done" and (rows[id].status, rows[id].generated_data) != (
            "completed",
            {"attempt": int(attempt)},
        ):
            yield f"what attempt {attempt} made of {id} was lost"
    for id, content in rows.items():
        if content.status == "completed" and content.generated_data["attempt"] > content.attempts:
            yield f"{id} has the answer of an attempt that never was"
        if content.status == "failed" and content.failures < MAX_ATTEMPTS:
            yield f"{id} was given up too early"


def main(url: str, kills: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log")
        log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        model = supervise(url, kills, log)
        notes = [line.split() for line in path.read_text().splitlines()]
    found: dict[str, Any] = dict(Counter(what for what, *_ in notes))
    found["interrupted"] = found["run"] - sum(found.get(end, 0) for end in ("done", "fail", "late"))
    found |= Counter(str(content.status) for content in model.select(model.status))
    print(json.dumps({"faults": list(faults(model, notes)), **found}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
