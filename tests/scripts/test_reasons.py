"""The command says the true reason of an error, in one line, with what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import peewee
import pytest

import aicontent
from helpers import PROGRAM, lines, run_program

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
    """A file system of a few megabytes."""
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
    assert not list(small.glob(".out*"))
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


@ON_POSTGRESQL
def test_time_limits_of_the_server(fill, url, database):
    fill(300)
    role = database.execute_sql("SELECT current_user").fetchone()[0]
    name = database.execute_sql("SELECT current_database()").fetchone()[0]
    commands = (*LOOKING, ["cleanup"], ["requeue"], ["rollback", "--yes"])
    for setting, says in (
        ("statement_timeout = '1ms'", "raise statement_timeout"),
        ("default_transaction_read_only = on", "primary server|is read-only"),
    ):
        database.execute_sql(f'ALTER ROLE "{role}" IN DATABASE "{name}" SET {setting}')
        try:
            for command in commands:
                status, _, err = run_program(*command, "--database", url)
                if status:
                    assert any(each in one_line(err) for each in says.split("|")), (command, err)
        finally:
            database.execute_sql(f'ALTER ROLE "{role}" IN DATABASE "{name}" RESET ALL')


@ON_POSTGRESQL
def test_a_connection_that_the_server_ends(Content, user, database, url):
    """The error of a failed rollback would say less."""
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


@ON_SQLITE
def test_too_many_open_files(store, url):
    store()
    shell = f"ulimit -n 3; exec {PROGRAM} stats --database {url}"
    ran = subprocess.run([shutil.which("bash") or "sh", "-c", shell], capture_output=True)
    if b"Error: " in ran.stderr:  # Python itself may need more
        assert b"too many open files" in ran.stderr.lower()


def test_json_stays_json(store, url):
    store()
    assert json.loads(run_program("stats", "--json", "--database", url)[1])["groups"]
