"""Test check(): its schema files match the migrations, and it detects damage."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta

import peewee
import pytest

import aicontent
from aicontent.database.supported import backend_of
from aicontent.schema.history import expected_definitions
from aicontent.table import TABLE, user_id_type
from helpers import ROOT, run_here

SOURCE = ROOT / "aicontent" / "schema"


def test_the_files_say_what_the_migrations_make(database, kind):
    """AICONTENT_WRITE_SCHEMA=1 rewrites the files."""
    made = dict(sorted(backend_of(database).catalog(database).definitions(TABLE).items()))
    is_partitioned = kind == "postgresql-partitioned"
    if os.environ.get("AICONTENT_WRITE_SCHEMA") and not is_partitioned:
        path = SOURCE / f"{kind}.json"
        path.write_text(json.dumps(made, indent=2) + "\n", "utf-8")
    name, id_type = backend_of(database).name, user_id_type(database)
    assert expected_definitions(name, id_type, is_partitioned=is_partitioned) == made
    assert aicontent.check(database) == []


ON = f' ON "{TABLE}"'
ALTER = f'ALTER TABLE "{TABLE}"'
FUNCTION = "ai_generated_content_set_updated_at"
TRIGGER = "update_ai_generated_content_updated_at"

DAMAGE = {
    "DROP INDEX idx_ai_content_status": "index idx_ai_content_status is missing",
    f"DROP INDEX idx_ai_content_status ;; CREATE INDEX idx_ai_content_status{ON} (level)": (
        "index idx_ai_content_status differs from the migrations"
    ),
}
SQLITE_DAMAGE = DAMAGE | {
    f"DROP TRIGGER {TRIGGER}": f"trigger {TRIGGER} is missing",
}
POSTGRESQL_DAMAGE = DAMAGE | {
    f"DROP TRIGGER {TRIGGER}{ON}": f"trigger {TRIGGER} is missing",
    f"{ALTER} DISABLE TRIGGER {TRIGGER}": f"trigger {TRIGGER} differs",
    f"{ALTER} ENABLE REPLICA TRIGGER {TRIGGER}": f"trigger {TRIGGER} differs",
    f"CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN RETURN NEW; END'": f"trigger {TRIGGER} differs",
    f'{ALTER} DROP COLUMN "topics"': "column topics is missing",
    f'{ALTER} ALTER COLUMN "topics" TYPE json': "column topics differs",
    f'{ALTER} ALTER COLUMN "expiresAt" TYPE timestamp': "column expiresAt differs",
    f'{ALTER} ALTER COLUMN "type" DROP NOT NULL': "column type differs",
    f'{ALTER} ALTER COLUMN "status" DROP DEFAULT': "column status differs",
    f"{ALTER} DROP CONSTRAINT {TABLE}_pkey": f"constraint {TABLE}_pkey is missing",
    f"{ALTER} DROP CONSTRAINT {TABLE}_status_check": f"constraint {TABLE}_status_check is missing",
    f"{ALTER} DROP CONSTRAINT {TABLE}_status_check, "
    f"ADD CONSTRAINT {TABLE}_status_check CHECK (true)": f"constraint {TABLE}_status_check differs",
    f"{ALTER} DROP CONSTRAINT {TABLE}_userid_foreign, ADD CONSTRAINT {TABLE}_userid_foreign "
    'FOREIGN KEY ("userId") REFERENCES users (id)': f"constraint {TABLE}_userid_foreign differs",
}
CASES = [("sqlite", *case) for case in SQLITE_DAMAGE.items()]
CASES += [("postgresql", *case) for case in POSTGRESQL_DAMAGE.items()]


@pytest.mark.parametrize(("kind", "damage", "problem"), CASES, indirect=["kind"])
def test_damage_is_found(database, damage, problem):
    for statement in damage.split(" ;; "):
        database.execute_sql(statement)
    assert problem in " / ".join(aicontent.check(database))


def test_what_the_host_adds_is_no_damage(database):
    database.execute_sql(f"CREATE INDEX mine{ON} (level)")
    database.execute_sql(f"{ALTER} ADD COLUMN mine text")
    assert aicontent.check(database) == []


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_rows_whose_user_is_gone(database, store, user):
    store()
    store()
    database.foreign_keys = 0
    database.execute_sql("DELETE FROM users")
    (problem,) = aicontent.check(database)
    assert problem.startswith("2 rows belong to users that do not exist")


def test_foreign_keys_off():
    database = peewee.SqliteDatabase(":memory:")
    assert aicontent.check(database)[0].startswith("SQLite does not enforce foreign keys")


def test_a_view_in_the_place_of_the_table(empty):
    aicontent.migrate(empty, create_users=True)
    empty.execute_sql(f"DROP TABLE {TABLE}")
    empty.execute_sql(f"CREATE VIEW {TABLE} AS SELECT 1 AS id")
    assert "dropped without the migrations" in aicontent.check(empty)[0]


def test_a_table_that_was_dropped_has_a_way_out(empty):
    aicontent.migrate(empty, create_users=True)
    empty.execute_sql(f"DROP TABLE {TABLE}")
    assert "dropped without the migrations" in aicontent.check(empty)[0]
    aicontent.rollback(empty, 99)
    aicontent.migrate(empty)
    assert aicontent.check(empty) == []


def test_a_proxy(database):
    proxy = peewee.DatabaseProxy()
    proxy.initialize(database)
    assert aicontent.check(proxy) == []


def test_what_cannot_be_checked():
    with pytest.raises(aicontent.UnsupportedDatabaseError, match="got MySQLDatabase"):
        aicontent.check(peewee.MySQLDatabase("x"))


def test_leases_that_should_have_been_freed_a_day_ago(Content, user, database):
    Content.request(user, "lesson", {})
    Content.claim()
    now = datetime.now(UTC)
    Content.update(lease_expires_at=now - timedelta(hours=23)).execute()
    assert aicontent.check(database) == []
    Content.update(lease_expires_at=now - timedelta(hours=25)).execute()
    (problem,) = aicontent.check(database)
    assert problem.startswith("1 row with an expired lease should have been freed over a day ago")


def test_rows_that_should_have_gone_a_day_ago(store, database, Content):
    """check() infers from overdue rows that the cleanup does not run."""
    now = datetime.now(UTC)
    day = timedelta(days=1)
    store(expires_at=now - day / 2)
    store(status="failed", created_at=now - 1.5 * day, updated_at=now - 1.5 * day)
    assert aicontent.check(database) == []
    store(expires_at=now - 1.1 * day)
    store(status="failed", created_at=now - 2.1 * day, updated_at=now - 2.1 * day)
    (problem,) = aicontent.check(database)
    assert problem.startswith(
        "2 rows should have been deleted over a day ago: check that the cleanup timer runs"
    )
    Content.cleanup()
    assert aicontent.check(database) == []


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("hours", "text"), [(1, "behind"), (-1, "ahead of")])
def test_a_clock_that_is_off(database, hours, text):
    before = datetime.now(UTC)
    (problem,) = aicontent.check(database, now=before + timedelta(hours=hours))
    took = datetime.now(UTC) - before
    seconds = re.search(rf"([0-9,]+) s {text} this machine's", problem)[1].replace(",", "")
    # The server's clock advanced during the check, and the message has whole seconds.
    ran = -hours * (int(seconds) - 3600)
    assert -1 < ran < took.total_seconds() + 1


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_clock_that_is_right(database):
    assert aicontent.check(database) == []


def test_an_index_that_was_dropped_on_purpose(database):
    database.execute_sql("DROP INDEX idx_ai_content_usage")
    assert len(aicontent.check(database)) == 1
    assert aicontent.check(database, dropped=["idx_ai_content_usage"]) == []


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_which_indexes_served(database, store, Content):
    # PostgreSQL keeps the counters of an earlier test that used this database.
    database.execute_sql(
        "SELECT pg_stat_reset_single_table_counters(oid) FROM pg_class "
        "WHERE relname ~ 'ai_(generated_)?content'"
    )
    content = store()
    database.execute_sql("SET enable_seqscan = off")
    for _ in range(3):
        Content.get_by_id(content.id)
    database.execute_sql("SELECT pg_stat_force_next_flush()")
    database.close()
    usage = aicontent.index_usage(database)
    found = {index.name: index for index in usage.indexes}
    assert {name for name in found if name.startswith("idx")} == {
        name.removeprefix("index ")
        for name in expected_definitions(backend_of(database).name, user_id_type(database))
        if name.startswith("index idx")
    }
    assert found[f"{TABLE}_pkey"].scans >= 3
    assert not found[f"{TABLE}_pkey"].idle
    assert found["idx_ai_content_type_level"].idle
    assert found["idx_ai_content_type_level"].size > 0
    assert usage.writes == 1
    url = database.database
    status, out, err = run_here("check", "--database", url)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "ok"
    assert any(line.startswith("idx_ai_content_type_level") and "never" in line for line in lines)
    assert "updated by 1 write so far" in out
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_sqlite_counts_no_scans(database):
    assert aicontent.index_usage(database) is None


def test_rows_that_nothing_frees(Content, store, database):
    content = store(status="generating", generated_data=None)
    (problem,) = aicontent.check(database)
    assert problem.startswith("1 row generating without a lease, which nothing frees")
    Content.requeue(status="generating", ids=[content.id])
    assert aicontent.check(database) == []


def test_rows_that_no_worker_takes(Content, user, database):
    now, day = datetime.now(UTC), timedelta(days=1)
    Content.request(user, "lesson", {})
    Content.update(created_at=now - day / 2).execute()
    assert aicontent.check(database) == []
    Content.update(created_at=now - 2 * day, retry_at=now + day).execute()
    assert aicontent.check(database) == []
    Content.update(retry_at=None).execute()
    (problem,) = aicontent.check(database)
    assert problem.startswith("1 row pending for over a day: check that a worker runs")


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("level = CAST(x'ff' AS TEXT)", "content bad cannot be read (Could not decode to UTF-8"),
        ("id = x'ff'", "an id cannot be read (it is bytes)"),
        ("id = CAST(x'ff' AS TEXT)", "an id cannot be read (Could not decode"),
        ("\"generatedData\" = x'28b52ffd00'", "content bad cannot be read"),
    ],
)
def test_rows_that_cannot_be_read(store, database, change, says):
    for number in range(3):
        store(id=f"good {number}")
    store(id="bad")
    database.execute_sql(f"UPDATE ai_generated_content SET {change} WHERE id = 'bad'")
    with database.atomic():
        (problem,) = aicontent.check(database)
    assert says in problem
    assert problem.endswith("because another program wrote it: repair or delete that row")


def test_an_unknown_name_among_those_that_were_dropped(database):
    database.execute_sql("DROP INDEX idx_ai_content_usage")
    assert aicontent.check(database, dropped=["idx_ai_content_usage"]) == []
    (problem,) = aicontent.check(database, dropped=["idx_ai_content_usage", "idx_typo"])
    assert problem == "no migration creates an index idx_typo: check the dropped names"


def test_a_note_of_the_hosts_is_no_problem(store, database):
    note = "the stored request cannot be read: says the host"
    store(status="failed", metadata={"note": note, "lastFailure": {"reason": "x"}})
    store(status="failed", metadata={"lastFailure": note})
    assert aicontent.check(database) == []
