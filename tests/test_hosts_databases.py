"""Test the databases of hosts: proxies, pools, subclasses, and unsupported ones."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import peewee
import pytest
from playhouse import pool

import aicontent
from aicontent import AIGeneratedContent, UnsupportedDatabaseError, User
from aicontent.table import new_id
from helpers import plain

MADE = {"title": "En la cafetería"}


@pytest.fixture
def unbound():
    """Unbind the package's model after the test."""
    yield
    for model in (AIGeneratedContent, User):
        model.bind(None, bind_refs=False, bind_backrefs=False)


def use(Content):
    """Use every part of a model that depends on the backend."""
    user = Content.user.rel_model.create().id
    made = Content.get_or_generate(user, "lesson", {"n": 1.5}, lambda content: MADE)
    made.validation_score = 0.25
    made.save()
    found = Content.get(Content.id == made.id, Content.validation_score == 0.25)
    assert (found, found.generated_data) == (made, MADE)
    assert found.updated_at.tzinfo is not None
    assert Content.get(Content.generated_data["title"] == MADE["title"]) == made
    assert Content.reuse(user, "lesson") == made
    Content.create_many([{"user": user, "type": "lesson", "request_payload": {}}])
    return made


MAKERS = {
    "bind": lambda proxy: aicontent.bind(proxy) or AIGeneratedContent,
    "for_database": aicontent.for_database,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_proxy(database, kind, make_url, unbound, make, when):
    """The host may initialize the proxy before or after, and again with the other backend."""
    proxy = peewee.DatabaseProxy()
    if when == "before":
        proxy.initialize(database)
    Content = make(proxy)  # noqa: N806
    if when == "after":
        with pytest.raises(aicontent.NotBoundError):
            Content.reuse(1, "lesson")
        proxy.initialize(database)
    made = use(Content)
    other = aicontent.connect(make_url({"sqlite": "postgresql"}.get(kind, "sqlite"), True))
    proxy.initialize(other)
    assert Content.select().count() == 0
    use(Content)
    proxy.initialize(database)
    assert Content.get_by_id(made.id).generated_data == MADE
    other.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_class_of_the_host_on_a_proxy(database, when):
    proxy = peewee.DatabaseProxy()
    if when == "before":
        proxy.initialize(database)
    meta = type("Meta", (), {"database": proxy, "table_name": "ai_generated_content"})
    users = aicontent.for_database(proxy).user.rel_model
    host = type("Host", (AIGeneratedContent,), {"Meta": meta})
    proxy.initialize(database)
    user = users.create().id
    made = host.get_or_generate(user, "lesson", {}, lambda content: MADE)
    assert host.get(host.generated_data["title"] == MADE["title"]) == made


def test_everything_takes_a_proxy(empty):
    proxy = peewee.DatabaseProxy()
    proxy.initialize(empty)
    aicontent.migrate(proxy, create_users=True)
    use(aicontent.for_database(proxy))
    assert aicontent.check(proxy) == []
    assert aicontent.stats(proxy).groups
    exported = list(aicontent.export_lines(proxy))
    assert aicontent.import_lines(proxy, exported, on_conflict="skip").skipped == 2
    aicontent.configure(proxy, max_document_bytes=10**6)
    assert aicontent.rollback(proxy, 99)


def test_a_proxy_of_what_cannot_work(unbound, tmp_path):
    proxy = peewee.DatabaseProxy()
    aicontent.bind(proxy)
    with pytest.raises(UnsupportedDatabaseError, match="foreign keys"):
        proxy.initialize(peewee.SqliteDatabase(tmp_path / "x.db"))
    for call in (aicontent.migrate, aicontent.check, aicontent.stats):
        with pytest.raises(UnsupportedDatabaseError, match="got NoneType"):
            call(peewee.DatabaseProxy())


def pooled(url, **options):
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        return pool.PooledSqliteDatabase(path, pragmas={"foreign_keys": 1}, **options)
    prefers = {"prefer_psycopg3": url.startswith("postgresql+psycopg:")}
    return pool.PooledPostgresqlDatabase(plain(url), **prefers, **options)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_pool_of_one(empty_url, is_open):
    """Inspecting the database takes no connection, and leaves no other thread's in the pool."""
    database = pooled(empty_url, max_connections=1)
    if is_open:
        database.connect()
    aicontent.migrate(database, create_users=True)
    model = aicontent.for_database(database)
    assert database.is_closed() is not is_open
    use(model)
    assert aicontent.check(database) == []
    assert aicontent.stats(database).groups
    assert len(list(aicontent.export_lines(database))) == 2
    database.close()
    with ThreadPoolExecutor(1) as threads:
        if empty_url.startswith("postgresql"):
            content = aicontent.for_database(database)
            assert threads.submit(content.select().count).result(timeout=60) == 2
        threads.submit(database.close).result(timeout=60)
    database.close_all()


def test_classes_of_a_database_are_freed(url):
    database = aicontent.connect(url)
    model = aicontent.for_database(database)
    use(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    database.close()


def test_instances_of_a_class_for_one_database_are_pickled(Content, user):
    content = Content.create(
        user=Content.user.rel_model(id=user), type="lesson", request_payload={}
    )
    content.level = "A2"
    loaded = pickle.loads(pickle.dumps(content))
    assert type(loaded) is AIGeneratedContent
    assert (loaded.id, loaded.user_id, loaded.level) == (content.id, user, "A2")
    assert [field.name for field in loaded.dirty_fields] == ["level"]
    with pytest.raises(aicontent.NotBoundError):
        loaded.save()


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_writes_to_the_database_of_the_original(how, Content, user):
    content = Content.create(user=user, type="lesson", request_payload={"n": 1}, level="A1")
    copied = how(content)
    assert (type(copied), copied, copied.dirty_fields) == (Content, content, [])
    copied.level = "A2"
    copied.save()
    assert (Content.get_by_id(content.id).level, content.level) == ("A2", "A1")
    assert how is copy.copy or copied.request_payload is not content.request_payload


def test_a_copy_keeps_a_user_who_is_not_stored_yet(Content):
    model = Content.user.rel_model
    content = Content(user=model(), type="lesson", request_payload={})
    content.note = threading.Lock()  # an attribute that the host adds
    copied = copy.copy(content)
    assert copied.note is content.note
    del content.note
    for each in (copied, copy.deepcopy(content)):
        each.user.save()
        each.id = new_id()
        each.save()
    assert Content.select().count() == 2


def test_databases_that_cannot_work_are_refused_by_name(monkeypatch):
    for name, base in (
        ("APSWDatabase", peewee.SqliteDatabase),
        ("SqliteQueueDatabase", peewee.SqliteDatabase),
        ("CySqliteDatabase", peewee.SqliteDatabase),
        ("CockroachDatabase", peewee.PostgresqlDatabase),
    ):
        kind = type(name, (base,), {"__module__": "playhouse.of_that_kind"})
        host = type("HostsOwn", (kind,), {})
        for call in (aicontent.bind, aicontent.for_database, aicontent.migrate, aicontent.check):
            with pytest.raises(UnsupportedDatabaseError, match=rf"^an? {name} has .*connect\(\)"):
                call(host("x"))


def test_the_real_queue_database_is_refused(tmp_path):
    from playhouse.sqliteq import SqliteQueueDatabase

    database = SqliteQueueDatabase(tmp_path / "q.db", autostart=False, pragmas={"foreign_keys": 1})
    with pytest.raises(UnsupportedDatabaseError, match="SqliteQueueDatabase has no transactions"):
        aicontent.for_database(database)
