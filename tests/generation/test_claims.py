"""Claims: which worker gets a row, how a claim ends, and how a worker learns of its loss."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import peewee
import pytest

import aicontent
from aicontent import ContentStatus
from aicontent.table import TABLE
from helpers import ROOT

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER = datetime(2099, 1, 1, tzinfo=UTC)


def stale(content, Content):
    """Expire the lease of a claimed row."""
    Content.update(lease_expires_at=NOW - HOUR).where(Content.id == content.id).execute()


def stored(content):
    return type(content).get_by_id(content.id)


def test_a_claim(ask, Content):
    content = ask()
    before = datetime.now(UTC)
    claimed = Content.claim(lease=60)
    after = datetime.now(UTC)
    assert claimed == content
    for row in (claimed, stored(content)):
        assert row.status is ContentStatus.GENERATING
        assert row.attempts == 1
        # SQLite's clock has a resolution of one millisecond.
        lease = row.lease_expires_at - timedelta(seconds=60)
        assert before - timedelta(milliseconds=1) <= lease <= after
    assert claimed.updated_at == stored(content).updated_at
    assert not claimed.is_dirty()
    assert Content.claim() is None


def test_the_oldest_first(Content, user):
    row = {"user": user, "type": "lesson", "request_payload": {}}
    for name, hours in (("c", 2), ("b", 1), ("d", 3), ("a", 1)):
        Content.create(**row, id=name, created_at=NOW + hours * HOUR)
    Content.create(**row, id="0", status="completed", created_at=NOW)
    assert [Content.claim().id for _ in range(4)] == ["a", "b", "c", "d"]
    assert Content.claim() is None


def test_a_claim_of_types(Content, user):
    for kind in ("lesson", "vocabulary_drill", "cultural_content"):
        Content.request(user, kind, {})
    assert Content.claim("cultural_content").type == "cultural_content"
    assert Content.claim("cultural_content") is None
    assert Content.claim(["cultural_content", "vocabulary_drill"]).type == "vocabulary_drill"
    assert Content.claim({"lesson"}, lease=HOUR).type == "lesson"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"types": []}, "types"),
        ({"types": "quiz"}, "type"),
        ({"types": ["lesson", None]}, "type"),
        ({"types": 7}, "types"),
        ({"lease": 0}, "lease"),
        ({"lease": -HOUR}, "lease"),
        ({"lease": float("nan")}, "lease"),
        ({"lease": float("inf")}, "lease"),
        ({"lease": "60"}, "lease"),
        ({"lease": True}, "lease"),
        ({"lease": 1e10}, "lease"),
        ({"lease": 10**400}, "lease"),
    ],
)
def test_what_cannot_be_claimed(ask, Content, arguments, field):
    ask()
    with pytest.raises(aicontent.ValidationError) as caught:
        Content.claim(**arguments)
    assert caught.value.field == field
    assert Content.claim(lease=timedelta(days=36_525)) is not None


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite locks no rows
def test_a_claim_passes_over_locked_rows(ask, Content, database):
    first, second = ask(0), ask(1)

    def claim():
        with database.connection_context():
            return Content.claim()

    with ThreadPoolExecutor(1) as pool, database.atomic():
        list(Content.select().where(Content.id == first.id).for_update())
        assert pool.submit(claim).result(timeout=30) == second
        assert pool.submit(claim).result(timeout=30) is None
    assert Content.claim() == first


def test_a_claim_that_is_rolled_back_is_none(ask, Content, database):
    content = ask()
    with database.atomic() as transaction:
        assert Content.claim() == content
        transaction.rollback()
    assert Content.claim().attempts == 1


def test_complete(ask, Content):
    ask(metadata={"kept": 1, "changed": 1})
    content = Content.claim()
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    content.complete(
        {"title": "¡Hola!"},
        expires_in=HOUR,
        validation_results={"valid": True},
        validation_score=0.9,
        token_usage=812,
        model_used="example-1",
        generation_time_ms=4120,
        estimated_completion_time=15,
        topics=["food"],
        focus_areas=[],
        metadata={"changed": 2},
    )
    for row in (content, stored(content)):
        assert row.status is ContentStatus.COMPLETED
        assert row.generated_data == {"title": "¡Hola!"}
        assert before <= row.expires_at - HOUR <= datetime.now(UTC)
        assert row.validation_results == {"valid": True}
        assert (row.validation_score, row.token_usage, row.model_used) == (0.9, 812, "example-1")
        assert (row.generation_time_ms, row.estimated_completion_time) == (4120, 15)
        assert (row.topics, row.focus_areas) == (["food"], [])
        assert row.metadata == {"kept": 1, "changed": 2}
        assert row.lease_expires_at is None
        assert row.is_reusable()
    assert not content.is_dirty()
    assert Content.reuse(content.user_id, "lesson") == content


def test_complete_leaves_what_it_is_not_told(ask, Content):
    expires = datetime.now(UTC) + HOUR
    ask(expires_at=expires, topics=["food"])
    content = Content.claim()
    content.level = "B1"
    content.complete({}, topics=None)
    assert stored(content).expires_at == expires
    assert stored(content).topics == ["food"]
    assert stored(content).level is None
    assert content.is_dirty()  # complete() leaves the caller's own changes unsaved
    content.save()
    assert stored(content).level == "B1"


WHAT_IS_NOT_VALID_DOES_NOT_COUNT_AS_COMPLETED = [
    (None, {}, "generated_data"),
    ([], {}, "generated_data"),
    ("text", {}, "generated_data"),
    ({"n": float("nan")}, {}, "generated_data.n"),
    ({"n": "\0"}, {}, "generated_data.n"),
    ({}, {"validation_score": 1.5}, "validation_score"),
    ({}, {"token_usage": -1}, "token_usage"),
    ({}, {"metadata": []}, "metadata"),
    ({}, {"expires_in": 0}, "expires_in"),
    ({}, {"expires_in": "1h"}, "expires_in"),
    ({}, {"tokens": 1}, "tokens"),
    ({}, {"status": "failed"}, "status"),
    ({}, {"generated_data": {}}, "generated_data"),
    ({}, {"self": 1}, "self"),
]


def test_what_is_not_valid_does_not_count_as_completed(ask, Content):
    for document, outcome, field in WHAT_IS_NOT_VALID_DOES_NOT_COUNT_AS_COMPLETED:
        ask()
        content = Content.claim()
        with pytest.raises(aicontent.ValidationError) as caught:
            content.complete(document, **outcome)
        assert caught.value.field == field
        assert content.status is ContentStatus.GENERATING
        assert stored(content) == content
        assert stored(content).generated_data is None
        content.complete({})  # the worker still holds its claim
        Content.delete().execute()


def test_fail(ask, Content):
    ask(metadata={"kept": 1})
    content = Content.claim()
    content.fail("the model said no: api_key=hunter2")
    for row in (content, stored(content)):
        assert row.status is ContentStatus.FAILED
        failure = {"reason": "the model said no: api_key=[…]", "attempt": 1}
        assert row.metadata == {"kept": 1, "lastFailure": failure}
        assert row.lease_expires_at is None
    assert not content.is_dirty()
    assert ask() != content


def test_fail_and_retry_until_the_attempts_are_used_up(ask, Content):
    content = ask()
    Content.claim().release()  # an interruption is not a failure
    for attempt in (2, 3, 4):
        claimed = Content.claim()
        assert (claimed, claimed.attempts) == (content, attempt)
        claimed.fail(RuntimeError("secret"), retry=True)
        assert stored(content).status == ("pending" if attempt < 4 else "failed")
        assert stored(content).metadata == {
            "lastFailure": {"reason": "RuntimeError", "attempt": attempt}
        }
    assert Content.claim() is None


def test_fail_asks_for_sense(ask, Content):
    ask()
    content = Content.claim()
    for wrong in (
        {"reason": None},
        {"reason": "x", "max_attempts": 0},
        {"reason": "x", "max_attempts": "3", "retry": False},
        {"reason": "x", "retry": "no"},
        {"reason": "x", "delay": -1},
        {"reason": "x", "delay": float("inf")},
        {"reason": "x", "delay": 5, "retry": False},
    ):
        with pytest.raises(aicontent.ValidationError):
            content.fail(**{"retry": True, **wrong})
    assert stored(content).status is ContentStatus.GENERATING


def test_a_retry_waits_until_it_is_due(ask, Content):
    first, second = ask(0), ask(1)
    claimed = Content.claim()
    claimed.fail("429", retry=True, delay=HOUR)
    assert stored(first).retry_at - datetime.now(UTC) > HOUR / 2
    assert (claimed.retry_at, claimed.failures) == (stored(first).retry_at, 1)
    assert Content.claim() == second
    assert Content.claim() is None
    Content.update(retry_at=NOW).where(Content.id == first.id).execute()
    again = Content.claim()
    assert (again, again.attempts, again.retry_at) == (first, 2, None)
    again.fail("429", retry=True, delay=0)
    assert Content.claim() == first


def test_what_is_due_first_is_claimed_first(ask, Content):
    rows = [ask(number) for number in range(3)]
    for content, hours in zip(rows, (3, 1, 2), strict=True):
        Content.update(retry_at=NOW + hours * HOUR).where(Content.id == content.id).execute()
    assert [Content.claim() for _ in rows] == [rows[1], rows[2], rows[0]]


def test_release(ask, Content):
    """release() counts no failure, and leaves the attempt's number unchanged."""
    content = ask()
    for attempt in range(1, 6):
        claimed = Content.claim()
        assert (claimed, claimed.attempts) == (content, attempt)
        claimed.release()
        row = stored(content)
        assert (row.status, row.failures, row.attempts) == ("pending", 0, attempt)
        assert (row.lease_expires_at, row.metadata) == (None, None)
        with pytest.raises(aicontent.LeaseLostError, match="call claim.. first"):
            claimed.release()


