"""Why generating failed: what is noted of it in `metadata["lastFailure"]`."""

from __future__ import annotations

import re
from typing import Any

import peewee

from ..errors import ValidationError
from ..fields.policy import kind_of

LEASE_RAN_OUT = "the lease ran out"
UNKNOWN = "no reason was noted"

_KEY = "lastFailure"
_LONGEST = 500
_READ = 2000
"""Characters of a text that are looked at: enough for what is kept."""

_NAMES = r"[\w-]*(?:key|token|secret|passw(?:or)?d|passphrase|pass|pwd|credentials?|session|sid)"
_SECRETS = re.compile(
    rf"""
      (?P<url>://)\S*@                                   # whom a URL is opened by
    | (?P<header>(?<![\w-])[\w-]*(?:authorization|cookie)["']?\s*[:=]\s*).*   # a header, to its end
    | (?P<scheme>\b(?:bearer|basic|digest)\s+)\S+
    | (?P<quoted>(?<![\w-]){_NAMES}["']?\s*[:=]\s*)(?:"[^"]*"?|'[^']*'?)     # a quoted value
    | (?P<name>(?<![\w-]){_NAMES}\s*[:=]\s*)[^\s&]+                       # a bare one
    | (?<![\w-])(?:sk|pk|rk|ghp|gho|xox[a-z]|hf|AKIA|AIza)[-_]?[\w*-]{{8,}}  # keys by their prefix
    | (?<![\w+/=.-])(?=[\w+/=.-]*\d)(?=[\w+/=.-]*[A-Za-z])[\w+/=.-]{{28,}}   # whatever is long
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
    text = _SECRETS.sub(_without_secret, failure[:_READ])
    text = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _without_secret(found: re.Match[str]) -> str:
    kept = next((group for group in found.groups() if group), "")
    return f"{kept}[…]" + ("@" if found["url"] else "")


def with_failure(model: Any, reason: str) -> Any:
    """Return the expression for a row's metadata with a failure noted in it."""
    # The names are constants, for a server that prepares statements asks for parameters' types.
    key, names = peewee.SQL(f"'{_KEY}'"), (peewee.SQL("'reason'"), peewee.SQL("'attempt'"))
    fn, metadata = peewee.fn, model.metadata
    said = (names[0], peewee.Cast(reason, "text"), names[1], model.attempts)
    # What else another program may have put there gives way.
    if isinstance(model._database(), peewee.PostgresqlDatabase):
        is_object = fn.jsonb_typeof(metadata) == peewee.SQL("'object'")
        kept = peewee.Case(None, [(is_object, metadata)], peewee.SQL("'{}'::jsonb"))
        noted = fn.jsonb_build_object(key, fn.jsonb_build_object(*said))
        return peewee.Expression(kept, "||", noted)
    is_object = fn.json_type(metadata) == peewee.SQL("'object'")
    kept = peewee.Case(None, [(is_object, metadata)], peewee.SQL("'{}'"))
    return fn.json_set(kept, peewee.SQL(f"'$.{_KEY}'"), fn.json_object(*said))


def noted_reason(metadata: Any) -> str:
    """Return the reason that was noted last."""
    failure = metadata.get(_KEY) if isinstance(metadata, dict) else None
    return str(failure.get("reason", UNKNOWN)) if isinstance(failure, dict) else UNKNOWN
