"""Test the cleanup command, as a person or a timer runs it, and its systemd units."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest

import aicontent
from aicontent.schema.history import available
from helpers import Forked, run_here

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def run(url, *args):
    return run_here("cleanup", "--database", url, *args)


def test_the_command(fill, Content, url):
    fill(30, expires_at=NOW - HOUR)
    fill(5, status="failed", created_at=NOW - 99 * HOUR, updated_at=NOW - 99 * HOUR)
    fill(3)
    assert run(url, "--dry-run")[:2] == (0, "would delete 30 expired, 5 failed\n")
    status, out, err = run(url, "--max-rows", "10", "--batch-size", "4")
    assert (status, err) == (3, "")
    line = (
        r"deleted (\d) expired, (\d) failed in \d batches, the longest \d+ ms; "
        r"stopped with rows left\n"
    )
    found = re.fullmatch(line, out)
    assert sum(map(int, found.groups())) == 10
    status, out, _ = run(url, "--json")
    report = json.loads(out)
    assert status == 0
    assert report["expired"] + report["failed"] == report["deleted"] == 25
    assert report["left"] is False
    assert run(url, "--quiet") == (0, "", "")
    assert run(url)[1] == "deleted 0 expired, 0 failed\n"
    assert Content.select().count() == 3


def test_the_command_frees_those_whose_lease_ran_out(Content, user, url):
    def clean(*args):
        return run_here("cleanup", "--database", url, *args)

    for number in range(3):
        Content.request(user, "lesson", {"number": number})
        Content.claim()
    Content.update(lease_expires_at=NOW).execute()
    first = Content.select(Content.id).limit(1)
    Content.update(failures=2).where(Content.id == first).execute()
    told = "stale claims: 2 to pending, 1 to failed\ndelete"
    assert clean("--dry-run")[1].startswith(f"would free {told[:-6]}would delete 0 expired")
    assert json.loads(clean("--json", "--dry-run")[1])["rescued"] == {
        "requeued": 2,
        "failed": 1,
        "blocked": 0,
    }
    assert Content.select().where(Content.status == "generating").count() == 3
    assert run(url)[1].startswith(f"freed {told}d 0 expired")
    assert json.loads(clean("--json")[1])["rescued"]["requeued"] == 0
    Content.claim()
    Content.update(lease_expires_at=NOW).where(Content.status == "generating").execute()
    assert "0 to pending, 1 to failed" in clean("--max-attempts", "2")[1]


def test_usage_mistakes(url):
    for option in (
        ("--batch-size", "0"),
        ("--max-attempts", "0"),
        ("--max-attempts", "9" * 20),
        ("--max-rows", "x"),
        ("--max-seconds", "-1"),
        ("--max-seconds", "nan"),
        ("--max-seconds", "inf"),
        ("--wait", "nan"),
        ("--failed-after", "1e12"),
        ("--json", "--quiet"),
        ("x",),
    ):
        assert run_here("cleanup", "--database", url, *option)[0] == 2


def test_a_database_that_is_not_migrated(empty_url):
    aicontent.connect(empty_url)
    status, out, err = run(empty_url)
    assert (status, out) == (1, "")
    assert err.startswith("Error: ")


def test_a_database_that_is_not_migrated_to_the_end(url, database):
    aicontent.rollback(database, steps=len(available()) - 2)
    status, out, err = run(url)
    assert (status, out) == (1, "")
    assert err == "Error: ai_generated_content is not up to date: run `aicontent migrate`\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_running_batch(fill, Content, url, number):
    fill(3000, expires_at=NOW - HOUR)
    options = ("--database", url, "--batch-size", "1", "--json")
    process = Forked("cleanup", *options, text=True)
    while Content.select().count() == 3000:
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, "")
    report = json.loads(out)
    assert report["left"] is True
    assert report["deleted"] == report["batches"] == 3000 - Content.select().count()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_locked_database_is_waited_for_only_so_long(store, Content, url, database):
    store(expires_at=NOW - HOUR)
    with database.atomic():
        status, _, err = run(url, "--wait", "0.1")
    assert status == 1
    assert "locked" in err
    assert run(url)[0] == 0


@pytest.mark.plain  # a partitioned table's key has two columns
def test_rows_that_cannot_go(fill, Content, url, database):
    fill(12, expires_at=NOW - HOUR)
    kept = Content.select().first().id
    database.execute_sql(
        "CREATE TABLE bookmark (c varchar(36) REFERENCES ai_generated_content (id))"
    )
    database.execute_sql(f"INSERT INTO bookmark VALUES ('{kept}')")
    status, out, err = run(url)
    assert (status, out[:29]) == (1, "deleted 11 expired, 0 failed ")
    assert err.startswith("Error: the database refuses to delete 1 due row: " + kept)
    assert "bookmark" in err
    assert err.count("\n") == 1
    status, out, err = run(url, "--json")
    report = json.loads(out)
    assert (status, report["blocked"], report["left"]) == (1, 1, False)
    (named,) = report["named"]
    assert (named["id"], "bookmark" in named["reason"]) == (kept, True)
    assert sorted(report) == sorted(KEYS)


KEYS = (
    *("expired", "failed", "deleted", "batches", "longest_batch", "left", "blocked", "named"),
    *("dry_run", "rescued"),
)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite finds the error at once
@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_does_not_hide_what_was_done(fill, Content, url, database, as_json):
    """A trigger fails in a later batch because its table does not exist."""
    fill(30, expires_at=NOW - HOUR)
    database.execute_sql(
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        "IF (SELECT count(*) FROM ai_generated_content) < 15 THEN "
        "INSERT INTO nowhere VALUES (1); END IF; RETURN OLD; END$$"
    )
    database.execute_sql(
        "CREATE TRIGGER broken BEFORE DELETE ON ai_generated_content "
        "FOR EACH ROW EXECUTE FUNCTION broken()"
    )
    status, out, err = run(url, "--batch-size", "5", *(["--json"] if as_json else []))
    assert status == 1
    assert "nowhere" in err
    assert "Traceback" not in err
    gone = 30 - Content.select().count()
    assert gone > 0
    if as_json:
        report = json.loads(out)
        assert (report["deleted"], report["left"]) == (gone, True)
    else:
        assert out.startswith(f"deleted {gone} expired, 0 failed")


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_failing_reclaim_does_not_hide_the_report(fill, Content, url):
    fill(300, expires_at=NOW - HOUR)
    reader = aicontent.connect(url)
    with reader.connection_context(), reader.atomic("DEFERRED"):
        list(aicontent.for_database(reader).select())
        status, out, err = run(url, "--json", "--reclaim", "--wait", "0.1")
    assert (status, json.loads(out)["deleted"]) == (1, 300)
    assert "Error: " in err


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_no_space_is_reclaimed_when_the_time_is_over(fill, Content, url):
    fill(300, expires_at=NOW - HOUR)
    for args in (["--max-rows", "100"], ["--max-seconds", "0"]):
        status, out, _ = run(url, "--reclaim", *args)
        assert (status, "freed" in out) == (3, False)


def test_how_long_failed_rows_are_kept(fill, Content, url):
    fill(1, status="failed")
    assert run(url)[1] == "deleted 0 expired, 0 failed\n"
    assert run(url, "--failed-after", "0")[1].startswith("deleted 0 expired, 1 failed")
