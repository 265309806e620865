"""The guides' services run on real servers, and the connection pool keeps its limit."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import peewee
import pytest

import aicontent
from helpers import PYTHON, code_of, plain, run_script, wait_until_alone

pytestmark = pytest.mark.programs

SERVERS = [
    ("flask", "--app", "service", "run", "--port"),
    ("uvicorn", "service:app", "--log-level", "warning", "--port"),
]


@contextmanager
def serving(folder: Path, code: str, url: str, *command: str) -> Iterator[httpx.Client]:
    """Run a service from the docs on a real server."""
    (folder / "service.py").write_text(code, "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    environment = os.environ | {"AICONTENT_DATABASE_URL": url, "MODEL_URL": f"{base}/model"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*PYTHON, "-m", *command, str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=base, timeout=60, limits=httpx.Limits()) as client:
            until = time.monotonic() + 60
            while True:
                try:
                    client.get("/")
                    break
                except httpx.TransportError:
                    assert server.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < until
                    time.sleep(0.05)
            yield client
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.mark.parametrize("number", [0, 1], ids=["flask", "fastapi"])
def test_the_services(tmp_path, empty_url, number):
    blocks = code_of("docs/guides/services.md")
    service = blocks[number] + blocks[number + 2]
    with serving(tmp_path, service, empty_url, *SERVERS[number]) as client:
        user = client.post("/users").json()["id"]
        path = f"/users/{user}/content/lesson"

        def ask(topic: str) -> dict[str, str]:
            answer = client.get(path, params={"topic": topic})
            assert answer.status_code == 200, answer.text
            body: dict[str, str] = answer.json()
            return body

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(ask, ["tea"] * 20))
        assert Counter(answer["served"] for answer in answers)["generated"] == 1
        assert {answer["id"] for answer in answers} == {answers[0]["id"]}
        assert answers[0]["data"] == {"title": "About tea"}
        assert ask("tea")["served"] == "stored"
        newest = client.get(f"/users/{user}/newest/lesson").json()
        assert newest == {"id": answers[0]["id"], "data": answers[0]["data"]}
        assert client.get(f"/users/{user}/newest/vocabulary_drill").status_code == 404
        if number == 1:
            latest = client.get(f"/users/{user}/latest/lesson").json()
            assert latest == {"id": answers[0]["id"]}
        refused = client.get(f"/users/{user}/content/quiz", params={"topic": "tea"})
        assert refused.status_code == 422
        assert "pronunciation_drill" in refused.text
        unknown = client.get("/users/999/content/lesson", params={"topic": "tea"})
        assert unknown.status_code == 404
        assert client.get(path).status_code in (400, 422)  # the request names no topic
        assert client.get(f"/users/{10**30}/content/lesson?topic=tea").status_code == 422
        if empty_url.startswith("postgresql"):
            database = peewee.PostgresqlDatabase(plain(empty_url))
            wait_until_alone(database)  # the service has closed all connections
            database.close()


POOLED = """
from concurrent.futures import ThreadPoolExecutor
import aicontent
Content = aicontent.for_database(db)
with db.connection_context():
    user = Content.user.rel_model.create().id
def ask(number):
    return Content.get_or_generate(user, "lesson", {"number": number}, lambda content: {})
with ThreadPoolExecutor(60) as threads:
    assert {content.served for content in threads.map(ask, range(60))} == {"generated"}
assert len(db._connections) <= 20
db.close_all()
print("served")
"""


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_the_pool(tmp_path, url):
    database = aicontent.connect(url)
    place = ", ".join(f"{name}={value!r}" for name, value in database.connect_params.items())
    code = code_of("docs/guides/databases.md")[0]
    pool = '"lessons", host="localhost", user="lessons"'
    assert pool in code
    code = code.replace(pool, f"{database.database!r}, {place}")
    assert run_script(code + POOLED, tmp_path) == "served\n"
