"""The field type of JSON documents: checked, stored, read, and watched for changes in place."""

import json
from collections.abc import Callable
from typing import Any

import peewee

from ..database.backend import Backend
from ..database.internals import json_types
from ..database.supported import known_backend, unproxied
from ..errors import CorruptDocumentError
from .compression import Storage, decompressed, not_queryable, storage_of
from .encoding import encode, snapshot
from .policy import check_document, checked_text
from .scalars import RuledField

_decode = json.JSONDecoder().raw_decode


class DocumentAccessor(peewee.FieldAccessor):
    """Remembers a stored document's text when an instance's attribute is first read.

    A change in place (`content.metadata["k"] = 1`) is then detected and saved.
    """

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        value = instance.__data__.get(self.name)
        if isinstance(value, (dict, list)) and self.name not in instance._dirty:
            instance._document_texts.setdefault(self.name, snapshot(value))
        return value


class DocumentField(RuledField, peewee.JSONField):
    """A JSON document: jsonb on PostgreSQL, JSON text on SQLite.

    SQLite's text may be compressed if the field is `compressible` (see `aicontent.configure`).
    """

    accessor_class = DocumentAccessor

    def __init__(self, *, compressible: bool = False, **options: Any) -> None:
        # All of these must belong to the instance: a model's alias copies the field's attributes.
        self.is_compressible, self._is_text = compressible, False
        self._storage = Storage()
        self._methods: Any = None
        self._driver_types: tuple[type, ...] = ()
        super().__init__(dumps=encode, **options)

    def _db_hook(self, database: peewee.Database | None) -> None:
        database = unproxied(database)
        # First forget the old database: if it compresses, `_helper` refuses to be read.
        self._storage, self._is_text = Storage(), False
        super()._db_hook(database)  # type: ignore[misc]
        if database is not None:
            self._helper = _checking(database.json_methods)(database)
        self._driver_types = json_types(database)
        backend = known_backend(database)
        self._is_text = backend is not None and backend.documents_are_text
        self._storage = storage_of(database)

    def db_value(self, value: Any) -> Any:
        # Peewee passes a value again that it has converted for PostgreSQL's driver.
        if value is None or isinstance(value, (peewee.Node, *self._driver_types)):
            return super().db_value(value)  # type: ignore[no-untyped-call]
        stored = self.parameter(value)
        return stored if isinstance(stored, bytes) else super().db_value(value)  # type: ignore[no-untyped-call]

    def parameter(self, value: Any) -> Any:
        return None if value is None else self.stored(checked_text(value, self.name))

    def stored(self, text: str) -> str | bytes:
        """Return what the database stores for a document's text."""
        compressible = self.is_compressible and self._is_text
        return self._storage.stored(text, self.name, compressible=compressible)

    def python_value(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, bytes):
            return _from_compressed(value)
        if self._is_text:
            try:
                document, end = _decode(value)
                if end == len(value):
                    return document
            except (TypeError, ValueError):
                pass  # white space before it, or another type of value: Peewee reads these
        return super().python_value(value)  # type: ignore[no-untyped-call]

    reader = python_value

    def case_value(self, value: Any) -> Any:
        if self._is_text and not isinstance(value, peewee.Node):
            return peewee.Value(self.parameter(value), converter=False)
        return super().case_value(value)

    # Peewee asks for `_helper` at each query into a document.

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
        return self._is_one_of(peewee.OP.IN, rhs)

    def not_in(self, rhs: Any) -> Any:
        return self._is_one_of(peewee.OP.NOT_IN, rhs)

    __lshift__ = in_

    def _is_one_of(self, operation: str, documents: Any) -> Any:
        whole = self._as_json()
        if whole is not self and not isinstance(documents, peewee.Node):
            documents = peewee.EnclosedNodeList([self.to_value(each) for each in documents])
        return peewee.Expression(whole, operation, documents)

    def _as_json(self) -> Any:
        """Return the expression that represents the whole document in a comparison."""
        self._check_queryable()
        # SQLite then refuses a document that another process has compressed as malformed JSON.
        return peewee.fn.json(self) if self.is_compressible and self._is_text else self

    def _check_queryable(self) -> None:
        if self.is_compressible and self._is_text and self._storage.compress_over is not None:
            raise not_queryable(self.name)


class DocumentText:
    """Reads a document that is selected as text.

    An error in the driver's own decoding does not say which row is at fault.
    """

    def __init__(self, field: peewee.Field) -> None:
        self.name = field.name

    def read_value(self, text: str | None) -> Any:
        return None if text is None else json.loads(text)


def selected_as_text(backend: Backend, field: peewee.Field) -> tuple[Any, Any]:
    """Return the column that selects a field, a document as text, and what reads it."""
    if backend.documents_are_text or not isinstance(field, DocumentField):
        return field, field
    return backend.document_text(field), DocumentText(field)


def _from_compressed(data: bytes) -> Any:
    try:
        return json.loads(decompressed(data))
    except json.JSONDecodeError as error:
        raise CorruptDocumentError(f"a compressed document is not JSON: {error}") from error


def _checking(methods: Any) -> Any:
    """Return the database's JSON methods, which check the values that an UPDATE inserts."""

    def checked(method: Callable[..., Any]) -> Callable[..., Any]:
        def check(self: Any, field: Any, *keys_and_value: Any) -> Any:
            check_document(keys_and_value[-1], field.name)
            return method(self, field, *keys_and_value)

        return check

    names = ("set", "insert", "replace", "append", "update")
    return type("Checking", (methods,), {name: checked(getattr(methods, name)) for name in names})
