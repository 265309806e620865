"""get_or_generate: reuse, else generate once, else wait for whoever generates."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from playhouse.pool import PooledPostgresqlDatabase, PooledSqliteDatabase

import aicontent
from aicontent import ContentStatus
from helpers import on_statement

HOUR = timedelta(hours=1)
MADE = {"title": "En la cafetería"}


@pytest.fixture
def ask(Content, user):
    def ask(generate=lambda content: MADE, number=0, **options):
        return Content.get_or_generate(user, "lesson", {"number": number}, generate, **options)

    return ask


@pytest.fixture
def elsewhere(database):
    """A pool of threads, each with a connection of its own."""
    with ThreadPoolExecutor(16) as pool:

        def submit(function, *args, **options):
            def run():
                with database.connection_context():
                    return function(*args, **options)

            return pool.submit(run)

        yield submit


@contextmanager
def generating(ask, elsewhere, outcome=MADE, **options):
    """Have someone generate, until the block ends; then they return the outcome, or raise it."""
    started, go_on = threading.Event(), threading.Event()

    def generate(content):
        started.set()
        assert go_on.wait(timeout=30)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    running = elsewhere(ask, generate, **options)
    assert started.wait(timeout=30)
    try:
        yield running
    finally:
        go_on.set()


@pytest.fixture
def someone_waits():
    """An event: a caller has found that another generates, and looks at the other's row."""
    waits = threading.Event()
    with on_statement(lambda statement: "is_stale" in statement[0] and waits.set()):
        yield waits


def never(content):
    raise AssertionError("there was no need to generate")


def test_generate_then_reuse(ask, Content, user):
    seen = []

    def generate(content):
        seen.append(content)
        assert content.status is ContentStatus.GENERATING
        assert content.request_payload == {"number": 0}
        assert (content.user_id, content.type, content.level) == (user, "lesson", "A2")
        return MADE

    made = ask(generate, level="A2")
    assert made.status is ContentStatus.COMPLETED
    assert (made.generated_data, made.usage_count, made.attempts) == (MADE, 0, 1)
    assert made.generation_time_ms >= 0
    assert made.expires_at is None
    assert Content.get_by_id(made.id).generated_data == MADE

    again = ask(never, level="A2")
    assert (again, again.usage_count) == (made, 1)
    assert len(seen) == 1
    assert Content.select().count() == 1


def test_the_document_with_its_costs(ask, Content):
    costs = {"token_usage": 812, "model_used": "example-1", "generation_time_ms": 5}
    content = ask(lambda content: (MADE, costs), expires_in=HOUR, variant="v1")
    stored = Content.get_by_id(content.id)
    assert {name: getattr(stored, name) for name in costs} == costs
    assert stored.expires_at - datetime.now(UTC) > HOUR * 0.9
    assert stored.metadata == {"variant": "v1"}


def test_one_user_is_never_served_anothers(Content, user):
    other = Content.user.rel_model.create().id
    for person in (user, other):
        made = Content.get_or_generate(person, "lesson", {}, lambda c: {"for": c.user_id})
        assert (made.user_id, made.generated_data) == (person, {"for": person})


def test_of_several_the_least_used_is_served(ask, Content, store):
    first = ask()
    second = store(fingerprint=first.fingerprint)
    assert [ask(never).id for _ in range(2)] == [second.id, first.id]


def test_what_has_expired_is_generated_anew(ask, Content):
    old = ask()
    Content.update(expires_at=datetime.now(UTC) - HOUR).execute()
    new = ask(lambda content: {"new": True})
    assert new != old
    assert new.generated_data == {"new": True}


def test_what_was_asked_for_before_is_claimed(ask, Content, user):
    pending = Content.request(user, "lesson", {"number": 0}, topics=["food"])
    made = ask()
    assert (made, made.attempts, made.topics) == (pending, 1, ["food"])


def test_others_wait_and_are_served_the_same(ask, elsewhere, Content):
    with generating(ask, elsewhere) as first:
        waiting = [elsewhere(ask, never) for _ in range(8)]
    made = first.result()
    assert {future.result(timeout=30) for future in waiting} == {made}
    assert Content.get_by_id(made.id).usage_count == 8
    assert Content.select().count() == 1


