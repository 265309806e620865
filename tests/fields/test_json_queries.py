"""JSON queries mean the same on SQLite and PostgreSQL, or both backends refuse them."""

from __future__ import annotations

import threading
from contextlib import closing

import peewee
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peewee import fn
from playhouse.pool import PooledSqliteDatabase

import aicontent
from aicontent import AIContentError
from aicontent.fields import json_functions

KEYS = ["a", "b", "", "0", "1", "-1", "a.b", "$", "%", "%s", "%(x)s", "'", '"', "\\", "a'\"\\%"]
KEYS += [
    "\n",
    "\x1f",
    "é",
    "e\u0301",
    "{",
    "}",
    ",",
    " ",
    "null",
    "NULL",
    "[0]",
    "\U0001f600",
    "x" * 99,
]
NUMBERS = [0, -0.0, 1, 1.0, 2, 9.5, 10, 100, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, -(2**63)]
NUMBERS += [-(2**63) - 1, 10**23, 1e23, 10**400, -(10**400), 1e300, 5e-324, 0.1, 0.1 + 0.2, -1.5]

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3)
keys = st.sampled_from(KEYS[:6]) | st.sampled_from(KEYS) | text
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.sampled_from(NUMBERS)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "10", "9", "true", "é"])
    | text
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
paths = st.lists(keys | st.integers(-3, 3), min_size=1, max_size=3)

once = settings(max_examples=25)


class Both:
    """The model on both backends, with the same rows."""

    def __init__(self, models):
        self.models = models
        self.users = [model.user.rel_model.create().id for model in models]

    def store(self, documents):
        for model, user in zip(self.models, self.users, strict=True):
            model.delete().execute()
            row = {"user": user, "type": "lesson", "request_payload": {}}
            model.create_many(
                [row | {"id": f"{n:03}", "metadata": each} for n, each in enumerate(documents)]
            )

    def answer(self, query):
        """Return the query's result, or "refused", which must be the same on both backends."""
        answers = []
        for model in self.models:
            try:
                answers.append(query(model))
            except (AIContentError, peewee.DatabaseError):
                answers.append("refused")
        assert answers[0] == answers[1]
        return answers[0]

    def found(self, condition):
        return self.answer(
            lambda C: [
                row.id for row in C.select(C.id).where(condition(C.metadata, C)).order_by(C.id)
            ]
        )

    def changed(self, change):
        """Return the rows' metadata after an UPDATE, which is rolled back."""

        def run(C):
            with C._meta.database.atomic() as transaction:
                C.update(metadata=change(C.metadata)).execute()
                after = [row.metadata for row in C.select().order_by(C.id)]
                transaction.rollback()
                return after

        return self.answer(run)


@pytest.fixture
def both(make_url, server):
    """The model on SQLite, and on a PostgreSQL database that sorts text by code point."""
    name = server.create(options="ENCODING 'UTF8' LOCALE 'C'")
    models = []
    for url in (make_url("sqlite", True), server.url_of(name)):
        database = aicontent.connect(url)
        aicontent.migrate(database, create_users=True)
        models.append(aicontent.for_database(database))
    yield Both(models)
    for model in models:
        model._meta.database.close()
    server.drop(name)


CONDITIONS = {
    "==": lambda p, x, y: p == x,
    "!=": lambda p, x, y: p != x,
    "<": lambda p, x, y: p < x,
    "<=": lambda p, x, y: p <= x,
    ">": lambda p, x, y: p > x,
    ">=": lambda p, x, y: p >= x,
    "between": lambda p, x, y: p.between(x, y),
    "in": lambda p, x, y: p.in_([x, y]),
    "<<": lambda p, x, y: p << [x, y],
    "not_in": lambda p, x, y: p.not_in([x, y]),
    "not_in nothing": lambda p, x, y: p.not_in([]),
    "is_null": lambda p, x, y: p.is_null(),
    ">>": lambda p, x, y: p >> None,
    "contains": lambda p, x, y: p.contains(x),
    "contained_by": lambda p, x, y: p.contained_by(x),
    "length": lambda p, x, y: p.length() > 1,
}

DOCUMENTS = st.lists(
    st.dictionaries(keys, values, max_size=3) | scalars.map(lambda value: {"a": value}),
    min_size=1,
    max_size=6,
)


