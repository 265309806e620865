"""Results of `generate`: bad costs never lose the document; an error carries a bad document."""

from __future__ import annotations

import gc
import math
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID

import peewee
import pytest

import aicontent
from aicontent import ContentStatus
from helpers import on_statement

HOUR = timedelta(hours=1)
MADE = {"title": "En la cafetería"}
SECRET = "hunter2"
KEPT = {"model_used": "example-1", "estimated_completion_time": 15}
"""Valid costs, which are stored even if other costs are invalid."""


def kind_of(value):
    return type(value).__name__


def never(content):
    raise AssertionError("there was no need to generate")


async def later():
    return MADE


class Model:
    """A model like pydantic's."""

    def __init__(self, **values):
        self.values = values

    def model_dump(self, mode="python"):
        return self.values


class Broken:
    def model_dump(self, mode="python"):
        raise RuntimeError(SECRET)


@dataclass
class Unset:
    text: str = field(init=False)


NO_CONVERSION = [Decimal("sNaN"), {frozenset(): 1}, {10**5000: 1}, Unset()]
TAKEN = [
    ("token_usage", 812.0, 812),
    ("token_usage", Decimal("812"), 812),
    ("generation_time_ms", 12.0, 12),
    ("validation_score", Decimal("0.9"), 0.9),
    ("validation_score", 1, 1.0),
    ("topics", ("food", "tea"), ["food", "tea"]),
    ("focus_areas", {"food"}, ["food"]),
    ("validation_results", Model(valid=True), {"valid": True}),
    ("validation_results", MappingProxyType({"on": date(2026, 5, 1)}), {"on": "2026-05-01"}),
    ("metadata", {1: UUID(int=0)}, {"1": str(UUID(int=0))}),
    ("token_usage", None, None),
]
REFUSED = [
    ("model_used", SECRET + "x" * 94, "must have at most 50 characters"),
    ("model_used", 7, "must be a str or None"),
    ("model_used", f"{SECRET}\0", "must not contain NUL"),
    ("model_used", f"{SECRET}\ud800", "must be valid Unicode"),
    ("token_usage", -1, "must be at least 0"),
    ("token_usage", True, "must be an int or None"),
    ("token_usage", 812.5, "must be an int or None"),
    ("token_usage", "812", "must be an int or None"),
    ("token_usage", 2**31, "must be at most 2147483647"),
    ("token_usage", math.nan, "must be an int or None"),
    ("token_usage", 10**5000, "must be at most 2147483647"),
    ("validation_score", 1.0000001, "must be at most 1"),
    ("validation_score", Decimal("-0.1"), "must be at least 0"),
    ("validation_score", math.nan, "must be a finite number"),
    ("generation_time_ms", 12.5, "must be an int or None"),
    ("estimated_completion_time", math.inf, "must be an int or None"),
    ("topics", "food", "must be a list or None"),
    ("topics", [object()], "must be JSON"),
    ("validation_results", [SECRET], "must be a dict or None"),
    ("validation_results", Broken(), "must be JSON, but converting it failed with"),
    ("metadata", [SECRET], "must be a dict or None"),
    ("metadata", {(1, 2): SECRET}, "must have strings as keys"),
    ("metadata", {1: SECRET, "1": SECRET}, "must have keys that differ as text"),
    ("expires_in", 0, "must be a timedelta or a number of seconds"),
    ("expires_in", -HOUR, "must be a timedelta or a number of seconds"),
    ("expires_in", math.inf, "must be a timedelta or a number of seconds"),
    ("expires_in", "1h", "must be a timedelta or a number of seconds"),
    ("tokens", 812, "is not an outcome; the outcomes are expires_in, "),
    ("status", "failed", "is not an outcome"),
    ("generated_data", {}, "is not an outcome"),
]


def names(table):
    return [name for name, *_ in table]


def check_a_cost_that_becomes_what_its_column_holds(
    get_or_generate, ask, Content, name, value, expected
):
    content = get_or_generate(lambda content: (MADE, {**KEPT, name: value}))
    ask(1)
    by_hand = Content.claim()
    by_hand.complete(MADE, **{**KEPT, name: value})
    for row in (content, by_hand, *Content.select()):
        assert getattr(row, name) == expected
        assert row.model_used == "example-1"
        assert "refused" not in (row.metadata or {})


