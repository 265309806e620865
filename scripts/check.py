"""The `aicontent check` command."""

from collections.abc import Iterator

import click

import aicontent
from aicontent import IndexUsage
from aicontent.errors import counted

from .options import database_option, open_database
from .stats import bytes_text


@click.command()
@database_option
@click.option(
    "--dropped",
    metavar="INDEX",
    multiple=True,
    help="An index that was dropped on purpose, which is no problem; may be repeated.",
)
@click.pass_context
def check(ctx: click.Context, url: str, dropped: tuple[str, ...]) -> None:
    """Check for missing or damaged parts, and show how indexes are used.

    The exit status is 1 if anything is wrong. The use of indexes is PostgreSQL's own count, and
    does not change the exit status.
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
        note = "  never used" if index.idle else ""
        yield f"{index.name:<30}{bytes_text(index.size):>10}{index.scans:>12,}{note}"
    idle = [index for index in usage.indexes if index.idle]
    if idle and usage.writes:
        size = bytes_text(sum(index.size for index in idle))
        yield (
            f"{counted(len(idle), 'index', 'indexes')} never used: {size}, "
            f"updated by {counted(usage.writes, 'write')} so far."
        )
        yield "If that was counted for long enough, and no replica uses them, drop them, and"
        yield "name them with --dropped from then on."
