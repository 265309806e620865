"""The operations that differ between kinds of databases. One subclass implements each kind.

A backend has no state: its methods take the database. `supported.backend_of` chooses it.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import peewee

from ..errors import UnsupportedDatabaseError
from .constraints import explained, true_reason
from .internals import discard
from .nested import nested_of

if TYPE_CHECKING:
    from .bulk_load import BulkInsert, Loader
    from .catalog import Catalog
    from .deletion import Deletion
    from .pacing import Pace


class Backend(ABC):
    """What this package needs from a kind of database.

    An operation has a default here if one kind of database needs nothing for it.
    """

    name: ClassVar[str]
    """The kind's name, which also names the file of the expected schema."""

    documents_are_text: ClassVar[bool]
    """Whether JSON documents are stored as text, which the package may compress."""

    distinct_from: ClassVar[str]
    """The operator that compares two values of which either may be NULL."""

    json_methods: ClassVar[type]
    """The class of the queries into JSON documents."""

    in_array: ClassVar[tuple[str, str]]  # what stands before and after the array
    can_reclaim: ClassVar[bool] = False
    """Whether space can be returned to the file system on request."""

    is_bridged: ClassVar[bool] = False
    """Whether calls run in an event loop, each within the database's `run()`."""

    sleep = staticmethod(time.sleep)

    can_lose_connections: ClassVar[bool] = False
    """Whether a server may close a connection."""

    errors_abort_transactions: ClassVar[bool] = False
    """Whether the failure of one statement makes the rest of a transaction impossible."""

    # Connections and transactions

    def configuration_problem(self, database: peewee.Database) -> str | None:
        """Return why the model cannot work on this database as it is configured, or None."""
        return None

    def connection_problem(self, database: peewee.Database) -> str | None:
        """Return why the open connection cannot be used at all, or None."""
        return None

    def session_problems(self, database: peewee.Database) -> list[str]:
        """Return what settings of the open connection make content unreadable."""
        return []

    def in_transaction(self, database: peewee.Database) -> bool:
        """Tell whether the open connection has a transaction, also one begun without Peewee.

        The transaction in which a test runs (`aicontent.testing`) does not count.
        """
        nested = nested_of(database)
        return self.has_begun(database) if nested is None else nested.is_open

    @abstractmethod
    def has_begun(self, database: peewee.Database) -> bool:
        """Tell whether the open connection has any transaction, that of a test included."""

    @contextmanager
    def atomic(self, database: peewee.Database, *begin: Any) -> Iterator[None]:
        """Begin a transaction (`begin` says how), or a savepoint within one.

        An interrupt during BEGIN leaves none behind. The error of the block or of COMMIT is raised.
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
        """Roll back any open transaction, also one of which Peewee does not know."""
        while database.in_transaction():
            database.pop_transaction()
        if self.is_lost(database):
            discard(database)
        elif self.in_transaction(database):
            try:
                database.rollback()
            except Exception:  # noqa: BLE001 - the server rolls back when the connection ends
                discard(database)

    def is_lost(self, database: peewee.Database, error: BaseException | None = None) -> bool:
        """Tell whether only another connection can help after an error."""
        return False

    def connects_twice(self, database: Any) -> bool:
        """Tell whether a thread can have a connection while another thread has one."""
        # Another connection would not see the rows of a test's transaction.
        return bool(database.thread_safe) and nested_of(database) is None

    @abstractmethod
    def limit_waits(self, database: peewee.Database, seconds: float) -> None:
        """Let the open connection wait no longer for a lock, until it is closed."""

    def statement_savepoint(self, database: peewee.Database) -> AbstractContextManager[Any]:
        """Protect an open transaction from the failure of one statement."""
        return nullcontext()

    @contextmanager
    def constraints_explained(
        self, database: peewee.Database, user: object = None
    ) -> Iterator[None]:
        """Run one statement; if it fails, an open transaction stays usable.

        `user` is the user in it, as the driver takes it, if there is one.

        Raises:
            UnknownUserError, DuplicateIdError, DuplicateRequestError: for the database's error.
        """
        with self.statement_savepoint(database):
            try:
                yield
            except peewee.IntegrityError as error:
                raise explained(error, self.lacks_user(database, user)) from error

    def lacks_user(self, database: peewee.Database, user: object) -> bool:
        """Tell whether a foreign key that fails, and that has no name, is that of the user."""
        return False

    @abstractmethod
    def snapshot(self, database: peewee.Database) -> AbstractContextManager[Any]:
        """Begin a transaction that sees one moment and blocks no writer."""

    @abstractmethod
    def migration_lock(
        self, database: peewee.Database, timeout: float
    ) -> AbstractContextManager[Any]:
        """Begin a transaction that only one migrator at a time can have.

        `timeout` is how many seconds to wait for other migrators and for locks on tables.
        """

    def take_turn(self, database: peewee.Database) -> None:
        """Let the open transaction wait until no other one has its turn to write many rows."""
        return

    def bulk_settings(self, database: peewee.Database) -> AbstractContextManager[Any]:
        """Set the connection up for writing very many rows, and restore it afterwards."""
        return nullcontext()

    # Pieces of SQL

    @abstractmethod
    def clock(self) -> peewee.SQL:
        """Return the clock that the columns' defaults and the trigger read."""

    def statement_clock(self) -> peewee.SQL:
        """Return the time of the statement, which a long transaction does not hold back."""
        return self.clock()

    @abstractmethod
    def clock_after(self, seconds: object) -> peewee.SQL:
        """Return the statement's time plus a number of seconds, which is the parameter."""

    def columns_of_update(self) -> dict[str, Any]:
        """Return the columns that an UPDATE must set itself to return them as they are stored."""
        return {}

    def any_of(self, column: peewee.Node, values: Iterable[int | str] | peewee.Node) -> Any:
        """Return the condition that a column has one of the values, by one array parameter."""
        if not isinstance(values, peewee.Node):
            values = peewee.Value(self.array(values), False, unpack=False)
        before, after = map(peewee.SQL, self.in_array)
        return peewee.NodeList((column, before, values, after))

    @abstractmethod
    def array(self, values: Iterable[int | str]) -> list[int | str] | str:
        """Return values as one array parameter."""

    @abstractmethod
    def array_rows(self, type: str) -> str:
        """Return a table named `each` with a column `value`, made of one array of this type."""

    def locking(self, query: Any) -> Any:
        """Lock the rows that a subquery selects, waiting for other transactions."""
        return query

    def skipping_locked(self, query: Any) -> Any:
        """Lock the rows that a subquery selects, passing over rows that others have locked."""
        return query

    def bytewise(self, column: Any) -> Any:
        """Return a text column for ORDER BY that sorts by bytes, whatever the collation."""
        return column

    def with_index(self, model: type[peewee.Model], index: str, condition: Any) -> Any:
        """Return the model as the source of a SELECT that uses an index for a condition."""
        return model

    @abstractmethod
    def with_entry(self, document: Any, key: str, entries: dict[str, Any]) -> Any:
        """Return a JSON document with an object of these entries under a key.

        A document that is no object, which another program may have stored, is replaced.
        """

    # Values

    def time_parameter(self, moment: datetime) -> datetime | str:
        """Return a moment in UTC as the driver takes it."""
        return moment

    def time_text(self, moment: datetime) -> str:
        """Return a moment in UTC as text that the database takes for a time."""
        return moment.isoformat(" ", "microseconds")

    def typed(self, value: Any, type: str) -> Any:
        """Return a parameter with the type of its column, if the database has that type."""
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
        """Return the fastest way to insert many rows by this statement."""

    @abstractmethod
    def stream(
        self, database: peewee.Database, sql: str, parameters: Any, size: int
    ) -> Iterator[list[Any]]:
        """Read a query's first column in batches, without loading all of its rows."""

    @abstractmethod
    def pace(self, database: peewee.Database) -> AbstractContextManager[Pace]:
        """Begin a job that writes in batches, next to other writers."""

    @abstractmethod
    def deletion(self, model: type[peewee.Model], rule: Any) -> Deletion:
        """Return what deletes the rows that a rule makes due."""

    def advance_identity(self, database: peewee.Database, table: str) -> None:
        """Let the next id that the database assigns follow the largest one in the table."""
        return

    # The catalog, and the command line

    @abstractmethod
    def catalog(self, database: peewee.Database) -> Catalog:
        """Return what the database knows of its tables."""

    @abstractmethod
    def user_id_type(self, type: str) -> str | None:
        """Return the type of `userId` where `users.id` has a type; None if it is unsupported."""

    def reclaim(self, database: peewee.Database) -> tuple[int, str]:
        """Return free space to the file system; report the bytes, and by which method."""
        raise UnsupportedDatabaseError(
            "only SQLite returns space on request; PostgreSQL's autovacuum does it by itself"
        )

    @abstractmethod
    def shell_command(self, database: peewee.Database, url: str, query: str) -> list[str]:
        """Return the command by which a person runs a query in a terminal."""
