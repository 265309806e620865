"""The user argument accepts ids and instances of the users model, and nothing else."""

from __future__ import annotations

import enum
import uuid

import peewee
import pytest

import aicontent
from aicontent import AIGeneratedContent, User, ValidationError

MADE = {"title": "En la cafetería"}


def model_of(database, table, **fields):
    meta = type("Meta", (), {"database": database, "table_name": table})
    return type(table.title(), (peewee.Model,), {"Meta": meta, **fields})


CALLS = {
    "create": lambda C, u: C.create(user=u, type="lesson", request_payload={}),
    "save": lambda C, u: C(user=u, type="lesson", request_payload={}).save(),
    "create_many": lambda C, u: C.create_many([{**ROW, "user": u}]),
    "bulk_create": lambda C, u: C.bulk_create([C(**{**ROW, "user": u})]),
    "reuse": lambda C, u: C.reuse(u, "lesson"),
    "first_reusable": lambda C, u: C.first_reusable(u, "lesson"),
    "find_reusable": lambda C, u: list(C.find_reusable_content(u, "lesson")),
    "find_by": lambda C, u: list(C.find_by_user_and_type(u, "lesson")),
    "request": lambda C, u: C.request(u, "lesson", {}),
    "get_or_generate": lambda C, u: C.get_or_generate(u, "lesson", {}, lambda _: MADE),
    "query": lambda C, u: list(C.select().where(C.user == u)),
    "in": lambda C, u: list(C.select().where(C.user.in_([u]))),
    "update": lambda C, u: C.update(user=u).execute(),
    "export": lambda C, u: list(aicontent.export_lines(C._meta.database, user=u)),
}
ROW = {"type": "lesson", "request_payload": {}, "generated_data": MADE, "status": "completed"}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_only_users_are_users(call, Content, database, user, make_url):
    """An id of another table is refused: swapped arguments would serve another user's content."""
    account = model_of(database, "users")
    call(Content, user)
    call(Content, account(id=user))
    call(Content, Content.user.rel_model(id=user))
    assert Content.select().where(Content.user_id != user).count() == 0
    rows = Content.select().count()
    elsewhere = aicontent.connect(make_url("sqlite"))
    others = aicontent.for_database(elsewhere).user.rel_model
    course = model_of(database, "courses")
    unbound = model_of(None, "users")
    no_id = model_of(database, "users", key=peewee.AutoField())
    for other in (
        course(id=user),
        others(id=user),
        model_of(elsewhere, "users")(id=user),
        no_id(key=user),
    ):
        with pytest.raises(ValidationError, match="an instance of the users model") as caught:
            call(Content, other)
        assert (caught.value.field, caught.value.kind) == ("user", type(other).__name__)
    with pytest.raises(ValidationError, match="an instance of the users model"):
        call(Content, unbound(id=user))
    assert Content.select().count() == rows
    elsewhere.close()


QUERIES = {
    "=": lambda C, u: C.user == u,
    "<>": lambda C, u: C.user != u,
    "<": lambda C, u: C.user_id < u,
    ">=": lambda C, u: C.user >= u,
    "in": lambda C, u: C.user.in_([u]),
    "<<": lambda C, u: C.user << {u},
    "not in": lambda C, u: C.user_id.not_in((u,)),
    "between": lambda C, u: C.user.between(u, u),
}


@pytest.mark.parametrize("compare", QUERIES.values(), ids=QUERIES.keys())
def test_queries_take_the_users_that_calls_take(compare, Content, database, user):
    Content.create(user=user, **ROW)
    account, course = model_of(database, "users"), model_of(database, "courses")
    alias = Content.alias()
    for users in (user, account(id=user), Content.user.rel_model(id=user)):
        found = Content.select().where(compare(Content, users)).count()
        assert alias.select().where(compare(alias, users)).count() == found
        assert found in (0, 1)
    assert Content.select().where(compare(Content, Content.user)).count() == found
    for table in (Content, alias):
        for no_user in (
            course(id=user),
            True,
            str(user),
            float(user),
            b"1",
            2**31,
            2**63,
            -(2**31) - 1,
        ):
            with pytest.raises(ValidationError, match="^user: must be"):
                compare(table, no_user)


def test_an_instance_stays_with_the_content(Content, database, user):
    account = model_of(database, "users", greet=lambda self: f"user {self.id}")
    content = Content.create(user=account(id=user), **ROW)
    assert (content.user.greet(), content.user_id) == (f"user {user}", user)


