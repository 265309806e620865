"""The fingerprint: equal requests have one fingerprint in every process and language."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aicontent
from aicontent import ContentType, fingerprint
from aicontent.generation.fingerprint import canonical_text
from helpers import ROOT, run_python


def test_it_is_what_it_was():
    """A changed fingerprint would make every stored request a different one."""
    payload = {"topic": "café", "minutes": 15, "words": ["é", "\u2028", "😀"], "temperature": 0.7}
    assert (
        fingerprint("lesson", payload, "A2", {"model": "example-1", "prompt": 3})
        == "f477ee73c7fbe7130d3261d67f96737ed1b79165e355b843011cbe2d68ed373b"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"n": 1}, {"n": 1.0}),
        ({"n": 0.0}, {"n": -0.0}),
        ({"n": 10**20}, {"n": 1e20}),
        ({"n": [{"x": 2, "y": 1}]}, {"n": [{"y": 1, "x": 2}]}),
    ],
)
def test_the_same_request_has_one(one, other):
    assert fingerprint("lesson", one) == fingerprint(ContentType.LESSON, other)


def test_another_request_has_another():
    prints = [
        fingerprint("lesson", {"n": 1}),
        fingerprint("lesson", {"n": "1"}),
        fingerprint("lesson", {"n": True}),
        fingerprint("lesson", {"n": None}),
        fingerprint("lesson", {"n": [1]}),
        fingerprint("lesson", {"n": 1.5}),
        fingerprint("lesson", {"n": 2**53}),
        fingerprint("lesson", {"n": 2**53 + 1}),
        fingerprint("lesson", {}),
        fingerprint("vocabulary_drill", {"n": 1}),
        fingerprint("lesson", {"n": 1}, "A1"),
        fingerprint("lesson", {"n": 1}, None, "A1"),
        fingerprint("lesson", {"n": 1}, "A1", "v2"),
    ]
    assert len(set(prints)) == len(prints)


def test_an_empty_level_is_none():
    assert fingerprint("lesson", {}, "") == fingerprint("lesson", {}, None)


def test_numbers_are_written_as_rfc_8785_does():
    """The numbers are from RFC 8785, appendix B."""
    written = {
        5e-324: "5e-324",
        1.7976931348623157e308: "1.7976931348623157e+308",
        9007199254740992.0: "9007199254740992",
        295147905179352830000.0: "295147905179352830000",
        9.999999999999997e22: "9.999999999999997e+22",
        1e23: "1e+23",
        1e21: "1e+21",
        333333333.3333332: "333333333.3333332",
        0.000001: "0.000001",
        -0.0000033333333333333333: "-0.0000033333333333333333",
        1e-7: "1e-7",
        1424953923781206.2: "1424953923781206.2",
        -0.0: "0",
    }
    for number, text in written.items():
        assert canonical_text(number) == text


def test_a_number_of_another_library_is_a_number():
    class Float64(float):
        def __repr__(self):
            return f"np.float64({float(self)})"

    assert fingerprint("lesson", {"n": Float64(0.5)}) == fingerprint("lesson", {"n": 0.5})


def test_an_enumeration_with_its_own_order_is_sorted_as_its_texts():
    class Key(StrEnum):
        A, B = "a", "b"

        def __lt__(self, other):
            return str(self) > str(other)

    keys = {Key.A: 1, Key.B: 2}
    assert canonical_text(keys) == '{"a":1,"b":2}'


def test_keys_are_sorted_by_utf_16():
    """The keys are from RFC 8785, section 3.2.3."""
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "ö"]
    text = canonical_text(dict.fromkeys(keys, 0))
    assert list(json.loads(text)) == ["\r", "1", "\x80", "ö", "\u20ac", "\U0001f600", "\ufb33"]


documents = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("k"), inner),
        max_leaves=6,
    ),
    max_size=4,
)


@given(documents)
def test_what_was_read_back_has_the_same(document):
    """Reordering a document, or decoding its JSON text, keeps its fingerprint."""
    text = canonical_text(document)
    assert canonical_text(json.loads(text)) == text
    turned = dict(reversed(list(document.items())))
    assert fingerprint("lesson", turned) == fingerprint("lesson", document)


def test_another_process_computes_the_same():
    code = (
        "from aicontent import fingerprint\n"
        "print(fingerprint('lesson', {'b': {'y': 1.5, 'x': 'é'}, 'a': [1e21, None]}, 'A1', 'v1'))"
    )
    payload = {"a": [1e21, None], "b": {"x": "é", "y": 1.5}}
    ran = run_python(code)
    assert ran.stdout.strip() == fingerprint("lesson", payload, "A1", "v1"), ran.stderr


def test_node_computes_the_same():
    """The test runs the Node code of docs/guides/node.md."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    page = (ROOT / "docs/guides/node.md").read_text("utf-8")
    (code,) = re.findall(r"^```js\n(.*?)^```", page, re.M | re.S)
    payload = {
        "é": [1.0, 0.1, 1e21, 1e-7, -0.0, 123456789012345680000.0, True, None, "\x1f\x7f\u2028\\/"],
        "\ufb33": {"\U0001f600": {}, "b": []},
        "\U0001f600": 2**53 - 1,
    }
    asked = json.dumps({"request": payload, "type": "lesson", "level": "A2", "variant": {"v": 1}})
    call = f"console.log(fingerprint({asked}))"
    ran = subprocess.run([node, "-e", code + call], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == fingerprint("lesson", payload, "A2", {"v": 1}), ran.stderr


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("quiz", {}), "type"),
        (("lesson", []), "request_payload"),
        (("lesson", {"n": float("nan")}), "request_payload.n"),
        (("lesson", {1: 2}), "request_payload"),
        (("lesson", {}, "intermediate"), "level"),
        (("lesson", {}, "\ud800"), "level"),
        (("lesson", {}, None, {"v": {1}}), "variant.v"),
        (("lesson", {}, None, "\0"), "variant"),
    ],
)
def test_what_cannot_be_a_request(arguments, place):
    with pytest.raises(aicontent.ValidationError) as caught:
        fingerprint(*arguments)
    assert caught.value.field == place
