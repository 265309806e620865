"""Kill workers while they work: `python worker_chaos.py URL SECONDS LEASE` reports as JSON.

Each worker runs `work()` in a separate process. It logs paid and stored content in single writes
that a kill cannot split. If the arguments also name a user and a command, the program runs the
command five times to restart the server.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peewee

import aicontent

WORKERS, IN_FLIGHT, RESTARTS = 4, 40, 5
LEASE = float(sys.argv[3])
"""Seconds; some answers take longer, and the worker renews their leases."""


def work(url: str, log: int) -> None:
    database = aicontent.connect(url, timeout=60)
    chance, supervisor = random.Random(), os.getppid()

    def note(what: str, content: Any, token: str) -> None:
        os.write(log, f"{what} {content.id} {token} {os.getpid()}\n".encode())

    class Noting(aicontent.for_database(database)):  # type: ignore[misc]
        class Meta:
            table_name = "ai_generated_content"

        def complete(self, document: Any, /, **outcome: Any) -> None:
            super().complete(document, **outcome)
            note("stored", self, document["token"])

    def generate(content: Any) -> dict[str, str]:
        token = uuid.uuid4().hex
        note("paid", content, token)
        time.sleep(1.5 * LEASE if chance.random() < 0.003 else chance.uniform(0, 0.02))
        return {"token": token}

    Noting.work(generate, lease=LEASE, stop=lambda: os.getppid() != supervisor, max_attempts=99)


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


def again(call: Any, database: Any) -> Any:
    """Repeat a call until the restarting server answers."""
    while True:
        try:
            return call()
        except peewee.PeeweeException:
            database.close()
            time.sleep(0.1)


def supervise(url: str, seconds: float, log: int, restart: Any) -> dict[str, Any]:
    """Kill and replace workers for some seconds, then let the others empty the queue."""
    workers = [start(url, log) for _ in range(WORKERS)]
    killed: list[int] = []
    database = aicontent.connect(url, timeout=60)
    model: Any = aicontent.for_database(database)
    user = model.user.rel_model.create().id
    in_flight = model.select().where(model.status.in_(("pending", "generating")))
    number, restarts, began, rows = 0, 0, time.monotonic(), {}
    while (passed := time.monotonic() - began) < seconds:
        for _ in range(IN_FLIGHT - again(in_flight.count, database)):
            number += 1
            request = {"number": number}
            again(lambda request=request: model.request(user, "lesson", request), database)
        if restart is not None and passed > (restarts + 0.5) * seconds / RESTARTS:
            restart()
            restarts += 1
        time.sleep(random.uniform(0.1, 0.5))
        place = random.randrange(WORKERS)
        killed.append(workers[place])
        kill(workers[place])
        workers[place] = start(url, log)
    drained = time.monotonic()
    while again(in_flight.count, database):
        time.sleep(0.05)
    drained = time.monotonic() - drained
    for worker in workers:
        kill(worker)
    rows = {row.id: row for row in model.select()}
    return {"rows": rows, "killed": set(killed), "restarts": restarts, "drained": drained}


def faults(ran: dict[str, Any], notes: list[list[str]]) -> Iterator[str]:
    rows, paid = ran["rows"], defaultdict(list)
    for what, id, token, process in notes:
        if what == "paid":
            paid[id].append(int(process))
        elif rows[id].generated_data != {"token": token}:
            yield f"the answer {token} of {id} was stored and is lost"
    for id, row in rows.items():
        if row.status != "completed":
            yield f"{id} is {row.status}"
        if sum(process not in ran["killed"] for process in paid[id]) > 1:
            yield f"{id} was paid for twice by workers that lived"
    # A killed worker's row waits for the end of its lease and the next rescue. A busy machine may
    # need the other 20 seconds.
    if ran["drained"] > 2.5 * LEASE + 20:
        yield f"the last rows took {ran['drained']:.1f} s"


def main(url: str, seconds: str, lease: str, user: str = "", *command: str) -> None:
    def restart() -> None:
        mode = random.choice(["fast", "immediate"])
        with open(os.devnull, "w") as nowhere:  # the restarted server would keep a pipe open
            subprocess.run(
                [*command, "-m", mode],
                check=True,
                stdout=nowhere,
                stderr=nowhere,
                user=user or None,
            )

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log")
        log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        ran = supervise(url, float(seconds), log, restart if command else None)
        notes = [line.split() for line in path.read_text().splitlines()]
    counts: dict[str, Any] = dict(Counter(what for what, *_ in notes))
    counts |= {"rows": len(ran["rows"]), "killed": len(ran["killed"])}
    counts |= {"restarts": ran["restarts"], "drained_seconds": round(ran["drained"], 1)}
    print(json.dumps({"faults": list(faults(ran, notes)), **counts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
