"""Read what a database knows of its tables: catalog, sizes, statistics. Nothing here writes."""

import heapq
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import peewee


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

    def __init__(self, database: peewee.Database) -> None:
        self._database: Any = database

    @abstractmethod
    def relation(self, name: str, *, anywhere: bool = False) -> Relation | None:
        """Return the table or view of this name, or None.

        PostgreSQL looks where a CREATE would put the name; `anywhere` on its whole search path.
        """

    def schema(self) -> str | None:
        """Return the schema where a CREATE would put a table, or None where there are none."""
        return None

    def hidden_in(self, name: str) -> str | None:
        """Return a schema further down the search path that has a table of this name."""
        return None

    @abstractmethod
    def definitions(self, table: str) -> dict[str, str]:
        """Return how a table is defined: "column id", "index …", "trigger …", each in one line."""

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
        return self._database.execute_sql(sql, parameters).fetchall()


def file_size(path: str) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return Path(path).stat().st_size if Path(path).exists() else 0


class SqliteCatalog(Catalog):
    """SQLite's schema table and pragmas."""

    def relation(self, name: str, *, anywhere: bool = False) -> Relation | None:
        kinds = self._all(
            "SELECT type FROM sqlite_master "
            "WHERE type IN ('table', 'view') AND lower(name) = lower(?)",
            (name,),
        )
        if not kinds:
            return None
        columns = self._all("SELECT name, type, pk FROM pragma_table_info(?)", (name,))
        keys = [column for column, _, position in columns if position]
        unique = set(keys if len(keys) == 1 else ())
        indexes = 'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial'
        for index in self._all(indexes, (name,)):
            members = self._all("SELECT name FROM pragma_index_info(?)", index)
            if len(members) == 1:
                unique.add(members[0][0])
        return Relation(kinds[0][0], {row[0]: row[1] for row in columns}, frozenset(unique))

    def definitions(self, table: str) -> dict[str, str]:
        rows = self._all(
            "SELECT 'column ' || name, type || iif(\"notnull\", ' NOT NULL', '') "
            "|| iif(dflt_value IS NULL, '', ' DEFAULT ' || dflt_value) "
            "FROM pragma_table_info(?) "
            "UNION ALL SELECT type || ' ' || name, sql FROM sqlite_master "
            "WHERE tbl_name = ? AND sql IS NOT NULL",
            (table, table),
        )
        definitions = dict(rows)
        # Only the table's own text holds its constraints, one a line as the migrations write them.
        text = definitions.pop(f"table {table}", "")
        # A constraint that came with a later column may have the next column on its line.
        constraint = r'^\s*(CONSTRAINT "(\w+)".*?)(?:, ["\w].*|,)?$'
        for line, name in re.findall(constraint, text, re.MULTILINE):
            definitions[f"constraint {name}"] = line
        return _one_line(definitions)

    def orphans(self, table: str) -> int:
        return int(self._all("SELECT count(*) FROM pragma_foreign_key_check(?)", (table,))[0][0])

    def has_compressed(self, table: str, columns: Iterable[str]) -> bool:
        is_compressed = " OR ".join(f"typeof(\"{column}\") = 'blob'" for column in columns)
        newest = f'SELECT * FROM {table} ORDER BY "createdAt" DESC LIMIT 100'
        return bool(self._all(f"SELECT 1 FROM ({newest}) AS n WHERE {is_compressed} LIMIT 1"))

    def totals(self, table: str, largest: int) -> Totals:
        # SQLite would sort the rows to group them, documents' sizes included. One pass over the
        # table, added up here, takes a fourth of the time.
        sql = (
            'SELECT type, status, coalesce("usageCount", 0), coalesce("tokenUsage", 0), '
            'coalesce("generationTimeMs", 0), length(CAST("generatedData" AS BLOB)), id, '
            f'"createdAt" FROM {table} NOT INDEXED'
        )
        sums: dict[tuple[str, str], list[int]] = {}
        top: list[tuple[int, str]] = []
        least, oldest = 0, None
        for kind, status, uses, tokens, ms, size, id, created in self._database.execute_sql(sql):
            group = sums.get((kind, status))
            if group is None:
                group = sums[kind, status] = [0] * 6
            group[0] += 1
            group[1] += uses
            group[2] += tokens
            group[3] += tokens * uses
            group[4] += ms
            group[5] += ms * uses
            if size and size > least:
                heapq.heappush(top, (size, id))
                if len(top) > largest:
                    heapq.heappop(top)
                    least = top[0][0]
            if status == "pending" and (oldest is None or created < oldest):
                oldest = created
        documents = [(id, size) for size, id in sorted(top, reverse=True)]
        return Totals([(*names, *sums) for names, sums in sums.items()], documents, oldest)

    def sizes(self, table: str) -> tuple[int, int]:
        names = ("page_size", "page_count", "freelist_count")
        page, pages, free = (self._database.pragma(name) for name in names)
        return pages * page + file_size(f"{self._database.database}-wal"), free * page


# Where a CREATE would put the name: with a schema for each tenant, each holds its own table.
_OURS = "to_regclass(format('%%I.%%I', current_schema(), %s::text))"

