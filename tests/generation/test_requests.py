"""Requests: repeated and concurrent requests for the same content share one pending row."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

import aicontent
from aicontent import ContentStatus
from helpers import someone_waits_for_a_lock

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def stored(content):
    return type(content).get_by_id(content.id)


def test_a_request_is_a_pending_row(ask, user):
    content = ask(level="A2", topics=["food"], variant="v1", metadata={"from": "app"})
    for row in (content, stored(content)):
        assert row.status is ContentStatus.PENDING
        assert (row.user_id, row.type, row.level, row.attempts) == (user, "lesson", "A2", 0)
        assert row.request_payload == {"number": 0}
        assert row.topics == ["food"]
        assert row.metadata == {"from": "app", "variant": "v1"}
        assert row.fingerprint == aicontent.fingerprint("lesson", {"number": 0}, "A2", "v1")
        assert row.lease_expires_at is None


def test_one_row_is_in_flight_for_a_request(ask, Content):
    first = ask()
    assert ask() == first
    claimed = Content.claim()
    assert ask() == claimed == first
    assert ask().status is ContentStatus.GENERATING
    claimed.complete({})
    assert ask() != first


def test_another_request_is_another_row(ask, Content, user):
    other = Content.user.rel_model.create()
    rows = [
        ask(),
        ask(1),
        ask(level="A1"),
        ask(variant="v2"),
        Content.request(user, "vocabulary_drill", {"number": 0}),
        Content.request(other, "lesson", {"number": 0}),
    ]
    assert len({row.id for row in rows}) == len(rows)


def test_requests_at_once_are_one_row(Content, user, database):
    together = threading.Barrier(16)

    def ask(_):
        with database.connection_context():
            together.wait()
            return Content.request(user, "lesson", {"n": 1}).id

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(ask, range(16)))) == 1
    assert Content.select().count() == 1


def test_a_request_in_a_transaction_leaves_it_open(ask, Content, database):
    with database.atomic():
        first = ask()
        assert ask() == first
        with pytest.raises(aicontent.UnknownUserError):
            Content.request(999, "lesson", {})
        assert ask(1) != first
    assert Content.select().count() == 2


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite has one writer
def test_a_request_waits_for_the_same_one_that_is_not_committed(ask, Content, database):
    def ask_again():
        with database.connection_context():
            return ask().id

    with ThreadPoolExecutor(1) as pool:
        with database.atomic():
            first = ask()
            waiting = pool.submit(ask_again)
            while not someone_waits_for_a_lock(database):
                assert not waiting.done()
        assert waiting.result(timeout=30) == first.id


WHAT_A_REQUEST_CANNOT_SAY = [
    ({"status": "completed"}, "status"),
    ({"fingerprint": "x"}, "fingerprint"),
    ({"lease_expires_at": NOW}, "lease_expires_at"),
    ({"level": "intermediate"}, "level"),
    ({"metadata": []}, "metadata"),
    ({"metadata": [], "variant": 1}, "metadata"),
    ({"variant": object()}, "variant"),
    ({"colour": "red"}, "colour"),
    ({"level": "\ud800"}, "level"),
]


def test_what_a_request_cannot_say(ask, Content):
    for values, field in WHAT_A_REQUEST_CANNOT_SAY:
        with pytest.raises(aicontent.ValidationError) as caught:
            ask(**values)
        assert caught.value.field == field
        assert Content.select().count() == 0


def test_what_is_no_fingerprint(Content, user):
    """A request would never match such a fingerprint."""
    row = {"user": user, "type": "lesson", "request_payload": {}}
    for wrong in ("x", "F" * 64, "0" * 63, "0" * 65, "text " * 13):
        with pytest.raises(aicontent.ValidationError, match="fingerprint: must be 64 hexadecimal"):
            Content.create(**row, fingerprint=wrong)


def test_a_second_row_in_flight_is_refused(ask, Content, user):
    content = ask()
    row = {"user": user, "type": "lesson", "request_payload": {}}
    with pytest.raises(aicontent.DuplicateRequestError, match="already in flight"):
        Content.create(**row, fingerprint=content.fingerprint)
    with pytest.raises(aicontent.DuplicateRequestError) as caught:
        Content.create_many([row, row | {"fingerprint": content.fingerprint}])
    assert caught.value.row == 2
    Content.create(**row, fingerprint=content.fingerprint, status="completed")
    assert Content.select().count() == 2


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_row_that_can_neither_be_seen_nor_entered(ask, database):
    database.execute_sql(
        "CREATE FUNCTION no_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    database.execute_sql(
        "CREATE TRIGGER suppress BEFORE INSERT ON ai_generated_content "
        "FOR EACH ROW EXECUTE FUNCTION no_row()"
    )
    with pytest.raises(aicontent.AIContentError, match="no trigger"):
        ask()