@once
@given(documents=DOCUMENTS, path=paths, x=values, y=values)
@example([{"a": n} for n in NUMBERS], ["a"], 1, 10)
@example([{"a": []}, {"a": None}, {"a": [[]]}, {"a": [None]}], ["a"], None, [])
@example([{key: 1} for key in KEYS], ["%s"], 1, 2)
@example([{"a": 1e23}, {"a": [1e23, True]}, {"a": 10**23}], ["a"], 10**23, [10**23])
def test_conditions_find_the_same_rows(both, documents, path, x, y):
    both.store(documents)
    used = [key for document in documents for key in document]
    for keys in (path, used[:1] or path, [*used[:1], *path]):
        for condition in CONDITIONS.values():
            both.found(lambda m, C, c=condition, k=keys: c(m.path(*k), x, y))
    document = x if isinstance(x, dict) else documents[0]
    for condition in CONDITIONS.values():
        both.found(lambda m, C, c=condition: c(m, document, {"a": y}))


@once
@given(documents=DOCUMENTS, path=paths, names=st.lists(keys, max_size=3))
@example([{"a": n} for n in NUMBERS], ["a"], [])
@example([{"a": ["b", None]}, {"a": {"b": None}}, {"a": "b"}, {"a": 5}], ["a"], ["b"])
def test_values_are_read_alike(both, documents, path, names):
    both.store(documents)
    both.found(lambda m, C: m.path(*path).has_keys(names))
    both.found(lambda m, C: m.path(*path).has_any_keys(names))
    for name in names:
        both.found(lambda m, C, k=name: m.has_key(k))
    for keys in (path, list(documents[0])[:1] or path):
        for read in (
            lambda p: p,
            lambda p: p.as_text(),
            lambda p: p.as_int(),
            lambda p: p.as_float(),
            lambda p: p.length(),
        ):
            both.answer(
                lambda C, r=read, k=keys: [
                    (type(value), value)
                    for (value,) in C.select(r(C.metadata.path(*k))).order_by(C.id).tuples()
                ]
            )


@once
@given(documents=DOCUMENTS, path=paths)
@example([{"a": n} for n in [*NUMBERS, None, True, False, "x", "", [], {}, [1], {"b": 1}]], ["a"])
def test_order_and_groups_are_the_same(both, documents, path):
    both.store(documents)
    for keys in (path, list(documents[0])[:1] or path):
        for order in (lambda p: p.asc(), lambda p: p.desc(), lambda p: -p, lambda p: +p):
            both.answer(
                lambda C, o=order, k=keys: [
                    row.id for row in C.select(C.id).order_by(o(C.metadata.path(*k)), C.id)
                ]
            )
        both.answer(lambda C, k=keys: C.select(fn.COUNT(C.metadata.path(*k))).scalar())
        both.answer(lambda C, k=keys: C.select(fn.COUNT(C.metadata.path(*k).distinct())).scalar())
        both.answer(lambda C, k=keys: C.select(fn.MAX(C.metadata.path(*k).as_float())).scalar())
        both.answer(lambda C, k=keys: C.select(fn.MIN(C.metadata.path(*k).as_int())).scalar())
        both.answer(
            lambda C, k=keys: sorted(
                count
                for _, count in C.select(C.metadata.path(*k), fn.COUNT(C.id))
                .group_by(C.metadata.path(*k))
                .tuples()
            )
        )
    for order in (lambda m: m.asc(), lambda m: m.desc()):
        both.answer(
            lambda C, o=order: [row.id for row in C.select(C.id).order_by(o(C.metadata), C.id)]
        )


CHANGES = {
    "set": lambda p, x: p.set(x),
    "insert": lambda p, x: p.insert(x),
    "replace": lambda p, x: p.replace(x),
    "append": lambda p, x: p.append(x),
    "remove": lambda p, x: p.remove(),
}


@once
@given(document=st.dictionaries(keys, values, max_size=3), path=paths, x=values)
@example({"a": [1, 2], "n": 2**70, "f": 1e300}, ["a", 5], 0.1 + 0.2)
@example({"a": [1, 2]}, ["a", -5], 2**64)
@example({"a": []}, ["a", "b"], 1)
@example({}, ["a", "b"], 1)
@example({"a": {"b": 1}, "gone": 1}, ["a"], {"a": {"c": 2}, "gone": None, "n": {"z": None}})
def test_changes_inside_documents_are_the_same(both, document, path, x):
    both.store([document])
    for keys in (path, [*list(document)[:1], *path]):
        for change in CHANGES.values():
            both.changed(lambda m, c=change, k=keys: c(m.path(*k), x))
    both.changed(lambda m: m.update(x))
    both.changed(lambda m: m.append(x))


