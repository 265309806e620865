"""Test binding the model to databases, and the cost of an import."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import peewee
import pytest

import aicontent
from aicontent import AIGeneratedContent, User
from helpers import PYTHON, run_python


@pytest.fixture
def bound(database):
    """Bind the package's model to this test's database, and unbind it after the test."""
    aicontent.bind(database)
    yield AIGeneratedContent
    for model in (AIGeneratedContent, User):
        model.bind(None, bind_refs=False, bind_backrefs=False)


def test_bind(bound, database):
    content = bound.create(user=User.create(), type="lesson", request_payload={"a": [1]})
    assert bound.get_by_id(content.id).request_payload == {"a": [1]}
    assert bound.get_by_id(content.id).user == content.user


def test_bind_again_to_a_database_of_the_other_kind(bound, kind, make_url):
    other = aicontent.connect(make_url({"sqlite": "postgresql"}.get(kind, "sqlite"), True))
    user = User.create()
    bound.create(user=user, type="lesson", request_payload={"n": 1}, metadata={})
    aicontent.bind(other)
    assert bound.select().count() == 0
    content = bound.create(user=User.create(), type="lesson", request_payload={"n": 2})
    content.mark_accessed()
    assert bound.reuse(content.user_id, "lesson") is None
    assert bound.get().request_payload == {"n": 2}
    other.close()


def test_bind_leaves_the_hosts_models_alone(database):
    code = """if 1:
    import sys, peewee, aicontent
    theirs = peewee.SqliteDatabase(":memory:")
    class Person(peewee.Model):
        class Meta:
            database, table_name = theirs, "users"
    class Note(peewee.Model):
        content = peewee.ForeignKeyField(aicontent.AIGeneratedContent)
        class Meta:
            database = theirs
    ours = peewee.SqliteDatabase(":memory:", pragmas={"foreign_keys": 1})
    aicontent.bind(ours)
    aicontent.for_database(ours, Person)
    assert Person._meta.database is theirs and Note._meta.database is theirs
    assert aicontent.AIGeneratedContent._meta.database is ours
    print("apart")
    """
    assert run_python(code).stdout == "apart\n"


def test_unbound_says_what_to_do():
    code = """if 1:
    import datetime, aicontent
    from aicontent import AIGeneratedContent as C
    content = C(user=1, type="lesson", request_payload={})
    for call in (content.save, lambda: C.reuse(1, "lesson"), C.cleanup, lambda: C.create_many([])):
        try:
            call()
        except aicontent.NotBoundError as error:
            assert "aicontent.bind(database)" in str(error)
            print("told")
    assert str(C.find_by_user_and_type(1, "lesson"))
    """
    ran = run_python(code)
    assert (ran.stdout, ran.stderr) == ("told\n" * 4, "")


def test_for_database_returns_the_hosts_own_user(database):
    class Person(peewee.Model):
        class Meta:
            database = None
            table_name = "users"

        def greeting(self):
            return f"user {self.id}"

    Person.bind(database)
    model = aicontent.for_database(database, Person)
    content = model.create(user=Person.create(), type="lesson", request_payload={})
    assert model.get_by_id(content.id).user.greeting() == f"user {content.user_id}"
    assert model.__name__ == "AIGeneratedContent"
    assert not [name for name in vars(Person) if name.endswith("_set")]


def test_for_database_keeps_the_order_of_columns(Content):
    names = AIGeneratedContent._meta.sorted_field_names
    assert Content._meta.sorted_field_names == names


def test_for_database_refuses_a_user_model_that_is_not_users(database):
    class Person(peewee.Model):
        pass

    class Keyed(peewee.Model):
        name = peewee.TextField(primary_key=True)

        class Meta:
            table_name = "users"

    for model in (Person, Keyed):
        with pytest.raises(aicontent.UnsupportedDatabaseError, match="table users"):
            aicontent.for_database(database, model)


def test_two_databases_of_different_kinds_in_threads(make_url):
    databases = [aicontent.connect(make_url(kind, True)) for kind in ("sqlite", "postgresql")]
    models = [aicontent.for_database(database) for database in databases]
    users = [model.user.rel_model.create().id for model in models]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        model, user = models[number % 2], users[number % 2]
        try:
            with model._meta.database.connection_context():
                for turn in range(25):
                    payload = {"kind": number % 2, "turn": turn}
                    content = model.create(user=user, type="lesson", request_payload=payload)
                    assert model.get_by_id(content.id).request_payload == payload
                    content.mark_accessed()
        except BaseException as error:  # noqa: BLE001 - the main thread asserts it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for number, model in enumerate(models):
        rows = [(c.request_payload["kind"], c.usage_count) for c in model.select()]
        assert rows == [(number, 1)] * 100
        model._meta.database.close()


def test_databases_that_cannot_be_bound(tmp_path):
    path, before = tmp_path / "plain.db", AIGeneratedContent._meta.database
    with pytest.raises(aicontent.UnsupportedDatabaseError, match=r"pragmas=\{'foreign_keys': 1\}"):
        aicontent.bind(peewee.SqliteDatabase(path))
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="init"):
        aicontent.bind(peewee.SqliteDatabase(None))
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="got MySQLDatabase"):
        aicontent.for_database(peewee.MySQLDatabase("x"))
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="got str"):
        aicontent.bind("sqlite:///x.db")
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="got NoneType"):
        aicontent.bind(peewee.Proxy())
    assert AIGeneratedContent._meta.database is before


def test_foreign_keys_of_the_open_connection_say_nothing_of_the_next(tmp_path):
    database = peewee.SqliteDatabase(tmp_path / "plain.db")
    database.foreign_keys = 1
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="foreign keys"):
        aicontent.for_database(database)
    database.close()


def test_looking_at_foreign_keys_leaves_the_connection_as_it_was(url, kind):
    database = aicontent.connect(url)
    aicontent.for_database(database)
    assert database.is_closed()


def test_an_import_loads_nothing_heavy_and_touches_nothing(tmp_path):
    code = """if 1:
    import sys
    import peewee, fastjsonschema
    before = set(sys.modules)
    import aicontent
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    print(*loaded)
    """
    ran = run_python(code, cwd=tmp_path)
    assert ran.stderr == ""
    loaded = set(ran.stdout.split()) - sys.stdlib_module_names
    assert loaded <= {"aicontent", "uuid_utils"}
    assert list(tmp_path.iterdir()) == []


def test_it_works_where_the_current_directory_was_removed(tmp_path):
    code = """if 1:
    import os, sys
    os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
    import aicontent
    print("imported")
    """
    assert run_python(code, str(tmp_path)).stdout == "imported\n"


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="a checkout may be installed editable")
def test_what_is_tested_is_the_wheel():
    assert "site-packages" in aicontent.__file__


TYPES = ("ContentStatusLike", "ContentTypeLike", "Duration", "Generate")
"""Python does not see the docstrings of these types, which follow them in the source."""


def test_the_command_is_a_module_too():
    ran = subprocess.run([*PYTHON, "-m", "aicontent", "--version"], capture_output=True, timeout=60)
    assert ran.stdout.decode() == f"aicontent, version {aicontent.__version__}\n"


def test_every_public_name_is_documented():
    for name in aicontent.__all__:
        assert getattr(aicontent, name).__doc__ or name in TYPES, name


def test_a_user_is_deleted_with_the_content(url):
    """Peewee follows the references to a user model, so no other class may refer to it."""
    code = """
