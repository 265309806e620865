"""Changing the schema: everything pending in one transaction, one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import peewee

from ..binding import supported
from ..database.catalog import Catalog
from ..database.connections import connected
from ..database.constraints import database_code
from ..errors import (
    AIContentError,
    DatabaseUnavailableError,
    MigrationError,
    TableConflictError,
    UsersTableError,
)

if TYPE_CHECKING:
    from .router import Router

TABLE = "ai_generated_content"

_LOCK = 0x6169_636F_6E74_656E
"""The advisory lock of all migrators: the bytes of "aiconten"."""

_INTEGER_TYPES = {"smallint", "integer", "bigint"}


def migrate(
    database: peewee.Database,
    create_users: bool = False,
    *,
    lock_timeout: float = 10.0,
    directory: Path | None = None,
) -> list[str]:
    """Bring the schema up to date. Call it outside any transaction.

    Args:
        database: where the table is to be; the model need not be bound.
        create_users: make a minimal `users` table when there is none, for a database that
            belongs to no host application.
        lock_timeout: seconds to wait on PostgreSQL for another migrator or for a lock on a
            table; SQLite waits as long as the database's own timeout says.
        directory: where the migration files are; the package's own by default.

    Returns:
        The names of the migrations applied; empty when it was up to date.

    Raises:
        UsersTableError: the `users` table is missing, or its `id` cannot be referenced.
        TableConflictError: someone else made a table of our name.
        DatabaseUnavailableError: the database is locked, read-only, out of reach, or not ours to
            change.
        MigrationError: the migration failed. Whatever is raised, the database is as it was.
    """
    with _migrating(database, directory, lock_timeout) as router:
        pending: list[str] = router.diff
        if not router.done:
            _check_no_conflict(database)
            _check_users(database, create_users)
        return [router.run_one(name) for name in pending]


def rollback(
    database: peewee.Database,
    steps: int = 1,
    *,
    lock_timeout: float = 10.0,
    directory: Path | None = None,
) -> list[str]:
    """Take back the latest migrations, with the content that their tables hold.

    Args:
        database: where the table is.
        steps: how many migrations; more than there are takes back all.
        lock_timeout: as for `migrate`, in seconds.
        directory: where the migration files are; the package's own by default.

    Returns:
        The names rolled back, latest first; empty when none are left.

    Raises:
        MigrationError: a migration cannot be taken back, or a newer version of this package
            made it. DatabaseUnavailableError: as `migrate`. The database is as it was.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise MigrationError(f"steps must be an int of at least 1, got {steps!r}")
    with _migrating(database, directory, lock_timeout) as router:
        names = router.done[::-1][:steps]
        unknown = sorted(set(names) - set(router.todo))
        if unknown:
            raise MigrationError(
                f"{', '.join(unknown)} was applied by a newer version of aicontent: "
                "upgrade the package to roll it back"
            )
        return [router.run_one(name, downgrade=True) for name in names]


@contextmanager
def _migrating(
    database: peewee.Database, directory: Path | None, lock_timeout: float
) -> Iterator[Router]:
    try:
        from .router import Router  # peewee_migrate is loaded by those who migrate
    except FileNotFoundError:  # it asks for the current directory
        raise MigrationError("the current directory was removed: migrate from another") from None

    with _failures_explained():
        database = supported(database)
        if database.in_transaction():
            raise MigrationError(
                "migrating takes a transaction of its own: call it outside atomic()"
            )
        with connected(database), _locked(database, lock_timeout):
            yield Router(database, directory)


@contextmanager
def _locked(database: peewee.Database, timeout: float) -> Iterator[None]:
    if isinstance(database, peewee.SqliteDatabase):
        with database.transaction("IMMEDIATE"):
            yield
        return
    with database.transaction():
        # Whatever the session's default: what others did before the lock has to be seen after it.
        database.execute_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        # Also bounds the wait for the users table, behind which its writers would queue.
        database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (_ms(timeout),))
        database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        yield


def _ms(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


@contextmanager
def _failures_explained() -> Iterator[None]:
    try:
        yield
    except AIContentError:
        raise
    except peewee.PeeweeException as error:
        raise _explained(error) from error


def _explained(error: peewee.PeeweeException) -> AIContentError:
    code = database_code(error)
    reason = " ".join(str(error).split())
    if code == "55P03" or code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseUnavailableError(
            f"another connection holds a lock the migration needs: try again later ({reason})"
        )
    if code == "25006" or code.startswith("SQLITE_READONLY"):
        return DatabaseUnavailableError(
            f"the database is read-only: migrate where it can be written ({reason})"
        )
    if code == "42501":
        return DatabaseUnavailableError(
            f"this role may not change the schema: migrate as the tables' owner ({reason})"
        )
    if isinstance(error, (peewee.OperationalError, peewee.InterfaceError)) and (
        code[:2] in ("", "08", "53", "57") or code == "SQLITE_CANTOPEN"
    ):
        return DatabaseUnavailableError(
            f"the database cannot be reached: see that it runs, and try again ({reason})"
        )
    return MigrationError(f"the migration failed and nothing was changed: {reason}")


def _check_no_conflict(database: peewee.Database) -> None:
    if Catalog(database).relation(TABLE) is not None:
        raise TableConflictError(
            f"a {TABLE} exists that these migrations did not make: rename it, migrate, and "
            "copy its rows over (docs/schema.md shows how)"
        )


def _check_users(database: peewee.Database, create: bool) -> None:
    catalog = Catalog(database)
    users = catalog.relation("users", anywhere=True)
    if users is None:
        if not create:
            raise UsersTableError(
                "there is no users table to reference: create it first, or let a minimal one be "
                "made with create_users=True (--create-users on the command line)"
            )
        key = "INTEGER" if catalog.is_sqlite else "integer GENERATED BY DEFAULT AS IDENTITY"
        database.execute_sql(f'CREATE TABLE "users" ("id" {key} PRIMARY KEY)')
        return
    # SQLite's names have no case.
    fold = str.lower if catalog.is_sqlite else str
    kind = {fold(name): kind for name, kind in users.columns.items()}.get("id")
    if users.kind != "table":
        raise UsersTableError("users is a view, which a foreign key cannot reference: use a table")
    if kind is None:
        raise UsersTableError("users has no column id, which the foreign key references: add it")
    if not ("INT" in kind.upper() if catalog.is_sqlite else kind in _INTEGER_TYPES):
        raise UsersTableError(
            f"users.id is {kind or 'of no type'}, but userId is an integer: only integer ids can "
            "be referenced"
        )
    if "id" not in map(fold, users.unique):
        raise UsersTableError(
            "users.id is not unique, so it cannot be referenced: make it the primary key"
        )
