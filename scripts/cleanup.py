"""The `aicontent cleanup` command, which a systemd timer runs."""

import json
import signal
import sys
from dataclasses import asdict

import click

import aicontent
from aicontent import CleanupReport, RescueReport
from aicontent.database.supported import backend_of
from aicontent.errors import counted
from aicontent.generation.rescue import MAX_ATTEMPTS
from aicontent.maintenance.defaults import BATCH_SIZE
from aicontent.table import detected_model

from .options import database_option, handled, max_attempts_option, open_database, wait_option

LEFT = 3
"""The exit status of a run that its budget or a signal stopped, with rows left."""


@click.command()
@database_option
@click.option("--dry-run", is_flag=True, help="Count the rows to delete, and change nothing.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=BATCH_SIZE,
    show_default=True,
    help="The most rows of one transaction; batches shrink if they take long.",
)
@click.option("--max-rows", type=click.IntRange(min=0), help="Stop after so many rows.")
@click.option("--max-seconds", type=click.FloatRange(min=0), help="Stop after so many seconds.")
@max_attempts_option
@wait_option
@click.option(
    "--reclaim", is_flag=True, help="Return the space to the file system afterwards; SQLite."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def cleanup(
    ctx: click.Context,
    url: str,
    dry_run: bool,
    batch_size: int,
    max_rows: int | None,
    max_seconds: float | None,
    max_attempts: int | None,
    wait: float,
    reclaim: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Delete expired rows, and failed rows created over 24 hours ago; free stale claims.

    Before it deletes, rows whose lease has run out become pending again, or failed if they used
    up their attempts.

    SIGTERM and SIGINT stop it after the running batch. The exit status is 0 when all is done, 1
    when it failed, 2 for a usage error, and 3 when it was stopped with rows left.
    """
    database = open_database(url, wait=wait)
    if reclaim and not backend_of(database).can_reclaim:
        raise click.UsageError("--reclaim is for SQLite; PostgreSQL's autovacuum does it by itself")
    model = detected_model(aicontent.AIGeneratedContent, database)
    signals: list[int] = []
    stop = handled((signal.SIGINT, signal.SIGTERM), lambda number, _: signals.append(number))
    with database.connection_context(), stop:
        rescued = model.rescue_stale(max_attempts or MAX_ATTEMPTS, dry_run=dry_run)
        bar = sys.stderr.isatty() and not (quiet or as_json or dry_run)
        length = model.cleanup(dry_run=True).deleted if bar else 0
        with click.progressbar(
            length=length, label="Deleting", file=sys.stderr, hidden=not bar
        ) as shown:
            report = model.cleanup(
                batch_size=batch_size,
                max_rows=max_rows,
                max_seconds=max_seconds,
                dry_run=dry_run,
                progress=lambda report: shown.update(report.deleted - shown.pos),
                stop=lambda: bool(signals),
            )
        # Printed before the space is reclaimed, which may fail and deletes no rows.
        if not (quiet or as_json):
            if rescued != RescueReport():
                click.echo(_rescue_line(rescued, dry_run=dry_run))
            click.echo(_line(report))
        freed = aicontent.reclaim(database) if reclaim and not dry_run else None
    if as_json:
        printed = asdict(report) | {"deleted": report.deleted, "rescued": asdict(rescued)}
        click.echo(json.dumps(printed | ({"freed": freed.freed} if freed else {})))
    elif freed and not quiet:
        click.echo(f"freed {freed.freed:,} bytes ({freed.way})")
    if report.left and not dry_run:
        ctx.exit(LEFT)


def _rescue_line(rescued: RescueReport, *, dry_run: bool) -> str:
    verb = "would free" if dry_run else "freed"
    return f"{verb} stale claims: {rescued.requeued:,} to pending, {rescued.failed:,} to failed"


def _line(report: CleanupReport) -> str:
    if report.dry_run:
        return f"would delete {report.expired:,} expired, {report.failed:,} failed"
    line = f"deleted {report.expired:,} expired, {report.failed:,} failed"
    if report.batches:
        batches = counted(report.batches, "batch", "batches")
        line += f" in {batches}, the longest {report.longest_batch * 1000:.0f} ms"
    return line + ("; stopped with rows left" if report.left else "")
