"""The cleanup command, as a person or a timer runs it, and the units of its timer."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

import aicontent
from aicontent.schema.history import available
from helpers import PROGRAM, ROOT, run_here, run_program

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def run(url, *args):
    status, out, err = run_program("cleanup", "--database", url, *args)
    return status, out.decode(), err


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
    assert json.loads(clean("--json", "--dry-run")[1])["rescued"] == {"requeued": 2, "failed": 1}
    assert Content.select().where(Content.status == "generating").count() == 3
    assert run(url)[1].startswith(f"freed {told}d 0 expired")
    assert json.loads(clean("--json")[1])["rescued"] == {"requeued": 0, "failed": 0}
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
    command = [PROGRAM, "cleanup", "--database", url, "--batch-size", "1", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while Content.select().count() == 3000:
        assert process.poll() is None
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


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path):
    units = ROOT / "scripts" / "systemd"
    paths = []
    for unit in units.iterdir():
        paths.append(tmp_path / unit.name)
        paths[-1].write_text(unit.read_text().replace("/opt/aicontent/bin/aicontent", str(PROGRAM)))
    service = tmp_path / "aicontent-cleanup.service"
    verified = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    rate = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", service]
    rated = subprocess.run(rate, capture_output=True, text=True)
    assert rated.returncode == 0, rated.stdout


def test_no_password_is_on_the_units_command_line():
    units = ROOT / "scripts" / "systemd"
    text = (units / "aicontent-cleanup.service").read_text()
    assert "EnvironmentFile=" in text
    assert "--database" not in text
