"""get_or_generate(): reuse a row, or generate it once, or wait for the caller that generates."""

from __future__ import annotations

import threading
import time
from asyncio import CancelledError
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import peewee
import pytest

import aicontent
from aicontent import ContentStatus
from aicontent.records.partitioning import is_partitioned
from helpers import on_statement

HOUR = timedelta(hours=1)
MADE = {"title": "En la cafetería"}
"""The default document of `get_or_generate`."""


def never(content):
    raise AssertionError("there was no need to generate")


@contextmanager
def generating(get_or_generate, elsewhere, outcome=MADE, **options):
    """Generate in another thread until the block ends; then return or raise the outcome."""
    started, go_on = threading.Event(), threading.Event()

    def generate(content):
        started.set()
        assert go_on.wait(timeout=30)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    running = elsewhere(get_or_generate, generate, **options)
    assert started.wait(timeout=30)
    try:
        yield running
    finally:
        go_on.set()


@pytest.fixture
def someone_waits():
    """Return an event that is set when a caller looks at another caller's row."""
    waits = threading.Event()
    with on_statement(lambda statement: "is_stale" in statement[0] and waits.set()):
        yield waits


async def later(content):
    return MADE


def several(content):
    yield MADE


class Later:
    async def __call__(self, content):
        return MADE


def test_generate_then_reuse(get_or_generate, Content, user):
    seen = []

    def generate(content):
        seen.append(content)
        assert content.status is ContentStatus.GENERATING
        assert content.request_payload == {"number": 0}
        assert (content.user_id, content.type, content.level) == (user, "lesson", "A2")
        return MADE

    made = get_or_generate(generate, level="A2")
    assert made.status is ContentStatus.COMPLETED
    assert (made.generated_data, made.usage_count, made.attempts) == (MADE, 0, 1)
    assert made.generation_time_ms >= 0
    assert made.expires_at is None
    assert Content.get_by_id(made.id).generated_data == MADE

    again = get_or_generate(never, level="A2")
    assert (again, again.usage_count) == (made, 1)
    assert len(seen) == 1
    assert Content.select().count() == 1


def test_the_document_with_its_costs(get_or_generate, Content):
    costs = {"token_usage": 812, "model_used": "example-1", "generation_time_ms": 5}
    content = get_or_generate(lambda content: (MADE, costs), expires_in=HOUR, variant="v1")
    stored = Content.get_by_id(content.id)
    assert {name: getattr(stored, name) for name in costs} == costs
    assert stored.expires_at - datetime.now(UTC) > HOUR * 0.9
    assert stored.metadata == {"variant": "v1"}


def test_one_user_is_never_served_anothers(Content, user):
    other = Content.user.rel_model.create().id
    for person in (user, other):
        made = Content.get_or_generate(person, "lesson", {}, lambda c: {"for": c.user_id})
        assert (made.user_id, made.generated_data) == (person, {"for": person})


def test_of_several_the_newest_is_served(get_or_generate, Content, store):
    first = get_or_generate()
    second = store(fingerprint=first.fingerprint)
    assert [get_or_generate(never).id for _ in range(2)] == [second.id, second.id]
    assert Content.reuse(first.user_id, "lesson") == first  # reuse() serves the least used row


def test_what_has_expired_is_generated_anew(get_or_generate, Content):
    old = get_or_generate()
    Content.update(expires_at=datetime.now(UTC) - HOUR).execute()
    new = get_or_generate(lambda content: {"new": True})
    assert new != old
    assert new.generated_data == {"new": True}


def test_what_was_asked_for_before_is_claimed(get_or_generate, Content, user):
    pending = Content.request(user, "lesson", {"number": 0}, topics=["food"])
    made = get_or_generate()
    assert (made, made.attempts, made.topics) == (pending, 1, ["food"])


def test_a_request_that_was_queued_outlives_the_failure_of_a_caller(get_or_generate, ask, Content):
    """A caller that fails uses one attempt of the queued request, and leaves workers the rest."""

    def fails(content):
        raise TimeoutError("429")

    asked = ask()
    for failures in range(1, 4):
        with pytest.raises(TimeoutError):
            get_or_generate(fails)
        row = Content.get_by_id(asked.id)
        assert (row.status, row.failures) == ("pending" if failures < 3 else "failed", failures)
        assert (row.retry_at is None) is (failures == 3)
    assert get_or_generate() != asked


def test_a_request_that_joins_at_the_last_moment_outlives_a_failure(
    get_or_generate, elsewhere, ask, Content
):
    joined = []

    def join(statement):
        if statement[0].startswith("UPDATE") and "lastFailure" in str(statement) and not joined:
            joined.append(None)
            joined[0] = elsewhere(ask).result(timeout=30)

    def fails(content):
        raise TimeoutError("429")

    with on_statement(join), pytest.raises(TimeoutError):
        get_or_generate(fails)
    row = Content.get_by_id(joined[0].id)
    assert (row.status, row.failures, row.queued) == ("pending", 1, True)
    assert row.retry_at is not None


