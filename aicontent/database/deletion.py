"""Delete one batch of rows on either backend, next to other writers.

`maintenance.batches` decides which rows and how many; a session here executes the batch.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import peewee

from .constraints import error_code

Atomic = Callable[..., AbstractContextManager[Any]]
"""Begins a transaction of a database: `Backend.atomic`."""

_LOCK_WAIT = "1s"

_OTHERS = """
    SELECT EXISTS (
        SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'
        AND (state IS NULL OR state = 'active'
             OR state_change > clock_timestamp() - make_interval(secs => %s))
    )
"""


class DeletionSession(ABC):
    """Deletes batches of rows, which are named by where they are stored.

    Neighbours share pages of the table and of most indexes, so a batch in the order of storage
    is the fastest.
    """

    location: ClassVar[str]
    """The column that says where a row is stored."""

    seconds_alone: ClassVar[float]
    seconds_with_others: ClassVar[float]
    """How long a batch should take, without and with other writers."""

    pause: ClassVar[float]
    """The least seconds between two batches next to other writers."""

    def __init__(self, database: peewee.Database, atomic: Atomic) -> None:
        self._database: Any = database
        self._atomic = atomic

    def storage_order(self, location: Any) -> Any:
        """Return the key that sorts locations in the order of storage."""
        return location

    @abstractmethod
    def statement(self, model: type[peewee.Model], rule: Any) -> tuple[str, list[Any]]:
        """Return the DELETE of the rows at some locations that fulfil a rule, and its values.

        The first value, which is the array of locations, is left out.
        """

    @abstractmethod
    def delete(self, sql: str, locations: list[Any], values: list[Any]) -> tuple[int, float]:
        """Execute the DELETE; return the rows deleted and the seconds that others may wait."""

    @abstractmethod
    def sees_others(self, seconds: float) -> bool:
        """Tell whether another connection wrote since the last call, or was active in `seconds`."""

    def write_back(self) -> None:
        """Do the work that would otherwise delay the next writer, if there is any."""
        return

    def wait_for_lock(self, model: type[peewee.Model], rule: Any) -> bool:
        """Wait a while for a row that another transaction has locked; False if it stays locked."""
        return True


class SqliteDeletion(DeletionSession):
    """On SQLite a batch blocks other writers.

    A writer that waits tries again after 1, 2 and 5 ms (SQLite's busy handler), so next to short
    batches it succeeds at the second try.
    """

    location = "rowid"
    seconds_alone, seconds_with_others, pause = 0.05, 0.0015, 0.01

    def __init__(self, database: peewee.Database, atomic: Atomic) -> None:
        super().__init__(database, atomic)
        self._version = self._data_version()

    def statement(self, model: type[peewee.Model], rule: Any) -> tuple[str, list[Any]]:
        chosen = peewee.SQL(f"{self.location} IN (SELECT value FROM json_each(?))", ("[]",))
        sql, (_, *values) = model.delete().where(chosen, rule).sql()
        return sql, values

    def delete(self, sql: str, locations: list[Any], values: list[Any]) -> tuple[int, float]:
        with self._atomic(self._database, "IMMEDIATE"):
            began = time.monotonic()  # the wait for the lock is over
            cursor = self._database.execute_sql(sql, (json.dumps(locations), *values))
        return int(cursor.rowcount), time.monotonic() - began

    def sees_others(self, seconds: float) -> bool:
        before, self._version = self._version, self._data_version()
        return self._version != before

    def write_back(self) -> None:
        # Otherwise the writer that fills the log must write it back.
        self._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _data_version(self) -> int:
        # This number changes when another connection has written.
        return int(self._database.pragma("data_version"))


class PostgresqlDeletion(DeletionSession):
    """On PostgreSQL a batch passes over rows that other transactions have locked.

    Two cleanups delete different rows, and neither waits for a transaction that waits for it. A
    commit waits until the disk has the log of a batch before it, so batches are short next to
    other writers.
    """

    location = "ctid"
    seconds_alone, seconds_with_others, pause = 0.2, 0.015, 0.02

    def storage_order(self, location: str) -> tuple[int, int]:
        block, _, item = location[1:-1].partition(",")
        return int(block), int(item)

    def statement(self, model: type[peewee.Model], rule: Any) -> tuple[str, list[Any]]:
        chosen = peewee.SQL("ctid = ANY(%s::tid[])", ("{}",))
        free: Any = model.select(peewee.SQL("ctid")).where(chosen, rule)
        free = free.for_update("FOR UPDATE SKIP LOCKED")
        # The array makes PostgreSQL run the subquery once, not once per row.
        condition = peewee.NodeList((peewee.SQL("ctid = ANY(ARRAY"), free, peewee.SQL(")")))
        sql, (_, *values) = model.delete().where(condition).sql()
        return sql, values

    def delete(self, sql: str, locations: list[Any], values: list[Any]) -> tuple[int, float]:
        array = "{" + ",".join(f'"{location}"' for location in locations) + "}"
        began = time.monotonic()
        cursor = self._database.execute_sql(sql, (array, *values))
        return int(cursor.rowcount), time.monotonic() - began

    def sees_others(self, seconds: float) -> bool:
        # The activity of other roles is hidden from most roles, and then counts as activity.
        return bool(self._database.execute_sql(_OTHERS, (seconds,)).fetchone()[0])

    def wait_for_lock(self, model: type[peewee.Model], rule: Any) -> bool:
        set_timeout = "SELECT set_config('lock_timeout', %s, true)"
        try:
            with self._atomic(self._database):
                self._database.execute_sql(set_timeout, (_LOCK_WAIT,))
                rows: Any = model.select(model._meta.primary_key).where(rule)
                list(rows.limit(1).for_update().tuples())
        except peewee.OperationalError as error:
            if error_code(error) != "55P03":  # lock_not_available
                raise
            return False
        return True
