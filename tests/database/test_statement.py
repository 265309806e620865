"""The SQL of the hot paths is built once per binding, with no other visible effect."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import peewee
import pytest

import aicontent
from aicontent.database import statement as statements
from helpers import on_statement

HOT = {
    "create": lambda model, user: model.create(user=user, type="lesson", request_payload={}),
    "first_reusable": lambda model, user: model.first_reusable(user, "lesson"),
    "get_by_id": lambda model, user: model.get_by_id(model.get().id),
    "reuse": lambda model, user: model.reuse(user, "lesson"),
    "reuse_of_a_level": lambda model, user: model.reuse(user, "lesson", "A1"),
    "mark_accessed": lambda model, user: model.get().mark_accessed(),
    "save": lambda model, user: renamed(model.get()).save(),
    "claim": lambda model, user: model.claim(),
    "claim_of_types": lambda model, user: model.claim(["lesson", "vocabulary_drill"]),
    "complete": lambda model, user: model.claim().complete({}, expires_in=60),
    "fail": lambda model, user: model.claim().fail("no"),
}


def renamed(content):
    content.level = "B1" if content.level == "A1" else "A1"
    return content


@pytest.mark.parametrize("name", HOT)
def test_the_same_sql_is_sent_again(store, Content, user, name):
    store(level="A1")
    for number in range(2):
        Content.request(user, "lesson", {"number": number})
    last = []
    for _ in range(2):
        sent = []
        with on_statement(lambda statement, sent=sent: sent.append(statement[0])):
            HOT[name](Content, user)
        last.append(sent[-1])
    assert last[0] is last[1]


def test_a_rebind_begins_anew(make_url, kind):
    """Statements are rebuilt when the class is bound to another database of either kind."""
    other = "postgresql" if kind == "sqlite" else "sqlite"
    databases = [aicontent.connect(make_url(each, True)) for each in (kind, other, kind)]
    model = aicontent.for_database(databases[0])
    users = model.user.rel_model
    for database in [*databases, *databases]:
        for each in (model, users):
            each.bind(database, bind_refs=False, bind_backrefs=False)
        user = users.create()
        content = model.create(user=user, type="lesson", status="completed", request_payload={})
        assert model.reuse(user, "lesson") == content
        assert model.get_by_id(content.id).usage_count == 1
    for database in databases:
        model.bind(database, bind_refs=False, bind_backrefs=False)
        assert model.select().count() == 2
        database.close()


def test_what_comes_back_is_an_ordinary_instance(store, Content, user):
    expires = datetime.now(UTC) + timedelta(hours=1)
    store(metadata={"tags": ["a"]}, expires_at=expires, validation_score=0.1, topics=[1])
    content = Content.reuse(user, "lesson")
    loaded = Content.get(Content.id == content.id)  # with Peewee's own query
    assert content.__data__ == loaded.__data__ == Content.get_by_id(content.id).__data__
    assert content.__data__ == Content.first_reusable(user, "lesson").__data__
    assert {n: type(v) for n, v in content.__data__.items()} == {
        n: type(v) for n, v in loaded.__data__.items()
    }
    assert content.user == Content.user.rel_model.get_by_id(user)
    assert not content.is_dirty()
    content.metadata["tags"].append("b")
    assert [field.name for field in content.dirty_fields] == ["metadata"]
    assert content.save() == 1
    assert Content.get_by_id(content.id).metadata == {"tags": ["a", "b"]}
    content.usage_count = Content.usage_count + 5  # an expression that the caller assigned
    content.save()
    assert Content.get_by_id(content.id).usage_count == content.usage_count == 6
    content.delete_instance()
    assert Content.reuse(user, "lesson") is None


def test_threads_may_be_the_first_together(store, Content, user, database):
    content = store()
    together = threading.Barrier(16)

    def use(_):
        with database.connection_context():
            together.wait()
            for _ in range(10):
                assert Content.reuse(user, "lesson") == content
                content_of_thread = Content.get_by_id(content.id)
                content_of_thread.mark_accessed()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(use, range(16)))
    assert Content.get_by_id(content.id).usage_count == 2 * 160


def test_the_statements_that_are_kept_have_an_end(store, Content, monkeypatch):
    monkeypatch.setattr(statements, "CACHE_SIZE", 3)
    content = store()
    for name in ("token_usage", "usage_count", "estimated_completion_time", "generation_time_ms"):
        setattr(content, name, 1)
        content.save()
    assert Content.get_by_id(content.id).generation_time_ms == 1
    assert len(vars(Content)[statements._CACHE][1]) <= 3


def test_a_subclass_has_statements_of_its_own(store, Content, user):
    class Lesson(Content):
        class Meta:
            database = Content._meta.database
            table_name = Content._meta.table_name

        @property
        def title(self):
            return self.generated_data["title"]

    content = store()
    Content.reuse(user, "lesson")
    lesson = Lesson.reuse(user, "lesson")
    assert (type(lesson), lesson.id, lesson.title) == (Lesson, content.id, "En la cafetería")
    assert type(Content.reuse(user, "lesson")) is Content


def test_the_first_reusable_is_that_of_the_query_and_is_not_marked(store, Content, user):
    store(level="A1", usage_count=2)
    expected = store(level="A2", usage_count=1)
    store(level="A2", usage_count=0, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    for level in (None, "A2", ""):
        first = Content.first_reusable(user, "lesson", level)
        assert first == Content.find_reusable_content(user, "lesson", level).first() == expected
    assert Content.first_reusable(user, "lesson", "A1").usage_count == 2
    assert Content.get_by_id(expected.id).usage_count == 1
    assert Content.first_reusable(user, "lesson", "C2") is None
    later = datetime.now(UTC) - timedelta(days=1)
    assert Content.first_reusable(user, "lesson", now=later).usage_count == 0


def test_an_id_that_is_not_there(store, Content):
    store()
    with pytest.raises(Content.DoesNotExist, match="no row with id 'nothing'"):
        Content.get_by_id("nothing")
    with pytest.raises(Content.DoesNotExist):
        Content.get_by_id(peewee.SQL("'nothing'"))
    with pytest.raises(aicontent.ValidationError, match="NUL"):
        Content.get_by_id("\0")
    assert Content.get_or_none(Content.id == "nothing") is None


def subclass(Content, **namespace):
    """Subclass the model for the same table, as a host would."""
    meta = {"database": Content._meta.database, "table_name": Content._meta.table_name}
    return type("Own", (Content,), {"Meta": type("Meta", (), meta), **namespace})


def test_a_host_that_gives_the_table_another_name(store, Content, user, database):
    content = store()
    assert Content.reuse(user, "lesson") == content
    database.execute_sql("ALTER TABLE ai_generated_content RENAME TO moved")
    Content._meta.set_table_name("moved")
    assert Content.reuse(user, "lesson").usage_count == 2


def test_fields_of_the_hosts_own(store, Content, user, database):
    """A field named like one of our parameters, one with its own conversion, and an expression."""

    class Shouted(peewee.TextField):
        def db_value(self, value):
            return value if value is None else peewee.fn.UPPER(value)

    class Told(peewee.TextField):
        def python_value(self, value):
            return "untold" if value is None else value

    class Tenfold(peewee.IntegerField):
        def adapt(self, value):
            return value * 10

        def db_value(self, value):
            return value

    for column in ("pk", "lease", "shouted", "told"):
        database.execute_sql(f"ALTER TABLE ai_generated_content ADD COLUMN {column} TEXT")
    database.execute_sql("ALTER TABLE ai_generated_content ADD COLUMN tenfold INTEGER")
    own = subclass(
        Content,
        pk=peewee.TextField(null=True),
        lease=peewee.TextField(null=True),
        shouted=Shouted(null=True),
        told=Told(null=True),
        tenfold=Tenfold(default=1),
    )
    made = own.create(
        user=user, type="lesson", request_payload={}, pk="key", lease="long", shouted=None
    )
    another = own.create(user=user, type="lesson", request_payload={}, shouted="loud")
    assert own.get_by_id(another.id).shouted == "LOUD"
    another.shouted = "louder"
    another.save()
    assert own.get_by_id(another.id).shouted == "LOUDER"
    claimed = own.claim(lease=60)
    assert (claimed.id, claimed.pk, claimed.lease) == (made.id, "key", "long")
    assert (claimed.told, claimed.tenfold) == ("untold", 10)
    assert claimed.__data__ == own.get(own.id == made.id).__data__
    claimed.pk = "another"
    claimed.save()
    claimed.complete({})
    assert own.reuse(user, "lesson").pk == "another"


def test_an_init_of_the_hosts_own_is_called(store, Content, user):
    def begin(self, *args, **values):
        self.seen = 0
        super(own, self).__init__(*args, **values)

    own = subclass(Content, __init__=begin)
    content = store()
    for found in (own.reuse(user, "lesson"), own.get_by_id(content.id)):
        assert (found.seen, found.id, found.is_new, found.dirty_fields) == (
            0,
            content.id,
            False,
            [],
        )


def test_a_proxy_that_goes_to_another_kind_of_database(make_url):
    proxy = peewee.DatabaseProxy()
    own = type(
        "Own",
        (aicontent.AIGeneratedContent,),
        {"Meta": type("Meta", (), {"database": proxy, "table_name": "ai_generated_content"})},
    )
    with pytest.raises(aicontent.NotBoundError):
        own.reuse(1, "lesson")
    for kind in ("sqlite", "postgresql", "sqlite"):
        database = aicontent.connect(make_url(kind, True))
        proxy.initialize(database)
        user = aicontent.for_database(database).user.rel_model.create()
        content = own.create(user=user.id, type="lesson", status="completed", request_payload={})
        assert own.reuse(user.id, "lesson") == own.get_by_id(content.id) == content
        database.close()


def test_a_select_of_the_hosts_own_is_asked_each_time(store, Content, user):
    """The host's select() may show each tenant only that tenant's rows."""
    seen = ["lesson"]

    def select(cls, *fields):
        return super(own, cls).select(*fields).where(cls.type == seen[0])

    own = subclass(Content, select=classmethod(select))
    content = store()
    assert own.get_by_id(content.id).id == own.first_reusable(user, "lesson").id == content.id
    seen[0] = "cultural_content"
    with pytest.raises(own.DoesNotExist):
        own.get_by_id(content.id)
    assert own.first_reusable(user, "lesson") is None


def test_what_the_hosts_fields_hold_is_read_as_peewee_does(database, Content, user, kind):
    class Lower(peewee.FieldAccessor):
        def __set__(self, instance, value):
            super().__set__(instance, value and value.lower())

    class Lowered(peewee.TextField):
        accessor_class = Lower

    class Listed(peewee.TextField):
        def db_value(self, value):
            return value if value is None else ",".join(value)

        def python_value(self, value):
            return value if value is None else value.split(",")

    types = {"code": "UUID", "price": "NUMERIC"} if kind == "postgresql" else {}
    for column in ("code", "price", "lowered", "listed"):
        database.execute_sql(
            f"ALTER TABLE ai_generated_content ADD COLUMN {column} {types.get(column, 'TEXT')}"
        )
    own = subclass(
        Content,
        code=peewee.CharField(null=True),
        price=peewee.FloatField(null=True),
        lowered=Lowered(null=True),
        listed=Listed(null=True),
    )
    code = "01a20f53-0000-7000-8000-000000000000"
    row = {"user": user, "type": "lesson", "request_payload": {}, "code": code, "price": 1.5}
    content = own.create(**row, lowered="ABC", listed=["a", "b"])
    assert not content.is_dirty()
    ids = [content.id, *own.create_many([row | {"lowered": "ABC", "listed": ["a", "b"]}])]
    for id in ids:
        found = own.get_by_id(id)
        assert found.__data__ == own.get(own.id == id).__data__
        assert (found.code, found.price, found.lowered) == (code, 1.5, "abc")
        assert (found.listed, type(found.price)) == (["a", "b"], float)
    own.update(listed=["other"]).where(own.id == content.id).execute()
    content.metadata = {"n": 1}
    content.save()
    assert own.get_by_id(content.id).listed == ["other"]


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_many_rows_go_to_the_schema_of_the_model(Content, user, database):
    database.execute_sql("CREATE SCHEMA other")
    database.execute_sql(
        "CREATE TABLE other.ai_generated_content (LIKE ai_generated_content INCLUDING ALL)"
    )
    own = subclass(Content)
    own._meta.schema = "other"
    own.create_many([{"user": user, "type": "lesson", "request_payload": {}}])
    assert (own.select().count(), Content.select().count()) == (1, 0)


def test_an_expression_among_many_rows_is_computed(Content, user, database):
    class Shouted(peewee.TextField):
        def db_value(self, value):
            return value if value is None else peewee.fn.UPPER(value)

    database.execute_sql("ALTER TABLE ai_generated_content ADD COLUMN shouted TEXT")
    own = subclass(Content, shouted=Shouted(null=True))
    row = {"user": user, "type": "lesson", "request_payload": {}}
    own.create_many([row, row | {"shouted": "loud"}])
    assert {content.shouted for content in own.select()} == {None, "LOUD"}
