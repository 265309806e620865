"""Implement the PostgreSQL backend, for psycopg2 and psycopg 3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import peewee

from .backend import Backend
from .constraints import error_code
from .json_methods import PostgresqlMethods
from .nested import nested_of

if TYPE_CHECKING:
    from .bulk_load import BulkInsert, Loader
    from .catalog import Catalog
    from .deletion import Deletion
    from .pacing import Pace

_MIGRATION_LOCK = 0x6169_636F_6E74_656E
"""The key of the advisory lock of all migrators: the bytes of "aiconten"."""

_IMPORT_LOCK = _MIGRATION_LOCK + 1

_READ_ONLY = "25006"

_BUSY, _IN_TRANSACTION = 1, (2, 3)
"""libpq's transaction states. With psycopg 3, a connection stays busy after an interrupt. The other
states are 0, idle, and 4, unknown, because the connection is lost."""

_USER_ID_TYPES = {"smallint": "integer"} | {t: t for t in ("integer", "bigint", "uuid", "text")}

_STREAM = "aicontent_stream"

_ADVANCE = """
    SELECT setval(sequence, last) FROM (
        SELECT pg_get_serial_sequence('{table}', 'id')::regclass AS sequence, max(id) AS last
        FROM {table}
    ) AS ids WHERE last > coalesce(pg_sequence_last_value(sequence), 0)
