"""Choose the size of batches and the pauses of a long job, so that other writers wait little."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import peewee

_WATCHED = 5.0
"""Seconds for which other writers are expected to continue after they were seen."""

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
    """The seconds that a batch should take, without and with other writers."""

    pause: ClassVar[float]
    """The least seconds between two batches while there are other writers."""

    def __init__(
        self, database: peewee.Database, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._database: Any = database
        self._sleep = sleep
        self.size = _FIRST_BATCH
        # Begin with short batches, until it is known whether there are other writers.
        self._others_until = time.monotonic() + _WATCHED / 10

    @property
    def seconds(self) -> float:
        """Return the seconds that a batch should take now."""
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
        """Return whether another connection wrote since the last call, or was recently active."""

    def write_back(self) -> None:
        """Write back the log, if another writer would otherwise have to do it."""
        return


class SqlitePace(Pace):
    """The pace on SQLite, where a batch blocks other writers.

    A blocked writer tries again after 1, 2 and 5 ms (SQLite's busy handler), so with short batches
    it succeeds at the second try.
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
        if not self._database.connection().in_transaction:  # a test may have a transaction open
            self._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _data_version(self) -> int:
        # SQLite changes this number when another connection has written.
        return int(self._database.pragma("data_version"))


class PostgresqlPace(Pace):
    """The pace on PostgreSQL, where another commit waits until the batch's log is on the disk."""

    seconds_alone, seconds_with_others, pause = 0.2, 0.015, 0.02

    def sees_others(self) -> bool:
        # If this role may not see the activity of another role, it counts as active.
        return bool(self._database.execute_sql(_OTHERS, (_WATCHED,)).fetchone()[0])


def next_size(size: int, took: float, target: float, most: int) -> int:
    """Return the size of the next batch.

    Args:
        size: the rows of the last batch.
        took: the seconds that the last batch took.
        target: the seconds that a batch should take.
        most: the most rows of a batch.
    """
    if took > target:
        return min(most, max(1, int(size * target / took)))
    return min(most, size * 2) if took < target / 2 else min(most, size)