# Examples, each on one backend at a time.


@pytest.fixture
def versions(Content, store):
    """Store one row for each value of a metadata key, and return the path to the key."""

    def store_all(*values):
        for value in values:
            store(metadata={"promptVersion": value})
        return Content.metadata["promptVersion"]

    return store_all


@pytest.fixture
def found(Content):
    def found(condition, *order):
        query = Content.select().where(condition).order_by(*order)
        return [content.metadata["promptVersion"] for content in query]

    return found


def test_numbers_compare_as_numbers(versions, found):
    path = versions(2, 3, 10, 11)
    assert sorted(found(path >= 3)) == [3, 10, 11]
    assert found(path > 0, path.desc()) == [11, 10, 3, 2]
    assert found(path > 0, path.asc()) == [2, 3, 10, 11]
    assert sorted(found(path.between(3, 10))) == [3, 10]
    assert sorted(found(path.in_([3, 11.0]))) == [3, 11]


def test_types_sort_as_jsonb_sorts_them(versions, found):
    values = [[], None, "10", "9", -1, 5, 9.5, 10, 100, False, True, [0], {"a": 1}]
    path = versions(*values)
    assert found(path > 5, path.asc()) == [9.5, 10, 100, False, True, [0], {"a": 1}]
    assert found(path != "x", path.asc()) == values
    assert found(path != "x", path.desc()) == values[::-1]


def test_equal_numbers_are_equal(versions, found):
    path = versions(1, 1.0, -0.0, 0, True, 2**63, 2**63 + 1, 1e300)
    assert [type(value) for value in found(path == 1, path.asc())] == [int, float]
    assert len(found(path == 0)) == 2
    assert found(path == True) == [True]  # noqa: E712
    assert found(path == 2**63) == [2**63]
    assert found(path > 2**63, path.asc()) == [2**63 + 1, 1e300, True]


def test_rows_without_the_key_sort_last_and_descending_first(Content, versions, store):
    path = versions(1, 2)
    store(metadata={})
    store(metadata=None)
    for order, first in ((path.asc(), [1, 2, None, None]), (path.desc(), [None, None, 2, 1])):
        query = Content.select(path).order_by(order)
        assert [value for (value,) in query.tuples()] == first
    query = Content.select(path).order_by(path.desc(nulls="last"))
    assert query.tuples().first() == (2,)


def test_whole_documents_compare_whatever_their_text(Content, user):
    stored = {"topic": "tea", "level": {"n": 1.0, "m": "é"}}
    same = {"level": {"m": "é", "n": 1}, "topic": "tea"}
    row = {"user": user, "type": "lesson"}
    assert Content.get_or_create(**row, request_payload=stored)[1] is True
    assert Content.get_or_create(**row, request_payload=same)[1] is False
    assert Content.select().where(Content.request_payload.in_([same])).count() == 1
    assert Content.select().where(Content.request_payload << [same]).count() == 1
    assert Content.select().where(Content.request_payload.not_in([same])).count() == 0
    other = Content.alias()
    joined = Content.select().join(other, on=(Content.request_payload == other.request_payload))
    assert joined.count() == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, (7, 7.0, "7")),
        (-2.9, (-2, -2.9, "-2.9")),
        (-0.0, (0, 0.0, "0.0")),
        ("7", (None, None, "7")),
        (True, (None, None, "true")),
        (None, (None, None, None)),
        (2**63 - 1, (2**63 - 1, 2.0**63, str(2**63 - 1))),
        (2**63, (None, 2.0**63, str(2**63))),
        (10**400, (None, None, str(10**400))),
        (1e300, (None, 1e300, f"{10**300}.0")),
        ({"bb": 1, "a": [None, 'x"']}, (None, None, '{"a": [null, "x\\""], "bb": 1}')),
    ],
    ids=repr,
)
def test_numbers_and_text_of_a_path(Content, versions, value, expected):
    path = versions(value)
    query = Content.select(path.as_int(), path.as_float(), path.as_text())
    assert query.tuples().get() == expected


