"""What a database says of itself: tables, columns, indexes, triggers. Nothing here writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peewee


@dataclass(frozen=True)
class Relation:
    """A table or a view: its kind, its columns with their types, those that are unique."""

    kind: str
    columns: dict[str, str]
    unique: frozenset[str]


class Catalog:
    """The catalog of one database; which kind of database is decided here."""

    def __init__(self, database: peewee.Database) -> None:
        self._run: Callable[..., Any] = database.execute_sql
        self.is_sqlite = isinstance(database, peewee.SqliteDatabase)

    def relation(self, name: str) -> Relation | None:
        """Return the table or view that this name means, or None."""
        read = self._sqlite_relation if self.is_sqlite else self._postgresql_relation
        return read(name)

    def indexes(self, table: str) -> set[str]:
        """Return the names of a table's indexes."""
        if self.is_sqlite:
            return self._names(
                "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ?", table
            )
        return self._names(
            "SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid "
            "WHERE x.indrelid = to_regclass(quote_ident(%s)) AND x.indisvalid",
            table,
        )

    def triggers(self, table: str) -> set[str]:
        """Return the names of a table's triggers that fire."""
        if self.is_sqlite:
            return self._names(
                "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", table
            )
        return self._names(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(quote_ident(%s)) "
            "AND NOT tgisinternal AND tgenabled <> 'D'",
            table,
        )

    def constraints(self, table: str) -> set[str]:
        """Return the names of a table's constraints."""
        if self.is_sqlite:
            (sql,) = self._names(
                "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", table
            )
            return set(re.findall(r'CONSTRAINT "(\w+)"', sql))
        return self._names(
            "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(quote_ident(%s))", table
        )

    def _names(self, sql: str, *values: str) -> set[str]:
        return {row[0] for row in self._run(sql, values).fetchall()}

    def _sqlite_relation(self, name: str) -> Relation | None:
        run = self._run
        found = run(
            "SELECT type, name FROM sqlite_master "
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

    def _postgresql_relation(self, name: str) -> Relation | None:
        run = self._run
        found = run(
            "SELECT oid, relkind FROM pg_class WHERE oid = to_regclass(quote_ident(%s))", (name,)
        ).fetchone()
        if found is None:
            return None
        oid, relkind = found
        columns = run(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
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
