"""Define the operations that differ between SQLite and PostgreSQL; one subclass implements each.

A backend has no state: its methods take the database. `supported.backend_of` returns it.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import peewee

from ..errors import UnsupportedDatabaseError
from .constraints import Explaining, true_reason
from .internals import discard
from .nested import nested_of

if TYPE_CHECKING:
    from .bulk_load import BulkInsert, Loader
    from .catalog import Catalog
    from .deletion import Deletion
    from .pacing import Pace


class Backend(ABC):
    """The operations of one kind of database.

    A method has a default here if one kind of database needs nothing for it.
    """

    name: ClassVar[str]
    """The name of the backend, and of the file with its expected schema."""

    documents_are_text: ClassVar[bool]
    """Whether JSON documents are stored as text, which this package may compress."""

    distinct_from: ClassVar[str]
    """The operator for "not equal" that treats NULL as a value."""

    json_methods: ClassVar[type]
    """The class with the SQL of JSON queries."""

    in_array: ClassVar[tuple[str, str]]  # the SQL before and after the array
    can_reclaim: ClassVar[bool] = False
    """Whether space can be returned to the file system on request."""

    is_bridged: ClassVar[bool] = False
    """Whether the database is one of Peewee's asyncio databases, with calls inside `run()`."""

    sleep = staticmethod(time.sleep)

    can_lose_connections: ClassVar[bool] = False
    """Whether a server may close a connection."""

    has_partitions: ClassVar[bool] = False
    """Whether a table can be partitioned."""

    errors_abort_transactions: ClassVar[bool] = False
    """Whether the failure of one statement aborts the whole transaction."""

    # Connections and transactions

    def configuration_problem(self, database: peewee.Database) -> str | None:
        """Return why the model cannot work on this database as it is configured, or None."""
        return None

    def connection_problem(self, database: peewee.Database) -> str | None:
        """Return why this package cannot use the open connection, or None."""
        return None

    def session_problems(self, database: peewee.Database) -> list[str]:
        """Return the problems of the open connection's settings that make content unreadable."""
        return []

    def in_transaction(self, database: peewee.Database) -> bool:
        """Return whether the open connection has a transaction, even one begun without Peewee.

        The transaction of a test (`aicontent.testing`) does not count.
        """
        nested = nested_of(database)
        return self.has_begun(database) if nested is None else nested.is_open

    @abstractmethod
    def has_begun(self, database: peewee.Database) -> bool:
        """Return whether the open connection has any transaction, including that of a test."""

    @contextmanager
    def atomic(self, database: peewee.Database, *begin: Any) -> Iterator[None]:
        """Begin a transaction (with the arguments `begin`), or a savepoint inside one.

        After an interrupt during BEGIN no transaction stays open. If the rollback fails too, the
        error of the block or of COMMIT is raised.
        """
        is_outermost, first, outer = not self.in_transaction(database), None, sys.exception()
        try:
            with database.atomic(*begin):
                try:
                    yield
                except BaseException as error:
                    first = error
                    raise
        except BaseException as error:  # noqa: BLE001 - raised below
            if is_outermost:
                self.roll_back(database)
            first = true_reason(first or error, outer)
            raise first from first.__cause__

    def writing(self, database: peewee.Database) -> AbstractContextManager[Any]:
        """Begin a transaction that reads first and then writes."""
        return self.atomic(database)

    def roll_back(self, database: Any) -> None:
        """Roll back any open transaction, even one that Peewee does not know."""
        while database.in_transaction():
            database.pop_transaction()
        if self.is_lost(database):
            discard(database)
        elif self.in_transaction(database):
            try:
                database.rollback()
            except Exception:  # noqa: BLE001 - closing the connection rolls back too
                discard(database)

    def is_lost(self, database: peewee.Database, error: BaseException | None = None) -> bool:
        """Return whether a new connection is needed, for example after an error."""
        return False

    def connects_twice(self, database: Any) -> bool:
        """Return whether two threads can have connections at the same time."""
        # Another connection would not see the rows of a test's transaction.
        return bool(database.thread_safe) and nested_of(database) is None

    @abstractmethod
    def limit_waits(self, database: peewee.Database, seconds: float) -> None:
        """Limit the seconds that the open connection waits for a lock, until it is closed."""

    def statement_savepoint(self, database: peewee.Database) -> AbstractContextManager[Any]:
        """Return a savepoint if the failure of one statement would abort an open transaction."""
        return nullcontext()

    def constraints_explained(self, database: peewee.Database, user: object = None) -> Explaining:
        """Run one statement, and translate its constraint error; a transaction stays usable.

        `user` is the user's id in the statement as a parameter for the driver, if it has one.

        Raises:
            UnknownUserError, DuplicateIdError, DuplicateRequestError: instead of Peewee's error.
        """
        return Explaining(
            self.statement_savepoint(database), partial(self.lacks_user, database, user)
        )

    def lacks_user(self, database: peewee.Database, user: object) -> bool:
        """Return whether a foreign key error without a name is that of the user."""
        return False

    @abstractmethod
    def snapshot(self, database: peewee.Database) -> AbstractContextManager[Any]:
        """Begin a transaction that reads a consistent snapshot and blocks no writer."""

    @abstractmethod
    def migration_lock(
        self, database: peewee.Database, timeout: float
    ) -> AbstractContextManager[Any]:
        """Begin a transaction that only one migrator at a time can have.

        `timeout` is how many seconds to wait for other migrators and for locks on tables.
        """

    def take_turn(self, database: peewee.Database) -> None:
        """Wait in the open transaction until no other transaction writes many rows."""
        return

    def bulk_settings(self, database: peewee.Database) -> AbstractContextManager[Any]:
        """Set the connection up for writing very many rows, and restore it afterwards."""
        return nullcontext()

    # Pieces of SQL

    @abstractmethod
    def clock(self) -> peewee.SQL:
        """Return the SQL of the clock that the columns' defaults and the trigger use."""

    def statement_clock(self) -> peewee.SQL:
        """Return the SQL of the statement's time, which advances in a long transaction."""
        return self.clock()

    @abstractmethod
    def clock_after(self, seconds: object) -> peewee.SQL:
        """Return the SQL of the statement's time plus a number of seconds."""

    def columns_of_update(self) -> dict[str, Any]:
        """Return columns that an UPDATE must set because RETURNING precedes the trigger."""
        return {}

    def any_of(self, column: peewee.Node, values: Iterable[int | str] | peewee.Node) -> Any:
        """Return the condition that a column has one of the values, with one array parameter."""
        if not isinstance(values, peewee.Node):
            values = peewee.Value(self.array(values), False, unpack=False)
        before, after = map(peewee.SQL, self.in_array)
        return peewee.NodeList((column, before, values, after))

    @abstractmethod
    def array(self, values: Iterable[int | str]) -> list[int | str] | str:
        """Return values as one array parameter."""

    @abstractmethod
    def array_rows(self, type: str) -> str:
        """Return the SQL of a table `each` with a column `value`, from one array parameter."""

    def locking(self, query: Any) -> Any:
        """Lock the rows that a subquery selects, and wait for other transactions."""
        return query

    def skipping_locked(self, query: Any) -> Any:
        """Lock the rows that a subquery selects, and skip rows that others have locked."""
        return query

    def bytewise(self, column: Any) -> Any:
        """Return a text column for ORDER BY that sorts by bytes, independent of the collation."""
        return column

    def with_index(self, model: type[peewee.Model], index: str, condition: Any) -> Any:
        """Return the model as the source of a SELECT with a hint for an index, if needed."""
        return model

    @abstractmethod
    def with_entry(self, document: Any, key: str, entries: dict[str, Any]) -> Any:
        """Return the SQL of a JSON document with an object of these entries under a key.

        A document that is not an object, which another program may have stored, is replaced.
        """

    # Values

    def time_parameter(self, value: datetime) -> datetime | str:
        """Return a UTC time as a parameter for the driver."""
        return value

    def time_text(self, value: datetime) -> str:
        """Return a UTC time as text that the database accepts as a time."""
        return value.isoformat(" ", "microseconds")

    def typed(self, value: Any, type: str) -> Any:
        """Return a parameter that is cast to a type, if the database has that type."""
        return value

    def document_text(self, column: Any) -> Any:
        """Select a JSON document as text."""
        return column

    def utc_text(self, column: Any) -> Any:
        """Select a time as text in UTC."""
        return column

    # Rows

    @abstractmethod
    def loader(self, database: peewee.Database, insert: BulkInsert) -> Loader:
        """Return the loader that inserts many rows fastest on this database."""

    @abstractmethod
    def stream(
        self, database: peewee.Database, sql: str, parameters: Any, size: int
    ) -> Iterator[list[Any]]:
        """Read a query's first column in batches, without loading all of its rows."""

    @abstractmethod
    def pace(self, database: peewee.Database) -> AbstractContextManager[Pace]:
        """Begin a job that writes in batches, and return its pace."""

    @abstractmethod
    def deletion(self, model: type[peewee.Model], rule: Any) -> Deletion:
        """Return the object that deletes rows that fulfil a rule."""

    def advance_identity(self, database: peewee.Database, table: str) -> None:
        """Set the table's id sequence to the largest id, after rows with given ids."""
        return

    # The catalog, and the command line

    @abstractmethod
    def catalog(self, database: peewee.Database) -> Catalog:
        """Return the catalog, which reads the definitions and statistics of tables."""

    @abstractmethod
    def user_id_type(self, type: str) -> str | None:
        """Return the type of `userId` for a type of `users.id`; None if it is not supported."""

    def reclaim(self, database: peewee.Database) -> tuple[int, str]:
        """Return free space to the file system; return the bytes and the method."""
        raise UnsupportedDatabaseError(
            "only SQLite returns space on request: leave it to autovacuum on PostgreSQL"
        )

    @abstractmethod
    def shell_command(self, database: peewee.Database, url: str, query: str) -> list[str]:
        """Return the shell command that runs a query in a terminal."""