"""


def _encoding_of_client(name: str) -> str:
    return (
        f"the client's encoding is {name}, which does not have all characters: open the database "
        "with aicontent.connect(), or with client_encoding='UTF8'"
    )


class IsoPostgresqlDatabase(peewee.PostgresqlDatabase):
    """A PostgreSQL database whose connections use the DateStyle ISO.

    psycopg2 sets it by itself, and psycopg 3 cannot read another style. A statement sets it here,
    because PgBouncer refuses connection options but tracks the setting of a statement.
    """

    def _initialize_connection(self, conn: Any) -> None:
        super()._initialize_connection(conn)  # type: ignore[misc]
        if not conn.info.parameter_status("DateStyle").startswith("ISO"):
            conn.cursor().execute("SET DateStyle = 'ISO'")


class PostgresqlBackend(Backend):
    """The backend for PostgreSQL: many writers, row locks, jsonb, the server's clock."""

    name = "postgresql"
    documents_are_text = False
    distinct_from = "IS DISTINCT FROM"
    json_methods = PostgresqlMethods
    can_lose_connections = has_partitions = True
    errors_abort_transactions = True
    in_array = "= ANY(", ")"

    def has_begun(self, database: peewee.Database) -> bool:
        connection: Any = None if database.is_closed() else database.connection()
        return connection is not None and connection.info.transaction_status in _IN_TRANSACTION

    def is_lost(self, database: peewee.Database, error: BaseException | None = None) -> bool:
        if database.is_closed():
            return False
        # After a failover the server may be read-only, and a new connection reaches the primary.
        is_read_only = error is not None and error_code(error) == _READ_ONLY
        connection: Any = database.connection()
        is_busy = connection.info.transaction_status == _BUSY and not database.in_transaction()
        return bool(connection.closed) or is_busy or is_read_only

    def connection_problem(self, database: peewee.Database) -> str | None:
        sql = "SELECT current_setting('client_encoding'), current_setting('search_path')"
        client, path = database.execute_sql(sql).fetchone()
        if isinstance(client, bytes):  # with SQL_ASCII, psycopg 3 does not decode text
            return _encoding_of_client(client.decode())
        if database.execute_sql("SELECT current_schema()").fetchone()[0] is not None:
            return None
        return (
            f"no schema of the search path ({path}) exists, or this role may not use it: create "
            "it, or set search_path for this role or database"
        )

    def session_problems(self, database: peewee.Database) -> list[str]:
        problem = self.connection_problem(database)
        if problem is not None:
            return [problem]
        sql = "SELECT current_setting('client_encoding'), current_setting('DateStyle')"
        client, style = database.execute_sql(sql).fetchone()
        problems = [] if client == "UTF8" else [_encoding_of_client(client)]
        if not style.startswith("ISO"):
            problems.append(
                f"the server writes dates as {style}, which psycopg 3 cannot read: open the "
                "database with aicontent.connect(), or set DateStyle to ISO"
            )
        return problems

    def limit_waits(self, database: peewee.Database, seconds: float) -> None:
        database.execute_sql("SELECT set_config('lock_timeout', %s, false)", (f"{seconds:f}s",))

    def statement_savepoint(self, database: Any) -> Any:
        # A failed statement would abort the whole transaction.
        return database.savepoint() if self.in_transaction(database) else nullcontext()

    @contextmanager
    def snapshot(self, database: Any) -> Iterator[None]:
        with self.atomic(database):
            if nested_of(database) is None:  # a savepoint cannot set an isolation level
                database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield

    @contextmanager
    def migration_lock(self, database: Any, timeout: float) -> Iterator[None]:
        with self.atomic(database):
            # With another isolation level, this migrator would not see the previous one's changes.
            database.execute_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            # The timeout also limits the wait for a lock on the users table, because all writers
            # to users wait behind this transaction.
            wait = f"{max(1, round(timeout * 1000))}ms"
            database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (wait,))
            database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            yield

    def take_turn(self, database: peewee.Database) -> None:
        database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_IMPORT_LOCK,))

    def clock(self) -> peewee.SQL:
        return peewee.SQL("CURRENT_TIMESTAMP")

    def statement_clock(self) -> peewee.SQL:
        return peewee.SQL("statement_timestamp()")

    def clock_after(self, seconds: object) -> peewee.SQL:
        sql = "statement_timestamp() + make_interval(secs => %s)"
        return peewee.SQL(sql, (seconds,))

    def any_of(self, column: Any, values: Iterable[int | str] | peewee.Node) -> Any:
        if isinstance(getattr(column, "rel_field", None), peewee.UUIDField):
            if not isinstance(values, peewee.Node):
                values = peewee.Value(self.array(values), False, unpack=False)
            values = peewee.Cast(values, "uuid[]")  # the driver sends it as text
        return super().any_of(column, values)

    def array(self, values: Iterable[int | str]) -> list[int | str] | str:
        return list(values)

    def array_rows(self, type: str) -> str:
        return f"unnest(CAST(%s AS {type}[])) AS each(value)"

    def locking(self, query: Any) -> Any:
        return query.for_update("FOR NO KEY UPDATE")

    def skipping_locked(self, query: Any) -> Any:
        return query.for_update("FOR NO KEY UPDATE SKIP LOCKED")

    def bytewise(self, column: Any) -> Any:
        return peewee.NodeList((column, peewee.SQL('COLLATE "C"')))

    def with_entry(self, document: Any, key: str, entries: dict[str, Any]) -> Any:
        fn = peewee.fn
        is_object = fn.jsonb_typeof(document) == peewee.SQL("'object'")
        base = peewee.Case(None, [(is_object, document)], peewee.SQL("'{}'::jsonb"))
        # Keys are constants, because prepared statements need the type of each parameter.
        parts = [part for n, value in entries.items() for part in (peewee.SQL(f"'{n}'"), value)]
        entry = fn.jsonb_build_object(peewee.SQL(f"'{key}'"), fn.jsonb_build_object(*parts))
        return peewee.Expression(base, "||", entry)

    def typed(self, value: Any, type: str) -> Any:
        return peewee.Cast(peewee.Value(value, converter=False), type)

    def document_text(self, column: Any) -> Any:
        return column.cast("text")

    def utc_text(self, column: Any) -> Any:
        utc = peewee.NodeList((column, peewee.SQL("AT TIME ZONE 'UTC'")))
        text = peewee.fn.to_char(utc, peewee.SQL("'YYYY-MM-DD HH24:MI:SS.US'"))
        return peewee.fn.COALESCE(text, column.cast("text"))  # to_char() of "infinity" is NULL

    def loader(self, database: peewee.Database, insert: BulkInsert) -> Loader:
        from .bulk_load import CopyLoader

        return CopyLoader(database, insert)

    def stream(
        self, database: peewee.Database, sql: str, parameters: Any, size: int
    ) -> Iterator[list[Any]]:
        # Without a server-side cursor, the driver reads all rows before it returns the first one.
        database.execute_sql(f"DECLARE {_STREAM} NO SCROLL CURSOR FOR {sql}", parameters)
        while rows := database.execute_sql(f"FETCH {size} FROM {_STREAM}").fetchall():
            yield [row[0] for row in rows]
        database.execute_sql(f"CLOSE {_STREAM}")

    def pace(self, database: peewee.Database) -> AbstractContextManager[Pace]:
        from .pacing import PostgresqlPace

        return nullcontext(PostgresqlPace(database))

    def deletion(self, model: type[peewee.Model], rule: Any) -> Deletion:
        from .deletion import PostgresqlDeletion

        return PostgresqlDeletion(self, model, rule)

    def advance_identity(self, database: peewee.Database, table: str) -> None:
        database.execute_sql(_ADVANCE.format(table=table))

    def catalog(self, database: peewee.Database) -> Catalog:
        from .postgresql_catalog import PostgresqlCatalog

        return PostgresqlCatalog(database)

    def user_id_type(self, type: str) -> str | None:
        return type if type.startswith("character varying") else _USER_ID_TYPES.get(type)

    def shell_command(self, database: peewee.Database, url: str, query: str) -> list[str]:
        return ["psql", url, "-c", query]
