"""Failure reasons identify the cause and contain no secrets."""

from __future__ import annotations

import pytest

import aicontent
from aicontent.generation.failures import reason_of


@pytest.mark.parametrize(
    ("said", "noted"),
    [
        ("rate limit reached, 20 s", "rate limit reached, 20 s"),
        ("bad key sk-proj-abcDEF1234567890", "bad key […]"),
        ("api_key=hunter2 refused", "api_key=[…] refused"),
        ('{"password": "hunter2"}', '{"password": […]}'),
        ('password="correct horse battery" is wrong', "password=[…] is wrong"),
        ("password=pa,ss is wrong", "password=[…] is wrong"),
        ("passphrase: abc", "passphrase: […]"),
        ("Set-Cookie: sid=1; Path=/", "Set-Cookie: […]"),
        ("Authorization: Bearer abc.def", "Authorization: […]"),
        ("postgresql://app:hunter2@db/x is down", "postgresql://[…]@db/x is down"),
        ("postgresql://u:p@ss/w@host/db", "postgresql://[…]@host/db"),
        ("Bearer abc.def is no token", "Bearer […] is no token"),
        (
            "model claude-3-5-sonnet-20241022 overloaded",
            "model claude-3-5-sonnet-20241022 overloaded",
        ),
        ("token ghp_abcdefghijklmnop1234", "token […]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def is no session", "[…] is no session"),
        ("two\nlines\x1b[31m", "two lines [31m"),
        ("NUL \0 in it", "NUL in it"),
        ("lone \ud800", "lone"),
    ],
)
def test_a_text_is_kept_without_what_looks_like_a_secret(said, noted):
    assert reason_of(said) == noted


def test_a_long_text_is_cut():
    assert len(reason_of("word " * 1000)) == 500


@pytest.mark.parametrize("hostile", [".", "/x", "a1", "key=", "://", "=", '"', "pass", "a-"])
def test_a_hostile_text_takes_no_time(hostile):
    """Only the start of the text is read, so that a regex with backtracking ends soon."""
    assert len(reason_of(hostile * 100_000)) <= 500


def test_of_an_exception_the_class_alone():
    assert reason_of(RuntimeError("hunter2")) == "RuntimeError"
    assert reason_of(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_of_a_validation_error_all_for_it_repeats_no_value():
    error = aicontent.ValidationError("generated_data.x", "must be a finite number", "float nan")
    assert reason_of(error) == str(error)


@pytest.mark.parametrize("said", [None, 1, b"bytes", ["why"]])
def test_what_is_no_reason(said):
    with pytest.raises(aicontent.ValidationError, match="reason: must be a str or an exception"):
        reason_of(said)
