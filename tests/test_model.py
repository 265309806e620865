"""Test the model: defaults, helpers, queries and reuse."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import peewee
import pytest

import aicontent
from aicontent import ContentStatus, ContentType
from helpers import someone_waits_for_a_lock

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_defaults(Content, user):
    content = Content.create(user=user, type="lesson", request_payload={"topic": "tea"})
    stored = Content.get_by_id(content.id)
    assert uuid.UUID(stored.id).version == 7
    assert stored.user_id == user
    assert stored.type is ContentType.LESSON
    assert stored.status is ContentStatus.PENDING
    assert stored.usage_count == 0
    assert stored.created_at == stored.updated_at == content.created_at == content.updated_at
    assert stored.created_at.tzinfo is UTC
    for name in Content._meta.sorted_field_names[5:19]:
        if name != "usage_count":
            assert getattr(stored, name) is None


def test_the_users_instance_is_as_good_as_the_id(Content, user):
    person = Content.user.rel_model.get_by_id(user)
    content = Content.create(user=person, type="lesson", request_payload={})
    assert Content.get_by_id(content.id).user == person
    assert list(Content.find_by_user_and_type(person, ContentType.LESSON)) == [content]


def test_every_column_comes_back(store, Content):
    values = {
        "validation_results": {"valid": True},
        "metadata": {"model": {"temperature": 0.7}},
        "level": "A2",
        "topics": ["food", "manners"],
        "focus_areas": [],
        "estimated_completion_time": 15,
        "validation_score": 0.94,
        "generation_time_ms": 4120,
        "token_usage": 812,
        "model_used": "example-1",
        "usage_count": 3,
        "last_accessed_at": NOW,
        "expires_at": NOW + HOUR,
        "created_at": NOW - HOUR,
    }
    content = Content.get_by_id(store(**values).id)
    assert {name: getattr(content, name) for name in values} == values


def test_times_come_back_in_utc_whatever_zone_they_were_given_in(store, Content):
    tokyo = NOW.astimezone(timezone(9 * HOUR))
    content = Content.get_by_id(store(expires_at=tokyo).id)
    assert content.expires_at == NOW
    assert content.expires_at.utcoffset() == timedelta(0)


def test_is_expired(store):
    content = store(expires_at=NOW)
    assert not content.is_expired(NOW - HOUR)
    assert not content.is_expired(NOW)
    assert content.is_expired(NOW + timedelta(microseconds=1))
    assert not store(expires_at=None).is_expired(NOW)
    assert store(expires_at=datetime.now(UTC) - HOUR).is_expired()


@pytest.mark.parametrize("status", ContentStatus)
def test_is_reusable_when_completed_and_not_expired(store, status):
    content = store(status=status, expires_at=NOW)
    assert content.is_reusable(NOW) is (status == "completed")
    assert not content.is_reusable(NOW + HOUR)


def test_mark_accessed_shows_what_the_row_holds(store, Content):
    content = store()
    content.mark_accessed(NOW)
    stored = Content.get_by_id(content.id)
    assert stored.usage_count == content.usage_count == 1
    assert stored.last_accessed_at == content.last_accessed_at == NOW
    assert stored.updated_at == content.updated_at
    assert not content.is_dirty()


def test_mark_accessed_counts_what_others_counted_too(store, Content):
    content = store()
    for copy in [Content.get_by_id(content.id) for _ in range(3)]:
        copy.mark_accessed()
    content.mark_accessed()
    assert content.usage_count == 4


def test_mark_accessed_counts_from_an_unset_counter(store, Content):
    content = store()
    Content.update(usage_count=None).execute()
    content.mark_accessed()
    assert content.usage_count == 1


def test_mark_accessed_before_storing_changes_the_instance_alone(Content, user):
    content = Content(user=user, type="lesson", request_payload={})
    content.mark_accessed(NOW)
    assert (content.usage_count, content.last_accessed_at) == (1, NOW)
    assert Content.select().count() == 0
    content.save()
    assert Content.get_by_id(content.id).usage_count == 1


def test_mark_accessed_of_a_deleted_row_says_so(store, Content):
    content = store()
    Content.delete_by_id(content.id)
    with pytest.raises(aicontent.ContentGoneError, match=content.id):
        content.mark_accessed()


def test_find_by_user_and_type_newest_first(store, Content, user):
    old, new, middle = (store(created_at=NOW + n * HOUR) for n in (0, 2, 1))
    store(type="vocabulary_drill")
    other = Content.user.rel_model.create()
    store(user=other)
    assert list(Content.find_by_user_and_type(user, "lesson")) == [new, middle, old]


def test_find_by_user_and_type_of_one_moment_goes_by_id(store, Content, user):
    contents = [store(created_at=NOW) for _ in range(5)]
    assert list(Content.find_by_user_and_type(user, "lesson")) == contents[::-1]


def test_find_reusable_content_least_used_then_newest(store, Content, user):
    used = store(usage_count=2, created_at=NOW + 3 * HOUR)
    old = store(usage_count=1, created_at=NOW)
    new = store(usage_count=1, created_at=NOW + HOUR, expires_at=NOW + 9 * HOUR)
    store(status="cached")
    store(expires_at=NOW)
    found = Content.find_reusable_content(user, "lesson", now=NOW)
    assert list(found) == [new, old, used]


def test_find_reusable_content_of_a_level(store, Content, user):
    beginner, other = store(level="A1"), store(level="B2")
    assert list(Content.find_reusable_content(user, "lesson", "A1")) == [beginner]
    for any_level in (None, ""):
        assert set(Content.find_reusable_content(user, "lesson", any_level)) == {beginner, other}


def test_finding_returns_a_query_to_go_on_with(store, Content, user):
    store(level="A1")
    query = Content.find_by_user_and_type(user, "lesson")
    assert query.where(Content.level == "A1").count() == 1
    assert query.where(Content.request_payload["topic"] == "café").count() == 1


def test_reuse_takes_the_first_that_can_be_and_marks_it(store, Content, user):
    store(usage_count=5)
    least = store(usage_count=1, level="A2")
    content = Content.reuse(user, "lesson", now=NOW)
    assert content == least
    assert (content.usage_count, content.last_accessed_at) == (2, NOW)
    assert content.request_payload == {"topic": "café"}
    assert not content.is_dirty()
    assert Content.get_by_id(least.id).updated_at == content.updated_at


def test_reuse_is_none_when_nothing_can_be(store, Content, user):
    store(status="failed")
    store(expires_at=NOW)
    store(level="A1", expires_at=NOW + HOUR)
    assert Content.reuse(user, "lesson", "B2", now=NOW) is None
    assert Content.reuse(user, "vocabulary_drill", now=NOW) is None
    assert Content.select(peewee.fn.SUM(Content.usage_count)).scalar() == 0


def test_reuse_spreads_over_what_there_is(store, Content, user):
    contents = [store() for _ in range(3)]
    assert {Content.reuse(user, "lesson") for _ in range(3)} == set(contents)


def test_32_callers_at_once_all_hit_the_one_reusable_row(store, Content, user):
    content = store()
    together = threading.Barrier(32)

    def reuse(_: int) -> bool:
        with Content._meta.database.connection_context():
            together.wait()
            return Content.reuse(user, "lesson") == content

    with ThreadPoolExecutor(32) as pool:
        hits = list(pool.map(reuse, range(32)))
    assert hits == [True] * 32
    assert Content.get_by_id(content.id).usage_count == 32


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite has no row locks
def test_reuse_waits_for_a_row_that_another_has_locked(store, Content, user):
    """If the locked row has expired after the wait, reuse() takes the next one."""
    first, second = store(usage_count=0), store(usage_count=1)
    database = Content._meta.database
    started = threading.Event()

    def reuse() -> object:
        with database.connection_context():
            started.set()
            return Content.reuse(user, "lesson", now=NOW)

    with ThreadPoolExecutor(1) as pool:
        with database.atomic():
            Content.update(expires_at=NOW - HOUR).where(Content.id == first.id).execute()
            waiting = pool.submit(reuse)
            started.wait()
            while not someone_waits_for_a_lock(database):
                assert not waiting.done()
        assert waiting.result(10) == second


def test_deleting_a_user_deletes_the_users_content(store, Content, user):
    store()
    Content.user.rel_model.delete_by_id(user)
    assert Content.select().count() == 0


def test_ids_follow_time(Content, user):
    rows = [{"user": user, "type": "lesson", "request_payload": {}} for _ in range(1000)]
    ids = Content.create_many(rows)
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