import sys, aicontent
from aicontent import AIGeneratedContent, User
aicontent.bind(aicontent.connect(sys.argv[1]))
user = User.create()
AIGeneratedContent.create(user=user, type="lesson", request_payload={})
assert [ref.model for ref in User._meta.backrefs] == [AIGeneratedContent]
assert AIGeneratedContent.user.backref == "+"
assert not hasattr(User, "aigeneratedcontent_set")
assert user.delete_instance(recursive=True) == 1
print(AIGeneratedContent.select().count())
"""
    ran = run_python(code, url)
    assert ran.stdout == "0\n", ran.stderr


def test_columns_of_the_host_may_have_any_name(database, url):
    """The names include attributes that this package uses."""
    names = ("rule", "rules", "reader", "required", "parameter", "document_texts", "check")
    for name in names:
        for table in ("users", "ai_generated_content"):
            database.execute_sql(f'ALTER TABLE {table} ADD COLUMN "{name}" TEXT')
    columns = {name: peewee.TextField(null=True) for name in names}
    meta = {"database": database, "table_name": "users"}
    account = type("Account", (peewee.Model,), {"Meta": type("Meta", (), meta), **columns})
    base = aicontent.for_database(database, account)
    meta = {"database": database, "table_name": "ai_generated_content"}
    columns = {name: peewee.TextField(null=True) for name in names}
    host = type("Host", (base,), {"Meta": type("Meta", (), meta), **columns})
    user = account.create(**dict.fromkeys(names, "yes"))
    row = {"user": user, "type": "lesson", "request_payload": {}, "status": "completed"}
    content = host.create(**row, **dict.fromkeys(names, "x"))
    host.create_many([row | dict.fromkeys(names, "x")])
    assert host.reuse(user, "lesson").rules == "x"
    for name in names:
        joined = host.select().join(account).where(getattr(host.user, name) == "yes")
        assert joined.count() == 2
        setattr(content, name, "y")
    assert content.save() == 1
    assert host.get_by_id(content.id).document_texts == "y"


def test_peewees_own_save_writes_what_has_changed(store, Content):
    content = store()
    stale = Content.get_by_id(content.id)
    content.mark_accessed()
    stale.level = "A1"
    peewee.Model.save(stale)
    assert Content.get_by_id(content.id).usage_count == 1
