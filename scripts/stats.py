"""Define the `aicontent stats` command."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click

import aicontent
from aicontent import ContentStatus
from aicontent.errors import counted, printable
from aicontent.maintenance.stats import Group, Stats, added

from .options import database_option, json_option, open_database

_BAR = 20


@click.command()
@database_option
@json_option
def stats(url: str, as_json: bool) -> None:
    """Count rows, sizes, and the tokens and time that reuse saved.

    It reads the whole table once, which takes a while if the table is large. It changes nothing.
    """
    now = datetime.now(UTC)
    result = aicontent.stats(open_database(url, reads=True), now)
    if as_json:
        click.echo(json.dumps(_object(result)))
        return
    for line in _table(result, now):
        click.echo(line)


def _object(result: Stats) -> dict[str, object]:
    """Return the numbers with the keys that docs/reference/command.md lists."""
    numbers = ("rows", "uses", "tokens_spent", "tokens_saved", "seconds_spent", "seconds_saved")
    groups = [{n: getattr(g, n) for n in ("type", "status", *numbers)} for g in result.groups]
    return {
        "groups": groups,
        **{name: getattr(result, name) for name in ("expired", "failed", "stale", "size", "free")},
        "oldest_pending": result.oldest_pending and result.oldest_pending.isoformat(),
        "largest": [{"id": id, "size": size} for id, size in result.largest],
    }


def _table(result: Stats, now: datetime) -> Iterator[str]:
    total = added(result.groups)
    yield f"{'type':<22}" + "".join(f"{status:>11}" for status in ContentStatus)
    for each in result.by("type"):
        rows = {g.status: g.rows for g in result.groups if g.type == each.type}
        yield f"{each.type:<22}" + "".join(f"{rows.get(s, 0):>11,}" for s in ContentStatus)
    yield ""
    yield from _shares("rows by type", result.by("type"), "type", "rows")
    yield from _shares("rows by status", result.by("status"), "status", "rows")
    yield from _shares("tokens saved by type", result.by("type"), "type", "tokens_saved")
    yield f"{'rows':<22}{total.rows:,}, served again {counted(total.uses, 'time')}"
    yield f"{'due for deletion':<22}{result.expired:,} expired, {result.failed:,} failed"
    if result.stale:
        yield f"{'stale claims':<22}{result.stale:,} generating, whose lease ran out"
    if result.oldest_pending is not None:
        age = timedelta(seconds=int((now - result.oldest_pending).total_seconds()))
        yield f"{'oldest pending':<22}{result.oldest_pending:%Y-%m-%d %H:%M:%S} UTC, {age} ago"
    yield f"{'tokens':<22}{total.tokens_spent:,} spent, {total.tokens_saved:,} saved"
    saved = _hours(total.seconds_saved)
    yield f"{'generation':<22}{_hours(total.seconds_spent)} spent, {saved} saved"
    free = f", {bytes_text(result.free)} of it free" if result.free else ""
    yield f"{'on disk':<22}{bytes_text(result.size)}{free}"
    for index, (id, size) in enumerate(result.largest):
        label = "" if index else "largest documents"
        yield f"{label:<22}{bytes_text(size):>10}  {printable(str(id))}"


def _shares(title: str, groups: list[Group], name: str, number: str) -> Iterator[str]:
    total = sum(getattr(group, number) for group in groups)
    if not total:
        return
    yield title
    for group in sorted(groups, key=lambda group: -getattr(group, number)):
        count = getattr(group, number)
        share = count / total
        bar = _full() * max(round(share * _BAR), int(count > 0))
        yield f"  {getattr(group, name):<22}{bar:<{_BAR}}  {share:>6.1%}  {count:>20,}"
    yield ""


def _full() -> str:
    """Return the character of a bar: a block, or # if the output's encoding has no block."""
    encoded = "█".encode(getattr(sys.stdout, "encoding", None) or "ascii", "replace")
    return "#" if encoded == b"?" else "█"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:,.0f} s"


def bytes_text(size: float) -> str:
    """Return a size with its unit, rounded for people to read."""
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
