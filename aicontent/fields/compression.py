"""The largest size of documents, and their compression on SQLite."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, TypedDict, Unpack
from weakref import WeakKeyDictionary

import peewee

from ..database.supported import backend_of, resolved
from ..errors import AIContentError, CorruptDocumentError, ValidationError, check_number, shortened

MAX_DOCUMENT_BYTES = 16_000_000
"""Far more than a model writes, and far less than PostgreSQL (255 MB) and SQLite (1 GB) store."""

_LEVEL = 3
"""zstd's own default. At 4 KB and at 100 KB of text, higher levels cost more time than they save
space."""

_MODULES = "compression.zstd", "backports.zstd"
"""Python's own module, from 3.14 on, and the same for older versions."""


@dataclass
class Storage:
    """The storage settings of one database."""

    compress_over: int | None = None
    max_document_bytes: int = MAX_DOCUMENT_BYTES

    def stored(self, text: str, field: str, *, compressible: bool) -> str | bytes:
        """Return what the database stores for a document's JSON text.

        Raises:
            ValidationError: it is too large.
        """
        # A character has up to four bytes.
        size = len(text.encode()) if 4 * len(text) > self.max_document_bytes else 0
        if size > self.max_document_bytes:
            rule = (
                f"must be at most {self.max_document_bytes:,} bytes as JSON "
                "(aicontent.configure, or --max-document-bytes of an import, allows more)"
            )
            raise ValidationError(field, rule, f"{size:,} bytes")
        if not compressible or self.compress_over is None or len(text) <= self.compress_over:
            return text
        return bytes(zstd().compress(text.encode(), _LEVEL))


_storages: WeakKeyDictionary[peewee.Database, Storage] = WeakKeyDictionary()


def storage_of(database: peewee.Database | None) -> Storage:
    """Return a database's storage settings, which may change later."""
    return Storage() if database is None else _storages.setdefault(database, Storage())


class Settings(TypedDict, total=False):
    """The settings of `configure`."""

    max_document_bytes: int
    compress_over: int | None


def configure(database: peewee.Database, **settings: Unpack[Settings]) -> None:
    """Set how this process stores this database's documents, from now on.

    Args:
        database: the database, bound or not.
        settings: the settings to change; the others stay:
            `max_document_bytes`: the most bytes of one document as JSON text, by default
            16,000,000. A larger document is refused.
            `compress_over`: on SQLite, compress `request_payload`, `generated_data` and
            `validation_results` of more characters than this, which ends JSON queries on them.
            None, the default, compresses nothing. It has no effect on PostgreSQL, which
            compresses by itself. Compressed documents can be read with every setting.

    Raises:
        ValidationError: there is no such setting, or its value is no such number.
        UnsupportedDatabaseError: the database is neither SQLite nor PostgreSQL, or not
            initialised.
        AIContentError: zstd is not installed.
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
        AIContentError: zstd is not installed. CorruptDocumentError: the data cannot be read.
    """
    module = zstd()
    try:
        return str(module.decompress(data), "utf-8")
    except (module.ZstdError, UnicodeDecodeError) as error:
        raise CorruptDocumentError(f"a compressed document cannot be read: {error}") from error


@cache
def zstd() -> Any:
    """Return the module that compresses.

    Raises:
        AIContentError: it is not installed.
    """
    for name in _MODULES:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise AIContentError(
        "compressed documents need zstd: pip install 'aicontent[compress]' (Python 3.14 brings it, "
        "unless it was built without)"
    )


def not_queryable(field: str) -> AIContentError:
    """Return the error of a query into a document that may be compressed."""
    return AIContentError(
        f"{field} may be compressed in this database (compress_over), so its JSON cannot be "
        "queried or changed by SQL: select rows by other columns and read the document in "
        "Python, or store what you query in metadata, topics or focus_areas"
    )