def test_how_many_failures_a_row_may_have_is_its_own(ask, Content):
    """A cleanup with the default limit does not fail rows whose workers allow more failures."""
    patient, plain = ask(0, max_attempts=5), ask(1)
    for failures in range(1, 4):
        for content in (patient, plain):
            Content.update(status="pending").where(Content.id == content.id).execute()
            assert Content.claim() == content
            stale(content, Content)
        report = Content.rescue_stale()
        assert (report.requeued, report.failed) == ((2, 0) if failures < 3 else (1, 1))
    assert stored(plain).status is ContentStatus.FAILED
    for most, allowed in ((2, 5), (9, 9), (None, 9)):
        claimed = Content.claim(max_attempts=most)
        assert (claimed, claimed.max_attempts) == (patient, allowed)
        claimed.release()
    Content.claim().fail("no", retry=True, max_attempts=4)  # this worker's limit replaces the row's
    assert stored(patient).status is ContentStatus.FAILED


def test_an_expired_request_is_never_claimed(ask, Content):
    ended, ends, other = (ask(n, expires_at=e) for n, e in ((0, NOW), (1, LATER), (2, None)))
    assert [Content.claim() for _ in range(3)] == [ends, other, None]
    assert ask(0, expires_at=LATER) == ended  # a repeated request moves its end
    assert stored(ended).expires_at == LATER
    assert ask(0) == ended
    assert stored(ended).expires_at is None
    assert Content.claim() == ended


