"""Every call works for hosts whose user ids are not four-byte integers."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

import peewee
import pytest

import aicontent
from aicontent import AIGeneratedContent, User, ValidationError
from helpers import lines, run_here, run_program

MADE = {"title": "En la cafetería"}
ADA, BEN = uuid.UUID(int=1 << 120), uuid.UUID("0190b1e2-7a3c-7def-8a1b-0123456789ab")

# By name: the key field of the host's model, its options, two users, and invalid ids.
KEYS = {
    "bigint": (peewee.BigAutoField, {}, (2**40, 2**40 + 1), ("7", 2**63, True, ADA)),
    "uuid": (peewee.UUIDField, {"primary_key": True}, (ADA, BEN), (7, "ada", b"ada")),
    "text": (peewee.TextField, {"primary_key": True}, ("ada", "é" * 300), (7, "", "a\0b", ADA)),
    "varchar": (
        peewee.CharField,
        {"primary_key": True, "max_length": 26},
        ("01J8ZK4Q7R6D9E3A5B2C1F0G8H", "ben"),
        (7, "x" * 27, None),
    ),
}


@pytest.fixture(params=KEYS)
def key(request):
    return request.param


@pytest.fixture
def account(empty, key):
    """The host's user model, with a table and two users."""
    field, options, users, _ = KEYS[key]
    account = type(
        "Account",
        (peewee.Model,),
        {
            "id": field(**options),
            "name": peewee.TextField(default="Ada"),
            "Meta": type("Meta", (), {"database": empty, "table_name": "users"}),
        },
    )
    account.create_table()
    for user in users:
        account.insert(id=user).execute()
    aicontent.migrate(empty)
    return account


@pytest.fixture
def Content(empty, account):  # noqa: N802
    return aicontent.for_database(empty, account)


def test_a_round_of_everything(Content, account, empty, key):
    ada, ben = users = KEYS[key][2]
    row = {"type": "lesson", "request_payload": {"n": 1}, "status": "completed"}
    made = Content.create(user=ada, generated_data=MADE, **row)
    assert Content.get_by_id(made.id).user_id == made.user_id == ada
    assert Content.get_by_id(made.id).user.name == "Ada"
    assert Content.reuse(account(id=ada), "lesson") == made
    assert Content.first_reusable(ada, "lesson").user_id == ada
    assert Content.reuse(ben, "lesson") is None
    assert Content.find_by_user_and_type(ada, "lesson").count() == 1
    assert Content.find_reusable_content(ada, "lesson").count() == 1
    assert Content.select().where(Content.user == ada, Content.user.in_([ada, ben])).count() == 1
    ids = Content.create_many([row | {"user": user} for user in users * 300])
    assert {c.user_id for c in Content.select().where(Content.id.in_(ids[:2]))} == {ada, ben}
    if key == "uuid":
        assert Content(user=str(ada)).user_id == ada
    made.user = account(id=ben)
    made.save()
    assert Content.get_by_id(made.id).user_id == ben
    made.user = ada
    Content.bulk_update([made], ["user"])
    assert Content.get_by_id(made.id).user_id == ada
    asked = Content.request(ada, "lesson", {"n": 2})
    assert Content.request(account(id=ada), "lesson", {"n": 2}) == asked
    claimed = Content.claim()
    assert (claimed, claimed.user_id) == (asked, ada)
    claimed.complete(MADE)
    answer = Content.get_or_generate(ben, "lesson", {"n": 3}, lambda content: MADE)
    assert (answer.user_id, answer.served) == (ben, "generated")
    assert Content.get_or_generate(account(id=ben), "lesson", {"n": 3}, never) == answer
    lost = Content.get_or_generate(
        ada, "lesson", {"n": 4}, lambda c: Content.delete_by_id(c.id) and MADE
    )
    assert lost.user_id == ada
    assert Content.work(never, until_empty=True).completed == 0
    assert aicontent.check(empty) == []
    assert sum(group.rows for group in aicontent.stats(empty).groups) == 604
    account.delete().where(account.id == ada).execute()
    assert Content.select().where(Content.user == ada).count() == 0
    assert Content.cleanup(datetime(2050, 1, 1, tzinfo=UTC)).deleted == 0


