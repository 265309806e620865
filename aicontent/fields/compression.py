"""How documents are stored: how large they may be, and on SQLite from where on compressed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, TypedDict, Unpack
from weakref import WeakKeyDictionary

import peewee

from ..errors import AIContentError, CorruptDocumentError, ValidationError
from .policy import kind_of, shortened

MAX_DOCUMENT_BYTES = 16_000_000
"""Far more than a model writes, far less than what PostgreSQL (255 MB) and SQLite (1 GB) take."""

_LEVEL = 3
"""zstd's own default: at 4 KB and at 100 KB of text higher ones cost more time than they save
room."""

_MODULES = "compression.zstd", "backports.zstd"
"""Python's own, from 3.14 on, and the same for those before."""


@dataclass
class Storage:
    """What one database's documents are held to."""

    compress_over: int | None = None
    max_document_bytes: int = MAX_DOCUMENT_BYTES

    def kept(self, text: str, field: str, *, compressible: bool) -> str | bytes:
        """Return what is stored of a document's JSON text.

        Raises:
            ValidationError: it is too large.
        """
        if 4 * len(text) > self.max_document_bytes:  # of up to four bytes a character
            self._check(len(text.encode()), field)
        if not compressible or self.compress_over is None or len(text) <= self.compress_over:
            return text
        small: bytes = zstd().compress(text.encode(), _LEVEL)
        return small

    def _check(self, size: int, field: str) -> None:
        if size > self.max_document_bytes:
            rule = (
                f"must be at most {self.max_document_bytes:,} bytes as JSON "
                "(aicontent.configure, or --max-document-bytes of an import, allows more)"
            )
            raise ValidationError(field, rule, f"{size:,} bytes")


_storages: WeakKeyDictionary[peewee.Database, Storage] = WeakKeyDictionary()


def storage_of(database: peewee.Database | None) -> Storage:
    """Return how a database's documents are stored; its settings may change later."""
    return Storage() if database is None else _storages.setdefault(database, Storage())


class Settings(TypedDict, total=False):
    """What `configure` sets."""

    max_document_bytes: int
    compress_over: int | None


def configure(database: peewee.Database, **settings: Unpack[Settings]) -> None:
    """Set how this database's documents are stored by this process, from now on.

    Args:
        database: what is bound, or will be.
        settings: those to change, the others stay:
            `max_document_bytes`: the most bytes of one document as JSON text, 16,000,000 at
            first; more is refused.
            `compress_over`: on SQLite, compress `request_payload`, `generated_data` and
            `validation_results` of more characters than this, which ends JSON queries on them;
            None, as at first, compresses nothing. Without effect on PostgreSQL, which compresses
            by itself. What is compressed is read whatever this says.

    Raises:
        ValidationError: there is no such setting, or it is no such number.
        UnsupportedDatabaseError: it is neither SQLite nor PostgreSQL, or not initialised.
        AIContentError: zstd is not installed.
    """
    from ..binding import resolved  # by way of the model it needs this module

    database = resolved(database)
    for name, value in settings.items():
        if name not in Settings.__annotations__:
            rule = f"is no setting; there are {', '.join(Settings.__annotations__)}"
            raise ValidationError(shortened(name), rule, "an unknown name")
        if not (name == "compress_over" and value is None):
            _check_number(name, value)
    if settings.get("compress_over") is not None and isinstance(database, peewee.SqliteDatabase):
        zstd()
    storage = storage_of(database)
    for name, value in settings.items():
        setattr(storage, name, value)


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValidationError(name, "must be an int, not negative", kind_of(value))


def decompressed(data: bytes) -> str:
    """Return the JSON text of a document that was compressed.

    Raises:
        AIContentError: zstd is not installed. CorruptDocumentError: the data is none of its.
    """
    module = zstd()
    try:
        text: str = module.decompress(data).decode()
    except (module.ZstdError, UnicodeDecodeError) as error:
        raise CorruptDocumentError(f"a compressed document cannot be read: {error}") from error
    return text


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
    """Return the error of who queries the JSON of compressed documents."""
    return AIContentError(
        f"{field} may be compressed in this database (compress_over), so its JSON cannot be "
        "queried or changed by SQL: ask for rows by other columns and look into it in Python, or "
        "keep what is asked for in metadata, topics or focus_areas"
    )