def test_numbers_of_a_path_compare_as_numbers(Content, versions, found):
    path = versions(1, 1.0, 2**53, 2**53 + 1, "1", "x", None, True, 2**63, 1e300)
    integer, number, text = path.as_int(), path.as_float(), path.as_text()
    expected = [
        (integer == 1, [1, 1.0]),
        (integer + 1 == 2, [1, 1.0]),
        (integer.in_([1, 2**53]), [1, 1.0, 2**53]),
        (integer > 2**53, [2**53 + 1]),
        (integer == path.as_int(), [1, 1.0, 2**53, 2**53 + 1]),
        (integer == Content.attempts + 1, [1, 1.0]),
        (number.between(0, 1.5), [1, 1.0]),
        (number >= 2**53 + 1, [2**53, 2**53 + 1, 2**63, 1e300]),  # a float has 53 bits
        (number < 2.5, [1, 1.0]),
        (number.is_null(), ["1", "x", None, True]),
        (integer == None, ["1", "x", None, True, 2**63, 1e300]),  # noqa: E711
        (text == "1", [1, "1"]),
        (text.in_(["1.0"]), [1.0]),
        (fn.LENGTH(text) == 1, [1, "1", "x"]),
    ]
    for place, (condition, values) in enumerate(expected):
        assert sorted(map(repr, found(condition))) == sorted(map(repr, values)), place
    ordered = Content.select(path.as_int()).order_by(integer.desc(nulls="last"), Content.id)
    assert [n for (n,) in ordered.tuples()][:4] == [2**53 + 1, 2**53, 1, 1]
    (first,) = Content.select(integer).order_by(integer.asc()).tuples().first()
    assert first == 1


def test_aggregates_of_a_path(Content, versions, store):
    path = versions(5, 9.5, 100, "x", None, True, 5.0)
    store(metadata={})
    number = path.as_float()
    aggregates = fn.MIN(number), fn.MAX(number), fn.SUM(number), fn.AVG(number)
    assert Content.select(*aggregates).tuples().get() == (5, 100, 119.5, 29.875)
    counts = fn.COUNT(path), fn.COUNT(path.distinct())
    assert Content.select(*counts).tuples().get() == (7, 6)
    groups = Content.select(path, fn.COUNT(Content.id)).group_by(path).having(path == 5)
    assert groups.tuples().get() == (5, 2)


def test_a_key_may_have_any_characters(Content, store):
    for key in KEYS:
        content = store(metadata={"in": {key: 1, "other": 2}, key: "found"})
        path = Content.metadata["in"][key]
        mine = Content.id == content.id
        for condition in (
            path == 1,
            Content.metadata["in"].has_key(key),
            Content.metadata[key] == "found",
            Content.metadata[key].as_text() == "found",
            Content.metadata.has_keys([key, "in"]),
        ):
            assert Content.select().where(condition, mine).count() == 1, key
        groups = Content.select(path, fn.COUNT(Content.id)).where(path > 0, mine).group_by(path)
        assert groups.tuples().get() == (1, 1)
        Content.update(metadata=path.set(2**64)).where(mine).execute()
        assert Content.get_by_id(content.id).metadata["in"] == {key: 2**64, "other": 2}
        Content.update(metadata=path.remove()).where(mine).execute()
        assert Content.get_by_id(content.id).metadata["in"] == {"other": 2}


