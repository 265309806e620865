"""Creating and saving rows, and the traps of Peewee that the model closes."""

from __future__ import annotations

import copy
import os
import pickle
from datetime import UTC, datetime

import peewee
import pytest
from playhouse.shortcuts import dict_to_model, model_to_dict, update_model_from_dict

import aicontent
from aicontent import AIContentError, ValidationError
from helpers import run_python


def row(owner, **values):
    return {"user": owner, "type": "lesson", "request_payload": {"n": 1}} | values


def test_save_inserts_a_new_instance(Content, user):
    content = Content(**row(user))
    assert content.is_new
    assert content.save() == 1
    assert not content.is_new
    assert Content.get_by_id(content.id).request_payload == {"n": 1}


def test_save_writes_only_what_changed(store, Content):
    stale, other = store(), None
    other = Content.get_by_id(stale.id)
    other.mark_accessed()
    other.level = "B1"
    other.save()
    stale.token_usage = 7
    assert stale.save() == 1
    stored = Content.get_by_id(stale.id)
    assert (stored.usage_count, stored.level, stored.token_usage) == (1, "B1", 7)


def test_save_of_nothing_writes_nothing(store, Content):
    content = store()
    before = Content.get_by_id(content.id).updated_at
    assert content.save() == 0
    assert Content.get_by_id(content.id).updated_at == before


def test_save_only(store, Content):
    content = store()
    content.level, content.token_usage, content.model_used = "A1", 5, "m"
    content.save(only=["level", Content.token_usage])
    stored = Content.get_by_id(content.id)
    assert (stored.level, stored.token_usage, stored.model_used) == ("A1", 5, None)
    assert [field.name for field in content.dirty_fields] == ["model_used"]
    with pytest.raises(ValidationError, match="^colour: is not an attribute"):
        content.save(only=["colour"])


def test_save_only_takes_the_fields_of_another_class(store, Content):
    """Hosts name fields of the imported class, while `for_database` returns a different class."""
    content = store()
    content.level, content.model_used = "B1", "m"
    assert content.save(only=[aicontent.AIGeneratedContent.level]) == 1
    assert content.save(only=[Content.alias().model_used]) == 1
    stored = Content.get_by_id(content.id)
    assert (stored.level, stored.model_used) == ("B1", "m")


def test_a_document_changed_in_place_is_saved(store, Content):
    content = Content.get_by_id(store(metadata={"tries": [1]}).id)
    metadata = content.metadata
    metadata["tries"].append(2)
    assert content.is_dirty()
    content.save()
    assert Content.get_by_id(content.id).metadata == {"tries": [1, 2]}
    metadata["tries"].append(3)
    content.save()
    assert Content.get_by_id(content.id).metadata == {"tries": [1, 2, 3]}
    assert not content.is_dirty()


def test_a_document_changed_in_place_outlives_a_mark(store, Content):
    content = Content.get_by_id(store(metadata={}).id)
    content.metadata["edit"] = 1
    content.mark_accessed()
    assert content.is_dirty()
    content.save()
    assert Content.get_by_id(content.id).metadata == {"edit": 1}


def test_a_document_changed_after_it_was_stored_or_assigned(Content, user):
    payload, metadata = {"n": 1}, {"tries": 1}
    content = Content.create(**row(user, request_payload=payload))
    payload["n"] = 2
    content.save()
    assert Content.get_by_id(content.id).request_payload == {"n": 2}
    content.metadata = metadata
    content.save()
    metadata["tries"] = 2
    content.save()
    assert Content.get_by_id(content.id).metadata == {"tries": 2}


def test_an_in_place_change_that_cannot_be_stored_is_refused(store, Content):
    content = store(metadata={})
    content.metadata["bad"] = float("nan")
    with pytest.raises(ValidationError, match="metadata.bad"):
        content.save()
    assert Content.get_by_id(content.id).metadata == {}


def test_a_document_that_was_only_read_is_not_written(store, Content):
    reader, writer = store(metadata={"a": 1}), None
    writer = Content.get_by_id(reader.id)
    assert reader.metadata == {"a": 1}
    writer.metadata = {"a": 2}
    writer.save()
    reader.level = "A1"
    reader.save()
    assert Content.get_by_id(reader.id).metadata == {"a": 2}


