"""PostgreSQL servers with other encodings and date styles, and times that no driver can read."""

from __future__ import annotations

import peewee
import pytest

import aicontent
from aicontent.table import TABLE
from helpers import plain, run_here

MADE = {"title": "En la cafetería", "n": [1.5, None]}
EMOJI = {"title": "\U0001f600 東京"}


@pytest.fixture
def server_url(server):
    """Create a database with these options and session settings."""
    names = []

    def make(options="", **settings):
        name = server.create(options=options)
        names.append(name)
        for setting, value in settings.items():
            server._admin.execute_sql(f"ALTER DATABASE \"{name}\" SET {setting} TO '{value}'")
        return server.url_of(name)

    yield make
    for name in names:
        server.drop(name)


def use(url, document=MADE):
    """Call every operation that depends on the database's encoding or date style."""
    database = aicontent.connect(url)
    aicontent.migrate(database, create_users=True)
    model = aicontent.for_database(database)
    user = model.user.rel_model.create().id
    made = model.get_or_generate(user, "lesson", {"q": "¿qué?"}, lambda content: document)
    again = model.get_or_generate(user, "lesson", {"q": "¿qué?"}, never, wait=0)
    assert (again, again.generated_data, again.type) == (made, document, "lesson")
    reused = model.reuse(user, "lesson")
    assert (reused, reused.is_reusable(), reused.created_at.tzinfo is None) == (made, True, False)
    assert model.get(model.generated_data == document) == made
    assert model.get(model.generated_data["title"] == document["title"]) == made
    made.level = "é"
    made.metadata = document
    made.save()
    model.create_many([{"user": user, "type": "lesson", "request_payload": document}])
    model.bulk_update([made], ["metadata", "level"])
    assert all(c.metadata in (document, None) for c in model.select())
    lines = list(aicontent.export_lines(database))
    assert aicontent.import_lines(database, lines, on_conflict="replace").refused == 0
    assert aicontent.stats(database).groups
    assert model.request(user, "lesson", {"n": 1}, level="ñ").expires_at is None
    assert model.claim().metadata == document or model.claim().level == "ñ"
    problems = aicontent.check(database)
    database.close()
    return problems


def never(_):
    raise AssertionError("it is stored")


C_LOCALE = "LC_COLLATE 'C' LC_CTYPE 'C'"


def test_a_database_of_no_encoding(server_url):
    url = server_url(f"ENCODING 'SQL_ASCII' {C_LOCALE}")
    (problem,) = use(url, EMOJI)
    assert problem.startswith("the database's encoding is SQL_ASCII, which")
    assert run_here("check", "--database", url)[0] == 1


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP"])
def test_a_database_of_another_encoding(server_url, encoding):
    url = server_url(f"ENCODING '{encoding}' {C_LOCALE}")
    document = {"title": "東京"} if encoding == "EUC_JP" else MADE
    if encoding == "EUC_JP":
        database = aicontent.connect(url)
        aicontent.migrate(database, create_users=True)
        model = aicontent.for_database(database)
        user = model.user.rel_model.create().id
        made = model.get_or_generate(user, "lesson", {}, lambda content: document)
        assert model.get(model.generated_data == document) == made
    else:
        (problem,) = use(url, document)
        assert f"encoding is {encoding}" in problem
        database = aicontent.connect(url)
        model = aicontent.for_database(database)
        user = model.user.rel_model.create().id
    with pytest.raises(aicontent.GeneratedContentError) as caught:
        model.get_or_generate(user, "lesson", {"n": 2}, lambda content: {"title": "\U0001f600"})
    assert caught.value.generated == {"title": "\U0001f600"}
    assert model.get(model.status == "failed").metadata["lastFailure"]
    database.close()


@pytest.mark.parametrize("style", ["German", "SQL, DMY", "Postgres"])
def test_other_dates(server_url, style):
    assert use(server_url(DateStyle=style)) == []


def test_other_settings_of_a_server(server_url):
    url = server_url(
        client_encoding="SQL_ASCII",
        quote_all_identifiers="on",
        TimeZone="Asia/Tokyo",
        standard_conforming_strings="off",
        default_transaction_isolation="repeatable read",
        extra_float_digits="0",
        bytea_output="escape",
        IntervalStyle="sql_standard",
    )
    assert use(url, EMOJI) == []


def test_check_tells_of_a_database_that_the_host_has_opened(server_url):
    url = server_url(client_encoding="LATIN1", DateStyle="German")
    aicontent.migrate(aicontent.connect(url), create_users=True)
    prefers = url.startswith("postgresql+psycopg:")
    database = peewee.PostgresqlDatabase(plain(url), prefer_psycopg3=prefers)
    problems = aicontent.check(database)
    assert "the client's encoding is LATIN1, which" in problems[0]
    if prefers:  # psycopg2 sets the date style on connecting
        assert "the server writes dates as German, DMY, which" in problems[1]
    database.close()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "moment", ["infinity", "-infinity", "10000-01-01", "0001-01-01", "0044-03-15 BC", "9999-12-31"]
)
def test_times_that_a_driver_cannot_read_are_refused(store, database, moment):
    """Without the constraint, a row could be stored and never read again."""
    content = store()
    columns = ("expiresAt", "lastAccessedAt", "createdAt", "leaseExpiresAt", "retryAt")
    for column in columns:
        with pytest.raises(peewee.IntegrityError, match=f"{column}_range"):
            database.execute_sql(f'UPDATE {TABLE} SET "{column}" = %s', (moment,))
    database.execute_sql(f'UPDATE {TABLE} SET "updatedAt" = %s', (moment,))  # the trigger sets it
    last = "9999-12-30 23:59:59.999999+00"
    for zone in ("Pacific/Kiritimati", "Etc/GMT+12"):
        database.execute_sql(f"SET TimeZone TO '{zone}'")
        for value in (last, "0001-01-02 00:00:00+00"):
            database.execute_sql(f'UPDATE {TABLE} SET "expiresAt" = %s', (value,))
            assert type(content).get_by_id(content.id).is_expired() is (value != last)


@pytest.mark.parametrize("path", ["nosuch", ""])
def test_a_search_path_without_a_schema(server_url, path):
    url = server_url(search_path=path)
    database = aicontent.connect(url)
    (problem,) = aicontent.check(database)
    assert problem.startswith("no schema of the search path")
    with pytest.raises(aicontent.MigrationError, match="no schema of the search path"):
        aicontent.migrate(database, create_users=True)
    database.close()


def test_a_hosts_connection_that_decodes_no_text(server_url):
    """psycopg 3 returns bytes from a database without an encoding; connect() would set one."""
    pytest.importorskip("psycopg")
    options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    url = plain(server_url(options))
    database = peewee.PostgresqlDatabase(url, prefer_psycopg3=True)
    with pytest.raises(aicontent.MigrationError, match="encoding is SQL_ASCII.*connect"):
        aicontent.migrate(database, create_users=True)
    assert ["SQL_ASCII" in problem for problem in aicontent.check(database)] == [True]
    database.close()
