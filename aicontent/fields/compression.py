"""Limit the size of documents, and compress them on SQLite."""

from functools import cache
from importlib import import_module
from typing import Any, TypedDict, Unpack
from weakref import WeakKeyDictionary

import peewee

from ..database.supported import backend_of, resolved
from ..errors import AIContentError, CorruptDocumentError, ValidationError, check_number, shortened

MAX_DOCUMENT_BYTES = 16_000_000
"""Far more than a model writes, and far less than PostgreSQL (255 MB) and SQLite (1 GB) allow."""

_LEVEL = 3
"""zstd's default. For texts of 4 KB and of 100 KB, higher levels cost more time than they save
space."""

_MODULES = "compression.zstd", "backports.zstd"
"""The standard library's module since Python 3.14, and its backport for older versions."""


class Storage:
    """The storage settings of one database."""

    def __init__(self) -> None:
        self.compress_over: int | None = None
        self.max_document_bytes: int = MAX_DOCUMENT_BYTES

    def stored(self, text: str, field: str, *, compressible: bool) -> str | bytes:
        """Return the stored form of a document's JSON text: the text, or compressed bytes.

        Raises:
            ValidationError: the document is too large.
        """
        # A character has up to four bytes.
        size = len(text.encode()) if 4 * len(text) > self.max_document_bytes else 0
        if size > self.max_document_bytes:
            rule = (
                f"must be at most {self.max_document_bytes:,} bytes as JSON "
                "(to allow more, use aicontent.configure or aicontent import --max-document-bytes)"
            )
            raise ValidationError(field, rule, f"{size:,} bytes")
        if not compressible or self.compress_over is None or len(text) <= self.compress_over:
            return text
        return bytes(zstd().compress(text.encode(), _LEVEL))


_storages: WeakKeyDictionary[peewee.Database, Storage] = WeakKeyDictionary()


def storage_of(database: peewee.Database | None) -> Storage:
    """Return the storage settings of a database; `configure` changes this object."""
    return Storage() if database is None else _storages.setdefault(database, Storage())


class Settings(TypedDict, total=False):
    """The settings of `configure`."""

    max_document_bytes: int
    compress_over: int | None


def configure(database: peewee.Database, **settings: Unpack[Settings]) -> None:
    """Set the size limit and the compression of documents that this process stores.

    Args:
        database: the database; no model need be bound to it.
        settings: the settings to change; other settings keep their values:
            `max_document_bytes`: the most bytes of one document as JSON text, by default
            16,000,000. A larger document raises ValidationError.
            `compress_over`: on SQLite, compress `request_payload`, `generated_data` and
            `validation_results` if they have more characters than this. JSON queries on these
            columns then raise AIContentError. None, the default, compresses nothing. PostgreSQL
            ignores it, because it compresses documents by itself. Compressed documents can be
            read with every setting.

    Raises:
        ValidationError: the setting is unknown, or its value is not an int of at least 0.
        UnsupportedDatabaseError: the database is neither SQLite nor PostgreSQL, or is not
            initialised.
        AIContentError: `compress_over` is set, and zstd is not installed.
    """
    database = resolved(database)
    for name, value in settings.items():
        if name not in Settings.__annotations__:
            rule = f"is not a setting; the settings are {', '.join(Settings.__annotations__)}"
            raise ValidationError(shortened(name), rule, "an unknown name")
        if not (name == "compress_over" and value is None):
            check_number(value, name, 0)
    if settings.get("compress_over") is not None and backend_of(database).documents_are_text:
        zstd()
    storage = storage_of(database)
    for name, value in settings.items():
        setattr(storage, name, value)


def decompressed(data: bytes) -> str:
    """Return the JSON text of a compressed document.

    Raises:
        AIContentError: zstd is not installed.
        CorruptDocumentError: the data is damaged.
    """
    module = zstd()
    try:
        return str(module.decompress(data), "utf-8")
    except (module.ZstdError, UnicodeDecodeError) as error:
        raise CorruptDocumentError(f"a compressed document cannot be read: {error}") from error


@cache
def zstd() -> Any:
    """Import and return the zstd module.

    Raises:
        AIContentError: no zstd module is installed.
    """
    for name in _MODULES:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise AIContentError(
        "compressed documents need zstd: pip install 'aicontent[compress]' (Python 3.14 includes "
        "it, unless it was built without zstd)"
    )


def not_queryable(field: str) -> AIContentError:
    """Return the error for a JSON query on a document that may be compressed."""
    return AIContentError(
        f"{field} may be compressed in this database (compress_over), so SQL cannot query or "
        "change its JSON: select rows by other columns and read the document in Python, or store "
        "the values that you query in metadata, topics or focus_areas"
    )