def test_those_who_waited_are_served_even_what_expires_at_once(ask, elsewhere, someone_waits):
    with generating(ask, elsewhere, expires_in=0.001) as first:
        waiting = elsewhere(ask, never)
        assert someone_waits.wait(timeout=30)
    assert waiting.result(timeout=30) == first.result()


def test_the_wait_can_be_over(ask, elsewhere):
    with generating(ask, elsewhere) as first:
        for wait in (0, 0.02, timedelta(milliseconds=30)):
            began = time.monotonic()
            with pytest.raises(aicontent.InProgressError, match="still being generated") as caught:
                ask(never, wait=wait)
            assert caught.value.waited <= time.monotonic() - began
    assert caught.value.id == first.result().id


def test_what_generate_raises_reaches_its_caller_and_the_waiters_learn_it(
    ask, elsewhere, Content, someone_waits
):
    error = RuntimeError("the key is hunter2")
    with generating(ask, elsewhere, error) as first:
        waiting = elsewhere(ask, never)
        assert someone_waits.wait(timeout=30)
    with pytest.raises(RuntimeError) as caught:
        first.result()
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    with pytest.raises(aicontent.GenerationFailedError, match="RuntimeError") as told:
        waiting.result(timeout=30)
    (row,) = Content.select()
    assert row.status is ContentStatus.FAILED
    assert row.metadata == {"lastFailure": {"reason": "RuntimeError", "attempt": 1}}
    assert (told.value.id, told.value.reason) == (row.id, "RuntimeError")
    assert ask().generated_data == MADE  # whoever asks later tries anew


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interruption_fails_the_row(ask, Content, error):
    def generate(content):
        raise error

    with pytest.raises(type(error)):
        ask(generate)
    assert Content.get().status is ContentStatus.FAILED


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (None, "generated_data"),
        ("text", "generated_data"),
        ((MADE,), "generated_data"),
        ((MADE, None), "generated_data"),
        ((MADE, {}, {}), "generated_data"),
        ({"n": float("inf")}, "generated_data.n"),
        ((MADE, {"tokens": 3}), "tokens"),
        ((MADE, {"token_usage": -3}), "token_usage"),
        ((MADE, {3: 3}), "generated_data"),
    ],
)
def test_what_is_no_document_fails_the_row(ask, Content, made, field):
    with pytest.raises(aicontent.ValidationError) as caught:
        ask(lambda content: made)
    assert caught.value.field == field
    row = Content.get()
    assert row.status is ContentStatus.FAILED
    assert row.metadata["lastFailure"]["reason"] == str(caught.value)
    assert row.generated_data is None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"wait": -1}, "wait"),
        ({"wait": None}, "wait"),
        ({"wait": "1"}, "wait"),
        ({"lease": 0}, "lease"),
        ({"expires_in": 0}, "expires_in"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"level": "intermediate"}, "level"),
        ({"generate": MADE}, "generate"),
        ({"number": float("nan")}, "request_payload.number"),
    ],
)
def test_mistakes_cost_nothing(ask, Content, options, field):
    with pytest.raises(aicontent.ValidationError) as caught:
        ask(**{"generate": never, **options})
    assert caught.value.field == field
    assert Content.select().count() == 0


def test_an_unknown_user_costs_nothing(Content):
    with pytest.raises(aicontent.UnknownUserError):
        Content.get_or_generate(999, "lesson", {}, never)


def test_within_a_transaction_it_is_refused(ask, database):
    with database.atomic(), pytest.raises(aicontent.OpenTransactionError, match=r"outside atomic"):
        ask(never)


def test_no_transaction_is_open_while_it_generates(ask, database, Content, elsewhere):
    def generate(content):
        assert not database.in_transaction()
        row = Content.get_by_id(content.id)  # committed: others see it
        assert elsewhere(Content.get_by_id, content.id).result(timeout=30) == row
        # Nothing is locked: others write, and this row's lease can be extended.
        elsewhere(ask, number=1).result(timeout=30)
        content.extend_lease(HOUR)
        return MADE

    ask(generate)


def pooled(url):
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        return PooledSqliteDatabase(
            path, max_connections=1, pragmas={"foreign_keys": 1}, check_same_thread=False
        )
    return PooledPostgresqlDatabase(url, max_connections=1)


