"""Measure the calls that serve or store content against the alternatives.

`run` calls this module for each size of the table. The contestants take turns in random order.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import peewee

import aicontent
from aicontent import ContentType

from .contestants import AIContent, Contestant, Driver, Values
from .hits import HITS, analyze, store_answers, turn_of_hits
from .orms import PlainPeewee, SQLAlchemy
from .tables import LEVELS, PERIOD, START, TABLE, USERS, checkpoint, generate_document, uuid7_at

READS = ("first_reusable", "reuse")
WRITES = ("create", "create_many")
OPERATIONS = (*READS, *HITS, *WRITES)
LARGE_USER = "reuse by a user with many rows"
LOOKUPS = 1_000
"""Different lookups of a run. A service looks up for today's users, not for all users."""
BULK_ROWS = 500
"""Rows of one call of create_many()."""
DELETE_NEW_ROWS = f"DELETE FROM {TABLE} WHERE id > '{uuid7_at(random.Random(1), START + PERIOD)}'"
"""SQL that deletes the rows of a measurement. Only their ids are later than PERIOD."""

Medians = dict[str, dict[str, float]]
"""Microseconds per call (of create_many: per row) by operation and contestant."""

Lookup = tuple[int, str, str | None]
"""The user, type and level to find content for."""

Turn = Callable[[Contestant, str], float]
"""A function that calls a contestant's method often, and returns the seconds per call."""


def measure(url: str, characters: int, rounds: int, calls: int, large_user_rows: int) -> Medians:
    """Measure all operations on a filled table.

    Args:
        url: the database.
        characters: the size of a new row's document.
        rounds: the number of turns of each contestant.
        calls: the number of calls in a turn.
        large_user_rows: the number of rows of one type that the large user has.
    """
    database = aicontent.connect(url)
    with ExitStack() as stack:
        stack.enter_context(database.connection_context())
        contestants = _contestants(database, url, stack)
        rng = random.Random(5)
        lookups = choose_lookups(database, rng)
        new_rows = list(generate_new_rows(rng, characters))
        reads, writes = _reads(rng, lookups, calls), _writes(new_rows, calls)
        medians = {}

        def measure_operation(operation: str, turn: Turn, method: str) -> None:
            turns = {each.name: partial(turn, each, method) for each in contestants}
            medians[operation] = medians_of(turns, rounds, database)

        for operation in READS:
            measure_operation(operation, reads, operation)
        requests = store_answers(database, contestants[0], new_rows)
        hits = turn_of_hits(rng, requests, calls)
        for operation, method in HITS.items():
            measure_operation(operation, hits, method)
        database.execute_sql(DELETE_NEW_ROWS)
        for operation in WRITES:
            measure_operation(operation, writes, operation)
            database.execute_sql(DELETE_NEW_ROWS)
        medians[LARGE_USER] = _large_user(
            database, contestants[0], lookups, new_rows, rounds, calls, large_user_rows
        )
        database.execute_sql(DELETE_NEW_ROWS)
    return medians


def _contestants(database: Any, url: str, stack: ExitStack) -> list[Contestant]:
    contestants: list[Contestant] = [
        AIContent(database),
        Driver(database),
        PlainPeewee(database),
        SQLAlchemy(url),
    ]
    if isinstance(database, peewee.PostgresqlDatabase):
        prepared_url = url.replace("postgresql://", "postgresql+psycopg://")
        for contestant in (AIContent, Driver):
            prepared = aicontent.connect(prepared_url)
            stack.enter_context(prepared.connection_context())
            contestants.append(contestant(prepared, f"{contestant.name}, prepared"))
    return contestants


