"""Backends for Peewee's asyncio databases (`playhouse.pwasyncio`), used in `await db.run(...)`.

Peewee runs such a call in a greenlet, which awaits the driver where the call would block.
"""

import asyncio
from contextlib import nullcontext
from typing import Any, NoReturn

import peewee

from ..errors import UnsupportedDatabaseError
from .backend import Backend
from .pacing import Pace
from .postgresql import PostgresqlBackend
from .sqlite import SqliteBackend


def _awaited_sleep(seconds: Any) -> None:
    from playhouse.pwasyncio import await_  # type: ignore[import-untyped]

    await_(asyncio.sleep(seconds))


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise UnsupportedDatabaseError(
        "this call needs a plain connection, which an asyncio database of Peewee does not have: to "
        "migrate, import, export, create_many(), cleanup() or reclaim(), open the same database "
        "with aicontent.connect(), and get its model from aicontent.for_database()"
    )


class _BridgedPace(Pace):
    """A pace for batches that always share the database with other tasks of the loop."""

    seconds_alone = seconds_with_others = 0.005
    pause = 0.01

    def sees_others(self) -> bool:
        return True


class _Bridged(Backend):
    """Base class of both asyncio backends."""

    is_bridged = True
    _refused: Any = _refuse
    migration_lock = bulk_settings = stream = loader = reclaim = deletion = _refused

    sleep = staticmethod(_awaited_sleep)

    def snapshot(self, database: peewee.Database) -> Any:
        return self.atomic(database)

    def pace(self, database: peewee.Database) -> Any:
        return nullcontext(_BridgedPace(database, _awaited_sleep))

    def _connection(self, database: Any) -> Any:
        """Return the driver's connection that this task has open, or None."""
        return None if database.is_closed() else database.connection().conn


class BridgedSqliteBackend(_Bridged, SqliteBackend):
    """SQLite through aiosqlite."""

    def configuration_problem(self, database: Any) -> str | None:
        # The pragmas are read from the settings, because opening a connection needs the loop.
        enforces = dict(database._pragmas).get("foreign_keys")
        return None if enforces else self.foreign_keys_problem

    def has_begun(self, database: peewee.Database) -> bool:
        connection = self._connection(database)
        return connection is not None and bool(connection.in_transaction)


class BridgedPostgresqlBackend(_Bridged, PostgresqlBackend):
    """PostgreSQL through asyncpg."""

    def has_begun(self, database: peewee.Database) -> bool:
        connection = self._connection(database)
        return connection is not None and bool(connection.is_in_transaction())

    def is_lost(self, database: peewee.Database, error: BaseException | None = None) -> bool:
        connection = self._connection(database)
        return connection is not None and bool(connection.is_closed())

    def session_problems(self, database: peewee.Database) -> list[str]:
        return []  # asyncpg uses the server's binary formats


BACKENDS: dict[type[peewee.Database], Backend] = {
    peewee.SqliteDatabase: BridgedSqliteBackend(),
    peewee.PostgresqlDatabase: BridgedPostgresqlBackend(),
}