def test_no_connection_is_taken_from_a_pool_while_it_generates_or_waits(url, user):
    database = pooled(url)
    Content = aicontent.for_database(database)  # noqa: N806

    def generate(content):
        assert database.is_closed()
        with database.connection_context():  # the only one of the pool
            assert Content.get_by_id(content.id).status is ContentStatus.GENERATING
        return MADE

    assert database.is_closed()
    Content.get_or_generate(user, "lesson", {}, generate)
    assert database.is_closed()
    with database.connection_context():
        Content.get_or_generate(user, "lesson", {"kept": "open"}, lambda content: MADE)
        assert not database.is_closed()
    database.close_all()


def test_a_waiter_takes_over_from_one_who_was_lost(ask, Content, user):
    lost = Content.request(user, "lesson", {"number": 0})
    assert Content.claim(lease=0.05) == lost
    made = ask(wait=30)
    assert (made, made.attempts, made.generated_data) == (lost, 2, MADE)
    assert made.metadata == {"lastFailure": {"reason": "the lease ran out", "attempt": 1}}


def test_one_whose_attempts_are_used_up_fails_and_the_next_call_begins_anew(ask, Content, user):
    lost = Content.request(user, "lesson", {"number": 0})
    Content.claim(lease=0.001)
    with pytest.raises(aicontent.GenerationFailedError, match="the lease ran out"):
        ask(never, wait=30, max_attempts=1)
    assert Content.get_by_id(lost.id).status is ContentStatus.FAILED
    assert ask() != lost


def test_who_took_too_long_is_told_and_overwrites_nothing(ask, Content, user):
    def too_long(content):
        while Content.rescue_stale().requeued == 0:
            pass
        assert Content.claim() == content  # by another
        return {"late": True}

    with pytest.raises(aicontent.LeaseLostError, match="at attempt 2"):
        ask(too_long, lease=0.01)
    (row,) = Content.select()
    assert (row.status, row.generated_data) == (ContentStatus.GENERATING, None)


def test_who_took_too_long_is_served_what_another_made_meanwhile(ask, Content):
    def too_long(content):
        while Content.rescue_stale().requeued == 0:
            pass
        Content.claim().complete({"good": True})
        return {"late": True}

    assert ask(too_long, lease=0.01).generated_data == {"good": True}


def test_serve_stale_rather_than_wait(ask, elsewhere, Content, user, store):
    old = ask()
    older = store(fingerprint=old.fingerprint, expires_at=datetime.now(UTC) - 2 * HOUR)
    Content.update(expires_at=datetime.now(UTC) - HOUR).where(Content.id == old.id).execute()
    with generating(ask, elsewhere, {"new": True}) as first:
        served = ask(never, serve_stale=True)
        assert (served, served.usage_count) == (old, 1)
        with pytest.raises(aicontent.InProgressError):
            ask(never, wait=0)
    assert first.result().generated_data == {"new": True}
    assert ask(never, serve_stale=True) == first.result()
    assert Content.get_by_id(older.id).usage_count == 0


def test_serve_stale_waits_where_nothing_is_stale(ask, elsewhere):
    with generating(ask, elsewhere), pytest.raises(aicontent.InProgressError):
        ask(never, serve_stale=True, wait=0)


def test_a_row_that_is_gone_is_begun_anew(ask, elsewhere, Content, someone_waits):
    with generating(ask, elsewhere) as first:
        waiting = elsewhere(ask, lambda content: {"anew": True})
        assert someone_waits.wait(timeout=30)
        Content.delete().execute()
        assert waiting.result(timeout=30).generated_data == {"anew": True}
    assert first.result().generated_data == {"anew": True}


def test_the_generator_runs_once_however_many_threads_ask(ask, elsewhere, Content):
    ran = []
    together = threading.Barrier(16)

    def generate(content):
        ran.append(content.request_payload["number"])
        return MADE

    def call():
        together.wait()
        return [ask(generate, number) for number in range(20)]

    results = [future.result(timeout=60) for future in [elsewhere(call) for _ in range(16)]]
    assert sorted(ran) == list(range(20))
    assert all(result == results[0] for result in results)
    assert Content.select().count() == 20
