"""Convert model clients' results to JSON types, and leave other values for the policy."""

from __future__ import annotations

import enum
import math
import types
from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest

import aicontent
from aicontent.fields.json_types import as_json
from aicontent.fields.policy import check_document

Word = namedtuple("Word", ["text", "level"])
MOMENT = datetime(2026, 5, 1, 12, 30, 0, 5, UTC)
ID = UUID("0196b1c2-0000-7000-8000-000000000001")


class Kind(str, enum.Enum):  # noqa: UP042 - hosts define such enumerations
    LESSON = "lesson"


class Level(enum.IntEnum):
    A2 = 2


class Colour(enum.Enum):
    RED = (255, 0, 0)


class Day(enum.Enum):
    FIRST = date(2026, 5, 1)


class Text(str):
    __slots__ = ()


@dataclass
class Step:
    text: str
    due: date | None = None
    next: Step | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    title: str
    steps: tuple = ()
    by_name: dict = field(default_factory=dict)


C = {"text": "c", "due": None, "next": None}
"""The document of Step("c")."""


class Model:
    """A model like pydantic's; model clients return instances of its subclasses."""

    def __init__(self, **values):
        self.values = values

    def model_dump(self, *, mode="python"):
        dates = mode == "json"
        return {k: v.isoformat() if dates and k == "day" else v for k, v in self.values.items()}


class ModelWithoutMode(Model):
    """A model of another library, whose model_dump() takes no mode."""

    def model_dump(self):
        return self.values


class Broken:
    def model_dump(self, mode="python"):
        raise RuntimeError("the key is hunter2")


class BrokenWithoutMode:
    def model_dump(self):
        raise TypeError("the key is hunter2")


class Itself:
    def model_dump(self, mode="python"):
        return self


def name(value):
    return type(value).__name__


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # JSON's own types are unchanged.
        ("text", "text"),
        (7, 7),
        (0.5, 0.5),
        (True, True),
        (None, None),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        # Mappings become dicts.
        (OrderedDict(a=(1,)), {"a": [1]}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (UserDict(a=UserDict(b=1)), {"a": {"b": 1}}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        # Sequences and sets become lists.
        ((1, (2, 3)), [1, [2, 3]]),
        ({1}, [1]),
        (frozenset(["a"]), ["a"]),
        (Word("tea", Level.A2), ["tea", 2]),
        # Enumeration members become their values, which are converted in turn.
        (Kind.LESSON, "lesson"),
        (Level.A2, 2),
        (Colour.RED, [255, 0, 0]),
        (Day.FIRST, "2026-05-01"),
        # Dates, times and UUIDs become text.
        (MOMENT, "2026-05-01T12:30:00.000005+00:00"),
        (MOMENT.astimezone(timezone(timedelta(hours=2))), "2026-05-01T14:30:00.000005+02:00"),
        (datetime(2026, 5, 1), "2026-05-01T00:00:00"),
        (date(2026, 5, 1), "2026-05-01"),
        (time(12, 30), "12:30:00"),
        (ID, str(ID)),
        # Numbers become ints and floats.
        (Decimal("812"), 812),
        (Decimal("8.12E+2"), 812),
        (Decimal("812.00"), 812),
        (Decimal("-0.25"), -0.25),
        (Decimal(10) ** 30, 10**30),
        (Decimal("1E+300"), 1e300),
        (Decimal("1E+999999"), math.inf),
        (Decimal("-Infinity"), -math.inf),
        (Fraction(1, 4), 0.25),
        # Dataclasses and models become dicts, at any depth.
        (Step("a"), {"text": "a", "due": None, "next": None}),
        (
            Lesson("a", (Step("b", date(2026, 5, 1), Step("c")),), {"d": Lesson("e")}),
            {
                "title": "a",
                "steps": [{"text": "b", "due": "2026-05-01", "next": C}],
                "by_name": {"d": {"title": "e", "steps": [], "by_name": {}}},
            },
        ),
        (Model(a=Model(b=(1,)), day=date(2026, 5, 1)), {"a": {"b": [1]}, "day": "2026-05-01"}),
        (ModelWithoutMode(day=date(2026, 5, 1)), {"day": "2026-05-01"}),
        ({"a": [Model(b=Step("c"))]}, {"a": [{"b": C}]}),
        # Numbers, enumeration members, dates and UUIDs become text as keys.
        ({1: "a", Level.A2: "b"}, {"1": "a", "2": "b"}),
        ({Kind.LESSON: 1, date(2026, 5, 1): 2, ID: 3}, {"lesson": 1, "2026-05-01": 2, str(ID): 3}),
        ({Decimal(5): 1}, {"5": 1}),
        ([], []),
        ({}, {}),
    ],
    ids=name,
)
def test_what_has_a_form_in_json(value, expected):
    converted = as_json(value, "generated_data")
    assert converted == expected
    assert repr(converted) == repr(expected) or isinstance(value, (dict, Kind))
    assert as_json({"a": [value]}, "generated_data") == {"a": [expected]}


