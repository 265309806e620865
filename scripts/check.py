"""The `aicontent check` command."""

from __future__ import annotations

from collections.abc import Iterator

import click

import aicontent
from aicontent import IndexUsage

from .options import Command, database_option, open_database
from .stats import bytes_text


@click.command(cls=Command)
@database_option
@click.option(
    "--dropped",
    metavar="INDEX",
    multiple=True,
    help="An index that was dropped on purpose, which is no problem; may be repeated.",
)
@click.pass_context
def check(ctx: click.Context, url: str, dropped: tuple[str, ...]) -> None:
    """Look for what is missing or wrong, and at how indexes are used.

    The exit status is 1 if anything is wrong. How the indexes are used is PostgreSQL's own count
    and no more than told.
    """
    database = open_database(url)
    problems = aicontent.check(database, dropped=dropped)
    for problem in problems:
        click.echo(problem)
    if not problems:
        click.echo("sound")
    usage = aicontent.index_usage(database)
    if usage is not None and usage.indexes:
        for line in _table(usage):
            click.echo(line)
    if problems:
        ctx.exit(1)


def _table(usage: IndexUsage) -> Iterator[str]:
    since = f"since {usage.since:%Y-%m-%d %H:%M} UTC" if usage.since else "since the beginning"
    yield ""
    yield f"{'index':<30}{'size':>10}{'scans':>12}  {since}"
    for index in usage.indexes:
        note = "  never served" if index.idle else ""
        yield f"{index.name:<30}{bytes_text(index.size):>10}{index.scans:>12,}{note}"
    idle = [index for index in usage.indexes if index.idle]
    if idle and usage.writes:
        size = bytes_text(sum(index.size for index in idle))
        yield (
            f"{len(idle)} of them never served, take {size}, and are kept up by "
            f"{usage.writes:,} writes so far."
        )
        yield "If that is long enough to tell, and no replica reads by them, drop them, and"
        yield "name them by --dropped from then on."
