"""On Peewee's asyncio databases, calls that serve or generate content work, and others raise."""

from __future__ import annotations

import asyncio
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest

import aicontent

pytest.importorskip("greenlet")
pytest.importorskip("aiosqlite")
pytest.importorskip("asyncpg")
pwasyncio = pytest.importorskip("playhouse.pwasyncio")

# Python warns about a coroutine that is never awaited.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


async def model(content):
    await asyncio.sleep(0)
    return {"title": "Tea"}, {"token_usage": 812}


def asyncio_database(url):
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        pragmas = {"foreign_keys": 1, "journal_mode": "wal"}
        return pwasyncio.AsyncSqliteDatabase(parts.path[1:], pragmas=pragmas)
    host = parse_qs(parts.query).get("host", [parts.hostname])[0]
    options = {"host": host, "port": parts.port, "user": parts.username}
    known = {name: value for name, value in options.items() if value}
    return pwasyncio.AsyncPostgresqlDatabase(parts.path[1:], **known)


@pytest.fixture
def in_loop(url):
    """Return a function that runs a coroutine function with a database and its model."""

    def in_loop(main):
        async def run():
            database = asyncio_database(url)
            try:
                return await main(database, aicontent.for_database(database))
            finally:
                await database.close_pool()

        return asyncio.run(run())

    return in_loop


def test_content_is_stored_found_and_reused(in_loop, user):
    async def main(database, Content):
        values = {"level": "A2", "request_payload": {"topic": "tea"}, "topics": ["tea"]}

        def store():
            content = Content.create(
                user=user, type="lesson", status="completed", generated_data={"n": 1}, **values
            )
            content.metadata = {"version": 3}
            content.save()
            return content

        def look():
            reused = Content.reuse(user, "lesson", level="A2")
            reused.mark_accessed()
            found = [
                Content.first_reusable(user, "lesson"),
                Content.find_by_user_and_type(user, "lesson").get(),
                Content.find_reusable_content(user, "lesson", level="A2").get(),
                Content.select().where(Content.metadata["version"] >= 3).get(),
                Content.get_by_id(reused.id),
            ]
            return [reused, *found], found[-1].usage_count, found[-1].generated_data

        stored = await database.run(store)
        found, uses, document = await database.run(look)
        return {content.id for content in found} == {stored.id}, uses, document

    assert in_loop(main) == (True, 2, {"n": 1})


def test_requests_are_claimed_and_ended(in_loop, user):
    async def main(database, Content):
        def work():
            for number in range(3):
                Content.request(user, "lesson", {"number": number})
            one, two, three = Content.claim(), Content.claim("lesson"), Content.claim()
            one.extend_lease(100)
            one.complete({"title": "Tea"}, validation_score=0.5)
            two.fail("no")
            three.release()
            assert Content.claim("grammar_exercise") is None
            assert Content.requeue() == 1
            assert Content.rescue_stale().requeued == 0
            return sorted(row.status for row in Content.select())

        return await database.run(work)

    assert in_loop(main) == ["completed", "pending", "pending"]


def test_errors_are_told_as_always(in_loop, user):
    async def main(database, Content):
        def fail():
            content = Content.create(user=user, type="lesson", request_payload={})
            with pytest.raises(aicontent.UnknownUserError):
                Content.create(user=user + 10_000, type="lesson", request_payload={})
            with pytest.raises(aicontent.DuplicateIdError):
                Content.create(id=content.id, user=user, type="lesson", request_payload={})
            with pytest.raises(aicontent.ValidationError):
                Content.create(user=user, type="lesson", request_payload=[])
            return Content.select().count()

        return await database.run(fail)

    assert in_loop(main) == 1