def test_a_step_that_is_a_number_is_an_index_or_a_key(Content, store):
    store(metadata={"list": ["x", "y"], "0": "z"}, topics=["tea", "milk"])
    for condition in (
        Content.metadata["list"][1] == "y",
        Content.metadata["list"]["1"] == "y",
        Content.metadata["list"][-1] == "y",
        Content.metadata[0] == "z",
        Content.topics[0] == "tea",
        Content.topics.length() == 2,
        Content.metadata.length().is_null(),
    ):
        assert Content.select().where(condition).count() == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m["a"].set([0.1 + 0.2]), {"a": [0.1 + 0.2], "t": [1]}),
        (lambda m: m["p"]["q"].set(1), {"a": {"b": 1}, "t": [1]}),
        (lambda m: m["a"]["c"].set(1e300), {"a": {"b": 1, "c": 1e300}, "t": [1]}),
        (lambda m: m["t"][7].set(2), {"a": {"b": 1}, "t": [1, 2]}),
        (lambda m: m["t"][-7].set(0), {"a": {"b": 1}, "t": [0, 1]}),
        (lambda m: m["a"].insert(1), {"a": {"b": 1}, "t": [1]}),
        (lambda m: m["n"].insert(None), {"a": {"b": 1}, "t": [1], "n": None}),
        (lambda m: m["n"].replace(1), {"a": {"b": 1}, "t": [1]}),
        (lambda m: m["a"].append(1), {"a": {"b": 1}, "t": [1]}),
        (lambda m: m["t"].append([True]), {"a": {"b": 1}, "t": [1, [True]]}),
        (lambda m: m["t"][0].remove(), {"a": {"b": 1}, "t": []}),
        (
            lambda m: m.update({"a": {"c": 2}, "n": None}),
            {"a": {"c": 2}, "t": [1], "n": None},
        ),
    ],
)
def test_changes_inside_documents(Content, store, change, expected):
    content = store(metadata={"a": {"b": 1}, "t": [1]})
    Content.update(metadata=change(Content.metadata)).execute()
    assert Content.get_by_id(content.id).metadata == expected


REFUSED = {
    "sum": (lambda C, p: fn.SUM(p) > 1, "metadata: .*as_float"),
    "max of distinct": (lambda C, p: fn.MAX(p.distinct()) > 1, "metadata: .*as_float"),
    "arithmetic": (lambda C, p: p + 1 > 2, "metadata: .*as_int"),
    "logic": (lambda C, p: (p == 1) & p, "metadata: "),
    "logic on the right": (lambda C, p: p | (p == 1), "metadata: "),
    "condition": (lambda C, p: p, "metadata: "),
    "condition of a case": (lambda C, p: peewee.Case(None, [(p, 1)], 0) == 1, "metadata: "),
    "negation": (lambda C, p: ~p, "metadata: "),
    "concatenation": (lambda C, p: p.concat("x") == "x", "metadata: .*as_text"),
    "a regular expression": (lambda C, p: p.regexp("x"), "metadata: .*ilike"),
    "one of text": (lambda C, p: p.as_text().iregexp("x"), "metadata: .*ilike"),
    "a pattern that is no text": (lambda C, p: p.startswith(5), "metadata: .* str"),
    "the end of a number": (lambda C, p: p.endswith(b"x"), "metadata: .* str"),
    "a pattern of None": (lambda C, p: p.ilike(["x"]), "metadata: .* str"),
    "text as an integer": (lambda C, p: p.as_int() == "1", r"metadata: must be an int .*as_int"),
    "True as an integer": (lambda C, p: p.as_int().in_([True]), "metadata: must be an int"),
    "a float as an integer": (lambda C, p: p.as_int() > 1.5, "metadata: must be an int"),
    "nine bytes": (lambda C, p: p.as_int() >= 2**63, "metadata: must be an int of at most 8 bytes"),
    "a large integer": (lambda C, p: p.as_float() < 10**400, "metadata: must be a number"),
    "a list as a number": (lambda C, p: p.as_float() == [], "metadata: must be a number"),
    "a path as a number": (lambda C, p: p == p.as_int(), "metadata is JSON.*as_text"),
    "like": (lambda C, p: p.like("x%"), "metadata: .*ilike"),
    "text of a document": (lambda C, p: C.metadata ** "x%", r"metadata: .*cast\('text'\)"),
    "an SQL value": (lambda C, p: p == peewee.Value(1), "metadata is JSON.*as_int"),
    "one of SQL values": (lambda C, p: p.in_([peewee.Value(1)]), "metadata is JSON"),
    "a function": (lambda C, p: p > fn.ABS(1), "metadata is JSON"),
    "arithmetic of a column": (lambda C, p: p == C.usage_count + 1, "metadata is JSON"),
    "a remainder": (lambda C, p: p.as_int() % 2 == 1, "metadata: .*fn.MOD"),
    "a column": (lambda C, p: p == C.level, "metadata is JSON.*as_text"),
    "of a column": (lambda C, p: C.level == p, "metadata: .*as_text"),
    "text": (lambda C, p: p == p.as_text(), "metadata is JSON.*as_text"),
    "a number as text": (lambda C, p: p.as_text() == 5, r"as_text\(\) must be .* str.*as_int"),
    "NUL in text": (lambda C, p: p.as_text().in_(["x\0"]), "NUL"),
    "infinity": (lambda C, p: p < float("inf"), "metadata: must be a finite number"),
    "a tuple": (lambda C, p: p == (1,), "metadata: must be JSON"),
    "NUL in a key": (lambda C, p: C.metadata["a\0"] == 1, "NUL"),
    "a slice": (lambda C, p: p[1:2] == 1, "a path must consist of str and int; got slice"),
    "a bool as a step": (lambda C, p: p[True] == 1, "a path must consist of str and int"),
    "a key that is no text": (lambda C, p: p.has_key(1), r"has_key\(\) takes a str"),
    "keys in one text": (lambda C, p: p.has_keys("ab"), r"has_keys\(\) and .* take a list"),
    "NaN in contains": (lambda C, p: p.contains([float("nan")]), "metadata.0.: must be a finite"),
    "an update by a list": (lambda C, p: C.metadata.update([1]), r"update\(\) takes a dict.*app"),
}


