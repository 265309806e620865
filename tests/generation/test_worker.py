"""work(): claim rows, generate and store until the queue is empty or `stop` returns true."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from playhouse.pool import PooledPostgresqlDatabase, PooledSqliteDatabase

import aicontent
from aicontent import ContentStatus, WorkReport
from helpers import plain

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MADE = {"title": "En la cafetería"}


def made(content):
    return MADE


def never(content):
    raise AssertionError("there was nothing to generate")


def fail(content):
    raise RuntimeError("the key is hunter2")


async def later(content):
    return MADE


def several(content):
    yield MADE


class Later:
    async def __call__(self, content):
        return MADE


@pytest.fixture
def work(Content):
    """Work until the queue is empty."""

    def work(generate=made, **options):
        return Content.work(generate, **{"until_empty": True, **options})

    return work


def make_due(Content):
    """Make every row that waits for a retry due."""
    Content.update(retry_at=NOW).where(Content.retry_at.is_null(False)).execute()


def test_until_the_queue_is_empty(work, ask, Content):
    contents = [ask(number) for number in range(5)]
    seen = []

    def generate(content):
        seen.append(content)
        assert content.status is ContentStatus.GENERATING
        return {"number": content.request_payload["number"]}, {"token_usage": 812}

    assert work(generate, expires_in=HOUR) == WorkReport(completed=5)
    assert seen == contents
    for number, row in enumerate(Content.select().order_by(Content.created_at, Content.id)):
        assert (row.status, row.generated_data) == (ContentStatus.COMPLETED, {"number": number})
        assert (row.attempts, row.failures, row.token_usage) == (1, 0, 812)
        assert row.generation_time_ms >= 0
        assert row.expires_at - datetime.now(UTC) > HOUR * 0.9
        assert row.max_attempts is None
    assert work(never) == WorkReport()


def test_what_is_not_pending_is_left(work, ask, Content):
    ask(0)
    held = Content.claim()
    ask(1, expires_at=NOW)
    assert work(never) == WorkReport()
    held.complete({})


def test_types(work, Content, user):
    for kind in ("lesson", "vocabulary_drill", "cultural_content"):
        Content.request(user, kind, {})
    assert work(types="lesson") == WorkReport(completed=1)
    assert work(types=["vocabulary_drill", "lesson"]) == WorkReport(completed=1)
    assert Content.claim().type == "cultural_content"


def test_stop(ask, Content):
    """The worker calls `stop` before each claim."""
    for number in range(5):
        ask(number)
    answers = iter([False, False, True])
    assert Content.work(made, stop=lambda: next(answers)) == WorkReport(completed=2)
    assert Content.work(never, stop=lambda: True) == WorkReport()
    assert Content.work(never, stop=lambda: True, until_empty=True) == WorkReport()
    assert Content.select().where(Content.status == "pending").count() == 3


def test_stop_while_there_is_nothing_to_do(Content, elsewhere):
    asked, told = threading.Event(), threading.Event()
    working = elsewhere(Content.work, never, stop=lambda: asked.set() or told.is_set())
    assert asked.wait(timeout=30)
    told.set()
    assert working.result(timeout=30) == WorkReport()


def test_what_comes_in_while_it_waits(Content, ask, elsewhere):
    """Without until_empty, the worker waits for new rows."""
    entered = []

    def enter():
        if len(entered) < 2:
            entered.append(elsewhere(ask, len(entered)).result(timeout=30))
        return Content.select().where(Content.status == "completed").count() == 2

    assert elsewhere(Content.work, made, stop=enter).result(timeout=60) == WorkReport(completed=2)


def test_progress(work, ask):
    for number in range(3):
        ask(number)

    def generate(content):
        return fail(content) if content.request_payload["number"] == 1 else MADE

    reports = []
    report = work(generate, max_attempts=1, progress=reports.append)
    assert reports == [WorkReport(1), WorkReport(1, 1), WorkReport(2, 1)]
    assert report == reports[-1]


@pytest.mark.parametrize("returned", ["an error", "no document"])
def test_a_failure_is_retried_later_and_in_the_end_fails(work, ask, Content, caplog, returned):
    content = ask()
    generate = fail if returned == "an error" else lambda content: ["hunter2"]
    stopping = []
    until_one = {"stop": lambda: bool(stopping), "progress": stopping.append}
    for failures in (1, 2):
        assert work(generate, **until_one) == WorkReport(retried=1)
        stopping.clear()
        row = Content.get()
        assert (row.status, row.failures, row.attempts) == (
            ContentStatus.PENDING,
            failures,
            failures,
        )
        waits = row.retry_at - row.updated_at
        assert timedelta(seconds=0.9 * failures) <= waits <= timedelta(seconds=1.6 * failures)
        assert Content.claim() is None  # no row is due before that time
        make_due(Content)
    assert work(generate) == WorkReport(failed=1)
    row = Content.get()
    assert (row.id, row.status, row.failures) == (content.id, ContentStatus.FAILED, 3)
    assert row.metadata["lastFailure"]["attempt"] == 3
    assert "hunter2" not in str(row.metadata) + caplog.text
    assert caplog.text.count(f"error {row.id}: ") == 3


def test_until_empty_waits_for_what_is_to_be_retried(work, ask, Content):
    ask()
    tries = []

    def generate(content):
        tries.append(content.attempts)
        return fail(content) if len(tries) == 1 else MADE

    assert work(generate, stop=lambda: make_due(Content)) == WorkReport(completed=1, retried=1)
    assert tries == [1, 2]


def test_max_attempts(work, ask, Content):
    ask(0)
    assert work(fail, max_attempts=1) == WorkReport(failed=1)
    ask(1, max_attempts=2)  # a request may allow more attempts
    assert work(fail, max_attempts=1, stop=lambda: make_due(Content)) == WorkReport(0, 1, 1)
    assert Content.select().where(Content.status == "failed").count() == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_an_interruption_releases_the_row_and_is_raised(ask, Content, error):
    ask()

    def interrupt(content):
        raise error

    with pytest.raises(type(error)) as caught:
        Content.work(interrupt)
    assert caught.value is error
    row = Content.get()
    assert (row.status, row.failures, row.retry_at) == (ContentStatus.PENDING, 0, None)
    assert Content.claim() == row


def test_progress_tells_what_was_released(ask, Content):
    ask()
    reports = []

    def interrupt(content):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Content.work(interrupt, progress=reports.append)
    assert reports == [WorkReport(released=1)]


def test_several_share_a_queue(Content, ask, elsewhere):
    for number in range(60):
        ask(number)
    ran, together = [], threading.Barrier(4)

    def generate(content):
        ran.append(content.id)
        return MADE

    def work():
        together.wait(timeout=30)
        return Content.work(generate, until_empty=True)

    reports = [each.result(timeout=60) for each in [elsewhere(work) for _ in range(4)]]
    assert sum(report.completed for report in reports) == 60
    assert len(ran) == len(set(ran)) == 60
    assert {(row.status, row.attempts) for row in Content.select()} == {("completed", 1)}


def test_within_a_transaction_it_is_refused(work, ask, Content, database):
    ask()
    with database.atomic(), pytest.raises(aicontent.OpenTransactionError, match="outside atomic"):
        work(never)
    database.execute_sql("BEGIN")  # Peewee does not know of this transaction
    with pytest.raises(aicontent.OpenTransactionError):
        work(never)
    database.execute_sql("ROLLBACK")
    assert Content.get().attempts == 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"generate": later}, "generate"),
        ({"generate": partial(later)}, "generate"),
        ({"generate": Later()}, "generate"),
        ({"generate": several}, "generate"),
        ({"generate": MADE}, "generate"),
        ({"types": []}, "types"),
        ({"types": "quiz"}, "type"),
        ({"lease": 0}, "lease"),
        ({"lease": "60"}, "lease"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -HOUR}, "expires_in"),
        ({"until_empty": 1}, "until_empty"),
        ({"until_empty": None}, "until_empty"),
    ],
    ids=range(15),
)
def test_mistakes_cost_nothing(work, ask, Content, arguments, field):
    ask()
    with pytest.raises(aicontent.ValidationError) as caught:
        work(**{"generate": never, **arguments})
    assert caught.value.field == field
    assert Content.get().attempts == 0


def test_a_row_that_another_completes_meanwhile(work, ask, Content):
    ask()

    def generate(content):
        Content.get_by_id(content.id).complete({"first": True})
        return MADE

    assert work(generate) == WorkReport(completed=1)
    row = Content.get()
    assert (row.status, row.generated_data) == (ContentStatus.COMPLETED, {"first": True})


def test_a_row_that_is_deleted_meanwhile(work, ask, Content):
    content = ask()
    assert work(lambda row: row.delete_instance() and MADE) == WorkReport(completed=1)
    assert Content.get().id == content.id
    assert Content.get().generated_data == MADE


def test_a_transaction_that_generate_leaves_open(work, ask, Content, database, caplog):
    for number in range(2):
        ask(number)

    def generate(content):
        database.begin()
        return MADE

    assert work(generate) == WorkReport(completed=2)
    assert not database.in_transaction()
    assert {row.status for row in Content.select()} == {"completed"}
    assert caplog.text.count("OpenTransactionError") == 2


def test_a_cost_that_cannot_be_stored(work, ask, Content):
    ask()
    assert work(lambda content: (MADE, {"model_used": "x" * 101})) == WorkReport(completed=1)
    assert list(Content.get().metadata["refused"]) == ["model_used"]


def test_the_row_of_a_worker_that_was_lost(work, ask, Content):
    ask()
    Content.claim()
    Content.update(lease_expires_at=NOW).execute()
    assert work() == WorkReport(completed=1)
    row = Content.get()
    assert (row.attempts, row.failures, row.generated_data) == (2, 1, MADE)
    assert row.metadata["lastFailure"]["reason"] == "the lease ran out"


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_row_that_cannot_be_read_stops_nobody(work, ask, Content, database, kind, max_attempts):
    if kind == "sqlite":
        aicontent.configure(database, compress_over=100)
    payloads = {"number": 0, "text": "¿Me trae la cuenta? " * 50}
    first = Content.request(Content.user.rel_model.get(), "lesson", payloads)
    readable = ask(1)
    damaged = {
        "sqlite": 'substr("requestPayload", 1, 20)',
        "postgresql": f"'{{\"number\": {'9' * 5000}}}'",
    }
    table = f'UPDATE ai_generated_content SET "requestPayload" = {damaged[kind.split("-")[0]]}'
    database.execute_sql(f"{table} WHERE id = '{first.id}'")
    done = []
    options = {"stop": lambda: bool(done)} if max_attempts > 1 else {}
    report = work(max_attempts=max_attempts, progress=done.append, **options)
    assert report == WorkReport(completed=1)
    assert Content.get_by_id(readable.id).status is ContentStatus.COMPLETED
    columns = (Content.status, Content.failures, Content.retry_at, Content.metadata)
    (row,) = Content.select(*columns).where(Content.id == first.id)
    assert row.status == ("failed" if max_attempts == 1 else "pending")
    assert (row.failures, row.retry_at is None) == (1, max_attempts == 1)
    assert row.metadata["lastFailure"]["reason"].startswith("the stored request cannot be read")


def test_a_pool_gets_its_connections_back(url, ask):
    """The worker returns the pool's only connection while it generates."""
    for number in range(3):
        ask(number)
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        options = {"pragmas": {"foreign_keys": 1}, "check_same_thread": False}
        pool = PooledSqliteDatabase(path, max_connections=1, **options)
    else:
        prefers = {"prefer_psycopg3": url.startswith("postgresql+psycopg:")}
        pool = PooledPostgresqlDatabase(plain(url), max_connections=1, **prefers)
    content_of_pool = aicontent.for_database(pool)

    def count():
        with pool.connection_context():
            return content_of_pool.select().count()

    def generate(content):
        assert pool.is_closed()
        assert others.submit(count).result(timeout=30) == 3
        return fail(content) if content.request_payload["number"] == 1 else MADE

    with ThreadPoolExecutor(1) as others:
        report = content_of_pool.work(generate, until_empty=True, max_attempts=1)
        assert report == WorkReport(completed=2, failed=1)
        assert pool.is_closed()
        assert others.submit(count).result(timeout=30) == 3
        with pool.connection_context():  # the worker leaves an open connection open
            assert content_of_pool.work(never, until_empty=True) == WorkReport()
            assert not pool.is_closed()
    pool.close_all()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_closes(work, ask, Content, database, elsewhere):
    for number in range(3):
        ask(number)

    def generate(content):
        (pid,) = database.execute_sql("SELECT pg_backend_pid()").fetchone()
        kill = f"SELECT pg_terminate_backend({pid}, 5000)"
        elsewhere(database.execute_sql, kill).result(timeout=30)
        return fail(content) if content.request_payload["number"] == 1 else MADE

    assert work(generate, max_attempts=1) == WorkReport(completed=2, failed=1)
    held = Content.select().where(Content.status == "generating")
    assert elsewhere(held.count).result(timeout=30) == 0


