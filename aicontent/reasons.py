"""Why generating failed: what is noted of it in `metadata["lastFailure"]`."""

from __future__ import annotations

import re
from typing import Any

import peewee

from .documents import kind_of
from .errors import ValidationError

LEASE_RAN_OUT = "the lease ran out"
UNKNOWN = "no reason was noted"

_KEY = "lastFailure"
_LONGEST = 500

_SECRETS = re.compile(
    r"""
    (?P<user>://[^\s/:@]*:)[^\s/@]*(?=@)                            # a password in a URL
    | (?P<scheme>\b(?:bearer|basic)\s+)\S+                           # an HTTP header's
    | (?P<name>(?:api|access|secret|private|auth)?[-_ ]?
      (?:key|token|secret|passw(?:or)?d|pwd|credentials?)["']?\s*[:=]\s*["']?)[^\s"',;&]+
    | \b(?:sk|pk|rk|ghp|gho|xox[a-z]|hf|AKIA|AIza)[-_]?[A-Za-z0-9_*-]{8,}   # keys by their prefix
    | (?<![\w-])(?=[\w+/=.-]*\d)(?=[\w+/=.-]*[A-Za-z])[\w+/=.-]{24,}        # whatever else is long
    """,
    re.VERBOSE | re.IGNORECASE,
)


def reason_of(failure: str | BaseException) -> str:
    """Return a failure as it may be kept and shown.

    Args:
        failure: a text, of which what looks like a secret is left out; or an exception, of
            which the class alone is told: its message may hold keys, addresses or prompts.

    Raises:
        ValidationError: it is neither.
    """
    if isinstance(failure, ValidationError):
        failure = str(failure)  # which never repeats a value
    if isinstance(failure, BaseException):
        return type(failure).__qualname__
    if not isinstance(failure, str):
        raise ValidationError("reason", "must be a str or an exception", kind_of(failure))
    text = _SECRETS.sub(_without_secret, failure)
    text = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _without_secret(found: re.Match[str]) -> str:
    kept = found["user"] or found["scheme"] or found["name"] or ""
    return f"{kept}[…]"


def with_failure(model: Any, reason: str) -> Any:
    """Return the expression for a row's metadata with a failure noted in it."""
    fn = peewee.fn
    if isinstance(model._database(), peewee.PostgresqlDatabase):
        none = peewee.SQL("'{}'::jsonb")
        failure = fn.jsonb_build_object(
            "reason", peewee.Cast(reason, "text"), "attempt", model.attempts
        )
        noted = fn.jsonb_build_object(_KEY, failure)
        return peewee.Expression(fn.COALESCE(model.metadata, none), "||", noted)
    failure = fn.json_object("reason", reason, "attempt", model.attempts)
    return fn.json_set(fn.COALESCE(model.metadata, "{}"), f"$.{_KEY}", failure)


def noted_reason(metadata: dict[str, Any] | None) -> str:
    """Return the reason that was noted last."""
    failure = (metadata or {}).get(_KEY)
    return str(failure.get("reason", UNKNOWN)) if isinstance(failure, dict) else UNKNOWN
