"""Test tables partitioned by user: create, migrate, roll back, check, and refuse."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import peewee
import pytest

import aicontent
from aicontent.database.supported import backend_of
from aicontent.schema.history import available
from aicontent.schema.migrate import migration_sql
from aicontent.table import TABLE
from helpers import on_statement, partitions_in, run_here, someone_waits_for_a_lock

NAMES = available()

on_postgresql = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
on_partitions = pytest.mark.parametrize("kind", ["postgresql-partitioned"], indirect=True)


def partitions(database):
    return backend_of(database).catalog(database).partitions(TABLE)


@on_postgresql
def test_the_form_of_a_new_table_is_chosen(empty):
    assert aicontent.migrate(empty, create_users=True, partitions=5) == NAMES
    assert [(each.modulus, each.remainder) for each in partitions(empty)] == [
        (5, remainder) for remainder in range(5)
    ]
    assert aicontent.check(empty) == []
    # A deployment runs the same command again.
    assert aicontent.migrate(empty, partitions=5) == []
    assert aicontent.migrate(empty) == []


@on_postgresql
def test_a_migration_at_a_time(empty, tmp_path):
    """Later migrations change the partitions of an existing table."""
    directory = tmp_path / "migrations"
    directory.mkdir()
    source = aicontent.schema.history.MIGRATIONS
    for name in NAMES:
        shutil.copy(source / f"{name}.py", directory)
        migrated = aicontent.migrate(empty, True, partitions=2, directory=directory)
        assert migrated == [name]
        assert len(partitions(empty)) == 2
    assert aicontent.check(empty) == []
    whole = compression(empty)
    assert len(set(whole.values())) == 1
    for name in reversed(NAMES):
        assert aicontent.rollback(empty) == [name]
    assert not [name for name in empty.get_tables() if name.startswith(TABLE)]
    assert aicontent.migrate(empty, partitions=3) == NAMES
    assert len(partitions(empty)) == 3


def compression(database):
    """Return the compression methods in the table and in each partition."""
    rows = database.execute_sql(
        "SELECT relname, string_agg(attcompression::text, '') FROM pg_attribute a "
        "JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND a.attnum > 0 "
        f"WHERE relname LIKE '{TABLE}%%' GROUP BY relname"
    ).fetchall()
    return dict(rows)


@on_postgresql
def test_the_printed_sql_makes_the_same(empty, make_url):
    other = aicontent.connect(make_url("postgresql"))
    aicontent.migrate(other, create_users=True, partitions=4)
    with empty.atomic():
        for sql in migration_sql(empty, True, partitions=4):
            if not sql.startswith("--"):
                empty.execute_sql(sql)
    catalogs = [backend_of(each).catalog(each) for each in (empty, other)]
    assert catalogs[0].definitions(TABLE) == catalogs[1].definitions(TABLE)
    assert partitions(empty) == partitions(other)
    assert migration_sql(empty, partitions=4) == []
    other.close()


@pytest.mark.parametrize("kind", ["postgresql", "postgresql-partitioned"], indirect=True)
def test_a_table_of_another_form_is_refused(database, store, kind):
    store()
    form = "has 3 partitions, which" if kind == "postgresql-partitioned" else "is not partitioned"
    for call in (aicontent.migrate, migration_sql):
        with pytest.raises(aicontent.MigrationError, match=rf"{form}.* export its content"):
            call(database, partitions=8)
    assert aicontent.check(database) == []


@pytest.mark.parametrize("number", [0, -1, 1025, True, 2.0, "8"])
@on_postgresql
def test_a_number_that_is_none(empty, number):
    with pytest.raises(aicontent.ArgumentError, match="partitions: must be an int from 1 to 1024"):
        aicontent.migrate(empty, create_users=True, partitions=number)
    assert empty.get_tables() == []


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_sqlite_has_none(empty_url, empty):
    for call in (aicontent.migrate, migration_sql):
        with pytest.raises(aicontent.UnsupportedDatabaseError, match="SQLite has none"):
            call(empty, create_users=True, partitions=2)
    assert empty.get_tables() == []
    arguments = ("migrate", "--database", empty_url, "--create-users", "--partitions")
    status, _, errors = run_here(*arguments, "2")
    assert (status, "SQLite has none" in errors) == (2, True)
    assert run_here(*arguments, "0")[0] == 2


@on_postgresql
def test_the_command(empty_url, empty):
    arguments = ("migrate", "--database", empty_url, "--create-users", "--partitions", "2")
    status, output, _ = run_here(*arguments, "--dry-run")
    assert (status, output.count("PARTITION OF")) == (0, 2)
    assert empty.get_tables() == []
    assert run_here(*arguments)[0] == 0
    assert run_here(*arguments)[1] == "up to date\n"
    assert len(partitions(empty)) == 2


@on_partitions
def test_check_tells_of_a_missing_partition(database):
    table, bounds = f'"{TABLE}"', "FOR VALUES WITH (MODULUS 3, REMAINDER 1)"
    database.execute_sql(f"ALTER TABLE {table} DETACH PARTITION {TABLE}_p1")
    (problem,) = aicontent.check(database)
    assert "lacks the partitions of modulus 3 with these remainders: 1." in problem
    assert bounds in problem
    database.execute_sql(f"ALTER TABLE {table} ATTACH PARTITION {TABLE}_p1 {bounds}")
    assert aicontent.check(database) == []


@on_partitions
def test_a_partition_can_be_split(database, store, Content):
    """Manual SQL replaces a partition with two that have twice its modulus."""
    stored = {store(user=Content.user.rel_model.create()).id for _ in range(20)}
    with database.atomic():
        database.execute_sql(f"ALTER TABLE {TABLE} DETACH PARTITION {TABLE}_p2")
        for remainder in (2, 5):
            database.execute_sql(
                f"CREATE TABLE {TABLE}_p2_{remainder} PARTITION OF {TABLE} "
                f"FOR VALUES WITH (MODULUS 6, REMAINDER {remainder})"
            )
        database.execute_sql(f"INSERT INTO {TABLE} SELECT * FROM {TABLE}_p2")
        database.execute_sql(f"DROP TABLE {TABLE}_p2")
    assert aicontent.check(database) == []
    assert aicontent.migrate(database, partitions=3) == []
    assert {content.id for content in Content.select()} == stored


@on_partitions
def test_check_tells_of_a_trigger_that_is_off_in_one_partition(database):
    database.execute_sql(f"ALTER TABLE {TABLE}_p0 DISABLE TRIGGER USER")
    (problem,) = aicontent.check(database)
    assert "trigger update_ai_generated_content_updated_at differs" in problem


@on_partitions
def test_errors_of_a_partition_are_those_of_the_table(store, Content, user):
    stored = store(id="one")
    with pytest.raises(aicontent.DuplicateIdError):
        store(id="one")
    with pytest.raises(aicontent.DuplicateIdError):
        Content.create_many([{"id": "one", "user": user, "type": "lesson", "request_payload": {}}])
    with pytest.raises(aicontent.UnknownUserError):
        store(user=10**6)
    in_flight = {"status": "pending", "fingerprint": "0" * 64}
    store(**in_flight)
    with pytest.raises(aicontent.DuplicateRequestError):
        store(**in_flight)
    assert Content.get_by_id("one") == stored


@on_partitions
def test_a_table_of_the_hosts_references_both_columns_of_the_key(database, store, Content):
    database.execute_sql(
        'CREATE TABLE bookmark (content varchar(36), "user" integer, '
        f'FOREIGN KEY (content, "user") REFERENCES {TABLE} (id, "userId"))'
    )
    kept = store()
    database.execute_sql("INSERT INTO bookmark VALUES (%s, %s)", (kept.id, kept.user_id))
    with pytest.raises(peewee.IntegrityError):
        kept.delete_instance()
    assert Content.select().count() == 1


@on_partitions
def test_the_user_of_a_row_can_change(store, Content, user):
    """The row then moves to another partition."""
    other = Content.user.rel_model.create().id
    content = store()
    content.user = other
    content.level = "B1"
    content.save()
    content.mark_accessed()
    assert Content.get_by_id(content.id, other).level == "B1"
    with pytest.raises(Content.DoesNotExist):
        Content.get_by_id(content.id, user)
    assert Content.reuse(user, "lesson") is None
    assert Content.reuse(other, "lesson") == content


@on_partitions
def test_an_import_that_replaces_gives_a_row_to_another_user(database, store, Content, user):
    other = Content.user.rel_model.create().id
    store(id="a", attempts=7)
    line = b'{"id":"a","userId":%d,"type":"lesson","requestPayload":{},"attempts":1}\n' % other
    for conflict, counts in (
        ("error", (0, 0, 0, 1)),
        ("skip", (0, 0, 1, 0)),
        ("replace", (0, 1, 0, 0)),
    ):
        report = aicontent.import_lines(database, [line], on_conflict=conflict)
        assert (report.stored, report.replaced, report.skipped, report.refused) == counts
    (row,) = Content.select()
    assert (row.user_id, row.attempts) == (other, 7)
    (line,) = aicontent.export_lines(database)
    same = line.replace(b'"userId":%d' % other, b'"userId":%d' % user)
    assert aicontent.import_lines(database, [same], on_conflict="replace").replaced == 1


@on_partitions
def test_a_row_that_was_given_to_another_user_meanwhile(Content, user, database):
    """complete() and save() write the row although the instance names the previous user."""
    other = Content.user.rel_model.create().id
    Content.request(user, "lesson", {})
    content = Content.claim()
    Content.update(user=other).where(Content.id == content.id).execute()
    content.extend_lease(60)
    content.complete({"title": "Tea"})
    content.level = "A1"
    content.save()
    (row,) = Content.select()
    assert (row.user_id, row.status, row.level) == (other, "completed", "A1")


@on_partitions
def test_two_users_rows_of_one_id(store, Content, user):
    """The table allows both rows, and an instance represents only its user's row."""
    other = Content.user.rel_model.create().id
    mine, theirs = store(id="same"), store(id="same", user=other)
    mine.level = "A1"
    mine.save()
    mine.mark_accessed()
    mine.level = "A2"
    Content.bulk_update([mine], ["level"])
    assert Content.get_by_id("same", other).level is None
    assert Content.get_by_id("same", other).usage_count == 0
    assert mine.delete_instance() == 1
    assert list(Content.select()) == [theirs]


