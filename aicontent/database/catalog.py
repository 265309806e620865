"""Read what a database knows of its tables: catalog, sizes, statistics. Nothing here writes."""

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
    """A table or a view: its kind, its columns with their types, and which are unique."""

    kind: str
    columns: dict[str, str]
    unique: frozenset[str]

    @property
    def is_minimal(self) -> bool:
        """Whether it is an integer id alone, like the users table that `migrate` can make."""
        return set(self.columns) == {"id"} and "INT" in self.columns["id"].upper()


@dataclass(frozen=True)
class Partition:
    """A partition by hash: its name, and the users whose rows it has."""

    name: str
    modulus: int
    remainder: int


@dataclass(frozen=True)
class Totals:
    """Sums over a table: type, status, rows, uses, tokens, tokens * uses, ms, ms * uses.

    `largest` are the largest documents by id, with their bytes, and `oldest_pending` is when the
    oldest pending row was created.
    """

    sums: list[tuple[Any, ...]]
    largest: list[tuple[str, int]]
    oldest_pending: Any


@dataclass(frozen=True)
class IndexUse:
    """An index: its bytes, its scans, and whether it enforces uniqueness, so that it is needed."""

    name: str
    size: int
    scans: int
    keeps_rule: bool

    @property
    def idle(self) -> bool:
        """Whether it costs, but no query has used it."""
        return self.scans == 0 and not self.keeps_rule


@dataclass(frozen=True)
class IndexUsage:
    """The table's indexes by name, the writes that updated them, and since when this is counted.

    `since` is None where PostgreSQL does not say; then it counted since the database was created.
    """

    indexes: list[IndexUse]
    writes: int
    since: datetime | None


class Catalog(ABC):
    """What one database knows of its tables."""

    identity_type: ClassVar[str]
    """The type of an integer id that the database assigns."""

    def __init__(self, database: peewee.Database) -> None:
        self._database: Any = database

    @abstractmethod
    def relation(self, name: str, *, anywhere: bool = False) -> Relation | None:
        """Return the table or view of this name, or None.

        PostgreSQL looks where a CREATE would put the name; `anywhere` on its whole search path.
        """

    def encoding_problem(self) -> str | None:
        """Return why the database cannot store all content, or None."""
        return None

    def schema(self) -> str | None:
        """Return the schema where a CREATE would put a table, or None where there are none."""
        return None

    def hidden_in(self, name: str) -> str | None:
        """Return a schema further down the search path that has a table of this name."""
        return None

    @abstractmethod
    def definitions(self, table: str) -> dict[str, str]:
        """Return how a table is defined: "column id", "index …", "trigger …", each in one line."""

    @abstractmethod
    def partitioning_problem(self) -> str | None:
        """Return why no table can be partitioned here, or None."""

    def is_partitioned(self, schema: str | None, table: str) -> bool | None:
        """Tell whether a table is partitioned; None if there is no such table."""
        return False

    def partitions(self, table: str) -> list[Partition] | None:
        """Return the partitions of a table, or None if it is not partitioned."""
        return None

    def orphans(self, table: str) -> int:
        """Return how many rows reference a row that does not exist."""
        return 0

    def server_time(self) -> datetime | None:
        """Return the server's clock, or None where it is the client's."""
        return None

    def has_compressed(self, table: str, columns: Iterable[str]) -> bool:
        """Tell whether any of the newest rows has a document that the package compressed."""
        return False

    @abstractmethod
    def totals(self, table: str, largest: int) -> Totals:
        """Add up the rows by type and status, and find the largest documents."""

    @abstractmethod
    def sizes(self, table: str) -> tuple[int, int]:
        """Return the bytes that the table takes on disk, and how many of them are free."""

    def index_usage(self, table: str) -> IndexUsage | None:
        """Return what the server counted about the table's indexes; None if it counts nothing."""
        return None

    def _all(self, sql: str, parameters: tuple[object, ...] = ()) -> Any:
        with driver_errors:
            return self._database.execute_sql(sql, parameters).fetchall()


def file_size(path: str) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return Path(path).stat().st_size if Path(path).exists() else 0


def one_line(definitions: dict[str, str]) -> dict[str, str]:
    """Return definitions with each on one line."""
    return {name: " ".join(text.split()) for name, text in definitions.items()}
