"""Measure a table in partitions by user id against one table with the same rows, on PostgreSQL."""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import aicontent
from aicontent import ContentType

from .tables import LEVELS, TABLE, USERS, copy_text, due, generate_rows

HEADING = f"  {'':<34}{'one table':>12}{'partitions':>12}  ratio"

_BATCH = 2_000

Call = Callable[[Any, random.Random], object]


def create(url: str, rows: int, characters: int, groups: int, due_rows: int) -> None:
    """Create the table without partitions, with a group of due rows for each cleanup."""
    generated = generate_rows(rows, characters, groups, due_rows)

    def batches() -> Iterator[str]:
        batch: list[Any] = []
        for row in generated:
            batch.append(row)
            if len(batch) == _BATCH:
                yield copy_text(batch)
                batch = []
        yield copy_text(batch)

    _fill(url, None, _Text(batches()), columns=21)


def create_partitioned(url: str, partitions: int, source: str) -> None:
    """Create a table in partitions with the rows of another database."""
    reading, writing = os.pipe()
    thread = threading.Thread(target=_read, args=(source, writing))
    thread.start()
    with os.fdopen(reading, "r", encoding="utf-8") as lines:
        _fill(url, partitions, lines)
    thread.join()


def measure(
    urls: Sequence[str], rounds: int, calls: int, group: int | None = None
) -> Iterator[tuple[str, float, float]]:
    """Measure the calls on one table and on partitions in turns, and a cleanup of a group.

    Without a group, measure psycopg 3 with generic plans, and no cleanup.

    Yields:
        The name of a call, and its microseconds on one table and on partitions; for the cleanup
        its rows a second.
    """
    if group is None:
        urls = [url.replace("postgresql:", "postgresql+psycopg:") for url in urls]
    databases = [aicontent.connect(url) for url in urls]
    for database in databases:
        if group is None:
            database.execute_sql("SET plan_cache_mode = force_generic_plan")
    models = [aicontent.for_database(database) for database in databases]
    for name, call in _calls(models).items():
        times: list[list[float]] = [[], []]
        for round in range(-1, rounds):  # the first round warms up
            for model, measured in zip(models, times, strict=True):
                rng = random.Random(round)
                began = time.perf_counter()
                for _ in range(calls):
                    call(model, rng)
                if round >= 0:
                    measured.append((time.perf_counter() - began) / calls)
        one, other = (statistics.median(each) * 1e6 for each in times)
        yield name, one, other
    rates = []
    for model in models if group is not None else ():
        began = time.perf_counter()
        report = model.cleanup(due(group))
        rates.append(report.deleted / (time.perf_counter() - began))
    if rates:
        yield "cleanup, rows a second", rates[0], rates[1]
    for database in databases:
        database.close()


def line(name: str, one: float, other: float) -> str:
    """Format a line of the table under HEADING. If the ratio is above 1, partitions are faster."""
    ratio = other / one if name.startswith("cleanup") else one / other
    return f"  {name:<34}{one:>12,.0f}{other:>12,.0f}  {ratio:.2f}"


def _calls(models: Sequence[Any]) -> dict[str, Call]:
    rows = {model: _sample(model) for model in models}
    types = list(ContentType)

    def asked(rng: random.Random) -> tuple[int, str, str]:
        return rng.randint(1, USERS), rng.choice(types), rng.choice(LEVELS)

    def create(model: Any, rng: random.Random) -> None:
        user, type, level = asked(rng)
        model.create(user=user, type=type, level=level, request_payload={"number": rng.random()})

    def claim(model: Any, rng: random.Random) -> None:
        content = model.claim()
        if content is not None:  # a small table has few pending rows
            content.complete({"number": rng.random()})

    def by_id(model: Any, rng: random.Random) -> object:
        return model.get_by_id(rng.choice(rows[model])[0])

    def by_id_and_user(model: Any, rng: random.Random) -> object:
        return model.get_by_id(*rng.choice(rows[model]))

    def generate(model: Any, rng: random.Random) -> object:
        user, type, _ = asked(rng)
        payload = {"number": rng.random()}
        return model.get_or_generate(user, type, payload, lambda content: {"number": 1})

    return {
        "first_reusable()": lambda model, rng: model.first_reusable(*asked(rng)),
        "reuse()": lambda model, rng: model.reuse(*asked(rng)),
        "get_by_id(id)": by_id,
        "get_by_id(id, user)": by_id_and_user,
        "create()": create,
        "get_or_generate(), which generates": generate,
        "claim() and complete()": claim,
    }


def _sample(model: Any) -> list[tuple[str, int]]:
    """Return ids with their users."""
    query = model.select(model.id, model.user).where(model.model_used.is_null(False))
    return list(query.limit(5_000).tuples())


class _Text:
    """A file that reads one text after the other."""

    def __init__(self, texts: Iterator[str]) -> None:
        self._texts, self._rest = texts, ""

    def read(self, size: int) -> str:
        while len(self._rest) < size:
            text = next(self._texts, None)
            if text is None:
                break
            self._rest += text
        read, self._rest = self._rest[:size], self._rest[size:]
        return read


def _read(url: str, writing: int) -> None:
    database = aicontent.connect(url)
    with os.fdopen(writing, "w", encoding="utf-8") as file, database.cursor() as cursor:
        cursor.copy_expert(f"COPY {TABLE} TO STDOUT", file)
    database.close()


def _fill(url: str, partitions: int | None, lines: Any, columns: int | None = None) -> None:
    """Migrate, and copy the rows before the indexes exist, which takes half the time."""
    database: Any = aicontent.connect(url)
    aicontent.migrate(database, create_users=True, partitions=partitions)
    names = ", ".join(
        f'"{name}"' for name in list(aicontent.AIGeneratedContent._meta.columns)[:columns]
    )
    indexes = database.execute_sql(
        "SELECT indexname, replace(indexdef, ' ON ONLY ', ' ON ') FROM pg_indexes "
        f"WHERE tablename = '{TABLE}' AND indexname NOT LIKE '%%pkey'"
    ).fetchall()
    with database.atomic(), database.cursor() as cursor:
        cursor.execute("INSERT INTO users SELECT generate_series(1, %s)", (USERS,))
        cursor.execute(f"ALTER TABLE {TABLE} DISABLE TRIGGER ALL")
        for name, _ in indexes:
            cursor.execute(f'DROP INDEX "{name}"')
        cursor.copy_expert(f"COPY {TABLE} ({names}) FROM STDIN", lines)
        cursor.execute("SET LOCAL maintenance_work_mem = '1GB'")
        for _, definition in indexes:
            cursor.execute(definition)
        cursor.execute(f"ALTER TABLE {TABLE} ENABLE TRIGGER ALL")
    database.connection().autocommit = True
    database.execute_sql(f"VACUUM ANALYZE {TABLE}")
    database.execute_sql("CHECKPOINT")
    database.close()