def test_what_is_no_users_id(Content, account, key):
    row = {"type": "lesson", "request_payload": {}}
    for user in KEYS[key][3]:
        for call in (
            lambda user: Content.create(user=user, **row),
            lambda user: Content.create_many([{"user": user, **row}]),
            lambda user: Content.reuse(user, "lesson"),
            lambda user: Content.request(user, "lesson", {}),
            lambda user: Content.get_or_generate(user, "lesson", {}, never),
        ):
            with pytest.raises(ValidationError) as caught:
                call(user)
            assert caught.value.field == "user"
    assert Content.select().count() == 0
    unknown = {"bigint": 5, "uuid": uuid.UUID(int=5)}.get(key, "nobody")
    with pytest.raises(aicontent.UnknownUserError):
        Content.create(user=unknown, **row)


def test_nobody_is_no_user(Content, account):
    """Without the condition on the user, a query would find every user's content."""
    row = {"type": "lesson", "request_payload": {}, "status": "completed", "generated_data": MADE}
    made = Content.create(user=account.select().first(), **row)
    for nobody in (None, account(id=None)):
        for call in (
            lambda user: Content.create(user=user, **row),
            lambda user: Content.create_many([{"user": user, **row}]),
            lambda user: Content.reuse(user, "lesson"),
            lambda user: Content.first_reusable(user, "lesson"),
            lambda user: Content.find_reusable_content(user, "lesson"),
            lambda user: Content.find_by_user_and_type(user, "lesson"),
            lambda user: Content.request(user, "lesson", {}),
            lambda user: Content.get_or_generate(user, "lesson", {}, never),
        ):
            with pytest.raises(ValidationError) as caught:
                call(nobody)
            assert caught.value.field == "user"
    made.user = None
    with pytest.raises(ValidationError):
        made.save()
    assert Content.select().count() == 1


@pytest.mark.parametrize("key", ["uuid"])
def test_uuids_move_between_the_databases(Content, account, empty, key, kind, make_url):
    """On SQLite, Peewee stores UUIDs as text without the hyphens that PostgreSQL writes."""
    row = {"type": "lesson", "request_payload": {}}
    ids = Content.create_many([row | {"user": ADA}, row | {"user": BEN}])
    there = aicontent.connect(make_url("postgresql" if kind == "sqlite" else "sqlite"))
    account.bind(there)
    account.create_table()
    for user in (ADA, BEN):
        account.insert(id=user).execute()
    aicontent.migrate(there)
    for source, target in ((empty, there), (there, empty)):
        exported = list(aicontent.export_lines(source))
        aicontent.for_database(target, account).delete().execute()
        refused = []
        report = aicontent.import_lines(target, exported, refused=refused.append)
        assert (report.stored, refused) == (2, [])
        moved = aicontent.for_database(target, account)
        assert {c.id: c.user_id for c in moved.select()} == dict(zip(ids, (ADA, BEN), strict=True))
        for ada in (ADA, str(ADA)):
            assert len(list(aicontent.export_lines(target, user=ada))) == 1
    there.close()


def test_moving_content_and_the_command(
    Content, account, empty, empty_url, key, make_url, kind, tmp_path
):
    ada, ben = KEYS[key][2]
    row = {"type": "lesson", "request_payload": {"n": 1}, "status": "completed"}
    Content.create_many([row | {"user": user, "id": f"{n}"} for n, user in enumerate([ada, ben])])
    exported = list(aicontent.export_lines(empty))
    stored = ada if key == "bigint" else str(ada)
    if (kind, key) == ("sqlite", "uuid"):
        stored = ada.hex  # the text that Peewee stores on SQLite
    assert json.loads(exported[0])["userId"] == stored
    assert list(aicontent.export_lines(empty, user=account(id=ada))) == exported[:1]
    status, out, _ = run_here("export", "--user", str(stored), "--database", empty_url)
    assert (status, out) == (0, exported[0].decode())
    Content.delete().execute()
    file = tmp_path / "in.jsonl"
    file.write_bytes(b"".join(exported))
    status, out, err = run_here("import", str(file), "--database", empty_url)
    assert (status, err) == (0, "")
    again = list(aicontent.export_lines(empty))
    assert [{**json.loads(e), "updatedAt": 0} for e in again] == [
        {**json.loads(e), "updatedAt": 0} for e in exported
    ]
    wrong = [{"bigint": "7", "uuid": 7}.get(key, 7), {"bigint": 5, "uuid": str(BEN)[:-1] + "0"}]
    wrong[1] = wrong[1].get(key, "nobody")
    file.write_bytes(b"".join(lines(*({"userId": w} for w in wrong))))
    status, out, err = run_here("import", str(file), "--database", empty_url)
    assert (status, len(err.splitlines())) == (1, 2)
    assert err.startswith("line 1: userId: must be ")
    assert "line 2: userId: the users table has no such id" in err
    assert run_here("check", "--database", empty_url)[0] == 0
    assert run_here("stats", "--database", empty_url)[0] == 0
    assert run_here("cleanup", "--database", empty_url)[0] == 0
    assert run_here("quickstart", "--database", empty_url)[0] == 1
    if key == "bigint":
        status, _, err = run_here("export", "--user", "ada", "--database", empty_url)
        assert (status, "--user: must be an integer" in err) == (2, True)


