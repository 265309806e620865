"""Both backends refuse invalid values with the same errors, which name the field."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aicontent
from aicontent import ValidationError
from aicontent.fields.policy import MAX_DEPTH, MAX_INT_DIGITS
from aicontent.table import RULES

NAIVE = datetime(2026, 5, 1)


def nested(levels, inside=None):
    document = {} if inside is None else inside
    for _ in range(levels - 1):
        document = {"d": document}
    return document


BAD = [
    ({"type": "quiz"}, "type", "must be one of lesson, .*; got 'quiz'"),
    ({"type": None}, "type", "must be a str; got None"),
    ({"status": "done"}, "status", "must be one of pending, .*; got 'done'"),
    ({"level": "x" * 11}, "level", "at most 10 characters; got str of 11 characters"),
    ({"level": 5}, "level", "must be a str or None; got int 5"),
    ({"level": "A\0"}, "level", "NUL"),
    ({"model_used": "m" * 51}, "model_used", "at most 50 characters"),
    ({"model_used": "\udc80"}, "model_used", "valid Unicode.*U\\+DC80 at character 0"),
    ({"id": "x" * 37}, "id", "at most 36 characters"),
    ({"id": ""}, "id", "at least 1 character"),
    ({"id": None}, "id", "must be a str"),
    ({"user": None}, "user", "must be the id of a user, .*; got None"),
    ({"user": "7"}, "user", "must be an int, .*; got str of 1 character$"),
    ({"user": True}, "user", "must be an int, .*; got True"),
    ({"user": 2**31}, "user", "at most 2147483647"),
    ({"validation_score": 1.01}, "validation_score", "at most 1; got float 1.01"),
    ({"validation_score": -0.1}, "validation_score", "at least 0"),
    ({"validation_score": float("nan")}, "validation_score", "finite number; got float nan"),
    ({"validation_score": "high"}, "validation_score", "must be a number or None"),
    ({"queued": 1}, "queued", "must be True or False; got int 1"),
    ({"queued": None}, "queued", "must be True or False; got None"),
    ({"usage_count": -1}, "usage_count", "at least 0; got int -1"),
    ({"usage_count": True}, "usage_count", "must be an int; got True"),
    ({"usage_count": None}, "usage_count", "must be an int; got None"),
    ({"token_usage": 1.0}, "token_usage", "must be an int or None; got float 1.0"),
    ({"token_usage": 2**31}, "token_usage", "at most 2147483647"),
    ({"generation_time_ms": -5}, "generation_time_ms", "at least 0"),
    ({"estimated_completion_time": "soon"}, "estimated_completion_time", "must be an int"),
    ({"expires_at": NAIVE}, "expires_at", "aware datetime.*timezone.utc.*naive"),
    ({"last_accessed_at": "2026-05-01"}, "last_accessed_at", "aware datetime.*got str of 10"),
    ({"created_at": 1777777777}, "created_at", "aware datetime"),
    (
        {"expires_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))},
        "expires_at",
        "0001-01-02 to 9999-12-30",
    ),
    ({"request_payload": None}, "request_payload", "must be a dict; got None"),
    ({"request_payload": '{"a": 1}'}, "request_payload", "must be a dict; got str of 8"),
    ({"request_payload": [1]}, "request_payload", "must be a dict; got list of 1 item$"),
    ({"generated_data": object()}, "generated_data", "must be a dict or None; got object"),
    ({"topics": {"a": 1}}, "topics", "must be a list or None; got dict"),
    ({"topics": ("a",)}, "topics", "must be JSON.*tuple of 1 item$"),
    ({"metadata": {"a": {1, 2}}}, "metadata.a", "must be JSON.*got set of 2 items"),
    ({"metadata": {"a": NAIVE}}, "metadata.a", "must be JSON.*got datetime"),
    ({"metadata": {"a": b"x"}}, "metadata.a", "must be JSON.*got bytes"),
    ({"metadata": {"a": [0, float("inf")]}}, "metadata.a[1]", "finite number"),
    ({"metadata": {"a": "x\0y"}}, "metadata.a", "NUL.*one at character 1"),
    ({"metadata": {"a\0": 1}}, "metadata['a\\x00']", "NUL"),
    ({"metadata": {"a": "\ud83d"}}, "metadata.a", "U\\+D83D"),
    ({"metadata": {"a": [{"b": {7: 1}}]}}, "metadata.a[0].b", "strings as keys; got a key int 7"),
    ({"metadata": {None: 1}}, "metadata", "strings as keys; got a key None"),
    ({"metadata": {"a": 10**MAX_INT_DIGITS}}, "metadata.a", "at most 4300 digits"),
    ({"focus_areas": [nested(MAX_DEPTH)]}, None, "at most 200 levels"),
    (
        {"colour": "red"},
        "colour",
        "is not an attribute; the attributes are id, .*; got an unknown name",
    ),
    ({"userId": 7}, "userId", "is not an attribute; the attributes are id, user,"),
    ({"x" * 3000: 7}, None, "^x{40}…x{40}: is not an attribute"),
    ({"metadata": nested(150, {"a": "\0"})}, None, r"^metadata\.[d.]+…[d.]+\.a: .*NUL"),
]


@pytest.mark.parametrize(
    ("fault", "field", "message"),
    BAD,
    ids=[f"{n}-{next(iter(case[0]))}" for n, case in enumerate(BAD)],
)
def test_bad_values_are_refused_by_create_and_by_save(Content, store, fault, field, message):
    good = store(level="A1")
    with pytest.raises(ValidationError, match=message) as caught:
        store(**fault)
    if field is not None:
        assert caught.value.field == field
    assert Content.select().count() == 1
    (name, value) = next(iter(fault.items()))
    if name in Content._meta.fields and name not in ("id", "created_at"):
        setattr(good, name, value)
        with pytest.raises(ValidationError, match=message):
            good.save()
    assert Content.get().level == "A1"


def test_a_message_never_repeats_a_document(store):
    secret = "correct horse battery staple"
    for fault in ({"request_payload": [secret]}, {"topics": {secret: 1}}, {"level": secret}):
        with pytest.raises(ValidationError) as caught:
            store(**fault)
        assert secret not in str(caught.value)


def test_what_is_required(Content, user):
    with pytest.raises(ValidationError, match="^type: is required"):
        Content.create(user=user, request_payload={})
    with pytest.raises(ValidationError, match="^user: is required"):
        Content.create(type="lesson", request_payload={})
    with pytest.raises(ValidationError, match="^request_payload: is required"):
        Content.create(type="lesson", user=user)


def test_an_unknown_user_and_a_duplicate_id(Content, store):
    with pytest.raises(aicontent.UnknownUserError, match="users"):
        store(user=10**6)
    content = store()
    with pytest.raises(aicontent.DuplicateIdError, match="id"):
        store(id=content.id)
    assert Content.select().count() == 1


def test_queries_refuse_what_no_row_can_have(Content, user):
    for call in (Content.find_by_user_and_type, Content.find_reusable_content, Content.reuse):
        with pytest.raises(ValidationError, match=r"^type: must be one of lesson.*'quiz'"):
            call(user, "quiz")
        for nobody in ("7", None, True, 7.0, 2**31, 2**70, Content.user.rel_model()):
            with pytest.raises(ValidationError, match="^user: "):
                call(nobody, "lesson")
    for call in (Content.find_reusable_content, Content.reuse):
        with pytest.raises(ValidationError, match="^now: .*aware"):
            call(user, "lesson", now=NAIVE)
        for level in ("intermediate", 5, ["A1"], "A\0"):
            with pytest.raises(ValidationError, match="^level: "):
                list(call(user, "lesson", level) or ())
    for moment in (NAIVE, datetime.min.replace(tzinfo=UTC)):
        with pytest.raises(ValidationError, match="^now: "):
            Content.cleanup(now=moment)
    with pytest.raises(ValidationError, match="^expires_at: .*naive"):
        list(Content.select().where(Content.expires_at < NAIVE))


def test_helpers_refuse_naive_times(store):
    content = store(expires_at=datetime.now(UTC))
    for helper in (content.is_expired, content.mark_accessed):
        with pytest.raises(ValidationError, match="^now: .*aware"):
            helper(NAIVE)
    content.expires_at = NAIVE
    with pytest.raises(ValidationError, match="^expires_at: .*naive"):
        content.is_expired()


@pytest.mark.parametrize(
    "document",
    [
        {"": ""},
        {"a": [[], {}, [{}], None, True, False]},
        {"big": 10 ** (MAX_INT_DIGITS - 1), "negative": -(2**63) - 1},
        {"avogadro": 6.02214076e23, "planck": 6.62607015e-34, "tenth": 0.1, "one": 1.0},
        {"edges": [1e16, 1e22, 1e23, -1e23, 5e-324, 1.7976931348623157e308, -0.0, 1e-7]},
        {"text": "e+ 1e+23 \\u0000 \\ud800 \" ' % %s ? :a", "e+": 1e300},
        {"unicode": "naïve 一期一会 🍵 \u2028\u2029\ufeff\uffff\U0010ffff", "ключ": "значение"},
        {"control": "\x01\x1f\x7f\t\r\n\b\f"},
        {"long": "x" * 300_000},
        {"deep": nested(MAX_DEPTH - 2)},
    ],
    ids=lambda document: next(iter(document)),
)
def test_documents_read_back_equal(store, Content, document):
    content = Content.get_by_id(store(request_payload=document, topics=[document]).id)
    assert content.request_payload == document
    assert content.topics == [document]
    assert_same_types(content.request_payload, document)


def assert_same_types(left, right):
    """Compare types too, because 1, 1.0 and True are equal in Python."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        for key in left:
            assert_same_types(left[key], right[key])
    if isinstance(left, list):
        for one, other in zip(left, right, strict=True):
            assert_same_types(one, other)


