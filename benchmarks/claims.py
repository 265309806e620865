"""Measure claims: rows claimed and completed per second, and whether finished rows slow them.

The alternatives are procrastinate and pgqueuer on PostgreSQL, and the driver alone on SQLite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import sleep

import peewee

import aicontent

from . import job_queues
from .claim_workers import Claims, DriverClaims, Working, pending_rows
from .processes import Load, concurrently
from .tables import TABLE, USERS, settle

_BATCH = 10_000


def measure(
    filled: str, empty: tuple[str, str], pending: int, workers: Sequence[int], seconds: float
) -> Iterator[tuple[str, str, str, str]]:
    """Measure on a database with many finished rows, and on two empty ones.

    Args:
        filled: the filled database.
        empty: two empty databases, one for pending rows only and one for the alternatives.
        pending: the number of pending rows in each database at the start.
        workers: the numbers of concurrent workers to measure.
        seconds: how long each number of workers is measured.

    Yields:
        The name, the figure of aicontent, that of the alternative, and the ratio.
    """
    pending_only, other = empty
    for url in (filled, pending_only):
        _add_pending(url, pending)
    alternative: type[Load]
    is_sqlite = filled.startswith("sqlite")
    if is_sqlite:
        _add_pending(other, pending)
        alternative, name = DriverClaims, "the driver"
    else:
        job_queues.add_jobs(other, pending)
        database = peewee.PostgresqlDatabase(other)
        with database.connection_context():
            settle(database)
        alternative, name = job_queues.ProcrastinateJobs, "procrastinate"
    for count in workers:
        ours = _rate(Claims, pending_only, count, seconds)
        theirs = _rate(alternative, other, count, seconds)
        with_finished = _rate(Claims, filled, count, seconds)
        ratio = f"{_ratio(ours, theirs)} of {name}"
        yield f"rows a second, workers: {count}", f"{ours:,.0f}", f"{theirs:,.0f}", ratio
        working = _rate(Working, pending_only, count, seconds)
        ratio = f"{_ratio(working, ours)} of claim() and complete()"
        yield "  with work()", f"{working:,.0f}", f"{ours:,.0f}", ratio
        if not is_sqlite:
            yield from _against_pgqueuer(pending_only, other, count, seconds, ours, working)
        ratio = f"{_ratio(with_finished, ours)} of pending rows only"
        yield "  with finished rows", f"{with_finished:,.0f}", "", ratio


def _against_pgqueuer(
    url: str, other: str, workers: int, seconds: float, ours: float, working: float
) -> Iterator[tuple[str, str, str, str]]:
    """Compare claims, claims on a driver that prepares statements, and `work()` with pgqueuer."""
    theirs = _rate(job_queues.PgqueuerJobs, other, workers, seconds)
    ratio = f"{_ratio(ours, theirs)} of pgqueuer, which dequeues batches: here of 1"
    yield "  against pgqueuer", f"{ours:,.0f}", f"{theirs:,.0f}", ratio
    prepared_url = url.replace("postgresql://", "postgresql+psycopg://")
    prepared = _rate(Claims, prepared_url, workers, seconds)
    ratio = f"{_ratio(prepared, theirs)} of pgqueuer, which prepares statements too"
    yield "  prepared, with psycopg 3", f"{prepared:,.0f}", f"{theirs:,.0f}", ratio
    running = _rate(job_queues.PgqueuerRun, other, workers, seconds)
    ratio = f"{_ratio(working, running)} of pgqueuer's run(), in batches of 10"
    yield "  work() against run()", f"{working:,.0f}", f"{running:,.0f}", ratio


def _ratio(rate: float, reference: float) -> str:
    return f"{rate / reference:.2f}" if reference else "no row was pending"


def _rate(load: type[Load], url: str, workers: int, seconds: float) -> float:
    with concurrently(load, url, workers) as stop:
        sleep(seconds)
        return sum(result["a_second"] for result in stop())


def _add_pending(url: str, pending: int) -> None:
    database = aicontent.connect(url, timeout=60)
    aicontent.migrate(database, create_users=True)
    model = aicontent.for_database(database)
    with database.connection_context():
        users = model.user.rel_model
        if not users.select().exists():
            users.insert_many([(n + 1,) for n in range(USERS)], [users.id]).execute()
        database.execute_sql(f"UPDATE {TABLE} SET status = 'cached' WHERE status = 'pending'")
        for first in range(0, pending, _BATCH):
            model.create_many(pending_rows(first, min(first + _BATCH, pending)))
        settle(database)
