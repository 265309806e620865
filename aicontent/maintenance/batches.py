"""How a portion of rows is deleted, on either database, beside others who write."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import peewee

from ..database.among import among, parameter
from ..database.connections import settings_lent
from ..database.constraints import database_code

if TYPE_CHECKING:
    from ..model import AIGeneratedContent

_LOCK_WAIT = "1s"

_LOOKED_UP = 50_000
"""Rows that are looked up at once: the more, the more neighbours; up to 6 MB of memory."""

_WATCHED = 5.0
"""Seconds for which others who were seen are taken to go on."""


@dataclass(frozen=True)
class Reason:
    """Why rows may go: a rule over the model's table, and the index that finds them in order."""

    name: str
    model: type[AIGeneratedContent]
    rule: Any
    order: Any
    index: str

    def select(self, *columns: Any) -> Any:
        """Select columns of the rows that may go."""
        return self.model.select(*columns).from_(self._source).where(self.rule)

    def any(self) -> bool:
        """Tell whether any row may go."""
        return bool(list(self.select(self.model.id).limit(1).tuples()))

    @cached_property
    def _source(self) -> Any:
        database: Any = self.model._database()
        if not isinstance(database, peewee.SqliteDatabase):
            return self.model
        # Without ANALYZE SQLite takes the index on status, and looks at all rows that failed.
        hinted = peewee.NodeList((self.model, peewee.SQL(f"INDEXED BY {self.index}")))
        sql, values = self.model.select(self.model.id).from_(hinted).where(self.rule).sql()
        try:
            database.execute_sql(f"EXPLAIN {sql}", values).fetchall()
        except peewee.OperationalError:  # there is no such index, or it is not ours
            return self.model
        return hinted


@contextmanager
def batches_of(database: peewee.Database) -> Iterator[Batches]:
    """Have a way to delete batches, with a connection's settings as they suit it."""
    if not isinstance(database, peewee.SqliteDatabase):
        yield _PostgresqlBatches(database)
        return
    # A checkpoint keeps nobody from writing, so it is no part of a batch.
    with settings_lent(database, wal_autocheckpoint=0):
        yield _SqliteBatches(database)


class Batches:
    """Many rows are looked up at once, without a lock, and deleted in the order in which they
    are stored: neighbours share pages of the table and of most indexes. Each is judged again by
    the statement that deletes it, so that a row which was renewed meanwhile survives.

    A cursor over the expiry would lose rows: many may share one.
    """

    place: ClassVar[str]
    """The column that says where a row is stored."""

    alone: ClassVar[float]
    beside_others: ClassVar[float]
    """Seconds that a batch is meant to take."""

    pause: ClassVar[float]
    """Seconds between two batches beside others, at the least."""

    find: Any
    """The query for the places of rows that may go."""

    def __init__(self, database: peewee.Database) -> None:
        self._database: Any = database
        self._watch_until = time.monotonic() + _WATCHED / 10

    @property
    def seconds(self) -> float:
        """How long a batch is meant to take now."""
        return self.beside_others if time.monotonic() < self._watch_until else self.alone

    def begin(self, reason: Reason) -> None:
        """Turn to the rows that may go for one reason."""
        self._model, self._rule = reason.model, reason.rule
        self._places: list[Any] = []
        places = reason.select(peewee.SQL(self.place)).order_by(reason.order)
        self.find = places.limit(_LOOKED_UP).tuples()
        self._sql, (_, *self._values) = self._deletion().sql()

    def delete(self, limit: int) -> tuple[int, float]:
        """Delete up to so many rows; return how many went, and how many seconds it took for
        which others may have waited. 0 rows: none are left, or others are at them."""
        looked_up = False
        while self._places or not looked_up:
            if not self._places:
                self._places, looked_up = self._look_up(), True
            part = self._places[-limit:]
            del self._places[-limit:]
            if part:  # else without a lock for nothing
                deleted, took = self._delete(part)
                if deleted:
                    return deleted, took
        return 0, 0.0

    def _look_up(self) -> list[Any]:
        found: Any = self.find.clone()
        places = sorted(self._key(place) for (place,) in found)
        # Several cleaners begin at different places, and seldom meet.
        start = random.randrange(len(places) + 1)  # noqa: S311 - no secret
        return places[start:] + places[:start]

    def wait_for_others(self) -> bool:
        """Wait a while for rows that others have locked; False when they stay locked."""
        return True

    def rest(self, took: float) -> None:
        """Look between two batches whether others are there, and if so make room for them."""
        if self._others_are_there():
            self._watch_until = time.monotonic() + _WATCHED
        if time.monotonic() < self._watch_until:
            time.sleep(max(self.pause, took))

    def _others_are_there(self) -> bool:
        raise NotImplementedError

    def _key(self, place: Any) -> Any:
        return place

    def _deletion(self) -> peewee.ModelDelete:
        raise NotImplementedError

    def _delete(self, part: list[Any]) -> tuple[int, float]:
        raise NotImplementedError


