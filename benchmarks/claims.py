"""Measure claims: rows claimed and completed per second, and whether finished rows slow them.

The alternative is procrastinate on PostgreSQL, and the driver alone on SQLite.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from time import perf_counter, sleep
from typing import Any

import peewee

import aicontent
from aicontent import AIGeneratedContent

from .processes import PAUSE, Load, concurrently
from .tables import TABLE, USERS, checkpoint

_BATCH = 10_000
_ROWS = 500
"""Rows of one call of `work()`."""


def measure(
    filled: str, empty: tuple[str, str], pending: int, workers: Sequence[int], seconds: float
) -> Iterator[tuple[str, str, str, str]]:
    """Measure on a database with many finished rows, and on two empty ones.

    Args:
        filled: the filled database.
        empty: two empty databases, one for pending rows only and one for the alternative.
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
    if filled.startswith("sqlite"):
        _add_pending(other, pending)
        alternative, name = DriverClaims, "the driver"
    else:
        _add_jobs(other, pending)
        alternative, name = ProcrastinateJobs, "procrastinate"
    for count in workers:
        ours = _rate(Claims, pending_only, count, seconds)
        theirs = _rate(alternative, other, count, seconds)
        with_finished = _rate(Claims, filled, count, seconds)
        ratio = f"{_ratio(ours, theirs)} of {name}"
        yield f"rows a second, workers: {count}", f"{ours:,.0f}", f"{theirs:,.0f}", ratio
        working = _rate(Working, pending_only, count, seconds)
        ratio = f"{_ratio(working, ours)} of claim() and complete()"
        yield "  with work()", f"{working:,.0f}", f"{ours:,.0f}", ratio
        ratio = f"{_ratio(with_finished, ours)} of pending rows only"
        yield "  with finished rows", f"{with_finished:,.0f}", "", ratio


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
            model.create_many(
                {
                    "user": number % USERS + 1,
                    "type": "lesson",
                    "request_payload": {"topic": f"number {number}", "minutes": 15},
                    "fingerprint": f"{number:064x}",
                }
                for number in range(first, min(first + _BATCH, pending))
            )
        _settle(database)


def _add_jobs(url: str, pending: int) -> None:
    database = peewee.PostgresqlDatabase(url)
    schema = files("procrastinate").joinpath("sql/schema.sql").read_text("utf-8")
    with database.connection_context():
        cursor = database.cursor()
        cursor.execute(schema)
        cursor.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
            "SELECT 'default', 'lesson', jsonb_build_object('topic', 'number ' || n) "
            "FROM generate_series(1, %s) AS n",
            (pending,),
        )
        _settle(database)


def _settle(database: peewee.Database) -> None:
    """Finish PostgreSQL's and SQLite's deferred work before the measurement."""
    checkpoint(database)
    if isinstance(database, peewee.PostgresqlDatabase):
        database.execute_sql("VACUUM ANALYZE")
        database.execute_sql("CHECKPOINT")


class _Worker:
    """Process rows as fast as possible, and count them until none is pending."""

    def __init__(self, database: peewee.Database) -> None:
        self._count, self._start, self._end = 0, 0.0, 0.0

    def process(self) -> bool:
        """Claim and complete a row; return False if none is pending."""
        raise NotImplementedError

    def step(self) -> None:
        self._start = self._start or perf_counter()
        if not self._end and self.process():
            self._count += 1
        else:
            self._end = self._end or perf_counter()
            sleep(PAUSE)

    def result(self) -> dict[str, float]:
        return {"a_second": self._count / ((self._end or perf_counter()) - self._start)}


class Claims(_Worker):
    """Claim and complete content with aicontent."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._model = aicontent.for_database(database)

    def process(self) -> bool:
        content = self._model.claim()
        if content is not None:
            content.complete({"title": "done"})
        return content is not None


class Working(_Worker):
    """Let `work()` claim, generate without delay, and complete."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._model = aicontent.for_database(database)

    def process(self) -> bool:
        looks = iter([False] * _ROWS)
        report = self._model.work(
            lambda content: {"title": "done"}, until_empty=True, stop=lambda: next(looks, True)
        )
        self._count += max(0, report.completed - 1)  # step() counts one
        return report.completed > 0


class DriverClaims(_Worker):
    """Claim and complete content with SQLite's driver alone, using the same statements."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._connection: Any = database.connection()
        names = list(AIGeneratedContent._meta.columns)
        columns = ", ".join(f'"{name}"' for name in names)
        self._payload = names.index("requestPayload")
        now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
        lease = "strftime('%Y-%m-%d %H:%M:%f000', 'now', '+300.000 seconds')"
        self._claim = f"""
            UPDATE {TABLE} SET status = 'generating', attempts = attempts + 1,
                "updatedAt" = {now}, "leaseExpiresAt" = {lease}
            WHERE id = (
                SELECT id FROM {TABLE} WHERE status = 'pending' AND "retryAt" IS NULL
                ORDER BY "createdAt", id LIMIT 1
            ) AND status = 'pending' RETURNING {columns}
        """
        self._complete = f"""
            UPDATE {TABLE} SET status = 'completed', "generatedData" = ?,
                "leaseExpiresAt" = NULL, "updatedAt" = {now}
            WHERE id = ? AND status IN ('pending', 'generating', 'failed') RETURNING "updatedAt"
        """

    def process(self) -> bool:
        rows = self._connection.execute(self._claim).fetchall()
        for row in rows:
            json.loads(row[self._payload])
            parameters = ('{"title":"done"}', row[0])
            self._connection.execute(self._complete, parameters).fetchall()
        return bool(rows)


class ProcrastinateJobs(_Worker):
    """Fetch and finish jobs with procrastinate's SQL functions."""

    _FETCH = (
        "SELECT id, status, task_name, priority, lock, queueing_lock, args, scheduled_at, "
        "queue_name, attempts, worker_id FROM procrastinate_fetch_job_v2(NULL, NULL)"
    )
    _FINISH = "SELECT procrastinate_finish_job_v1(%s, 'succeeded', false)"

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._cursor: Any = database.connection().cursor()

    def process(self) -> bool:
        self._cursor.execute(self._FETCH)
        (job, *_) = self._cursor.fetchone()
        if job is not None:
            self._cursor.execute(self._FINISH, (job,))
        return job is not None