@pytest.mark.parametrize("call", ["get_by_id", "reuse", "first_reusable", "claim", "select"])
def test_a_document_of_another_encoder_is_written_only_if_it_changed(Content, user, database, call):
    status = "pending" if call == "claim" else "completed"
    content = Content.create(**row(user, status=status, generated_data={"a": [1]}))
    text = '{"é": 1, "a":  [1, 1.0, true],\n"e": 1e2, "u": "\\u00e9"}'
    slot = "?" if isinstance(database, peewee.SqliteDatabase) else "%s"
    sql = f'UPDATE ai_generated_content SET "generatedData" = {slot} WHERE id = {slot}'
    database.execute_sql(sql, (text, content.id))
    calls = {
        "get_by_id": lambda: Content.get_by_id(content.id),
        "select": lambda: Content.select().get(),
        "claim": Content.claim,
    }
    found = calls.get(call, lambda: getattr(Content, call)(user, "lesson"))()
    assert found.generated_data == {"é": 1, "a": [1, 1.0, True], "e": 100.0, "u": "é"}
    assert not found.is_dirty()
    found.generated_data["a"][0] = True
    copies = [found, copy.copy(found), copy.deepcopy(found)]
    assert [each.is_dirty() for each in copies] == [True] * 3
    found.save()
    assert Content.get_by_id(content.id).generated_data["a"] == [True, 1.0, True]


@pytest.fixture
def lax(make_url):
    """A row of a SQLite database that ignores the CHECKs, and a function that changes it."""
    database = aicontent.connect(make_url("sqlite", True))
    database.execute_sql("PRAGMA ignore_check_constraints = 1")
    model = aicontent.for_database(database)
    content = model.create(**row(model.user.rel_model.create()))

    def change(column, value):
        database.execute_sql(f'UPDATE ai_generated_content SET "{column}" = ?', (value,))
        return model.get_by_id(content.id)

    yield change
    database.close()


@pytest.mark.parametrize("text", ['{"a":[1E400, -1E400]}', '{"a": NaN}', '{"a":1}'])
def test_a_document_that_cannot_be_stored_again_is_not_written(lax, text):
    content = lax("metadata", text)
    assert "a" in content.metadata
    content.level = "A2"
    assert content.dirty_fields == [type(content).level]
    content.save()
    content.metadata["b"] = float("inf")
    with pytest.raises(ValidationError, match="metadata"):
        content.save()


@pytest.mark.parametrize("text", ["[" * 3, "", "{} x", '{"n": ' + "9" * 5000 + "}"])
def test_a_text_that_python_cannot_decode_is_returned_as_it_is(lax, text):
    content = lax("metadata", text)
    assert content.metadata == text
    assert [each.metadata for each in type(content).select()] == [text]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-02", (2026, 1, 2)),
        ("20260102", (2026, 1, 2)),
        ("2026-W01-5", (2026, 1, 2)),
        ("2026-01-02 03:04", (2026, 1, 2, 3, 4)),
        ("2026-01-02T03:04:05Z", (2026, 1, 2, 3, 4, 5)),
        ("2026-01-02 03:04:05.000006", (2026, 1, 2, 3, 4, 5, 6)),
        ("2026-01-02T03:04:05.6+0000", (2026, 1, 2, 3, 4, 5, 600_000)),
    ],
)
def test_times_of_other_programs_are_in_utc(lax, text, time):
    assert lax("expiresAt", text).expires_at == datetime(*time, tzinfo=UTC)


def test_a_pickle_has_each_document_once(store, Content):
    text = "x" * 10_000
    content = store(generated_data={"text": text})
    for found in (Content.get_by_id(content.id), Content.reuse(content.user_id, "lesson")):
        state = found.__getstate__()
        assert len(pickle.dumps({**state, "__rel__": {}})) < 1.5 * len(text)


def test_an_expression_is_computed_by_the_database(store, Content):
    content = store(token_usage=10)
    content.token_usage = Content.token_usage + 5
    content.save()
    assert content.token_usage == 15


def test_updated_at_of_a_saved_instance_is_the_rows(store, Content):
    content = store()
    content.level = "A1"
    content.save()
    assert content.updated_at == Content.get_by_id(content.id).updated_at


def test_saving_a_deleted_row_says_so(store, Content):
    content = store()
    Content.delete_by_id(content.id)
    content.level = "A1"
    with pytest.raises(aicontent.ContentGoneError):
        content.save()
    assert Content.select().count() == 0


def test_saving_an_instance_selected_without_its_id_is_refused(store, Content):
    store()
    content = Content.select(Content.level).get()
    content.level = "A1"
    with pytest.raises(ValidationError, match=r"^id: "):
        content.save()


def test_a_partly_selected_instance_can_be_saved(store, Content):
    store()
    content = Content.select(Content.id, Content.level).get()
    content.level = "C1"
    content.save()
    assert Content.get().level == "C1"


