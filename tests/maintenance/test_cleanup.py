"""The deletion policy: what goes, in which portions, and beside whom."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import peewee
import pytest

import aicontent
from aicontent import ContentStatus, ValidationError
from aicontent.maintenance.batches import batches_of
from aicontent.maintenance.cleanup import reasons_of
from aicontent.schema.history import available
from helpers import ROOT, run_here, run_together, someone_waits_for_a_lock

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PROGRAM = Path(sys.executable).parent / "aicontent"


@pytest.fixture
def fill(Content, user):
    """Store so many rows at once; keyword arguments change them."""

    def fill(number, **values):
        row = {"user": user, "type": "lesson", "status": "completed", "request_payload": {}}
        return Content.create_many([row | values] * number)

    return fill


def test_what_goes_and_what_stays(store, Content):
    keep = [
        store(),
        store(expires_at=NOW),
        store(status="failed", created_at=NOW - 24 * HOUR),
        store(status="completed", created_at=NOW - 99 * HOUR),
    ]
    for status in ContentStatus:
        store(status=status, expires_at=NOW - HOUR)
    store(status="failed", created_at=NOW - 25 * HOUR)
    store(status="failed", created_at=NOW - 25 * HOUR, expires_at=NOW + HOUR)
    store(status="failed", created_at=NOW - 25 * HOUR, expires_at=NOW - HOUR)  # counts once
    foreseen = Content.cleanup(now=NOW, dry_run=True)
    assert (foreseen.expired, foreseen.failed, foreseen.left) == (6, 2, True)
    assert Content.select().count() == 12
    report = Content.cleanup(now=NOW)
    assert (report.expired, report.failed, report.deleted) == (6, 2, 8)
    assert not report.left
    assert set(Content.select()) == set(keep)
    again = Content.cleanup(now=NOW)
    assert (again.deleted, again.batches, again.longest_batch) == (0, 0, 0.0)


def test_failed_after(store, Content):
    store(status="failed", created_at=NOW - 2 * HOUR)
    assert Content.cleanup(now=NOW).deleted == 0
    assert Content.cleanup(now=NOW, failed_after=HOUR).failed == 1


def test_a_thousand_rows_with_one_expiry_all_go(fill, Content):
    """A cursor over the expiry would skip ties at the end of a batch."""
    fill(1000, expires_at=NOW - HOUR)
    report = Content.cleanup(now=NOW, batch_size=37)
    assert (report.expired, report.left) == (1000, False)
    assert report.batches >= 28
    assert 0 < report.longest_batch < 60
    assert Content.select().count() == 0


def test_budgets(fill, Content):
    fill(30, expires_at=NOW - HOUR)
    fill(30, status="failed", created_at=NOW - 99 * HOUR)
    assert Content.cleanup(now=NOW, max_rows=0).left
    report = Content.cleanup(now=NOW, max_rows=25, batch_size=10)
    assert (report.expired, report.left) == (25, True)
    assert report.batches >= 3
    report = Content.cleanup(now=NOW, max_seconds=0)
    assert (report.deleted, report.left) == (0, True)
    asked = iter([False, False, True])
    report = Content.cleanup(now=NOW, batch_size=3, stop=lambda: next(asked))
    assert (report.batches, report.failed, report.left) == (2, 0, True)
    assert Content.select().count() == 60 - 25 - report.deleted
    report = Content.cleanup(now=NOW, max_rows=99)
    assert not report.left
    assert Content.select().count() == 0


def test_progress_is_told_after_each_batch(fill, Content):
    fill(10, expires_at=NOW - HOUR)
    told = []
    Content.cleanup(now=NOW, batch_size=4, progress=told.append)
    assert [report.batches for report in told] == list(range(1, len(told) + 1))
    deleted = [report.expired for report in told]
    # At most four each: fewer where a batch took long.
    assert all(0 < now - before <= 4 for before, now in pairwise([0, *deleted]))
    assert deleted[-1] == 10


def test_each_batch_is_a_transaction_of_its_own(fill, Content):
    """What went before an interruption is gone, and nothing else."""
    fill(10, expires_at=NOW - HOUR)

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Content.cleanup(now=NOW, batch_size=4, progress=interrupt)
    assert Content.select().count() == 6
    assert not Content._meta.database.in_transaction()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("failed_after", -HOUR),
        ("failed_after", 24),
        ("batch_size", 0),
        ("batch_size", True),
        ("max_rows", -1),
        ("max_rows", 1.5),
        ("max_seconds", -1),
        ("max_seconds", "5"),
        ("max_seconds", float("nan")),
        ("now", NOW.replace(tzinfo=None)),
        ("now", datetime.min.replace(tzinfo=UTC)),
    ],
)
def test_bad_arguments(Content, argument, value):
    with pytest.raises(ValidationError, match=f"^{argument}: "):
        Content.cleanup(**{argument: value})


CLEAN = """
import sys, aicontent
database = aicontent.connect(sys.argv[1], timeout=30)
model = aicontent.for_database(database)
sys.stdin.read()
report = model.cleanup(batch_size=20)
print(report.expired, report.failed, report.left)
"""


@pytest.mark.parametrize("cleaners", [2, 4])
def test_cleaners_at_once_count_each_row_once(fill, Content, url, cleaners):
    fill(1000, expires_at=datetime.now(UTC) - HOUR)
    fill(500, status="failed", created_at=datetime.now(UTC) - 99 * HOUR)
    outputs = run_together(CLEAN, url, processes=cleaners)
    assert [error for _, error in outputs] == [""] * cleaners
    counts = [line.split() for line, _ in outputs]
    assert sum(int(expired) for expired, _, _ in counts) == 1000
    assert sum(int(failed) for _, failed, _ in counts) == 500
    assert {left for _, _, left in counts} == {"False"}
    assert Content.select().count() == 0


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite locks no rows
def test_a_row_renewed_meanwhile_survives(store, Content):
    database = Content._meta.database
    renewed, other = store(expires_at=NOW - HOUR), store(expires_at=NOW - HOUR)
    reports = []

    def clean() -> None:
        with database.connection_context():
            reports.append(Content.cleanup(now=NOW))

    cleaner = threading.Thread(target=clean)
    with database.atomic():
        Content.update(expires_at=NOW + HOUR).where(Content.id == renewed.id).execute()
        cleaner.start()
        while not someone_waits_for_a_lock(database):
            assert cleaner.is_alive()
    cleaner.join()
    assert [(report.expired, report.left) for report in reports] == [(1, False)]
    assert list(Content.select()) == [renewed]
    assert other not in Content.select()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_row_that_stays_locked_is_left(store, Content, url):
    locked, _ = store(expires_at=NOW - HOUR), store(expires_at=NOW - HOUR)
    holder = aicontent.connect(url)
    with holder.connection_context(), holder.atomic():
        other = aicontent.for_database(holder)
        list(other.select().where(other.id == locked.id).for_update())
        report = Content.cleanup(now=NOW)
    assert (report.expired, report.left) == (1, True)
    assert Content.cleanup(now=NOW).expired == 1


@pytest.mark.parametrize("analyzed", [False, True])
def test_the_cleanup_uses_its_indexes(fill, Content, database, analyzed):
    fill(50, expires_at=NOW + HOUR)
    fill(50, status="failed", created_at=NOW)
    explain = "EXPLAIN QUERY PLAN "
    if isinstance(database, peewee.PostgresqlDatabase):
        database.execute_sql("SET enable_seqscan = off")
        explain = "EXPLAIN "
    if analyzed:
        database.execute_sql("ANALYZE")
    with batches_of(database) as batches:
        for reason in reasons_of(Content, NOW, NOW - HOUR):
            batches.begin(reason)
            sql, values = batches.lookup.sql()
            plan = " ".join(map(str, database.execute_sql(explain + sql, values).fetchall()))
            assert reason.index in plan, plan
            if analyzed:
                assert "SORT" not in plan.upper(), plan
                assert "TEMP B-TREE" not in plan, plan


def test_batches_are_short_beside_others_who_write(fill, Content, database, url):
    fill(3, expires_at=NOW - HOUR)
    other = aicontent.connect(url)
    with batches_of(database) as batches:
        batches.begin(reasons_of(Content, NOW, NOW)[0])
        batches.others_until = 0.0  # nobody was seen for a while
        assert batches.seconds == batches.session.seconds_alone
        assert batches.delete(1)[0] == 1
        batches.rest(0.0)
        assert batches.seconds == batches.session.seconds_alone
        aicontent.for_database(other).update(level="A1").execute()
        assert batches.delete(1)[0] == 1
        batches.rest(0.0)
        assert batches.seconds == batches.session.seconds_with_others
    other.close()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_connection_keeps_its_settings(fill, Content, database):
    fill(3, expires_at=NOW - HOUR)
    database.pragma("wal_autocheckpoint", 123)
    Content.cleanup(now=NOW)
    assert database.pragma("wal_autocheckpoint") == 123


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_it_works_without_its_indexes(fill, Content, database):
    fill(5, expires_at=NOW - HOUR)
    fill(5, status="failed", created_at=NOW - 99 * HOUR)
    database.execute_sql("DROP INDEX idx_ai_content_expires")
    database.execute_sql("DROP INDEX idx_ai_content_failed")
    assert Content.cleanup(now=NOW).deleted == 10


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_it_works_with_another_index_of_that_name(fill, Content, database):
    fill(5, status="failed", created_at=NOW - 99 * HOUR)
    database.execute_sql("DROP INDEX idx_ai_content_failed")
    database.execute_sql(
        'CREATE INDEX idx_ai_content_failed ON ai_generated_content ("createdAt") '
        "WHERE status IN ('failed', 'cached')"
    )
    assert Content.cleanup(now=NOW).deleted == 5


def run(url, *args, **options):
    ran = subprocess.run(
        [PROGRAM, "cleanup", "--database", url, *args],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert "Traceback" not in ran.stderr
    return ran.returncode, ran.stdout, ran.stderr


def test_the_command(fill, Content, url):
    fill(30, expires_at=NOW - HOUR)
    fill(5, status="failed", created_at=NOW - 99 * HOUR)
    fill(3)
    assert run(url, "--dry-run")[:2] == (0, "would delete 30 expired, 5 failed\n")
    status, out, err = run(url, "--max-rows", "10", "--batch-size", "4")
    assert (status, err) == (3, "")
    line = (
        r"deleted 10 expired, 0 failed in \d+ batches, the longest \d+ ms; stopped with rows left\n"
    )
    assert re.fullmatch(line, out)
    status, out, _ = run(url, "--json")
    report = json.loads(out)
    assert status == 0
    assert (report["expired"], report["failed"], report["deleted"]) == (20, 5, 25)
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
    Content.update(attempts=3).where(Content.id == first).execute()
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


BIG = {"request_payload": {"text": "x" * 4000}, "expires_at": NOW - HOUR}


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_reclaim_gives_the_space_back(fill, Content, url, database):
    fill(500, **BIG)
    fill(50, request_payload={"text": "y" * 4000})
    status, out, _ = run(url, "--reclaim")
    assert status == 0
    freed = int(out.splitlines()[-1].split()[1].replace(",", ""))
    assert freed > 500 * 4000
    assert out.endswith("bytes (vacuum)\n")
    assert Content.select().count() == 50
    assert aicontent.reclaim(database) == aicontent.ReclaimReport(0, "nothing")
    assert json.loads(run(url, "--reclaim", "--json")[1])["freed"] == 0
    assert aicontent.check(database) == []


def test_reclaim_goes_in_steps_where_the_database_allows_it(tmp_path):
    path = tmp_path / "incremental.db"
    database = peewee.SqliteDatabase(path, pragmas={"auto_vacuum": 2, "foreign_keys": 1})
    aicontent.migrate(database, create_users=True)
    model = aicontent.for_database(database)
    user = model.user.rel_model.create()
    model.create_many([{"user": user, "type": "lesson"} | BIG] * 800)
    model.cleanup(now=NOW)
    before = path.stat().st_size
    report = aicontent.reclaim(database)
    assert report.way == "incremental"
    assert report.freed == before - path.stat().st_size > 800 * 4000
    database.close()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_reclaim_says_when_it_cannot(fill, Content, url, database):
    fill(500, **BIG)
    reader = aicontent.connect(url)
    with reader.connection_context():
        reader.execute_sql("BEGIN")
        reader.execute_sql("SELECT count(*) FROM users").fetchone()
        status, out, err = run(url, "--reclaim", "--wait", "0.1")
        assert status == 1
        assert out.startswith("deleted 500 expired")
        assert "not returned yet" in err
        reader.execute_sql("COMMIT")
    assert run(url, "--reclaim")[0] == 0


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_reclaim_is_for_sqlite(url, database):
    assert run(url, "--reclaim")[0] == 2
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="autovacuum"):
        aicontent.reclaim(database)


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