def test_a_user_who_is_none_is_a_mistake(store, Content, user):
    content = store()
    with pytest.raises(aicontent.ValidationError, match="^user: "):
        Content.get_by_id(content.id, None)
    other = Content.user.rel_model.create().id
    with pytest.raises(Content.DoesNotExist, match="for this user"):
        Content.get_by_id(content.id, other)


@on_postgresql
def test_a_form_that_no_migration_makes(empty):
    aicontent.migrate(empty, create_users=True, partitions=1)
    with empty.atomic():
        empty.execute_sql(f"ALTER TABLE {TABLE} DETACH PARTITION {TABLE}_p0")
        assert aicontent.check(empty) == [
            f"{TABLE} has no partitions: attach them again, or restore them from a backup"
        ]
        empty.execute_sql(f"ALTER TABLE {TABLE}_p0 RENAME TO plain")
        empty.execute_sql(f"DROP TABLE {TABLE}")
        empty.execute_sql(
            f'CREATE TABLE {TABLE} (LIKE plain INCLUDING ALL) PARTITION BY RANGE ("userId")'
        )
        problems = [each for each in aicontent.check(empty) if "partition" in each]
    (problem,) = problems
    assert problem.startswith("partition key differs from the migrations, so move the content")


@on_partitions
def test_each_statement_for_a_user_asks_one_partition(store, Content, user, database):
    """This includes the waiter's query, the rescue of one row, and the cleanup's batches."""

    def ask(**options):
        return Content.get_or_generate(user, "lesson", {"n": 1}, lambda content: {}, **options)

    def wait_for_another():
        Content.request(user, "lesson", {"n": 2})
        Content.claim(lease=1e-6)
        Content.get_or_generate(user, "lesson", {"n": 2}, lambda content: {})

    def clean_up():
        past = datetime(2020, 1, 1, tzinfo=UTC)
        for each in [Content.user.rel_model.create().id for _ in range(20)]:
            store(user=each, expires_at=past)
        found = []
        with on_statement(found.append):
            assert Content.cleanup().deleted == 20
        return [each for each in found if "SKIP LOCKED" in each[0] or each[0].startswith("DELETE")]

    ask()
    for call in (
        ask,
        lambda: ask(mark=False),
        lambda: ask(refresh=True),
        wait_for_another,
        clean_up,
    ):
        found = []
        with on_statement(found.append):
            statements = call()
        chosen = statements if isinstance(statements, list) else found
        assert chosen
        for sql, parameters in chosen:
            is_claim = "SKIP LOCKED" in sql and '"userId" = ' not in sql and "ANY" not in sql
            if sql.split()[0] in ("SELECT", "UPDATE", "DELETE", "INSERT") and not is_claim:
                rows = database.execute_sql(f"EXPLAIN {sql}", parameters).fetchall()
                plan = "\n".join(row[0] for row in rows)
                assert len(partitions_in(plan)) <= 1, f"{sql}\n{plan}"


