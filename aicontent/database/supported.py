"""Check whether a database is supported, and return its backend.

Only this module tests the class of a database.
"""

from functools import lru_cache
from typing import Any

import peewee

from ..errors import NotBoundError, UnsupportedDatabaseError
from .backend import Backend
from .internals import attach_once
from .postgresql import PostgresqlBackend
from .sqlite import SqliteBackend

_BACKENDS: dict[type[peewee.Database], Backend] = {
    peewee.SqliteDatabase: SqliteBackend(),
    peewee.PostgresqlDatabase: PostgresqlBackend(),
}


_UNSUPPORTED = {
    "APSWDatabase": "has no driver of the DB-API",
    "CySqliteDatabase": "has no error codes to tell constraints apart",
    "SqliteQueueDatabase": "has no transactions",
    "CockroachDatabase": "has another catalog than PostgreSQL",
}
"""Subclasses that are not supported, by name, so that none of them is imported here."""


def backend_of(database: Any) -> Backend:
    """Return the backend of a database.

    Raises:
        UnsupportedDatabaseError: the database is neither SQLite nor PostgreSQL.
    """
    backend = known_backend(database)
    if backend is None:
        raise UnsupportedDatabaseError(
            _problem_of_type(type(database))
            or "pass an initialised peewee SqliteDatabase or PostgresqlDatabase; "
            f"got {type(database).__name__}"
        )
    return backend


def known_backend(database: object) -> Backend | None:
    """Return the backend of a database, or None if it is not supported."""
    return _backend_of_type(type(database))  # type: ignore[arg-type]


@lru_cache(maxsize=100)
def _backend_of_type(kind: type) -> Backend | None:
    if _problem_of_type(kind) is not None:
        return None
    backends = _BACKENDS
    if any(base.__module__ == "playhouse.pwasyncio" for base in kind.__mro__):
        from . import bridged  # imported here, because it imports asyncio

        backends = bridged.BACKENDS
    return next((b for base, b in backends.items() if issubclass(kind, base)), None)


def _problem_of_type(kind: type) -> str | None:
    for base in kind.__mro__:
        if base.__module__.startswith("playhouse.") and base.__name__ in _UNSUPPORTED:
            return (
                f"a {base.__name__} {_UNSUPPORTED[base.__name__]}: for this package, open the same "
                "database with aicontent.connect(), or as a peewee.SqliteDatabase or "
                "PostgresqlDatabase"
            )
    return None


def backend_named(name: str) -> Backend:
    """Return the backend with this name."""
    return next(backend for backend in _BACKENDS.values() if backend.name == name)


def unproxied(database: Any) -> Any:
    """Return the database of a proxy (None before it is initialised), or the database itself."""
    return database.obj if isinstance(database, peewee.Proxy) else database


def resolved(database: peewee.Database) -> peewee.Database:
    """Return the database of a proxy, or the database itself.

    Raises:
        UnsupportedDatabaseError: it is neither SQLite nor PostgreSQL, or is not initialised.
    """
    database = unproxied(database)
    backend_of(database)
    if database.deferred:
        raise UnsupportedDatabaseError("the database is not initialised: call database.init(...)")
    return database


def supported(database: peewee.Database) -> peewee.Database:
    """Return the database of a proxy, after a check that this package supports its configuration.

    Raises:
        UnsupportedDatabaseError: as for `resolved`; or it is a SQLite database that does not
            enforce foreign keys.
    """
    database = resolved(database)
    problem = backend_of(database).configuration_problem(database)
    if problem is not None:
        raise UnsupportedDatabaseError(problem)
    return database


def bindable(database: peewee.Database) -> peewee.Database:
    """Check a database or a proxy, and return the object to which to bind a model.

    A proxy is checked each time it is initialised.

    Raises:
        UnsupportedDatabaseError: as for `supported`.
    """
    proxy: Any = database
    if not isinstance(proxy, peewee.DatabaseProxy):
        return supported(proxy)
    _check_proxied(proxy.obj)
    attach_once(proxy, _check_proxied)
    return database


def _check_proxied(database: peewee.Database | None) -> None:
    if database is not None:
        supported(database)


def database_of(model: type[peewee.Model]) -> peewee.Database:
    """Return the database to which a model is bound.

    Raises:
        NotBoundError: the model has no database yet.
    """
    database: Any = model._meta.get_database_instance()
    if database is None:
        raise NotBoundError(
            f"{model.__name__} has no database: call aicontent.bind(database) at start-up, before "
            "a subclass is defined, and initialize() the database if it is a DatabaseProxy"
        )
    bound: peewee.Database = database
    return bound
