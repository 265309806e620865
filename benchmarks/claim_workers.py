"""Define workers that claim and complete content: with aicontent, and with SQLite's driver alone.

`claims` measures them, and compares them with the workers of `job_queues`.
"""

from __future__ import annotations

import json
from time import perf_counter, sleep
from typing import Any

import peewee

import aicontent
from aicontent import AIGeneratedContent

from .processes import PAUSE
from .tables import TABLE

_ROWS = 500
"""Rows of one call of `work()`."""


def payload(number: int) -> dict[str, Any]:
    """Return the request of a pending row, which is also the payload of another queue's job."""
    return {"topic": f"number {number}", "minutes": 15}


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

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._model = aicontent.for_database(database)

    def process(self) -> bool:
        content = self._model.claim()
        if content is not None:
            content.complete({"title": "done"})
        return content is not None


class Working(Worker):
    """Let `work()` claim, generate without delay, and complete."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._model = aicontent.for_database(database)

    def process(self) -> bool:
        looks = iter([False] * _ROWS)
        report = self._model.work(
            lambda content: {"title": "done"}, until_empty=True, stop=lambda: next(looks, True)
        )
        self.count += max(0, report.completed - 1)  # step() counts one
        return report.completed > 0


class DriverClaims(Worker):
    """Claim and complete content with SQLite's driver alone, using the same statements."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._connection: Any = database.connection()
        names = list(AIGeneratedContent._meta.columns)
        columns = ", ".join(f'"{name}"' for name in names)
        self._payload = names.index("requestPayload")
        now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
        lease = "strftime('%Y-%m-%d %H:%M:%f000', 'now', '+300.000 seconds')"
        self._claim = f"""
            UPDATE {TABLE} SET status = 'generating', attempts = attempts + 1,
                "updatedAt" = {now}, "leaseExpiresAt" = {lease}
            WHERE id = (
                SELECT id FROM {TABLE} WHERE COALESCE(status, '') = 'pending' AND "retryAt" IS NULL
                ORDER BY "createdAt", id LIMIT 1
            ) AND COALESCE(status, '') = 'pending' RETURNING {columns}
        """
        self._complete = f"""
            UPDATE {TABLE} SET status = 'completed', "generatedData" = ?,
                "leaseExpiresAt" = NULL, "updatedAt" = {now}
            WHERE id = ? AND status IN ('pending', 'generating', 'failed') RETURNING "updatedAt"
        """

    def process(self) -> bool:
        rows = self._connection.execute(self._claim).fetchall()
        for row in rows:
            json.loads(row[self._payload])
            parameters = ('{"title":"done"}', row[0])
            self._connection.execute(self._complete, parameters).fetchall()
        return bool(rows)