def medians_of(
    turns: Mapping[str, Callable[[], float]],
    rounds: int,
    database: peewee.Database | None = None,
) -> dict[str, float]:
    """Return the median microseconds of each contestant's turns, by its name.

    Args:
        turns: functions that call a contestant often, and return the seconds per call.
        rounds: the number of turns of each contestant.
        database: the database that all contestants share, if there is one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    order = random.Random(7)
    for number in range(-2, rounds):
        # The order matters, so it is random: a write on another connection empties SQLite's page
        # cache, and a read of the same rows loads their index pages into it.
        for name in order.sample(list(turns), len(turns)):
            if database is not None:
                # The checkpoint is not timed, so no contestant pays for another's writes.
                checkpoint(database)
            per_call = turns[name]()
            if number >= 0:  # the first two rounds warm up
                seconds[name].append(per_call)
    return {name: statistics.median(each) * 1e6 for name, each in seconds.items()}


def _reads(rng: random.Random, lookups: Sequence[Lookup], calls: int) -> Turn:
    def turn(contestant: Contestant, operation: str) -> float:
        call = getattr(contestant, operation)
        chosen = rng.choices(lookups, k=calls)
        start = time.perf_counter()
        for lookup in chosen:
            call(*lookup)
        return (time.perf_counter() - start) / calls

    return turn


def _writes(new_rows: Sequence[Values], calls: int) -> Turn:
    def turn(contestant: Contestant, operation: str) -> float:
        rows = new_rows if operation == "create_many" else new_rows[: 4 * calls]
        start = time.perf_counter()
        if operation == "create_many":
            contestant.create_many(rows)
        else:
            for values in rows:
                contestant.create(values)
        return (time.perf_counter() - start) / len(rows)

    return turn


def _large_user(
    database: peewee.Database,
    contestant: Contestant,
    lookups: Sequence[Lookup],
    new_rows: Sequence[Values],
    rounds: int,
    calls: int,
    rows: int,
) -> dict[str, float]:
    """Measure reuse() for a user who has many rows of one type, in turns with other users."""
    user, type = USERS, ContentType.LESSON.value
    for _ in range(rows // BULK_ROWS):
        contestant.create_many([{**values, "user": user, "type": type} for values in new_rows])
    analyze(database)
    rng = random.Random(6)
    of_user = _reads(rng, [(user, type, level) for level in (None, *LEVELS)], calls)
    of_others = _reads(rng, lookups, calls)
    turns = {
        "others": partial(of_others, contestant, "reuse"),
        "large user": partial(of_user, contestant, "reuse"),
    }
    return medians_of(turns, 2 * rounds, database)


def choose_lookups(database: peewee.Database, rng: random.Random) -> list[Lookup]:
    """Choose lookups that find content. Half of them have a level."""
    model = aicontent.for_database(database)
    lookups: list[Lookup] = []
    while len(lookups) < LOOKUPS:
        random_id = uuid7_at(rng, START + PERIOD * rng.random())
        columns = model.select(model.user, model.type, model.level, model.status)
        for row in columns.where(model.id > random_id).order_by(model.id).limit(1):
            if row.status == "completed" and row.user_id != USERS:
                level = rng.choice((row.level, None))
                lookups.append((row.user_id, row.type.value, level))
    return lookups


def generate_new_rows(rng: random.Random, characters: int) -> Iterator[Values]:
    """Generate rows as a service stores them after its model has answered."""
    for _ in range(BULK_ROWS):
        yield {
            "user": rng.randint(1, USERS - 1),
            "type": rng.choice(list(ContentType)).value,
            "level": rng.choice(LEVELS),
            "status": "completed",
            "request_payload": {"topic": "food", "minutes": 15},
            "generated_data": generate_document(rng, characters),
            "validation_results": {"valid": True, "checks": {"level": "ok", "length": "ok"}},
            "metadata": {"promptVersion": 3, "temperature": 0.7},
            "topics": ["food", "politeness"],
            "validation_score": 0.92,
            "token_usage": 1500,
            "generation_time_ms": 4200,
            "model_used": "benchmark",
        }


def table(medians: Medians, large_user_rows: int) -> Iterator[str]:
    """Format the medians, and their ratios to aicontent, as lines of text."""
    names = [name for name in medians["reuse"] if name != "aicontent"]
    yield f"  {'':<32}{'aicontent':>11}" + "".join(f"{name:>26}" for name in names)
    for operation in OPERATIONS:
        each = medians[operation]
        ours = each["aicontent"]
        others = (f"{each[name]:,.0f} ({each[name] / ours:.2f} x)" for name in names)
        yield f"  {operation:<32}{ours:>11,.0f}" + "".join(f"{other:>26}" for other in others)
    each = medians[LARGE_USER]
    yield (
        f"  reuse() for a user with {large_user_rows:,} rows of the type: "
        f"{each['large user']:,.0f} µs, {each['large user'] / each['others']:.2f} x other users"
    )
