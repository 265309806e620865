"""Define the ways to serve concurrent requests: with aicontent, and with other caches.

`concurrent_requests` measures them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cashews
import fastapi
import httpx
import sqlalchemy

import aicontent

from .orms import sqlalchemy_url

LANGCHAIN = "LangChain's SQLAlchemyCache"

_DOCUMENT = {"title": "Ordering in a restaurant", "body": "Read the menu, then order. " * 150}
_THREADS = 200

Ask = Callable[[str], Awaitable[Any]]
"""A function that requests the lesson on a topic."""


class Model:
    """A stand-in for a model. It takes `seconds`, in a thread or in the event loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.generated: list[dict[str, str]] = []

    def generate(self, _: object = None) -> dict[str, str]:
        """Generate in a thread."""
        time.sleep(self.seconds)
        self.generated.append(_DOCUMENT)
        return _DOCUMENT

    async def agenerate(self, _: object = None) -> dict[str, str]:
        """Generate in the event loop."""
        await asyncio.sleep(self.seconds)
        self.generated.append(_DOCUMENT)
        return _DOCUMENT


Way = Callable[[str, Model], AbstractAsyncContextManager[Ask]]
"""A context manager that serves content from a database URL and a model."""


def has_langchain() -> bool:
    """Return whether LangChain is installed. The extra `benchmark` does not include it."""
    return find_spec("langchain_community") is not None


@asynccontextmanager
async def _awaited(url: str, model: Model) -> AsyncIterator[Ask]:
    content = aicontent.for_database(aicontent.connect(url))
    yield lambda topic: content.aget_or_generate(1, "lesson", {"topic": topic}, model.agenerate)


@asynccontextmanager
async def _to_thread(url: str, model: Model) -> AsyncIterator[Ask]:
    call = _plain(url, model)
    yield lambda topic: asyncio.to_thread(call, topic)


@asynccontextmanager
async def _own_pool(url: str, model: Model) -> AsyncIterator[Ask]:
    call, loop = _plain(url, model), asyncio.get_running_loop()
    with ThreadPoolExecutor(_THREADS) as pool:
        yield lambda topic: loop.run_in_executor(pool, call, topic)


@asynccontextmanager
async def _fastapi(url: str, model: Model) -> AsyncIterator[Ask]:
    """Serve from a `def` endpoint, which FastAPI calls in one of AnyIO's 40 threads."""
    app, call = fastapi.FastAPI(), _plain(url, model)

    @app.get("/lessons/{topic}")
    def lesson(topic: str) -> Any:
        return call(topic).generated_data

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:

        async def ask(topic: str) -> Any:
            return (await client.get(f"/lessons/{topic}")).raise_for_status().json()

        yield ask


@asynccontextmanager
async def _langchain(url: str, model: Model) -> AsyncIterator[Ask]:
    """Look up, generate on a miss, and update, as LangChain's models do."""
    caches = import_module("langchain_community.cache")
    outputs = import_module("langchain_core.outputs")
    engine = sqlalchemy.create_engine(sqlalchemy_url(url))
    cache = caches.SQLAlchemyCache(engine)

    async def ask(topic: str) -> Any:
        found = await cache.alookup(topic, "model")
        if found:
            return json.loads(found[0].text)
        document = await model.agenerate()
        await cache.aupdate(topic, "model", [outputs.Generation(text=json.dumps(document))])
        return document

    yield ask
    engine.dispose()


@asynccontextmanager
async def cashews_cache(url: str, model: Model) -> AsyncIterator[Ask]:
    """Cache in SQLite files next to the database, with one generation at a time per topic."""
    cache = cashews.Cache()
    folder = Path(url.removeprefix("sqlite:///")).with_suffix(".cashews")
    cache.setup("disk://", directory=str(folder))

    @cache(ttl="1h", key="{topic}", lock=True)
    async def ask(topic: str) -> Any:
        return await model.agenerate()

    yield ask
    await cache.close()


def _plain(url: str, model: Model) -> Callable[[str], Any]:
    content = aicontent.for_database(aicontent.connect(url))
    return lambda topic: content.get_or_generate(1, "lesson", {"topic": topic}, model.generate)


WAYS: dict[str, Way] = {
    "aget_or_generate()": _awaited,
    "get_or_generate() by to_thread()": _to_thread,
    f"in {_THREADS} threads": _own_pool,
    "in FastAPI's def endpoints": _fastapi,
    LANGCHAIN: _langchain,
}
"""The ways to serve requests that work on both backends. Ours come first."""