def test_an_answer_that_comes_after_the_request_has_ended_is_served(ask, Content):
    content = ask(expires_at=LATER)
    claimed = Content.claim()
    Content.update(expires_at=NOW).where(Content.id == content.id).execute()
    assert Content.cleanup().expired == 0  # a worker still holds the row
    claimed.complete({"paid": True})
    assert claimed.expires_at is stored(content).expires_at is None
    assert claimed.is_reusable()


def test_the_same_answer_twice_is_stored_once(ask, Content):
    """A worker whose reply was lost stores its answer again."""
    content = ask()
    Content.claim()
    one, same, other = (stored(content) for _ in range(3))
    one.complete({"n": [1, 2]}, token_usage=5)
    same.complete({"n": (1, 2)}, token_usage=7)
    assert (same.status, same.token_usage) == ("completed", 5)
    with pytest.raises(aicontent.LeaseLostError, match="another answer was stored first"):
        other.complete({"n": 3})


def test_a_row_that_cannot_be_read_never_blocks_the_queue(ask, Content, database, kind):
    """The row stays pending for workers that can read it, until its failures reach the limit."""
    poisoned, sound = ask(0), ask(1)
    # A damaged compressed document, or a number with more digits than Python reads.
    number = f"""'{{"n": {"9" * 5000}}}'"""
    payload = "x'28b52ffd00'" if kind == "sqlite" else number
    where = f"WHERE id = '{poisoned.id}'"
    database.execute_sql(f'UPDATE {TABLE} SET "requestPayload" = {payload} {where}')
    assert Content.claim() == sound
    for failures in range(1, 4):
        sql = f'SELECT status, failures, "leaseExpiresAt" FROM {TABLE} {where}'
        status = "pending" if failures < 3 else "failed"
        assert database.execute_sql(sql).fetchone() == (status, failures, None)
        database.execute_sql(f'UPDATE {TABLE} SET "retryAt" = NULL {where}')
        assert Content.claim() is None
    assert f"could not read the stored requests of {poisoned.id}, " in aicontent.check(database)[0]
    reason = Content.select(Content.metadata).where(Content.id == poisoned.id).get().metadata
    assert reason["lastFailure"]["reason"].startswith("the stored request cannot be read")