@on_partitions
def test_errors_of_a_partition_of_another_name(database, store, Content, user):
    with database.atomic():
        for remainder in range(3):
            database.execute_sql(f"ALTER TABLE {TABLE} DETACH PARTITION {TABLE}_p{remainder}")
            database.execute_sql(
                f"CREATE TABLE mine_{remainder} PARTITION OF {TABLE} "
                f"FOR VALUES WITH (MODULUS 3, REMAINDER {remainder})"
            )
    assert aicontent.check(database) == []
    store(id="one", status="pending", fingerprint="0" * 64)
    with pytest.raises(aicontent.DuplicateIdError):
        store(id="one")
    with pytest.raises(aicontent.DuplicateRequestError):
        store(status="pending", fingerprint="0" * 64)


@on_partitions
def test_a_row_that_moves_while_others_use_it(url, store, Content, user, database):
    """Another transaction moves the row to another user, and commits while a call waits for it."""
    other = Content.user.rel_model.create().id
    calls = {
        "save": lambda content: content.save(),
        "mark_accessed": lambda content: content.mark_accessed(),
        "reuse": lambda content: Content.reuse(user, "lesson"),
    }
    for call in calls.values():
        content = store(user=user)
        content.level = "A1"
        mover = aicontent.connect(url)
        mover.begin()
        mover.execute_sql(f'UPDATE {TABLE} SET "userId" = %s WHERE id = %s', (other, content.id))
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(within, database, call, content)
            while not someone_waits_for_a_lock(mover):
                pass
            mover.commit()
            waiting.result(timeout=30)
        mover.close()
        Content.delete().execute()


