"""Bind the model to a database."""

from typing import Any

import peewee

from .database.internals import attach_once
from .database.supported import bindable
from .model import AIGeneratedContent
from .table import User, bound_model, set_user_field, user_field


def bind(database: peewee.Database, user_model: type[peewee.Model] | None = None) -> None:
    """Use this database for `AIGeneratedContent` and its `User`, from now on.

    The host's own models keep their database. Call it once, at start-up. For a second database
    in the same process there is `for_database`.

    Args:
        database: where the rows are. A `DatabaseProxy` may be initialised later, and again.
        user_model: the host's model of the `users` table, which `.user` then returns. It is
            needed if users have other ids than integers; by default `.user` returns a `User`.

    Raises:
        UnsupportedDatabaseError: it is neither SQLite nor PostgreSQL, is not initialised, or is
            a SQLite database that does not enforce foreign keys; or `user_model` is not a model
            of the table `users` whose primary key is the column `id`.
    """
    database = bindable(database)
    user = user_field(User if user_model is None else user_model)
    for model in (AIGeneratedContent, User):
        model.bind(database, bind_refs=False, bind_backrefs=False)
    set_user_field(AIGeneratedContent, user)
    if isinstance(database, peewee.DatabaseProxy):
        attach_once(database, _rebind)


def _rebind(database: peewee.Database) -> None:
    # Peewee notifies only the classes that were made for the proxy.
    proxy: Any = AIGeneratedContent._meta.database
    if isinstance(proxy, peewee.DatabaseProxy) and proxy.obj is database:
        AIGeneratedContent._meta.set_database(proxy)


def for_database(
    database: peewee.Database, user_model: type[peewee.Model] | None = None
) -> type[AIGeneratedContent]:
    """Return a separate model class for this database.

    Call it once per database, at start-up, and keep the class.

    Args:
        database: where its rows are.
        user_model: the host's model of the `users` table, which `.user` then returns; by
            default a model that knows the id alone.

    Raises:
        UnsupportedDatabaseError: as `bind`; or `user_model` is not a model of the table `users`
            whose primary key is the column `id`.
    """
    return bound_model(AIGeneratedContent, database, user_model)
