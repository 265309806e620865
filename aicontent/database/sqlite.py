"""Implement the SQLite backend."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peewee

from ..errors import DatabaseUnavailableError
from .backend import Backend
from .internals import driver_errors, new_connection
from .json_methods import SqliteMethods

if TYPE_CHECKING:
    from .bulk_load import BulkInsert, Loader
    from .catalog import Catalog
    from .deletion import Deletion
    from .pacing import Pace

_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
"""The current time in the text form of all stored times. SQLite computes 'now' once per statement,
so a statement and its trigger set the same time."""

_BULK = {"cache_size": -32_000, "wal_autocheckpoint": 10_000}
"""32 MB of pages and 40 MB of log: an import then stores 1.4 times as many rows per second."""

_TYPE = r"[A-Za-z]+( ?\(\d+\))?"
"""The name of a type that needs no quotes. SQLite accepts any text as a type."""

_INCREMENTAL = 2
_PAGES = 1000
"""Pages per step of an incremental vacuum; each step is a short transaction."""


class SqliteBackend(Backend):
    """The backend for SQLite: one writer at a time, times and documents as text, local clock."""

    name = "sqlite"
    documents_are_text = True
    distinct_from = "IS NOT"
    json_methods = SqliteMethods
    can_reclaim = True
    in_array = "IN (SELECT value FROM json_each(", "))"

    foreign_keys_problem = (
        "SQLite does not enforce foreign keys on this database, so deleting a user would not "
        "delete the user's content: open it with pragmas={'foreign_keys': 1}, or with "
        "aicontent.connect()"
    )

    def configuration_problem(self, database: peewee.Database) -> str | None:
        return None if _enforces_foreign_keys(database) else self.foreign_keys_problem

    def has_begun(self, database: peewee.Database) -> bool:
        connection: Any = None if database.is_closed() else database.connection()
        return connection is not None and bool(connection.in_transaction)

    def connects_twice(self, database: Any) -> bool:
        name = str(database.database)
        in_memory = name in (":memory:", "") or ":memory:" in name or "mode=memory" in name
        return super().connects_twice(database) and not in_memory

    def limit_waits(self, database: peewee.Database, seconds: float) -> None:
        database.execute_sql(f"PRAGMA busy_timeout = {round(seconds * 1000)}").fetchall()

    def writing(self, database: Any) -> Any:
        # With the database's default type of lock it may fail at once if another writer is active.
        return self.atomic(database, "IMMEDIATE")

    def lacks_user(self, database: peewee.Database, user: object) -> bool:
        user = None if isinstance(user, peewee.Node) else user
        is_missing = "? IS NOT NULL AND NOT EXISTS (SELECT 1 FROM users WHERE id = ?)"
        sql = (
            f"SELECT count(*) = 1 OR ({is_missing}) "
            "FROM pragma_foreign_key_list('ai_generated_content')"
        )
        return bool(database.execute_sql(sql, (user, user)).fetchone()[0])

    def snapshot(self, database: Any) -> Any:
        return self.atomic(database, "DEFERRED")

    def migration_lock(self, database: Any, timeout: float) -> Any:
        return self.atomic(database, "IMMEDIATE")  # waits for the timeout of the database

    def bulk_settings(self, database: peewee.Database) -> AbstractContextManager[Any]:
        return pragmas(database, **_BULK)

    def clock(self) -> peewee.SQL:
        return peewee.SQL(_NOW)

    def clock_after(self, seconds: object) -> peewee.SQL:
        later = _NOW.replace("'now'", "'now', printf('%+.3f seconds', ?)")
        return peewee.SQL(later, (seconds,))

    def columns_of_update(self) -> dict[str, Any]:
        return {"updated_at": self.clock()}  # RETURNING reads the row before the trigger runs

    def array(self, values: Iterable[int | str]) -> list[int | str] | str:
        return json.dumps(list(values))

    def array_rows(self, type: str) -> str:
        return "json_each(?) AS each"

    def with_index(self, model: type[peewee.Model], index: str, condition: Any) -> Any:
        # Without ANALYZE, SQLite chooses the index on status and reads all failed rows.
        hinted = peewee.NodeList((model, peewee.SQL(f"INDEXED BY {index}")))
        key: Any = model._meta.primary_key
        sql, values = model.select(key).from_(hinted).where(condition).sql()
        try:
            model._meta.database.execute_sql(f"EXPLAIN {sql}", values).fetchall()
        except peewee.OperationalError:  # the index does not exist, or does not fit the condition
            return model
        return hinted

    def with_entry(self, document: Any, key: str, entries: dict[str, Any]) -> Any:
        fn = peewee.fn
        is_object = fn.json_type(document) == peewee.SQL("'object'")
        base = peewee.Case(None, [(is_object, document)], peewee.SQL("'{}'"))
        parts = [part for n, value in entries.items() for part in (peewee.SQL(f"'{n}'"), value)]
        return fn.json_set(base, peewee.SQL(f"'$.{key}'"), fn.json_object(*parts))

    def time_parameter(self, value: datetime) -> datetime | str:
        return self.time_text(value)

    def time_text(self, value: datetime) -> str:
        return value.isoformat(" ", "microseconds")[:26]  # without the time zone

    def loader(self, database: peewee.Database, insert: BulkInsert) -> Loader:
        from .bulk_load import ExecuteManyLoader

        return ExecuteManyLoader(database, insert)

    def stream(
        self, database: peewee.Database, sql: str, parameters: Any, size: int
    ) -> Iterator[list[Any]]:
        cursor = database.execute_sql(sql, parameters)
        with driver_errors:
            while rows := cursor.fetchmany(size):
                yield [row[0] for row in rows]

    @contextmanager
    def pace(self, database: peewee.Database) -> Iterator[Pace]:
        from .pacing import SqlitePace

        # Checkpoints run between the batches, because they block no other writer.
        with pragmas(database, wal_autocheckpoint=0):
            yield SqlitePace(database)

    def deletion(self, model: type[peewee.Model], rule: Any) -> Deletion:
        from .deletion import SqliteDeletion

        return SqliteDeletion(self, model, rule)

    def catalog(self, database: peewee.Database) -> Catalog:
        from .sqlite_catalog import SqliteCatalog

        return SqliteCatalog(database)

    def user_id_type(self, type: str) -> str | None:
        # This is SQLite's rule of type affinity (datatype3.html, section 3.1).
        name = type.upper()
        if "INT" in name:
            return "BIGINT" if "BIG" in name else "INTEGER"
        if not any(part in name for part in ("CHAR", "CLOB", "TEXT")):
            return None
        return type if re.fullmatch(_TYPE, type) else "TEXT"

    def reclaim(self, database: Any) -> tuple[int, str]:
        from .catalog import file_size
        from .sqlite_catalog import file_of

        path = file_of(database)

        def size() -> int:
            return file_size(path) + file_size(f"{path}-wal")

        pragma = database.pragma
        if not pragma("freelist_count"):
            return 0, "nothing"
        _checkpoint(database)  # otherwise the log would count as freed space
        before = size()
        method = "incremental" if pragma("auto_vacuum") == _INCREMENTAL else "vacuum"
        if method == "vacuum":
            database.execute_sql("VACUUM")
        else:
            while pragma("freelist_count"):
                # SQLite frees one page per fetched row.
                database.execute_sql(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
        _checkpoint(database)
        return before - size(), method

    def shell_command(self, database: peewee.Database, url: str, query: str) -> list[str]:
        return ["sqlite3", str(database.database), query]


def is_database_file(path: Path) -> bool:
    """Return whether a file is a SQLite database, its write-ahead log, or its rollback journal."""
    with path.open("rb") as file:
        return file.read(16).startswith(_MAGIC)


# fileformat2.html, sections 1.3, 3 and 4.1
_MAGIC = (
    b"SQLite format 3\0",
    bytes.fromhex("d9d505f920a163d7"),
    bytes.fromhex("377f0682"),
    bytes.fromhex("377f0683"),
)


@contextmanager
def pragmas(database: Any, **settings: int) -> Iterator[None]:
    """Set pragmas of the open connection, and restore them afterwards."""
    pragma = database.pragma
    before = {name: pragma(name) for name in settings}
    try:
        for name, value in settings.items():
            pragma(name, value)
        yield
    finally:
        for name, value in before.items():
            pragma(name, value)


def _checkpoint(database: peewee.Database) -> None:
    # The file shrinks only when the log is written back, which needs a time without readers.
    row: Any = database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if row and row[0]:
        raise DatabaseUnavailableError(
            "the space is free but not yet returned, because another connection reads or writes: "
            "try again later"
        )


def _enforces_foreign_keys(database: Any) -> bool:
    """Return whether new connections enforce foreign keys.

    The setting belongs to a connection, so the open connection does not show it. This opens
    another connection, which belongs to no pool, and closes it.
    """
    with closing(new_connection(database)) as connection:
        return bool(connection.execute("PRAGMA foreign_keys").fetchone()[0])