def test_a_request_that_joins_a_caller_outlives_its_failure_too(
    get_or_generate, elsewhere, ask, Content
):
    with generating(get_or_generate, elsewhere, RuntimeError("no")) as first:
        asked = ask()
        assert Content.claim() is None
    with pytest.raises(RuntimeError):
        first.result()
    assert Content.get_by_id(asked.id).status is ContentStatus.PENDING


def test_who_waits_for_a_retry_takes_it_over_when_it_is_due(
    get_or_generate, elsewhere, ask, Content, someone_waits
):
    ask()
    with generating(get_or_generate, elsewhere, RuntimeError("no")) as first:
        waiting = elsewhere(get_or_generate)
        assert someone_waits.wait(timeout=30)
    with pytest.raises(RuntimeError):
        first.result()
    assert waiting.result(timeout=30).generated_data == MADE
    assert Content.get().attempts == 2


def test_refresh_generates_anew_and_the_newest_is_served(get_or_generate, Content):
    old = get_or_generate(lambda content: {"v": 1})
    new = get_or_generate(lambda content: {"v": 2}, refresh=True)
    assert (new.served, new.generated_data) == ("generated", {"v": 2})
    assert [get_or_generate(never).id for _ in range(5)] == [new.id] * 5
    assert Content.get_by_id(old.id).usage_count == 0
    with pytest.raises(RuntimeError):
        get_or_generate(raises, refresh=True)
    assert get_or_generate(raises, refresh=True, serve_stale=True) == new
    assert get_or_generate(never) == new


def raises(content):
    raise RuntimeError("no")


def test_refreshing_callers_generate_once(get_or_generate, elsewhere, Content, someone_waits):
    get_or_generate()
    with generating(get_or_generate, elsewhere, {"v": 2}, refresh=True) as first:
        waiting = elsewhere(get_or_generate, never, refresh=True)
        assert someone_waits.wait(timeout=30)
    assert waiting.result(timeout=30) == first.result()
    assert waiting.result().served == "waited"
    assert Content.select().count() == 2


def test_a_refresh_that_is_pending_serves_what_is_stale(get_or_generate, ask, Content):
    old = get_or_generate()
    Content.update(expires_at=datetime.now(UTC) - HOUR).execute()
    asked = ask()
    served = get_or_generate(never, serve_stale=True)
    assert (served, served.served) == (old, "stale")
    assert Content.get_by_id(asked.id).status is ContentStatus.PENDING
    assert get_or_generate().id == asked.id  # without serve_stale, the call generates


def test_how_content_was_served(get_or_generate, elsewhere, Content, someone_waits):
    with generating(get_or_generate, elsewhere) as first:
        waiting = elsewhere(get_or_generate, never)
        assert someone_waits.wait(timeout=30)
    assert first.result().served is aicontent.Served.GENERATED
    assert waiting.result(timeout=30).served is aicontent.Served.WAITED
    assert get_or_generate(never).served is aicontent.Served.STORED
    assert Content.get().served is None
    assert not first.result().is_dirty()


def test_a_hit_without_a_mark_writes_nothing(get_or_generate, Content):
    made = get_or_generate()
    statements = []
    with on_statement(statements.append):
        served = get_or_generate(never, mark=False)
    assert (served, served.usage_count, served.last_accessed_at) == (made, 0, None)
    assert [sql.split()[0] for sql, _ in statements] == ["SELECT"]


def test_how_many_statements_are_sent(get_or_generate, Content):
    """A hit sends one statement, and a call that generates sends at most four.

    The first call of a process also checks whether the table is partitioned.
    """
    is_partitioned(Content)
    for most in (4, 1):
        statements = []
        with on_statement(statements.append):
            get_or_generate()
        to_the_table = [sql for sql, _ in statements if "ai_generated_content" in sql]
        assert len(to_the_table) <= most, to_the_table
        assert len(statements) == len(to_the_table)


def test_others_wait_and_are_served_the_same(get_or_generate, elsewhere, Content):
    with generating(get_or_generate, elsewhere) as first:
        waiting = [elsewhere(get_or_generate, never) for _ in range(8)]
    made = first.result()
    assert {future.result(timeout=30) for future in waiting} == {made}
    assert Content.get_by_id(made.id).usage_count == 8


def test_a_waiting_caller_is_served_content_that_expires_at_once(
    get_or_generate, elsewhere, someone_waits
):
    # The row has expired before the next statement, on either database's clock.
    with generating(get_or_generate, elsewhere, expires_in=0.000_001) as first:
        waiting = elsewhere(get_or_generate, never)
        assert someone_waits.wait(timeout=30)
    assert waiting.result(timeout=30) == first.result()


