"""aget_or_generate() follows get_or_generate()'s rules in an event loop, and when cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import subprocess
import threading
import time
from collections import Counter
from functools import partial

import pytest

import aicontent
from aicontent import Served
from helpers import PYTHON, on_statement, run_python

MADE = {"title": "En la cafetería"}
TOPIC = contextvars.ContextVar("topic", default="none")

pytestmark = [
    pytest.mark.filterwarnings(f"error::{warning}")
    for warning in (
        "RuntimeWarning",  # for a coroutine that was never awaited
        "pytest.PytestUnhandledThreadExceptionWarning",
    )
]


class Model:
    """An async model client that records its calls, and answers when `go_on` is set."""

    def __init__(self, outcome=MADE, waits=True):
        self.calls, self.outcome = 0, outcome
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        if not waits:
            self.go_on.set()

    async def __call__(self, content):
        self.calls += 1
        self.started.set()
        await self.go_on.wait()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def aget(Content, user):
    """Get or generate a lesson; each number is a separate request."""

    def aget(generate, number=0, **options):
        return Content.aget_or_generate(user, "lesson", {"number": number}, generate, **options)

    return aget


@pytest.fixture
def run(database):
    """Run a coroutine function in a new event loop, and check that it leaks no task."""

    def run(main):
        problems = []

        async def guarded():
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: problems.append(context)
            )
            return await main()

        result = asyncio.run(guarded())
        gc.collect()  # Python reports abandoned tasks when it collects them
        assert not problems
        return result

    return run


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("aicontent-database"):
            thread.join(timeout=30)  # the thread may still be ending
            assert not thread.is_alive()


async def until(tell, what="it"):
    """Run the event loop until the condition holds."""
    async with asyncio.timeout(30):
        while not tell():
            await asyncio.sleep(0.001)


def eventually(tell):
    """Block without an event loop until the condition holds."""
    until_then = time.monotonic() + 30
    while not tell():
        assert time.monotonic() < until_then
        time.sleep(0.01)


def status_of(Content):
    return [row.status for row in Content.select()]


# The rules of get_or_generate()


def plain(content):
    return MADE


async def costing(content):
    return MADE, {"token_usage": 812}


class Client:
    async def __call__(self, content):
        return MADE

    async def method(self, content):
        return MADE

    def plain_method(self, content):
        return self.method(content)


@pytest.mark.parametrize(
    "generate",
    [
        plain,
        costing,
        Client(),
        Client().method,
        Client().plain_method,
        partial(Client().method),
        lambda content: costing(content),
    ],
    ids=["plain", "async", "object", "method", "returns-awaitable", "partial", "lambda"],
)
def test_generate_then_reuse(aget, run, Content, generate):
    async def main():
        return await aget(generate), await aget(generate), await aget(plain, mark=False)

    made, again, unmarked = run(main)
    assert (made.served, again.served, unmarked.served) == ("generated", "stored", "stored")
    assert made.generated_data == again.generated_data == MADE
    assert Content.get().usage_count == 1


def test_errors_of_generate_reach_the_caller(aget, run, Content):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await aget(Model(ZeroDivisionError(), waits=False))

    run(main)
    assert status_of(Content) == ["failed"]


def test_what_cannot_be_stored_is_in_the_error(aget, run):
    async def main():
        with pytest.raises(aicontent.GeneratedContentError) as caught:
            await aget(Model("no document", waits=False))
        return caught.value.generated

    assert run(main) == "no document"


@pytest.mark.parametrize("generate", [None, lambda: 1, lambda content: (yield)])
def test_mistakes_cost_nothing(aget, run, Content, generate):
    async def main():
        with pytest.raises(aicontent.ArgumentError, match="generate"):
            await aget(generate)

    run(main)
    assert not Content.select().exists()


def test_an_unknown_user_costs_nothing(run, Content):
    async def main():
        with pytest.raises(aicontent.UnknownUserError):
            await Content.aget_or_generate(10_000, "lesson", {}, plain)

    run(main)


def test_it_is_refused_within_a_transaction(aget, run, database):
    async def main():
        with database.atomic(), pytest.raises(aicontent.OpenTransactionError, match="aget_or"):
            await aget(plain)

    run(main)


def test_the_calls_that_wait_are_refused_in_a_loop(run, Content, user):
    async def main():
        with pytest.raises(aicontent.RunningLoopError, match="await aget_or_generate"):
            Content.get_or_generate(user, "lesson", {}, plain)
        with pytest.raises(aicontent.RunningLoopError, match="await awork"):
            Content.work(plain, until_empty=True)
        served = await asyncio.to_thread(
            Content.get_or_generate, user, "grammar_exercise", {}, plain
        )
        return served.served

    assert run(main) == "generated"
    assert [row.type for row in Content.select()] == ["grammar_exercise"]


@pytest.mark.parametrize("call", ["get_or_generate", "work"])
def test_an_async_function_is_refused_where_nobody_awaits_it(Content, user, call):
    arguments = (costing,) if call == "work" else (user, "lesson", {}, costing)
    name = "awork" if call == "work" else "aget_or_generate"
    with pytest.raises(aicontent.ArgumentError, match=rf"await {name}\(\)"):
        getattr(Content, call)(*arguments)
    assert not Content.select().exists()


# Single flight


def test_twenty_callers_generate_once(aget, run, Content):
    async def main():
        model = Model()
        calls = [asyncio.create_task(aget(model)) for _ in range(20)]
        await model.started.wait()
        model.go_on.set()
        served = await asyncio.gather(*calls)
        assert len({id(content) for content in served}) == 20  # each caller has a separate instance
        return model.calls, Counter(content.served for content in served)

    assert run(main) == (1, {Served.GENERATED: 1, Served.WAITED: 19})
    assert Content.get().usage_count == 19


def test_followers_look_at_nothing_while_one_generates(aget, run):
    async def main():
        model = Model()
        leader = asyncio.create_task(aget(model))
        await model.started.wait()
        statements = []
        with on_statement(statements.append):
            followers = [asyncio.create_task(aget(model)) for _ in range(20)]
            await asyncio.sleep(0.2)  # time for statements that must not be sent
            seen = len(statements)
        model.go_on.set()
        await asyncio.gather(leader, *followers)
        return seen

    assert run(main) == 0


def test_a_failure_is_paid_for_once_and_everybody_learns_of_it(aget, run):
    async def main():
        model = Model(ZeroDivisionError())
        calls = [asyncio.create_task(aget(model)) for _ in range(20)]
        await model.started.wait()
        model.go_on.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        return model.calls, Counter(type(result).__name__ for result in results)

    assert run(main) == (1, {"ZeroDivisionError": 1, "GenerationFailedError": 19})


def test_the_wait_of_each_caller_is_its_own(aget, run):
    async def main():
        model = Model()
        leader = asyncio.create_task(aget(model, wait=0))
        await model.started.wait()
        patient = asyncio.create_task(aget(model))
        for wait in (0, 0.05):
            with pytest.raises(aicontent.InProgressError):
                await aget(model, wait=wait)
        model.go_on.set()
        return (await leader).served, (await patient).served

    assert run(main) == ("generated", "waited")


def test_stale_content_is_served_at_once(aget, run, Content, database):
    async def main():
        await aget(plain, expires_in=1e-6)
        model = Model()
        leader = asyncio.create_task(aget(model))
        await model.started.wait()
        stale = await aget(model, serve_stale=True)
        model.go_on.set()
        return stale.served, (await leader).served

    assert run(main) == ("stale", "generated")


def test_a_loop_waits_for_another_process(aget, run, Content, user):
    """A thread with its own connection stands for the other process."""
    started, go_on = threading.Event(), threading.Event()

    def slow(content):
        started.set()
        assert go_on.wait(30)
        return MADE

    async def main():
        other = asyncio.create_task(
            asyncio.to_thread(Content.get_or_generate, user, "lesson", {"number": 0}, slow)
        )
        await until(started.is_set)
        calls = [asyncio.create_task(aget(plain)) for _ in range(10)]
        with pytest.raises(aicontent.InProgressError):
            await aget(plain, wait=0.05)
        go_on.set()
        return Counter(content.served for content in await asyncio.gather(other, *calls))

    served = run(main)
    assert (served.pop(Served.GENERATED), served.total()) == (1, 10)
    assert served.keys() <= {Served.WAITED, Served.STORED}  # a caller may look late


def test_nested_calls(aget, run):
    async def outer(content):
        inner = await aget(costing, number=1)
        return {"inner": inner.id}

    async def main():
        content = await aget(outer)
        return content.generated_data["inner"] == (await aget(costing, number=1)).id

    assert run(main)


def test_contextvars_are_seen(aget, run, Content):
    async def later(content):
        return {"topic": TOPIC.get()}

    def now(content):
        return {"topic": TOPIC.get()}

    async def main():
        TOPIC.set("tea")
        made = [await aget(later, number=1), await aget(now, number=2)]
        return [content.generated_data["topic"] for content in made]

    assert run(main) == ["tea", "tea"]


def test_what_is_stored_is_served_while_one_refreshes(aget, run):
    async def main():
        await aget(plain)
        model = Model()
        refreshing = asyncio.create_task(aget(model, refresh=True))
        await model.started.wait()
        options = ({}, {"wait": 0}, {"serve_stale": True}, {"mark": False})
        served = [(await aget(plain, **each)).served for each in options]
        also = asyncio.create_task(aget(plain, refresh=True))
        model.go_on.set()
        return served, (await refreshing).served, (await also).served

    assert run(main) == (["stored"] * 4, "generated", "waited")


def test_a_follower_does_not_wait_for_the_first_look_of_another(aget, run):
    entered, go_on = threading.Event(), threading.Event()

    def hold(statement):
        if not entered.is_set():
            entered.set()
            assert go_on.wait(30)

    async def main():
        with on_statement(hold):
            leader = asyncio.create_task(aget(costing))
            await until(entered.is_set)
            follower = asyncio.create_task(aget(costing, wait=0))
            done, _ = await asyncio.wait([follower], timeout=30)
            assert done  # the follower gets the row or InProgressError at once
            go_on.set()
            await leader
        follower.exception()

    run(main)


# Cancellation


@pytest.mark.parametrize("followers", [0, 3])
def test_a_cancelled_leader_leaves_alone(aget, run, Content, followers):
    async def main():
        model = Model()
        leader = asyncio.create_task(aget(model))
        await model.started.wait()
        others = [asyncio.create_task(aget(model)) for _ in range(followers)]
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        model.go_on.set()
        served = [content.served for content in await asyncio.gather(*others)]
        return served, (await aget(model)).served, model.calls

    expected = "stored" if followers else "waited"
    assert run(main) == (["waited"] * followers, expected, 1)
    assert status_of(Content) == ["completed"]


def test_a_cancelled_follower_leaves_alone(aget, run, Content):
    async def main():
        model = Model()
        leader = asyncio.create_task(aget(model))
        await model.started.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await aget(model)
        model.go_on.set()
        return (await leader).served

    assert run(main) == "generated"


def test_a_timeout_does_not_end_what_is_paid_for(aget, run, Content):
    async def main():
        model = Model()

        async def expire(timeout):
            await model.started.wait()
            timeout.reschedule(asyncio.get_running_loop().time())

        timeout = asyncio.timeout(None)
        expiring = asyncio.create_task(expire(timeout))
        with pytest.raises(TimeoutError):
            async with timeout:
                await aget(model)
        await expiring
        assert model.calls == 1
        model.go_on.set()
        return (await aget(model)).served

    assert run(main) in ("waited", "stored")


def test_who_is_cancelled_is_told_nothing_else(aget, run):
    """The call raises its cancellation, although its last look finds the row in flight."""
    looking, go_on = threading.Event(), threading.Event()

    def hold(statement):
        if "is_stale" in statement[0]:
            looking.set()
            assert go_on.wait(30)

    async def main():
        model = Model()
        leader = asyncio.create_task(aget(model))
        await model.started.wait()
        with on_statement(hold):
            other = asyncio.create_task(aget(plain, wait=0))
            await until(looking.is_set)
            tasks = [t for t in asyncio.all_tasks() if "Driver.run" in repr(t)]
            for task in tasks:
                task.cancel()
            go_on.set()
            done, _ = await asyncio.wait(tasks)
        await asyncio.gather(leader, other, return_exceptions=True)
        return [task.cancelled() for task in done]

    assert run(main) == [True, True]


def test_a_cancellation_before_generate_releases_the_row(aget, run, Content):
    """The cancellation arrives while a thread runs the statement that claims the row."""
    entered, go_on = threading.Event(), threading.Event()

    def hold(statement):
        if statement[0].startswith("INSERT"):
            entered.set()
            assert go_on.wait(30)

    async def main():
        model = Model()
        with on_statement(hold):
            call = asyncio.create_task(aget(model))
            await until(entered.is_set)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            go_on.set()
            await until(lambda: status_of(Content) == ["pending"])
        return model.calls

    assert run(main) == 0


def test_the_end_of_the_loop_releases_the_row(aget, run, Content):
    async def main():
        model = Model()
        call = asyncio.create_task(aget(model))
        await model.started.wait()
        return call

    assert run(main).cancelled()
    assert status_of(Content) == ["pending"]
    assert Content.get().failures == 0


@pytest.mark.parametrize(
    ("answer", "status"),
    [(lambda content: MADE, "completed"), (lambda content: Model()(content), "pending")],
    ids=["stores its document", "cancels its awaitable"],
)
def test_the_end_of_the_loop_waits_for_a_plain_generate(aget, run, Content, answer, status):
    started, go_on = threading.Event(), threading.Event()

    def slow(content):
        started.set()
        assert go_on.wait(30)
        return answer(content)

    async def main():
        call = asyncio.create_task(aget(slow))
        await until(started.is_set)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        return call

    assert run(main).cancelled()
    assert status_of(Content) == [status]


def test_a_generate_that_swallows_the_cancellation_is_stored(aget, run, Content):
    async def stubborn(content):
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return MADE

    async def main():
        nonlocal started
        started = asyncio.Event()
        call = asyncio.create_task(aget(stubborn))
        await started.wait()
        return call

    started = None
    run(main)
    assert status_of(Content) == ["completed"]


def test_a_loop_that_is_dropped_releases_the_row(aget, Content):
    """No code cancels the tasks of a dropped event loop."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it would log the pending task

    async def main():
        model = Model()
        call = asyncio.create_task(aget(model))
        await model.started.wait()
        return call

    call = loop.run_until_complete(main())
    loop.close()
    del call, loop
    gc.collect()
    eventually(lambda: status_of(Content) == ["pending"])


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_loop_that_is_dropped_does_not_hold_up_another(aget, run, Content):
    started, go_on = threading.Event(), threading.Event()

    def slow(content):
        started.set()
        assert go_on.wait(30)
        raise ZeroDivisionError

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    async def drop():
        call = asyncio.create_task(aget(slow))
        await until(started.is_set)
        return call

    call = loop.run_until_complete(drop())
    loop.close()
    time.sleep(1)  # the threads need time to notice the loss
    assert run(lambda: aget(plain, number=1)).served == "generated"
    go_on.set()
    eventually(lambda: Counter(status_of(Content)) == {"completed": 1, "failed": 1})
    assert not call.done()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_loop_that_is_dropped_while_it_claims_releases_the_row(aget, Content, url):
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    inserting, go_on = threading.Event(), threading.Event()

    def hold(statement):
        if statement[0].startswith("INSERT"):
            inserting.set()
            assert go_on.wait(30)

    async def main():
        call = asyncio.create_task(aget(Model()))
        await until(inserting.is_set)
        return call

    with on_statement(hold):
        call = loop.run_until_complete(main())
        loop.close()
        go_on.set()
        eventually(lambda: status_of(Content) == ["pending"])
    assert not call.done()


