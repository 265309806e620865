"""Batches of the cleanup: who else reads and writes the rows meanwhile, and how large they get."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import peewee
import pytest

import aicontent
from aicontent.maintenance.batches import batches_of
from aicontent.maintenance.cleanup import reasons_of
from helpers import someone_waits_for_a_lock

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite locks no rows
def test_a_row_renewed_meanwhile_survives(store, Content):
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


@pytest.mark.parametrize("analyzed", [False, True])
def test_the_cleanup_uses_its_indexes(fill, Content, database, analyzed):
    fill(50, expires_at=NOW + HOUR)
    fill(50, status="failed", created_at=NOW)
    explain = "EXPLAIN QUERY PLAN "
    if isinstance(database, peewee.PostgresqlDatabase):
        database.execute_sql("SET enable_seqscan = off")
        explain = "EXPLAIN "
    if analyzed:
        database.execute_sql("ANALYZE")
    with batches_of(database) as batches:
        for reason in reasons_of(Content, NOW, NOW - HOUR):
            batches.begin(reason)
            sql, values = batches.find.sql()
            plan = " ".join(map(str, database.execute_sql(explain + sql, values).fetchall()))
            assert reason.index in plan, plan
            if analyzed:
                assert "SORT" not in plan.upper(), plan
                assert "TEMP B-TREE" not in plan, plan


def test_batches_are_short_beside_others_who_write(fill, Content, database, url):
    fill(3, expires_at=NOW - HOUR)
    other = aicontent.connect(url)
    with batches_of(database) as batches:
        batches.begin(reasons_of(Content, NOW, NOW)[0])
        batches._watch_until = 0.0  # nobody was seen for a while
        assert batches.seconds == batches.alone
        assert batches.delete(1)[0] == 1
        batches.rest(0.0)
        assert batches.seconds == batches.alone
        aicontent.for_database(other).update(level="A1").execute()
        assert batches.delete(1)[0] == 1
        batches.rest(0.0)
        assert batches.seconds == batches.beside_others
    other.close()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_connection_keeps_its_settings(fill, Content, database):
    fill(3, expires_at=NOW - HOUR)
    database.pragma("wal_autocheckpoint", 123)
    Content.cleanup(now=NOW)
    assert database.pragma("wal_autocheckpoint") == 123
