"""What a database says of itself. Nothing here writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peewee

# Names are looked up where a CREATE would put them, not anywhere on the search path: a schema
# for each tenant holds its own table.
OURS = "to_regclass(format('%%I.%%I', current_schema(), %s::text))"

_DEFINITIONS = f"""
    SELECT 'column ' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN 'NOT NULL' END,
        'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = {OURS} AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'constraint ' || conname, pg_get_constraintdef(oid, true)
    FROM pg_constraint WHERE conrelid = {OURS} AND contype <> 'n'
    UNION ALL
    SELECT 'index ' || i.relname, pg_get_indexdef(x.indexrelid, 0, true)
        || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = {OURS}
    UNION ALL
    SELECT 'trigger ' || t.tgname, pg_get_triggerdef(t.oid, true)
        || CASE WHEN t.tgenabled IN ('O', 'A') THEN '' ELSE ' DISABLED' END || ' ' || p.prosrc
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = {OURS} AND NOT t.tgisinternal
"""  # noqa: S608 - constants


@dataclass(frozen=True)
class Relation:
    """A table or a view: its kind, its columns with their types, those that are unique."""

    kind: str
    columns: dict[str, str]
    unique: frozenset[str]

    @property
    def is_minimal(self) -> bool:
        """Whether it has an id and nothing else, as the users table that we make ourselves."""
        return set(self.columns) == {"id"}


class Catalog:
    """The catalog of one database; which kind of database is decided here."""

    def __init__(self, database: peewee.Database) -> None:
        self._run: Callable[..., Any] = database.execute_sql
        self.is_sqlite = isinstance(database, peewee.SqliteDatabase)

    def relation(self, name: str, *, anywhere: bool = False) -> Relation | None:
        """Return the table or view of a name, or None.

        Args:
            name: the name without a schema.
            anywhere: on PostgreSQL look along the whole search path, as a statement would.
        """
        if self.is_sqlite:
            return self._sqlite_relation(name)
        place = "to_regclass(quote_ident(%s))" if anywhere else OURS
        return self._postgresql_relation(name, place)

    def definitions(self, table: str) -> dict[str, str]:
        """Return how a table is defined: "column id", "index …", "trigger …" and so on, each
        with its definition in one line."""
        rows = self._sqlite_definitions(table) if self.is_sqlite else self._definitions(table)
        return {name: " ".join(text.split()) for name, text in rows}

    def orphans(self, table: str) -> int:
        """Return how many rows reference a row that is not there; PostgreSQL has none."""
        if not self.is_sqlite:
            return 0
        (count,) = self._run(
            "SELECT count(*) FROM pragma_foreign_key_check(?)", (table,)
        ).fetchone()
        return int(count)

    def _definitions(self, table: str) -> list[tuple[str, str]]:
        rows: list[tuple[str, str]] = self._run(_DEFINITIONS, (table,) * 4).fetchall()
        return rows

    def _sqlite_definitions(self, table: str) -> list[tuple[str, str]]:
        rows = self._run(
            "SELECT 'column ' || name, type || iif(\"notnull\", ' NOT NULL', '') "
            "|| iif(dflt_value IS NULL, '', ' DEFAULT ' || dflt_value) "
            "FROM pragma_table_info(?) "
            "UNION ALL SELECT type || ' ' || name, sql FROM sqlite_master "
            "WHERE tbl_name = ? AND sql IS NOT NULL",
            (table, table),
        ).fetchall()
        found = dict(rows)
        # Constraints stand in the table's own text alone, one a line as the migrations write it.
        text = found.pop(f"table {table}", "")
        # One that came with a later column may be followed by the next of these.
        each = r'^\s*(CONSTRAINT "(\w+)".*?)(?:, ["\w].*|,)?$'
        for line, name in re.findall(each, text, re.MULTILINE):
            found[f"constraint {name}"] = line
        return list(found.items())

    def _sqlite_relation(self, name: str) -> Relation | None:
        run = self._run
        found = run(
            "SELECT type FROM sqlite_master "
            "WHERE type IN ('table', 'view') AND lower(name) = lower(?)",
            (name,),
        ).fetchone()
        if found is None:
            return None
        rows = run("SELECT name, type, pk FROM pragma_table_info(?)", (name,)).fetchall()
        keys = [column for column, _, position in rows if position]
        unique = set(keys if len(keys) == 1 else ())
        for (index,) in run(
            'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', (name,)
        ).fetchall():
            members = run("SELECT name FROM pragma_index_info(?)", (index,)).fetchall()
            if len(members) == 1:
                unique.add(members[0][0])
        return Relation(found[0], {row[0]: row[1] for row in rows}, frozenset(unique))

    def _postgresql_relation(self, name: str, place: str) -> Relation | None:
        run = self._run
        found = run(
            f"SELECT oid, relkind FROM pg_class WHERE oid = {place}",  # noqa: S608 - a constant
            (name,),
        ).fetchone()
        if found is None:
            return None
        oid, relkind = found
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
