"""Check every state that the protocol of claims can reach, with a breadth-first search.

The search covers the rows of one request. A step is one operation of a worker, a caller or another
program on these rows. A state holds only facts that a later step can read: whether each time is
past, whether a claim's attempt is the row's last one, whether the row has an answer, and which rows
the workers have claimed. The number of states is therefore finite.

A step enters a new row only while no other row is in flight or answered, and while there are fewer
than `rows` rows. Requests end (`expires_at`) only in a world that is `ending`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import peewee
import pytest

import aicontent
from aicontent.database.statement import Computed, slot
from aicontent.generation import claims, completion, holder
from aicontent.generation.requests import attributes_of, enter
from aicontent.records.loading import load
from aicontent.table import TABLE

HOUR = timedelta(hours=1)
LONG = bool(os.environ.get("AICONTENT_LONG_TESTS"))
LEASE = HOUR.total_seconds()
MAX_ATTEMPTS = 2
REQUEST = ("lesson", {"topic": "café"})
PAST, LATER = "2020-01-01 00:00:00.000000", "2099-01-01 00:00:00.000000"
MOMENTS = {None: None, "past": PAST, "later": LATER}
IN_FLIGHT = ("pending", "generating")
GONE = -1
"""The place of a deleted row."""


class Row(NamedTuple):
    """The fields of a row that later steps can read; its times are None, "past" or "later"."""

    status: str
    attempts: int = 0
    failures: int = 0
    lease: str | None = None
    retry: str | None = None
    ends: str | None = None
    queued: int = 1
    answer: int | None = None

    @property
    def is_running(self):
        return self.status == "generating" and self.lease == "later"


@dataclass(frozen=True, order=True)
class Claim:
    """A worker's copy of the row that it claimed, and the place of that row."""

    place: int
    attempts: int = 0
    failures: int = 0
    ends: bool = False

    def is_held(self, rows):
        row = rows[self.place] if self.place != GONE else Row("gone")
        is_same = (row.status, row.attempts) == ("generating", self.attempts)
        return is_same and row.lease is not None


class State(NamedTuple):
    """The rows, oldest first, and the workers' claims."""

    rows: tuple[Row, ...] = ()
    claims: tuple[Claim, ...] = ()


class Result(NamedTuple):
    """The rows after a step, their former places, the worker's claim, and whether it was lost."""

    rows: tuple[Row, ...]
    places: tuple[int, ...]
    claim: Claim | None
    is_told: bool


class BrokenRuleError(AssertionError):
    """A step broke a rule."""


def check(holds, rule):
    if not holds:
        raise BrokenRuleError(rule)


BY_HOLDER = {
    "complete": lambda content: content.complete({"number": 2}),
    "fail": lambda content: content.fail("no"),
    "retry": lambda content: content.fail("no", retry=True),
    "retry later": lambda content: content.fail("no", retry=True, delay=HOUR),
    "release": lambda content: content.release(),
    "extend": lambda content: content.extend_lease(LEASE),
    "be lost": lambda content: None,
}
"""Steps of a worker that claimed a row, even if it has lost the claim since."""


def enter_claimed(world, _):
    claim = claims.attributes_of_claim(LEASE, MAX_ATTEMPTS)
    content, is_new = enter(world.Content, world.attributes, **claim)
    return content if is_new else None


BY_FREE = {
    "claim": lambda world, _: world.Content.claim(lease=LEASE, max_attempts=MAX_ATTEMPTS),
    "take over": lambda world, place: claims.claim_row(
        world.Content, str(place), world.user, LEASE, MAX_ATTEMPTS
    ),
    "enter": enter_claimed,
}
"""Steps with which workers and callers claim a row; each returns the claimed row or None."""


def request(world, **values):
    world.Content.request(world.user, *REQUEST, **values)


BY_ALL = {
    "request": lambda world: request(world),
    "request that ends": lambda world: request(world, expires_at=datetime.now(UTC) + HOUR),
    "rescue": lambda world: world.Content.rescue_stale(MAX_ATTEMPTS),
    "cleanup": lambda world: world.Content.cleanup(failed_after=timedelta(0)),
    "requeue": lambda world: world.Content.requeue(),
    "requeue generating": lambda world: world.Content.requeue(status="generating"),
}

