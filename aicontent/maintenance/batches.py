"""Choose which rows a cleanup deletes next, in batches that other writers hardly notice."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import peewee

from ..database.deletion import DeletionSession
from ..database.supported import backend_of, database_of
from ..table import ContentTable

_LOOKED_UP = 50_000
"""Rows that are looked up at once: the more rows, the more neighbours; up to 6 MB of memory."""

_WATCHED = 5.0
"""Seconds for which other writers, once seen, are expected to go on."""


@dataclass(frozen=True)
class Reason:
    """A reason to delete rows: a condition, and the index that finds the rows in order."""

    name: str
    model: type[ContentTable]
    rule: Any
    order: Any
    index: str

    def select(self, *columns: Any) -> Any:
        """Select columns of the rows to delete."""
        return self.model.select(*columns).from_(self._source).where(self.rule)

    def any(self) -> bool:
        """Tell whether there is a row to delete."""
        return bool(list(self.select(self.model.id).limit(1).tuples()))

    @cached_property
    def _source(self) -> Any:
        return backend_of(database_of(self.model)).with_index(self.model, self.index, self.rule)


@contextmanager
def batches_of(database: peewee.Database) -> Iterator[Batches]:
    """Begin a session that deletes batches of rows."""
    with backend_of(database).deletion(database) as session:
        yield Batches(session)


class Batches:
    """Deletes rows in the order in which they are stored.

    Many rows are looked up at once, without a lock. The DELETE judges each row again, so a row
    that was renewed meanwhile survives. A cursor over the expiry would skip rows, because many
    rows may expire at the same moment.
    """

    lookup: Any
    """The query for the locations of rows to delete."""

    def __init__(self, session: DeletionSession) -> None:
        self.session = session
        self.others_until = time.monotonic() + _WATCHED / 10
        """Until when batches are short for other writers; at first until it is known."""

    @property
    def seconds(self) -> float:
        """How long a batch should take now."""
        session, with_others = self.session, time.monotonic() < self.others_until
        return session.seconds_with_others if with_others else session.seconds_alone

    def begin(self, reason: Reason) -> None:
        """Turn to the rows of one reason."""
        self._model, self._rule = reason.model, reason.rule
        self._locations: list[Any] = []
        locations = reason.select(peewee.SQL(self.session.location)).order_by(reason.order)
        self.lookup = locations.limit(_LOOKED_UP).tuples()
        self._sql, self._values = self.session.statement(self._model, self._rule)

    def delete(self, limit: int) -> tuple[int, float]:
        """Delete a batch of at most `limit` rows.

        Returns:
            The number of rows deleted, and for how many seconds other writers may have waited.
            No rows: none are left, or other transactions have locked them.
        """
        has_looked_up = False
        while self._locations or not has_looked_up:
            if not self._locations:
                self._locations, has_looked_up = self._look_up(), True
            part = self._locations[-limit:]
            del self._locations[-limit:]
            if part:  # otherwise the DELETE would lock for nothing
                deleted, took = self.session.delete(self._sql, part, self._values)
                if deleted:
                    return deleted, took
        return 0, 0.0

    def wait_for_others(self) -> bool:
        """Wait a while for rows that other transactions have locked; False if they stay locked."""
        return self.session.wait_for_lock(self._model, self._rule)

    def rest(self, took: float) -> None:
        """Pause after a batch if other connections are active."""
        self.session.write_back()
        if self.session.sees_others(_WATCHED):
            self.others_until = time.monotonic() + _WATCHED
        if time.monotonic() < self.others_until:
            time.sleep(max(self.session.pause, took))

    def _look_up(self) -> list[Any]:
        rows: Any = self.lookup.clone()
        locations = sorted((row[0] for row in rows), key=self.session.storage_order)
        # Cleanups that run at once begin at different rows, so they seldom meet.
        start = random.randrange(len(locations) + 1)  # noqa: S311 - no secret
        return locations[start:] + locations[:start]


def next_size(size: int, took: float, target: float, most: int) -> int:
    """Return the size of the next batch.

    Args:
        size: the rows of the last one.
        took: the seconds that it took.
        target: the seconds that a batch should take.
        most: the most rows of a batch.
    """
    if took > target:
        return max(1, int(size * target / took))
    return min(most, size * 2) if took < target / 2 else size
