"""Define the `aicontent check` command."""

import json
from collections.abc import Iterator

import click

import aicontent
from aicontent import IndexUsage
from aicontent.errors import counted

from .options import database_option, json_option, open_database
from .stats import bytes_text


@click.command()
@database_option
@click.option(
    "--dropped",
    metavar="INDEX",
    multiple=True,
    help="An index that you dropped on purpose, so that it is not reported. Repeatable.",
)
@json_option
@click.pass_context
def check(ctx: click.Context, url: str, dropped: tuple[str, ...], as_json: bool) -> None:
    """Report problems of the table, its rows and its jobs.

    It prints `ok`, or a line for each problem: a missing or damaged part of the schema, rows that
    the cleanup or a worker should have handled long ago, or rows that cannot be read. On
    PostgreSQL it then lists the indexes with their sizes and how often each was scanned.

    The exit status is 1 if there is a problem. The use of the indexes does not change it.
    """
    database = open_database(url, reads=True)
    problems = aicontent.check(database, dropped=dropped)
    usage = aicontent.index_usage(database)
    if as_json:
        click.echo(json.dumps({"problems": problems, "index_usage": _object(usage)}))
    else:
        for line in (*(problems or ["ok"]), *_table(usage)):
            click.echo(line)
    if problems:
        ctx.exit(1)


def _object(usage: IndexUsage | None) -> dict[str, object] | None:
    if usage is None:
        return None
    names = ("name", "size", "scans", "idle")
    indexes = [{name: getattr(each, name) for name in names} for each in usage.indexes]
    since = usage.since and usage.since.isoformat()
    return {"indexes": indexes, "writes": usage.writes, "since": since}


def _table(usage: IndexUsage | None) -> Iterator[str]:
    if usage is None or not usage.indexes:
        return
    since = f"{usage.since:%Y-%m-%d %H:%M} UTC" if usage.since else "the database was created"
    yield ""
    yield f"{'index':<30}{'size':>10}{'scans':>12}  since {since}"
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
        yield "Drop an index if these counts cover your usual work, and no replica uses it."
        yield "Then name it in each `aicontent check`, as --dropped INDEX."
