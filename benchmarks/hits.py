"""Store answered requests, and measure calls that find them.

`hot_paths` measures them as the hits of `get_or_generate()`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import peewee

import aicontent

from .contestants import Contestant, Values
from .requests import Request
from .tables import TABLE

HITS = {"get_or_generate hit": "hit", "get_or_generate hit, mark=False": "unmarked_hit"}
"""The contestants' methods for a stored answer, by the name of the operation."""

_REQUESTS = 1_000


def store_answers(
    database: peewee.Database, contestant: Contestant, rows: Sequence[Values]
) -> list[Request]:
    """Store the answers to different requests, and return the requests.

    Args:
        database: the database, for its statistics.
        contestant: inserts the answers.
        rows: the other values of the inserted rows, which are used in turns.
    """
    requests, answers = [], []
    for number in range(_REQUESTS):
        values = rows[number % len(rows)]
        request = Request(
            values["user"],
            values["type"],
            {"topic": f"topic {number}", "minutes": 15},
            values["level"],
        )
        fingerprint = aicontent.fingerprint(request.type, request.payload, request.level)
        answers.append({**values, "request_payload": request.payload, "fingerprint": fingerprint})
        requests.append(request)
    contestant.create_many(answers)
    analyze(database)
    return requests


def analyze(database: peewee.Database) -> None:
    """Update PostgreSQL's statistics, as its autovacuum would within a minute."""
    if isinstance(database, peewee.PostgresqlDatabase):
        database.execute_sql(f"ANALYZE {TABLE}")


def turn_of_hits(
    rng: random.Random, requests: Sequence[Request], calls: int
) -> Callable[[Contestant, str], float]:
    """Return a function that calls a contestant's method for random requests."""

    def turn(contestant: Contestant, method: str) -> float:
        call = getattr(contestant, method)
        chosen = rng.choices(requests, k=calls)
        start = time.perf_counter()
        answers = [call(request) for request in chosen]
        seconds = time.perf_counter() - start
        if None in answers:
            raise LookupError(f"{contestant.name} does not find a stored answer")
        return seconds / calls

    return turn
