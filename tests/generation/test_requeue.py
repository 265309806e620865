"""requeue() makes the selected failed rows pending again, and leaves all others unchanged."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

import aicontent
from aicontent import ContentStatus
from helpers import on_statement, someone_waits_for_a_lock

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LAST_FAILURE = {"lastFailure": {"reason": "no", "attempt": 3}}


def is_pending(Content):
    return Content.status == ContentStatus.PENDING


def fingerprint(number=0):
    return aicontent.fingerprint("lesson", {"number": number})


@pytest.fixture
def row(Content, user):
    """Store a failed row without retries left; each number is a separate request."""

    def row(id, number=0, **values):
        failed = {
            "user": user,
            "type": "lesson",
            "status": "failed",
            "request_payload": {"number": number},
            "fingerprint": fingerprint(number),
            "attempts": 3,
            "failures": 3,
            "queued": False,
            "metadata": LAST_FAILURE,
            "created_at": NOW,
        }
        return Content.create(**{**failed, "id": id, **values})

    return row


@pytest.fixture
def pending(Content):
    """Return the ids of the pending rows."""

    def pending():
        return sorted(
            id for (id,) in Content.select(Content.id).where(is_pending(Content)).tuples()
        )

    return pending


def test_its_failures_are_forgotten_and_it_can_be_claimed(row, Content):
    row("a", max_attempts=2, retry_at=NOW + 99_999 * HOUR)
    assert Content.requeue() == 1
    content = Content.get_by_id("a")
    assert (content.status, content.failures, content.attempts) == ("pending", 0, 3)
    assert (content.retry_at, content.queued, content.metadata) == (None, True, LAST_FAILURE)
    assert Content.requeue() == 0
    claimed = Content.claim()
    assert (claimed, claimed.attempts) == (content, 4)
    claimed.fail("no", retry=True)
    assert Content.get().status is ContentStatus.PENDING
    Content.claim().fail("no", retry=True)
    assert Content.get().status is ContentStatus.FAILED


def test_a_whole_life(ask, Content, get_or_generate):
    ask()
    Content.claim().fail("no")
    assert Content.requeue() == 1
    content = get_or_generate()
    assert (content.id, content.served) == (Content.get().id, "generated")
    assert Content.requeue() == 0


def test_other_statuses_are_left(row, Content, pending):
    for number, status in enumerate(ContentStatus):
        row(status.value, number, status=status)
    assert Content.requeue() == 1
    assert pending() == ["failed", "pending"]


def test_generating_rows_without_a_lease(row, Content, pending):
    """Another program set their status, and rescue_stale() never frees them."""
    row("theirs", 0, status="generating")
    row("held", 1, status="generating", lease_expires_at=datetime.now(UTC) + HOUR)
    row("stale", 2, status="generating", lease_expires_at=NOW)
    row("failed", 3)
    assert Content.requeue(status="generating", dry_run=True) == 1
    with pytest.raises(aicontent.ValidationError, match="held, which is generating under a lease"):
        Content.requeue(status="generating", ids=["theirs", "held"])
    assert pending() == []
    assert Content.requeue(status=ContentStatus.GENERATING, ids=["theirs"]) == 1
    assert pending() == ["theirs"]
    assert Content.get_by_id("theirs").failures == 0
    assert Content.requeue(status="generating") == 0


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (None, ["cultural_content", "lesson", "vocabulary_drill"]),
        ("lesson", ["lesson"]),
        (aicontent.ContentType.LESSON, ["lesson"]),
        (["lesson", "cultural_content"], ["cultural_content", "lesson"]),
        ({"grammar_exercise"}, []),
    ],
)
def test_types(row, Content, pending, types, expected):
    for number, kind in enumerate(("lesson", "vocabulary_drill", "cultural_content")):
        row(kind, number, type=kind)
    assert Content.requeue(types=types, dry_run=True) == len(expected)
    assert pending() == []
    assert Content.requeue(types=types) == len(expected)
    assert pending() == expected


@pytest.mark.parametrize("ids", ["b", ["b"], ("b",), {"b"}, ["b", "b"]], ids=repr)
def test_ids(row, Content, pending, ids):
    for number, id in enumerate("abc"):
        row(id, number)
    assert Content.requeue(ids=ids) == 1
    assert pending() == ["b"]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a", "nobody"], "must be ids of failed rows; got nobody, which is not stored"),
        ("nobody", "must be ids of failed rows; got nobody, which is not stored"),
        (["a", "done"], "must be ids of failed rows; got done, which is completed"),
        (["\x1b[31m" + "x" * 100], "must be ids of failed rows; got ?[31mxxx"),
        ([], "must name rows, or be None for all; got list of 0 items"),
        ("", "must be ids of failed rows; got an empty text, which is not stored"),
        ([None], "must name rows"),
        ([7], "must name rows"),
        (7, "must name rows"),
        (iter(["a"]), "must name rows"),
        ([b"a"], "must name rows"),
    ],
    ids=range(11),
)
def test_ids_of_no_such_rows(row, Content, pending, ids, says):
    row("a")
    row("done", 1, status="completed")
    with pytest.raises(aicontent.ValidationError) as caught:
        Content.requeue(ids=ids)
    assert str(caught.value).startswith(f"ids: {says}")
    assert len(str(caught.value)) < 300
    assert pending() == []


@pytest.mark.parametrize("id", ["a\0", "a\ud800"], ids=["NUL", "surrogate"])
def test_an_id_that_no_database_can_hold(Content, id):
    with pytest.raises(aicontent.ValidationError) as caught:
        Content.requeue(ids=[id])
    assert caught.value.field == "ids"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"status": "completed"}, "status"),
        ({"status": "pending"}, "status"),
        ({"status": None}, "status"),
        ({"status": []}, "status"),
        ({"types": []}, "types"),
        ({"types": "quiz"}, "type"),
        ({"types": 7}, "types"),
        ({"failed_within": 0}, "failed_within"),
        ({"failed_within": -HOUR}, "failed_within"),
        ({"failed_within": "1h"}, "failed_within"),
        ({"failed_within": True}, "failed_within"),
        ({"failed_within": float("nan")}, "failed_within"),
        ({"dry_run": 1}, "dry_run"),
        ({"dry_run": None}, "dry_run"),
    ],
)
def test_mistakes_change_nothing(row, Content, pending, arguments, field):
    row("a")
    with pytest.raises(aicontent.ValidationError) as caught:
        Content.requeue(**arguments)
    assert caught.value.field == field
    assert pending() == []


def test_failed_within(row, Content, pending):
    """requeue() compares the time of the last change, not the time of the request."""
    now = datetime.now(UTC)
    row("long ago", 0, updated_at=now - 3 * HOUR)
    row("lately", 1, updated_at=now - HOUR)
    row("just now", 2)
    assert Content.requeue(failed_within=1.5 * HOUR, dry_run=True) == 2
    assert Content.requeue(failed_within=60, dry_run=True) == 1
    assert Content.requeue(failed_within=5400, ids=["long ago", "lately"]) == 1
    assert pending() == ["lately"]
    assert Content.requeue(failed_within=4 * HOUR) == 2


def test_of_several_for_one_request_the_newest(row, Content, pending, user):
    row("old")
    row("new", created_at=NOW + HOUR)
    row("newest of a moment", created_at=NOW + HOUR)
    row("another request", 1)
    row("another user", user=Content.user.rel_model.create().id)
    assert Content.requeue(dry_run=True) == 3
    assert Content.requeue() == 3
    assert pending() == ["another request", "another user", "newest of a moment"]


def test_of_several_the_one_that_is_named(row, Content, pending):
    row("old")
    row("new", created_at=NOW + HOUR)
    row("newest", created_at=NOW + 2 * HOUR)
    assert Content.requeue(ids=["old", "new"]) == 1
    assert pending() == ["new"]
    assert Content.requeue(ids="old") == 0  # the same request is in flight


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"status": "pending"}, 0),
        ({"status": "generating"}, 0),
        ({"status": "completed"}, 0),
        ({"status": "completed", "expires_at": datetime(9999, 1, 1, tzinfo=UTC)}, 0),
        ({"status": "completed", "expires_at": NOW + 2 * HOUR}, 1),
        ({"status": "completed", "created_at": NOW - HOUR}, 1),
        ({"status": "cached"}, 1),
        ({"status": "pending", "created_at": NOW - HOUR}, 0),
        ({"status": "pending", "fingerprint": fingerprint(1)}, 1),
        ({"status": "completed", "fingerprint": None}, 1),
    ],
)
def test_another_row_of_the_request(row, Content, other, expected):
    row("failed")
    row("other", **{"created_at": NOW + HOUR, **other})
    assert Content.requeue(dry_run=True) == expected
    assert Content.requeue(ids="failed") == expected
    assert (Content.get_by_id("failed").status == "pending") is bool(expected)
    assert Content.get_by_id("other").status == other["status"]


def test_rows_without_a_fingerprint_are_apart(row, Content, pending):
    for id in "abc":
        row(id, fingerprint=None)
    row("done", fingerprint=None, status="completed", created_at=NOW + HOUR)
    assert Content.requeue() == 3
    assert pending() == ["a", "b", "c"]


def test_many_rows(fill, row, Content):
    fill(1203, status="failed", failures=3)
    row("old")
    row("new", created_at=NOW + HOUR)
    assert Content.requeue(dry_run=True) == 1204
    assert Content.requeue(ids=[each.id for each in Content.select().limit(600)]) >= 599
    Content.update(status="failed").where(Content.status == "pending").execute()
    assert Content.requeue() == 1204
    assert Content.requeue() == 0
    assert [row.id for row in Content.select().where(Content.status == "failed")] == ["old"]


@pytest.mark.parametrize("moment", ["before", "within"])
def test_a_request_that_is_entered_meanwhile(row, ask, Content, elsewhere, moment):
    """A request arrives between requeue()'s SELECT and its UPDATE."""
    for number in range(5):
        row(f"failed {number}", number)
    entered = []

    def enter(statement):
        if statement[0].startswith("UPDATE" if moment == "before" else "SELECT") and not entered:
            entered.append(None)
            entered[0] = elsewhere(ask, 2).result(timeout=30)

    with on_statement(enter):
        assert Content.requeue() == 4
    assert Content.get_by_id("failed 2").status is ContentStatus.FAILED
    assert Content.select().where(is_pending(Content)).count() == 5


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite has one writer
def test_a_request_that_is_committed_meanwhile(row, ask, Content, database, elsewhere):
    """The SELECT does not see the uncommitted request, and the unique index refuses one row."""
    for number in range(5):
        row(f"failed {number}", number)
    with database.atomic():
        ask(2)
        requeueing = elsewhere(Content.requeue)
        while not someone_waits_for_a_lock(database):
            pass
    assert requeueing.result(timeout=30) == 4
    assert Content.get_by_id("failed 2").status is ContentStatus.FAILED


def test_several_at_once(row, Content, elsewhere):
    for number in range(40):
        row(f"old {number}", number)
        row(f"new {number}", number, created_at=NOW + HOUR)
    together = threading.Barrier(4)

    def requeue():
        together.wait(timeout=30)
        return Content.requeue()

    counts = [each.result(timeout=60) for each in [elsewhere(requeue) for _ in range(4)]]
    assert sum(counts) == 40
    assert all(row.id.startswith("new") for row in Content.select().where(is_pending(Content)))


def test_within_a_transaction_that_is_rolled_back(row, Content, database, pending):
    row("a")
    with database.atomic() as transaction:
        assert Content.requeue() == 1
        transaction.rollback()
    assert pending() == []


def test_a_closed_connection_stays_closed(row, Content, database):
    row("a")
    database.close()
    assert Content.requeue() == 1
    assert database.is_closed()
