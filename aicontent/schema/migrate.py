"""Migrate the schema: run all pending migrations in one transaction, one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import peewee

from ..database.availability import connected
from ..database.constraints import error_code, remedy
from ..database.supported import backend_of, resolved, supported
from ..errors import (
    AIContentError,
    DatabaseUnavailableError,
    MigrationError,
    TableConflictError,
    UsersTableError,
    one_line,
)
from ..table import TABLE
from .partitions import check_partitions, partition_sql

if TYPE_CHECKING:
    from .router import Router


def migrate(
    database: peewee.Database,
    create_users: bool = False,
    *,
    partitions: int | None = None,
    schema: str | None = None,
    lock_timeout: float = 10.0,
    directory: Path | None = None,
) -> list[str]:
    """Create the content table, or migrate its schema to the current version.

    All pending migrations run in one transaction. Call it outside any transaction.

    Args:
        database: the database to migrate; the model need not be bound.
        create_users: create a minimal `users` table if there is none, for a database without
            a host application.
        partitions: on PostgreSQL, create the table with this number of hash partitions by user,
            1 to 1,024. A table that already has this number of partitions is migrated as usual;
            any other existing table is refused (docs/guides/scaling.md shows how to move its
            content).
        schema: the first schema of PostgreSQL's search path. Required to create a second table
            in it while another schema of the search path has one, for example one per tenant.
        lock_timeout: on PostgreSQL, seconds to wait for another migrator or for a lock on a
            table; SQLite waits for the timeout of the database.
        directory: the folder with the migration files; the package's own by default.

    Returns:
        The names of the applied migrations; empty if the schema was up to date.

    Raises:
        UnsupportedDatabaseError: as for `bind`; or `partitions` was passed for SQLite.
        ArgumentError: `partitions` is not an int from 1 to 1,024.
        UsersTableError: the `users` table is missing, or its `id` cannot be referenced.
        TableConflictError: a table ai_generated_content exists that these migrations did not
            create.
        DatabaseUnavailableError: the database is locked, read-only or unreachable, or this role
            may not change it.
        MigrationError: the migration failed; `schema` is not the first schema of the search
            path; the new table would hide another one; or the table has another number of
            partitions. After any of these errors the database is unchanged.
    """
    with _migrating(database, directory, lock_timeout) as router:
        pending: list[str] = router.diff
        first, last = _preparation(router, create_users, schema, partitions)
        for sql in first:
            router.database.execute_sql(sql)
        names = [router.run_one(name) for name in pending]
        for sql in last:
            router.database.execute_sql(sql)
        return names


def migration_sql(
    database: peewee.Database,
    create_users: bool = False,
    *,
    partitions: int | None = None,
    schema: str | None = None,
    directory: Path | None = None,
) -> list[str]:
    """Return the SQL that `migrate` would run, and change nothing.

    On PostgreSQL the SQL is complete, with the rows of the migration history: run it with another
    tool in one transaction. On SQLite some steps need Python, and a comment marks them.

    Args:
        database, create_users, partitions, schema, directory: as for `migrate`.

    Returns:
        Statements without a semicolon, and comments; empty if the schema is up to date.

    Raises:
        UnsupportedDatabaseError, ArgumentError, UsersTableError, TableConflictError,
        MigrationError: as for `migrate`.
    """
    with _router(database, directory) as router, connected(resolved(database)):
        _check_connection(router.database)
        pending: list[str] = router.diff
        first, last = _preparation(router, create_users, schema, partitions)
        return [*first, *router.statements(), *last] if pending else []


def rollback(
    database: peewee.Database,
    steps: int = 1,
    *,
    lock_timeout: float = 10.0,
    directory: Path | None = None,
) -> list[str]:
    """Roll back the latest migrations. Rolling back 001 drops the table with all content.

    Args:
        database: the database with the content table.
        steps: how many migrations to roll back; a larger number rolls all of them back.
        lock_timeout: seconds to wait for locks, as for `migrate`.
        directory: the folder with the migration files; the package's own by default.

    Returns:
        The names of the migrations rolled back, latest first; empty if none was applied.

    Raises:
        MigrationError: a migration cannot be rolled back, or a newer version of this package
            applied it. The database is unchanged.
        DatabaseUnavailableError, UnsupportedDatabaseError: as for `migrate`.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise MigrationError(f"steps must be an int of at least 1; got {steps!r}")
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
    with _router(database, directory) as router:
        database = router.database
        if backend_of(database).in_transaction(database):
            raise MigrationError(
                "migrating needs its own transaction: call migrate() or rollback() outside atomic()"
            )
        lock = backend_of(database).migration_lock(database, lock_timeout)
        with connected(database):
            _check_connection(database)
            with lock:
                yield router