class _PostgresqlBatches(Batches):
    """Rows that others have locked are passed over: two cleaners take different rows, and none
    waits for a transaction that waits for it. Whoever commits has to wait until the disk has
    what a batch wrote to the log before, so beside others a batch is short."""

    place = "ctid"
    alone, beside_others, pause = 0.2, 0.015, 0.02

    def _key(self, place: str) -> tuple[int, int]:
        block, _, item = place[1:-1].partition(",")
        return int(block), int(item)

    def _deletion(self) -> Any:
        chosen = peewee.SQL("ctid = ANY(%s::tid[])", ("{}",))
        free: Any = self._model.select(peewee.SQL("ctid")).where(chosen, self._rule)
        free = free.for_update("FOR UPDATE SKIP LOCKED")
        # The array makes PostgreSQL look once, not once a row.
        taken = peewee.NodeList((peewee.SQL("ctid = ANY(ARRAY"), free, peewee.SQL(")")))
        return self._model.delete().where(taken)

    def _delete(self, part: list[Any]) -> tuple[int, float]:
        places = "{" + ",".join(f'"({block},{item})"' for block, item in part) + "}"
        began = time.monotonic()
        cursor = self._database.execute_sql(self._sql, (places, *self._values))
        return int(cursor.rowcount), time.monotonic() - began

    def _others_are_there(self) -> bool:
        # What sessions of other roles do is hidden from most roles, and then taken for work.
        return bool(self._database.execute_sql(_OTHERS, (_WATCHED,)).fetchone()[0])

    def wait_for_others(self) -> bool:
        try:
            with self._database.atomic():
                self._database.execute_sql(
                    "SELECT set_config('lock_timeout', %s, true)", (_LOCK_WAIT,)
                )
                rows: Any = self._model.select(self._model.id).where(self._rule)
                list(rows.limit(1).for_update().tuples())
        except peewee.OperationalError as error:
            if database_code(error) != "55P03":  # lock_not_available
                raise
            return False
        return True


class _SqliteBatches(Batches):
    """A batch keeps others from writing. One who waits tries again after 1, 2 and 5 ms (SQLite's
    busy handler), so that beside short batches each finds the database free at the second try."""

    place = "rowid"
    alone, beside_others, pause = 0.05, 0.0015, 0.01

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._version = self._data_version()

    def _deletion(self) -> Any:
        chosen = among(self._database, peewee.SQL(self.place), ())
        return self._model.delete().where(chosen, self._rule)

    def _delete(self, part: list[Any]) -> tuple[int, float]:
        with self._database.transaction("IMMEDIATE"):
            began = time.monotonic()  # the wait for the lock is over
            values = (parameter(self._database, part), *self._values)
            cursor = self._database.execute_sql(self._sql, values)
        return int(cursor.rowcount), time.monotonic() - began

    def rest(self, took: float) -> None:
        """Write the log back first: else whoever writes when it is full has to."""
        self._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        super().rest(took)

    def _others_are_there(self) -> bool:
        before, self._version = self._version, self._data_version()
        return self._version != before

    def _data_version(self) -> int:
        """Return a number that changes when another connection has written."""
        return int(self._database.pragma("data_version"))


_OTHERS = """
    SELECT EXISTS (
        SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'
        AND (state IS NULL OR state = 'active'
             OR state_change > clock_timestamp() - make_interval(secs => %s))
    )
"""
