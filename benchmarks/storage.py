"""Measure the bytes of stored documents, and the time to write and read them, by compression."""

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

from .tables import TABLE, generate_document

SIZES = (4_000, 100_000)
"""Characters of a drill, and of a long lesson with its exercises."""
HEADING = f"  {'':<32}{'bytes a row':>14}{'µs to write':>14}{'µs to read':>14}"

_ROUNDS = 5
_DOCUMENTS = 200
_READS = 200


def measure(url: str, rows: int, text: Path | None) -> Iterator[dict[str, Any]]:
    """Measure each compression method on an empty database.

    Args:
        url: the database.
        rows: the number of rows with small documents. A tenth as many have large ones.
        text: a file with JSON lines of real text, or None for random words.
    """
    database = aicontent.connect(url)
    aicontent.migrate(database, create_users=True)
    with database.connection_context():
        aicontent.for_database(database).user.rel_model.create()
        for size in SIZES:
            rng = random.Random(9)
            count = max(1, rows if size == SIZES[0] else rows // 10)
            documents = [_document(rng, size, text) for _ in range(min(count, _DOCUMENTS))]
            for method in _methods(database):
                result = _measure_method(database, documents, count)
                yield {"size": size, "compression": method, **result}


def line(result: dict[str, Any]) -> str:
    """Format a result as a line of the table under HEADING."""
    name = f"{result['size']:,} characters, {result['compression']}"
    return f"  {name:<32}{result['bytes']:>14,.0f}{result['write']:>14,.0f}{result['read']:>14,.0f}"


def _methods(database: Any) -> Iterator[str]:
    """Switch the database to each compression method, and yield its name."""
    if isinstance(database, peewee.SqliteDatabase):
        yield "none"
        aicontent.configure(database, compress_over=1000)
        yield "zstd"
        aicontent.configure(database, compress_over=None)
        return
    sql = "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"
    (supported,) = database.execute_sql(sql).fetchone() or (["pglz"],)
    for method in (name for name in ("pglz", "lz4") if name in supported):
        database.execute_sql(
            f'ALTER TABLE {TABLE} ALTER COLUMN "generatedData" SET COMPRESSION {method}'
        )
        yield method


def _measure_method(database: Any, documents: list[Any], count: int) -> dict[str, float]:
    model = aicontent.for_database(database)
    row = {"user": 1, "type": "lesson", "status": "completed", "request_payload": {}}
    writes, reads = [], []
    for _ in range(_ROUNDS):
        model.delete().execute()
        if isinstance(database, peewee.SqliteDatabase):
            database.execute_sql("VACUUM")
        else:
            database.execute_sql(f"TRUNCATE {TABLE}")
        rows = [row | {"generated_data": documents[n % len(documents)]} for n in range(count)]
        bytes_before = _bytes(database)
        start = time.perf_counter()
        ids = model.create_many(rows)
        writes.append((time.perf_counter() - start) / count)
        step = max(1, count // _READS)
        start = time.perf_counter()
        for id in ids[::step]:
            model.get_by_id(id)
        reads.append((time.perf_counter() - start) / len(ids[::step]))
    return {
        "bytes": (_bytes(database) - bytes_before) / count,
        "write": statistics.median(writes) * 1e6,
        "read": statistics.median(reads) * 1e6,
    }


def _bytes(database: Any) -> int:
    """Return the size of the SQLite file, or of the PostgreSQL table with its TOAST table."""
    if isinstance(database, peewee.SqliteDatabase):
        return int(database.pragma("page_count") * database.pragma("page_size"))
    return int(database.execute_sql(f"SELECT pg_table_size('{TABLE}')").fetchone()[0])


def _document(rng: random.Random, size: int, text: Path | None) -> dict[str, Any]:
    if text is None:
        return generate_document(rng, size)
    paragraphs = _paragraphs(text)
    sections: list[dict[str, str]] = []
    length = 0
    while length < size:
        heading, body = rng.choice(paragraphs)
        sections.append({"heading": heading, "body": body})
        length += len(json.dumps(sections[-1], ensure_ascii=False)) + 1
    return {"title": sections[0]["heading"], "sections": sections}


@cache
def _paragraphs(text: Path) -> list[tuple[str, str]]:
    paragraphs = []
    for each in text.read_text("utf-8").splitlines():
        with suppress(ValueError):  # a model's output is not always valid JSON with text in it
            heading, *others = [v for v in json.loads(each).values() if isinstance(v, str)]
            paragraphs.append((heading, " ".join(others)))
    return paragraphs
