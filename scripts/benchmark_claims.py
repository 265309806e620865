"""Claims measured: how many are begun and completed a second, beside procrastinate on the same
PostgreSQL and beside the bare driver on SQLite, and whether finished rows make a difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.util import find_spec
from time import sleep

import peewee

import aicontent

from .benchmark_beside import beside
from .benchmark_cleanup import Line
from .benchmark_data import TABLE, USERS

_BATCH = 10_000


def measure(
    filled: str, empty: tuple[str, str], pending: int, workers: Sequence[int], seconds: float
) -> Iterator[Line]:
    """Measure on a database full of finished rows, and on two empty ones.

    Args:
        filled: one that benchmark_data has filled.
        empty: one for pending rows alone, one for the alternative.
        pending: how many rows are pending in each at first.
        workers: how many work at once, one number after the other.
        seconds: for how long each number of them is measured.
    """
    alone, other = empty
    is_sqlite = filled.startswith("sqlite")
    for url in (filled, alone):
        _fill(url, pending)
    if is_sqlite:
        _fill(other, pending)
        alternative = "the driver"
    else:
        alternative = "procrastinate" if _fill_procrastinate(other, pending) else ""
    for number in workers:
        ours = _rate("claim", alone, number, seconds)
        theirs = _rate(alternative, other, number, seconds) if alternative else 0.0
        among_finished = _rate("claim", filled, number, seconds)
        name = f"claimed a second by {number}"
        if alternative:
            ratio = f"{_ratio(ours, theirs)} of {alternative}'s"
            yield name, f"{ours:,.0f}", f"{theirs:,.0f}", ratio
        else:
            yield name, f"{ours:,.0f}", "not installed", "pip install procrastinate"
        ratio = f"{_ratio(among_finished, ours)} of without them"
        yield "  among finished rows", f"{among_finished:,.0f}", "", ratio


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.2f}" if other else "nothing was pending: none"


def _fill(url: str, pending: int) -> None:
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


def _fill_procrastinate(url: str, pending: int) -> bool:
    if find_spec("procrastinate") is None:
        return False
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
    return True


def _settle(database: peewee.Database) -> None:
    if isinstance(database, peewee.SqliteDatabase):
        database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    else:
        database.execute_sql("VACUUM ANALYZE")
        database.execute_sql("CHECKPOINT")


def _rate(kind: str, url: str, workers: int, seconds: float) -> float:
    with beside(kind, url, workers) as end:
        sleep(seconds)
        return sum(found["a_second"] for found in end())
