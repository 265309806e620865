"""Define the field type of JSON documents: check, store and read them, and detect changes."""

import json
from collections.abc import Callable
from typing import Any

import peewee

from ..database.backend import Backend
from ..database.internals import json_types
from ..database.supported import known_backend, unproxied
from ..errors import CorruptDocumentError, NotBoundError, ValidationError, kind_of
from .comparison import Comparable, DocumentPath
from .compression import Storage, decompressed, not_queryable, storage_of
from .encoding import decode, encode, snapshot
from .policy import check_document, check_text, checked_text
from .scalars import RuledField, V


class DocumentAccessor(peewee.FieldAccessor):
    """Records a document's text when an instance's attribute is first read.

    `save()` compares the document with it, to find changes in place (`content.metadata["k"] = 1`).
    The text is the one that the database returned, if the instance has it. Otherwise it is encoded
    here, which takes longer than the statement if the document is large.
    """

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        value = instance.__data__.get(self.name)
        if isinstance(value, (dict, list)) and self.name not in instance._dirty:
            texts = instance._document_texts
            if self.name not in texts:
                stored = dict(zip(*instance._stored_texts, strict=True)).get(self.name)
                texts[self.name] = stored if isinstance(stored, str) else snapshot(value)
        return value


class DocumentField(Comparable, RuledField[V], peewee.JSONField):
    """A JSON document: jsonb on PostgreSQL, JSON text on SQLite.

    SQLite's text may be compressed if the field is `compressible` (see `aicontent.configure`).
    """

    accessor_class = DocumentAccessor
    _remedy = "a path into the document, or cast('text')"

    def __init__(self, *, compressible: bool = False, **options: Any) -> None:
        # Instance attributes rather than class attributes, because a model's alias copies them.
        self.is_compressible, self._is_text = compressible, False
        self._storage = Storage()
        self._methods: Any = None
        self._driver_types: tuple[type, ...] = ()
        super().__init__(dumps=encode, **options)

    def _db_hook(self, database: peewee.Database | None) -> None:
        database = unproxied(database)
        # Reset the storage first: if the old database compresses, reading `_helper` raises.
        self._storage, self._is_text = Storage(), False
        super()._db_hook(database)  # type: ignore[misc]
        if database is not None:
            self._helper = _json_methods(database)
        self._driver_types = json_types(database)
        backend = known_backend(database)
        self._is_text = backend is not None and backend.documents_are_text
        self._storage = storage_of(database)

    def db_value(self, value: Any) -> Any:
        # Peewee may pass a value that it has already converted for PostgreSQL's driver.
        if value is None or isinstance(value, (peewee.Node, *self._driver_types)):
            return super().db_value(value)  # type: ignore[no-untyped-call]
        stored = self.parameter(value)
        return stored if isinstance(stored, bytes) else super().db_value(value)  # type: ignore[no-untyped-call]

    def parameter(self, value: Any) -> Any:
        return None if value is None else self.stored(checked_text(value, self.name))

    def stored(self, text: str) -> str | bytes:
        """Return the stored form of a document's text."""
        compressible = self.is_compressible and self._is_text
        return self._storage.stored(text, self.name, compressible=compressible)

    def python_value(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, bytes):
            return _from_compressed(value)
        if self._is_text and isinstance(value, str):
            try:
                return decode(value)
            except ValueError:
                pass  # Peewee returns a text unchanged if it is not JSON
        return super().python_value(value)  # type: ignore[no-untyped-call]

    @property
    def is_document(self) -> bool:
        """Return whether the text in the database is the document's JSON.

        A host's subclass may store something else, for example encrypted text.
        """
        return type(self).python_value is DocumentField.python_value

    def case_value(self, value: Any) -> Any:
        if self._is_text and not isinstance(value, peewee.Node):
            return peewee.Value(self.parameter(value), converter=False)
        return super().case_value(value)

    # Peewee reads `_helper` for each JSON query on the document.

    @property
    def _helper(self) -> Any:
        if self.is_compressible and self._is_text and self._storage.compress_over is not None:
            raise not_queryable(self.name)
        if self._methods is None:
            raise NotBoundError(f"{self.name}: call aicontent.bind(database) before the query")
        return self._methods

    @_helper.setter
    def _helper(self, methods: Any) -> None:
        self._methods = methods

    def __getitem__(self, key: Any) -> DocumentPath:
        return DocumentPath(self, (key,))

    def path(self, *keys: Any) -> DocumentPath:
        return DocumentPath(self, keys)

    def _document(self) -> Any:
        return self

    def _compared_as(self) -> Any:
        return self._helper.extract(self, ())

    __hash__ = peewee.Field.__hash__
    __mod__ = __pow__ = like = ilike = regexp = iregexp = Comparable._no_such_operator
    startswith: Any = Comparable._no_such_operator
    endswith: Any = Comparable._no_such_operator


class DocumentText:
    """Decodes a document that is selected as text.

    That is faster than the driver's decoder, whose errors do not say in which row they are.
    """

    is_document = True

    def __init__(self, field: peewee.Field) -> None:
        self.name = field.name

    read_value = staticmethod(decode)


def selected_as_text(backend: Backend, field: peewee.Field) -> tuple[Any, Any]:
    """Return the column that selects a field (a document as text), and its reader."""
    is_document = isinstance(field, DocumentField) and field.is_document
    if backend.documents_are_text or not is_document:
        return field, field
    return backend.document_text(field), DocumentText(field)


def _from_compressed(data: bytes) -> Any:
    try:
        return json.loads(decompressed(data))
    except json.JSONDecodeError as error:
        raise CorruptDocumentError(f"a compressed document is not JSON: {error}") from error


def _json_methods(database: peewee.Database) -> Any:
    backend = known_backend(database)
    if backend is None:
        return database.json_methods(database)
    from .json_functions import compare, run  # imported here, because only a bound model needs them

    return _checking(backend.json_methods)(database, compare, run)


def _checking(methods: Any) -> Any:
    """Return a subclass of a database's JSON methods that checks the values in their arguments."""

    def checked(method: Callable[..., Any], check: Callable[[Any, str], None]) -> Any:
        def call(self: Any, field: Any, *keys_and_value: Any) -> Any:
            check(keys_and_value[-1], field.name)
            return method(self, field, *keys_and_value)

        return call

    names = ("set", "insert", "replace", "append", "contains", "contained_by")
    checks = dict.fromkeys(names, check_document) | {
        "update": _check_object,
        "has_key": lambda key, field: _check_keys([key], field),
        "has_keys": _check_keys,
        "has_any_keys": _check_keys,
    }
    members = {name: checked(getattr(methods, name), check) for name, check in checks.items()}
    return type("Checking", (methods,), members)


def _check_object(value: Any, field: str) -> None:
    if not isinstance(value, dict):
        rule = "update() takes a dict: use append() to add to an array"
        raise ValidationError(field, rule, kind_of(value))
    check_document(value, field)


def _check_keys(keys: Any, field: str) -> None:
    for key in keys if isinstance(keys, (list, tuple)) else [None]:
        if not isinstance(key, str):
            rule = "has_key() takes a str; has_keys() and has_any_keys() take a list of them"
            raise ValidationError(field, rule, kind_of(key))
        check_text(key, field)
