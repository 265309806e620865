"""What documents cost stored one way or another: bytes and microseconds a row."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import peewee

import aicontent

from .benchmark_data import TABLE, document

SIZES = (4_000, 100_000)
"""Characters of a document: a drill, and a long lesson with its exercises."""

_ROUNDS = 5


def measure(url: str, rows: int, text: Path | None) -> Iterator[dict[str, Any]]:
    """Measure each way of storing that an empty database has.

    Args:
        url: the database.
        rows: how many rows of the smaller size are written; of the larger one a tenth.
        text: JSON lines of real text; else it is of made-up words.
    """
    database = aicontent.connect(url)
    aicontent.migrate(database, create_users=True)
    with database.connection_context():
        aicontent.for_database(database).user.rel_model.create()
        for size in SIZES:
            chance = random.Random(9)  # noqa: S311 - the same documents for each
            count = max(1, rows if size == SIZES[0] else rows // 10)
            made = [_made(chance, size, text) for _ in range(min(count, 200))]
            for way in _ways(database):
                yield {"size": size, "way": way, **_measured(database, made, count)}


HEADING = f"  {'':<32}{'bytes a row':>14}{'µs to write':>14}{'µs to read':>14}"


def line(stored: dict[str, Any]) -> str:
    """Return a line that shows what was measured."""
    what = f"{stored['size']:,} characters, {stored['way']}"
    return f"  {what:<32}{stored['bytes']:>14,.0f}{stored['write']:>14,.0f}{stored['read']:>14,.0f}"


def _ways(database: Any) -> Iterator[str]:
    """Go from one way of storing to the next."""
    if isinstance(database, peewee.SqliteDatabase):
        yield "as text"
        aicontent.configure(database, compress_over=1000)
        yield "zstd"
        aicontent.configure(database, compress_over=None)
        return
    sql = "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"
    (known,) = database.execute_sql(sql).fetchone() or (["pglz"],)
    for method in (name for name in ("pglz", "lz4") if name in known):
        database.execute_sql(
            f'ALTER TABLE {TABLE} ALTER COLUMN "generatedData" SET COMPRESSION {method}'
        )
        yield method


def _measured(database: Any, made: list[Any], count: int) -> dict[str, float]:
    model = aicontent.for_database(database)
    writes, reads = [], []
    for _ in range(_ROUNDS):
        model.delete().execute()
        if not database.for_update:
            database.execute_sql("VACUUM")
        else:
            database.execute_sql(f"TRUNCATE {TABLE}")
        row = {"user": 1, "type": "lesson", "status": "completed", "request_payload": {}}
        many = [row | {"generated_data": made[number % len(made)]} for number in range(count)]
        before = _bytes(database)
        began = time.perf_counter()
        ids = model.create_many(many)
        writes.append((time.perf_counter() - began) / count)
        began = time.perf_counter()
        for id in ids[:: max(1, count // 200)]:
            model.get_by_id(id)
        reads.append((time.perf_counter() - began) / len(ids[:: max(1, count // 200)]))
    return {
        "bytes": (_bytes(database) - before) / count,
        "write": statistics.median(writes) * 1e6,
        "read": statistics.median(reads) * 1e6,
    }


def _bytes(database: Any) -> int:
    if not database.for_update:
        return int(database.pragma("page_count") * database.pragma("page_size"))
    return int(database.execute_sql(f"SELECT pg_table_size('{TABLE}')").fetchone()[0])


def _made(chance: random.Random, size: int, text: Path | None) -> dict[str, Any]:
    if text is None:
        return document(chance, size)
    pieces = _pieces(text)
    sections: list[dict[str, str]] = []
    length = 0
    while length < size:
        heading, body = chance.choice(pieces)
        sections.append({"heading": heading, "body": body})
        length += len(json.dumps(sections[-1], ensure_ascii=False)) + 1
    return {"title": sections[0]["heading"], "sections": sections}


@cache
def _pieces(text: Path) -> list[tuple[str, str]]:
    pieces = []
    for line in text.read_text("utf-8").splitlines():
        with suppress(ValueError):  # a model's output is not always what was asked for
            heading, *others = [v for v in json.loads(line).values() if isinstance(v, str)]
            pieces.append((heading, " ".join(others)))
    return pieces
