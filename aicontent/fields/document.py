"""The column type of documents: checked, stored, read, and noticed when changed in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import peewee

from ..errors import CorruptDocumentError
from .compression import Storage, decompressed, not_queryable, storage_of
from .encoding import encode, snapshot
from .policy import check_document, checked_text

_decode = json.JSONDecoder().raw_decode


def _of_compressed(data: bytes) -> Any:
    try:
        return json.loads(decompressed(data))
    except json.JSONDecodeError as error:
        raise CorruptDocumentError(f"a compressed document is no JSON: {error}") from error


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

    def __init__(self, *, compressible: bool = False, **options: Any) -> None:
        # Of the instance, all of them: a model's alias finds them by way of its field.
        self._compressible, self._on_sqlite = compressible, False
        self._storage = Storage()
        self._methods: Any = None
        self._adapted: tuple[type, ...] = ()
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
            return _of_compressed(value)
        if self._on_sqlite:
            try:
                found, end = _decode(value)
                if end == len(value):
                    return found
            except (TypeError, ValueError):
                pass  # white space before it, or another kind of value: Peewee knows
        return super().python_value(value)  # type: ignore[no-untyped-call]

    def case_value(self, value: Any) -> Any:
        if self._on_sqlite and not isinstance(value, peewee.Node):
            return peewee.Value(self.parameter(value), converter=False)
        return super().case_value(value)

    # What Peewee asks for each look into a document.

    @property
    def _helper(self) -> Any:
        self._check_queryable()
        return self._methods

    @_helper.setter
    def _helper(self, methods: Any) -> None:
        self._methods = methods

    def _compare(self, lhs: Any, eq_op: str, is_op: str, rhs: Any, as_text: bool) -> Any:
        if rhs is not None and lhs is self:
            lhs = self._as_json()
        return super()._compare(lhs, eq_op, is_op, rhs, as_text)  # type: ignore[misc]

    def in_(self, rhs: Any) -> Any:
        return self._among(peewee.OP.IN, rhs)

    def not_in(self, rhs: Any) -> Any:
        return self._among(peewee.OP.NOT_IN, rhs)

    __lshift__ = in_

    def _among(self, operation: str, documents: Any) -> Any:
        whole = self._as_json()
        if whole is not self and not isinstance(documents, peewee.Node):
            documents = peewee.EnclosedNodeList([self.to_value(each) for each in documents])
        return peewee.Expression(whole, operation, documents)

    def _as_json(self) -> Any:
        """Return what a whole document is compared by."""
        self._check_queryable()
        # Of what another process has compressed SQLite then says that it is no JSON.
        return peewee.fn.json(self) if self._compressible and self._on_sqlite else self

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
