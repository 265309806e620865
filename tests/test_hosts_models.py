"""Every call respects the queries, columns and mix-ins of a host's model."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import peewee
import pytest
from playhouse import signals

import aicontent
from aicontent import UnknownUserError, ValidationError
from aicontent.fields.document import DocumentField
from aicontent.fields.scalars import EnumField
from aicontent.table import TABLE

MADE = {"title": "En la cafetería"}


def subclass(Content, *mixins, **attributes):
    meta = type("Meta", (), {"database": Content._meta.database, "table_name": TABLE})
    return type("Host", (*mixins, Content), {"Meta": meta, **attributes})


@pytest.fixture
def tenants(Content, database):
    """A model that reads and changes the rows of one tenant at a time."""
    database.execute_sql(f"ALTER TABLE {TABLE} ADD COLUMN tenant INTEGER NOT NULL DEFAULT 1")
    now = [1]

    def select(cls, *fields):
        return super(model, cls).select(*fields).where(cls.tenant == now[0])

    def update(cls, *args, **options):
        return super(model, cls).update(*args, **options).where(cls.tenant == now[0])

    model = subclass(
        Content,
        tenant=peewee.IntegerField(default=lambda: now[0]),
        select=classmethod(select),
        update=classmethod(update),
    )
    return model, now


def test_each_tenant_sees_its_own_rows(tenants, user):
    model, now = tenants
    row = {"user": user, "type": "lesson", "request_payload": {"n": 1}, "status": "completed"}
    first = model.create(**row, generated_data={"secret": "of tenant 1"})
    made = model.get_or_generate(user, "lesson", {"n": 2}, lambda content: {"of": 1})
    asked = model.request(user, "lesson", {"n": 3})
    now[0] = 2
    assert model.first_reusable(user, "lesson") is model.reuse(user, "lesson") is None
    assert model.get_or_none(model.id == first.id) is None
    assert model.claim() is None
    theirs = model.get_or_generate(user, "lesson", {"n": 2}, lambda content: {"of": 2})
    assert (theirs.generated_data, theirs.tenant) == ({"of": 2}, 2)
    assert model.get_or_generate(user, "lesson", {"n": 2}, never) == theirs
    assert model.reuse(user, "lesson") == theirs
    assert model.find_by_user_and_type(user, "lesson").count() == 1
    ids = model.create_many([row] * 3)
    assert {c.tenant for c in model.select().where(model.id.in_(ids))} == {2}
    assert model.bulk_update([first], ["level"]) == 0
    first.level = "A1"
    with pytest.raises(aicontent.ContentGoneError):
        first.save()
    with pytest.raises(aicontent.ContentGoneError):
        first.mark_accessed()
    assert model.requeue() == model.rescue_stale().requeued == 0
    failed = {"user": user, "type": "lesson", "fingerprint": made.fingerprint}
    failed |= {"request_payload": {"n": 2}, "status": "failed", "queued": False}
    lost = model.create(**failed, created_at=datetime(2020, 1, 1, tzinfo=UTC))
    theirs.delete_instance()
    assert model.requeue() == 1  # the existing answer belongs to tenant 1
    assert model.claim() == lost
    lost.delete_instance()
    # A user can have only one such request in flight, across all tenants.
    with pytest.raises(aicontent.AIContentError, match="no select.. of your model hides"):
        model.request(user, "lesson", {"n": 3})
    now[0] = 1
    assert model.claim() == asked
    assert model.get_by_id(made.id).generated_data == {"of": 1}
    assert {c.tenant for c in model.select()} == {1}


def test_soft_deleted_rows_are_not_served(Content, database, user):
    database.execute_sql(f"ALTER TABLE {TABLE} ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0")

    def select(cls, *fields):
        return super(model, cls).select(*fields).where(cls.hidden == 0)

    model = subclass(Content, hidden=peewee.IntegerField(default=0), select=classmethod(select))
    made = model.get_or_generate(user, "lesson", {}, lambda content: MADE)
    made.hidden = 1
    made.save()
    assert model.reuse(user, "lesson") is None
    again = model.get_or_generate(user, "lesson", {}, lambda content: {"again": 1})
    assert (again.generated_data, Content.select().count()) == ({"again": 1}, 2)


def never(_):
    raise AssertionError("it is stored")


@pytest.mark.parametrize("note", ["present", "absent", "mixed"])
def test_columns_that_the_database_fills(Content, database, user, note):
    """create_many() stores the same values as create() for each row."""
    database.execute_sql(f"ALTER TABLE {TABLE} ADD COLUMN tenant VARCHAR(9) NOT NULL DEFAULT 't0'")
    database.execute_sql(f"ALTER TABLE {TABLE} ADD COLUMN note TEXT DEFAULT 'dflt'")
    model = subclass(Content, tenant=peewee.CharField(), note=peewee.TextField(null=True))
    row = {"user": user, "type": "lesson", "request_payload": {}}
    rows = {
        "present": [row | {"note": "x", "tenant": "t1"}] * 3,
        "absent": [row] * 3,
        "mixed": [row, row | {"note": None}, row | {"tenant": "t2"}, row, row | {"note": "y"}],
    }[note]
    one_by_one = [model.create(**each).id for each in rows]
    at_once = model.create_many(rows)

    def stored(ids):
        by_id = {c.id: (c.tenant, c.note) for c in model.select()}
        return [by_id[id] for id in ids]

    assert stored(at_once) == stored(one_by_one)
    instances = [model(**each) for each in rows]
    model.bulk_create(instances)
    assert stored([c.id for c in instances]) == stored(one_by_one)


def test_a_json_field_of_the_hosts(Content, database, user, kind):
    type = "TEXT" if kind == "sqlite" else "jsonb"
    database.execute_sql(f"ALTER TABLE {TABLE} ADD COLUMN own {type}")
    model = subclass(Content, own=peewee.JSONField(null=True))
    row = {"user": user, "type": "lesson", "request_payload": {"n": 1}}
    own = {"a": [1, "é"], "b": None}
    made = model.create(**row, own=own)
    ids = model.create_many([row | {"own": own}, row, row | {"own": None}])
    found = {c.id: c.own for c in model.select()}
    assert [found[id] for id in (made.id, *ids)] == [own, own, None, None]
    assert model.get(model.own["a"][0] == 1, model.id == ids[0]).own == own
    with pytest.raises(ValidationError, match="^row 2: type"):
        model.create_many([row | {"own": own}, row | {"own": own, "type": "quiz"}])
    with pytest.raises(UnknownUserError, match="^row 2: "):
        model.create_many([row | {"own": own}, row | {"own": own, "user": 99_999}])
    assert model.select().count() == 4


class Reversed(DocumentField):
    """Stores a document's text backwards, as a host's encrypted field stores it encrypted."""

    def parameter(self, value):
        return None if value is None else super().parameter({"text": json.dumps(value)[::-1]})

    def db_value(self, value):
        return super().db_value(value if value is None else {"text": json.dumps(value)[::-1]})

    def python_value(self, value):
        document = super().python_value(value)
        return document if document is None else json.loads(document["text"][::-1])


class Shouted(EnumField):
    """Gives Python upper case, and refuses drills."""

    def db_value(self, value):
        if value == "vocabulary_drill":
            raise ValidationError("type", "must not be a drill of this host", repr(value))
        return super().db_value(value)

    def python_value(self, value):
        return str(super().python_value(value)).upper()


def test_conversions_of_a_hosts_fields_count(Content, user):
    model = subclass(
        Content,
        metadata=Reversed(rule={}, null=True),
        type=Shouted(aicontent.ContentType, required=True),
    )
    made = model.create(user=user, type="lesson", request_payload={}, metadata={"p": "abc"})
    for find in (model.claim, lambda: model.get_by_id(made.id), model.select().get):
        found = find()
        assert (found.metadata, found.type) == ({"p": "abc"}, "LESSON")
        assert not found.is_dirty()
    found.metadata["q"] = 1
    found.save()
    assert model.get_by_id(made.id).metadata == {"p": "abc", "q": 1}
    drill = {"user": user, "type": "vocabulary_drill", "request_payload": {}}
    for store in (lambda: model.create(**drill), lambda: model.create_many([drill])):
        with pytest.raises(ValidationError, match="must not be a drill of this host"):
            store()


def test_what_a_hosts_constructor_changes_is_not_written(Content, user):
    def init(self, **values):
        super(model, self).__init__(**values)
        self.metadata = {"view": 1}
        self._dirty.clear()

    made = Content.create(user=user, type="lesson", request_payload={}, metadata={"stored": 1})
    model = subclass(Content, __init__=init)
    found = model.get_by_id(made.id)
    assert found.metadata == {"view": 1}
    found.level = "A1"
    found.save()
    assert Content.get_by_id(made.id).metadata == {"stored": 1}


def test_a_foreign_key_of_the_hosts_is_not_taken_for_the_users(Content, database, user):
    database.execute_sql("CREATE TABLE courses (id INTEGER PRIMARY KEY)")
    database.execute_sql(f"ALTER TABLE {TABLE} ADD COLUMN course INTEGER REFERENCES courses (id)")
    model = subclass(Content, course=peewee.IntegerField(null=True))
    row = {"user": user, "type": "lesson", "request_payload": {}}
    model.create(**row)
    for call in (
        lambda: model.create(**row, course=5),
        lambda: model.create_many([row | {"course": 5}]),
    ):
        with pytest.raises(peewee.IntegrityError) as caught:
            call()
        assert not isinstance(caught.value, aicontent.AIContentError)
    assert model.select().count() == 1


class Greeting:
    """A mix-in that does not use Peewee."""

    def greeting(self):
        return f"{self.type} {self.level}"


@pytest.mark.parametrize("mixin", [Greeting, signals.Model])
@pytest.mark.parametrize("is_first", [True, False])
def test_mixins_in_either_order(Content, user, mixin, is_first):
    meta = type("Meta", (), {"database": Content._meta.database, "table_name": TABLE})
    bases = (mixin, Content) if is_first else (Content, mixin)
    model = type("Host", bases, {"Meta": meta})
    made = model.get_or_generate(user, "lesson", {}, lambda content: MADE)
    content = model.create(user=user, type="lesson", request_payload={}, metadata={"n": 1})
    content.metadata["n"] = 2
    assert content.save() == 1
    assert model.get_by_id(content.id).metadata == {"n": 2}
    assert content.save() == 0
    assert model.reuse(user, "lesson") == made
    with pytest.raises(ValidationError):
        model.create(user=user, type="quiz", request_payload={})
    assert model.create_many([{"user": user, "type": "lesson", "request_payload": {}}])


def test_a_mixin_before_the_model_has_no_say_in_the_database(Content, user):
    """Peewee takes the database from the first base class."""

    class Host(signals.Model, Content):
        pass

    class Own(signals.Model, Content):
        class Meta:
            table_name = "ai_generated_content"
            database = Content._meta.database

    assert Host._meta.database is Own._meta.database is Content._meta.database
    assert Host.create(user=user, type="lesson", request_payload={}).id
    assert Host.select().count() == Content.select().count() == 1


def test_signals_are_sent_by_save(Content, user):
    model, sent = subclass(Content, signals.Model), []

    @signals.post_save(sender=model)
    def saved(sender, instance, created):
        sent.append((instance.id, created))

    content = model.create(user=user, type="lesson", request_payload={})
    content.level = "A2"
    content.save()
    assert sent == [(content.id, True), (content.id, False)]


def test_a_save_of_the_hosts_own_is_heard(Content, user):
    heard = []

    def save(self, *args, **options):
        heard.append(self.level)
        return super(model, self).save(*args, **options)

    model = subclass(Content, save=save)
    content = model.create(user=user, type="lesson", request_payload={}, level="A1")
    content.level = "A2"
    content.save()
    assert heard == ["A1", "A2"]


def test_an_unknown_user_is_known_beside_a_foreign_key_of_the_hosts(Content, user, database):
    """SQLite does not say which foreign key failed."""
    database.execute_sql("CREATE TABLE course (id INTEGER PRIMARY KEY)")
    database.execute_sql(f"ALTER TABLE {TABLE} ADD COLUMN course INTEGER REFERENCES course (id)")
    row = {"type": "lesson", "request_payload": {}}
    with pytest.raises(UnknownUserError):
        Content.create(user=user + 1, **row)
    with pytest.raises(UnknownUserError) as caught:
        Content.create_many([{"user": user, **row}, {"user": user + 1, **row}])
    assert caught.value.row == 2
    content = Content.create(user=user, **row)
    content.user = user + 1
    with pytest.raises(UnknownUserError):
        content.save()
    model = subclass(Content, course=peewee.IntegerField(null=True))
    with pytest.raises(peewee.IntegrityError) as of_host:
        model.create(user=user, course=5, **row)
    assert not isinstance(of_host.value, UnknownUserError)


def test_a_select_that_joins_counts_in_the_cleanup(Content, user):
    def select(cls, *fields):
        return super(model, cls).select(*fields).join(Content.user.rel_model)

    model = subclass(Content, select=classmethod(select))
    past = datetime(2026, 1, 1, tzinfo=UTC)
    Content.create(user=user, type="lesson", request_payload={}, expires_at=past)
    assert model.cleanup().expired == 1
