"""Test the deletion policy: the rows that the cleanup deletes, and the limits that stop it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from aicontent import ContentStatus, ValidationError
from helpers import on_statement, run_together

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
OLD = NOW - 25 * HOUR


def test_what_goes_and_what_stays(store, Content):
    keep = [
        store(),
        store(expires_at=NOW),
        store(status="failed", created_at=NOW - 24 * HOUR, updated_at=NOW - 24 * HOUR),
        store(status="completed", created_at=NOW - 99 * HOUR),
    ]
    for status in ContentStatus:
        store(status=status, expires_at=NOW - HOUR)
    failed = {"status": "failed", "created_at": OLD, "updated_at": OLD}
    store(**failed)
    store(**failed, expires_at=NOW + HOUR)
    store(**failed, expires_at=NOW - HOUR)  # both reasons apply, but it counts once
    foreseen = Content.cleanup(now=NOW, dry_run=True)
    assert (foreseen.expired, foreseen.failed, foreseen.left) == (6, 2, True)
    assert Content.select().count() == 12
    report = Content.cleanup(now=NOW)
    assert (report.expired, report.failed, report.deleted) == (6, 2, 8)
    assert not report.left
    assert set(Content.select()) == set(keep)
    again = Content.cleanup(now=NOW)
    assert (again.deleted, again.batches, again.longest_batch) == (0, 0, 0.0)


def test_a_row_that_failed_just_now_stays(store, Content, database):
    """The cleanup counts the age of a failure from the failure, not from the request."""
    content = store(status="generating", created_at=datetime.now(UTC) - 99 * HOUR)
    Content.update(status="failed").where(Content.id == content.id).execute()
    assert Content.cleanup().deleted == 0
    assert Content.cleanup(failed_after=timedelta(0)).failed == 1


def test_it_judges_by_the_databases_clock(store, Content, database, kind):
    store(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    statements = []
    with on_statement(lambda statement: statements.append(statement[0])):
        assert Content.cleanup(dry_run=True).expired == 1
        assert Content.cleanup().expired == 1
    clock = "'now'" if kind == "sqlite" else "statement_timestamp()"
    assert all(clock in sql for sql in statements if "expiresAt" in sql)


def test_failed_after(store, Content):
    store(status="failed", created_at=NOW - 2 * HOUR, updated_at=NOW - 2 * HOUR)
    assert Content.cleanup(now=NOW).deleted == 0
    assert Content.cleanup(now=NOW, failed_after=HOUR).failed == 1


def test_a_thousand_rows_with_one_expiry_all_go(fill, Content):
    """A cursor over the expiry would skip rows with equal values at the end of a batch."""
    fill(1000, expires_at=NOW - HOUR)
    report = Content.cleanup(now=NOW, batch_size=37)
    assert (report.expired, report.left) == (1000, False)
    assert report.batches >= 28
    assert 0 < report.longest_batch < 60
    assert Content.select().count() == 0


def test_budgets(fill, Content):
    fill(30, expires_at=NOW - HOUR)
    fill(30, status="failed", created_at=NOW - 99 * HOUR, updated_at=NOW - 99 * HOUR)
    assert Content.cleanup(now=NOW, max_rows=0).left
    report = Content.cleanup(now=NOW, max_rows=25, batch_size=10)
    assert (report.deleted, report.left) == (25, True)
    # The two reasons alternate, in batches that are smaller on a slow machine.
    assert min(report.expired, report.failed) >= report.batches // 2
    assert report.batches >= 3
    report = Content.cleanup(now=NOW, max_seconds=0)
    assert (report.deleted, report.left) == (0, True)
    asked = iter([False, False, True])
    report = Content.cleanup(now=NOW, batch_size=3, stop=lambda: next(asked))
    assert (report.batches, report.left) == (2, True)
    assert 0 < report.expired <= 3
    assert 0 < report.failed <= 3
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
    # A batch has at most four rows, and fewer after a slow batch.
    assert all(0 < now - before <= 4 for before, now in pairwise([0, *deleted]))
    assert deleted[-1] == 10


def test_each_batch_is_a_transaction_of_its_own(fill, Content):
    """An interrupted cleanup has deleted its finished batches and no other row."""
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
        ("failed_after", "24"),
        ("failed_after", -1),
        ("failed_after", timedelta.max),
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
    long_ago = datetime.now(UTC) - 99 * HOUR
    fill(500, status="failed", created_at=long_ago, updated_at=long_ago)
    outputs = run_together(CLEAN, url, processes=cleaners)
    assert [error for _, error in outputs] == [""] * cleaners
    counts = [line.split() for line, _ in outputs]
    assert sum(int(expired) for expired, _, _ in counts) == 1000
    assert sum(int(failed) for _, failed, _ in counts) == 500
    # A cleaner may report rows that another cleaner has locked. The last to end reports none.
    assert "False" in {left for _, _, left in counts}
    assert Content.select().count() == 0


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_it_works_without_its_indexes(fill, Content, database):
    fill(5, expires_at=NOW - HOUR)
    fill(5, status="failed", created_at=NOW - 99 * HOUR, updated_at=NOW - 99 * HOUR)
    database.execute_sql("DROP INDEX idx_ai_content_expires")
    database.execute_sql("DROP INDEX idx_ai_content_failed")
    assert Content.cleanup(now=NOW).deleted == 10


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_it_works_with_another_index_of_that_name(fill, Content, database):
    fill(5, status="failed", created_at=NOW - 99 * HOUR, updated_at=NOW - 99 * HOUR)
    database.execute_sql("DROP INDEX idx_ai_content_failed")
    database.execute_sql(
        'CREATE INDEX idx_ai_content_failed ON ai_generated_content ("createdAt") '
        "WHERE status IN ('failed', 'cached')"
    )
    assert Content.cleanup(now=NOW).deleted == 5