def test_a_cost_that_becomes_what_its_column_holds(get_or_generate, ask, Content):
    for name, value, expected in TAKEN:
        check_a_cost_that_becomes_what_its_column_holds(
            get_or_generate, ask, Content, name, value, expected
        )
        Content.delete().execute()


def check_a_cost_that_cannot_be_stored_is_left_out(
    get_or_generate, Content, caplog, name, value, rule
):
    costs = {name: value, **{kept: v for kept, v in KEPT.items() if kept != name}}
    content = get_or_generate(lambda content: (MADE, costs), expires_in=HOUR, variant=3)
    for row in (content, Content.get()):
        assert (row.status, row.generated_data) == (ContentStatus.COMPLETED, MADE)
        assert row.metadata["variant"] == 3
        assert list(row.metadata["refused"]) == [name]
        assert row.metadata["refused"][name].startswith(rule)
        assert SECRET not in str(row.metadata)
        for kept in KEPT.keys() - {name}:
            assert getattr(row, kept) == KEPT[kept]
        assert HOUR * 0.9 < row.expires_at - datetime.now(UTC) <= HOUR
        assert row.generation_time_ms >= 0
        assert (row.token_usage, row.validation_score) == (None, None)
    assert SECRET not in caplog.text
    assert get_or_generate(never, variant=3) == content


def test_a_cost_that_cannot_be_stored_is_left_out(get_or_generate, Content, caplog):
    for name, value, rule in REFUSED:
        check_a_cost_that_cannot_be_stored_is_left_out(
            get_or_generate, Content, caplog, name, value, rule
        )
        Content.delete().execute()
        caplog.clear()


def check_by_hand_a_cost_that_cannot_be_stored_is_refused(ask, Content, name, value, rule):
    """The caller of complete() still has the document, and can call it again."""
    ask()
    content = Content.claim()
    with pytest.raises(aicontent.ValidationError) as caught:
        content.complete(MADE, **{**KEPT, name: value})
    assert caught.value.field.startswith(name)
    assert caught.value.rule.startswith(rule)
    assert SECRET not in str(caught.value)
    assert Content.get().status is ContentStatus.GENERATING
    content.complete(MADE, **KEPT)


def test_by_hand_a_cost_that_cannot_be_stored_is_refused(ask, Content):
    for name, value, rule in REFUSED:
        check_by_hand_a_cost_that_cannot_be_stored_is_refused(ask, Content, name, value, rule)
        Content.delete().execute()


@pytest.mark.parametrize("value", NO_CONVERSION, ids=kind_of)
def test_a_cost_that_no_conversion_takes_is_left_out(get_or_generate, value):
    content = get_or_generate(lambda content: (MADE, {"metadata": {"x": value}}))
    assert list(content.metadata["refused"]) == ["metadata"]


@pytest.mark.parametrize("costs", [{"metadata": {"a": 1}}, {"tokens": 1}], ids=["sound", "bad"])
@pytest.mark.parametrize("metadata", ["[1]", '"text"', "7"])
def test_metadata_of_another_kind_gives_way(get_or_generate, ask, database, metadata, costs):
    """Another program may store metadata that the database allows and the model refuses."""
    ask()
    database.execute_sql(f"UPDATE ai_generated_content SET metadata = '{metadata}'")
    content = get_or_generate(lambda content: (MADE, costs))
    assert content.metadata.keys() <= {"a", "refused"}


def test_several_costs_that_cannot_be_stored(get_or_generate, Content):
    long = "tokens\0\n" + "x" * 200
    costs = {name: value for name, value, _ in REFUSED} | {long: SECRET, "metadata": {"kept": 1}}
    content = get_or_generate(lambda content: (MADE, costs))
    refused = Content.get_by_id(content.id).metadata.pop("refused")
    shown = f"tokens??{'x' * 32}…{'x' * 40}"
    assert set(refused) == {name for name, _, _ in REFUSED} - {"metadata"} | {shown}
    assert content.metadata["kept"] == 1


def test_numpy_costs(get_or_generate):
    numpy = pytest.importorskip("numpy")
    costs = {
        "token_usage": numpy.int64(812),
        "generation_time_ms": numpy.float64(12),
        "validation_score": numpy.float32(0.5),
        "topics": numpy.array(["food"]),
        "estimated_completion_time": numpy.bool_(True),
    }
    content = get_or_generate(lambda content: (MADE, costs))
    assert (content.token_usage, content.generation_time_ms) == (812, 12)
    assert (content.validation_score, content.topics) == (0.5, ["food"])
    assert list(content.metadata["refused"]) == ["estimated_completion_time"]