CHANGES = {
    "lease runs out": {"leaseExpiresAt": PAST},
    "retry is due": {"retryAt": PAST},
    "end passes": {"expiresAt": PAST},
    "other begins": {"status": "generating", "leaseExpiresAt": None},
    "other fails": {"status": "failed"},
}
"""Changes made by time, or by another program that sets no leases."""

SURE = {"claim", "complete", "be lost", "lease runs out", "retry is due", "rescue", "cleanup"}
SURE |= {"requeue generating"}
"""Steps that happen even if no caller asks again and every worker with a claim is lost."""


@dataclass
class World:
    """A database, and the steps that run on it."""

    rows: int
    workers: int
    ending: bool
    results: dict[Any, Result] = field(default_factory=dict)

    def __post_init__(self):
        self.database = peewee.SqliteDatabase(":memory:", pragmas={"foreign_keys": 1})
        self.database.connect()
        aicontent.migrate(self.database, create_users=True)
        self.Content = aicontent.for_database(self.database)  # no statements are built yet
        self.user = self.Content.user.rel_model.create().id
        self.sql = self.database.connection().execute
        self.attributes = attributes_of(self.Content, self.user, *REQUEST, None, None, {})

    def steps(self, state):
        """Yield each possible step: its name, and the claim or the place that it acts on."""
        rows = state.rows
        in_flight = [place for place, row in enumerate(rows) if row.status in IN_FLIGHT]
        has_room = len(rows) < self.rows and all(row.status == "failed" for row in rows)
        may_ask = bool(in_flight) or has_room
        may = {"request": may_ask, "request that ends": may_ask and self.ending, "enter": may_ask}
        yield from ((name, None) for name in BY_ALL if may.get(name, True))
        if len(state.claims) < self.workers:
            yield from ((name, None) for name in ("claim", "enter") if may.get(name, True))
            yield from (("take over", place) for place in in_flight)
        yield from ((name, claim) for claim in sorted(set(state.claims)) for name in BY_HOLDER)
        for place, row in enumerate(rows):
            possible = {
                "lease runs out": row.is_running,
                "retry is due": row.retry == "later",
                "end passes": row.ends == "later",
            }
            yield from ((n, place) for n in CHANGES if possible.get(n, place in in_flight))

    def take(self, state, name, what):
        """Return the state after a step."""
        # A step depends only on the rows and its own claim, so other claims are not in the key.
        key = (state.rows, name, what)
        if key not in self.results:
            self.results[key] = self.execute(*key)
        result, others = self.results[key], list(state.claims)
        if name in BY_HOLDER:
            others.remove(what)
        moved = {old: new for new, old in enumerate(result.places)}
        kept = [replace(claim, place=moved.get(claim.place, GONE)) for claim in others]
        return normal(result.rows, [*kept, result.claim] if result.claim else kept)

    def execute(self, rows, name, what):
        """Execute a step on these rows, and check the rules."""
        self.restore(rows)
        everything, claimed, is_told = self.select("*"), None, False
        if name in BY_FREE:
            claimed = BY_FREE[name](self, what)
        elif name in BY_ALL:
            BY_ALL[name](self)
        elif name in CHANGES:
            columns = ", ".join(f"{column} = ?" for column in CHANGES[name])
            change = f"UPDATE {TABLE} SET {columns} WHERE id = ?"
            self.sql(change, (*CHANGES[name].values(), str(what)))
        else:
            try:
                BY_HOLDER[name](self.content(what))
            except aicontent.LeaseLostError:
                is_told = True
        is_same, ids = everything == self.select("*"), [id for (id,) in self.select("id")]
        claim = what if name == "extend" else None
        if claimed:
            known = (claimed.attempts, claimed.failures or 0, claimed.expires_at is not None)
            claim = Claim(ids.index(claimed.id), *known)
        places = tuple(int(id) if id.isdecimal() else len(rows) for id in ids)
        result = Result(self.stored(), places, claim, is_told)
        if name in BY_HOLDER:
            check_holder(name, what, rows, result, is_same)
        elif name in BY_FREE:
            check_claim(name, rows, result, is_same)
        check_rows(name, what, rows, result)
        return result

    def restore(self, rows):
        self.sql(f"DELETE FROM {TABLE}")
        for place, row in enumerate(rows):
            made = f"2020-01-0{place + 1} 00:00:00.000000"
            document = row.answer and f'{{"number":{row.answer}}}'
            moments = [MOMENTS[moment] for moment in (row.lease, row.retry, row.ends)]
            request = (str(place), self.user, "lesson", "{}", self.attributes["fingerprint"])
            values = (*request, *row[:3], *moments, row.queued, document, made, made)
            self.sql(
                f"INSERT INTO {TABLE} (id, userId, type, requestPayload, fingerprint, status, "
                "attempts, failures, leaseExpiresAt, retryAt, expiresAt, queued, generatedData, "
                f"createdAt, updatedAt) VALUES ({', '.join('?' * len(values))})",
                values,
            )

    def select(self, columns):
        return self.sql(f"SELECT {columns} FROM {TABLE} ORDER BY createdAt, id").fetchall()

    def stored(self):
        now = f"{datetime.now(UTC) + HOUR / 2:%Y-%m-%d %H:%M}"
        moments = ", ".join(
            f"CASE WHEN {column} > '{now}' THEN 'later' WHEN {column} IS NOT NULL THEN 'past' END"
            for column in ("leaseExpiresAt", "retryAt", "expiresAt")
        )
        columns = f"status, attempts, failures, {moments}, queued, generatedData ->> '$.number'"
        return tuple(Row(*values) for values in self.select(columns))

    def content(self, claim):
        """Return the instance that a worker holds for its claim."""
        data = {"id": str(claim.place), "user": self.user, "type": "lesson", "metadata": None}
        data |= {"status": "generating", "attempts": claim.attempts, "failures": claim.failures}
        data |= {"max_attempts": MAX_ATTEMPTS, "lease_expires_at": datetime.now(UTC)}
        data |= {"expires_at": datetime.now(UTC) if claim.ends else None}
        return load(self.Content, data)


