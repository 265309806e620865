"""The guide's tasks run in real workers of huey and Celery, and pay once for each request."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers import PYTHON, code_of

pytestmark = [pytest.mark.plain, pytest.mark.programs]

PAGE = "docs/guides/queues.md"
REQUESTS, TASKS = 4, 20

QUEUES = {
    "huey": (
        "generate_content",
        "huey.bin.huey_consumer tasks.huey --workers 4 --worker-type process",
    ),
    "celery": (
        "generate_content.delay",
        "celery --app tasks worker --concurrency 4 --loglevel INFO",
    ),
}
"""For each queue: the call that enqueues a task, and the worker's command."""

MODEL = """import signal


def generate(content):
    with open("calls", "a") as calls:
        calls.write(content.request_payload["topic"] + "\\n")
    if content.request_payload.get("fails") and not content.failures:
        raise ConnectionError
    if content.request_payload.get("hangs") and not content.failures:
        with open("hanging", "w") as hanging:
            hanging.write(f"{os.getpid()}\\n")
        signal.pause()
"""

ASK = """
import sys
import lessons, tasks
user, requests, number, enqueue, payload = eval(sys.argv[1])
enqueue = eval(f"tasks.{enqueue}")
for each in range(number):
    request = {"topic": f"topic {each % requests}", **payload}
    content = lessons.ask(enqueue, user, "lesson", request, "A2")
    assert content.status == "pending", content.status
"""


@pytest.fixture(params=QUEUES)
def queue(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, queue: str) -> Path:
    """Return a folder with the guide's modules; the model in them counts its calls."""
    shared, *tasks = code_of(PAGE)
    assert shared.count("def generate(content):\n") == 1
    code = shared.replace("def generate(content):\n", MODEL)
    (tmp_path / "lessons.py").write_text(code, "utf-8")
    (code,) = [each for each in tasks if f"from {queue} import" in each]
    assert code.count("retry_delay=30") == 1
    code = code.replace("retry_delay=30", "retry_delay=0")
    (tmp_path / "tasks.py").write_text(code, "utf-8")
    return tmp_path


def environment(url: str, folder: Path) -> dict[str, str]:
    return {**os.environ, "AICONTENT_DATABASE_URL": url, "PYTHONPATH": str(folder)}


def run(folder: Path, url: str, code: str, *args: str) -> None:
    ran = subprocess.run(
        [*PYTHON, "-c", code, *args],
        cwd=folder,
        env=environment(url, folder),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr


def ask(
    folder: Path, url: str, queue: str, user: int, requests: int, tasks: int, **payload: object
) -> None:
    run(folder, url, ASK, repr((user, requests, tasks, QUEUES[queue][0], payload)))


@contextmanager
def working(folder: Path, url: str, queue: str) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """Run a worker of the queue; yield a function that waits until a condition is met."""
    path = folder / "log"
    with path.open("w") as log:
        worker = subprocess.Popen(
            [*PYTHON, "-m", *QUEUES[queue][1].split()],
            cwd=folder,
            env=environment(url, folder),
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def wait(is_met: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not is_met():
            assert worker.poll() is None, path.read_text()
            assert time.monotonic() < until, path.read_text()
            time.sleep(0.05)

    try:
        yield wait
    finally:
        worker.terminate()
        try:
            worker.wait(timeout=30)
        finally:
            worker.kill()


def ended(folder: Path, queue: str) -> int:
    """Count the succeeded tasks in the worker's log."""
    words = {"huey": " executed in ", "celery": " succeeded in "}[queue]
    return (folder / "log").read_text().count(words)


def calls(folder: Path) -> Counter[str]:
    return Counter((folder / "calls").read_text().splitlines())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"], indirect=True)
def test_twenty_tasks_for_four_requests_generate_four_times(folder, queue, url, Content, user):
    ask(folder, url, queue, user, REQUESTS, TASKS)
    with working(folder, url, queue) as wait:
        wait(lambda: ended(folder, queue) >= TASKS)
    assert calls(folder) == {f"topic {number}": 1 for number in range(REQUESTS)}
    rows = Content.select()
    assert {(row.status, row.attempts, row.usage_count) for row in rows} == {("completed", 1, 0)}
    assert len(rows) == REQUESTS


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_the_retry_of_the_queue_takes_the_row_over(folder, queue, url, Content, user):
    ask(folder, url, queue, user, 1, 1, fails=True)
    with working(folder, url, queue) as wait:
        wait(lambda: ended(folder, queue) >= 1)
    assert calls(folder) == {"topic 0": 2}
    (row,) = Content.select()
    assert (row.status, row.attempts, row.failures) == ("completed", 2, 1)
    assert row.metadata["lastFailure"]["reason"] == "ConnectionError"


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_row_whose_worker_was_killed_is_enqueued_again(folder, queue, url, Content, user):
    path = folder / "lessons.py"
    code = path.read_text("utf-8")
    assert code.count("mark=False,") == 1
    path.write_text(code.replace("mark=False,", "mark=False, lease=1,"), "utf-8")
    ask(folder, url, queue, user, 1, 1, hangs=True)
    hanging = folder / "hanging"
    again = f"lessons.enqueue_again(tasks.{QUEUES[queue][0]}, timedelta(0))"
    code = f"from datetime import timedelta\nimport lessons, tasks\n{again}"

    def is_completed() -> bool:
        run(folder, url, code)
        return bool(Content.get().status == "completed")

    with working(folder, url, queue) as wait:
        wait(lambda: hanging.exists() and hanging.read_text().endswith("\n"))
        os.kill(int(hanging.read_text()), signal.SIGKILL)
        wait(is_completed)
    (row,) = Content.select()
    assert row.failures >= 1
    assert row.metadata["lastFailure"]["reason"] == "the lease ran out"


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_row_that_has_expired_is_not_enqueued_again(tmp_path, url, Content, user):
    (tmp_path / "lessons.py").write_text(code_of(PAGE)[0], "utf-8")
    past = datetime.now(UTC) - timedelta(hours=1)
    for number, expires_at in enumerate([past, None, datetime.now(UTC) + timedelta(hours=1)]):
        Content.create(
            user=user, type="lesson", request_payload={"n": number}, expires_at=expires_at
        )
    code = """
from datetime import timedelta
import lessons
again = []
lessons.enqueue_again(lambda *request: again.append(request[2]["n"]), timedelta(0))
assert sorted(again) == [1, 2], again
"""
    run(tmp_path, url, code)
