"""Read the definitions, sizes and statistics of tables from a database. Nothing here writes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import peewee

from .internals import driver_errors


@dataclass(frozen=True)
class Relation:
    """A table or a view: its kind, its columns with their types, and its unique columns."""

    kind: str
    columns: dict[str, str]
    unique: frozenset[str]

    @property
    def is_minimal(self) -> bool:
        """Return whether its only column is an integer id, as in the users table of `migrate`."""
        return set(self.columns) == {"id"} and "INT" in self.columns["id"].upper()


@dataclass(frozen=True)
class Partition:
    """A hash partition: its users are those whose hash modulo `modulus` is `remainder`."""

    name: str
    modulus: int
    remainder: int


@dataclass(frozen=True)
class Totals:
    """Sums over a table: type, status, rows, uses, tokens, tokens * uses, ms, ms * uses.

    `largest` has the ids of the largest documents with their bytes. `oldest_pending` is when the
    oldest pending row was created.
    """

    sums: list[tuple[Any, ...]]
    largest: list[tuple[str, int]]
    oldest_pending: Any


@dataclass(frozen=True)
class IndexUse:
    """An index: its bytes, its scans, and whether it enforces uniqueness (`keeps_rule`)."""

    name: str
    size: int
    scans: int
    keeps_rule: bool

    @property
    def idle(self) -> bool:
        """Return whether no query has used the index, and no unique constraint needs it."""
        return self.scans == 0 and not self.keeps_rule


@dataclass(frozen=True)
class IndexUsage:
    """The usage of the table's indexes, sorted by name, and the writes that updated them.

    `since` is when the counts began; None if they began when the database was created.
    """

    indexes: list[IndexUse]
    writes: int
    since: datetime | None


class Catalog(ABC):
    """Reads the catalog of one database."""

    identity_type: ClassVar[str]
    """The type of an integer id that the database assigns."""

    def __init__(self, database: peewee.Database) -> None:
        self._database: Any = database

    @abstractmethod
    def relation(self, name: str, *, anywhere: bool = False) -> Relation | None:
        """Return the table or view with this name, or None.

        On PostgreSQL, search the schema in which CREATE would create it; with `anywhere`, search
        the whole search path.
        """

    def encoding_problem(self) -> str | None:
        """Return why the database cannot store all content, or None."""
        return None

    def schema(self) -> str | None:
        """Return the schema in which CREATE would create a table; None without schemas."""
        return None

    def hidden_in(self, name: str) -> str | None:
        """Return a later schema of the search path that has a table with this name, or None."""
        return None

    @abstractmethod
    def definitions(self, table: str) -> dict[str, str]:
        """Return the definitions of a table by name ("column id", "index …"), each in one line."""

    @abstractmethod
    def partitioning_problem(self) -> str | None:
        """Return why this database cannot have partitioned tables, or None."""

    def is_partitioned(self, schema: str | None, table: str) -> bool | None:
        """Return whether a table is partitioned; None if there is no such table."""
        return False

    def partitions(self, table: str) -> list[Partition] | None:
        """Return the partitions of a table, or None if it is not partitioned."""
        return None

    def orphans(self, table: str) -> int:
        """Return how many rows reference a missing row."""
        return 0

    def server_time(self) -> datetime | None:
        """Return the server's time; None if the database uses the client's clock."""
        return None

    def has_compressed(self, table: str, columns: Iterable[str]) -> bool:
        """Return whether one of the newest rows has a document that this package compressed."""
        return False

    @abstractmethod
    def totals(self, table: str, largest: int) -> Totals:
        """Return sums of the rows by type and status, and the largest documents."""

    @abstractmethod
    def sizes(self, table: str) -> tuple[int, int]:
        """Return the bytes of the table on disk, and how many of them are unused."""

    def index_usage(self, table: str) -> IndexUsage | None:
        """Return how often the table's indexes were used; None if the database does not count."""
        return None

    def _all(self, sql: str, parameters: tuple[object, ...] = ()) -> Any:
        with driver_errors:
            return self._database.execute_sql(sql, parameters).fetchall()


def file_size(path: str) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return Path(path).stat().st_size if Path(path).exists() else 0


def one_line(definitions: dict[str, str]) -> dict[str, str]:
    """Return definitions with each text in one line."""
    return {name: " ".join(text.split()) for name, text in definitions.items()}
