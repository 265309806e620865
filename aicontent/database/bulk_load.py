"""Insert many rows with the fastest method of each driver. Called by `records.insertion`."""

import io
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import Any

import peewee

from .constraints import without_rows
from .internals import driver_errors

Row = list[Any]
"""A row's values as parameters for the driver, in the order of the columns."""


@dataclass(frozen=True)
class BulkInsert:
    """An INSERT: its table, its columns, its SQL in parts.

    `clock_columns` are the positions of the columns whose default is the current time.
    """

    table: str
    columns: Sequence[str]
    clock_columns: Collection[int]
    head: str
    row: str
    tail: str

    def sql(self, rows: int) -> str:
        """Return the statement for a number of rows."""
        return self.head + ", ".join([self.row] * rows) + self.tail


class Loader(ABC):
    """Inserts rows faster than one long INSERT."""

    position: int | None = None
    """The index of the current row, from 0; None if the loader does not know it."""

    def __init__(self, database: peewee.Database, insert: BulkInsert) -> None:
        self._database = database
        self._insert = insert

    @abstractmethod
    def load(self, rows: Sequence[Row]) -> int | None:
        """Insert rows; return how many were stored, or None if the loader cannot insert them."""


class ExecuteManyLoader(Loader):
    """Executes one prepared statement per row, which is faster on SQLite than one long INSERT."""

    position: int | None = 0

    def load(self, rows: Sequence[Row]) -> int | None:
        sql = self._insert.head + self._insert.row
        with driver_errors:
            cursor: Any = self._database.cursor()
            cursor.executemany(sql, self._counting(rows))
        return int(cursor.rowcount)

    def _counting(self, rows: Sequence[Row]) -> Iterator[Row]:
        for self.position, row in enumerate(rows):
            yield row


_COPIED = {str, int, bool, float, datetime, NoneType}

_CAN_COPY = """
    SELECT current_setting('client_encoding') = 'UTF8'
        AND NOT row_security_active(to_regclass(%s)::oid)
"""


class CopyLoader(Loader):
    """Sends rows with COPY, which is 1.5 times as fast as an INSERT.

    COPY needs UTF-8 here, and does not work with row-level security.
    """

    def __init__(self, database: peewee.Database, insert: BulkInsert) -> None:
        super().__init__(database, insert)
        cursor: Any = database.execute_sql(_CAN_COPY, (insert.table,))
        (self._is_possible,) = cursor.fetchone()

    def load(self, rows: Sequence[Row]) -> int | None:
        if not self._is_possible:
            return None
        if not _COPIED.issuperset(type(value) for row in rows for value in row):
            return None
        columns = self._insert.columns
        has_time = {i for i in self._insert.clock_columns for row in rows if row[i] is not None}
        if any(row[i] is None for i in has_time for row in rows):
            return None  # COPY applies a column's default to all rows or to none
        omitted = set(self._insert.clock_columns) - has_time
        sent = [i for i in range(len(columns)) if i not in omitted]
        text = "".join("\t".join([_escaped(row[i]) for i in sent]) + "\n" for row in rows)
        names = ", ".join(f'"{columns[i]}"' for i in sent)
        sql = f"COPY {self._insert.table} ({names}) FROM STDIN"
        with without_rows(), driver_errors:
            cursor: Any = self._database.cursor()
            if hasattr(cursor, "copy_expert"):
                cursor.copy_expert(sql, io.StringIO(text))
            else:  # psycopg 3
                with cursor.copy(sql) as copy:
                    copy.write(text)
        return int(cursor.rowcount)


def _escaped(value: object) -> str:
    if value is None:
        return r"\N"
    text = str(value).replace("\\", r"\\")
    return text.replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")