_DEFINITIONS = f"""
    SELECT 'column ' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN 'NOT NULL' END,
        'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = {_OURS} AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'constraint ' || conname, pg_get_constraintdef(oid, true)
    FROM pg_constraint WHERE conrelid = {_OURS} AND contype <> 'n'
    UNION ALL
    SELECT 'index ' || i.relname, pg_get_indexdef(x.indexrelid, 0, true)
        || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = {_OURS}
    UNION ALL
    SELECT 'trigger ' || t.tgname, pg_get_triggerdef(t.oid, true)
        || CASE WHEN t.tgenabled IN ('O', 'A') THEN '' ELSE ' DISABLED' END || ' ' || p.prosrc
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = {_OURS} AND NOT t.tgisinternal
"""

_INDEXES = f"""
    SELECT s.indexrelname, pg_relation_size(s.indexrelid), s.idx_scan, x.indisunique
    FROM pg_stat_user_indexes s JOIN pg_index x ON x.indexrelid = s.indexrelid
    WHERE s.relid = {_OURS} ORDER BY s.indexrelname
"""

_WRITES = f"""
    SELECT t.n_tup_ins + t.n_tup_upd - t.n_tup_hot_upd, d.stats_reset
    FROM pg_stat_user_tables t, pg_stat_database d
    WHERE t.relid = {_OURS} AND d.datname = current_database()
"""


class PostgresqlCatalog(Catalog):
    """PostgreSQL's system catalogs and statistics views."""

    def relation(self, name: str, *, anywhere: bool = False) -> Relation | None:
        place = "to_regclass(quote_ident(%s))" if anywhere else _OURS
        rows = self._all(f"SELECT oid, relkind FROM pg_class WHERE oid = {place}", (name,))
        if not rows:
            return None
        oid, relkind = rows[0]
        columns = self._all(
            "SELECT a.attname, CASE WHEN t.typbasetype = 0 THEN format_type(t.oid, a.atttypmod) "
            "ELSE format_type(t.typbasetype, t.typtypmod) END "
            "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
            "WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            (oid,),
        )
        unique = self._all(
            "SELECT a.attname FROM pg_index x JOIN pg_attribute a "
            "ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0] "
            "WHERE x.indrelid = %s AND x.indisunique AND x.indimmediate AND x.indisvalid "
            "AND x.indnkeyatts = 1 AND x.indpred IS NULL AND x.indexprs IS NULL",
            (oid,),
        )
        kind = "table" if relkind in ("r", "p", b"r", b"p") else "view"
        return Relation(kind, dict(columns), frozenset(row[0] for row in unique))

    def definitions(self, table: str) -> dict[str, str]:
        quotes = "quote_all_identifiers"  # which changes how the server writes a definition
        (before,) = self._all(
            f"SELECT current_setting('{quotes}'), set_config('{quotes}', 'off', false)"
        )
        try:
            return _one_line(dict(self._all(_DEFINITIONS, (table,) * 4)))
        finally:
            self._all(f"SELECT set_config('{quotes}', %s, false)", before[:1])

    def schema(self) -> str | None:
        schema: str | None = self._all("SELECT current_schema()")[0][0]
        return schema

    def hidden_in(self, name: str) -> str | None:
        rows = self._all(
            "SELECT schema FROM unnest(current_schemas(false)) WITH ORDINALITY AS s(schema, place) "
            "WHERE schema <> current_schema() "
            "AND to_regclass(format('%%I.%%I', schema, %s::text)) IS NOT NULL "
            "ORDER BY place LIMIT 1",
            (name,),
        )
        return rows[0][0] if rows else None

    def server_time(self) -> Any:
        return self._all("SELECT clock_timestamp()")[0][0]

    def totals(self, table: str, largest: int) -> Totals:
        columns = ("usageCount", "tokenUsage", "generationTimeMs")
        uses, tokens, ms = (f'coalesce("{name}", 0)::bigint' for name in columns)
        sums = f"sum({uses}), sum({tokens}), sum({tokens} * {uses}), sum({ms}), sum({ms} * {uses})"
        rows = self._all(
            f'SELECT type, status, count(*), {sums}, min("createdAt") FROM {table} GROUP BY 1, 2'
        )
        size = 'pg_column_size("generatedData")'  # the stored size: the server reads no document
        documents = self._all(
            f'SELECT id, {size} FROM {table} WHERE "generatedData" IS NOT NULL '
            f"ORDER BY {size} DESC, id DESC LIMIT {largest}"
        )
        pending = (row[-1] for row in rows if row[1] == "pending")
        groups = [(*row[:2], *map(int, row[2:-1])) for row in rows]
        return Totals(groups, documents, min(pending, default=None))

    def sizes(self, table: str) -> tuple[int, int]:
        return int(self._all(f"SELECT pg_total_relation_size('{table}')")[0][0]), 0

    def index_usage(self, table: str) -> IndexUsage | None:
        indexes = [IndexUse(*row) for row in self._all(_INDEXES, (table,))]
        writes, since = (self._all(_WRITES, (table,)) or [(0, None)])[0]
        return IndexUsage(indexes, int(writes), since)


def _one_line(definitions: dict[str, str]) -> dict[str, str]:
    return {name: " ".join(text.split()) for name, text in definitions.items()}