def test_one_flight(in_loop, user):
    calls = []

    async def counted(content):
        calls.append(content.id)
        return await model(content)

    async def main(database, Content):
        requests = [
            Content.aget_or_generate(user, "lesson", {"n": n % 4}, counted) for n in range(40)
        ]
        served = Counter(content.served for content in await asyncio.gather(*requests))
        again = await Content.aget_or_generate(user, "lesson", {"n": 0}, counted)
        with pytest.raises(ZeroDivisionError):
            await Content.aget_or_generate(user, "lesson", {"n": 5}, lambda content: 1 / 0)
        return served, again.served

    served, again = in_loop(main)
    assert (len(calls), again) == (4, "stored")
    assert served == {"generated": 4, "waited": 36}


def test_a_cancelled_caller_and_the_end_of_the_loop(in_loop, user, Content):
    async def never(content):
        started.set()
        await asyncio.sleep(3600)

    async def main(database, Content):
        nonlocal started
        started = asyncio.Event()
        call = asyncio.create_task(Content.aget_or_generate(user, "lesson", {}, never))
        await started.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait([call])
        while (await database.run(lambda: Content.get())).status != "pending":
            await asyncio.sleep(0.01)

    started = None
    in_loop(main)
    assert Content.get().failures == 0


# A thread of aiosqlite that is opening a connection reports that the loop is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_the_end_of_the_loop_in_the_middle_of_a_claim(in_loop, user, Content):
    async def never(content):
        await asyncio.sleep(3600)

    for moment in range(8):

        async def main(database, Content, moment=moment):
            calls = [
                asyncio.create_task(Content.aget_or_generate(user, "lesson", {"n": n}, never))
                for n in range(8)
            ]
            await asyncio.sleep(0.01 * moment)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.wait(calls)
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)

        in_loop(main)
    assert {row.status for row in Content.select()} <= {"pending"}


def test_a_lease_is_renewed(in_loop, user, Content):
    async def main(database, Model):
        go_on = asyncio.Event()

        async def slow(content):
            await go_on.wait()
            return {"title": "Tea"}

        call = asyncio.create_task(Model.aget_or_generate(user, "lesson", {}, slow, lease=0.3))
        leases = set()
        while len(leases) < 3:
            rows = await database.run(lambda: list(Model.select()))
            leases.update(row.lease_expires_at for row in rows)
            await asyncio.sleep(0.01)
        go_on.set()
        return (await call).served

    assert in_loop(main) == "generated"


def test_workers(in_loop, user, Content):
    ids = [Content.request(user, "lesson", {"n": n}).id for n in range(5)]

    async def main(database, Content):
        return await Content.awork(model, concurrency=3, until_empty=True)

    assert in_loop(main).completed == 5
    assert [Content.get_by_id(id).status for id in ids] == ["completed"] * 5


def test_it_is_looked_at(in_loop, store):
    store()

    async def main(database, Content):
        def look():
            return aicontent.check(database), aicontent.stats(database).groups

        return await database.run(look)

    problems, groups = in_loop(main)
    assert problems == []
    assert [group.rows for group in groups] == [1]


@pytest.mark.parametrize(
    "call",
    [
        lambda database, Content: Content.cleanup(),
        lambda database, Content: Content.create_many([{}]),
        lambda database, Content: aicontent.migrate(database),
        lambda database, Content: aicontent.rollback(database, 1),
        lambda database, Content: list(aicontent.export_lines(database)),
        lambda database, Content: aicontent.import_lines(database, ["{}"]),
        lambda database, Content: aicontent.reclaim(database),
    ],
    ids=["cleanup", "create_many", "migrate", "rollback", "export", "import", "reclaim"],
)
def test_what_needs_a_plain_connection_is_refused(in_loop, call):
    async def main(database, Content):
        with pytest.raises(aicontent.UnsupportedDatabaseError) as caught:
            await database.run(lambda: call(database, Content))
        return str(caught.value)

    assert "open the same database with aicontent.connect()" in in_loop(main)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_foreign_keys_must_be_on(url):
    database = pwasyncio.AsyncSqliteDatabase(urlsplit(url).path[1:])
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="does not enforce foreign keys"):
        aicontent.bind(database)
