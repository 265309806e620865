"""Bind AIGeneratedContent to a database, or make a model class for a second database."""

from typing import Any

import peewee

from .database.internals import attach_once
from .database.supported import bindable
from .model import AIGeneratedContent
from .table import User, bound_model, set_user_field, user_field


def bind(database: peewee.Database, user_model: type[peewee.Model] | None = None) -> None:
    """Bind `AIGeneratedContent` and `User` to a database.

    Call it once, at start-up. The host's own models keep their database. Use `for_database` for
    a second database in the same process.

    Args:
        database: the database with the content table. A `DatabaseProxy` may be initialised
            after this call, and initialised again.
        user_model: the host's model of the `users` table; `.user` then returns its instances.
            Pass it if the ids of users are not integers. By default `.user` returns a `User`.

    Raises:
        UnsupportedDatabaseError: the database is neither SQLite nor PostgreSQL, is not
            initialised, or is a SQLite database that does not enforce foreign keys; or
            `user_model` is not a model of the table `users` with the primary key `id`.
    """
    database = bindable(database)
    user = user_field(User if user_model is None else user_model)
    for model in (AIGeneratedContent, User):
        model.bind(database, bind_refs=False, bind_backrefs=False)
    set_user_field(AIGeneratedContent, user)
    if isinstance(database, peewee.DatabaseProxy):
        attach_once(database, _rebind)


def _rebind(database: peewee.Database) -> None:
    # Peewee notifies only model classes that were defined with the proxy in their Meta.
    proxy: Any = AIGeneratedContent._meta.database
    if isinstance(proxy, peewee.DatabaseProxy) and proxy.obj is database:
        AIGeneratedContent._meta.set_database(proxy)


def for_database(
    database: peewee.Database, user_model: type[peewee.Model] | None = None
) -> type[AIGeneratedContent]:
    """Return a new subclass of `AIGeneratedContent` that is bound to this database.

    Call it once per database, at start-up, and keep the class.

    Args:
        database: the database with the content table.
        user_model: the host's model of the `users` table; `.user` then returns its instances.
            By default `.user` returns instances of a model with the column `id` only.

    Raises:
        UnsupportedDatabaseError: as for `bind`.
    """
    return bound_model(AIGeneratedContent, database, user_model)