def test_what_the_databases_do_not_share_is_refused(Content, store):
    for make, message in REFUSED.values():
        with pytest.raises(AIContentError, match=message):
            Content.select().where(make(Content, Content.metadata["a"])).count()


def test_text_of_a_path_is_compared_with_columns_and_patterns(Content, store):
    store(level="A1", metadata={"level": "A1"})
    text = Content.metadata["level"].as_text()
    for condition in (
        text == Content.level,
        Content.level == text,
        text.in_(["A1", "A2"]),
        text.concat("!") == "A1!",
        text.startswith("A"),
        Content.metadata["level"] ** "a%",
        Content.metadata["level"].endswith("1"),
        Content.id.in_(Content.select(Content.id).order_by(Content.metadata["level"]).limit(1)),
        Content.metadata["level"].in_(Content.select(Content.metadata["level"])),
    ):
        assert Content.select().where(condition).count() == 1


def test_a_query_before_bind_is_refused():
    unbound = type("Unbound", (aicontent.AIGeneratedContent,), {})
    unbound.bind(None, bind_refs=False, bind_backrefs=False)
    with pytest.raises(aicontent.NotBoundError, match="metadata: call aicontent.bind"):
        assert unbound.metadata["a"] == 1


def test_connections_older_than_the_model_can_query(make_url):
    path = make_url("sqlite", True).removeprefix("sqlite:///")
    options = {"pragmas": {"foreign_keys": 1}, "check_same_thread": False}
    pool = PooledSqliteDatabase(path, **options)
    pool.connect()
    pool.close()  # the connection returns to the pool
    model = aicontent.for_database(pool)
    assert model.select().where(model.metadata["a"] > 1).count() == 0
    pool.close_all()
    with closing(peewee.SqliteDatabase(path, **options)) as database:
        ready, bound = threading.Barrier(2, timeout=60), threading.Event()
        counts = []

        def query():
            with database.connection_context():
                ready.wait()
                bound.wait(60)
                counts.append(model.select().where(model.metadata["a"] > 1).count())

        thread = threading.Thread(target=query)
        thread.start()
        ready.wait()
        model = aicontent.for_database(database)
        bound.set()
        thread.join()
        assert counts == [0]


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_query_within_another_that_is_still_read(Content, database, versions):
    path = versions(1, 2, 3)
    read = []
    for content in Content.select().order_by(path.asc()).iterator():
        database._state.aicontent_json = None  # as on a new connection
        read.append(Content.select().where(path > content.metadata["promptVersion"]).count())
    assert read == [2, 1, 0]


def test_documents_of_any_depth_and_size_compare(Content, store):
    deep = 1
    for _ in range(198):
        deep = [deep]
    store(metadata={"d": deep, "text": "x" * 1000})
    assert Content.select().where(Content.metadata == {"text": "x" * 1000, "d": deep}).count() == 1
    assert Content.select().where(Content.metadata["d"] > deep[0]).count() == 1
    assert Content.select().where(Content.metadata["d"] > [deep]).count() == 0
    assert Content.select().where(Content.metadata["d"] == deep).count() == 1


def test_text_that_is_not_json_sorts_by_its_characters():
    assert json_functions.compare("{", "1") == 1
    assert json_functions.compare("1", "{") == -1
    assert json_functions.compare("{", "{") == 0
    deep = "[" * 100_000 + "]" * 100_000
    assert json_functions.compare(deep, "1") == 1
