"""All uses of Peewee's undocumented interface in this package.

If a new version of Peewee changes one of them, the tests of this module fail first.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peewee
from peewee import __exception_wrapper__ as driver_errors  # type: ignore[attr-defined]

__all__ = [
    "LOADED",
    "attach_once",
    "data_with_relations",
    "discard",
    "driver_errors",
    "has_contexts",
    "is_loaded",
    "is_pool_exhausted",
    "is_pooled",
    "json_types",
    "keeping_contexts",
    "new_connection",
    "pool_size",
    "uses_psycopg3",
    "using_connection",
    "within_context",
]

LOADED = {"__no_default__": 1}
"""Arguments of the constructor for a loaded row, so that the model applies no defaults."""


def is_loaded(values: dict[str, Any]) -> bool:
    """Return whether a model's constructor was called for a loaded row."""
    return "__no_default__" in values


def data_with_relations(content: Any) -> dict[str, Any]:
    """Return an instance's values; a user that was saved after the assignment has its id."""
    values = dict(content.__data__)
    content._populate_unsaved_relations(values)
    return values


def has_contexts(database: Any) -> bool:
    """Return whether this thread is inside a `connection_context()` of the database."""
    return bool(database._state.ctx)


@contextmanager
def keeping_contexts(database: Any) -> Iterator[None]:
    """Restore Peewee's list of open contexts, which connecting or closing in the block empties."""
    contexts = list(database._state.ctx)
    try:
        yield
    finally:
        database._state.ctx[:] = contexts


def discard(database: Any) -> None:
    """Close the connection without returning it to a pool."""
    with keeping_contexts(database):
        getattr(database, "manual_close", database.close)()


@contextmanager
def within_context(database: Any) -> Iterator[None]:
    """Mark this thread as inside a `connection_context()`, without connecting."""
    database._state.ctx.append(None)
    try:
        yield
    finally:
        del database._state.ctx[-1:]  # a slice, because closing empties the list


def new_connection(database: Any) -> Any:
    """Open a connection of the driver that belongs to no pool; the caller must close it."""
    if is_pooled(database):
        return super(_pool().PooledDatabase, database)._connect()
    return database._connect()


def is_pooled(database: object) -> bool:
    """Return whether a database is one of Peewee's connection pools."""
    pool = _pool()
    return pool is not None and isinstance(database, pool.PooledDatabase)


@contextmanager
def using_connection(database: Any, connection: Any) -> Iterator[None]:
    """Use a connection of `new_connection` in this thread, and close it afterwards."""
    database._state.set_connection(connection)
    try:
        database._initialize_connection(connection)
        yield
    finally:
        database._state.reset()
        connection.close()


def is_pool_exhausted(error: BaseException) -> bool:
    """Return whether an error says that all connections of a pool are in use."""
    pool = _pool()
    return pool is not None and isinstance(error, pool.MaxConnectionsExceeded)


def pool_size(database: Any) -> int | None:
    """Return the most connections of a pool; None without a limit or without a pool."""
    return database._max_connections if is_pooled(database) else None


def _pool() -> Any:
    return sys.modules.get("playhouse.pool")  # no pool can exist before its module was imported


def json_types(database: Any) -> tuple[type, ...]:
    """Return the types with which Peewee wraps JSON for the database's driver."""
    adapter = getattr(database, "_adapter", None)
    return (adapter.json_type, adapter.jsonb_type) if adapter else ()


def uses_psycopg3(database: Any) -> bool:
    """Return whether a PostgreSQL database uses psycopg 3."""
    return isinstance(database._adapter, peewee.Psycopg3Adapter)


def attach_once(proxy: Any, callback: Callable[[Any], None]) -> None:
    """Attach a callback to a proxy, which Peewee calls when the proxy is initialised."""
    if callback not in proxy._callbacks:
        proxy.attach_callback(callback)
