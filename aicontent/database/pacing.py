"""Pace the batches of a long job, so that other writers hardly notice it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import peewee

_WATCHED = 5.0
"""Seconds for which other writers, once seen, are expected to go on."""

_FIRST_BATCH = 20

_OTHERS = """
    SELECT EXISTS (
        SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'
        AND (state IS NULL OR state = 'active'
             OR state_change > clock_timestamp() - make_interval(secs => %s))
    )
"""


class Pace(ABC):
    """The size of the next batch, and the pauses between batches."""

    seconds_alone: ClassVar[float]
    seconds_with_others: ClassVar[float]
    """How long a batch should take, without and with other writers."""

    pause: ClassVar[float]
    """The least seconds between two batches next to other writers."""

    def __init__(
        self, database: peewee.Database, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._database: Any = database
        self._sleep = sleep
        self.size = _FIRST_BATCH
        # Batches are short for other writers; at first until it is known whether there are any.
        self._others_until = time.monotonic() + _WATCHED / 10

    @property
    def seconds(self) -> float:
        """How long a batch should take now."""
        with_others = time.monotonic() < self._others_until
        return self.seconds_with_others if with_others else self.seconds_alone

    def rest(self, took: float, most: int) -> None:
        """Choose the size of the next batch, and pause if other connections are active.

        Args:
            took: the seconds that the last batch took.
            most: the most rows of a batch.
        """
        self.size = next_size(self.size, took, self.seconds, most)
        self.write_back()
        if self.sees_others():
            self._others_until = time.monotonic() + _WATCHED
        if time.monotonic() < self._others_until:
            self._sleep(max(self.pause, took))

    @abstractmethod
    def sees_others(self) -> bool:
        """Tell whether another connection wrote since the last call, or was active just before."""

    def write_back(self) -> None:
        """Do the work that would otherwise delay the next writer, if there is any."""
        return


class SqlitePace(Pace):
    """On SQLite a batch blocks other writers.

    A writer that waits tries again after 1, 2 and 5 ms (SQLite's busy handler), so next to short
    batches it succeeds at the second try.
    """

    seconds_alone, seconds_with_others, pause = 0.05, 0.0015, 0.01

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._version = self._data_version()

    def sees_others(self) -> bool:
        before, self._version = self._version, self._data_version()
        return self._version != before

    def write_back(self) -> None:
        # Otherwise the writer that fills the log must write it back.
        if not self._database.connection().in_transaction:  # as in a test that is rolled back
            self._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _data_version(self) -> int:
        # This number changes when another connection has written.
        return int(self._database.pragma("data_version"))


class PostgresqlPace(Pace):
    """On PostgreSQL a commit waits until the disk has the log of a batch before it."""

    seconds_alone, seconds_with_others, pause = 0.2, 0.015, 0.02

    def sees_others(self) -> bool:
        # The activity of other roles is hidden from most roles, and then counts as activity.
        return bool(self._database.execute_sql(_OTHERS, (_WATCHED,)).fetchone()[0])


def next_size(size: int, took: float, target: float, most: int) -> int:
    """Return the size of the next batch.

    Args:
        size: the rows of the last one.
        took: the seconds that it took.
        target: the seconds that a batch should take.
        most: the most rows of a batch.
    """
    if took > target:
        return min(most, max(1, int(size * target / took)))
    return min(most, size * 2) if took < target / 2 else min(most, size)
