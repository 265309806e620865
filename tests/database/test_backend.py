"""The contract of a backend: each operation means the same on every database."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import peewee
import pytest

import aicontent
from aicontent.database.availability import connected
from aicontent.database.backend import Backend
from aicontent.database.bulk_load import BulkInsert
from aicontent.database.supported import (
    backend_named,
    backend_of,
    database_of,
    known_backend,
    resolved,
)
from aicontent.table import TABLE

MOMENT = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def backend(database):
    return backend_of(database)


def value_of(database, expression):
    """Compute one expression in the database."""
    query = peewee.Select([], [expression]).bind(database)
    return database.execute_sql(*query.sql()).fetchone()[0]


def as_moment(value):
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value.astimezone(UTC)


def test_each_kind_has_a_backend_of_its_name(database, backend, kind):
    assert backend.name == kind.split("-")[0]
    assert backend_named(backend.name) is backend
    proxy = peewee.DatabaseProxy()
    proxy.initialize(database)
    assert resolved(proxy) is database


def test_other_databases_are_refused():
    other = peewee.MySQLDatabase("x")
    assert known_backend(other) is None
    assert known_backend(None) is None
    for wrong in (other, None, "sqlite:///x.db", peewee.DatabaseProxy()):
        with pytest.raises(aicontent.UnsupportedDatabaseError, match="SqliteDatabase or Postgre"):
            backend_of(wrong)
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="database.init"):
        resolved(peewee.SqliteDatabase(None))
    unbound = type("Unbound", (peewee.Model,), {})
    with pytest.raises(aicontent.NotBoundError, match="aicontent.bind"):
        database_of(unbound)


def test_every_operation_is_implemented():
    for name in ("sqlite", "postgresql"):
        backend = backend_named(name)
        assert not type(backend).__abstractmethods__
        for declared in Backend.__annotations__:
            assert getattr(backend, declared) is not None, declared


def test_the_clocks_tell_the_same_time(database, backend):
    one = as_moment(value_of(database, backend.clock()))
    other = as_moment(value_of(database, backend.statement_clock()))
    assert abs(one - other) < timedelta(minutes=1)
    later = as_moment(value_of(database, backend.clock_after(3600)))
    assert timedelta(minutes=59) < later - other < timedelta(minutes=61)


def test_a_long_transaction_does_not_hold_the_statement_clock_back(database, backend):
    with database.atomic():
        first = as_moment(value_of(database, backend.statement_clock()))
        while as_moment(value_of(database, backend.statement_clock())) == first:
            pass


def test_in_transaction(database, backend):
    database.close()
    assert backend.in_transaction(database) is False
    database.connect()
    assert backend.in_transaction(database) is False
    with database.atomic():
        database.execute_sql("INSERT INTO users (id) VALUES (1)")
        assert backend.in_transaction(database) is True
    assert backend.in_transaction(database) is False
    database.execute_sql("BEGIN")  # Peewee does not know of this transaction
    assert backend.in_transaction(database) is True
    database.execute_sql("ROLLBACK")


def test_a_failed_statement_leaves_the_transaction_usable(database, backend):
    database.execute_sql("INSERT INTO users (id) VALUES (1)")
    with database.atomic():
        with pytest.raises(peewee.IntegrityError), backend.statement_savepoint(database):
            database.execute_sql("INSERT INTO users (id) VALUES (1)")
        database.execute_sql("INSERT INTO users (id) VALUES (2)")
    assert database.execute_sql("SELECT count(*) FROM users").fetchone()[0] == 2


def test_a_snapshot_sees_one_moment_and_blocks_no_writer(database, backend, url):
    count = "SELECT count(*) FROM users"
    other = aicontent.connect(url)
    with backend.snapshot(database):
        assert database.execute_sql(count).fetchone()[0] == 0
        other.execute_sql("INSERT INTO users (id) VALUES (1)")
        assert database.execute_sql(count).fetchone()[0] == 0
    assert database.execute_sql(count).fetchone()[0] == 1
    other.close()


def test_one_migrator_at_a_time(database, backend, url):
    other = aicontent.connect(url, timeout=0.1)
    with (
        backend.migration_lock(database, 1.0),
        pytest.raises(peewee.OperationalError),
        backend.migration_lock(other, 0.1),
    ):
        pass
    other.close()
    with connected(database), backend.migration_lock(database, 0.1):
        assert database.in_transaction()


def test_an_array_is_one_parameter(database, backend, store, Content):
    stored = [store() for _ in range(3)]
    wanted = [stored[0].id, stored[2].id]
    chosen = Content.select().where(backend.any_of(Content.id, wanted))
    assert len(chosen.sql()[1]) == 1
    assert {content.id for content in chosen} == set(wanted)
    assert list(Content.select().where(backend.any_of(Content.id, []))) == []
    sql = f"SELECT each.value FROM {backend.array_rows('integer')} ORDER BY 1"
    rows = database.execute_sql(sql, (backend.array([3, 1, 2]),)).fetchall()
    assert [value for (value,) in rows] == [1, 2, 3]


def test_locked_rows_are_passed_over(database, backend, store, Content, url):
    store(), store()
    other = aicontent.connect(url)
    with database.atomic():
        mine = list(backend.locking(Content.select().order_by(Content.id).limit(1)))
        with other.connection_context():
            theirs = aicontent.for_database(other)
            free = backend.skipping_locked(theirs.select().order_by(theirs.id))
            ids = [content.id for content in free]
    # SQLite has no row locks, and its one writer does not block readers.
    locks_rows = backend.name == "postgresql"
    assert len(ids) == (1 if locks_rows else 2)
    assert (mine[0].id in ids) is not locks_rows


def test_bytes_are_the_order_of_texts(backend, store, Content):
    names = ["a", "B", "Z", "b", "é", "_"]
    for name in names:
        store(id=name)
    ordered = Content.select(Content.id).order_by(backend.bytewise(Content.id))
    assert [content.id for content in ordered] == sorted(names, key=str.encode)


@pytest.mark.parametrize("before", [None, {"kept": 1}, {"note": "old", "kept": [1]}])
def test_an_entry_is_added_to_a_document(backend, store, Content, before):
    content = store(metadata=before)
    entries = {"reason": peewee.Cast("why", "text"), "attempt": Content.attempts}
    Content.update(metadata=backend.with_entry(Content.metadata, "note", entries)).execute()
    assert Content.get_by_id(content.id).metadata == {
        **(before or {}),
        "note": {"reason": "why", "attempt": 0},
    }


def test_an_entry_replaces_what_is_no_object(database, backend, store, Content):
    content = store()
    database.execute_sql(f"UPDATE {TABLE} SET metadata = '[1]'")
    Content.update(metadata=backend.with_entry(Content.metadata, "n", {"a": 1})).execute()
    assert Content.get_by_id(content.id).metadata == {"n": {"a": 1}}


def test_times_and_documents_as_text(database, backend, store, Content):
    content = store(expires_at=MOMENT, metadata={"a": [1, "é"]})
    columns = (backend.utc_text(Content.expires_at), backend.document_text(Content.metadata))
    sql, values = Content.select(*columns).where(Content.id == content.id).sql()
    time, document = database.execute_sql(sql, values).fetchone()
    assert time == "2026-05-01 12:00:00.123456"
    assert document.replace(" ", "") == '{"a":[1,"é"]}'
    for given in (backend.time_text(MOMENT), backend.time_parameter(MOMENT)):
        database.execute_sql(f'UPDATE {TABLE} SET "expiresAt" = {mark(backend)}', (given,))
        assert Content.get_by_id(content.id).expires_at == MOMENT


def mark(backend):
    return "?" if backend.name == "sqlite" else "%s"


def test_a_stream_reads_in_batches(database, backend):
    database.execute_sql("INSERT INTO users (id) VALUES (1), (2), (3), (4), (5)")
    with database.atomic():
        stream = backend.stream(database, "SELECT id FROM users ORDER BY id", (), 2)
        assert list(stream) == [[1, 2], [3, 4], [5]]


def test_a_loader_inserts_rows(database, backend):
    sign = mark(backend)
    insert = BulkInsert(
        '"users"', ["id"], [], 'INSERT INTO "users" ("id") VALUES ', f"({sign})", ""
    )
    loader = backend.loader(database, insert)
    with database.atomic():
        assert loader.load([[1], [2]])
    with pytest.raises(peewee.IntegrityError), database.atomic():
        loader.load([[3], [2], [4]])
    assert loader.position == (1 if backend.name == "sqlite" else None)
    assert database.execute_sql("SELECT count(*) FROM users").fetchone()[0] == 2


def test_the_next_identity_follows_the_largest(database, backend, Content):
    database.execute_sql("INSERT INTO users (id) VALUES (41)")
    with database.atomic():
        backend.advance_identity(database, "users")
    assert Content.user.rel_model.create().id == 42


def test_settings_for_bulk_writing_are_restored(database, backend):
    with connected(database):
        with backend.bulk_settings(database):
            database.execute_sql("INSERT INTO users (id) VALUES (1)")
        assert not backend.in_transaction(database)
    assert database.execute_sql("SELECT count(*) FROM users").fetchone()[0] == 1


def test_relations(database, backend):
    database.execute_sql("CREATE VIEW seen AS SELECT id FROM users")
    users = backend.catalog(database).relation("users", anywhere=True)
    assert (users.kind, users.is_minimal, users.unique) == ("table", True, {"id"})
    assert backend.user_id_type(users.columns["id"]).lower() == "integer"
    assert backend.user_id_type("numeric") is None
    assert backend.catalog(database).relation("seen").kind == "view"
    assert backend.catalog(database).relation("nothing") is None
    definitions = backend.catalog(database).definitions(TABLE)
    assert {"column id", "index idx_ai_content_status"} <= definitions.keys()
    assert backend.catalog(database).orphans(TABLE) == 0


def test_totals_and_sizes(database, backend, store):
    store(token_usage=10, usage_count=3, generation_time_ms=500)
    largest = store(generated_data={"text": "x" * 100})
    store(status="pending", generated_data=None, created_at=MOMENT)
    totals = backend.catalog(database).totals(TABLE, 1)
    sums = {row[:2]: row[2:] for row in totals.sums}
    assert sums["lesson", "completed"] == (2, 3, 10, 30, 500, 1500)
    assert sums["lesson", "pending"] == (1, 0, 0, 0, 0, 0)
    assert [id for id, _ in totals.largest] == [largest.id]
    assert as_moment(totals.oldest_pending) == MOMENT
    size, free = backend.catalog(database).sizes(TABLE)
    assert size > free >= 0


@pytest.mark.parametrize("has_moved", [False, True])
def test_a_row_that_is_deleted_must_fulfil_the_rule(database, backend, store, Content, has_moved):
    """The rule also protects a row that has moved to another physical location."""
    one, other = store(level="A1"), store(level="A2")
    deletion = backend.deletion(Content, Content.level == "A1")
    found = Content.select(Content.id, *deletion.location).tuples()
    places = {id: place for id, *place in found}
    assert len(sorted(places.values(), key=deletion.storage_order)) == 2
    if has_moved:
        places = {one.id: places[other.id], other.id: places[one.id]}
    deleted = deletion.delete({**places, "gone": places[one.id]})
    assert deleted[:3] == (1, set(), set())
    assert deleted.seconds >= 0
    assert list(Content.select()) == [other]


def test_a_pace_sees_other_writers(database, backend, url):
    with backend.pace(database) as pace:
        other = aicontent.connect(url)
        other.execute_sql("INSERT INTO users (id) VALUES (1)")
        assert pace.sees_others()
        pace.write_back()
        other.close()


def test_the_servers_time_is_none_or_aware(database, backend):
    time = backend.catalog(database).server_time()
    assert time is None or abs(time - datetime.now(UTC)) < timedelta(hours=1)


def test_threads_share_a_backend(database, backend):
    """A backend has no state: each thread has its own connection."""
    results = []

    def look():
        with database.connection_context():
            results.append(backend.in_transaction(database))

    with database.atomic():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert results == [False]
