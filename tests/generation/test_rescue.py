"""Rescue of stale claims, and the clock that decides when a lease has run out."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

import aicontent
from aicontent import ContentStatus
from aicontent.schema.history import available
from helpers import run_python

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def stale(content, Content):
    """Expire the lease of a claimed row."""
    Content.update(lease_expires_at=NOW - HOUR).where(Content.id == content.id).execute()


def stored(content):
    return type(content).get_by_id(content.id)


def test_rescue(ask, Content):
    rows = [ask(number) for number in range(4)]
    held, once, thrice, unleased = (Content.claim() for _ in rows)
    for content in (once, thrice):
        stale(content, Content)
    Content.update(failures=2).where(Content.id == thrice.id).execute()
    # A program that knows only the specification sets no lease.
    Content.update(lease_expires_at=None).where(Content.id == unleased.id).execute()

    assert Content.rescue_stale(dry_run=True) == aicontent.RescueReport(1, 1)
    assert stored(once).status is ContentStatus.GENERATING
    assert Content.rescue_stale() == aicontent.RescueReport(requeued=1, failed=1)
    assert Content.rescue_stale() == aicontent.RescueReport()

    assert stored(once).status is ContentStatus.PENDING
    assert stored(thrice).status is ContentStatus.FAILED
    for content, failures in ((once, 1), (thrice, 3)):
        row = stored(content)
        assert row.metadata == {"lastFailure": {"reason": "the lease ran out", "attempt": 1}}
        assert row.failures == failures
        assert row.lease_expires_at is None
    for content in (held, unleased):
        assert stored(content).status is ContentStatus.GENERATING
    again = Content.claim()
    assert (again, again.attempts) == (once, 2)


KEEPS = {
    "raises": ("SELECT RAISE(ABORT, 'frozen')", "RAISE EXCEPTION 'frozen'"),
    "ignores": ("SELECT RAISE(IGNORE)", "RETURN NULL"),
}


@pytest.mark.parametrize("way", KEEPS)
def test_rows_that_the_database_keeps_stop_no_others(fill, Content, database, kind, way):
    ids = fill(100, status="generating", attempts=1, lease_expires_at=NOW - HOUR)
    kept = sorted(ids)[:30]
    Content.update(level="keep").where(Content.id.in_(kept)).execute()
    sqlite, postgresql = KEEPS[way]
    if kind == "sqlite":
        database.execute_sql(
            "CREATE TRIGGER keeps BEFORE UPDATE ON ai_generated_content "
            f"WHEN OLD.level = 'keep' BEGIN {sqlite}; END"
        )
    else:
        database.execute_sql(
            "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS "
            f"'BEGIN IF OLD.level = ''keep'' THEN {postgresql.replace(chr(39), chr(39) * 2)}; "
            "END IF; RETURN NEW; END'"
        )
        database.execute_sql(
            "CREATE TRIGGER a_keeps BEFORE UPDATE ON ai_generated_content "
            "FOR EACH ROW EXECUTE FUNCTION keeps()"
        )
    report = Content.rescue_stale()
    assert (report.requeued, report.left) == (70, False)
    if way == "raises":
        assert report.blocked == 30
        assert len(report.named) == 10
        assert {id for id, _ in report.named} <= set(kept)
        assert all("frozen" in why for _, why in report.named)
    still = Content.select(Content.id).where(Content.status == "generating")
    assert sorted(content.id for content in still) == kept


def test_a_rescue_keeps_to_its_budget(fill, Content, database):
    """The budget also holds with the plan that PostgreSQL chooses without statistics."""
    fill(30, status="generating", attempts=1, lease_expires_at=NOW - HOUR)
    assert Content.rescue_stale(max_rows=1) == aicontent.RescueReport(requeued=1, left=True)
    with database.atomic():
        assert Content.rescue_stale(max_rows=2) == aicontent.RescueReport(requeued=2, left=True)
        stops = iter([False, True])
        freed = Content.rescue_stale(stop=lambda: next(stops))
        assert freed == aicontent.RescueReport(requeued=27)
    assert Content.rescue_stale(max_seconds=0) == aicontent.RescueReport()


def test_rescue_judges_by_the_moment_it_is_given(ask, Content):
    ask()
    lease = Content.claim().lease_expires_at
    assert Content.rescue_stale(now=lease).requeued == 0
    assert Content.rescue_stale(max_attempts=1, now=lease + timedelta(milliseconds=1)).failed == 1


RESCUE_ASKS_FOR_SENSE = [
    {"max_attempts": 0},
    {"max_attempts": 2**70},
    {"max_attempts": True},
    {"max_attempts": 1.5},
    {"now": 7},
]


def test_rescue_asks_for_sense(Content):
    for wrong in RESCUE_ASKS_FOR_SENSE:
        with pytest.raises(aicontent.ValidationError, match=next(iter(wrong))):
            Content.rescue_stale(**wrong)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite has one writer
def test_rescue_does_not_wait_for_who_is_just_completing(ask, Content, database):
    ask()
    content = Content.claim()
    stale(content, Content)

    def rescue():
        with database.connection_context():
            return Content.rescue_stale()

    with ThreadPoolExecutor(1) as pool, database.atomic():
        content.complete({"in": "time"})
        assert pool.submit(rescue).result(timeout=30) == aicontent.RescueReport()
    assert stored(content).generated_data == {"in": "time"}


def test_one_that_another_program_took_is_that_programs(ask, Content, database):
    """The other program does not count attempts, so the attempt's number is unchanged."""
    ask()
    late = Content.claim()
    stale(late, Content)
    Content.rescue_stale()
    database.execute_sql("UPDATE ai_generated_content SET status = 'generating'")
    for end in (late.release, late.extend_lease, lambda: late.fail("late")):
        with pytest.raises(aicontent.LeaseLostError):
            end()
    assert Content.rescue_stale() == aicontent.RescueReport()
    late.complete({"late": True})  # the first finished answer wins
    assert stored(late).generated_data == {"late": True}


