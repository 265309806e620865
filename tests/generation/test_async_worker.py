"""awork() follows work()'s rules in an event loop, with several rows at a time."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from playhouse import pool

import aicontent
from helpers import plain as plain_url

pytestmark = [
    pytest.mark.filterwarnings(f"error::{warning}")
    for warning in (
        "RuntimeWarning",  # for a coroutine that was never awaited
        "pytest.PytestUnhandledThreadExceptionWarning",
    )
]


class Model:
    """An async model client that counts its concurrent calls, and answers when `go_on` is set."""

    def __init__(self, waits=True):
        self.running = self.most = self.calls = 0
        self.go_on = asyncio.Event()
        if not waits:
            self.go_on.set()

    async def __call__(self, content):
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go_on.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        return {"title": "Tea"}


def plain(content):
    return {"title": "Tea"}


async def until(tell):
    """Run the event loop until the condition holds."""
    async with asyncio.timeout(30):
        while not tell():
            await asyncio.sleep(0.001)


def states(Content):
    return [(row.status, row.failures, row.lease_expires_at) for row in Content.select()]


@pytest.mark.parametrize("concurrency", [1, 3, 10])
def test_so_many_rows_at_a_time(ask, Content, concurrency):
    ids = [ask(number).id for number in range(10)]

    async def main():
        model = Model()
        working = asyncio.create_task(
            Content.awork(model, concurrency=concurrency, until_empty=True)
        )
        await until(lambda: model.running == concurrency)
        model.go_on.set()
        return await working, model

    report, model = asyncio.run(main())
    assert report == aicontent.WorkReport(completed=10)
    assert (model.calls, model.most) == (10, concurrency)
    assert {content.id for content in Content.select()} == set(ids)
    assert states(Content) == [("completed", 0, None)] * 10


def test_plain_functions_run_in_threads(ask, Content):
    import threading

    for number in range(4):
        ask(number)
    together = threading.Barrier(4)

    def generate(content):
        together.wait(30)
        return {"title": "Tea"}

    report = asyncio.run(Content.awork(generate, concurrency=4, until_empty=True))
    assert report.completed == 4


def test_a_failure_is_retried_and_in_the_end_fails(ask, Content):
    ask(1), ask(2)
    calls = []

    async def fail(content):
        calls.append(content.id)
        raise ZeroDivisionError

    reports = []
    report = asyncio.run(
        Content.awork(fail, until_empty=True, max_attempts=2, progress=reports.append)
    )
    assert (report.failed, report.retried, len(calls)) == (2, 2, 4)
    assert reports[-1] == report
    assert {row.status for row in Content.select()} == {"failed"}


def test_stop_finishes_what_is_paid_for(ask, Content):
    for number in range(5):
        ask(number)

    async def main():
        model, stop = Model(), asyncio.Event()
        working = asyncio.create_task(Content.awork(model, concurrency=2, stop=stop.is_set))
        await until(lambda: model.running == 2)
        stop.set()
        model.go_on.set()
        return await working

    assert asyncio.run(main()) == aicontent.WorkReport(completed=2)
    assert sorted(status for status, *_ in states(Content)) == ["completed"] * 2 + ["pending"] * 3


def test_what_comes_in_while_it_waits(ask, Content, database):
    def ask_elsewhere():
        with database.connection_context():
            ask()

    async def main():
        model, stop = Model(waits=False), asyncio.Event()
        working = asyncio.create_task(Content.awork(model, stop=stop.is_set))
        await asyncio.to_thread(ask_elsewhere)
        await until(lambda: model.calls)
        stop.set()
        return await working

    assert asyncio.run(main()).completed == 1


def test_a_cancellation_releases_the_rows(ask, Content):
    for number in range(3):
        ask(number)

    async def main():
        model = Model()
        working = asyncio.create_task(Content.awork(model, concurrency=2))
        await until(lambda: model.running == 2)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(main())
    assert states(Content) == [("pending", 0, None)] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_releases_the_rows(ask, Content, error):
    ask(1), ask(2)

    async def generate(content):
        if content.request_payload["number"] == 2:
            raise error
        await asyncio.sleep(60)

    with pytest.raises(error):
        asyncio.run(Content.awork(generate, concurrency=2))
    assert states(Content) == [("pending", 0, None)] * 2


@pytest.mark.parametrize(
    ("failing", "error"), [([1], ZeroDivisionError), ([1, 2], ExceptionGroup)], ids=["one", "two"]
)
def test_an_error_lets_the_others_finish(ask, Content, failing, error):
    ask(1), ask(2)

    async def main():
        model = Model()

        def progress(report):
            if report.completed in failing:
                raise ZeroDivisionError

        async def generate(content):
            return await (model(content) if content.request_payload["number"] == 1 else quick())

        async def quick():
            asyncio.get_running_loop().call_later(0.05, model.go_on.set)
            return {"title": "Tea"}

        with pytest.raises(error):
            await Content.awork(generate, concurrency=2, progress=progress)

    asyncio.run(main())
    assert states(Content) == [("completed", 0, None)] * 2


def test_a_cancellation_that_generate_raises_ends_it(ask, Content):
    """The worker finishes the running rows before it raises the cancellation."""
    for number in range(3):
        ask(number)
    calls = []

    async def main():
        all_run, go_on = asyncio.Event(), asyncio.Event()

        async def generate(content):
            calls.append(content.id)
            if len(calls) == 3:
                all_run.set()
            await all_run.wait()
            if content.request_payload["number"] == 0:
                asyncio.get_running_loop().call_later(0.5, go_on.set)
                raise asyncio.CancelledError
            await go_on.wait()
            return {"title": "Tea"}

        with pytest.raises(asyncio.CancelledError):
            await Content.awork(generate, concurrency=3)

    asyncio.run(main())
    assert len(calls) == 3
    assert Counter(status for status, *_ in states(Content)) == {"completed": 2, "pending": 1}


def test_an_error_of_a_claim_ends_it(ask, Content):
    class Failing(Content):
        claims = 0

        @classmethod
        def claim(cls, *args, **options):
            cls.claims += 1
            if cls.claims == 1:
                raise ZeroDivisionError
            return super().claim(*args, **options)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(Failing.awork(plain, concurrency=2))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"types": []}, "types"),
        ({"lease": 0}, "lease"),
        ({"generate": None}, "generate"),
    ],
)
def test_mistakes_cost_nothing(ask, Content, options, field):
    ask()
    with pytest.raises(aicontent.ValidationError) as caught:
        asyncio.run(Content.awork(**{"generate": plain, **options}))
    assert caught.value.field == field
    assert Content.get().attempts == 0


def test_within_a_transaction_it_is_refused(ask, Content, database):
    async def main():
        with database.atomic(), pytest.raises(aicontent.OpenTransactionError, match="awork"):
            await Content.awork(plain)

    asyncio.run(main())


@pytest.mark.parametrize("most", [1, 2])
def test_a_small_pool_is_enough(ask, Content, database, url, most):
    for number in range(6):
        ask(number)
    if url.startswith("sqlite"):
        pooled = pool.PooledSqliteDatabase(
            url.removeprefix("sqlite:///"),
            pragmas={"foreign_keys": 1},
            check_same_thread=False,
            max_connections=most,
        )
    else:
        is_psycopg3 = url.startswith("postgresql+psycopg:")
        pooled = pool.PooledPostgresqlDatabase(
            plain_url(url), max_connections=most, prefer_psycopg3=is_psycopg3
        )
    model = aicontent.for_database(pooled)

    async def generate(content):
        await asyncio.sleep(0)
        return {"title": "Tea"}

    report = asyncio.run(model.awork(generate, concurrency=6, until_empty=True))
    pooled.close_all()
    assert report.completed == 6
