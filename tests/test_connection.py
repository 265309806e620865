"""Test connect() with valid and invalid URLs."""

from __future__ import annotations

import socket
from importlib.util import find_spec

import peewee
import pytest

import aicontent
from aicontent.connection import redact
from helpers import plain, run_python, run_together

SECRET = "s3cr-et"


def test_sqlite_settings(tmp_path):
    database = aicontent.connect(f"sqlite:///{tmp_path}/content.db")
    assert database.is_closed()
    assert database.foreign_keys == 1
    assert database.journal_mode == "wal"
    assert database.synchronous == 1
    database.close()


def test_a_relative_file_and_one_with_odd_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    aicontent.connect("sqlite:///content.db").close()
    aicontent.connect("sqlite:///a%20b%3Fc.db").close()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"content.db", "a b?c.db"} <= names


def test_in_memory():
    database = aicontent.connect("sqlite:///:memory:")
    aicontent.migrate(database, create_users=True)
    model = aicontent.for_database(database)
    user = model.user.rel_model.create()
    assert model.create(user=user, type="lesson", request_payload={}).id
    database.close()


def test_postgres_url_forms(server, make_url):
    url = make_url("postgresql")
    database = aicontent.connect(plain(url).replace("postgresql://", "postgres://"))
    assert isinstance(database, peewee.PostgresqlDatabase)
    assert database.is_closed()
    assert database.execute_sql("SELECT 1").fetchone() == (1,)
    database.close()


PREPARED = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[2].split(",")))  # as if they were not installed
import aicontent
database = aicontent.connect(sys.argv[1])
model = aicontent.for_database(database)
user = model.user.rel_model.create()
model.create(user=user, type="lesson", status="completed", request_payload={})
for _ in range(10):
    model.reuse(user, "lesson")
