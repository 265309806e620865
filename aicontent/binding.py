"""Tying the model to a database."""

from __future__ import annotations

import threading
from copy import deepcopy
from typing import Any

import peewee

from .errors import UnsupportedDatabaseError
from .model import AIGeneratedContent, User


def bind(database: peewee.Database) -> None:
    """Use this database for `AIGeneratedContent` and its `User`, from now on.

    The host's own models keep their database. Call it once, at start-up; for a second database
    in the same process there is `for_database`.

    Raises:
        UnsupportedDatabaseError: it is neither SQLite nor PostgreSQL, is not initialised, or is
            a SQLite database that does not enforce foreign keys.
    """
    database = supported(database)
    for model in (AIGeneratedContent, User):
        model.bind(database, bind_refs=False, bind_backrefs=False)


def for_database(
    database: peewee.Database, user_model: type[peewee.Model] | None = None
) -> type[AIGeneratedContent]:
    """Return a model class of its own for this database.

    Call it once per database, at start-up, and keep the class.

    Args:
        database: where its rows are.
        user_model: the host's model of the `users` table, which `.user` then returns; by
            default a model that knows the id alone.

    Raises:
        UnsupportedDatabaseError: as `bind`; or `user_model` is not a model of the table `users`
            whose primary key is the column `id`.
    """
    database = supported(database)
    if user_model is None:
        user_model = type("User", (User,), {"Meta": _meta(database, User)})
    key = user_model._meta.primary_key
    if user_model._meta.table_name != "users" or getattr(key, "column_name", None) != "id":
        raise UnsupportedDatabaseError(
            f"user_model {user_model.__name__} must be a model of the table users with the "
            "primary key id, which the foreign key references"
        )
    user = deepcopy(AIGeneratedContent.user)  # with its column and its place in the order
    user.rel_model, user.rel_field, user.declared_backref = user_model, key, "+"
    namespace: dict[str, Any] = {
        "__module__": AIGeneratedContent.__module__,
        "__doc__": AIGeneratedContent.__doc__,
        "Meta": _meta(database, AIGeneratedContent),
        "user": user,
    }
    return type(AIGeneratedContent.__name__, (AIGeneratedContent,), namespace)


def _meta(database: peewee.Database, model: type[peewee.Model]) -> type:
    return type("Meta", (), {"database": database, "table_name": model._meta.table_name})


def resolved(database: peewee.Database) -> peewee.Database:
    """Return the database behind a proxy, or the database itself.

    Raises:
        UnsupportedDatabaseError: it is neither SQLite nor PostgreSQL, or not initialised.
    """
    if isinstance(database, peewee.Proxy):
        database = database.obj
    if not isinstance(database, (peewee.SqliteDatabase, peewee.PostgresqlDatabase)):
        raise UnsupportedDatabaseError(
            f"expected a peewee SqliteDatabase or PostgresqlDatabase that is initialised, "
            f"got {type(database).__name__}"
        )
    if database.deferred:
        raise UnsupportedDatabaseError("initialise the database first: database.init(...)")
    return database


def supported(database: peewee.Database) -> peewee.Database:
    """Return the database, looked at: the model can work on it.

    Raises:
        UnsupportedDatabaseError: as `bind`.
    """
    database = resolved(database)
    if isinstance(database, peewee.SqliteDatabase) and not foreign_keys_on(database):
        raise UnsupportedDatabaseError(
            "SQLite does not enforce foreign keys on this database, so deleting a user would "
            "leave the user's content behind: open it with pragmas={'foreign_keys': 1}, or with "
            "aicontent.connect()"
        )
    return database


def foreign_keys_on(database: peewee.SqliteDatabase) -> bool:
    """Tell whether a new connection of this database enforces foreign keys.

    The setting is a connection's own, so the one that is open says nothing about the next.
    """
    found: list[bool | BaseException] = []

    def look() -> None:
        try:
            with database.connection_context():
                found.append(bool(database.foreign_keys))
        except Exception as error:  # noqa: BLE001 - told to the caller's thread
            found.append(error)

    if not database.thread_safe:
        return bool(database.foreign_keys)
    thread = threading.Thread(target=look)  # Peewee gives each thread a connection
    thread.start()
    thread.join()
    (result,) = found
    if isinstance(result, BaseException):
        raise result
    return result
