"""Define the `aicontent cleanup` command, which a systemd timer runs."""

import json
import math
import signal
import time
from dataclasses import replace

import click

import aicontent
from aicontent import CleanupReport, ReclaimReport, RescueReport
from aicontent.database.supported import backend_of
from aicontent.errors import counted, printable
from aicontent.generation.defaults import MAX_ATTEMPTS
from aicontent.maintenance.defaults import BATCH_SIZE, FAILED_AFTER
from aicontent.table import detected_model

from .options import (
    Duration,
    Number,
    database_option,
    handled,
    max_attempts_option,
    open_database,
    output_options,
    wait_option,
)

LEFT = 3
"""The exit status if --max-rows, --max-seconds or a signal ended the run with rows left."""


@click.command(short_help="Delete expired and failed rows, and free stale claims.")
@database_option
@click.option("--dry-run", is_flag=True, help="Count the rows and change nothing.")
@click.option(
    "--failed-after",
    type=Duration(),
    default=int(FAILED_AFTER.total_seconds()),
    show_default=True,
    help="Keep a failed row until it was created and last changed this long ago.",
)
@click.option(
    "--batch-size",
    type=Number(min=1),
    default=BATCH_SIZE,
    show_default=True,
    help="The most rows to delete in one transaction. Slow batches make the next ones smaller.",
)
@click.option("--max-rows", type=Number(min=0), help="Stop after this number of rows.")
@click.option("--max-seconds", type=Duration(), help="Stop after this time.")
@max_attempts_option("a number")
@wait_option
@click.option(
    "--reclaim", is_flag=True, help="Then return free space to the file system. SQLite only."
)
@output_options
@click.pass_context
def cleanup(
    ctx: click.Context,
    url: str,
    dry_run: bool,
    failed_after: float,
    batch_size: int,
    max_rows: int | None,
    max_seconds: float | None,
    max_attempts: int | None,
    wait: float,
    reclaim: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Delete expired rows, and rows that failed over 24 hours ago.

    First it frees stale claims: a row whose lease has run out becomes pending again, or failed if
    it has no attempt left. Then it deletes in batches, each in its own transaction.

    SIGTERM or SIGINT (Ctrl-C) ends the run after the current batch.

    \b
    Exit status:
        0  no row is left to delete
        1  an error, or the database refuses to delete or free some rows
        2  a wrong argument or option
        3  --max-rows, --max-seconds or a signal ended the run with rows left

    \b
    Example, for a timer:
        aicontent cleanup --max-seconds 1800 --database postgresql://host/name
    """
    if reclaim and dry_run:
        raise click.UsageError("--dry-run and --reclaim cannot be combined: leave one out")
    database = open_database(url, wait=wait, reads=dry_run)
    if reclaim and not backend_of(database).can_reclaim:
        raise click.UsageError("--reclaim is for SQLite: on PostgreSQL autovacuum does this")
    model = detected_model(aicontent.AIGeneratedContent, database)
    signals: list[int] = []
    stop = handled((signal.SIGINT, signal.SIGTERM), lambda number, _: signals.append(number))
    done = _Done(as_json, quiet)
    try:
        with database.connection_context(), stop:
            until = time.monotonic() + (math.inf if max_seconds is None else max_seconds)
            done.rescued = model.rescue_stale(
                max_attempts or MAX_ATTEMPTS,
                max_rows=max_rows,
                max_seconds=max_seconds,
                dry_run=dry_run,
                stop=lambda: bool(signals),
            )
            if max_rows is not None:
                max_rows = max(0, max_rows - done.rescued.requeued - done.rescued.failed)
            seconds = None if max_seconds is None else max(0.0, until - time.monotonic())
            done.report = model.cleanup(
                failed_after=failed_after,
                batch_size=batch_size,
                max_rows=max_rows,
                max_seconds=seconds,
                dry_run=dry_run,
                progress=done.note,
                stop=lambda: bool(signals),
            )
            done.has_ended = True
            if not as_json:  # before the space is reclaimed, which may fail
                done.print()
            is_over = signals or done.is_left() or time.monotonic() >= until
            if reclaim and not is_over:
                done.freed = aicontent.reclaim(database)
    finally:
        done.print()
    if done.freed is not None and not (quiet or as_json):
        click.echo(f"freed {done.freed.freed:,} bytes ({done.freed.way})")
    refused = [
        f"{verb} {counted(report.blocked, row)}: "
        + "; ".join(f"{id}: {printable(why)}" for id, why in report.named)
        for report, verb, row in (
            (done.report, "to delete", "due row"),
            (done.rescued, "to free", "stale row"),
        )
        if report.blocked
    ]
    if refused:
        raise click.ClickException(f"the database refuses {'; and '.join(refused)}")
    if done.is_left() and not dry_run:
        ctx.exit(LEFT)


_PRINTED = ("expired", "failed", "deleted", "batches", "longest_batch", "left", "blocked")


class _Done:
    """The progress of a run, to print it once."""

    rescued = RescueReport()
    report = CleanupReport()
    freed: ReclaimReport | None = None
    has_ended = False

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self._as_json = as_json
        self._is_printed = quiet

    def note(self, report: CleanupReport) -> None:
        """Store the report of a run that continues."""
        self.report = replace(report, left=True)

    def is_left(self) -> bool:
        """Return whether the run ended with rows left."""
        return self.report.left or self.rescued.left

    def as_json(self) -> dict[str, object]:
        """Return the report with the keys that docs/reference/command.md lists."""
        report = self.report
        printed: dict[str, object] = {
            **{name: getattr(report, name) for name in (*_PRINTED, "dry_run")},
            "named": [
                {"id": id, "reason": why} for id, why in (*report.named, *self.rescued.named)
            ],
            "rescued": {n: getattr(self.rescued, n) for n in ("requeued", "failed", "blocked")},
        }
        return printed | ({"freed": self.freed.freed} if self.freed else {})

    def print(self) -> None:
        """Print the report once, also after an error if a row was deleted or freed."""
        pending, failed = self.rescued.requeued, self.rescued.failed
        if self._is_printed or not (self.has_ended or self.report.deleted or pending or failed):
            return
        self._is_printed = True
        if self._as_json:
            click.echo(json.dumps(self.as_json()))
            return
        if pending or failed:
            verb = "would free" if self.report.dry_run else "freed"
            click.echo(f"{verb} stale claims: {pending:,} to pending, {failed:,} to failed")
        click.echo(_line(self.report))


def _line(report: CleanupReport) -> str:
    if report.dry_run:
        return f"would delete {report.expired:,} expired, {report.failed:,} failed"
    line = f"deleted {report.expired:,} expired, {report.failed:,} failed"
    if report.batches:
        batches = counted(report.batches, "batch", "batches")
        line += f" in {batches}, the longest {report.longest_batch * 1000:.0f} ms"
    return line + ("; stopped with rows left" if report.left else "")