def check_holder(name, claim, rows, result, is_same):
    row = Row("gone") if claim.place == GONE else rows[claim.place]
    is_held = claim.is_held(rows)
    check(is_same or not result.is_told, "who is told that the row is lost changes nothing")
    if name == "complete":
        is_lost = row.status in ("gone", "completed")
        check(result.is_told == is_lost, "an answer is stored, unless there is one or no row")
        check(is_lost or result.rows[claim.place].answer == 2, "it is this answer")
    elif name == "be lost":
        check(is_held or is_same, "who has lost the row changes nothing")
    else:
        check(result.is_told != is_held, "who has lost the row is told, and nobody else")
        if is_held and name != "extend":
            now = result.rows[claim.place]
            check(now.failures == row.failures + (name != "release"), "a release is no failure")
            is_over = name == "fail" or (name != "release" and now.failures >= MAX_ATTEMPTS)
            check(now.status == ("failed" if is_over else "pending"), "it is retried or failed")
            is_later = name == "retry later" and not is_over
            check(now.retry == ("later" if is_later else None), "it is due after the delay")


def check_claim(name, rows, result, is_same):
    claim, pending = result.claim, [row for row in rows if row.status == "pending"]
    due = [row for row in pending if row.retry != "later" and row.ends != "past"]
    if claim is None:
        check(is_same and (name != "claim" or not due), "whatever is due is claimed")
        return
    row = Row("pending") if name == "enter" else rows[claim.place]
    check(name != "claim" or row in due, "only what is due is claimed")
    check(row.status == "pending", "only pending rows are claimed")
    check(claim.attempts == row.attempts + 1, "each claim has a number of its own")
    is_held = claim.is_held(result.rows) and result.rows[claim.place].is_running
    check(is_held, "who claims a row holds it")


def check_rows(name, what, rows, result):
    """Check the rules that hold for each row after any step."""
    after = dict(zip(result.places, result.rows, strict=True))
    for place, row in enumerate(rows):
        is_own = name in BY_HOLDER and what.place == place and what.is_held(rows)
        now = after.get(place)
        if now is None:
            is_due = name == "cleanup" and (row.ends == "past" or row.status == "failed")
            check(is_due, "a row is deleted when it is due")
            check(is_own or not row.is_running, "no cleanup deletes a row whose lease runs")
            continue
        check(now.attempts >= row.attempts, "attempts never go down")
        check(row.answer in (None, now.answer), "a stored answer stays as it is")
        if row.is_running and not is_own and name != "complete" and name not in CHANGES:
            is_asked = name.startswith("request") or name == "enter"
            joined = row._replace(ends=now.ends, queued=now.queued) if is_asked else row
            check(now == joined, "a row whose lease runs is its holder's")
    statuses = [row.status for row in result.rows]
    check(sum(status in IN_FLIGHT for status in statuses) <= 1, "one row is in flight")
    answered = [row.answer is not None for row in result.rows]
    check(answered == [status == "completed" for status in statuses], "completed is answered")


