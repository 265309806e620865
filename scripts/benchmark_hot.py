"""The hot paths measured, beside the bare driver, plain Peewee and SQLAlchemy, interleaved."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import Any

import peewee

import aicontent
from aicontent import ContentType

from .benchmark_data import MADE_IN, START, TABLE, USERS, document, id_at
from .benchmark_orms import PlainPeewee, SQLAlchemy
from .benchmark_rivals import Driver, Ours, Rival, Values

OPERATIONS = ("first_reusable", "reuse", "create", "create_many")
LEVELS = ("A1", "A2", "B1", "B2", "C1")
ASKED = 1000
"""Different questions: of those who are served today, not of all whom the table knows."""
MANY = 500
"""Rows of one create_many."""
MADE_HERE = f"DELETE FROM {TABLE} WHERE id > '{id_at(random.Random(1), START + MADE_IN)}'"  # noqa: S311

Medians = dict[str, dict[str, float]]
"""Microseconds of a call (of create_many: of a row), by operation and by rival."""

Question = tuple[int, str, str | None]
"""A user, a type, and a level or none."""

Turn = Callable[[Rival, str], float]
"""Lets a rival do an operation some times, and returns the seconds of one."""


def measure(url: str, size: int, rounds: int, calls: int, of_one: int) -> Medians:
    """Measure all operations on a table that benchmark_data has filled.

    Args:
        url: the database.
        size: characters of a new row's document.
        rounds: how often each rival has its turn; the order is another each time.
        calls: calls of a turn.
        of_one: rows of one type that the one user has who has many.
    """
    database = aicontent.connect(url)
    with ExitStack() as stack:
        stack.enter_context(database.connection_context())
        everyone = _rivals(database, url, stack)
        chance = random.Random(5)  # noqa: S311 - the same questions at each run
        asked = questions(database, chance)
        made = list(new_rows(chance, size))
        reads, writes = _reads(chance, asked, calls), _writes(made, calls)
        found = {}
        for operation in OPERATIONS:
            turn = writes if operation.startswith("create") else reads
            turns = {rival.name: partial(turn, rival, operation) for rival in everyone}
            found[operation] = _medians(database, turns, rounds)
            database.execute_sql(MADE_HERE)
        found["reuse by one user of many rows"] = _of_one(
            database, everyone[0], asked, made, rounds, calls, of_one
        )
        database.execute_sql(MADE_HERE)
    return found


def _rivals(database: Any, url: str, stack: ExitStack) -> list[Rival]:
    """Everyone who can be had here, on a connection each; the module and the driver first."""
    everyone: list[Rival] = [Ours(database), Driver(database), PlainPeewee(database)]
    if find_spec("sqlalchemy"):
        everyone.append(SQLAlchemy(url))
    if database.for_update and find_spec("psycopg"):
        prepared = url.replace("postgresql://", "postgresql+psycopg://")
        for rival in (Ours, Driver):
            other = aicontent.connect(prepared)
            stack.enter_context(other.connection_context())
            everyone.append(rival(other, f"{rival.name}, prepared"))
    return everyone


def _medians(
    database: Any, turns: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, float]:
    """Return the microseconds of each, by its name, as medians of what its turns returned."""
    took: dict[str, list[float]] = {name: [] for name in turns}
    order = random.Random(7)  # noqa: S311
    for number in range(-2, rounds):
        # Shuffled, for it matters who went before: what another connection has written ends
        # SQLite's page cache, and the same rows once more find their index pages in it.
        for name in order.sample(list(turns), len(turns)):
            _settle(database)
            seconds = turns[name]()
            if number >= 0:  # the first two warm up
                took[name].append(seconds)
    return {name: statistics.median(each) * 1e6 for name, each in took.items()}


def _settle(database: Any) -> None:
    """Let each turn start with SQLite's log empty: none pays for what another has written."""
    if not database.for_update:
        database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _reads(chance: random.Random, asked: Sequence[Question], calls: int) -> Turn:
    def turn(rival: Rival, operation: str) -> float:
        call = getattr(rival, operation)
        now = chance.choices(asked, k=calls)
        began = time.perf_counter()
        for each in now:
            call(*each)
        return (time.perf_counter() - began) / calls

    return turn


def _writes(made: Sequence[Values], calls: int) -> Turn:
    def turn(rival: Rival, operation: str) -> float:
        now = made if operation == "create_many" else made[: 4 * calls]
        began = time.perf_counter()
        if operation == "create_many":
            rival.create_many(now)
        else:
            for values in now:
                rival.create(values)
        return (time.perf_counter() - began) / len(now)

    return turn


def _of_one(
    database: Any,
    ours: Rival,
    asked: Sequence[Question],
    made: Sequence[Values],
    rounds: int,
    calls: int,
    of_one: int,
) -> dict[str, float]:
    """Measure reuse() for a user who has many rows of one type, and for the others, in turns."""
    user, kind = USERS, ContentType.LESSON.value
    for _ in range(of_one // MANY):
        ours.create_many([{**values, "user": user, "type": kind} for values in made])
    if database.for_update:
        database.execute_sql(f"ANALYZE {TABLE}")  # as PostgreSQL does by itself a minute later
    chance = random.Random(6)  # noqa: S311
    mine = _reads(chance, [(user, kind, level) for level in (None, *LEVELS)], calls)
    others = _reads(chance, asked, calls)
    turns = {"others": partial(others, ours, "reuse"), "the one": partial(mine, ours, "reuse")}
    return _medians(database, turns, 2 * rounds)


def questions(database: peewee.Database, chance: random.Random) -> list[Question]:
    """Whom to serve with what, of which there is something; half of them name a level."""
    model = aicontent.for_database(database)
    asked: list[Question] = []
    while len(asked) < ASKED:
        near = id_at(chance, START + MADE_IN * chance.random())
        some = model.select(model.user, model.type, model.level, model.status)
        for row in some.where(model.id > near).order_by(model.id).limit(1):
            if row.status == "completed" and row.user_id != USERS:
                asked.append((row.user_id, row.type.value, chance.choice((row.level, None))))
    return asked


def new_rows(chance: random.Random, size: int) -> Iterator[Values]:
    """New content, as a service has it when its model has answered."""
    for _ in range(MANY):
        yield {
            "user": chance.randint(1, USERS - 1),
            "type": chance.choice(list(ContentType)).value,
            "level": chance.choice(LEVELS),
            "status": "completed",
            "request_payload": {"topic": "food", "minutes": 15},
            "generated_data": document(chance, size),
            "validation_results": {"valid": True, "checks": {"level": "ok", "length": "ok"}},
            "metadata": {"promptVersion": 3, "temperature": 0.7},
            "topics": ["food", "politeness"],
            "validation_score": 0.92,
            "token_usage": 1500,
            "generation_time_ms": 4200,
            "model_used": "benchmark",
        }


def table(found: Medians, of_one: int) -> Iterator[str]:
    """Return lines that show what was measured, with the ratios."""
    names = [name for name in found["reuse"] if name != "aicontent"]
    yield f"  {'':<20}{'aicontent':>11}" + "".join(f"{name:>26}" for name in names)
    for operation in OPERATIONS:
        took = found[operation]
        ours = took["aicontent"]
        others = (f"{took[name]:,.0f} ({took[name] / ours:.2f} x)" for name in names)
        yield f"  {operation:<20}{ours:>11,.0f}" + "".join(f"{each:>26}" for each in others)
    took = found["reuse by one user of many rows"]
    yield (
        f"  reuse() for a user with {of_one:,} rows of the type: {took['the one']:,.0f} µs, "
        f"{took['the one'] / took['others']:.2f} x what others take"
    )