def test_partly_selected_instances_give_no_wrong_answers(store, Content):
    def partial(id, *names):
        columns = [getattr(Content, name) for name in names]
        return Content.select(Content.id, *columns).where(Content.id == id).get()

    stored = store(expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert partial(stored.id, "expires_at").is_expired()
    assert not partial(stored.id, "status", "expires_at").is_reusable()
    for names, missing, call in (
        (("status",), "expires_at", "is_reusable"),
        (("expires_at",), "status", "is_reusable"),
        (("status",), "expires_at", "is_expired"),
    ):
        with pytest.raises(ValidationError, match=f"^{missing}: must be selected by"):
            getattr(partial(stored.id, *names), call)()


def test_peewees_other_ways_of_creating(Content, user):
    content, created = Content.get_or_create(
        user=user, level="A1", defaults={"type": "lesson", "request_payload": {}}
    )
    assert created
    assert Content.get_or_create(user=user, level="A1") == (content, False)
    instances = [Content(**row(user)) for _ in range(3)]
    Content.bulk_create(instances)
    assert Content.select().count() == 4
    assert not instances[0].is_new


def test_bulk_create_validates(Content, user):
    instances = [Content(**row(user)), Content(**row(user, level="x" * 11))]
    with pytest.raises(ValidationError, match="^row 2: level"):
        Content.bulk_create(instances)
    assert Content.select().count() == 0


def test_create_many(Content, user):
    rows = (row(user, request_payload={"n": n}) for n in range(1201))
    ids = Content.create_many(rows)
    assert len(ids) == 1201
    stored = {content.id: content.request_payload["n"] for content in Content.select()}
    assert [stored[id] for id in ids] == list(range(1201))
    first = Content.get_by_id(ids[0])
    assert first.created_at == first.updated_at
    assert (first.status, first.usage_count) == ("pending", 0)


def test_create_many_of_nothing(Content):
    assert Content.create_many([]) == []


def test_create_many_of_what_are_no_rows(Content, user):
    for rows in ([5], [Content(**row(user))], ["abc"]):
        with pytest.raises(ValidationError, match="^row 1: content: must be a mapping"):
            Content.create_many(rows)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"level": "x" * 11}, ValidationError),
        ({"metadata": {"a": float("inf")}}, ValidationError),
        ({"colour": "red"}, ValidationError),
        ({"user": 10**6}, aicontent.UnknownUserError),
        ({"id": "twice"}, aicontent.DuplicateIdError),
    ],
)
def test_create_many_is_all_or_nothing_and_names_the_row(Content, user, fault, error):
    rows = [row(user) for _ in range(700)]
    rows[2] = row(user, id="twice")
    rows[612] = row(user, **fault)
    with pytest.raises(error, match=r"^row 613: ") as caught:
        Content.create_many(rows)
    assert caught.value.row == 613
    assert Content.select().count() == 0


def test_insert_many_skips_validation_but_not_the_checks(Content, user, database):
    bad = {"level": "x" * 11, "status": "done", "usage_count": -1, "validation_score": 1.01}
    for name, value in bad.items():
        with pytest.raises((peewee.IntegrityError, peewee.DataError)), database.atomic():
            Content.insert_many([row(user, **{name: value})]).execute()
    with pytest.raises(ValidationError, match="metadata.a"):
        Content.insert_many([row(user, metadata={"a": float("nan")})]).execute()
    assert Content.select().count() == 0


def test_peewee_cannot_make_the_table(empty):
    model = aicontent.for_database(empty)
    with pytest.raises(aicontent.MigrationError, match="aicontent.migrate"):
        empty.create_tables([model])
    aicontent.migrate(empty, create_users=True)
    empty.create_tables([model])


def test_an_error_inside_a_transaction_leaves_it_usable(Content, user, database):
    with database.atomic():
        kept = Content.create(**row(user))
        for fault in ({"user": 10**6}, {"id": kept.id}, {"level": "x" * 11}):
            with pytest.raises(AIContentError):
                Content.create(**row(user, **fault))
        changed = Content.create(**row(user))
        changed.user = 10**6
        with pytest.raises(aicontent.UnknownUserError):
            changed.save()
    assert Content.select().count() == 2
    assert Content.get_by_id(changed.id).user_id == user


def test_errors_are_also_what_peewees_users_catch(Content, user):
    content = Content.create(**row(user))
    with pytest.raises(peewee.IntegrityError):
        Content.create(**row(user, id=content.id))
    with pytest.raises(ValueError, match="level"):
        Content.create(**row(user, level=5))


