"""How documents are stored: how large they may be, and on SQLite from where on compressed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import peewee

from .documents import kind_of
from .errors import AIContentError, CorruptDocumentError, ValidationError

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
        small: bytes = _zstd().compress(text.encode(), _LEVEL)
        return small

    def _check(self, size: int, field: str) -> None:
        if size > self.max_document_bytes:
            rule = (
                f"must be at most {self.max_document_bytes:,} bytes as JSON "
                "(aicontent.configure can allow more)"
            )
            raise ValidationError(field, rule, f"{size:,} bytes")


_storages: WeakKeyDictionary[peewee.Database, Storage] = WeakKeyDictionary()


def storage_of(database: peewee.Database | None) -> Storage:
    """Return how a database's documents are stored; its settings may change later."""
    return Storage() if database is None else _storages.setdefault(database, Storage())


def configure(
    database: peewee.Database,
    *,
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    compress_over: int | None = None,
) -> None:
    """Set how this database's documents are stored by this process, from now on.

    Args:
        database: what is bound, or will be.
        max_document_bytes: the most bytes of one document as JSON text; more is refused.
        compress_over: on SQLite, compress `request_payload`, `generated_data` and
            `validation_results` of more characters than this, which ends JSON queries on them.
            None, the default, compresses nothing. PostgreSQL compresses by itself, so it is
            without effect there. What is compressed is read whatever this says.

    Raises:
        ValidationError: an argument is no such number.
        AIContentError: zstd is not installed.
    """
    most = _number("max_document_bytes", max_document_bytes)
    over = None if compress_over is None else _number("compress_over", compress_over)
    if over is not None:
        _zstd()
    if isinstance(database, peewee.Proxy):
        database = database.obj
    storage = storage_of(database)
    storage.max_document_bytes, storage.compress_over = most, over


def _number(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValidationError(name, "must be an int, not negative", kind_of(value))
    return value


def decompressed(data: bytes) -> str:
    """Return the JSON text of a document that was compressed.

    Raises:
        AIContentError: zstd is not installed. CorruptDocumentError: the data is none of its.
    """
    zstd = _zstd()
    try:
        text: str = zstd.decompress(data).decode()
    except (zstd.ZstdError, UnicodeDecodeError) as error:
        raise CorruptDocumentError(f"a compressed document cannot be read: {error}") from error
    return text


@cache
def _zstd() -> Any:
    for name in _MODULES:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise AIContentError(
        "compressed documents need zstd: pip install 'aicontent[compress]' (or backports.zstd)"
    )


def not_queryable(field: str) -> AIContentError:
    """Return the error of who queries the JSON of compressed documents."""
    return AIContentError(
        f"{field} may be compressed in this database (compress_over), so its JSON cannot be "
        "queried or changed by SQL: ask for rows by other columns and look into it in Python, or "
        "keep what is asked for in metadata, topics or focus_areas"
    )
