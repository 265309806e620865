"""The command prints an error's actual reason and the next step in one line."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from unittest.mock import ANY

import peewee
import pytest

import aicontent
from helpers import lines, plain, run_here, run_program, run_python

ON_SQLITE = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
LOOKING = (["stats"], ["check"], ["export", "-"])


def one_line(err):
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("Error: ")
    return last


@pytest.fixture
def small(tmp_path):
    """Yield a folder on a file system of four megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(small):
    url = f"sqlite:///{small}/content.db"
    many = b"".join(
        lines(*({"id": f"{n}", "requestPayload": {"t": "x" * 4000}} for n in range(2000)))
    )
    assert run_program("migrate", "--create-users", "--database", url)[0] == 0
    status, _, err = run_program("import", "--database", url, stdin=many)
    assert (status, "disk is full: make room" in one_line(err)) == (1, True)
    status, _, err = run_program("export", str(small / "out.jsonl"), "--database", url)
    assert (status, "No space left on device" in one_line(err)) == (1, True)
    assert not list(small.glob(".aicontent*"))
    database = aicontent.connect(url)
    Content = aicontent.for_database(database)  # noqa: N806
    row = {"user": Content.user.rel_model.get(), "type": "lesson"}
    row["request_payload"] = {"text": "x" * 100_000}
    before = Content.select().count()
    for call in (
        lambda: Content.create_many([row] * 50),
        lambda: Content.bulk_create([Content(**row) for _ in range(50)]),
        lambda: aicontent.import_lines(database, many.splitlines(), on_conflict="replace"),
    ):
        with pytest.raises(peewee.OperationalError, match="disk is full"):
            call()
        assert not database.in_transaction()
    with pytest.raises(aicontent.MigrationError, match="disk is full: make room"):
        aicontent.rollback(database, 99)
    assert Content.select().count() >= before
    database.close()