GENERATES = """
import asyncio, sys
import aicontent

Content = aicontent.for_database(aicontent.connect(sys.argv[1]))


async def generate(content):
    print("generating", flush=True)
    await asyncio.sleep(60)


asyncio.run(
    Content.aget_or_generate(int(sys.argv[2]), "lesson", {"number": 0}, generate, lease=1)
)
"""


def test_a_caller_takes_over_from_a_process_that_was_killed(aget, run, Content, url, user):
    command = [*PYTHON, "-c", GENERATES, url, str(user)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "generating\n"
        process.kill()
    assert run(lambda: aget(plain, wait=30)).served == "generated"
    assert Content.get().attempts == 2


def test_a_task_group_ends_with_its_error(aget, run, Content):
    async def main():
        model = Model()

        async def fail():
            await model.started.wait()
            raise ZeroDivisionError

        async def both():
            async with asyncio.TaskGroup() as group:
                group.create_task(aget(model))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup) as caught:
            await both()
        assert caught.group_contains(ZeroDivisionError)
        model.go_on.set()
        return (await aget(model)).served

    assert run(main) in ("waited", "stored")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_releases_the_row(aget, Content, error):
    async def main():
        await aget(Model(error(), waits=False))

    with pytest.raises(error):
        asyncio.run(main())
    assert status_of(Content) == ["pending"]