def normal(rows, held):
    """Return the state without details that no later step can read."""

    def of_row(row):
        row = row._replace(attempts=1, answer=row.answer and 1)
        if row.status != "generating":  # a lease counts only while the row is generating
            row = row._replace(lease=row.lease and "later")
        # A finished row can only be requeued, and requeue() sets these fields.
        is_over = row.status not in IN_FLIGHT
        return row._replace(failures=0, retry=None, queued=1) if is_over else row

    def of_claim(claim):
        if claim.place == GONE:
            return Claim(GONE)
        # Attempts never go down, so an old attempt stays old.
        is_last = claim.attempts == rows[claim.place].attempts
        return replace(claim, attempts=int(is_last), failures=claim.failures if is_last else 0)

    return State(tuple(map(of_row, rows)), tuple(sorted(map(of_claim, held))))


def search(world):
    """Visit every state, the nearest first, and return the number of states.

    Raises:
        BrokenRuleError: a step broke a rule; the message names a shortest path to the step.
    """
    start = State()
    ways, before, queue = {start: ()}, {start: set()}, deque([start])
    while queue:
        state = queue.popleft()
        for name, what in world.steps(state):
            way = (*ways[state], name)
            try:
                following = world.take(state, name, what)
            except BrokenRuleError as broken:
                raise BrokenRuleError(f"{broken}: {', '.join(way)}") from None
            if following not in ways:
                ways[following], before[following] = way, set()
                queue.append(following)
            if name in SURE:
                before[following].add(state)
    ends = [s for s in ways if all(row.status not in IN_FLIGHT for row in s.rows)]
    ending = set(ends)
    while ends:
        found = before[ends.pop()] - ending
        ending |= found
        ends += found
    for state, way in ways.items():
        check(state in ending, f"each state has a way to an answer or an end: {', '.join(way)}")
    return len(ways)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Silence the generation log, because pytest would keep thousands of records."""
    caplog.set_level(logging.CRITICAL, "aicontent.generation")


@pytest.mark.parametrize(
    "world",
    [
        pytest.param({"rows": 1, "workers": 3, "ending": True}, id="one row"),
        pytest.param({"rows": 2, "workers": 3 if LONG else 2, "ending": False}, id="two rows"),
    ],
)
def test_every_state(world):
    print(search(World(**world)), "states")


def without_attempt(model):
    return (model.status == "generating") & model.lease_expires_at.is_null(False)


def without_status(model):
    return (model.attempts == slot(":attempt")) & model.lease_expires_at.is_null(False)


def without_lease(model):
    return (model.status == "generating") & (model.attempts == slot(":attempt"))


@pytest.mark.parametrize(
    ("fence", "way"),
    [
        (without_attempt, "claim, fail"),
        (without_status, "other fails, fail"),
        (without_lease, "other begins, fail"),
    ],
)
def test_it_finds_a_hole_in_the_fence(monkeypatch, fence, way):
    monkeypatch.setattr(holder, "_is_held", fence)
    with pytest.raises(BrokenRuleError, match=f"who has lost the row is told, .*{way}$"):
        search(World(rows=1, workers=2, ending=False))


@pytest.mark.parametrize("step", ["rescue", "requeue generating"])
def test_it_finds_a_state_without_an_end(monkeypatch, step):
    monkeypatch.setattr(sys.modules[__name__], "SURE", SURE - {step})
    with pytest.raises(BrokenRuleError, match="each state has a way to an answer or an end"):
        search(World(rows=1, workers=2, ending=False))


def test_it_finds_an_answer_that_is_overwritten(monkeypatch):
    always = Computed("always", lambda model: peewee.SQL("1 = 1"))
    monkeypatch.setattr(completion, "_IS_UNANSWERED", always)
    with pytest.raises(BrokenRuleError, match=r"an answer is stored, .* complete, complete$"):
        search(World(rows=1, workers=2, ending=False))