sql = "SELECT count(*) FROM pg_prepared_statements WHERE starts_with(statement, 'UPDATE')"
print(sys.modules.get("psycopg2") and "psycopg2", *database.execute_sql(sql).fetchone())
"""


@pytest.mark.skipif(find_spec("psycopg") is None, reason="psycopg 3 is not installed")
@pytest.mark.parametrize(
    ("scheme", "missing", "expected"),
    [
        ("postgresql+psycopg://", "none", "psycopg2 1"),
        ("postgresql+psycopg://", "psycopg2", "None 1"),
        ("postgresql://", "psycopg2", "None 0"),
        ("postgresql://", "none", "psycopg2 0"),
    ],
)
def test_only_the_url_of_psycopg_3_has_statements_prepared(make_url, scheme, missing, expected):
    url = plain(make_url("postgresql", True)).replace("postgresql://", scheme)
    ran = run_python(PREPARED, url, missing)
    assert (ran.stdout.strip(), ran.stderr) == (expected, "")


@pytest.mark.parametrize(
    ("scheme", "missing", "remedy"),
    [
        ("postgresql+psycopg://", "psycopg", "pip install 'psycopg[binary]', or use postgresql://"),
        ("postgresql+psycopg://", "psycopg,psycopg2", "pip install 'psycopg[binary]'"),
        ("postgresql://", "psycopg,psycopg2", "pip install psycopg2-binary"),
    ],
)
def test_a_driver_that_is_missing(scheme, missing, remedy):
    ran = run_python(PREPARED, f"{scheme}ada:{SECRET}@127.0.0.1:1/db", missing)
    assert "DatabaseUnavailableError" in ran.stderr
    assert remedy in ran.stderr
    assert SECRET not in ran.stderr


@pytest.mark.parametrize(
    "url",
    [
        "content.db",
        "",
        None,
        " sqlite:///x.db",
        "sqlite:///%00.db",
        "sqlite:///x\ny.db",
        "mysql://localhost/x",
        "http://[::1",
        "sqlite://content.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///x.db?mode=rw",
        "postgresql://u:p/ss@host/db",
        "postgresql://u:p@ss@host/db",
        "postgresql://u:p#ss@host/db",
        "postgresql://u:p?ss@host/db",
        "postgresql://host:port/db",
        "postgresql://host/db?sslmode",
        "postgresql://host/db?nonsense=1",
        "postgresql://u:100%@host/db",
    ],
)
def test_malformed_urls(url):
    with pytest.raises(aicontent.DatabaseURLError, match=r"slashes|use |two options"):
        aicontent.connect(url)


def test_a_file_that_must_exist(tmp_path):
    url = f"sqlite:///{tmp_path}/content.db"
    with pytest.raises(aicontent.DatabaseUnavailableError, match="there is no SQLite database"):
        aicontent.connect(url, must_exist=True)
    assert list(tmp_path.iterdir()) == []
    aicontent.connect(url)
    aicontent.connect(url, must_exist=True)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/db",
        f"postgresql://ada:{SECRET}@/db?host=/nowhere",
        f"postgresql://127.0.0.1:1/db?user=ada&password={SECRET}",
        f"postgresql://ada:{SECRET}/x@127.0.0.1:1/db",
        f"postgresql://ada:{SECRET}@x@127.0.0.1:1/db",
        f"postgresql://ada:{SECRET}?@127.0.0.1:1/db",
        f"postgresql://ada:{SECRET}#@127.0.0.1:1/db",
        f"postgresql://ada:x@{SECRET}@127.0.0.1:1/db",
        f"postgresql://ada:x/{SECRET}@127.0.0.1:1/db",
        f"postgresql://ada:x?{SECRET}@127.0.0.1:1/db",
        f"Postgres://ada:{SECRET}@127.0.0.1:1/db",
        f"POSTGRESQL://ada:{SECRET}@127.0.0.1:1/db",
        f" postgres://ada:{SECRET}@127.0.0.1:1/db",
        f"post\ngres://ada:{SECRET}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=ada&pass%77ord={SECRET}",
        f"postgresql://127.0.0.1:1/db?user=ada&password=s@{SECRET}",
        f"postgresql://127.0.0.1:1/db?user=ada&sslpassword={SECRET}&password={SECRET}",
        f"nosql://ada:{SECRET}@127.0.0.1/db",
        f"sqlite://ada:{SECRET}@host/db",
    ],
)
def test_no_error_shows_a_password(url):
    with pytest.raises((aicontent.DatabaseURLError, aicontent.DatabaseUnavailableError)) as caught:
        aicontent.connect(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__
    assert SECRET not in redact(url)


def test_redact_keeps_the_rest():
    url = "postgresql://ada:secret@db:5432/app?sslmode=require"
    assert redact(url) == "postgresql://ada@db:5432/app?sslmode=require"
    assert redact("postgresql+psycopg://ada:x@db/app") == "postgresql+psycopg://ada@db/app"
    assert redact("postgresql://ada:x@/app?host=/run/pg") == "postgresql://ada@/app?host=/run/pg"
    assert redact("sqlite:///content.db") == "sqlite:///content.db"


def test_a_server_that_does_not_answer():
    with pytest.raises(aicontent.DatabaseUnavailableError, match=r"cannot reach .*127\.0\.0\.1"):
        aicontent.connect("postgresql://ada@127.0.0.1:1/db")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(aicontent.DatabaseUnavailableError, match="timeout"):
            aicontent.connect(f"postgresql://ada@127.0.0.1:{port}/db", timeout=1)


def test_a_database_that_is_not_there(server):
    with pytest.raises(aicontent.DatabaseUnavailableError, match='"nowhere" does not exist'):
        aicontent.connect(server.url_of("nowhere"))


def test_sqlite_files_that_cannot_be_opened(tmp_path):
    (tmp_path / "text.db").write_text("certainly not a database, and long enough to tell" * 20)
    for name, remedy in (
        ("missing/content.db", "folder .*missing does not exist: create it"),
        ("", "it is a folder|three slashes"),
        ("text.db", "not a SQLite database"),
    ):
        with pytest.raises(
            (aicontent.DatabaseUnavailableError, aicontent.DatabaseURLError), match=remedy
        ):
            aicontent.connect(f"sqlite:///{tmp_path}/{name}")


def test_a_locked_file_is_waited_for_only_so_long(tmp_path):
    path = tmp_path / "content.db"
    holder = peewee.SqliteDatabase(path)
    holder.execute_sql("CREATE TABLE t (x)")
    with (
        holder.transaction("EXCLUSIVE"),
        pytest.raises(aicontent.DatabaseUnavailableError, match="another process holds its lock"),
    ):
        aicontent.connect(f"sqlite:///{path}", timeout=0.1)
    holder.close()


def test_processes_that_open_a_new_file_together(tmp_path):
    code = "import sys, aicontent; sys.stdin.read(); aicontent.connect(sys.argv[1], timeout=30)"
    outputs = run_together(code, f"sqlite:///{tmp_path}/content.db")
    assert outputs == [("", "")] * 8
