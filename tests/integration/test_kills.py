"""Kill commands: each file is the old or the new one, and no row is lost or duplicated."""

from __future__ import annotations

import os
import random
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest

import aicontent
from aicontent.schema.history import applied, available
from helpers import PROGRAM, lines, run_program, wait_until_alone

pytestmark = pytest.mark.skipif(
    not os.environ.get("AICONTENT_LONG_TESTS"), reason="set AICONTENT_LONG_TESTS=1"
)
KILLS = 30


def killed(seconds, *args):
    """Run the command, kill it after this number of seconds, and return whether it succeeded."""
    process = subprocess.Popen(
        [PROGRAM, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == 0


def content(number, level):
    rows = ({"id": f"{n:05}", "requestPayload": {"t": "x" * 2000}} for n in range(number))
    return lines(*(row | {"level": level} for row in rows))


def stored(url):
    """Return the imported values of all rows."""
    database = aicontent.connect(url)
    Content = aicontent.for_database(database)  # noqa: N806
    rows = list(Content.select(Content.id, Content.level, Content.request_payload).tuples())
    database.close()
    return sorted(rows, key=lambda row: row[0])


@pytest.mark.parametrize("way", ["skip", "replace"])
def test_an_import(url, tmp_path, way):
    file = tmp_path / "in.jsonl"
    file.write_bytes(b"".join(content(4000, "A1")))
    start = time.monotonic()
    options = ("--on-conflict", way, "--database", url)
    assert run_program("import", file, *options)[0] == 0
    seconds = time.monotonic() - start
    database = aicontent.connect(url)
    aicontent.for_database(database).delete().execute()
    database.close()
    rng = random.Random(1)
    for kill in range(KILLS):
        if way == "replace":
            file.write_bytes(b"".join(content(4000, f"B{kill}")))
        before = stored(url)
        killed(rng.uniform(0, seconds), "import", str(file), *options)
        after = stored(url)
        assert len(after) >= len(before)
        assert all(row[2] == {"t": "x" * 2000} for row in after)
        assert {row[1] for row in after} <= {row[1] for row in before} | {"A1", f"B{kill}"}
    assert run_program("import", file, *options)[0] == 0
    levels = {row[1] for row in stored(url)}
    assert (len(stored(url)), levels) == (4000, {"A1" if way == "skip" else f"B{KILLS - 1}"})


def test_an_export(fill, url, tmp_path):
    fill(3000, generated_data={"t": "x" * 2000})
    new = run_program("export", "--database", url)[1]
    file = tmp_path / "out" / "content.jsonl"
    file.parent.mkdir()
    start = time.monotonic()
    assert run_program("export", file, "--database", url)[0] == 0
    seconds = time.monotonic() - start
    rng = random.Random(1)
    for _ in range(KILLS):
        file.write_bytes(b"old\n")
        ended = killed(rng.uniform(0, seconds), "export", str(file), "--database", url)
        found = file.read_bytes()
        assert found == new if ended else found in (b"old\n", new)


def test_two_imports_and_two_exports_at_once(url, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_bytes(b"".join(content(3000, "A1")))
    command = [PROGRAM, "import", file, "--on-conflict", "skip", "--database", url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(int(text.split()[1].replace(",", "")) for text in said) == 3000
    out = tmp_path / "out.jsonl"
    command = [PROGRAM, "export", out, "--database", url]
    both = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert out.read_bytes() == run_program("export", "--database", url)[1]
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.jsonl"]


def test_a_cleanup(fill, url, Content):
    past = datetime.now(UTC) - timedelta(hours=1)
    fill(3000, expires_at=past)
    fill(300, status="generating", attempts=1, lease_expires_at=past)
    fill(100)
    start = time.monotonic()
    assert run_program("cleanup", "--dry-run", "--database", url)[0] == 0
    seconds = time.monotonic() - start
    rng = random.Random(1)
    for _ in range(KILLS):
        killed(rng.uniform(0.5, 1.5) * seconds, "cleanup", "--batch-size", "20", "--database", url)
        assert Content.select().where(Content.expires_at.is_null()).count() == 400
    assert run_program("cleanup", "--database", url)[0] == 0
    statuses = [content.status for content in Content.select(Content.status)]
    assert (statuses.count("pending"), statuses.count("completed")) == (300, 100)


def test_migrations_up_and_down(empty_url):
    start = time.monotonic()
    assert run_program("migrate", "--create-users", "--database", empty_url)[0] == 0
    seconds = time.monotonic() - start
    database = aicontent.connect(empty_url)
    rng = random.Random(1)
    for number in range(KILLS):
        command = ("migrate", "--create-users") if number % 2 else ("rollback", "--yes")
        steps = () if number % 2 else ("--steps", str(1 + number % 7))
        before = applied(database)
        killed(rng.uniform(0, seconds), *command, *steps, "--database", empty_url)
        wait_until_alone(database)  # the server notices the killed client after a while
        after = applied(database)
        wanted = available() if number % 2 else before[: len(before) - 1 - number % 7]
        assert after in (before, wanted)
    aicontent.migrate(database, create_users=True)
    assert aicontent.check(database) == []
    database.close()
