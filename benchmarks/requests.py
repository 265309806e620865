"""Define a user's request, and its key in a cache.

`hot_paths`, `caches` and `load` use it. It imports no contestant, so that `caches` can measure the
memory that each of them adds.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple


class Request(NamedTuple):
    """A user's request, as `get_or_generate()` takes it."""

    user: int
    type: str
    payload: dict[str, Any]
    level: str | None = None


def request_text(request: Request) -> str:
    """Format a request as canonical JSON, without the user and as one would by hand."""
    document = {
        "level": request.level,
        "request": request.payload,
        "type": request.type,
        "variant": None,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def request_hash(request: Request) -> str:
    """Return the SHA-256 hash of a request, which is the same as `aicontent.fingerprint`."""
    return hashlib.sha256(request_text(request).encode()).hexdigest()
