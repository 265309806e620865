"""Log records: one for each event, with its fields and without any content."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime

import pytest

import aicontent
from helpers import on_statement, run_python

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECRET = "hunter2"
"""Part of each prompt, document, cost and error in this module."""

LOGGER = "aicontent.generation"


def never(content):
    raise AssertionError("there was no need to generate")


def made(content):
    return {"title": SECRET}, {"metadata": {"note": SECRET}}


def fail(content):
    raise RuntimeError(f"api_key={SECRET}")


def interrupt(content):
    raise KeyboardInterrupt


@pytest.fixture
def events(caplog):
    """Return the events logged since the last call, and check that they hold no secret."""
    caplog.set_level(logging.DEBUG, LOGGER)

    def events():
        records = [record for record in caplog.records if record.name == LOGGER]
        caplog.clear()
        for record in records:
            assert SECRET not in record.getMessage()
            assert SECRET not in str(vars(record))
            assert record.exc_info is None
        return [record for record in records if hasattr(record, "event")]

    return events


@pytest.fixture
def get(Content, user):
    """Call `get_or_generate` with a secret prompt."""

    def get(generate=made, **options):
        payload = {"prompt": SECRET}
        return Content.get_or_generate(user, "lesson", payload, generate, **options)

    return get


def check(record, content, event, level, attempt=1):
    assert (record.event, record.levelno) == (event, level)
    assert (record.content_id, record.user_id, record.type) == (
        content.id,
        content.user_id,
        "lesson",
    )
    assert record.attempt == attempt
    assert record.getMessage().split(":")[0] == f"{event} {content.id}"
    return record


def is_duration(seconds):
    return isinstance(seconds, float) and 0 <= seconds < 300


def test_generated_then_stored(get, events):
    content = get()
    (record,) = events()
    assert is_duration(check(record, content, "generated", logging.INFO).seconds)
    get(never)
    get(never, mark=False)
    for record in events():
        assert is_duration(check(record, content, "stored", logging.DEBUG).seconds)


def test_waited(get, elsewhere, events):
    waits, go_on, looks = threading.Event(), threading.Event(), []

    def hear(statement):
        if "is_stale" in statement[0]:
            looks.append(statement)
            if len(looks) == 2:  # the caller waits only from its second look on
                waits.set()

    def generate(content):
        go_on.set()
        assert waits.wait(timeout=30)
        return made(content)

    with on_statement(hear):
        running = elsewhere(get, generate)
        assert go_on.wait(timeout=30)
        content = elsewhere(get, never).result(timeout=30)
    assert running.result(timeout=30) == content
    generated, waited = events()
    check(generated, content, "generated", logging.INFO)
    assert is_duration(check(waited, content, "waited", logging.INFO).seconds)


def test_stale(get, events, Content):
    content = get()
    Content.update(expires_at=NOW).execute()
    events()
    get(fail, serve_stale=True)
    failed, stale = events()
    assert failed.event == "failed"
    assert is_duration(check(stale, content, "stale", logging.INFO).seconds)


@pytest.mark.parametrize("serve_stale", [False, True])
def test_failed(get, events, Content, serve_stale):
    with pytest.raises(RuntimeError):
        get(fail, serve_stale=serve_stale)
    (record,) = events()
    assert is_duration(check(record, Content.get(), "failed", logging.WARNING).seconds)


def test_what_is_no_document(get, events, Content):
    with pytest.raises(aicontent.GeneratedContentError):
        get(lambda content: [SECRET])
    (record,) = events()
    check(record, Content.get(), "failed", logging.WARNING)


def test_retried_then_failed_for_good(events, Content, user):
    content = Content.request(user, "lesson", {"prompt": SECRET})
    for attempt, event in enumerate(("retried", "retried", "failed"), 1):
        Content.claim().fail(f"model {SECRET} is down", retry=True)
        (record,) = events()
        check(record, content, event, logging.WARNING, attempt)
        assert is_duration(record.seconds)


@pytest.mark.parametrize("by", ["hand", "get_or_generate", "work"])
def test_released(get, events, Content, user, by):
    content = Content.request(user, "lesson", {"prompt": SECRET})
    if by == "hand":
        Content.claim().release()
    else:
        with pytest.raises(KeyboardInterrupt):
            get(interrupt) if by == "get_or_generate" else Content.work(interrupt)
    (record,) = events()
    assert is_duration(check(record, content, "released", logging.INFO).seconds)


def test_rescued(events, Content, user):
    payloads = [{"prompt": SECRET, "number": number} for number in range(3)]
    contents = [Content.request(user, "lesson", payload) for payload in payloads]
    while Content.claim():
        pass
    Content.update(lease_expires_at=NOW).where(Content.id != contents[0].id).execute()
    Content.update(failures=2).where(Content.id == contents[2].id).execute()
    events()
    assert Content.rescue_stale(dry_run=True).requeued == 1
    assert events() == []
    Content.rescue_stale()
    records = sorted(events(), key=lambda record: record.content_id)
    for record, content, now in zip(records, contents[1:], ("pending", "failed"), strict=True):
        check(record, content, "rescued", logging.WARNING)
        assert record.seconds is None  # another process may have claimed it
        assert record.getMessage().endswith(f": the lease ran out, and it is {now}")


def test_refused(get, events):
    costs = {"model_used": SECRET * 10, "tokens": SECRET, "topics": [SECRET]}
    content = get(lambda content: ({}, costs))
    refused, generated = events()
    check(refused, content, "refused", logging.WARNING)
    assert refused.getMessage() == f"refused {content.id}: model_used, an unknown name"
    check(generated, content, "generated", logging.INFO)


def test_a_row_that_is_stored_anew(get, events):
    content = get(lambda content: content.delete_instance() and made(content))
    (record,) = events()
    assert is_duration(check(record, content, "generated", logging.INFO).seconds)


@pytest.mark.parametrize("end", ["complete", "fail", "release"])
def test_by_an_instance_that_another_has_claimed(events, Content, user, end):
    """The instance does not know when its row was claimed, so it logs no duration."""
    Content.request(user, "lesson", {})
    Content.claim()
    content = Content.get()
    arguments = {"complete": ({},), "fail": ("no",), "release": ()}[end]
    getattr(content, end)(*arguments)
    (record,) = events()
    assert record.seconds is None


@pytest.mark.parametrize("end", ["complete", "fail", "release"])
def test_a_claim_that_is_over_ends_without_an_event(events, Content, user, end):
    Content.request(user, "lesson", {})
    content = Content.claim()
    Content.get().complete({"other": True})
    events()
    arguments = {"complete": ({},), "fail": ("no",), "release": ()}[end]
    with pytest.raises(aicontent.LeaseLostError):
        getattr(content, end)(*arguments)
    assert events() == []


def test_a_workers_attempts(events, Content, user, caplog):
    content = Content.request(user, "lesson", {"prompt": SECRET})
    caplog.set_level(logging.DEBUG, LOGGER)
    Content.work(fail, until_empty=True, max_attempts=1)
    assert f"error {content.id}: RuntimeError at " in caplog.text
    failed, error = events()
    check(failed, content, "failed", logging.WARNING)
    check(error, content, "error", logging.ERROR)
    other = Content.request(user, "lesson", {"prompt": SECRET})
    Content.work(made, until_empty=True)
    (record,) = events()
    check(record, other, "generated", logging.INFO)


def test_a_level_that_is_off_costs_no_record(get, events, caplog):
    caplog.set_level(logging.ERROR, LOGGER)
    get()
    get(never)
    assert events() == []


ALL_EVENTS = """
import sys, aicontent
from contextlib import suppress
from datetime import UTC, datetime
database = aicontent.connect(sys.argv[1])
Content = aicontent.for_database(database)
user = Content.user.rel_model.create()

def get(generate, number=0, **options):
    with suppress(RuntimeError, KeyboardInterrupt):
        return Content.get_or_generate(user, "lesson", {"number": number}, generate, **options)

def raise_(error):
    raise error

get(lambda content: ({}, {"tokens": 1}))
get(print)
Content.update(expires_at=datetime(2026, 1, 1, tzinfo=UTC)).execute()
get(lambda content: raise_(RuntimeError("hunter2")), serve_stale=True)
get(lambda content: raise_(KeyboardInterrupt()), 1, max_attempts=1)
Content.work(lambda content: raise_(RuntimeError("hunter2")), until_empty=True, max_attempts=1)
Content.request(user, "lesson", {"number": 2})
Content.claim().fail("hunter2", retry=True)
Content.claim(lease=0.000001)
while not Content.rescue_stale().requeued:
    pass
print(sorted({row.status.value for row in Content.select()}))
database.close()
"""


def test_a_process_that_configures_no_log_prints_nothing(url):
    ran = run_python(ALL_EVENTS, url)
    assert (ran.stdout, ran.stderr) == ("['completed', 'failed', 'pending']\n", "")
