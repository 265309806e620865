"""The `aicontent stats` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import click

import aicontent
from aicontent import ContentStatus
from aicontent.maintenance.stats import Group, Stats, added

from .options import Command, database_option, open_database, shown

_BAR = 20


@click.command(cls=Command)
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as one JSON object.")
def stats(url: str, as_json: bool) -> None:
    """Show what the table holds, what is due to go, and what reuse has saved."""
    now = datetime.now(UTC)
    found = aicontent.stats(open_database(url), now)
    if as_json:
        click.echo(json.dumps(asdict(found), default=datetime.isoformat))
        return
    for line in _table(found, now):
        click.echo(line)


def _table(found: Stats, now: datetime) -> Iterator[str]:
    total = added(found.groups)
    yield f"{'type':<22}" + "".join(f"{status:>11}" for status in ContentStatus)
    for each in found.by("type"):
        rows = {g.status: g.rows for g in found.groups if g.type == each.type}
        yield f"{each.type:<22}" + "".join(f"{rows.get(s, 0):>11,}" for s in ContentStatus)
    yield ""
    yield from _shares("rows by type", found.by("type"), "type", "rows")
    yield from _shares("rows by status", found.by("status"), "status", "rows")
    yield from _shares("tokens saved by type", found.by("type"), "type", "tokens_saved")
    yield f"{'rows':<22}{total.rows:,}, served again {total.uses:,} times"
    yield f"{'due to go':<22}{found.expired:,} expired, {found.failed:,} failed"
    if found.stale:
        yield f"{'left behind':<22}{found.stale:,} generating, whose lease ran out"
    if found.oldest_pending is not None:
        age = timedelta(seconds=int((now - found.oldest_pending).total_seconds()))
        yield f"{'oldest pending':<22}{found.oldest_pending:%Y-%m-%d %H:%M:%S} UTC, {age} ago"
    yield f"{'tokens':<22}{total.tokens_spent:,} spent, {total.tokens_saved:,} saved"
    spent, saved = total.seconds_spent, total.seconds_saved
    yield f"{'generation':<22}{_hours(spent)} spent, {_hours(saved)} saved"
    free = f", {bytes_text(found.free)} of it free" if found.free else ""
    yield f"{'on disk':<22}{bytes_text(found.size)}{free}"
    for index, (id, size) in enumerate(found.largest):
        yield f"{'' if index else 'largest documents':<22}{bytes_text(size):>10}  {shown(id)}"


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
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:,.0f} s"


def bytes_text(size: float) -> str:
    """Return a size as a person reads it."""
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
