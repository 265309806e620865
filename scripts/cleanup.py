"""The `aicontent cleanup` command, which a systemd timer runs."""

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
from aicontent.generation.rescue import MAX_ATTEMPTS
from aicontent.maintenance.defaults import BATCH_SIZE, FAILED_AFTER
from aicontent.table import detected_model

from .options import (
    Duration,
    database_option,
    handled,
    max_attempts_option,
    open_database,
    output_options,
    wait_option,
)

LEFT = 3
"""The exit status of a run that its budget or a signal stopped, with rows left."""


@click.command(short_help="Delete expired and failed rows, and free stale claims.")
@database_option
@click.option("--dry-run", is_flag=True, help="Count the rows to delete, and change nothing.")
@click.option(
    "--failed-after",
    type=Duration(),
    default=FAILED_AFTER.total_seconds(),
    show_default=True,
    help="Seconds for which failed rows are kept, since they were created and last changed.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=BATCH_SIZE,
    show_default=True,
    help="The most rows of one transaction; batches shrink if they take long.",
)
@click.option("--max-rows", type=click.IntRange(min=0), help="Stop after so many rows.")
@click.option("--max-seconds", type=Duration(), help="Stop after so many seconds.")
@max_attempts_option
@wait_option
@click.option(
    "--reclaim", is_flag=True, help="Return the space to the file system afterwards; SQLite."
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
    """Delete expired rows, and rows that failed over 24 hours ago; free stale claims.

    Before it deletes, rows whose lease has run out become pending again, or failed if they used
    up their attempts.

    SIGTERM and SIGINT stop it after the running batch. The exit status is 0 when all is done, 1
    when it failed or the database refuses to delete some rows, 2 for a usage error, and 3 when
    it was stopped with rows left.
    """
    if reclaim and dry_run:
        raise click.UsageError("--dry-run and --reclaim exclude each other")
    database = open_database(url, wait=wait, reads=dry_run)
    if reclaim and not backend_of(database).can_reclaim:
        raise click.UsageError("--reclaim is for SQLite; PostgreSQL's autovacuum does it by itself")
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
    """What a run has done so far."""

    rescued = RescueReport()
    report = CleanupReport()
    freed: ReclaimReport | None = None
    has_ended = False

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self._as_json = as_json
        self._is_printed = quiet

    def note(self, report: CleanupReport) -> None:
        """Note the report of a run that goes on."""
        self.report = replace(report, left=True)

    def is_left(self) -> bool:
        """Tell whether the budget or a signal ended the run with rows left."""
        return self.report.left or self.rescued.left

    def as_json(self) -> dict[str, object]:
        """Return the report by the names that docs/reference/command.md lists."""
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