def test_extend_lease(ask, Content):
    ask()
    content = Content.claim(lease=1)
    first = content.lease_expires_at
    content.extend_lease(HOUR)
    assert stored(content).lease_expires_at == content.lease_expires_at
    assert content.lease_expires_at > first + HOUR / 2
    with pytest.raises(aicontent.ValidationError, match="lease"):
        content.extend_lease(0)


END = {
    "complete": lambda content: content.complete({"late": True}),
    "release": lambda content: content.release(),
    "fail": lambda content: content.fail("late"),
    "retry": lambda content: content.fail("late", retry=True),
    "extend": lambda content: content.extend_lease(),
}


def row_of(Content, content):
    rows = Content.select().where(Content.id == content.id).dicts()
    return list(rows)


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("meanwhile", ["rescued", "claimed", "completed", "failed", "deleted"])
def test_one_who_lost_the_lease_changes_nothing_and_is_told(ask, Content, end, meanwhile):
    ask()
    late = Content.claim()
    stale(late, Content)
    assert Content.rescue_stale().requeued == 1
    if meanwhile != "rescued":
        other = Content.claim()
        if meanwhile == "completed":
            other.complete({"good": True})
        elif meanwhile == "failed":
            other.fail("no")
        elif meanwhile == "deleted":
            other.delete_instance()
    before = row_of(Content, late)
    if end == "complete" and meanwhile not in ("completed", "deleted"):
        late.complete({"late": True})  # the first finished answer wins
        assert stored(late).generated_data == {"late": True}
        assert stored(late).status is ContentStatus.COMPLETED
        return
    with pytest.raises(aicontent.LeaseLostError) as caught:
        END[end](late)
    assert row_of(Content, late) == before
    assert (caught.value.id, caught.value.attempt) == (late.id, 1)
    now = {
        "rescued": "the row is now pending, at attempt 1",
        "claimed": "the row is now generating, at attempt 2",
        "completed": "the row is now completed, at attempt 2",
        "failed": "the row is now failed, at attempt 2",
        "deleted": "the row was deleted",
    }
    assert now[meanwhile] in str(caught.value)
    assert "call claim() first" not in str(caught.value)
    assert late.status is ContentStatus.GENERATING
    assert late.generated_data is None


@pytest.mark.parametrize("end", END)
def test_a_lease_that_ran_out_is_held_until_someone_takes_it(ask, Content, end):
    ask()
    content = Content.claim()
    stale(content, Content)
    END[end](content)


@pytest.mark.parametrize("end", END)
def test_what_was_not_claimed_cannot_be_ended(ask, Content, user, end):
    for content in (ask(), Content(user=user, type="lesson", request_payload={})):
        with pytest.raises(aicontent.LeaseLostError, match="call claim.. first"):
            END[end](content)


@pytest.mark.parametrize("metadata", ["null", "[1]", '"text"', "7"])
def test_metadata_of_another_kind_gives_way(ask, Content, database, metadata):
    """Another program may store metadata that the database allows and the model refuses."""
    content = ask()
    Content.claim()
    database.execute_sql(f"UPDATE ai_generated_content SET metadata = '{metadata}'")
    content = stored(content)
    content.fail("no")
    assert stored(content).metadata == {"lastFailure": {"reason": "no", "attempt": 1}}


