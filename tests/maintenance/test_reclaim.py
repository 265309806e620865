"""Test reclaim(), which frees the space of deleted rows in a SQLite file."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import peewee
import pytest

import aicontent
from helpers import run_program

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def run(url, *args):
    status, out, err = run_program("cleanup", "--database", url, *args)
    return status, out.decode(), err


BIG = {"request_payload": {"text": "x" * 4000}, "expires_at": NOW - HOUR}


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_reclaim_gives_the_space_back(fill, Content, url, database):
    fill(500, **BIG)
    fill(50, request_payload={"text": "y" * 4000})
    status, out, _ = run(url, "--reclaim")
    assert status == 0
    freed = int(out.splitlines()[-1].split()[1].replace(",", ""))
    assert freed > 500 * 4000
    assert out.endswith("bytes (vacuum)\n")
    assert Content.select().count() == 50
    assert aicontent.reclaim(database) == aicontent.ReclaimReport(0, "nothing")
    assert json.loads(run(url, "--reclaim", "--json")[1])["freed"] == 0
    assert aicontent.check(database) == []


def test_reclaim_goes_in_steps_where_the_database_allows_it(tmp_path):
    path = tmp_path / "incremental.db"
    database = peewee.SqliteDatabase(path, pragmas={"auto_vacuum": 2, "foreign_keys": 1})
    aicontent.migrate(database, create_users=True)
    model = aicontent.for_database(database)
    user = model.user.rel_model.create()
    model.create_many([{"user": user, "type": "lesson"} | BIG] * 800)
    model.cleanup(now=NOW)
    before = path.stat().st_size
    report = aicontent.reclaim(database)
    assert report.way == "incremental"
    assert report.freed == before - path.stat().st_size > 800 * 4000
    database.close()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_reclaim_says_when_it_cannot(fill, Content, url, database):
    fill(500, **BIG)
    reader = aicontent.connect(url)
    with reader.connection_context():
        reader.execute_sql("BEGIN")
        reader.execute_sql("SELECT count(*) FROM users").fetchone()
        status, out, err = run(url, "--reclaim", "--wait", "0.1")
        assert status == 1
        assert out.startswith("deleted 500 expired")
        assert "not yet returned" in err
        reader.execute_sql("COMMIT")
    assert run(url, "--reclaim")[0] == 0


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_reclaim_is_for_sqlite(url, database):
    assert run(url, "--reclaim")[0] == 2
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="autovacuum"):
        aicontent.reclaim(database)