@pytest.mark.parametrize(
    ("costs", "kept"),
    [
        ([SECRET], {}),
        (SECRET, {}),
        (812, {}),
        (False, {}),
        (object(), {}),
        (Broken(), {}),
        (Model, {}),
        ({1: SECRET, **KEPT}, KEPT),
        ({None: SECRET}, {}),
    ],
    ids=kind_of,
)
def test_costs_that_are_no_mapping_of_names(get_or_generate, costs, kept):
    content = get_or_generate(lambda content: (MADE, costs))
    assert content.generated_data == MADE
    assert list(content.metadata["refused"]) == ["costs"]
    assert SECRET not in str(content.metadata)
    assert {name: getattr(content, name) for name in kept} == kept
    assert get_or_generate(never) == content


@pytest.mark.parametrize(
    "costs", [None, {}, KEPT, MappingProxyType(KEPT), Model(**KEPT)], ids=kind_of
)
def test_costs_of_other_kinds(get_or_generate, costs):
    content = get_or_generate(lambda content: (Model(**MADE), costs))
    assert (content.generated_data, content.metadata) == (MADE, None)
    assert content.model_used == ("example-1" if costs else None)


def test_pydantic(get_or_generate):
    pydantic = pytest.importorskip("pydantic")
    lesson = pydantic.create_model("Lesson", title=(str, ...), day=(date, ...))
    usage = pydantic.create_model("Usage", token_usage=(int, 812), validation_score=(float, 2.0))
    made = lesson(title="a", day="2026-05-01")
    content = get_or_generate(lambda content: (made, usage()))
    assert content.generated_data == {"title": "a", "day": "2026-05-01"}
    assert content.token_usage == 812
    assert get_or_generate(lambda content: {"lessons": (made,)}, 1).generated_data == {
        "lessons": [{"title": "a", "day": "2026-05-01"}]
    }


NO_DOCUMENTS = [
    (None, "must be a dict, or an object that becomes one"),
    ([SECRET], "must be a dict, or an object that becomes one"),
    (SECRET, "must be a dict, or an object that becomes one"),
    (Model, "must be a dict, or an object that becomes one"),
    (object(), "must be a dict, or an object that becomes one"),
    (Broken(), "must be JSON, but converting it failed with"),
    ({"n": math.nan}, "must be a finite number"),
    ({"n": [f"{SECRET}\0"]}, "must not contain NUL"),
    ({"n": f"{SECRET}\ud800"}, "must be valid Unicode"),
    ({"n": object()}, "must be JSON"),
    ({"n": b"hunter2"}, "must be JSON"),
    ({(1, 2): SECRET}, "must have strings as keys"),
    ({1: SECRET, "1": SECRET}, "must have keys that differ as text"),
    ({"n": 10**5000}, "must have at most 4300 digits"),
    (Model(n=math.nan), "must be a finite number"),
    ((MADE, {}, {}), "generate() must return a dict, or a pair"),
    ((), "generate() must return a dict, or a pair"),
]


def check_what_is_no_document_is_handed_back(get_or_generate, ask, Content, returned, rule):
    with pytest.raises(aicontent.GeneratedContentError) as caught:
        get_or_generate(lambda content: returned)
    error = caught.value
    assert error.generated is returned
    assert not isinstance(error, (ValueError, peewee.PeeweeException))
    assert rule in str(error)
    assert SECRET not in str(error)
    row = Content.get()
    assert (row.status, row.generated_data) == (ContentStatus.FAILED, None)
    assert row.metadata == {"lastFailure": {"reason": str(error), "attempt": 1}}

    queued = ask(1)
    with pytest.raises(aicontent.GeneratedContentError) as caught:
        get_or_generate(lambda content: (returned, KEPT), 1)
    row = Content.get_by_id(queued.id)
    assert (row.status, row.failures) == (ContentStatus.PENDING, 1)
    assert row.metadata == {"lastFailure": {"reason": str(caught.value), "attempt": 1}}


def test_what_is_no_document_is_handed_back(get_or_generate, ask, Content):
    for returned, rule in NO_DOCUMENTS:
        check_what_is_no_document_is_handed_back(get_or_generate, ask, Content, returned, rule)
        Content.delete().execute()


