"""How a portion of rows is deleted, on either database, beside others who write."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import peewee

from .integrity import database_code

if TYPE_CHECKING:
    from .model import AIGeneratedContent

_LOCK_WAIT = "1s"

_LOOKED_UP = 50_000
"""Rows that are looked up at once on SQLite: the more, the more neighbours; 2 MB of memory."""

_ALONE, _BESIDE_OTHERS = 0.05, 0.002
"""Seconds that a batch is to take on SQLite, where it keeps others from writing so long."""

_PAUSE = 0.01
"""Seconds between batches beside others. One who waits tries again after 1, 2 and 5 ms
(SQLite's busy handler), so that each finds the database free at the second try."""

_WATCHED = 5.0
"""Seconds for which others are taken to go on writing."""


@contextmanager
def batches_of(database: peewee.Database) -> Iterator[Batches]:
    """Have a way to delete batches, with a connection's settings as they suit it."""
    if not isinstance(database, peewee.SqliteDatabase):
        yield Batches(database)
        return
    before = database.pragma("wal_autocheckpoint")
    try:
        # A checkpoint keeps nobody from writing, so it is no part of a batch.
        database.pragma("wal_autocheckpoint", 0)
        yield _SqliteBatches(database)
    finally:
        database.pragma("wal_autocheckpoint", before)


class Batches:
    """Batches on PostgreSQL, where rows are locked: a second cleaner takes other rows.

    `seconds` is how long a batch is meant to take.
    """

    seconds = 0.05

    def __init__(self, database: peewee.Database) -> None:
        self._database: Any = database

    def begin(self, model: type[AIGeneratedContent], rule: Any, order: Any) -> None:
        """Turn to the rows that a rule lets go, in the order that its index has."""
        self._model, self._rule, self._order = model, rule, order
        self._ids = model.select(model.id).where(rule).order_by(order)

    def delete(self, limit: int) -> tuple[int, float]:
        """Delete up to so many rows; return how many went, and in how many seconds.

        One statement looks and deletes: a row that was renewed meanwhile survives. By id, not
        by the last value seen: many rows may share one expiry.
        """
        began = time.monotonic()
        batch: Any = self._ids.limit(limit).for_update("FOR UPDATE SKIP LOCKED")  # type: ignore[arg-type]
        # The array makes PostgreSQL look once, not once a row.
        ids = peewee.fn.ANY(peewee.fn.ARRAY(batch))
        deleted = int(self._model.delete().where(self._model.id == ids).execute())
        return deleted, time.monotonic() - began

    def wait_for_others(self) -> bool:
        """Wait a while for rows that others have locked; False when they stay locked."""
        try:
            with self._database.atomic():
                self._database.execute_sql(
                    "SELECT set_config('lock_timeout', %s, true)", (_LOCK_WAIT,)
                )
                list(self._ids.limit(1).for_update().tuples())
        except peewee.OperationalError as error:
            if database_code(error) != "55P03":  # lock_not_available
                raise
            return False
        return True

    def rest(self, took: float) -> None:
        """Do between two batches what others may need; nothing on PostgreSQL."""


class _SqliteBatches(Batches):
    """Batches on SQLite: many rows are looked up at once, without a lock, and deleted in the
    order in which they are stored. Neighbours share pages of the table and of most indexes;
    deleting by expiry wrote twice as much. Each is judged again when it is deleted."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._version = self._data_version()
        self._watch_until = time.monotonic() + _WATCHED / 10

    @property
    def seconds(self) -> float:  # type: ignore[override]
        """Less beside others who write."""
        return _BESIDE_OTHERS if time.monotonic() < self._watch_until else _ALONE

    def begin(self, model: type[AIGeneratedContent], rule: Any, order: Any) -> None:
        """Turn to the rows that a rule lets go."""
        super().begin(model, rule, order)
        self._rows: list[int] = []
        chosen = peewee.SQL("rowid IN (SELECT value FROM json_each(?))", ("[]",))
        self._sql, (_, *self._values) = model.delete().where(chosen, rule).sql()

    def delete(self, limit: int) -> tuple[int, float]:
        """Delete up to so many rows; the seconds are those that the write lock was held."""
        if not self._rows:
            found: Any = self._model.select(peewee.SQL("rowid")).where(self._rule)
            rows = found.order_by(self._order).limit(_LOOKED_UP).tuples()
            self._rows = sorted((row for (row,) in rows), reverse=True)
        if not self._rows:
            return 0, 0.0  # without taking the write lock for nothing
        part = self._rows[-limit:]
        del self._rows[-limit:]
        values = (json.dumps(part), *self._values)
        with self._database.transaction("IMMEDIATE"):
            began = time.monotonic()  # the wait for the lock is over
            deleted = int(self._database.execute_sql(self._sql, values).rowcount)
        took = time.monotonic() - began
        if not deleted:
            self._rows = []  # another cleaner is ahead: look again
        return deleted, took

    def wait_for_others(self) -> bool:
        """Nothing to wait for: SQLite locks no rows."""
        return True

    def rest(self, took: float) -> None:
        """Write the log back, look whether others write, and if so make room for them."""
        # Else whoever writes when the log has a thousand pages would have to.
        self._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        version, now = self._data_version(), time.monotonic()
        if version != self._version:
            self._version, self._watch_until = version, now + _WATCHED
        if now < self._watch_until:
            time.sleep(max(_PAUSE, took))

    def _data_version(self) -> int:
        """Return a number that changes when another connection has written."""
        return int(self._database.pragma("data_version"))
