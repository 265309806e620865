"""One thread per process renews the leases of rows while their content is generated."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import peewee
import pytest

import aicontent
from aicontent.generation.defaults import LEASE
from aicontent.generation.renewal import RENEWED_LEASE, lease_seconds
from helpers import run_python

MADE = {"title": "En la cafetería"}


def threads():
    return [each for each in threading.enumerate() if each.name == "aicontent-leases"]


def wait_for_renewal(Content, content):
    """Wait until the lease has been renewed; pytest's timeout ends a test that hangs."""
    first = Content.get_by_id(content.id).lease_expires_at
    while Content.get_by_id(content.id).lease_expires_at == first:
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["get_or_generate", "work"])
def test_a_lease_is_renewed_while_it_generates(Content, user, way):
    """Two renewals keep the claim through a call that takes longer than its lease."""

    def generate(content):
        for _ in range(2):
            wait_for_renewal(Content, content)
            assert Content.rescue_stale() == aicontent.RescueReport()
        return MADE

    if way == "work":
        Content.request(user, "lesson", {})
        Content.work(generate, lease=1, until_empty=True)
    else:
        Content.get_or_generate(user, "lesson", {}, generate, lease=1)
    (row,) = Content.select()
    assert (row.status, row.attempts, row.failures) == ("completed", 1, 0)
    assert row.lease_expires_at is None
    assert len(threads()) == 1


def test_a_row_that_is_lost_is_renewed_no_more(Content, user, database):
    """The renewal checks the attempt, as extend_lease() does."""

    def generate(content):
        wait_for_renewal(Content, content)
        Content.update(attempts=7, lease_expires_at=far).execute()  # another worker's claim
        other = Content.get_or_generate(user, "lesson", {"n": 2}, another, lease=0.3)
        assert other.served == "generated"
        assert Content.get_by_id(content.id).lease_expires_at == far
        return MADE

    def another(content):
        wait_for_renewal(Content, content)  # the same thread has then tried the first row too
        return MADE

    far = aicontent.AIGeneratedContent.lease_expires_at.python_value("2099-01-01 00:00:00.000000")
    assert Content.get_or_generate(user, "lesson", {"n": 1}, generate, lease=0.3).served


def test_threads_do_not_grow_with_the_number_of_generations(Content, user, elsewhere):
    together = threading.Barrier(8)

    def generate(content):
        together.wait(timeout=30)
        assert len(threads()) == 1
        return MADE

    futures = [
        elsewhere(Content.get_or_generate, user, "lesson", {"n": number}, generate)
        for number in range(8)
    ]
    assert {future.result(timeout=30).served for future in futures} == {"generated"}
    assert len(threads()) == 1


def test_the_default_lease_depends_on_a_second_connection(database, Content, user):
    assert lease_seconds(database, None) == RENEWED_LEASE.total_seconds() == 60
    for alone in (
        peewee.SqliteDatabase(":memory:"),
        peewee.SqliteDatabase("file:x?mode=memory", uri=True),
        peewee.SqliteDatabase("x.db", thread_safe=False),
    ):
        assert lease_seconds(alone, None) == LEASE.total_seconds() == 300
        assert lease_seconds(alone, timedelta(seconds=7)) == 7


def test_in_memory_it_generates_without_a_thread():
    code = """
import threading
import aicontent
database = aicontent.connect("sqlite:///:memory:")
aicontent.migrate(database, create_users=True)
Content = aicontent.for_database(database)
user = Content.user.rel_model.create()
made = Content.get_or_generate(user, "lesson", {}, lambda content: {"left": str(
    content.lease_expires_at - content.created_at)})
print(made.generated_data["left"], threading.active_count())
"""
    ran = run_python(code)
    assert ran.stdout.startswith("0:05:00"), ran.stderr
    assert ran.stdout.split()[-1] == "1"


def test_a_process_ends_although_it_generates_in_another_thread(url, user):
    code = """
import sys, threading
import aicontent
Content = aicontent.for_database(aicontent.connect(sys.argv[1]))
started = threading.Event()
def generate(content):
    started.set()
    threading.Event().wait()
threading.Thread(target=Content.get_or_generate, daemon=True,
    args=(int(sys.argv[2]), "lesson", {}, generate)).start()
started.wait()
print("ends")
"""
    ran = run_python(code, url, str(user))
    assert (ran.returncode, ran.stdout) == (0, "ends\n"), ran.stderr


def test_a_forked_process_renews_its_own_leases_alone(url, user):
    code = """
import os, sys, threading
import aicontent
url, user = sys.argv[1], int(sys.argv[2])
def in_parent(content):
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        from aicontent.generation import renewal
        assert not renewal._renewer._claims
        Content = aicontent.for_database(aicontent.connect(url))
        made = Content.get_or_generate(user, "lesson", {"in": "child"}, in_child, lease=1)
        os._exit(0 if made.served == "generated" else 1)
    return {"status": os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}
def in_child(content):
    Content, first = type(content), content.lease_expires_at
    while Content.get_by_id(content.id).lease_expires_at == first:
        pass
    return {}
Content = aicontent.for_database(aicontent.connect(url))
print(Content.get_or_generate(user, "lesson", {}, in_parent).generated_data["status"])
"""
    ran = run_python(code, url, str(user))
    assert ran.stdout == "0\n", ran.stderr


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite locks no rows
def test_a_row_that_is_locked_delays_no_other_renewal(Content, user, database, elsewhere):
    """The first row's renewal gives up waiting for its lock before the second row's is due."""
    locked = threading.Event()

    def hold(content):
        with database.atomic():
            list(Content.select().where(Content.id == content.id).for_update())
            locked.set()
            assert ends.wait(timeout=60)
        return MADE

    def generate(content):
        for _ in range(2):
            wait_for_renewal(Content, content)
        ends.set()
        return MADE

    ends = threading.Event()
    first = elsewhere(Content.get_or_generate, user, "lesson", {"n": 1}, hold, lease=6)
    assert locked.wait(timeout=30)
    second = elsewhere(Content.get_or_generate, user, "lesson", {"n": 2}, generate, lease=6)
    for future in (first, second):
        assert future.result(timeout=60).attempts == 1
