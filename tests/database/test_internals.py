"""Peewee's undocumented interfaces still work as the package assumes."""

from __future__ import annotations

from pathlib import Path

import peewee
import pytest
from playhouse import pool

from aicontent.database import internals
from helpers import plain


@pytest.fixture
def pooled(url):
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        made = pool.PooledSqliteDatabase(path, max_connections=1)
    else:
        prefers = {"prefer_psycopg3": url.startswith("postgresql+psycopg:")}
        made = pool.PooledPostgresqlDatabase(plain(url), max_connections=1, **prefers)
    yield made
    made.close_all()


def test_every_internal_has_a_test():
    source = Path(__file__).read_text("utf-8")
    for name in internals.__all__:
        assert f"internals.{name}" in source, name


def test_a_model_is_told_of_a_row_that_is_loaded():
    seen = []

    class Note(peewee.Model):
        text = peewee.TextField(default="x")

        def __init__(self, **values):
            seen.append(internals.is_loaded(values))
            super().__init__(**values)

    database = peewee.SqliteDatabase(":memory:")
    Note.bind(database)
    database.create_tables([Note])
    Note.create()
    Note.get()
    assert seen == [False, True]
    assert internals.is_loaded(internals.LOADED)
    assert Note(**internals.LOADED).__data__ == {}
    database.close()


def test_a_relation_that_was_stored_later(Content):
    user = Content.user.rel_model()
    content = Content(user=user)
    user.save(force_insert=True)
    values = internals.data_with_relations(content)
    assert values["user"] == user.id


def test_contexts_survive_a_new_connection(database):
    assert not internals.has_contexts(database)
    with database.connection_context():
        assert internals.has_contexts(database)
        with internals.keeping_contexts(database):
            database.close()
            database.connect()
        assert internals.has_contexts(database)
    assert not internals.has_contexts(database)
    assert database.is_closed()


def test_a_thread_counts_as_within_a_context(database):
    database.close()
    with internals.within_context(database):
        assert internals.has_contexts(database)
        assert database.is_closed()
    assert not internals.has_contexts(database)


def test_a_connection_that_is_discarded_goes_to_no_pool(pooled):
    with pooled.connection_context():
        first = pooled.connection()
        internals.discard(pooled)
        assert pooled.is_closed()
        assert internals.has_contexts(pooled)
        with internals.keeping_contexts(pooled):
            pooled.connect()
        assert pooled.connection() is not first


def test_a_connection_beside_the_pool(pooled, database):
    assert internals.is_pooled(pooled)
    assert not internals.is_pooled(database)
    assert internals.pool_size(pooled) == pooled._max_connections
    assert internals.pool_size(database) is None
    for each in (pooled, database):
        connection = internals.new_connection(each)
        connection.cursor().execute("SELECT 1")
        connection.close()
    pooled.connect()
    (first,) = pooled.execute_sql("SELECT 1").fetchone()
    assert first == 1
    pooled.close()
    with internals.using_connection(pooled, internals.new_connection(pooled)):
        assert pooled.execute_sql("SELECT 1").fetchone() == (1,)
    assert pooled.is_closed()
    pooled.connect()
    pooled.close()


def test_a_pool_that_is_in_use(pooled):
    pooled.connect()
    with pytest.raises(pool.MaxConnectionsExceeded) as caught:
        pooled._connect()
    assert internals.is_pool_exhausted(caught.value)
    assert not internals.is_pool_exhausted(ValueError())
    pooled.close()


def test_errors_of_a_driver_become_peewees(database):
    with pytest.raises(peewee.DatabaseError), internals.driver_errors:
        database.cursor().execute("SELECT nothing FROM nowhere")


def test_what_the_driver_is(database, kind, url):
    types = internals.json_types(database)
    assert len(types) == (0 if kind == "sqlite" else 2)
    if kind == "postgresql":
        assert internals.uses_psycopg3(database) is url.startswith("postgresql+psycopg:")


def test_a_callback_of_a_proxy_is_attached_once():
    proxy, seen = peewee.DatabaseProxy(), []
    for _ in range(2):
        internals.attach_once(proxy, seen.append)
    proxy.initialize("a database")
    assert seen == ["a database"]
