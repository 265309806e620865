"""Test the counts of stats(), and the command that prints them."""

from __future__ import annotations

import json
import random
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

import aicontent
from aicontent.maintenance.stats import Group
from helpers import PROGRAM, run_program

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def filled(store):
    for size in range(7):
        text = random.Random(size).randbytes(400 * size).hex()  # PostgreSQL compresses other text
        store(id=f"l{size}", generated_data={"text": text}, created_at=NOW - HOUR)
    store(type="vocabulary_drill", token_usage=100, generation_time_ms=1500, usage_count=3)
    store(type="vocabulary_drill", token_usage=50, generation_time_ms=None, usage_count=2)
    store(type="vocabulary_drill", token_usage=None, status="cached", usage_count=9)
    store(status="pending", generated_data=None, created_at=NOW - 3 * HOUR)
    store(status="pending", generated_data=None, created_at=NOW - 2 * HOUR)
    store(status="failed", created_at=NOW - 30 * HOUR, updated_at=NOW - 30 * HOUR)
    store(expires_at=NOW - HOUR, token_usage=2**31 - 1, usage_count=2**31 - 1)


def test_what_is_counted(filled, database):
    found = aicontent.stats(database, NOW)
    rows = {(group.type, group.status): group.rows for group in found.groups}
    assert rows == {
        ("lesson", "completed"): 8,
        ("lesson", "failed"): 1,
        ("lesson", "pending"): 2,
        ("vocabulary_drill", "cached"): 1,
        ("vocabulary_drill", "completed"): 2,
    }
    assert list(rows) == sorted(rows)
    drills = found.groups[-1]
    assert drills == Group("vocabulary_drill", "completed", 2, 5, 150, 400, 1.5, 4.5)
    assert found.groups[0].tokens_saved == (2**31 - 1) ** 2
    assert (found.expired, found.failed) == (1, 1)
    assert found.oldest_pending == NOW - 3 * HOUR
    assert [id for id, _ in found.largest] == ["l6", "l5", "l4", "l3", "l2"]
    assert found.size > 50_000
    by_type = {group.type: (group.rows, group.uses) for group in found.by("type")}
    assert by_type["vocabulary_drill"] == (3, 14)
    assert {group.status: group.rows for group in found.by("status")}["completed"] == 10


def test_what_was_left_behind_is_counted(Content, user, url):
    Content.request(user, "lesson", {})
    Content.claim()
    assert aicontent.stats(Content._meta.database).stale == 0
    Content.update(lease_expires_at=NOW).execute()
    assert aicontent.stats(Content._meta.database).stale == 1
    out = run("--database", url)[1]
    assert "stale claims          1 generating, whose lease ran out\n" in out


def test_an_empty_table(database):
    found = aicontent.stats(database)
    assert (found.groups, found.largest, found.oldest_pending) == ([], [], None)


def run(*args):
    status, out, err = run_program("stats", *args)
    return status, out.decode(), err


def test_the_table_fits_a_terminal(filled, url):
    status, out, err = run("--database", url)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for text in ("lesson", "vocabulary_drill", "served again", "██", "400", "oldest pending", "l6"):
        assert text in out, text


def test_a_terminal_without_unicode(filled, url, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ran = subprocess.run([PROGRAM, "stats", "--database", url], capture_output=True, timeout=60)
    assert (b"##" in ran.stdout, ran.stderr) == (True, b"")


def test_json(filled, url):
    status, out, _ = run("--database", url, "--json")
    assert status == 0
    found = json.loads(out)
    assert sum(group["rows"] for group in found["groups"]) == 14
    assert found["oldest_pending"].startswith("2026-05-01T09:00:00")


def test_an_empty_table_is_shown(url):
    status, out, _ = run("--database", url)
    assert status == 0
    assert "0, served again 0 times" in out


def test_a_database_that_is_not_migrated(empty_url):
    aicontent.connect(empty_url)
    status, out, err = run("--database", empty_url)
    assert (status, out) == (1, "")
    assert "run `aicontent migrate`" in err