# Threads, connections and leases


def test_the_default_pool_is_not_needed(aget, run):
    """A model client needs the default pool, for example to resolve host names."""

    async def main():
        loop = asyncio.get_running_loop()
        go_on = threading.Event()
        blocked = [loop.run_in_executor(None, go_on.wait, 30) for _ in range(40)]
        served = [
            content.served for content in await asyncio.gather(*(aget(costing) for _ in range(40)))
        ]
        go_on.set()
        await asyncio.gather(*blocked)
        return served.count("generated")

    assert run(main) == 1


def test_threads_and_connections_are_few(aget, run, database):
    async def main():
        model = Model()
        calls = [asyncio.create_task(aget(model, number=n % 20)) for n in range(200)]
        await until(lambda: model.calls == 20)
        threads = [t.name for t in threading.enumerate() if t.name.startswith("aicontent-database")]
        model.go_on.set()
        await asyncio.gather(*calls)
        return model.calls, len(threads)

    calls, threads = run(main)
    assert calls == 20
    assert threads <= 4


def test_the_lease_is_renewed_while_the_loop_generates(aget, run, Content):
    async def main():
        model = Model()
        renewed = threading.Event()
        with on_statement(lambda sent: sent[0].startswith("UPDATE") and renewed.set()):
            call = asyncio.create_task(aget(model, lease=0.3))
            await model.started.wait()
            renewed.clear()
            await until(renewed.is_set)
        first = Content.get().lease_expires_at
        await until(lambda: Content.get().lease_expires_at > first)
        model.go_on.set()
        return (await call).served

    assert run(main) == "generated"


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_the_lease_is_renewed_after_the_server_has_closed_the_connection(
    aget, run, Content, database
):
    async def main():
        model = Model()
        call = asyncio.create_task(aget(model, lease=0.6))
        await model.started.wait()
        database.execute_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        for _ in range(2):
            last = Content.get().lease_expires_at
            await until(lambda last=last: Content.get().lease_expires_at > last)
        model.go_on.set()
        return (await call).served

    assert run(main) == "generated"


