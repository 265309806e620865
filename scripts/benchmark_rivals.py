"""The module, and the bare driver doing the same to the same table."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import peewee

import aicontent
from aicontent import AIGeneratedContent

from .benchmark_data import TABLE

Values = Mapping[str, Any]
"""A new row, by attribute, as `AIGeneratedContent.create` takes it."""

FIELDS = AIGeneratedContent._meta.sorted_fields
_COLUMNS = ", ".join(f'"{field.column_name}"' for field in FIELDS)
_DOCUMENTS = [i for i, field in enumerate(FIELDS) if isinstance(field, peewee.JSONField)]
_GIVEN = [field for field in FIELDS if field.name not in ("created_at", "updated_at")]

new_id: Any = AIGeneratedContent.id.default


class Rival(Protocol):
    """One way to work with the table, on one connection."""

    name: str

    def first_reusable(self, user: int, type: str, level: str | None) -> Any:
        """Find what to serve."""

    def reuse(self, user: int, type: str, level: str | None) -> Any:
        """Find what to serve, and count the use."""

    def create(self, values: Values) -> Any:
        """Insert a row, and know its times."""

    def create_many(self, rows: Sequence[Values]) -> Any:
        """Insert many rows in one transaction."""


class Ours:
    """The module."""

    name = "aicontent"

    def __init__(self, database: peewee.Database, name: str = name) -> None:
        self.name = name
        model = aicontent.for_database(database)
        self.reuse, self.first_reusable = model.reuse, model.first_reusable
        self.create_many = model.create_many
        self._model = model

    def create(self, values: Values) -> Any:
        return self._model.create(**values)


class Driver:
    """The driver alone: one statement, and the documents decoded."""

    name = "driver"

    def __init__(self, database: peewee.Database, name: str = name) -> None:
        self.name = name
        self._connection: Any = database.connection()
        self._sqlite = isinstance(database, peewee.SqliteDatabase)
        mark = "?" if self._sqlite else "%s"
        now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
        touched = f', "updatedAt" = {now}' if self._sqlite else ""
        lock = "" if self._sqlite else " FOR NO KEY UPDATE"
        columns = ", ".join(f'"{field.column_name}"' for field in _GIVEN)
        marks = ", ".join([mark] * len(_GIVEN))
        self._insert = f"INSERT INTO {TABLE} ({columns}) VALUES ({marks})"
        self._copy = f"COPY {TABLE} ({columns}) FROM STDIN"
        self._find, self._mark = {}, {}
        for with_level in (False, True):
            where = (
                f'FROM {TABLE} WHERE "userId" = {mark} AND type = {mark} '
                f"{f'AND level = {mark} ' if with_level else ''}AND status = 'completed' "
                f'AND ("expiresAt" IS NULL OR "expiresAt" > {mark}) '
                'ORDER BY "usageCount", "createdAt" DESC LIMIT 1'
            )
            self._find[with_level] = f"SELECT {_COLUMNS} {where}"
            self._mark[with_level] = (
                f'UPDATE {TABLE} SET "usageCount" = COALESCE("usageCount", 0) + 1, '
                f'"lastAccessedAt" = {mark}{touched} WHERE id = (SELECT id {where}{lock}) '
                f"RETURNING {_COLUMNS}"
            )

    def first_reusable(self, user: int, type: str, level: str | None) -> Any:
        asked = [user, type, level] if level else [user, type]
        return self._row(self._find[bool(level)], [*asked, self._now()])

    def reuse(self, user: int, type: str, level: str | None) -> Any:
        asked = [user, type, level] if level else [user, type]
        now = self._now()
        return self._row(self._mark[bool(level)], [now, *asked, now])

    def create(self, values: Values) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(f'{self._insert} RETURNING "createdAt", "updatedAt"', self._bound(values))
        return cursor.fetchone()

    def create_many(self, rows: Sequence[Values]) -> Any:
        cursor = self._connection.cursor()
        bound = [self._bound(values) for values in rows]
        if self._sqlite:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.executemany(self._insert, bound)
            cursor.execute("COMMIT")
        else:
            text = "\n".join("\t".join(map(_copied, row)) for row in bound)
            if hasattr(cursor, "copy_expert"):
                cursor.copy_expert(self._copy, io.StringIO(text + "\n"))
            else:  # psycopg 3
                with cursor.copy(self._copy) as copy:
                    copy.write(text + "\n")

    def _now(self) -> Any:
        now = datetime.now(UTC)
        return f"{now:%Y-%m-%d %H:%M:%S.%f}" if self._sqlite else now

    def _row(self, sql: str, given: list[Any]) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(sql, given)
        row = cursor.fetchone()
        if row is not None and self._sqlite:
            row = list(row)
            for place in _DOCUMENTS:
                if row[place] is not None:
                    row[place] = json.loads(row[place])
        return row

    def _bound(self, values: Values) -> list[Any]:
        row = {"id": new_id(), "usage_count": 0, "attempts": 0, **values}
        return [
            json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
            for value in (row.get(field.name) for field in _GIVEN)
        ]


def _copied(value: object) -> str:
    return r"\N" if value is None else str(value).replace("\\", "\\\\")