def test_a_rollback_frees_what_is_claimed(ask, Content, database):
    ask()
    Content.claim()
    aicontent.rollback(database, steps=len(available()) - 2)
    status = database.execute_sql("SELECT status FROM ai_generated_content").fetchone()
    assert status == ("pending",)


def test_rescuers_at_once_free_each_row_once(ask, Content, database):
    rows = [ask(number) for number in range(40)]
    for _ in rows:
        stale(Content.claim(), Content)
    together = threading.Barrier(8)

    def rescue(_):
        with database.connection_context():
            together.wait()
            return Content.rescue_stale().requeued

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(rescue, range(8))) == len(rows)
    assert {row.status for row in Content.select()} == {ContentStatus.PENDING}


AN_HOUR_OFF = """
import sys, datetime
offset = datetime.timedelta(hours=float(sys.argv[2]))
class Off(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(super().now(tz).timestamp(), tz) + offset
real = datetime.datetime
import time
wall = time.time
time.time = lambda: wall() + offset.total_seconds()
datetime.datetime = Off
import aicontent
database = aicontent.connect(sys.argv[1])
content = aicontent.for_database(database)
claimed = content.claim(lease=600)
print(claimed.lease_expires_at.isoformat())
print(content.rescue_stale().requeued)
other = content.claim(lease=600)
other.complete({"n": 1}, expires_in=600)
print(content.get_by_id(other.id).expires_at.isoformat())
ran = []
for _ in range(3):
    made = lambda claimed: ran.append(1) or {}
    content.get_or_generate(other.user_id, "lesson", {"clock": 1}, made, expires_in=600)
print(len(ran))
"""


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_worker_whose_clock_is_an_hour_off(ask, Content, url, hours):
    mine, _, _ = ask(0), ask(1), ask(2)
    held = Content.claim(lease=600)
    ran = run_python(AN_HOUR_OFF, url, str(hours))
    assert ran.returncode == 0, ran.stderr
    lease, rescued, expires, generated = ran.stdout.split()
    assert generated == "1"
    now = datetime.now(UTC)
    for moment in (lease, expires):
        assert abs(datetime.fromisoformat(moment) - now - timedelta(seconds=600)) < HOUR / 60
    assert rescued == "0"
    assert stored(mine) == held
    held.complete({})