def test_two_loops_share_the_threads(Content, user):
    def one(number):
        async def main():
            return (await Content.aget_or_generate(user, "lesson", {"n": number}, costing)).served

        return asyncio.run(main())

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        assert Counter(pool.map(one, [n % 2 for n in range(16)]))["generated"] == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_has_threads_of_its_own(aget, run, Content, database):
    run(lambda: aget(costing))
    database.close()
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if asyncio.run(aget(costing, number=1)).served == "generated" else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_what_happened_is_logged(aget, run, caplog):
    caplog.set_level(logging.INFO, "aicontent.generation")
    run(lambda: aget(costing))
    assert [record.event for record in caplog.records] == ["generated"]


def test_a_database_in_memory():
    """A database in memory has one connection, so its statements run in the loop's thread."""
    database = aicontent.connect("sqlite:///:memory:")
    aicontent.migrate(database, create_users=True)
    model = aicontent.for_database(database)
    user = model.user.rel_model.create()

    async def main():
        calls = [model.aget_or_generate(user, "lesson", {}, costing) for _ in range(5)]
        return Counter(content.served for content in await asyncio.gather(*calls))

    assert asyncio.run(main()) == {"generated": 1, "waited": 4}
    database.close()


LEAVES_NOTHING = """
import asyncio, gc, sys, threading
import aicontent

database = aicontent.connect(sys.argv[1])
Content = aicontent.for_database(database)
with database.connection_context():
    user = Content.user.rel_model.create().id


async def generate(content):
    await asyncio.sleep(0.01)
    return {"title": "Tea"}


async def fail(content):
    raise ZeroDivisionError


async def main():
    # A step that a busy machine delays is not a leak.
    asyncio.get_running_loop().slow_callback_duration = 60
    ask = lambda number, function=generate: Content.aget_or_generate(
        user, "lesson", {"number": number}, function
    )
    calls = [asyncio.create_task(ask(number % 5)) for number in range(50)]
    calls += [asyncio.create_task(ask(6, fail)) for _ in range(3)]
    calls += [asyncio.create_task(ask(7, lambda content: {"title": "Tea"}))]
    for call in calls[::7]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await Content.awork(generate, until_empty=True)
    left = asyncio.create_task(ask(8))
    await asyncio.sleep(0.005)


asyncio.run(main())
gc.collect()
assert database.is_closed()
print([t.name for t in threading.enumerate() if t.name.startswith("aicontent-database")])
"""


def test_nothing_is_left_behind(url):
    """Python's development mode warns about leaked connections, tasks and coroutines."""
    ran = run_python(LEAVES_NOTHING, url, env={**os.environ, "PYTHONDEVMODE": "1"})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("]\n")
