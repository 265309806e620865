"""Define the contestants of `caches` that are cache libraries, and list all contestants.

The libraries are diskcache, cashews on diskcache, and LangChain.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .cache_contestants import (
    EXPIRES_IN,
    AIContent,
    Cache,
    PeeweeTable,
    SQLAlchemyTable,
    UnmarkedAIContent,
    engine_of,
    file_of,
)
from .requests import Request, request_hash, request_text


class DiskCache(Cache):
    """diskcache's `Cache`, which pickles documents into a SQLite file."""

    name = "diskcache"
    backends = ("sqlite",)

    def __init__(self, url: str) -> None:
        super().__init__(url)
        import diskcache

        self._cache = diskcache.Cache(str(_folder(url, self.name)))

    def get(self, request: Request) -> Any:
        return self._cache.get(request_hash(request))

    def set(self, request: Request, document: Any) -> None:
        self._cache.set(request_hash(request), document, expire=EXPIRES_IN)

    def setting(self, name: str) -> Any:
        return getattr(self._cache, f"sqlite_{name}")


class Cashews(Cache):
    """cashews with its disk backend, which calls diskcache in threads. One event loop asks all."""

    name = "cashews, on diskcache"
    backends = ("sqlite",)

    def __init__(self, url: str) -> None:
        super().__init__(url)
        import cashews

        self._cache = cashews.Cache()
        self._cache.setup("disk://", directory=str(_folder(url, "cashews")))
        self._loop = asyncio.new_event_loop()

    def ask(self, request: Request, generated: Any) -> Any:
        return self.ask_all([request], generated)[0]

    def ask_all(self, requests: Sequence[Request], generated: Any) -> list[Any]:
        async def ask_all() -> list[Any]:
            return [await self._ask(request, generated) for request in requests]

        return self._loop.run_until_complete(ask_all())

    async def _ask(self, request: Request, generated: Any) -> Any:
        key = request_hash(request)
        document = await self._cache.get(key)
        if document is not None:
            return document
        await self._cache.set(key, generated, expire=EXPIRES_IN)
        return generated

    def setting(self, name: str) -> Any:
        import diskcache

        return diskcache.DEFAULT_SETTINGS[f"sqlite_{name}"]  # cashews changes none of them


class LangChain(Cache):
    """LangChain's SQLAlchemyCache. Its SQLiteCache is the same with SQLite's default settings."""

    name = "LangChain's SQLAlchemyCache"
    package = "langchain_community"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._engine = engine_of(url)
        self._cache = import_module("langchain_community.cache").SQLAlchemyCache(self._engine)
        self._generation = import_module("langchain_core.outputs").Generation
        # LangChain's own call of its loads() causes this warning, which its import enables.
        warnings.filterwarnings("ignore", "The default value of `allowed_objects`")

    def get(self, request: Request) -> Any:
        found = self._cache.lookup(request_text(request), "model")
        return json.loads(found[0].text) if found else None

    def set(self, request: Request, document: Any) -> None:
        generation = self._generation(text=json.dumps(document))
        self._cache.update(request_text(request), "model", [generation])

    def query(self, sql: str) -> Any:
        with self._engine.connect() as connection:
            return connection.exec_driver_sql(sql).scalar()


def _folder(url: str, name: str) -> Path:
    return Path(file_of(url)).with_suffix(f".{name}")


CONTESTANTS: dict[str, type[Cache]] = {
    each.name: each
    for each in (
        AIContent,
        UnmarkedAIContent,
        PeeweeTable,
        SQLAlchemyTable,
        DiskCache,
        Cashews,
        LangChain,
    )
}
"""All contestants by name, ours first."""
