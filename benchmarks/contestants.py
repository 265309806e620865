"""Define contestants of the hot paths: aicontent, and the driver with hand-written SQL.

`hot_paths` measures them together with the contestants of `orms`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import peewee

import aicontent
from aicontent import AIGeneratedContent

from .requests import Request, request_hash
from .tables import TABLE, copy_text

Values = Mapping[str, Any]
"""The values of a new row by attribute, as `AIGeneratedContent.create` takes them."""

FIELDS = AIGeneratedContent._meta.sorted_fields
new_id: Any = AIGeneratedContent.id.default

_COLUMN_LIST = ", ".join(f'"{field.column_name}"' for field in FIELDS)
_DOCUMENT_INDEXES = [i for i, field in enumerate(FIELDS) if isinstance(field, peewee.JSONField)]
_INSERTED = [field for field in FIELDS if field.name not in ("created_at", "updated_at")]


class Contestant(Protocol):
    """A library that serves and stores content. Each contestant has its own connection."""

    name: str

    def first_reusable(self, user: int, type: str, level: str | None) -> Any:
        """Find the content to serve next."""

    def reuse(self, user: int, type: str, level: str | None) -> Any:
        """Find the content to serve next, and count the use."""

    def hit(self, request: Request) -> Any:
        """Find the stored answer to a request, and count the use."""

    def unmarked_hit(self, request: Request) -> Any:
        """Find the stored answer to a request."""

    def create(self, values: Values) -> Any:
        """Insert a row, and return it with its timestamps."""

    def create_many(self, rows: Sequence[Values]) -> Any:
        """Insert many rows in one transaction."""


class AIContent:
    """The aicontent package."""

    name = "aicontent"

    def __init__(self, database: peewee.Database, name: str = name) -> None:
        self.name = name
        model = aicontent.for_database(database)
        self.reuse, self.first_reusable = model.reuse, model.first_reusable
        self.create_many = model.create_many
        self._model = model

    def hit(self, request: Request) -> Any:
        user, type, payload, level = request
        return self._model.get_or_generate(user, type, payload, _not_stored, level=level)

    def unmarked_hit(self, request: Request) -> Any:
        user, type, payload, level = request
        return self._model.get_or_generate(
            user, type, payload, _not_stored, level=level, mark=False
        )

    def create(self, values: Values) -> Any:
        return self._model.create(**values)


def _not_stored(content: Any) -> Any:
    raise LookupError(f"the answer to {content.request_payload} is not stored")


class Driver:
    """The database driver alone. Each call runs one statement, and decodes the documents."""

    name = "driver"

    def __init__(self, database: peewee.Database, name: str = name) -> None:
        self.name = name
        self._connection: Any = database.connection()
        self._is_sqlite = isinstance(database, peewee.SqliteDatabase)
        placeholder = "?" if self._is_sqlite else "%s"
        columns = ", ".join(f'"{field.column_name}"' for field in _INSERTED)
        placeholders = ", ".join([placeholder] * len(_INSERTED))
        self._insert = f"INSERT INTO {TABLE} ({columns}) VALUES ({placeholders})"
        self._copy = f"COPY {TABLE} ({columns}) FROM STDIN"
        now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
        updated_at = f', "updatedAt" = {now}' if self._is_sqlite else ""
        lock = "" if self._is_sqlite else " FOR NO KEY UPDATE"
        count_use = (
            f'UPDATE {TABLE} SET "usageCount" = COALESCE("usageCount", 0) + 1, '
            f'"lastAccessedAt" = {placeholder}{updated_at}'
        )
        returning = f"RETURNING {_COLUMN_LIST}"
        unexpired = f'("expiresAt" IS NULL OR "expiresAt" > {placeholder})'
        self._select, self._update = {}, {}
        for with_level in (False, True):
            where = (
                f'FROM {TABLE} WHERE "userId" = {placeholder} AND type = {placeholder} '
                f"{f'AND level = {placeholder} ' if with_level else ''}AND status = 'completed' "
                f"AND {unexpired} "
                'ORDER BY "usageCount", "createdAt" DESC LIMIT 1'
            )
            self._select[with_level] = f"SELECT {_COLUMN_LIST} {where}"
            self._update[with_level] = (
                f"{count_use} WHERE id = (SELECT id {where}{lock}) {returning}"
            )
        where = (
            f'FROM {TABLE} WHERE "userId" = {placeholder} AND fingerprint = {placeholder} '
            f"AND status = 'completed' AND {unexpired} "
            'ORDER BY "createdAt" DESC LIMIT 1'
        )
        self._select_answer = f"SELECT {_COLUMN_LIST} {where}"
        self._update_answer = f"{count_use} WHERE id = (SELECT id {where}{lock}) {returning}"

    def first_reusable(self, user: int, type: str, level: str | None) -> Any:
        filters = [user, type, level] if level else [user, type]
        return self._fetch(self._select[bool(level)], [*filters, self._now()])

    def reuse(self, user: int, type: str, level: str | None) -> Any:
        filters = [user, type, level] if level else [user, type]
        now = self._now()
        return self._fetch(self._update[bool(level)], [now, *filters, now])

    def hit(self, request: Request) -> Any:
        now = self._now()
        parameters = [now, request.user, request_hash(request), now]
        return self._fetch(self._update_answer, parameters)

    def unmarked_hit(self, request: Request) -> Any:
        parameters = [request.user, request_hash(request), self._now()]
        return self._fetch(self._select_answer, parameters)

    def create(self, values: Values) -> Any:
        cursor = self._connection.cursor()
        sql = f'{self._insert} RETURNING "createdAt", "updatedAt"'
        cursor.execute(sql, self._parameters(values))
        return cursor.fetchone()

    def create_many(self, rows: Sequence[Values]) -> Any:
        cursor = self._connection.cursor()
        parameters = [self._parameters(values) for values in rows]
        if self._is_sqlite:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.executemany(self._insert, parameters)
            cursor.execute("COMMIT")
        elif hasattr(cursor, "copy_expert"):
            cursor.copy_expert(self._copy, io.StringIO(copy_text(parameters)))
        else:  # psycopg 3
            with cursor.copy(self._copy) as copy:
                copy.write(copy_text(parameters))

    def _now(self) -> Any:
        now = datetime.now(UTC)
        return f"{now:%Y-%m-%d %H:%M:%S.%f}" if self._is_sqlite else now

    def _fetch(self, sql: str, parameters: list[Any]) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(sql, parameters)
        row = cursor.fetchone()
        if row is not None and self._is_sqlite:
            row = list(row)
            for index in _DOCUMENT_INDEXES:
                if row[index] is not None:
                    row[index] = json.loads(row[index])
        return row

    def _parameters(self, values: Values) -> list[Any]:
        row = {"id": new_id(), "usage_count": 0, "attempts": 0}
        row |= {"failures": 0, "queued": True, **values}
        return [
            json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
            for value in (row.get(field.name) for field in _INSERTED)
        ]