def test_errors_survive_pickling():
    error = ValidationError("level", "must be short", "str of 11 characters")
    error.row = 3
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "row 3: level: must be short; got str of 11 characters"


def test_instances_survive_pickling(url):
    """Only the package's model can be pickled: pickle cannot import a class of for_database()."""
    code = """if 1:
    import pickle, sys, aicontent
    from aicontent import AIGeneratedContent, User
    aicontent.bind(aicontent.connect(sys.argv[1]))
    content = AIGeneratedContent.create(user=User.create(), type="lesson", request_payload={})
    copy = pickle.loads(pickle.dumps(content))
    copy.request_payload["n"] = 1
    copy.save()
    print(AIGeneratedContent.get_by_id(content.id).request_payload)
    """
    assert run_python(code, url).stdout == "{'n': 1}\n"


def test_conversion_to_and_from_dicts(store, Content):
    content = store()
    values = model_to_dict(content, recurse=False)
    assert values["request_payload"] == {"topic": "café"}
    update_model_from_dict(content, {"id": content.id, "level": "A1"})
    content.save()
    assert Content.get_by_id(content.id).level == "A1"
    copy = dict_to_model(Content, values | {"id": "copy"})
    copy.save()
    assert Content.get_by_id("copy").request_payload == content.request_payload


def test_a_user_who_is_stored_later(Content):
    person = Content.user.rel_model()
    content = Content(user=person, type="lesson", request_payload={})
    person.save()
    content.save()
    assert Content.get_by_id(content.id).user == person


def test_bulk_update_validates(store, Content):
    contents = [store(), store()]
    for content in contents:
        content.level, content.metadata = "B2", {"n": 1}
    assert Content.bulk_update(contents, ["level", Content.metadata]) == 2
    assert {(c.level, c.metadata["n"]) for c in Content.select()} == {("B2", 1)}
    for name, value in (("metadata", [1]), ("level", "x" * 11), ("metadata", {"a": "\0"})):
        setattr(contents[1], name, value)
        with pytest.raises(ValidationError, match=rf"^row 2: {name}"):
            Content.bulk_update(contents, [name])
        setattr(contents[1], name, None)
    with pytest.raises(ValidationError, match="^colour: "):
        Content.bulk_update(contents, ["colour"])


def test_get_or_create_by_a_document(Content, user):
    values = {"user": user, "type": "lesson", "request_payload": {"topic": "tea"}}
    content, created = Content.get_or_create(**values)
    assert created
    assert Content.get_or_create(**values) == (content, False)


@pytest.mark.plain  # each unique key of a partitioned table includes the user
def test_a_hosts_own_constraints_are_not_taken_for_ours(Content, user, database):
    database.execute_sql("CREATE UNIQUE INDEX one_level ON ai_generated_content (level)")
    Content.create(**row(user, level="A1"))
    with pytest.raises(peewee.IntegrityError) as caught:
        Content.create(**row(user, level="A1"))
    assert not isinstance(caught.value, AIContentError)
    with pytest.raises(peewee.IntegrityError) as caught:
        Content.create_many([row(user), row(user, level="A1")])
    assert caught.value.__notes__ == ["row 2"]
    assert Content.select().count() == 1


def test_manual_commit(Content, user, database):
    with database.manual_commit():
        Content.create(**row(user)).mark_accessed()
        database.begin()
        kept = Content.create(**row(user))
        with pytest.raises(aicontent.DuplicateIdError):
            Content.create(**row(user, id=kept.id))
        database.commit()
    assert Content.select().count() == 2


def test_a_transaction_begun_in_sql(Content, user, database):
    database.execute_sql("BEGIN")
    kept = Content.create(**row(user))
    with pytest.raises(aicontent.UnknownUserError):
        Content.create(**row(10**6))
    database.execute_sql("COMMIT")
    assert list(Content.select()) == [kept]


def test_a_hosts_subclass_with_a_field_and_a_property(database, Content):
    class Rated(Content):
        @property
        def stars(self):
            return self.usage_count

        @stars.setter
        def stars(self, value):
            self.usage_count = value

        class Meta:
            table_name = "ai_generated_content"

    content = Rated.create(
        user=Content.user.rel_model.create(), type="lesson", stars=4, request_payload={}
    )
    assert Rated.get_by_id(content.id).stars == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_make_distinct_ids():
    from aicontent.table import new_id

    new_id()
    ids = []
    for _ in range(4):
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, "\n".join(new_id() for _ in range(50)).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as lines:
            ids += lines.read().split()
    assert len(set(ids)) == len(ids) == 200
    assert len({id[-12:] for id in ids}) == 200