def test_the_wait_can_be_over(get_or_generate, elsewhere):
    with generating(get_or_generate, elsewhere) as first:
        for wait in (0, 0.02, timedelta(milliseconds=30)):
            began = time.monotonic()
            with pytest.raises(aicontent.InProgressError, match="still being generated") as caught:
                get_or_generate(never, wait=wait)
            assert caught.value.waited <= time.monotonic() - began
    assert caught.value.id == first.result().id


def test_what_generate_raises_reaches_its_caller_and_the_waiters_learn_it(
    get_or_generate, elsewhere, Content, someone_waits
):
    error = RuntimeError("the key is hunter2")
    with generating(get_or_generate, elsewhere, error) as first:
        waiting = elsewhere(get_or_generate, never)
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
    assert get_or_generate().generated_data == MADE  # a later caller generates again


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), CancelledError()]
)
def test_an_interruption_releases_the_row(get_or_generate, elsewhere, Content, error):
    """A waiting caller takes the row over at its next look, and no failure is counted."""
    with generating(get_or_generate, elsewhere, error) as first:
        waiting = elsewhere(get_or_generate)
    with pytest.raises(type(error)):
        first.result()
    made = waiting.result(timeout=30)
    assert (made.generated_data, made.failures, made.attempts) == (MADE, 0, 2)
    assert Content.select().count() == 1


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
    ({"generate": partial(later)}, "generate"),
    ({"generate": Later()}, "generate"),
    ({"generate": several}, "generate"),
    ({"refresh": 1}, "refresh"),
    ({"mark": None}, "mark"),
    ({"serve_stale": "yes"}, "serve_stale"),
    ({"number": float("nan")}, "request_payload.number"),
]


def test_mistakes_cost_nothing(get_or_generate, Content):
    for options, field in MISTAKES_COST_NOTHING:
        with pytest.raises(aicontent.ValidationError) as caught:
            get_or_generate(**{"generate": never, **options})
        assert caught.value.field == field
        assert Content.select().count() == 0


@pytest.mark.parametrize("wrong", [str, float, bool, lambda user: [user], lambda user: None])
def test_what_is_no_user_is_served_nothing(get_or_generate, Content, user, wrong):
    """A wrong value must not match the user that the database would cast it to."""
    assert get_or_generate().user_id == user == 1
    with pytest.raises(aicontent.ValidationError) as caught:
        Content.get_or_generate(wrong(user), "lesson", {"number": 0}, never)
    assert caught.value.field == "user"
    with pytest.raises(aicontent.ValidationError):
        Content.request(wrong(user), "lesson", {"number": 0})


def test_an_unknown_user_costs_nothing(Content):
    with pytest.raises(aicontent.UnknownUserError):
        Content.get_or_generate(999, "lesson", {}, never)


def test_a_waiter_takes_over_from_one_who_was_lost(get_or_generate, Content, user):
    lost = Content.request(user, "lesson", {"number": 0})
    assert Content.claim(lease=0.05) == lost
    made = get_or_generate(wait=30)
    assert (made, made.attempts, made.generated_data) == (lost, 2, MADE)
    assert made.metadata == {"lastFailure": {"reason": "the lease ran out", "attempt": 1}}


def test_a_row_without_attempts_left_fails_and_the_next_call_generates_another(
    get_or_generate, Content, user
):
    lost = Content.request(user, "lesson", {"number": 0})
    Content.claim(lease=0.001)
    with pytest.raises(aicontent.GenerationFailedError, match="the lease ran out"):
        get_or_generate(never, wait=30, max_attempts=1)
    assert Content.get_by_id(lost.id).status is ContentStatus.FAILED
    assert get_or_generate() != lost


def test_the_first_finished_answer_wins(get_or_generate, Content, user):
    others = []

    def too_long(content):
        while Content.rescue_stale().requeued == 0:
            pass
        others.append(Content.claim())
        return {"late": True}

    assert get_or_generate(too_long, lease=0.01).generated_data == {"late": True}
    with pytest.raises(aicontent.LeaseLostError, match="the row is now completed, at attempt 2"):
        others[0].complete({"later": True})
    (row,) = Content.select()
    assert (row.status, row.generated_data) == (ContentStatus.COMPLETED, {"late": True})


def test_who_took_too_long_is_served_what_another_made_meanwhile(get_or_generate, Content):
    def too_long(content):
        while Content.rescue_stale().requeued == 0:
            pass
        Content.claim().complete({"good": True})
        return {"late": True}

    assert get_or_generate(too_long, lease=0.01).generated_data == {"good": True}


