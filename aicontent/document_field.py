"""The column type of documents: checked, stored, read, and noticed when changed in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import peewee

from .documents import check_document, checked_text
from .encoding import encode, snapshot
from .storage import Storage, decompressed, not_queryable, storage_of

_decode = json.JSONDecoder().raw_decode


class DocumentAccessor(peewee.FieldAccessor):
    """Remembers how a stored document looked when it was first read from the instance, so that
    a change made in place (`content.metadata["k"] = 1`) is noticed and saved."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        value = instance.__data__.get(self.name)
        if isinstance(value, (dict, list)) and self.name not in instance._dirty:
            instance._as_read.setdefault(self.name, snapshot(value))
        return value


class DocumentField(peewee.JSONField):
    """A JSON document: jsonb on PostgreSQL, JSON text on SQLite, where one that is `compressible`
    may be compressed (see `aicontent.configure`)."""

    accessor_class = DocumentAccessor
    _adapted: tuple[type, ...] = ()
    _on_sqlite = False
    _methods: Any = None

    def __init__(self, *, compressible: bool = False, **options: Any) -> None:
        self._compressible = compressible
        self._storage = Storage()
        super().__init__(dumps=encode, **options)

    def _db_hook(self, database: peewee.Database | None) -> None:
        self._storage, self._on_sqlite = Storage(), False
        super()._db_hook(database)  # type: ignore[misc]
        if database is not None:
            self._helper = _checking(database.json_methods)(database)
        adapter = getattr(database, "_adapter", None)
        self._adapted = (adapter.json_type, adapter.jsonb_type) if adapter else ()
        self._on_sqlite = isinstance(database, peewee.SqliteDatabase)
        self._storage = storage_of(database)

    def db_value(self, value: Any) -> Any:
        # Peewee hands a value in again that it has made ready for PostgreSQL's driver.
        if value is None or isinstance(value, (peewee.Node, *self._adapted)):
            return super().db_value(value)  # type: ignore[no-untyped-call]
        kept = self.parameter(value)
        return kept if isinstance(kept, bytes) else super().db_value(value)  # type: ignore[no-untyped-call]

    def parameter(self, value: Any) -> Any:
        return None if value is None else self.kept(checked_text(value, self.name))

    def kept(self, text: str) -> str | bytes:
        """Return what is stored of a document's text."""
        compressible = self._compressible and self._on_sqlite
        return self._storage.kept(text, self.name, compressible=compressible)

    def python_value(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, bytes):
            value = decompressed(value)
        if self._on_sqlite:
            try:
                found, end = _decode(value)
                if end == len(value):
                    return found
            except (TypeError, ValueError):
                pass  # white space before it, or another kind of value: Peewee knows
        return super().python_value(value)  # type: ignore[no-untyped-call]

    # What Peewee asks for each look into a document.

    @property
    def _helper(self) -> Any:
        self._check_queryable()
        return self._methods

    @_helper.setter
    def _helper(self, methods: Any) -> None:
        self._methods = methods

    def _compare(self, lhs: Any, eq_op: str, is_op: str, rhs: Any, as_text: bool) -> Any:
        if rhs is not None:
            self._check_queryable()
            if lhs is self and self._compressible and self._on_sqlite:
                # Of what another process has compressed SQLite says that it is no JSON.
                lhs = peewee.fn.json(self)
        return super()._compare(lhs, eq_op, is_op, rhs, as_text)  # type: ignore[misc]

    def in_(self, rhs: Any) -> Any:
        self._check_queryable()
        return super().in_(rhs)

    def not_in(self, rhs: Any) -> Any:
        self._check_queryable()
        return super().not_in(rhs)

    def _check_queryable(self) -> None:
        if self._compressible and self._on_sqlite and self._storage.compress_over is not None:
            raise not_queryable(self.name)


def _checking(methods: Any) -> Any:
    """The database's JSON methods, with the policy for what an update puts into a document."""

    def checked(method: Callable[..., Any]) -> Callable[..., Any]:
        def check(self: Any, field: Any, *keys_and_value: Any) -> Any:
            check_document(keys_and_value[-1], field.name)
            return method(self, field, *keys_and_value)

        return check

    names = ("set", "insert", "replace", "append", "update")
    return type("Checking", (methods,), {name: checked(getattr(methods, name)) for name in names})
