"""The cleanup skips and reports rows that the database refuses to delete."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import peewee
import pytest

import aicontent
from helpers import on_statement

HOUR = timedelta(hours=1)
TABLE = "ai_generated_content"


@pytest.fixture
def due(store):
    """Return a function that stores rows due for each reason.

    It returns the ids of the expired rows.
    """

    def store_all(number, **values):
        old = datetime.now(UTC) - 99 * HOUR
        expired = [store(expires_at=old, **values).id for _ in range(number)]
        for _ in range(number):
            store(status="failed", created_at=old, updated_at=old)
        return expired

    return store_all


def keep(database, condition):
    """Create a trigger that silently keeps the rows that fulfil a condition."""
    if isinstance(database, peewee.SqliteDatabase):
        database.execute_sql(
            f"CREATE TRIGGER keep BEFORE DELETE ON {TABLE} WHEN {condition} "
            "BEGIN SELECT RAISE(IGNORE); END"
        )
    else:
        database.execute_sql(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        )
        database.execute_sql(
            f"CREATE TRIGGER keep BEFORE DELETE ON {TABLE} FOR EACH ROW WHEN ({condition}) "
            "EXECUTE FUNCTION keep()"
        )


def refuse(database, condition, text, code="P0001"):
    """Create a trigger that raises an error for the rows that fulfil a condition."""
    if isinstance(database, peewee.SqliteDatabase):
        database.execute_sql(
            f"CREATE TRIGGER refuse BEFORE DELETE ON {TABLE} WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{text}'); END"
        )
    else:
        database.execute_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN RAISE EXCEPTION '{text}' USING ERRCODE = '{code}'; END$$"
        )
        database.execute_sql(
            f"CREATE TRIGGER refuse BEFORE DELETE ON {TABLE} FOR EACH ROW WHEN ({condition}) "
            "EXECUTE FUNCTION refuse()"
        )


def test_all_that_a_trigger_keeps(due, Content, database):
    due(30)
    keep(database, "true" if isinstance(database, peewee.PostgresqlDatabase) else "1")
    report = Content.cleanup()
    assert (report.deleted, report.blocked, report.left) == (0, 60, False)
    assert len(report.named) == 10
    assert {why for _, why in report.named} == {
        "a trigger, a policy or the model's own delete() keeps it"
    }
    assert Content.select().count() == 60


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_others_go(due, Content, database, batch_size):
    kept = due(40)[::7]
    Content.update(level="keep").where(Content.id.in_(kept)).execute()
    keep(database, "OLD.level = 'keep'")
    report = Content.cleanup(batch_size=batch_size)
    assert (report.expired, report.failed, report.left) == (34, 40, False)
    assert (report.blocked, sorted(id for id, _ in report.named)) == (6, sorted(kept))
    assert {content.id for content in Content.select()} == set(kept)


@pytest.mark.plain  # a partitioned table's key has two columns
@pytest.mark.parametrize("is_deferred", [False, True])
def test_rows_that_a_table_of_the_hosts_references(due, Content, database, is_deferred):
    later = "DEFERRABLE INITIALLY DEFERRED" if is_deferred else ""
    database.execute_sql(
        f"CREATE TABLE bookmark (content varchar(36) REFERENCES {TABLE} (id) {later})"
    )
    kept = due(50)[3:20:5]
    for id in kept:
        database.execute_sql(f"INSERT INTO bookmark VALUES ('{id}')")
    report = Content.cleanup()
    assert (report.expired, report.failed, report.blocked) == (46, 50, 4)
    assert sorted(id for id, _ in report.named) == sorted(kept)
    assert all("bookmark" in why for _, why in report.named)
    assert not report.left
    database.execute_sql("DELETE FROM bookmark")
    assert Content.cleanup().expired == 4


def test_rows_for_which_a_trigger_raises(due, Content, database):
    (kept, *_) = due(20)
    Content.update(level="keep").where(Content.id == kept).execute()
    refuse(database, "OLD.level = 'keep'", "legal hold: " + "secret " * 100)
    report = Content.cleanup()
    assert (report.deleted, report.blocked) == (39, 1)
    ((id, why),) = report.named
    assert (id, why[:11], len(why)) == (kept, "legal hold:", 201)


def test_more_than_one_look_up(due, Content, database, monkeypatch):
    """Skipped rows must not fill every look-up."""
    monkeypatch.setattr("aicontent.maintenance.batches._LOOKED_UP", 5)
    kept = due(30)[:12]  # these rows expire first, so they fill two look-ups
    Content.update(level="keep").where(Content.id.in_(kept)).execute()
    keep(database, "OLD.level = 'keep'")
    report = Content.cleanup()
    assert (report.expired, report.failed, report.blocked) == (18, 30, 12)


def test_very_many_are_left(due, Content, database, monkeypatch):
    monkeypatch.setattr("aicontent.maintenance.batches._MOST_BLOCKED", 3)
    monkeypatch.setattr("aicontent.maintenance.batches._LOOKED_UP", 5)
    due(10)
    keep(database, "OLD.status = 'completed'")
    report = Content.cleanup()
    assert (report.failed, report.left) == (10, True)
    assert 3 < report.blocked <= 10


def test_a_budget_ends_also_where_nothing_goes(due, Content, database):
    due(10)
    keep(database, "OLD.id <> ''")
    asked = []
    report = Content.cleanup(batch_size=2, stop=lambda: len(asked) > 2 or asked.append(1))
    assert (report.deleted, report.left) == (0, True)
    assert 0 < report.blocked < 20


def test_a_delete_of_the_hosts(due, Content, database):
    class Host(Content):
        @classmethod
        def select(cls, *fields):
            return super().select(*fields).where(cls.type == "lesson")

        @classmethod
        def delete(cls):
            return super().delete().where(cls.level.is_null())

    kept = due(10)[:3]
    Content.update(level="keep").where(Content.id.in_(kept)).execute()
    Content.update(type="pronunciation_drill").where(Content.status == "failed").execute()
    report = Host.cleanup(failed_after=timedelta(0))
    assert (report.expired, report.failed, report.blocked) == (7, 0, 3)
    assert Content.select().count() == 13


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("command", ["DELETE", "UPDATE"])
def test_rows_that_a_policy_hides(due, Content, database, url, user, command):
    role = f"cleaner_{command.lower()}"
    due(5)
    other = Content.user.rel_model.create().id
    hidden = [
        Content.create(user=other, type="lesson", request_payload={}, expires_at=OLD).id
        for _ in range(3)
    ]
    for sql in (
        f"DROP ROLE IF EXISTS {role}",
        f"CREATE ROLE {role}",
        f"GRANT SELECT, UPDATE, DELETE ON {TABLE} TO {role}",
        f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY seen ON {TABLE} FOR SELECT USING (true)",
        f"CREATE POLICY d ON {TABLE} FOR DELETE USING ({mine(command == 'DELETE', user)})",
        f"CREATE POLICY u ON {TABLE} FOR UPDATE USING ({mine(command == 'UPDATE', user)})",
        f"SET ROLE {role}",
    ):
        database.execute_sql(sql)
    try:
        report = Content.cleanup()
    finally:
        database.execute_sql("RESET ROLE")
        database.execute_sql(f"DROP OWNED BY {role}")
        database.execute_sql(f"DROP ROLE {role}")
    assert (report.expired, report.failed, report.blocked, report.left) == (5, 5, 3, False)
    assert sorted(id for id, _ in report.named) == sorted(hidden)
    assert all("policy" in why for _, why in report.named)


OLD = datetime(2020, 1, 1, tzinfo=UTC)


def mine(is_limited, user):
    return f'"userId" = {user}' if is_limited else "true"


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_lock_keeps_neither_the_others_nor_the_other_reason(due, Content, url):
    locked = due(30)[4]
    holder = aicontent.connect(url)
    with holder.connection_context(), holder.atomic():
        other = aicontent.for_database(holder)
        list(other.select().where(other.id == locked).for_update())
        report = Content.cleanup()
    assert (report.expired, report.failed, report.blocked, report.left) == (29, 30, 0, True)
    assert Content.cleanup().expired == 1


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_rows_that_are_not_due_stay_in_other_partitions(empty):
    """Rows of two partitions may have the same ctid."""
    empty.execute_sql("CREATE TABLE users (id integer PRIMARY KEY)")
    empty.execute_sql("INSERT INTO users VALUES (1), (2)")
    aicontent.migrate(empty)
    empty.execute_sql(f"ALTER TABLE {TABLE} RENAME TO plain")
    empty.execute_sql(
        f'CREATE TABLE {TABLE} (LIKE plain INCLUDING DEFAULTS) PARTITION BY LIST ("userId")'
    )
    for n in (1, 2):
        empty.execute_sql(f"CREATE TABLE part_{n} PARTITION OF {TABLE} FOR VALUES IN ({n})")
    content = aicontent.for_database(empty)
    row = {"type": "lesson", "request_payload": {}}
    for _ in range(10):
        content.create(user=1, expires_at=OLD, **row)
        content.create(user=2, **row)
    report = content.cleanup()
    assert (report.expired, report.left) == (10, False)
    assert content.select().where(content.user == 2).count() == 10


@pytest.mark.parametrize("code", ["45000", "AB001", "22012", "55000", "0A000"])
def test_a_trigger_may_raise_any_code(due, Content, database, code):
    kept = due(10)[3]
    refuse(database, f"OLD.id = '{kept}'", "a legal hold", code)
    report = Content.cleanup()
    assert (report.deleted, report.blocked, report.left) == (19, 1, False)
    assert report.named == ((kept, "a legal hold"),)


def test_it_can_be_stopped_while_it_looks_for_who_is_blocked(due, Content, database):
    due(50)
    refuse(database, "OLD.status <> 'x'", "a legal hold")
    calls = iter(range(1000))
    report = Content.cleanup(stop=lambda: next(calls) == 12)
    assert (report.deleted, report.left) == (0, True)
    assert report.blocked < 12


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_several_that_are_serializable(fill, Content, url):
    fill(600, expires_at=OLD)
    url += "&options=-c%20default_transaction_isolation%3Dserializable"
    databases = [aicontent.connect(url) for _ in range(3)]
    models = [aicontent.for_database(each) for each in databases]
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda model: model.cleanup(batch_size=20), models))
    for database in databases:
        database.close()
    left = Content.select().count()
    assert sum(report.deleted for report in reports) == 600 - left
    assert left == 0 or any(report.left for report in reports)


def test_another_error_is_raised(due, Content, database, kind):
    """The cleanup skips rows only for errors that a row causes."""
    due(3)

    def fail(statement):
        if statement[0].startswith("DELETE"):
            raise peewee.OperationalError("the disk is full")

    with on_statement(fail), pytest.raises(peewee.OperationalError, match="disk is full"):
        Content.cleanup()
    assert not database.in_transaction()
    assert Content.select().count() == 6