def test_nan_stays_a_number_for_the_policy_to_refuse():
    for value in (math.nan, Decimal("NaN")):
        assert math.isnan(as_json(value, "x"))


NO_JSON = [b"bytes", object(), 1j, timedelta(1), range(3), iter([]), len, Text("text"), Itself()]
CLASSES = [Step, Model, Kind, dict, Decimal]
"""The classes themselves are not JSON, although their instances are."""


@pytest.mark.parametrize("value", NO_JSON + CLASSES, ids=name)
def test_what_has_no_form_is_left_as_it_is(value):
    assert as_json(value, "x") is value
    assert as_json([{"a": value}], "x")[0]["a"] is value


@pytest.mark.parametrize("key", [None, 1.5, (1, 2), b"a", object(), Decimal("0.5")], ids=name)
def test_a_key_that_is_no_text_is_left_for_the_policy(key):
    with pytest.raises(aicontent.ValidationError, match=r"x: must have strings as keys"):
        check_document(as_json({key: 1}, "x"), "x")


@pytest.mark.parametrize(
    "key", [frozenset(), Colour.RED, Lesson("a", by_name=()), 10**5000], ids=name
)
def test_a_key_that_becomes_no_key_is_refused(key):
    with pytest.raises(aicontent.ValidationError):
        check_document(as_json({key: 1}, "x"), "x")


def test_the_document_is_not_changed():
    document = {"a": [(1, 2)], 1: {"b"}}
    as_json(document, "x")
    assert document == {"a": [(1, 2)], 1: {"b"}}


@pytest.mark.parametrize(
    "value", [{1: "a", "1": "b"}, {Level.A2: 1, "2": 2}, {"a": [{ID: 1, str(ID): 2}]}]
)
def test_keys_that_are_the_same_as_text(value):
    with pytest.raises(aicontent.ValidationError, match="must have keys that differ as text"):
        as_json(value, "generated_data")


def cycle():
    cycle = {}
    cycle["a"] = [cycle]
    return cycle


def cycle_of_steps():
    step = Step("a")
    step.next = step
    return step


def deep(levels):
    value = 1
    for _ in range(levels):
        value = (value,)
    return value


@pytest.mark.parametrize("value", [cycle(), cycle_of_steps(), deep(250)], ids=["a", "b", "c"])
def test_cycles_and_depth(value):
    with pytest.raises(aicontent.ValidationError) as caught:
        as_json(value, "generated_data")
    assert str(caught.value) == (
        "generated_data: must be nested at most 200 levels deep; got a deeper document"
    )
    assert as_json(deep(200), "x")


@pytest.mark.parametrize("value", [Broken(), BrokenWithoutMode(), [{"a": Broken()}]], ids=name)
def test_a_model_that_cannot_be_dumped(value):
    with pytest.raises(aicontent.ValidationError) as caught:
        as_json(value, "generated_data")
    assert "must be JSON, but converting it failed with " in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value.__cause__, (RuntimeError, TypeError))


@pytest.mark.parametrize(
    "value", [Decimal("sNaN"), Fraction(10**400), Fraction(10**400, 3)], ids=["sNaN", "n", "n/3"]
)
def test_a_number_that_no_float_can_hold_is_refused(value):
    with pytest.raises(aicontent.ValidationError):
        check_document({"n": as_json(value, "x")}, "x")


def test_numpy():
    numpy = pytest.importorskip("numpy")
    for value, expected in [
        (numpy.int64(812), 812),
        (numpy.uint8(7), 7),
        (numpy.float32(0.5), 0.5),
        (numpy.float64(0.1), 0.1),
        (numpy.bool_(True), True),
        (numpy.str_("a"), "a"),
        (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (numpy.array(5), 5),
        (numpy.datetime64("2026-05-01T12:30:00"), "2026-05-01T12:30:00"),
        ({numpy.int64(5): numpy.array([0.5])}, {"5": [0.5]}),
        (numpy.array([Step("a")]), [{"text": "a", "due": None, "next": None}]),
    ]:
        converted = as_json(value, "x")
        assert (converted, type(converted)) == (expected, type(expected))


def test_pydantic():
    pydantic = pytest.importorskip("pydantic")
    make = pydantic.create_model
    inner = make("Inner", price=(Decimal, ...), kind=(Kind, ...))
    outer = make("Outer", day=(date, ...), inner=(list[inner], ...), words=(set[str], ...))
    made = outer(day=date(2026, 5, 1), inner=[inner(price="1.50", kind="lesson")], words={"a"})
    expected = {
        "day": "2026-05-01",
        "inner": [{"price": "1.50", "kind": "lesson"}],
        "words": ["a"],
    }
    assert as_json(made, "x") == expected
    assert as_json({"a": (made,)}, "x") == {"a": [expected]}
    assert as_json(outer, "x") is outer
    broken = make("Broken", value=(object, ...))(value=object())
    with pytest.raises(aicontent.ValidationError, match="converting it failed"):
        as_json(broken, "x")
    plain = type("Plain", (), {"__annotations__": {"steps": tuple}})
    assert as_json(pydantic.dataclasses.dataclass(plain)((made,)), "x") == {"steps": [expected]}
