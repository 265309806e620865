"""Read what a database knows of its tables: catalog, sizes, statistics. Nothing here writes."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import peewee


@dataclass(frozen=True)
class Relation:
    """A table or a view: its kind, its columns with their types, and which are unique."""

    kind: str
    columns: dict[str, str]
    unique: frozenset[str]

    @property
    def is_minimal(self) -> bool:
        """Whether it has an id and nothing else, like the users table that `migrate` can make."""
        return set(self.columns) == {"id"}


class Sums(NamedTuple):
    """Sums over the rows of one type and status."""

    type: str
    status: str
    rows: int
    uses: int
    tokens: int
    tokens_by_use: int
    milliseconds: int
    milliseconds_by_use: int


@dataclass(frozen=True)
class Totals:
    """Sums by type and status, the largest documents by id, the oldest pending row's creation."""

    sums: list[Sums]
    largest: list[tuple[str, int]]
    oldest_pending: Any


@dataclass(frozen=True)
class IndexScans:
    """An index a row: name, bytes, scans, uniqueness; the table's writes; when counting began."""

    indexes: list[tuple[str, int, int, bool]]
    writes: int
    since: datetime | None


def file_size(path: str) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return Path(path).stat().st_size if Path(path).exists() else 0


def sqlite_relation(database: peewee.Database, name: str) -> Relation | None:
    """Return the table or view of this name."""
    run: Any = database.execute_sql
    row = run(
        "SELECT type FROM sqlite_master WHERE type IN ('table', 'view') AND lower(name) = lower(?)",
        (name,),
    ).fetchone()
    if row is None:
        return None
    columns = run("SELECT name, type, pk FROM pragma_table_info(?)", (name,)).fetchall()
    keys = [column for column, _, position in columns if position]
    unique = set(keys if len(keys) == 1 else ())
    for (index,) in run(
        'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', (name,)
    ).fetchall():
        members = run("SELECT name FROM pragma_index_info(?)", (index,)).fetchall()
        if len(members) == 1:
            unique.add(members[0][0])
    return Relation(row[0], {each[0]: each[1] for each in columns}, frozenset(unique))


def sqlite_definitions(database: peewee.Database, table: str) -> dict[str, str]:
    """Return how a table's columns, constraints, indexes and triggers are defined."""
    rows = database.execute_sql(
        "SELECT 'column ' || name, type || iif(\"notnull\", ' NOT NULL', '') "
        "|| iif(dflt_value IS NULL, '', ' DEFAULT ' || dflt_value) "
        "FROM pragma_table_info(?) "
        "UNION ALL SELECT type || ' ' || name, sql FROM sqlite_master "
        "WHERE tbl_name = ? AND sql IS NOT NULL",
        (table, table),
    ).fetchall()
    definitions = dict(rows)
    # Only the table's own text holds its constraints, one a line as the migrations write them.
    text = definitions.pop(f"table {table}", "")
    # A constraint that came with a later column may have the next column on its line.
    constraint = r'^\s*(CONSTRAINT "(\w+)".*?)(?:, ["\w].*|,)?$'
    for line, name in re.findall(constraint, text, re.MULTILINE):
        definitions[f"constraint {name}"] = line
    return _one_line(definitions)


def sqlite_totals(database: peewee.Database, table: str, largest: int) -> Totals:
    """Add up the rows in one pass over the table.

    SQLite would sort the rows to group them, documents' sizes included, which takes four times
    as long.
    """
    sql = (
        'SELECT type, status, coalesce("usageCount", 0), coalesce("tokenUsage", 0), '
        'coalesce("generationTimeMs", 0), length(CAST("generatedData" AS BLOB)), id, "createdAt" '
        f"FROM {table} NOT INDEXED"
    )
    sums: dict[tuple[str, str], list[int]] = {}
    top: list[tuple[int, str]] = []
    least, oldest = 0, None
    for kind, status, uses, tokens, ms, size, id, created in database.execute_sql(sql):
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
    return Totals(
        [Sums(*names, *numbers) for names, numbers in sums.items()],
        [(id, size) for size, id in sorted(top, reverse=True)],
        oldest,
    )


# Names are looked up where a CREATE would put them, not anywhere on the search path: with a
# schema for each tenant, each holds its own table.
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


def postgresql_relation(database: peewee.Database, name: str, *, anywhere: bool) -> Relation | None:
    """Return the table or view of this name, in the current schema or on the search path."""
    run: Any = database.execute_sql
    place = "to_regclass(quote_ident(%s))" if anywhere else _OURS
    row = run(f"SELECT oid, relkind FROM pg_class WHERE oid = {place}", (name,)).fetchone()
    if row is None:
        return None
    oid, relkind = row
    columns = run(
        "SELECT a.attname, CASE WHEN t.typbasetype = 0 THEN format_type(t.oid, a.atttypmod) "
        "ELSE format_type(t.typbasetype, t.typtypmod) END "
        "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        (oid,),
    ).fetchall()
    unique = run(
        "SELECT a.attname FROM pg_index x JOIN pg_attribute a "
        "ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0] "
        "WHERE x.indrelid = %s AND x.indisunique AND x.indimmediate AND x.indisvalid "
        "AND x.indnkeyatts = 1 AND x.indpred IS NULL AND x.indexprs IS NULL",
        (oid,),
    ).fetchall()
    kind = "table" if relkind in ("r", "p", b"r", b"p") else "view"
    return Relation(kind, dict(columns), frozenset(row[0] for row in unique))


def postgresql_definitions(database: peewee.Database, table: str) -> dict[str, str]:
    """Return how a table's columns, constraints, indexes and triggers are defined."""
    return _one_line(dict(database.execute_sql(_DEFINITIONS, (table,) * 4).fetchall()))


def postgresql_totals(database: peewee.Database, table: str, largest: int) -> Totals:
    """Add up the rows by type and status."""
    columns = ("usageCount", "tokenUsage", "generationTimeMs")
    uses, tokens, ms = (f'coalesce("{name}", 0)::bigint' for name in columns)
    sums = f"sum({uses}), sum({tokens}), sum({tokens} * {uses}), sum({ms}), sum({ms} * {uses})"
    sql = f'SELECT type, status, count(*), {sums}, min("createdAt") FROM {table} GROUP BY 1, 2'
    rows = database.execute_sql(sql).fetchall()
    size = 'pg_column_size("generatedData")'  # the stored size: the server reads no document
    documents = database.execute_sql(
        f'SELECT id, {size} FROM {table} WHERE "generatedData" IS NOT NULL '
        f"ORDER BY {size} DESC, id DESC LIMIT {largest}"
    ).fetchall()
    pending = (row[-1] for row in rows if row[1] == "pending")
    groups = [Sums(*row[:2], *map(int, row[2:-1])) for row in rows]
    return Totals(groups, documents, min(pending, default=None))


def postgresql_index_scans(database: peewee.Database, table: str) -> IndexScans:
    """Return what the server counted about the table's indexes."""
    indexes = database.execute_sql(_INDEXES, (table,)).fetchall()
    writes, since = database.execute_sql(_WRITES, (table,)).fetchone() or (0, None)
    return IndexScans(indexes, int(writes), since)


def _one_line(definitions: dict[str, str]) -> dict[str, str]:
    return {name: " ".join(text.split()) for name, text in definitions.items()}