def test_a_document_that_is_too_large_is_handed_back(get_or_generate, Content):
    large = {"text": "x" * 16_000_000}
    with pytest.raises(aicontent.GeneratedContentError, match="at most 16,000,000 bytes") as caught:
        get_or_generate(lambda content: (large, KEPT))
    assert caught.value.generated is large
    assert Content.get().status is ContentStatus.FAILED


@pytest.mark.parametrize("value", NO_CONVERSION, ids=kind_of)
def test_what_no_conversion_takes_is_handed_back(get_or_generate, value):
    with pytest.raises(aicontent.GeneratedContentError):
        get_or_generate(lambda content: {"n": value})


def test_a_coroutine_is_refused_without_a_warning(get_or_generate, Content):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(aicontent.GeneratedContentError, match="which was not awaited"):
            get_or_generate(lambda content: later())
        gc.collect()
    assert [str(each.message) for each in warned if each.category is RuntimeWarning] == []
    assert "coroutine" in Content.get().metadata["lastFailure"]["reason"]


def test_a_coroutine_beside_its_costs_is_refused_without_a_warning(get_or_generate):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(aicontent.GeneratedContentError):
            get_or_generate(lambda content: (later(), KEPT))
        gc.collect()
    assert [str(each.message) for each in warned if each.category is RuntimeWarning] == []


def test_the_user_is_deleted_meanwhile(get_or_generate, Content):
    def generate(content):
        users = Content.user.rel_model
        users.delete().where(users.id == content.user_id).execute()
        return MADE

    with pytest.raises(aicontent.GeneratedContentError) as caught:
        get_or_generate(generate)
    assert caught.value.generated is MADE
    assert isinstance(caught.value.__cause__, aicontent.UnknownUserError)
    assert Content.select().count() == 0


def test_the_row_is_deleted_meanwhile(get_or_generate, Content):
    def generate(content):
        content.delete_instance()
        return Model(**MADE), {**KEPT, "tokens": 1}

    content = get_or_generate(generate, expires_in=HOUR, level="B1", variant=3)
    for row in (content, Content.get()):
        assert (row.id, row.status, row.served) == (content.id, "completed", row.served)
        assert (row.generated_data, row.level, row.model_used) == (MADE, "B1", "example-1")
        assert row.metadata["variant"] == 3
        assert list(row.metadata["refused"]) == ["tokens"]
        assert row.expires_at - datetime.now(UTC) > HOUR * 0.9
    assert not content.is_dirty()
    assert get_or_generate(never, level="B1", variant=3) == content


def fail_within_a_transaction(database):
    database.begin()
    with suppress(peewee.DatabaseError):
        database.execute_sql("SELECT 1 FROM nowhere")


LEAVE_OPEN = {
    "begin": lambda database: database.begin(),
    "raw": lambda database: database.execute_sql("BEGIN"),
    "atomic": lambda database: database.atomic().__enter__(),
    "nested": lambda database: [database.atomic().__enter__() for _ in range(3)],
    "aborted": fail_within_a_transaction,
}


@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "closed"])
@pytest.mark.parametrize("leave_open", LEAVE_OPEN.values(), ids=LEAVE_OPEN)
def test_generate_leaves_a_transaction_open(
    get_or_generate, Content, database, user, leave_open, is_connected
):
    if not is_connected:
        database.close()

    def generate(content):
        leave_open(database)
        with suppress(peewee.DatabaseError):  # the transaction may be aborted
            Content.create(id="lost", user=user, type="lesson", request_payload={})
        return MADE

    with pytest.raises(aicontent.OpenTransactionError, match=r"generate\(\) left a trans") as told:
        get_or_generate(generate)
    assert not database.in_transaction()
    assert database.is_closed() is not is_connected
    row = Content.get()
    assert (row.status, row.generated_data) == (ContentStatus.COMPLETED, MADE)
    assert row.id in str(told.value)
    assert get_or_generate(never) == row

    def fail(content):
        leave_open(database)
        raise RuntimeError("no answer")

    with pytest.raises(RuntimeError, match="no answer") as caught:
        get_or_generate(fail, 1)
    assert caught.value.__notes__ == ["generate() left a transaction open, which was rolled back"]
    assert not database.in_transaction()
    assert Content.get(Content.id != row.id).status is ContentStatus.FAILED


def test_a_transaction_left_open_beside_what_is_no_document(get_or_generate, Content, database):
    with pytest.raises(aicontent.GeneratedContentError):
        get_or_generate(lambda content: database.begin())
    assert not database.in_transaction()
    assert Content.get().status is ContentStatus.FAILED


