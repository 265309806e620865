"""What this package takes from Peewee beyond its documented interface, in one place.

A new Peewee that changes any of it fails in the tests of this module first.
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
"""The constructor's arguments for a row that is loaded: the model then applies no defaults."""


def is_loaded(values: dict[str, Any]) -> bool:
    """Tell whether a model's constructor was called for a row that was loaded."""
    return "__no_default__" in values


def data_with_relations(content: Any) -> dict[str, Any]:
    """Return an instance's values, with the id of a user who was stored after it was created."""
    values = dict(content.__data__)
    content._populate_unsaved_relations(values)
    return values


def has_contexts(database: Any) -> bool:
    """Tell whether this thread is within a `connection_context()` of the database."""
    return bool(database._state.ctx)


@contextmanager
def keeping_contexts(database: Any) -> Iterator[None]:
    """Connect or close; Peewee forgets the contexts that the caller is in, and could not leave."""
    contexts = list(database._state.ctx)
    try:
        yield
    finally:
        database._state.ctx[:] = contexts


def discard(database: Any) -> None:
    """Close the connection, and give it back to no pool."""
    with keeping_contexts(database):
        getattr(database, "manual_close", database.close)()


@contextmanager
def within_context(database: Any) -> Iterator[None]:
    """Count as within a `connection_context()`, which need not be connected."""
    database._state.ctx.append(None)
    try:
        yield
    finally:
        del database._state.ctx[-1:]  # closing has emptied it


def new_connection(database: Any) -> Any:
    """Return a new connection of the driver, which belongs to no pool; the caller closes it."""
    if is_pooled(database):
        return super(_pool().PooledDatabase, database)._connect()
    return database._connect()


def is_pooled(database: object) -> bool:
    """Tell whether a database is one of Peewee's pools."""
    pool = _pool()
    return pool is not None and isinstance(database, pool.PooledDatabase)


@contextmanager
def using_connection(database: Any, connection: Any) -> Iterator[None]:
    """Let this thread use a connection of `new_connection`, and close it afterwards."""
    database._state.set_connection(connection)
    try:
        database._initialize_connection(connection)
        yield
    finally:
        database._state.reset()
        connection.close()


def is_pool_exhausted(error: BaseException) -> bool:
    """Tell whether an error says that all connections of a pool are in use."""
    pool = _pool()
    return pool is not None and isinstance(error, pool.MaxConnectionsExceeded)


def pool_size(database: Any) -> int | None:
    """Return the most connections of a pool; None if there is no limit, or no pool."""
    return database._max_connections if is_pooled(database) else None


def _pool() -> Any:
    return sys.modules.get("playhouse.pool")  # if it was not imported, there is no pool


def json_types(database: Any) -> tuple[type, ...]:
    """Return the types in which Peewee wraps JSON for the database's driver."""
    adapter = getattr(database, "_adapter", None)
    return (adapter.json_type, adapter.jsonb_type) if adapter else ()


def uses_psycopg3(database: Any) -> bool:
    """Tell whether a PostgreSQL database uses psycopg 3."""
    return isinstance(database._adapter, peewee.Psycopg3Adapter)


def attach_once(proxy: Any, callback: Callable[[Any], None]) -> None:
    """Call a function whenever a proxy is initialised."""
    if callback not in proxy._callbacks:
        proxy.attach_callback(callback)