def within(database, call, content):
    with database.connection_context():
        call(content)


@on_partitions
def test_imports_at_once_store_no_id_twice(url, Content, user):
    users = [user, *(Content.user.rel_model.create().id for _ in range(9))]
    line = '{{"id":"{}","userId":{},"type":"lesson","requestPayload":{{}}}}\n'

    def run(seed):
        rng = random.Random(seed)
        database = aicontent.connect(url)
        lines = [line.format(n, rng.choice(users)).encode() for n in range(60)]
        for _ in range(4):
            rng.shuffle(lines)
            assert aicontent.import_lines(database, lines, on_conflict="replace").refused == 0
        database.close()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(run, range(3)))
    assert Content.select().count() == 60


@on_partitions
def test_a_line_that_ends_a_request_as_it_moves(database, Content, user):
    other = Content.user.rel_model.create().id
    mine, theirs = Content.request(user, "lesson", {}), Content.request(other, "lesson", {})
    (line,) = aicontent.export_lines(database, user=user)
    ended = line.replace(b'"userId":%d' % user, b'"userId":%d' % other)
    ended = ended.replace(b'"status":"pending"', b'"status":"completed"')
    assert aicontent.import_lines(database, [ended], on_conflict="replace").replaced == 1
    assert Content.get_by_id(mine.id, other).status == "completed"
    assert Content.get_by_id(theirs.id, other).status == "pending"
