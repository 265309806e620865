"""get_or_generate: reuse, else generate once, else wait for whoever generates."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import peewee
import pytest
from playhouse.pool import (
    MaxConnectionsExceeded,
    PooledPostgresqlDatabase,
    PooledSqliteDatabase,
)

import aicontent
from aicontent import ContentStatus
from helpers import on_statement, plain

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


async def later(content):
    return MADE


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


WHAT_IS_NO_DOCUMENT_FAILS_THE_ROW = [
    (None, "generated_data"),
    ("text", "generated_data"),
    ((MADE,), "generated_data"),
    ((MADE, None), "generated_data"),
    ((MADE, {}, {}), "generated_data"),
    ({"n": float("inf")}, "generated_data.n"),
    ((MADE, {"tokens": 3}), "tokens"),
    ((MADE, {"token_usage": -3}), "token_usage"),
    ((MADE, {3: 3}), "generated_data"),
    ((MADE, {"generated_data": {}}), "generated_data"),
    ((MADE, {"self": 1}), "self"),
]


def test_what_is_no_document_fails_the_row(ask, Content):
    for made, field in WHAT_IS_NO_DOCUMENT_FAILS_THE_ROW:
        with pytest.raises(aicontent.ValidationError) as caught:
            ask(lambda content, made=made: made)
        assert caught.value.field == field
        row = Content.get()
        assert row.status is ContentStatus.FAILED
        assert row.metadata["lastFailure"]["reason"] == str(caught.value)
        assert row.generated_data is None
        Content.delete().execute()


MISTAKES_COST_NOTHING = [
    ({"wait": -1}, "wait"),
    ({"wait": None}, "wait"),
    ({"wait": "1"}, "wait"),
    ({"lease": 0}, "lease"),
    ({"expires_in": 0}, "expires_in"),
    ({"max_attempts": 0}, "max_attempts"),
    ({"level": "intermediate"}, "level"),
    ({"generate": MADE}, "generate"),
    ({"generate": later}, "generate"),
    ({"serve_stale": "yes"}, "serve_stale"),
    ({"number": float("nan")}, "request_payload.number"),
]


def test_mistakes_cost_nothing(ask, Content):
    for options, field in MISTAKES_COST_NOTHING:
        with pytest.raises(aicontent.ValidationError) as caught:
            ask(**{"generate": never, **options})
        assert caught.value.field == field
        assert Content.select().count() == 0


@pytest.mark.parametrize("wrong", [str, float, bool, lambda user: [user], lambda user: None])
def test_what_is_no_user_is_served_nothing(ask, Content, user, wrong):
    """Least of all what was made for a user whom the database takes it for."""
    assert ask().user_id == user == 1
    with pytest.raises(aicontent.ValidationError) as caught:
        Content.get_or_generate(wrong(user), "lesson", {"number": 0}, never)
    assert caught.value.field == "user"
    with pytest.raises(aicontent.ValidationError):
        Content.request(wrong(user), "lesson", {"number": 0})


def test_an_unknown_user_costs_nothing(Content):
    with pytest.raises(aicontent.UnknownUserError):
        Content.get_or_generate(999, "lesson", {}, never)


def test_within_a_transaction_it_is_refused(ask, database):
    with database.atomic(), pytest.raises(aicontent.OpenTransactionError, match=r"outside atomic"):
        ask(never)
    database.execute_sql("BEGIN")  # of which Peewee knows nothing
    with pytest.raises(aicontent.OpenTransactionError):
        ask(never)
    database.execute_sql("ROLLBACK")
    assert ask().generated_data == MADE


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
    prefers = {"prefer_psycopg3": url.startswith("postgresql+psycopg:")}
    return PooledPostgresqlDatabase(plain(url), max_connections=1, **prefers)


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
    extended = {"lease": "extended"}
    Content.get_or_generate(user, "lesson", extended, lambda content: content.extend_lease() or {})
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
    assert Content.select().where(Content.status == "completed").count() == 20


def test_what_someone_else_has_just_made_is_served(ask, Content, store, elsewhere):
    """It was neither in flight nor completed at any look, and both before this row is there."""
    fingerprint = aicontent.fingerprint("lesson", {"number": 0})
    made = []

    def just_before(statement):
        if "INSERT" in statement[0] and not made:
            made.append(None)
            made[0] = elsewhere(store, fingerprint=fingerprint).result(timeout=30)

    with on_statement(just_before):
        content = ask(never)
    assert content == made[0]
    (own,) = Content.select().where(Content.id != content.id)
    assert own.status is ContentStatus.FAILED
    assert own.metadata["lastFailure"]["reason"] == "another caller had just completed it"


@pytest.mark.parametrize("error", [KeyboardInterrupt, peewee.OperationalError])
def test_an_error_between_the_claim_and_generating_leaves_nothing_behind(ask, Content, error):
    entered = []

    def interrupt(statement):
        if entered == ["INSERT"]:
            entered.append("raised")
            raise error
        if "INSERT" in statement[0]:
            entered.append("INSERT")

    with on_statement(interrupt), pytest.raises(error):
        ask(never)
    assert Content.get().status is ContentStatus.FAILED
    assert ask().generated_data == MADE


def test_the_callers_payload_is_the_callers(Content, user):
    payload = {"words": ["one"]}

    def generate(content):
        content.request_payload["words"].append("two")
        return MADE

    Content.get_or_generate(user, "lesson", payload, generate)
    assert payload == {"words": ["one"]}
    Content.get_or_generate(user, "lesson", payload, never)


def test_anothers_lost_lease_is_not_ones_own(ask, Content):
    def generate(content):
        raise aicontent.LeaseLostError("another", 1, "it was deleted")

    with pytest.raises(aicontent.LeaseLostError, match="another"):
        ask(generate)
    assert Content.get().status is ContentStatus.FAILED


# What the database does meanwhile


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite locks no rows
def test_a_stale_row_that_someone_has_locked_is_waited_for_in_peace(
    ask, Content, user, database, elsewhere
):
    Content.request(user, "lesson", {"number": 0})
    Content.claim(lease=0.001)
    statements = []
    with database.atomic():
        list(Content.select().for_update())
        with on_statement(statements.append):
            waiting = elsewhere(ask, never, wait=0.3)
            with pytest.raises(aicontent.InProgressError):
                waiting.result(timeout=30)
    assert len(statements) < 100


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("end", ["claim", "complete"])
def test_what_is_not_committed_keeps_nobody_longer_than_the_wait(
    ask, Content, user, database, elsewhere, end
):
    Content.request(user, "lesson", {"number": 0})
    content = Content.claim() if end == "complete" else None
    with database.atomic():
        content = content or Content.claim()
        if end == "complete":
            content.complete(MADE)
        with pytest.raises(aicontent.InProgressError):
            elsewhere(ask, never, wait=0.1).result(timeout=30)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_what_was_paid_for_outlives_the_connection(ask, database, elsewhere):
    """The server closes it while the caller, who has it open, generates."""
    pid = database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]

    def generate(content):
        kill = f"SELECT pg_terminate_backend({pid}, 5000)"
        elsewhere(database.execute_sql, kill).result(timeout=30)
        return MADE

    content = ask(generate)
    assert content.generated_data == MADE
    assert content.status is ContentStatus.COMPLETED
    assert not database.is_closed()
    assert ask(never) == content


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_completion_whose_answer_was_lost_counts(ask, Content, database, elsewhere):
    """The second try finds the row completed, by this very attempt."""
    (pid,) = database.execute_sql("SELECT pg_backend_pid()").fetchone()
    tries = []

    def lose(statement):
        if "generatedData" in statement[0].partition("WHERE")[0] and "SET" in statement[0]:
            tries.append(statement)
            if len(tries) == 1:
                other = Content.get(Content.status == "generating")
                elsewhere(other.complete, MADE, expires_in=HOUR).result(timeout=30)
                kill = f"SELECT pg_terminate_backend({pid}, 5000)"
                elsewhere(database.execute_sql, kill).result(timeout=30)

    with on_statement(lose):
        content = ask()
    assert (content.status, content.generated_data) == (ContentStatus.COMPLETED, MADE)
    assert content.expires_at is not None
    assert not content.is_dirty()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_what_was_paid_for_outlives_a_lock(url, user):
    database = aicontent.connect(url, timeout=0.01)
    Content = aicontent.for_database(database)  # noqa: N806
    other = aicontent.connect(url)
    tries = []

    def generate(content):
        other.begin()
        return MADE

    def release(statement):
        if "SET" in statement[0] and "generatedData" in statement[0].partition("WHERE")[0]:
            tries.append(statement)
            if len(tries) == 3:
                other.rollback()

    with on_statement(release):
        content = Content.get_or_generate(user, "lesson", {}, generate)
    assert len(tries) == 3
    assert Content.get_by_id(content.id).generated_data == MADE
    database.close()
    other.close()


def test_what_cannot_be_stored_is_told_and_no_error_hides_another(url, user):
    """The one connection of a pool is in use when generate ends."""
    database = pooled(url)
    Content = aicontent.for_database(database)  # noqa: N806
    with ThreadPoolExecutor(1) as pool:

        def hog(content):
            pool.submit(database.connect).result(timeout=30)
            raise RuntimeError("no answer")

        with pytest.raises(RuntimeError, match="no answer") as caught:
            Content.get_or_generate(user, "lesson", {}, hog)
        assert "could not be marked failed" in caught.value.__notes__[0]
        pool.submit(database.close).result(timeout=30)

        def hold(content):
            pool.submit(database.connect).result(timeout=30)
            threading.Timer(0.1, lambda: pool.submit(database.close)).start()
            return MADE

        made = Content.get_or_generate(user, "lesson", {"n": 2}, hold)
        assert made.generated_data == MADE

        def hold_on(content):
            pool.submit(database.connect).result(timeout=30)
            return MADE

        with pytest.raises(MaxConnectionsExceeded):
            Content.get_or_generate(user, "lesson", {"n": 3}, hold_on, lease=0.1)
        pool.submit(database.close).result(timeout=30)
    database.close_all()