# Mostly JSON, with hostile text, special floats, invalid keys and invalid containers.
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**60), 10**60)
    | st.floats()
    | st.text(st.characters())
    | st.text(st.sampled_from('ae+1 "\\\0\ud800é一🍵'))
    | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6), inner, max_size=4)
        | st.dictionaries(st.none() | st.integers() | st.text(max_size=2), inner, max_size=2)
        | st.tuples(inner)
    ),
    max_leaves=12,
)


@pytest.fixture
def both(make_url):
    """Store one row on each backend."""
    contents = []
    for kind in ("sqlite", "postgresql"):
        database = aicontent.connect(make_url(kind, True))
        model = aicontent.for_database(database)
        user = model.user.rel_model.create()
        contents.append(model.create(user=user, type="lesson", request_payload={}))
    yield contents
    for content in contents:
        content._meta.database.close()


@settings(max_examples=400)
@given(document=anything)
def test_any_document_reads_back_equal_from_both_or_is_refused_by_both(both, document):
    outcomes = []
    for content in both:
        content.metadata = {"it": document}
        try:
            content.save()
        except ValidationError as error:
            outcomes.append(str(error))
        else:
            stored = type(content).get_by_id(content.id).metadata
            assert stored == {"it": document}
            assert_same_types(stored, {"it": document})
            outcomes.append("stored")
    assert outcomes[0] == outcomes[1]
    if outcomes[0] != "stored":
        assert not is_plain_json(document)


