"""get_or_generate() while the database is locked, out of connections, or drops a connection."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
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
"""The default document of `get_or_generate`."""


def never(content):
    raise AssertionError("there was no need to generate")


def test_within_a_transaction_it_is_refused(get_or_generate, database):
    with database.atomic(), pytest.raises(aicontent.OpenTransactionError, match=r"outside atomic"):
        get_or_generate(never)
    database.execute_sql("BEGIN")  # Peewee does not know of this transaction
    with pytest.raises(aicontent.OpenTransactionError):
        get_or_generate(never)
    database.execute_sql("ROLLBACK")
    assert get_or_generate().generated_data == MADE


def test_no_transaction_is_open_while_it_generates(get_or_generate, database, Content, elsewhere):
    def generate(content):
        assert not database.in_transaction()
        row = Content.get_by_id(content.id)  # the claim is committed
        assert elsewhere(Content.get_by_id, content.id).result(timeout=30) == row
        # Other callers can write, and this caller can extend its lease.
        elsewhere(get_or_generate, number=1).result(timeout=30)
        content.extend_lease(HOUR)
        return MADE

    get_or_generate(generate)


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
        with database.connection_context():  # the pool's only connection
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


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite locks no rows
def test_a_stale_row_that_someone_has_locked_is_waited_for_in_peace(
    get_or_generate, Content, user, database, elsewhere
):
    Content.request(user, "lesson", {"number": 0})
    Content.claim()
    Content.update(lease_expires_at=datetime.now(UTC) - HOUR).execute()
    statements = []
    with database.atomic():
        list(Content.select().for_update())
        with on_statement(statements.append):
            waiting = elsewhere(get_or_generate, never, wait=0.3)
            with pytest.raises(aicontent.InProgressError):
                waiting.result(timeout=30)
    assert len(statements) < 100


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("end", ["claim", "complete"])
def test_what_is_not_committed_keeps_nobody_longer_than_the_wait(
    get_or_generate, Content, user, database, elsewhere, end
):
    Content.request(user, "lesson", {"number": 0})
    content = Content.claim() if end == "complete" else None
    with database.atomic():
        content = content or Content.claim()
        if end == "complete":
            content.complete(MADE)
        with pytest.raises(aicontent.InProgressError):
            elsewhere(get_or_generate, never, wait=0.1).result(timeout=30)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_what_was_paid_for_outlives_the_connection(get_or_generate, database, elsewhere):
    """The server closes the caller's open connection while the caller generates."""
    pid = database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]

    def generate(content):
        kill = f"SELECT pg_terminate_backend({pid}, 5000)"
        elsewhere(database.execute_sql, kill).result(timeout=30)
        return MADE

    content = get_or_generate(generate)
    assert content.generated_data == MADE
    assert content.status is ContentStatus.COMPLETED
    assert not database.is_closed()
    assert get_or_generate(never) == content


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_failure_is_stored_although_the_connection_was_lost(
    get_or_generate, Content, database, elsewhere
):
    """The server closes the caller's open connection before the call fails."""
    (pid,) = database.execute_sql("SELECT pg_backend_pid()").fetchone()
    error = RuntimeError("no answer")

    def generate(content):
        kill = f"SELECT pg_terminate_backend({pid}, 5000)"
        elsewhere(database.execute_sql, kill).result(timeout=30)
        raise error

    with pytest.raises(RuntimeError) as caught:
        get_or_generate(generate)
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    row = elsewhere(Content.get).result(timeout=30)
    assert row.status is ContentStatus.FAILED
    assert row.metadata["lastFailure"] == {"reason": "RuntimeError", "attempt": 1}
    assert get_or_generate().generated_data == MADE


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_completion_whose_answer_was_lost_counts(get_or_generate, Content, database, elsewhere):
    """The retry finds that the same attempt has already completed the row."""
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
        content = get_or_generate()
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


def test_what_cannot_be_stored_is_told_and_no_error_hides_another(url, user, monkeypatch):
    """Another thread holds the pool's only connection when generate() ends."""
    monkeypatch.setattr(aicontent.generation.attempt, "STORE_FOR", 1.0)
    database = pooled(url)
    Content = aicontent.for_database(database)  # noqa: N806
    with ThreadPoolExecutor(1) as pool:

        def hog(content):
            pool.submit(database.connect).result(timeout=30)
            raise RuntimeError("no answer")

        with pytest.raises(RuntimeError, match="no answer") as caught:
            Content.get_or_generate(user, "lesson", {}, hog)
        assert "could not be given up" in caught.value.__notes__[0]
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

        with pytest.raises(aicontent.ContentNotStoredError) as caught:
            Content.get_or_generate(user, "lesson", {"n": 3}, hold_on, lease=0.1)
        assert isinstance(caught.value.__cause__, MaxConnectionsExceeded)
        assert caught.value.generated == MADE
        pool.submit(database.close).result(timeout=30)
    database.close_all()


def test_a_read_only_replica_serves_hits_that_are_not_marked(url, user, get_or_generate, Content):
    made = get_or_generate()
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        replica = peewee.SqliteDatabase(
            f"file:{path}?mode=ro", uri=True, pragmas={"foreign_keys": 1}
        )
    else:
        options = {"options": "-c default_transaction_read_only=on"}
        prefers = {"prefer_psycopg3": url.startswith("postgresql+psycopg:")}
        replica = peewee.PostgresqlDatabase(plain(url), **options, **prefers)
    model = aicontent.for_database(replica)
    served = model.get_or_generate(user, "lesson", {"number": 0}, never, mark=False)
    assert (served.id, served.served) == (made.id, "stored")
    assert model.first_reusable(user, "lesson").id == made.id
    for call in (
        lambda: model.get_or_generate(user, "lesson", {"number": 0}, never),
        lambda: model.get_or_generate(user, "lesson", {"number": 1}, never, mark=False),
    ):
        with pytest.raises(peewee.DatabaseError, match=r"read-?only"):
            call()
    replica.close()
    assert Content.get_by_id(made.id).usage_count == 0


def test_callers_wait_for_a_pool_in_use(url, user):
    database = pooled(url)
    Content = aicontent.for_database(database)  # noqa: N806
    database.close()
    held, ends = threading.Event(), threading.Event()

    def hold():
        with database.connection_context():
            held.set()
            assert ends.wait(timeout=30)

    def generate(content):
        return MADE

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(hold)
        assert held.wait(timeout=30)
        with pytest.raises(MaxConnectionsExceeded):
            Content.get_or_generate(user, "lesson", {}, generate, wait=0)
        asking = pool.submit(Content.get_or_generate, user, "lesson", {}, generate)
        ends.set()
        holding.result(timeout=30)
        assert asking.result(timeout=30).generated_data == MADE
    database.close_all()