def _check_connection(database: peewee.Database) -> None:
    problem = backend_of(database).connection_problem(database)
    if problem is not None:
        raise MigrationError(problem)


@contextmanager
def _router(database: peewee.Database, directory: Path | None) -> Iterator[Router]:
    try:
        from .router import Router  # imports peewee_migrate, which only migrations need
    except FileNotFoundError:  # peewee_migrate reads the current directory
        raise MigrationError("the current directory was removed: migrate from another") from None

    try:
        yield Router(supported(database), directory)
    except AIContentError:
        raise
    except peewee.PeeweeException as error:
        raise _explained(error) from error


def _explained(error: peewee.PeeweeException) -> AIContentError:
    code = error_code(error)
    reason = one_line(error)
    if code == "55P03" or code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseUnavailableError(
            f"another connection holds a lock that the migration needs: try again later ({reason})"
        )
    if code == "25006" or code.startswith("SQLITE_READONLY"):
        return DatabaseUnavailableError(
            f"the database is read-only: migrate the primary or a writable file ({reason})"
        )
    if code == "42501":
        return DatabaseUnavailableError(
            f"this role may not change the schema: migrate as the tables' owner ({reason})"
        )
    known = remedy(error)
    if isinstance(error, (peewee.OperationalError, peewee.InterfaceError)) and (
        code[:2] in ("", "08") or code[:3] in ("533", "57P") or code == "SQLITE_CANTOPEN"
    ):
        return DatabaseUnavailableError(
            f"the database cannot be reached: {known or 'check that it runs'} ({reason})"
        )
    reason = f"{reason}: {known}" if known else reason
    return MigrationError(f"the migration failed and nothing was changed: {reason}")


def _preparation(
    router: Router, create_users: bool, schema: str | None, partitions: int | None
) -> tuple[list[str], list[str]]:
    """Check that the database can be migrated.

    Returns:
        The SQL to run before the migrations, and the SQL to run after them.
    """
    database, is_new = router.database, not router.done
    _check_schema(database, schema, is_new=is_new)
    if partitions is not None:
        check_partitions(database, partitions, is_new=is_new)
    if not is_new:
        return [], []
    _check_no_conflict(database)
    router.is_partitioned = partitions is not None
    first = _users_sql(database, create_users)
    return first, [] if partitions is None else partition_sql(partitions)


def _check_schema(database: peewee.Database, schema: str | None, *, is_new: bool) -> None:
    catalog = backend_of(database).catalog(database)
    current = catalog.schema()
    if schema is not None and current is None:
        raise MigrationError(f"schema {schema}: this database has no schemas, so leave it out")
    if schema is not None and schema != current:
        raise MigrationError(
            f"the table would be created in schema {current}, not in {schema}: put {schema} "
            "first on the search path"
        )
    other = catalog.hidden_in(TABLE) if is_new and schema is None else None
    if other is not None:
        raise MigrationError(
            f"{TABLE} is in the schema {other}, and a new table in {current} would hide it: put "
            f"{other} first on the search path to migrate that one; to create a second table, pass "
            f"schema={current!r} (--schema {current})"
        )


def _check_no_conflict(database: peewee.Database) -> None:
    if backend_of(database).catalog(database).relation(TABLE) is not None:
        raise TableConflictError(
            f"a table {TABLE} exists that these migrations did not create: rename it, migrate, "
            "and copy its rows (docs/guides/migrating.md shows how)"
        )


def _users_sql(database: peewee.Database, create: bool) -> list[str]:
    """Check the users table; return the SQL that creates a minimal one if it is missing."""
    backend = backend_of(database)
    catalog = backend.catalog(database)
    users = catalog.relation("users", anywhere=True)
    if users is None:
        if not create:
            raise UsersTableError(
                "there is no users table to reference: create it first, or let migrate() create a "
                "minimal one with create_users=True (--create-users on the command line)"
            )
        return [f'CREATE TABLE "users" ("id" {catalog.identity_type} PRIMARY KEY)']
    type = users.columns.get("id")
    if users.kind != "table":
        raise UsersTableError("users is a view, which a foreign key cannot reference: use a table")
    if type is None:
        raise UsersTableError("users has no column id, which the foreign key references: add it")
    if backend.user_id_type(type) is None:
        raise UsersTableError(
            f"users.id is {type or 'of no type'}, which userId cannot reference: it must be an "
            "integer, a bigint, a uuid (on SQLite a text), a text or a varchar"
        )
    if "id" not in users.unique:
        raise UsersTableError(
            "users.id is not unique, so it cannot be referenced: make it the primary key"
        )
    return []