def is_plain_json(document):
    """Return whether the standard library, as an independent reader, accepts the document."""
    try:
        text = json.dumps(document, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError):
        return False
    return json.loads(text) == document and "\\u0000" not in text


@settings(max_examples=200)
@given(
    name=st.sampled_from(
        ["level", "model_used", "token_usage", "usage_count", "validation_score", "expires_at"]
    ),
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31 - 1, 2**31])
    | st.floats()
    | st.floats(0, 1)
    | st.text(st.characters(), max_size=60)
    | st.datetimes()
    | st.datetimes(timezones=st.timezones())
    | st.sampled_from([datetime.max, datetime.min]).map(lambda time: time.replace(tzinfo=UTC)),
)
def test_any_value_is_stored_by_both_or_refused_by_both(both, name, value):
    outcomes = []
    for content in both:
        setattr(content, name, value)
        try:
            content.save()
        except ValidationError as error:
            outcomes.append(str(error))
        else:
            stored = getattr(type(content).get_by_id(content.id), name)
            if name == "validation_score" and value is not None:
                assert stored == pytest.approx(value, rel=1e-5, abs=1e-37)
            else:
                assert stored == value
            outcomes.append(repr(stored))
    assert outcomes[0] == outcomes[1]


def test_queries_and_updates_inside_documents(store, Content):
    content = store(metadata={"a": 1, "tags": ["x"]})
    store(metadata={"a": 2})
    found = Content.select().where(Content.metadata == {"tags": ["x"], "a": 1})
    assert list(found) == [content]
    assert Content.select().where(Content.metadata != {"a": 2}).count() == 1
    assert list(Content.select().where(Content.metadata.contains({"a": 1}))) == [content]
    assert list(Content.select().where(Content.metadata["a"] == 1)) == [content]
    mine = Content.id == content.id
    Content.update(metadata=Content.metadata["a"].set(3)).where(mine).execute()
    Content.update(metadata=Content.metadata["tags"].append("y")).where(mine).execute()
    Content.update(metadata=Content.metadata.update({"b": True})).where(mine).execute()
    assert Content.get_by_id(content.id).metadata == {"a": 3, "tags": ["x", "y"], "b": True}


@pytest.mark.parametrize("value", ["x\0", float("nan"), "\ud800", {1: 2}, (1,)], ids=repr)
def test_updates_inside_documents_keep_the_policy(store, Content, value):
    content = store(metadata={"a": [1]})
    path = Content.metadata["a"]
    for make in (path.set, path.insert, path.replace, path.append, Content.metadata.update):
        with pytest.raises(ValidationError, match="^metadata"):
            Content.update(metadata=make(value)).execute()
    assert Content.get_by_id(content.id).metadata == {"a": [1]}


def test_scores_compare_alike(store, Content):
    store(validation_score=0.9)
    for condition in (
        Content.validation_score == 0.9,
        Content.validation_score >= 0.9,
        Content.validation_score.between(0.9, 0.9),
        Content.validation_score.in_([0.9]),
    ):
        assert Content.select().where(condition).count() == 1


def test_the_schema_is_the_specifications():
    """The schema adds only upper bounds of integers and a lower bound of the id's length."""
    properties = RULES.schema["properties"]
    assert RULES.schema["required"] == [
        "id",
        "userId",
        "type",
        "status",
        "requestPayload",
    ]
    assert properties["level"] == {"type": ["string", "null"], "maxLength": 10}
    assert properties["modelUsed"] == {"type": ["string", "null"], "maxLength": 50}
    assert properties["validationScore"] == {
        "type": ["number", "null"],
        "minimum": 0,
        "maximum": 1,
    }
    columns = [f.column_name for f in aicontent.AIGeneratedContent._meta.sorted_fields]
    assert list(properties) == columns
    times = {"lastAccessedAt", "expiresAt", "createdAt", "updatedAt", "leaseExpiresAt", "retryAt"}
    assert {column for column, rule in properties.items() if not rule} == times
