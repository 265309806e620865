"""Test the cleanup's batches: concurrent readers and writers, and the batch size."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import peewee
import pytest

import aicontent
from helpers import index_names, on_statement, someone_waits_for_a_lock, wait_until_alone

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
OLD = NOW - 25 * HOUR


@contextmanager
def after_the_look_up(database, url, change):
    """Call `change(model)` on another connection between the cleanup's look-up and its deletes.

    The call comes just before the transaction that deletes the rows.
    """
    other = aicontent.connect(url)
    model = aicontent.for_database(other)
    steps = []

    def hear(sql):
        if not steps and sql.startswith("SELECT") and "LIMIT" in sql:
            steps.append("look up")
        elif steps == ["look up"] and (sql.startswith("BEGIN") or "FOR UPDATE" in sql):
            steps.append("change")
            change(model)

    if isinstance(database, peewee.SqliteDatabase):
        # Peewee does not log BEGIN, and the other connection cannot write after it.
        database.connection().set_trace_callback(hear)
        yield
        database.connection().set_trace_callback(None)
    else:
        with on_statement(lambda statement: hear(statement[0])):
            yield
    assert steps == ["look up", "change"]
    other.close()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"expires_at": NOW - HOUR}, {"expires_at": NOW + HOUR}),
        ({"status": "failed", "created_at": OLD, "updated_at": OLD}, {"status": "pending"}),
    ],
    ids=["expired", "failed"],
)
def test_a_row_renewed_before_it_is_deleted_survives(store, Content, database, url, old, new):
    renewed, _ = store(**old), store(**old)

    def renew(model):
        model.update(new).where(model.id == renewed.id).execute()

    with after_the_look_up(database, url, renew):
        report = Content.cleanup(now=NOW)
    assert (report.deleted, report.left) == (1, False)
    assert list(Content.select()) == [renewed]


def test_a_new_row_in_the_place_of_a_deleted_one_survives(
    store, Content, database, url, kind, user
):
    """The cleanup looks up row addresses (ctid, rowid), which the database reuses for new rows."""
    place = peewee.SQL("rowid" if kind == "sqlite" else "ctid")
    store(expires_at=NOW - HOUR)
    places = Content.select(place).tuples()
    before = list(places)

    def replace(model):
        model.delete().execute()
        if kind != "sqlite":
            model._meta.database.execute_sql("VACUUM ai_generated_content")
        model.create(id="new", user=user, type="lesson", request_payload={})

    with after_the_look_up(database, url, replace):
        report = Content.cleanup(now=NOW)
    assert list(places.clone()) == before
    assert (report.deleted, report.left) == (0, False)
    assert [content.id for content in Content.select()] == ["new"]


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite has no row locks
def test_a_row_that_is_just_being_renewed_survives(store, Content):
    database = Content._meta.database
    renewed, other = store(expires_at=NOW - HOUR), store(expires_at=NOW - HOUR)
    reports = []

    def clean() -> None:
        with database.connection_context():
            reports.append(Content.cleanup(now=NOW))

    cleaner = threading.Thread(target=clean)
    with database.atomic():
        Content.update(expires_at=NOW + HOUR).where(Content.id == renewed.id).execute()
        cleaner.start()
        while not someone_waits_for_a_lock(database):
            assert cleaner.is_alive()
    cleaner.join()
    assert [(report.expired, report.left) for report in reports] == [(1, False)]
    assert list(Content.select()) == [renewed]
    assert other not in Content.select()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_row_that_stays_locked_is_left(store, Content, url):
    locked, _ = store(expires_at=NOW - HOUR), store(expires_at=NOW - HOUR)
    holder = aicontent.connect(url)
    with holder.connection_context(), holder.atomic():
        other = aicontent.for_database(holder)
        list(other.select().where(other.id == locked.id).for_update())
        report = Content.cleanup(now=NOW)
    assert (report.expired, report.left) == (1, True)
    assert Content.cleanup(now=NOW).expired == 1


@pytest.mark.parametrize("now", [None, datetime.now(UTC)], ids=["clock", "moment"])
@pytest.mark.parametrize("analyzed", [False, True])
def test_the_cleanup_uses_its_indexes(fill, Content, database, analyzed, now):
    later = datetime.now(UTC) + HOUR
    fill(50, expires_at=later)
    fill(50, status="failed", created_at=later)
    explain = "EXPLAIN QUERY PLAN "
    if isinstance(database, peewee.PostgresqlDatabase):
        database.execute_sql("SET enable_seqscan = off")
        explain = "EXPLAIN "
    if analyzed:
        database.execute_sql("ANALYZE")
    looked = []
    with on_statement(lambda s: looked.append(s) if "LIMIT" in s[0] else None):
        Content.cleanup(now=now)
        Content.cleanup(now=now, max_rows=0)  # only checks whether rows are left
    for (sql, values), index in zip(looked, ["expires", "failed"] * 2, strict=True):
        plan = " ".join(map(str, database.execute_sql(explain + sql, values).fetchall()))
        plan = plan.replace("Sort Key", "")  # a Merge Append has one too
        # The other index on createdAt has the same order, but covers all statuses.
        good = (index, "status") if index == "failed" and not analyzed else (index,)
        names = [name for each in good for name in index_names(database, f"idx_ai_content_{each}")]
        assert any(name in plan for name in names), plan
        if analyzed:
            assert "SORT" not in plan.upper(), plan
            assert "TEMP B-TREE" not in plan, plan


# Minimum seconds for the deletion of a row in the tests of sizes. While others write, one row then
# takes about the target time of a batch: 15 ms on PostgreSQL and 1.5 ms on SQLite.
ROW_SECONDS = {"sqlite": 0.002, "postgresql": 0.01, "postgresql-partitioned": 0.01}
MOST = 25
"""Maximum rows of a batch; its target time is 200 ms on PostgreSQL (20 rows), 50 on SQLite (25)."""


@pytest.fixture
def slow_rows(database, kind):
    """Return two functions: one slows down the deletion of each row, the other ends that."""
    table = "ai_generated_content"
    if kind == "sqlite":
        database.register_function(lambda: time.sleep(ROW_SECONDS[kind]), "pause", 0)
        make = f"CREATE TEMP TRIGGER slow BEFORE DELETE ON main.{table} BEGIN SELECT pause(); END"
        end = "DROP TRIGGER slow"
    else:
        database.execute_sql(
            "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS "
            f"'BEGIN PERFORM pg_sleep({ROW_SECONDS[kind]}); RETURN OLD; END'"
        )
        make = f"CREATE TRIGGER slow BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION pause()"
        end = f"DROP TRIGGER slow ON {table}"
    return lambda: database.execute_sql(make), lambda: database.execute_sql(end)


class Sizes(list):
    """Collect the batch sizes of a cleanup: pass `add` as its `progress`."""

    def add(self, report):
        self.append(report.deleted - sum(self))


def test_batches_grow_while_they_are_fast_and_shrink_when_they_are_slow(
    fill, Content, database, slow_rows
):
    """A busy machine runs few batches fast, but one fast batch is enough to let the size grow."""
    fill(3000, expires_at=NOW - HOUR)
    fast, slow, again = Sizes(), Sizes(), Sizes()
    make_slow, end_slow = slow_rows
    wait_until_alone(database)

    def progress(report):
        if not fast or fast[-1] <= MOST:
            fast.add(report)
            if fast[-1] > MOST:
                slow.append(report.deleted)
                make_slow()
        elif len(slow) < 6:
            slow.add(report)
            if len(slow) == 6:
                again.append(report.deleted)
                end_slow()
        else:
            again.add(report)

    Content.cleanup(now=NOW, batch_size=100, progress=progress)
    assert fast[0] <= MOST < fast[-1] <= 100
    _, _, *after_a_slow_one = slow
    assert len(after_a_slow_one) == 4
    assert max(after_a_slow_one) <= MOST
    assert MOST < max(again[1:-1]) <= 100


def test_batches_are_short_while_others_write(fill, Content, database, slow_rows, url):
    fill(300, expires_at=NOW - HOUR)
    make_slow, _ = slow_rows
    make_slow()
    others = []
    alone, beside = Sizes(), Sizes()

    def write():
        if not others:
            others.append(aicontent.connect(url))
        aicontent.for_database(others[0]).user.rel_model.create()

    def progress(report):
        if len(alone) < 2 or alone[-1] <= 2:  # the first size depends on no writer
            alone.add(report)
            if alone[-1:] > [2] and len(alone) > 1:
                beside.append(report.deleted)
                write()
        else:
            beside.add(report)
            write()

    wait_until_alone(database)
    Content.cleanup(now=NOW, progress=progress, stop=lambda: len(beside) == 6)
    assert alone[-1] > 2, "no batch was of several rows while nobody else wrote"
    # The cleanup may have chosen the next batch's size before the first write.
    _, _, *sizes = beside
    assert sizes == [1] * 4
    others[0].close()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_connection_keeps_its_settings(fill, Content, database):
    fill(3, expires_at=NOW - HOUR)
    database.pragma("wal_autocheckpoint", 123)
    Content.cleanup(now=NOW)
    assert database.pragma("wal_autocheckpoint") == 123
