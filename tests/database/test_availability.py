"""Locked databases, lost connections, exhausted pools, read-only servers and interrupts."""

from __future__ import annotations

from urllib.parse import urlsplit

import peewee
import pytest
from playhouse.pool import PooledPostgresqlDatabase, PooledSqliteDatabase

import aicontent
from aicontent.database.supported import backend_of
from helpers import plain

on_postgresql = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
MADE = {"title": "En la cafetería"}


@pytest.fixture
def close_connections(database, server):
    """Terminate all connections to this test's database on the server."""

    def close():
        name = urlsplit(database.database).path.lstrip("/")
        server._admin.execute_sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            (name or database.database,),
        )

    return close


def pool_of(url, size):
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        options = {"pragmas": {"foreign_keys": 1}, "check_same_thread": False}
        return PooledSqliteDatabase(path, max_connections=size, **options)
    prefers = {"prefer_psycopg3": url.startswith("postgresql+psycopg:")}
    return PooledPostgresqlDatabase(plain(url), max_connections=size, **prefers)


CALLS = {
    "claim": lambda model, user: model.claim(),
    "request": lambda model, user: model.request(user, "lesson", {"n": 2}),
    "reuse": lambda model, user: model.reuse(user, "lesson"),
    "first_reusable": lambda model, user: model.first_reusable(user, "lesson"),
    "get_by_id": lambda model, user: model.get_by_id("done"),
    "rescue_stale": lambda model, user: model.rescue_stale(),
    "get_or_generate": lambda model, user: model.get_or_generate(
        user, "lesson", {"n": 3}, lambda content: MADE
    ),
}


@on_postgresql
@pytest.mark.parametrize("call", CALLS)
def test_a_call_connects_again_when_the_server_has_closed_the_connection(
    Content, database, user, store, close_connections, call
):
    store(id="done")
    Content.request(user, "lesson", {"n": 1})
    close_connections()
    assert CALLS[call](Content, user) is not None
    assert not database.is_closed()
    close_connections()  # the next call loses its connection too
    assert CALLS[call](Content, user) is not None or call == "claim"


ENDS = {
    "complete": lambda content: content.complete(MADE),
    "fail": lambda content: content.fail("no"),
    "release": lambda content: content.release(),
    "extend_lease": lambda content: content.extend_lease(),
}


@on_postgresql
@pytest.mark.parametrize("end", ENDS)
def test_a_claim_is_ended_by_another_connection(Content, user, close_connections, end):
    Content.request(user, "lesson", {})
    content = Content.claim()
    close_connections()
    ENDS[end](content)
    status = {"complete": "completed", "fail": "failed", "release": "pending"}
    assert Content.get_by_id(content.id).status == status.get(end, "generating")


@on_postgresql
@pytest.mark.parametrize("call", ["claim", "request", "reuse"])
def test_within_a_transaction_the_loss_is_told(Content, database, user, close_connections, call):
    """The server has rolled the transaction back, so a retry would lose its first writes."""

    def transaction():
        with database.atomic():
            Content.request(user, "lesson", {"n": 1})
            close_connections()
            CALLS[call](Content, user)

    with pytest.raises(peewee.PeeweeException):
        transaction()
    database.close()
    assert Content.select().count() == 0


@on_postgresql
def test_a_dead_connection_is_no_transaction(Content, database, user, close_connections):
    close_connections()
    with pytest.raises(peewee.DatabaseError):
        database.execute_sql("SELECT 1")
    assert not backend_of(database).in_transaction(database)
    made = Content.get_or_generate(user, "lesson", {}, lambda content: MADE)
    assert made.generated_data == MADE


@on_postgresql
@pytest.mark.parametrize("manager", ["connection_context", "pool"])
def test_the_callers_context_ends_as_if_nothing_had_happened(
    url, database, user, close_connections, manager
):
    own = pool_of(url, 2) if manager == "pool" else aicontent.connect(url)
    model = aicontent.for_database(own)
    own.close()

    def generate(content):
        close_connections()
        return MADE

    for number in range(4):
        with own.connection_context():
            made = model.get_or_generate(user, "lesson", {"n": number}, generate)
            assert made.generated_data == MADE
        assert own.is_closed()
    if manager == "pool":
        assert not own._in_use
        own.close_all()


@on_postgresql
def test_a_server_that_is_read_only_for_a_moment_keeps_the_answer(
    url, user, server, close_connections
):
    """After a failover, a new connection reaches a server that accepts writes."""
    own = aicontent.connect(url)
    model = aicontent.for_database(own)
    name = urlsplit(url).path.lstrip("/")
    read_only = f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'
    tries = []

    def generate(content):
        server._admin.execute_sql(read_only)
        close_connections()
        return MADE

    class Counting(type(own)):
        def _connect(self):
            if server_is_read_only():
                tries.append(None)
                if len(tries) == 2:
                    server._admin.execute_sql(
                        f'ALTER DATABASE "{name}" RESET default_transaction_read_only'
                    )
            return super()._connect()

    def server_is_read_only():
        sql = "SELECT 1 FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
        return server._admin.execute_sql(f"{sql} WHERE d.datname = '{name}'").fetchone()

    own.__class__ = Counting
    made = model.get_or_generate(user, "lesson", {}, generate)
    assert (made.status, made.generated_data) == ("completed", MADE)
    assert len(tries) >= 2
    own.close()


WRITERS = {
    "create_many": lambda database, model, row: model.create_many([row]),
    "import": lambda database, model, row: aicontent.import_lines(
        database, [b'{"id":"x","userId":1,"type":"lesson","requestPayload":{}}']
    ),
    "export": lambda database, model, row: list(aicontent.export_lines(database)),
    "migrate": lambda database, model, row: aicontent.migrate(database),
    "rollback": lambda database, model, row: aicontent.rollback(database),
}


@pytest.mark.parametrize("call", WRITERS)
def test_an_interrupt_while_a_transaction_begins_leaves_none(
    Content, database, user, monkeypatch, call
):
    """In a transaction unknown to Peewee, later rows would be lost without an error."""
    begin = type(database).begin

    def interrupted(*args, **options):
        begin(database, *args, **options)
        raise KeyboardInterrupt

    row = {"user": user, "type": "lesson", "request_payload": {}}
    database.connect(reuse_if_open=True)
    monkeypatch.setattr(database, "begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[call](database, Content, row)
    monkeypatch.undo()
    assert not backend_of(database).in_transaction(database)
    content = Content.create(**row)
    database.close()
    assert Content.get_by_id(content.id) == content


def test_the_error_of_the_block_is_raised_though_the_rollback_fails(database):
    backend = backend_of(database)

    def fail():
        with backend.atomic(database):
            database.execute_sql("ROLLBACK")  # nothing remains to roll back
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not backend.in_transaction(database)
    assert not database.in_transaction()


def test_a_pool_in_use_keeps_no_lease_from_being_renewed(url, user):
    """The renewal opens a connection outside the pool, and closes it afterwards."""
    own = pool_of(url, 1)
    model = aicontent.for_database(own)
    with own.connection_context():

        def generate(content):
            first = model.get_by_id(content.id).lease_expires_at
            while model.get_by_id(content.id).lease_expires_at == first:
                assert len(own._in_use) == 1
            return MADE

        assert model.get_or_generate(user, "lesson", {}, generate, lease=1).served == "generated"
    assert not own._in_use
    own.close_all()