@pytest.mark.parametrize("ends", ["an answer", "a failure", "an interruption"])
def test_a_row_that_cannot_be_given_up_is_counted_nowhere(
    Content, ask, database, kind, url, monkeypatch, caplog, ends
):
    """Another connection holds the row's lock until the worker gives up."""
    for name in ("STORE_FOR", "FAIL_FOR"):
        monkeypatch.setattr(aicontent.generation.attempt, name, 0.1)
    asked = ask()
    other = aicontent.connect(url, timeout=60)

    def generate(content):
        wait = "PRAGMA busy_timeout = 1" if kind == "sqlite" else "SET lock_timeout = 1"
        database.execute_sql(wait)
        other.begin()
        lock = "UPDATE ai_generated_content SET level = level"
        other.execute_sql(lock)
        if ends == "a failure":
            raise RuntimeError("hunter2")
        if ends == "an interruption":
            raise KeyboardInterrupt
        return {"title": "hunter2"}

    reports = []
    kinds = {"an answer": aicontent.ContentNotStoredError, "an interruption": KeyboardInterrupt}
    stops = {"stop": lambda: bool(reports), "progress": reports.append}
    with database.connection_context():
        if ends in kinds:
            with pytest.raises(kinds[ends]) as caught:
                Content.work(generate, **stops)
            notes = caught.value.__notes__
            assert f"content {asked.id} could not be given up: " in notes[-1]
        else:
            assert Content.work(generate, **stops) == WorkReport()
        if ends == "an answer":
            assert asked.id in str(caught.value)
            assert "lock" in str(caught.value)
            assert caught.value.generated == {"title": "hunter2"}
            assert f"unstored {asked.id}: " in caplog.text
    assert reports == [WorkReport()]
    assert "hunter2" not in caplog.text
    other.rollback()
    other.close()
    assert Content.get().status == "generating"
