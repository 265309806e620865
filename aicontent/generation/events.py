"""Log events of rows to the logger `aicontent.generation`, without content or prompts."""

import logging
import time
from typing import Any

logger = logging.getLogger("aicontent.generation")
logging.getLogger("aicontent").addHandler(logging.NullHandler())  # silent unless configured

_LEVELS = {
    "stored": logging.DEBUG,
    "failed": logging.WARNING,
    "retried": logging.WARNING,
    "rescued": logging.WARNING,
    "refused": logging.WARNING,
    "unrenewed": logging.WARNING,
    "error": logging.ERROR,
    "unstored": logging.ERROR,
}
"""Levels of events that are not INFO. `stored` is a cache hit, so it is DEBUG."""


def say(event: str, content: Any, seconds: float | None = None, note: str = "") -> None:
    """Log one event with the fields that docs/guides/monitoring.md lists.

    Args:
        event: the name of the event.
        content: the instance of the row.
        seconds: how long it took; by default the time since this process claimed the row.
        note: the cause, without content.
    """
    level = _LEVELS.get(event, logging.INFO)
    if not logger.isEnabledFor(level):
        return
    data = content.__data__
    if seconds is None and content._claimed_at is not None:
        seconds = time.monotonic() - content._claimed_at
    fields = {
        "event": event,
        "content_id": data.get("id"),
        "user_id": data.get("user"),
        "type": data.get("type"),
        "seconds": seconds,
        "attempt": data.get("attempts"),
    }
    logger.log(level, "%s %s%s", event, fields["content_id"], note and f": {note}", extra=fields)