def test_a_user_who_is_stored_after_the_content(Content, user):
    content = Content.create(user=user, **ROW)
    new = Content.user.rel_model()
    content.user = new
    new.save(force_insert=True)
    assert content.save() == 1
    assert Content.get_by_id(content.id).user_id == new.id
    content.user = other = Content.user.rel_model()
    other.save(force_insert=True)
    Content.bulk_update([content], ["user"])
    assert Content.get_by_id(content.id).user_id == other.id
    content.user = Content.user.rel_model()
    with pytest.raises(ValidationError, match="must be the id of a user, or"):
        content.save()


def test_a_model_whose_ids_have_another_type(Content, database):
    account = model_of(database, "users", id=peewee.UUIDField(primary_key=True))
    with pytest.raises(ValidationError, match=r"^user: must be an int, .*pass your users model"):
        Content.reuse(account(id=uuid.uuid4()), "lesson")


def test_bind_with_a_user_model(database, user):
    account = model_of(database, "users", greet=lambda self: f"user {self.id}")
    try:
        aicontent.bind(database, user_model=account)
        made = AIGeneratedContent.create(user=account(id=user), **ROW)
        assert AIGeneratedContent.get_by_id(made.id).user.greet() == f"user {user}"
        assert AIGeneratedContent.reuse(user, "lesson").user.greet() == f"user {user}"
        assert account.select().join(AIGeneratedContent).count() == 1
        aicontent.bind(database)
        assert type(AIGeneratedContent.get_by_id(made.id).user) is User
        assert AIGeneratedContent.reuse(account(id=user), "lesson").id == made.id
        with pytest.raises(aicontent.UnsupportedDatabaseError, match="table users"):
            aicontent.bind(database, user_model=model_of(database, "accounts"))
        assert type(AIGeneratedContent.get_by_id(made.id).user) is User
    finally:
        aicontent.bind(database)
        for model in (AIGeneratedContent, User):
            model.bind(None, bind_refs=False, bind_backrefs=False)


class Kind(str, enum.Enum):  # noqa: UP042 - not StrEnum: str() differs
    LESSON = "lesson"
    FAILED = "failed"


class Level(str, enum.Enum):  # noqa: UP042
    A2 = "A2"


class Text(str):
    def __str__(self):
        return "another text"


class Number(int, enum.Enum):
    THREE = 3


def test_enumerations_of_the_host_are_their_values(Content, user, database):
    """`str()` of a (str, Enum) member returns its name, and some drivers call `str()`."""
    row = {"user": user, "type": Kind.LESSON, "level": Level.A2, "status": "completed"}
    more = {"request_payload": {"level": Level.A2, Text("k"): [Number.THREE]}, "token_usage": 3}
    plain = {"level": "A2", "k": [3]}
    Content.create(**row, **more, generated_data=more["request_payload"])
    Content.create_many([row | more] * 600)
    Content.bulk_create([Content(**row, **more)])
    model_used = Text("example-1")
    made = Content.get_or_generate(
        user, Kind.LESSON, plain, lambda _: (MADE, {"model_used": model_used}), level=Level.A2
    )
    made.level = Level.A2
    made.save()
    Content.update(level=Level.A2).where(Content.level == Level.A2).execute()
    Content.bulk_update([made], ["level"])
    assert {(c.type, c.level, c.user_id) for c in Content.select()} == {("lesson", "A2", user)}
    raw = database.execute_sql("SELECT DISTINCT type, level, status FROM ai_generated_content")
    assert raw.fetchall() == [("lesson", "A2", "completed")]
    assert all(c.request_payload == plain for c in Content.select())
    assert Content.get_by_id(made.id).model_used == "example-1"
    assert made.fingerprint == aicontent.fingerprint("lesson", plain, "A2")
    assert made.fingerprint == aicontent.fingerprint(Kind.LESSON, more["request_payload"], Level.A2)
    assert Content.get_or_generate(user, "lesson", plain, never, level="A2") == made
    for number, found in enumerate(
        (
            Content.reuse(user, Kind.LESSON, Level.A2),
            Content.first_reusable(user, Kind.LESSON, Level.A2),
            Content.find_reusable_content(user, Kind.LESSON, Level.A2).first(),
            Content.find_by_user_and_type(user, Kind.LESSON).first(),
            Content.get_by_id(Text(made.id)),
            Content.get_or_none(Content.level.in_([Level.A2])),
            Content.get_or_none(Content.request_payload["level"] == Level.A2),
        )
    ):
        assert found is not None, number
    assert Content.request(user, Kind.LESSON, {"n": Number.THREE}).attempts == 0
    assert Content.claim(Kind.LESSON).type == "lesson"
    assert Content.claim([Kind.LESSON]) is None
    assert Content.requeue(status=Kind.FAILED, types=[Kind.LESSON]) == 0


def never(_):
    raise AssertionError("it is stored")