def test_serve_stale_rather_than_wait(get_or_generate, elsewhere, Content, user, store):
    old = get_or_generate()
    older = store(fingerprint=old.fingerprint, expires_at=datetime.now(UTC) - 2 * HOUR)
    Content.update(expires_at=datetime.now(UTC) - HOUR).where(Content.id == old.id).execute()
    with generating(get_or_generate, elsewhere, {"new": True}) as first:
        served = get_or_generate(never, serve_stale=True)
        assert (served, served.usage_count, served.served) == (older, 1, "stale")
        with pytest.raises(aicontent.InProgressError):
            get_or_generate(never, wait=0)
    assert first.result().generated_data == {"new": True}
    assert get_or_generate(never, serve_stale=True) == first.result()
    assert Content.get_by_id(old.id).usage_count == 0


@pytest.mark.parametrize("status", ["cached", "pending", "generating"])
def test_every_wait_ends(get_or_generate, ask, Content, status):
    """The wait ends even if another program keeps the row from being generated."""
    content = ask()
    Content.claim()
    late = datetime(2099, 1, 1, tzinfo=UTC)
    changes = {"lease_expires_at": None, "retry_at": late, "status": status}
    Content.update(**changes).where(Content.id == content.id).execute()

    if status == "cached":
        assert get_or_generate(wait=0.2) != content
    elif status == "pending":  # the first caller does not wait for the retry
        assert get_or_generate(wait=0.2) == content
    else:
        with pytest.raises(aicontent.InProgressError):
            get_or_generate(never, wait=0.05)


def test_serve_stale_waits_where_nothing_is_stale(get_or_generate, elsewhere):
    with generating(get_or_generate, elsewhere), pytest.raises(aicontent.InProgressError):
        get_or_generate(never, serve_stale=True, wait=0)


def test_a_row_that_is_gone_is_begun_anew(get_or_generate, elsewhere, Content, someone_waits):
    with generating(get_or_generate, elsewhere) as first:
        waiting = elsewhere(get_or_generate, lambda content: {"anew": True})
        assert someone_waits.wait(timeout=30)
        Content.delete().execute()
        assert waiting.result(timeout=30).generated_data == {"anew": True}
    assert first.result().generated_data == MADE  # stored as a new row
    assert Content.select().where(Content.status == "completed").count() == 2


def test_the_generator_runs_once_however_many_threads_ask(get_or_generate, elsewhere, Content):
    ran = []
    together = threading.Barrier(16)

    def generate(content):
        ran.append(content.request_payload["number"])
        return MADE

    def call():
        together.wait()
        return [get_or_generate(generate, number) for number in range(20)]

    results = [future.result(timeout=60) for future in [elsewhere(call) for _ in range(16)]]
    assert sorted(ran) == list(range(20))
    assert all(result == results[0] for result in results)
    assert Content.select().where(Content.status == "completed").count() == 20


@pytest.mark.parametrize("moment", ["before the insert", "after the insert"])
def test_what_someone_else_has_just_made_is_served(
    get_or_generate, Content, store, elsewhere, moment
):
    """The first look found the row neither in flight nor completed."""
    fingerprint = aicontent.fingerprint("lesson", {"number": 0})
    statements, made = [], []

    def just_before(statement):
        statements.append(statement[0])
        last = statements[-1 if moment == "before the insert" else -2 :][0]
        if last.startswith("INSERT") and not made:
            made.append(None)
            made[0] = elsewhere(store, fingerprint=fingerprint).result(timeout=30)

    with on_statement(just_before):
        content = get_or_generate(never)
    assert (content, content.served) == (made[0], "stored")
    own = list(Content.select().where(Content.id != content.id))
    assert [row.status for row in own] == ([] if moment == "before the insert" else ["failed"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, peewee.OperationalError])
def test_an_error_between_the_claim_and_generate_fails_the_row(get_or_generate, Content, error):
    entered = []

    def interrupt(statement):
        if entered == ["INSERT"]:
            entered.append("raised")
            raise error
        if "INSERT" in statement[0]:
            entered.append("INSERT")

    with on_statement(interrupt), pytest.raises(error):
        get_or_generate(never)
    assert Content.get().status == ("pending" if error is KeyboardInterrupt else "failed")
    assert get_or_generate().generated_data == MADE


def test_the_callers_payload_is_the_callers(Content, user):
    payload = {"words": ["one"]}

    def generate(content):
        content.request_payload["words"].append("two")
        return MADE

    Content.get_or_generate(user, "lesson", payload, generate)
    assert payload == {"words": ["one"]}
    Content.get_or_generate(user, "lesson", payload, never)


def test_anothers_lost_lease_is_not_ones_own(get_or_generate, Content):
    def generate(content):
        raise aicontent.LeaseLostError("another", 1, "the row was deleted")

    with pytest.raises(aicontent.LeaseLostError, match="another"):
        get_or_generate(generate)
    assert Content.get().status is ContentStatus.FAILED
