"""Define the workers of other job queues on PostgreSQL: procrastinate and pgqueuer.

`claims` fills their queues and measures them. Each job has the payload of aicontent's rows.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from importlib.resources import files
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg
import peewee
import uvloop
from pgqueuer import AsyncpgDriver, Job, PgQueuer, Queries
from pgqueuer.queries import EntrypointExecutionParameter

from .claim_workers import Worker, payload

_BATCH = 10_000
_NAME = "lesson"
_IDLE = 1.0
"""Seconds without a job after which pgqueuer's queue is empty."""
_SLICE = 0.02
"""Seconds for which a process runs pgqueuer's event loop before it checks whether to stop."""


def add_jobs(url: str, pending: int) -> None:
    """Install both queues in an empty database, and enqueue jobs in each."""
    database = peewee.PostgresqlDatabase(url)
    schema = files("procrastinate").joinpath("sql/schema.sql").read_text("utf-8")
    with database.connection_context():
        cursor = database.cursor()
        cursor.execute(schema)
        cursor.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
            "SELECT 'default', %s, jsonb_build_object('topic', 'number ' || n, 'minutes', 15) "
            "FROM generate_series(0, %s) AS n",
            (_NAME, pending - 1),
        )
    asyncio.run(_enqueue(url, pending))


async def _enqueue(url: str, pending: int) -> None:
    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()  # its documentation recommends it
    for first in range(0, pending, _BATCH):
        numbers = range(first, min(first + _BATCH, pending))
        jobs: list[bytes | None] = [json.dumps(payload(number)).encode() for number in numbers]
        await queries.enqueue([_NAME] * len(jobs), jobs, [0] * len(jobs))
    await connection.close()


class ProcrastinateJobs(Worker):
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


class PgqueuerJobs(Worker):
    """Dequeue and complete pgqueuer's jobs one at a time, in batches of 1."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._loop = uvloop.new_event_loop()  # as `pgq run`
        self._driver = self._loop.run_until_complete(_connect(database))
        self._queries = Queries(self._driver)
        self._options: Any = {
            "batch_size": 1,
            "entrypoints": {_NAME: EntrypointExecutionParameter(concurrency_limit=0)},
            "queue_manager_id": uuid4(),
            "global_concurrency_limit": None,
            "heartbeat_timeout": timedelta(seconds=30),
        }

    def process(self) -> bool:
        return self._loop.run_until_complete(self._process())

    async def _process(self) -> bool:
        jobs = await self._queries.dequeue(**self._options)
        for job in jobs:
            json.loads(job.payload or b"")
            await self._queries.log_jobs([(job, "successful", None)])
        return bool(jobs)


class PgqueuerRun(Worker):
    """Let pgqueuer's `run()` dequeue, execute and complete jobs, in its batches of 10."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        self._loop = uvloop.new_event_loop()  # as `pgq run`
        self._queue = PgQueuer(self._loop.run_until_complete(_connect(database)))
        self._task: asyncio.Task[None] | None = None
        self._completed, self._last = 0, 0.0

        @self._queue.entrypoint(_NAME)
        async def lesson(job: Job) -> None:
            json.loads(job.payload or b"")
            self._completed, self._last = self._completed + 1, perf_counter()

    def process(self) -> bool:
        self._task = self._task or self._loop.create_task(self._queue.run())
        before, since = self._completed, perf_counter()
        while self._completed == before and perf_counter() - since < _IDLE:
            self._loop.run_until_complete(asyncio.sleep(_SLICE))
            if self._task.done():
                self._task.result()  # raises its error
        completed = self._completed - before
        self.count += max(0, completed - 1)  # step() counts one
        if not completed:
            self.end = self._last  # the wait that follows is not part of the time
        return completed > 0

    def result(self) -> dict[str, float]:
        result = super().result()
        self._queue.shutdown.set()
        if self._task is not None:
            self._loop.run_until_complete(self._task)
        return result


async def _connect(database: Any) -> AsyncpgDriver:
    return AsyncpgDriver(await asyncpg.connect(database.database))
