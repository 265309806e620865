"""Record failed attempts in `metadata["lastFailure"]` without secrets, and compute the backoff."""

import random
import re
from typing import Any

import peewee

from ..database.supported import backend_of, database_of
from ..errors import ArgumentError, GeneratedContentError, ValidationError, kind_of, printable
from ..table import ContentTable

LEASE_RAN_OUT = "the lease ran out"
UNREADABLE = "the stored request cannot be read"
UNKNOWN = "no reason was noted"

_LONGEST_BACKOFF = 300.0

_KEY = "lastFailure"
_LONGEST = 500
_READ = 2000
"""Characters of a reason that are searched for secrets: more than are stored."""

_NAMES = r"[\w-]*(?:key|token|secret|passw(?:or)?d|passphrase|pass|pwd|credentials?|session|sid)"
_SECRETS = rf"""
      (?P<url>://)\S*@                                   # user and password in a URL
    | (?P<header>(?<![\w-])[\w-]*(?:authorization|cookie)["']?\s*[:=]\s*).*   # a header, to its end
    | (?P<scheme>\b(?:bearer|basic|digest)\s+)\S+
    | (?P<quoted>(?<![\w-]){_NAMES}["']?\s*[:=]\s*)(?:"[^"]*"?|'[^']*'?)     # a quoted value
    | (?P<name>(?<![\w-]){_NAMES}\s*[:=]\s*)[^\s&]+                       # a bare one
    | (?<![\w-])(?:sk|pk|rk|ghp|gho|xox[a-z]|hf|AKIA|AIza)[-_]?[\w*-]{{8,}}  # keys by their prefix
    | (?<![\w+/=.-])(?=[\w+/=.-]*\d)(?=[\w+/=.-]*[A-Za-z])[\w+/=.-]{{28,}}   # any long token
"""


def reason_of(failure: str | BaseException) -> str:
    """Return the reason of a failure without secrets, so that it can be stored and shown.

    Args:
        failure: a text, from which anything that looks like a secret is removed; or an exception.
            A ValidationError or GeneratedContentError gives its message, which repeats no value.
            Any other exception gives only its class, because its message may contain keys,
            addresses or prompts.

    Raises:
        ArgumentError: `failure` is neither.
    """
    if isinstance(failure, (ValidationError, GeneratedContentError)):
        failure = str(failure)  # these messages never repeat a value
    if isinstance(failure, BaseException):
        return type(failure).__qualname__
    if not isinstance(failure, str):
        raise ArgumentError("reason", "must be a str or an exception", kind_of(failure))
    text = re.sub(_SECRETS, _without_secret, failure[:_READ], flags=re.VERBOSE | re.IGNORECASE)
    text = " ".join(printable(text, " ").split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _without_secret(match: re.Match[str]) -> str:
    prefix = next((group for group in match.groups() if group), "")
    return f"{prefix}[…]" + ("@" if match["url"] else "")


def with_failure(model: type[ContentTable], reason: Any) -> Any:
    """Return the SQL expression for a row's metadata with a failure recorded in it.

    Args:
        model: the bound model.
        reason: the text, or a slot for it.
    """
    entries = {"reason": peewee.Cast(reason, "text"), "attempt": model.attempts}
    return backend_of(database_of(model)).with_entry(model.metadata, _KEY, entries)


def failure_of(reason: str) -> dict[str, Any]:
    """Return new metadata with a recorded reason."""
    return {_KEY: {"reason": reason}}


def recorded_reason(metadata: Any) -> str:
    """Return the last recorded reason from a row's metadata."""
    failure = metadata.get(_KEY) if isinstance(metadata, dict) else None
    return str(failure.get("reason", UNKNOWN)) if isinstance(failure, dict) else UNKNOWN


def backoff(failures: int) -> float:
    """Return the seconds to wait before a retry: 1 to 300, doubled for each earlier failure.

    Jitter of up to 50 % spreads the retries of rows that failed at the same time.
    """
    jitter = random.uniform(1, 1.5)  # noqa: S311 - no secret
    return min(_LONGEST_BACKOFF / 1.5, 2.0 ** min(failures, 10)) * jitter
