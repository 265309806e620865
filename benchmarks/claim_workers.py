"""Define workers that claim and complete content: with aicontent, and with SQLite's driver alone.

`claims` measures them, and compares them with the workers of `job_queues`.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter, sleep
from typing import Any

import peewee

import aicontent

from .contestants import Values
from .load_contestants import DOCUMENT, AIContentWithClaims, DriverWithClaims
from .processes import PAUSE
from .tables import USERS

_ROWS = 500
"""Rows of one call of `work()`."""


def payload(number: int) -> dict[str, Any]:
    """Return the request of a pending row, which is also the payload of another queue's job."""
    return {"topic": f"number {number}", "minutes": 15}


def pending_rows(first: int, end: int) -> Iterator[Values]:
    """Generate pending rows with different requests, numbered from `first` to before `end`."""
    for number in range(first, end):
        yield {
            "user": number % USERS + 1,
            "type": "lesson",
            "request_payload": payload(number),
            "fingerprint": f"{number:064x}",
        }


class Worker:
    """Process rows as fast as possible, and count them until none is pending."""

    def __init__(self, database: peewee.Database) -> None:
        self.count, self.start, self.end = 0, 0.0, 0.0

    def process(self) -> bool:
        """Claim and complete a row; return False if none is pending."""
        raise NotImplementedError

    def step(self) -> None:
        self.start = self.start or perf_counter()
        if not self.end and self.process():
            self.count += 1
        else:
            self.end = self.end or perf_counter()
            sleep(PAUSE)

    def result(self) -> dict[str, float]:
        return {"a_second": self.count / ((self.end or perf_counter()) - self.start)}


class Claims(Worker):
    """Claim and complete content with aicontent."""

    contestant: type[AIContentWithClaims | DriverWithClaims] = AIContentWithClaims

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._contestant = self.contestant(database)

    def process(self) -> bool:
        return self._contestant.claim_and_complete() is not None


class DriverClaims(Claims):
    """Claim and complete content with the driver alone."""

    contestant = DriverWithClaims


class Working(Worker):
    """Let `work()` claim, generate without delay, and complete."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._model = aicontent.for_database(database)

    def process(self) -> bool:
        looks = iter([False] * _ROWS)
        report = self._model.work(
            lambda content: DOCUMENT, until_empty=True, stop=lambda: next(looks, True)
        )
        self.count += max(0, report.completed - 1)  # step() counts one
        return report.completed > 0