def test_the_table_shows_how_a_status_changes(ask, Content, kind):
    """The table and the picture list the changes that each call makes to a row of each status."""
    text = (ROOT / "docs/explanation/claims.md").read_text("utf-8")
    section = text.partition("## Life of a row")[2].partition("\n## ")[0]
    documented = {
        (status, operation, after)
        for before, after, operations in re.findall(
            r"^\| (.*?) ?\| (\w+) \| (.*) \|$", section, re.M
        )
        for operation in re.findall(r"`(\w+\([^)]*\))`", operations)
        for status in (ContentStatus if before == "any status" else [before])
    }
    picture = (ROOT / "docs/explanation/life-of-a-row.svg").read_text("utf-8")
    drawn = re.findall(r">(\w+\(.*?\))[,<]", picture)
    assert sorted(set(drawn)) == sorted({operation for _, operation, _ in documented})
    operations = {
        "request()": lambda content: ask(),
        "claim()": lambda content: Content.claim(),
        "complete()": lambda content: content.complete({}),
        "fail()": lambda content: content.fail("no"),
        "fail(retry=True)": lambda content: content.fail("no", retry=True),
        "rescue_stale()": lambda content: Content.rescue_stale(),
        "fail(retry=True, delay=…)": lambda content: content.fail("no", retry=True, delay=9),
        "release()": lambda content: content.release(),
        "requeue()": lambda content: Content.requeue(),
        "cleanup()": lambda content: Content.cleanup(),
    }
    happened = set()
    ended = datetime.now(UTC) - HOUR
    for name, operation in operations.items():
        for status in ContentStatus:
            for failures in (0, 2):
                Content.delete().execute()
                ask()
                content = Content.claim()  # the worker keeps this instance
                content.failures = failures
                Content.update(
                    status=status,
                    failures=failures,
                    lease_expires_at=ended,
                    expires_at=ended if name == "cleanup()" else None,
                ).execute()
                with suppress(aicontent.LeaseLostError):
                    operation(content)
                found = Content.get_or_none(Content.id == content.id)
                after = found.status.value if found else "deleted"
                if after != status:
                    happened.add((status.value, name, after))
                if Content.select().where(Content.id != content.id).exists():
                    happened.add(("", name, "pending"))
    assert documented == happened


def test_a_writer_that_knows_only_the_specification(Content, user, database):
    """Another program leaves the claim columns unset; its rows are claimed like all others."""
    for number in (1, 2):
        database.execute_sql(
            'INSERT INTO ai_generated_content ("id", "userId", "type", "requestPayload") '
            f"VALUES ('{number}', {user}, 'lesson', '{{}}')"
        )
    assert Content.claim().id == "1"
    content = Content.claim()
    database.execute_sql("UPDATE ai_generated_content SET status = 'completed' WHERE id = '2'")
    with pytest.raises(aicontent.LeaseLostError):
        content.fail("late")
    with pytest.raises(peewee.IntegrityError):
        database.execute_sql("UPDATE ai_generated_content SET attempts = -1")


def test_a_partly_selected_claim_is_refused_where_it_would_lose_something(Content, ask):
    asked = ask(variant="p3", metadata={"who": "me"})
    Content.claim()

    def selected(*names):
        columns = [getattr(Content, name) for name in names]
        return Content.select(*columns).where(Content.id == asked.id).get()

    few = ("id", "status", "attempts")
    for names, missing, call in (
        (few, "failures", lambda c: c.fail("x")),
        (few, "expires_at", lambda c: c.complete({})),
        ((*few, "expires_at"), "metadata", lambda c: c.complete({}, metadata={"m": 2})),
        (("id", "status"), "attempts", lambda c: c.release()),
        (("status", "attempts"), "id", lambda c: c.extend_lease()),
    ):
        with pytest.raises(aicontent.ValidationError, match=f"^{missing}: must be selected by"):
            call(selected(*names))
    selected(*few).extend_lease()
    selected(*few, "expires_at", "metadata").complete({"a": 1}, metadata={"m": 2})
    assert Content.get_by_id(asked.id).metadata == {"variant": "p3", "who": "me", "m": 2}
