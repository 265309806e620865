"""Test the export: the text and order of its lines, and its consistent snapshot."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import peewee
import pytest

import aicontent


def test_what_a_line_looks_like(store, database):
    content = store(id="x", expires_at=datetime(2026, 5, 1, 12, tzinfo=UTC), topics=["b", "a"])
    (line,) = aicontent.export_lines(database)
    row = json.loads(line)
    assert set(row) == set(content._meta.columns)
    assert row["expiresAt"] == "2026-05-01T12:00:00.000000Z"
    assert row["topics"] == ["b", "a"]
    assert row["lastAccessedAt"] is None
    assert line.startswith(b'{"attempts":0,"createdAt":"20')
    assert line.endswith(b"}\n")


def test_the_order_is_that_of_the_bytes(store, database):
    ids = ["b", "B", "a-b", "ab", "a_b", "Z", "é", "z"]
    for id in ids:
        store(id=id)
    found = [json.loads(line)["id"] for line in aicontent.export_lines(database)]
    assert found == sorted(ids, key=str.encode)


@pytest.fixture
def english(server):
    """A PostgreSQL database with English collation as its default instead of byte order."""
    for collation in ("LOCALE_PROVIDER icu ICU_LOCALE 'en-US'", "LOCALE 'en_US.UTF-8'"):
        try:
            name = server.create(options=f"ENCODING 'UTF8' {collation}")
        except peewee.DatabaseError:  # the server's build determines the available collations
            continue
        database = aicontent.connect(server.url_of(name))
        aicontent.migrate(database, create_users=True)
        yield database
        database.close()
        server.drop(name)
        return
    pytest.skip("needs a PostgreSQL server with ICU or the locale en_US.UTF-8")


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_the_collation_of_a_database_does_not_change_the_order(store, database, english):
    ids = ["b", "B", "a-b", "ab", "a_b", "Z", "é", "z", "A1", "a1", "a10", "a2", "10", "9", "Ab"]
    for id in ids:
        store(id=id)
    exported = list(aicontent.export_lines(database))
    assert aicontent.import_lines(english, exported).stored == len(ids)
    by_bytes = sorted(ids, key=str.encode)
    model = aicontent.for_database(english)
    assert [content.id for content in model.select().order_by(model.id)] != by_bytes
    assert [json.loads(line)["id"] for line in aicontent.export_lines(english)] == by_bytes
    assert list(aicontent.export_lines(english)) == exported


def test_filters(store, database, Content):
    other = Content.user.rel_model.create().id
    store(id="a")
    store(id="b", type="vocabulary_drill")
    store(id="c", status="pending")
    store(id="d", user=other)

    def ids(**wanted):
        return [json.loads(line)["id"] for line in aicontent.export_lines(database, **wanted)]

    assert ids(type="lesson") == ["a", "c", "d"]
    assert ids(status="pending") == ["c"]
    assert ids(user=other, type="lesson", status="completed") == ["d"]
    assert ids(user=0) == []
    for wrong in ({"type": "quiz"}, {"status": "done"}, {"user": "7"}):
        with pytest.raises(aicontent.ValidationError):
            aicontent.export_lines(database, **wrong)


def test_an_export_is_of_one_moment_and_keeps_nobody_from_writing(store, database, Content, url):
    for number in range(500):
        store(id=f"{number:03}")
    reading = aicontent.export_lines(database)
    first = next(reading)
    writer = aicontent.connect(url)
    model = aicontent.for_database(writer)
    assert model.delete().where(model.id > "000").execute() == 499
    assert len([first, *reading]) == 500
    assert not database.in_transaction()
    assert len(list(aicontent.export_lines(database))) == 1
    writer.close()


def test_an_export_that_is_given_up_leaves_no_transaction(store, database):
    store(), store()
    reading = aicontent.export_lines(database)
    next(reading)
    reading.close()
    assert not database.in_transaction()


def test_a_row_of_another_program_that_cannot_be_read_is_named(store, database):
    store(id="bad")
    digits = "9" * 5000
    place = "%s" if "postgres" in type(database).__name__.lower() else "?"
    database.execute_sql(
        f'UPDATE ai_generated_content SET "metadata" = {place}', (f'{{"n":{digits}}}',)
    )
    with pytest.raises(aicontent.AIContentError, match="content bad cannot be read"):
        list(aicontent.export_lines(database))


UNREADABLE = [
    ("postgresql", "\"expiresAt\" = 'infinity'"),
    ("postgresql", "\"expiresAt\" = '10000-01-01'"),
    ("sqlite", "\"level\" = CAST(x'ff' AS TEXT)"),
    ("sqlite", "\"updatedAt\" = 'soon'"),
]


@pytest.mark.parametrize(("kind", "change"), UNREADABLE, indirect=["kind"])
def test_values_of_another_program_that_cannot_be_read(store, database, change):
    store(id="bad")
    if "updatedAt" in change:
        database.execute_sql("DROP TRIGGER update_ai_generated_content_updated_at")
    if "expiresAt" in change:
        constraint = "ai_generated_content_expiresAt_range"
        database.execute_sql(f'ALTER TABLE ai_generated_content DROP CONSTRAINT "{constraint}"')
    database.execute_sql(f"UPDATE ai_generated_content SET {change}")
    with pytest.raises(aicontent.AIContentError, match="cannot be read"):
        list(aicontent.export_lines(database))