def test_a_worker_command_sees_the_users_ids(Content, empty_url, kind, key, tmp_path):
    ada = KEYS[key][2][0]
    asked = Content.request(ada, "lesson", {"n": 1})
    ids = "{'user': str(content.user_id), 'id': str(content.user.id)}"
    (tmp_path / "jobs.py").write_text(f"def generate(content): return {ids}")
    status, _, err = run_program(
        "work", "jobs:generate", "--until-empty", "--database", empty_url, cwd=tmp_path
    )
    assert (status, "Error" in err) == (0, False)
    answer = Content.get_by_id(asked.id).generated_data
    shown = ada.hex if (kind, key) == ("sqlite", "uuid") else str(ada)
    assert answer == {"user": shown, "id": shown}


def test_bind_with_their_model(account, empty, key):
    ada = KEYS[key][2][0]
    try:
        aicontent.bind(empty, account)
        made = AIGeneratedContent.get_or_generate(ada, "lesson", {}, lambda content: MADE)
        assert AIGeneratedContent.get_by_id(made.id).user.name == "Ada"
        aicontent.bind(empty)
        if key == "uuid":
            with pytest.raises(ValidationError, match="must be an int"):
                AIGeneratedContent.reuse(ada, "lesson")
    finally:
        aicontent.bind(empty)
        for model in (AIGeneratedContent, User):
            model.bind(None, bind_refs=False, bind_backrefs=False)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("declared", ["", "INT8", "CHAR(32)", "NVARCHAR (36)", '"my text); --"'])
def test_types_that_sqlite_knows_by_their_affinity(empty, declared):
    empty.execute_sql(f"CREATE TABLE users (id {declared} PRIMARY KEY)")
    id = 5 if declared in ("", "INT8") else "ada"
    empty.execute_sql("INSERT INTO users VALUES (?)", (id,))
    if declared == "":
        with pytest.raises(aicontent.UsersTableError, match="users.id is of no type"):
            aicontent.migrate(empty)
        return
    aicontent.migrate(empty)
    assert aicontent.check(empty) == []
    report = aicontent.import_lines(empty, lines({"userId": id}, {"id": "b", "userId": "x"}))
    assert (report.stored, report.refused) == (1, 1)
    with pytest.raises(peewee.IntegrityError):
        empty.execute_sql('UPDATE ai_generated_content SET "userId" = 1.5')


def test_ids_that_cannot_be_referenced(empty, kind):
    declared = "NUMERIC" if kind == "sqlite" else "char(8)"
    empty.execute_sql(f"CREATE TABLE users (id {declared} PRIMARY KEY)")
    with pytest.raises(aicontent.UsersTableError, match=r"users\.id is .*it must be an integer"):
        aicontent.migrate(empty)
    key = peewee.DateField(primary_key=True)
    meta = type("Meta", (), {"database": empty, "table_name": "users"})
    model = type("Odd", (peewee.Model,), {"id": key, "Meta": meta})
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="DateField as its primary key"):
        aicontent.for_database(empty, model)


def never(_):
    raise AssertionError("it is stored")


def test_a_subclass_of_the_hosts(Content, account, key):
    """Peewee copies the fields of a class for its subclass."""
    ada, ben = KEYS[key][2]
    meta = type("Meta", (), {"table_name": "ai_generated_content"})
    own = type("Own", (Content,), {"Meta": meta})
    row = {"type": "lesson", "request_payload": {}, "status": "completed"}
    made = own.create(user=account(id=ada), **row)
    made.user = ben
    assert own.bulk_update([made], ["user"]) == 1
    assert own.reuse(ben, "lesson").user_id == ben
    assert own.get_or_generate(ben, "lesson", {"n": 1}, lambda content: MADE).user.name == "Ada"
    for user in KEYS[key][3]:
        with pytest.raises(ValidationError):
            own.reuse(user, "lesson")