def fail(content):
    raise RuntimeError("no answer")


def test_expired_content_instead_of_an_error(get_or_generate, Content):
    old = get_or_generate()
    Content.update(expires_at=datetime.now(UTC) - HOUR).execute()
    with pytest.raises(RuntimeError):
        get_or_generate(fail)
    for failing in (fail, lambda content: None):
        content = get_or_generate(failing, serve_stale=True)
        assert (content, content.served) == (old, "stale")
    assert Content.select().where(Content.status == "failed").count() == 3
    new = get_or_generate(serve_stale=True)
    assert (new != old, new.served) == (True, "generated")


def test_refresh(get_or_generate, Content):
    old = get_or_generate()
    with pytest.raises(RuntimeError):
        get_or_generate(fail, refresh=True)
    assert get_or_generate(never).id == old.id
    new = get_or_generate(lambda content: {"new": True}, refresh=True)
    assert (new != old, new.served) == (True, "generated")
    assert [get_or_generate(never, serve_stale=True).id for _ in range(3)] == [new.id] * 3
    content = get_or_generate(fail, refresh=True, serve_stale=True)
    assert (content, content.served) == (new, "stale")
    assert Content.get_by_id(old.id).usage_count == 1


def test_whoever_asks_while_it_is_refreshed(get_or_generate, elsewhere):
    """Callers get the old row during a refresh, and a caller with `refresh` gets the new one."""
    old, joined, looks, waits = get_or_generate(), [], [], threading.Event()

    def hear(statement):
        if "is_stale" in statement[0]:
            looks.append(statement)
            if len(looks) == 2:  # the caller waits only from its second look on
                waits.set()

    def generate(content):
        assert elsewhere(get_or_generate, never).result(timeout=30) == old
        with on_statement(hear):
            joined.append(elsewhere(get_or_generate, never, refresh=True))
            assert waits.wait(timeout=30)
        return {"new": True}

    new = get_or_generate(generate, refresh=True)
    content = joined[0].result(timeout=30)
    assert (content, content.served) == (new, "waited")


def test_a_use_that_is_not_counted(get_or_generate, Content):
    made = get_or_generate()
    content = get_or_generate(never, mark=False)
    assert (content, content.served) == (made, "stored")
    row = Content.get_by_id(made.id)
    assert (row.usage_count, row.last_accessed_at) == (0, None)
    assert row.updated_at == made.updated_at
    assert get_or_generate(never).usage_count == 1


def test_how_content_was_served(get_or_generate, ask, store, Content, user):
    assert get_or_generate().served is aicontent.Served.GENERATED
    content = get_or_generate(never)
    assert content.served is aicontent.Served.STORED
    ask(1)
    for other in (Content.get_by_id(content.id), store(), Content.claim(), Content.get()):
        assert other.served is None
    assert Content.reuse(user, "lesson").served is None


def test_a_time_limit_while_storing_keeps_the_answer(Content, user):
    """Celery and rq raise ordinary exceptions from a signal handler, at any line of code."""

    class TimeLimit(Exception):  # noqa: N818 - some libraries name theirs so
        pass

    tries = []

    class Limited(Content):
        class Meta:
            table_name = "ai_generated_content"

        def complete(self, document, /, **outcome):
            tries.append(document)
            if len(tries) == 1:
                raise TimeLimit
            super().complete(document, **outcome)

    with pytest.raises(TimeLimit):
        Limited.get_or_generate(user, "lesson", {}, lambda content: MADE)
    row = Content.get()
    assert (row.status, row.generated_data) == ("completed", MADE)


def test_the_note_of_refused_costs_is_bounded(get_or_generate):
    costs = {f"cost {number}": number for number in range(1000)}
    content = get_or_generate(lambda content: (MADE, costs))
    assert len(content.metadata["refused"]) == 20


def test_an_answer_to_a_row_that_the_host_hides_overwrites_none(Content, user):
    class Filtered(Content):
        class Meta:
            table_name = "ai_generated_content"

        @classmethod
        def select(cls, *fields):
            return super().select(*fields).where(cls.level.is_null())

    def late(content):
        Content.get_by_id(content.id).complete({"other": 1})
        return MADE

    with pytest.raises(aicontent.GenerationFailedError):
        Filtered.get_or_generate(user, "lesson", {}, late, level="A1")
    assert Content.get().generated_data == {"other": 1}