@ON_SQLITE
def test_damaged_pages(fill, url, tmp_path):
    fill(300, generated_data={"text": "x" * 2000})
    original = aicontent.connect(url)
    original.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    original.close()
    data = bytearray(Path(original.database).read_bytes())
    for page in range(20, len(data) // 4096, 3):
        data[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(data)
    for command in LOOKING:
        status, _, err = run_program(*command, "--database", f"sqlite:///{damaged}")
        assert (status, "malformed" in one_line(err)) == (1, True), command
        assert "restore a backup" in err


@ON_SQLITE
def test_a_schema_that_is_no_text(store, url, database, tmp_path):
    store()
    database.pragma("wal_checkpoint", "truncate")
    database.close()
    damaged = tmp_path / "damaged.db"
    data = Path(database.database).read_bytes()
    damaged.write_bytes(data.replace(b"idx_ai_content_status", b"\xff" * 21))
    for command in (*LOOKING, ["cleanup"], ["migrate"], ["rollback", "--yes"], ["quickstart"]):
        status, _, err = run_here(*command, "--database", f"sqlite:///{damaged}")
        if status:
            assert "another program wrote" in one_line(err) or "malformed" in err, command


@ON_SQLITE
@pytest.mark.parametrize("id", ["CAST(x'ff' AS TEXT)", "x'ff01'"])
def test_ids_that_are_no_text(store, url, id):
    store(level="secret")
    connection = sqlite3.connect(aicontent.connect(url).database)
    connection.execute(f"UPDATE ai_generated_content SET id = {id}")
    connection.commit()
    connection.close()
    for command in (["stats"], ["export", "-"]):
        status, _, err = run_program(*command, "--database", url)
        assert "Traceback" not in err
        if command == ["export", "-"] or "CAST" in id:
            assert status == 1
            assert "another program wrote" in one_line(err)
            assert "with text" not in err


@contextmanager
def locked_table(url, fault):
    """Lock the table, and evaluate the SQL `fault` with the pid of each waiting connection."""
    holder, stopped = aicontent.connect(plain(url)), Event()

    def run():
        with holder.atomic():
            holder.execute_sql("LOCK TABLE ai_generated_content")
            stopped.locked.set()
            while not stopped.is_set():
                holder.execute_sql("SELECT pg_stat_clear_snapshot()")
                holder.execute_sql(
                    f"SELECT {fault} FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                    "AND datname = current_database()"
                ).fetchall()
        holder.close()

    stopped.locked = Event()
    thread = Thread(target=run)
    thread.start()
    assert stopped.locked.wait(30)
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@ON_POSTGRESQL
@pytest.mark.parametrize(
    ("fault", "options", "says"),
    [
        ("pg_terminate_backend(pid)", "", "the server ended the connection: see its log"),
        ("1", "statement_timeout%3D100", "raise statement_timeout for this role"),
    ],
)
def test_a_fault_in_the_middle_of_a_command(fill, url, database, tmp_path, fault, options, says):
    fill(20, expires_at=datetime.now(UTC) - timedelta(hours=1))
    faulty = f"{url}&options=-c%20{options}" if options else url
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_bytes(lines({"id": "new"})[0])
    with locked_table(url, fault):
        for command in (
            *LOOKING,
            ["export", str(out)],
            ["import", str(file)],
            ["cleanup"],
            ["requeue"],
            ["rollback", "--yes", "--steps", "9"],
        ):
            status, _, err = run_here(*command, "--database", faulty)
            assert (status, says in one_line(err)) == (1, True), (command, err)
    assert not out.exists()
    assert run_here("check", "--database", url)[:2] == (0, ANY)
    assert run_here("cleanup", "--json", "--database", url)[1].startswith('{"expired": 20')


@ON_POSTGRESQL
def test_a_server_that_takes_no_writes(fill, url, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_bytes(lines({"id": "new"})[0])
    fill(20, expires_at=datetime.now(UTC) - timedelta(hours=1))
    fill(1, status="failed")
    url += "&options=-c%20default_transaction_read_only%3Don"
    for command in LOOKING:
        assert run_here(*command, "--database", url)[0] == 0
    for command in (
        ["import", str(file)],
        ["cleanup"],
        ["requeue"],
        ["rollback", "--yes"],
        ["quickstart"],
    ):
        status, _, err = run_here(*command, "--database", url)
        assert status == 1, command
        assert re.search("write to the primary server|migrate the primary", one_line(err))


@ON_POSTGRESQL
def test_a_connection_that_the_server_ends(Content, user, database, url):
    """The error of the failed rollback would hide the reason."""
    other = aicontent.connect(url)
    backend = database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
    row = {"user": user, "type": "lesson", "request_payload": {}}

    def rows():
        for number in range(3):
            if number == 1:
                other.execute_sql(f"SELECT pg_terminate_backend({backend})")
            yield row

    with pytest.raises(peewee.DatabaseError) as caught:
        Content.create_many(rows())
    assert "already closed" not in str(caught.value)
    other.close()
    database.close()


def test_a_check_of_the_hosts_repeats_no_content(Content, user, database, url, kind):
    if kind == "sqlite":
        database.execute_sql(
            "CREATE TRIGGER host BEFORE INSERT ON ai_generated_content WHEN NEW.level = 'Z9' "
            "BEGIN SELECT RAISE(ABORT, 'no such level'); END"
        )
    else:
        database.execute_sql(
            "ALTER TABLE ai_generated_content ADD CONSTRAINT host CHECK (level <> 'Z9')"
        )
    row = {"level": "Z9", "requestPayload": {"text": "secret"}, "userId": user}
    status, _, err = run_program("import", "--database", url, stdin=lines(row)[0])
    assert status == 1
    assert "secret" not in err
    assert "host" in err or "no such level" in err
    with pytest.raises(peewee.IntegrityError) as caught:
        Content.create(user=user, type="lesson", level="Z9", request_payload={"text": "secret"})
    assert "secret" not in str(caught.value)


LIMITED = """
import os, resource, sys
from aicontent.scripts.cli import main
import aicontent.scripts.reading, aicontent.transfer.importer
if sys.argv[1] == "import":
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 30_000_000,) * 2)
else:
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))),) * 2)
main()
"""


@ON_SQLITE
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_too_little_memory(url, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_bytes(lines({"requestPayload": {"t": "x" * 15_000_000}})[0])
    ran = run_python(LIMITED, "import", str(file), "--database", url)
    assert ran.returncode == 1
    assert one_line(ran.stderr) == "Error: there is not enough memory"


@ON_SQLITE
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_too_many_open_files(store, url):
    store()
    ran = run_python(LIMITED, "requeue", "--database", url)
    assert ran.returncode == 1
    assert "this process has too many open files" in one_line(ran.stderr)


def test_json_stays_json(store, url):
    store()
    assert json.loads(run_program("stats", "--json", "--database", url)[1])["groups"]
