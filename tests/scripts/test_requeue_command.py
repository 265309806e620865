"""Test the command that requeues failed rows, as a person runs it after an outage."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

import aicontent
from helpers import run_here, run_program


@pytest.fixture
def requeue(url):
    def requeue(*args):
        return run_here("requeue", "--database", url, *args)

    return requeue


@pytest.fixture
def failed(Content, user) -> dict[str, str]:
    """The ids of three failed rows by topic; `art` has another type."""
    topics = {"tea": "lesson", "milk": "lesson", "art": "cultural_content"}
    ids = {}
    for topic, type in topics.items():
        ids[topic] = Content.request(user, type, {"topic": topic}).id
        Content.claim().fail("no answer")
    return ids


def pending(Content) -> set[str]:
    """Return the topics of the pending rows, and assert that they have no failures."""
    rows = list(Content.select().where(Content.status == "pending"))
    assert {content.failures for content in rows} <= {0}
    return {content.request_payload["topic"] for content in rows}


def test_all_failed_rows(requeue, Content, failed):
    assert requeue("--dry-run") == (0, "would requeue 3 rows\n", "")
    assert pending(Content) == set()
    assert requeue() == (0, "requeued 3 rows\n", "")
    assert pending(Content) == set(failed)
    assert requeue() == (0, "requeued 0 rows\n", "")


def test_by_type(requeue, Content, failed):
    assert requeue("--type", "cultural_content") == (0, "requeued 1 row\n", "")
    assert pending(Content) == {"art"}
    args = ("--type", "cultural_content", "--type", "lesson", "--json")
    assert json.loads(requeue(*args)[1]) == {"requeued": 2, "dry_run": False}


def test_by_id(requeue, Content, failed):
    args = ("--id", failed["tea"], "--id", failed["art"])
    assert requeue(*args) == (0, "requeued 2 rows\n", "")
    assert pending(Content) == {"tea", "art"}
    status, out, err = requeue("--id", failed["milk"], "--id", failed["tea"])
    assert (status, out) == (1, "")
    wrong = f"{failed['tea']}, which is pending"
    assert err == f"Error: ids: must be ids of failed rows; got {wrong}\n"
    assert requeue("--id", "x", "--dry-run")[::2] == (
        1, "Error: ids: must be ids of failed rows; got x, which is not stored\n"
    )  # fmt: skip
    assert pending(Content) == {"tea", "art"}


def test_by_the_time_of_the_failure(requeue, Content, failed):
    # A separate update would set updated_at to now.
    old = Content.get_by_id(failed["tea"]).updated_at - timedelta(hours=3)
    rows = [content.__data__ for content in Content.select()]
    Content.delete().execute()
    Content.create_many(
        [row | ({"updated_at": old} if row["id"] == failed["tea"] else {}) for row in rows]
    )
    assert requeue("--within", "2.5", "--dry-run")[1] == "would requeue 2 rows\n"
    assert requeue("--within", "3.5")[1] == "requeued 3 rows\n"


def test_rows_that_another_program_left_generating(requeue, Content, store):
    content = store(status="generating")
    assert requeue("--dry-run")[1] == "would requeue 0 rows\n"
    assert requeue("--status", "generating") == (0, "requeued 1 row\n", "")
    assert Content.get_by_id(content.id).status == "pending"


@pytest.mark.parametrize(
    "option",
    [
        ("--status", "completed"),
        ("--type", "quiz"),
        ("--within", "0"),
        ("--within", "x"),
        ("x",),
    ],
)
def test_usage_mistakes(option):
    assert run_here("requeue", *option)[0] == 2


def test_a_database_that_is_not_migrated(empty_url):
    aicontent.connect(empty_url)
    status, out, err = run_program("requeue", "--database", empty_url)
    assert (status, out) == (1, b"")
    assert err.endswith("run `aicontent migrate`\n")
