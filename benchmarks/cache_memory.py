"""Measure the memory that a cache adds to a process which imports it and uses it once.

`caches` starts a process per contestant, which calls `report`. So this module imports neither
aicontent nor a contestant's library.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from .cache_libraries import CONTESTANTS
from .requests import Request


def report(name: str, url: str, topic: str) -> None:
    """Store and find an answer with a contestant, and print the bytes that this has added."""
    request = Request(1, "lesson", {"topic": topic, "minutes": 15}, "A2")
    before = _resident()
    contestant = CONTESTANTS[name](url)
    contestant.ask(request, {"title": topic, "body": "Read the menu, then order. " * 150})
    contestant.ask(request, {})
    print(_resident() - before)


def _resident() -> int:
    """Return the bytes of this process that are in memory, or the most so far without /proc."""
    file = Path("/proc/self/statm")
    if not file.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    return int(file.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
