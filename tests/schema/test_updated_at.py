"""The database sets updatedAt on each update by the model, a query or raw SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import peewee
import pytest

from aicontent.records.partitioning import key_columns

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.fixture
def aged(store, Content):
    """A row with an updatedAt in the past."""
    content = Content.get_by_id(store(updated_at=LONG_AGO).id)
    assert content.updated_at == LONG_AGO
    return content


def by_save(content):
    content.level = "B1"
    content.save()


def by_save_that_says_otherwise(content):
    content.updated_at = LONG_AGO + timedelta(days=1)
    content.save()
    assert content.updated_at > datetime(2026, 1, 1, tzinfo=UTC)


def by_mark_accessed(content):
    content.mark_accessed(LONG_AGO)


def by_reuse(content):
    reused = type(content).reuse(content.user_id, "lesson")
    assert reused.updated_at > datetime(2026, 1, 1, tzinfo=UTC)


def by_query(content):
    type(content).update(level="B1").execute()


def by_query_that_says_otherwise(content):
    type(content).update(updated_at=LONG_AGO - timedelta(days=1)).execute()


def by_raw_sql(content):
    content._meta.database.execute_sql("""UPDATE ai_generated_content SET "level" = 'B1'""")


def by_raw_sql_that_says_otherwise(content):
    sql = """UPDATE ai_generated_content SET "updatedAt" = '1999-01-01 00:00:00'"""
    content._meta.database.execute_sql(sql)


def by_raw_sql_that_changes_nothing(content):
    content._meta.database.execute_sql('UPDATE ai_generated_content SET "level" = "level"')


def by_upsert(content):
    row = {"id": content.id, "user": content.user_id, "type": "lesson", "request_payload": {}}
    row |= {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    query = type(content).insert(row)
    key = key_columns(type(content))
    query.on_conflict(conflict_target=key, preserve=[type(content).updated_at]).execute()


WAYS = [value for name, value in sorted(globals().items()) if name.startswith("by_")]


@pytest.mark.parametrize("recursive", [False, True], ids=["plain", "recursive_triggers"])
@pytest.mark.parametrize("update", WAYS, ids=lambda way: way.__name__)
def test_an_update_sets_it(aged, Content, database, update, recursive):
    if isinstance(database, peewee.SqliteDatabase):
        database.pragma("recursive_triggers", int(recursive))
    # SQLite's clock has a resolution of one millisecond.
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    update(aged)
    stored = Content.get_by_id(aged.id)
    assert before <= stored.updated_at <= datetime.now(UTC)
    assert stored.created_at == aged.created_at


def test_only_the_rows_of_the_statement_are_touched(aged, store, Content):
    other = store()
    Content.update(level="C1").where(Content.id == other.id).execute()
    assert Content.get_by_id(aged.id).updated_at == LONG_AGO


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_times_on_sqlite_are_text_of_one_width(store, database):
    store(created_at=datetime(99, 1, 1, tzinfo=UTC), expires_at=datetime(2026, 5, 1, tzinfo=UTC))
    store().mark_accessed()
    columns = ("createdAt", "updatedAt", "expiresAt", "lastAccessedAt")
    for column in columns:
        sql = f'SELECT DISTINCT length("{column}") FROM ai_generated_content'
        assert [row for row in database.execute_sql(sql).fetchall() if row != (None,)] == [(26,)]
