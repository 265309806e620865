"""Test the worker's command in separate processes, and its systemd unit."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers import PROGRAM, ROOT, Forked, plain, run_here, run_program, run_python

JOBS = '''
import asyncio
import os
import signal
import sys
import time
from pathlib import Path


def say(text):
    """Write a line at once, also beside other threads."""
    os.write(1, f"{text}\\n".encode())


def generate(content):
    say("generating")
    return {"title": content.request_payload["topic"]}, {"token_usage": 7}


def stumble(content):
    raise RuntimeError("the prompt")


def wait_for_signal(content):
    """Wait for a signal, which starts the timer, and then for the file `go`."""
    say("generating")
    while signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        time.sleep(0.01)
    say("noted")
    return wait(content)


def wait_here(content):
    say("generating")
    return wait(content)


def wait(content):
    while not Path("go").exists():
        time.sleep(0.01)
    return {"title": "waited"}


def hold_on(content):
    while True:
        try:
            wait_here(content)
        except:
            say("caught")


def two(content, more):
    """Takes more than a worker has."""


def leave(content):
    sys.exit(4)


def interrupt(content):
    raise KeyboardInterrupt


async def later(content):
    say("generating")
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return {"title": "later"}


async def for_ever(content):
    while True:
        try:
            await later(content)
        except asyncio.CancelledError:
            say("caught")


async def leave_later(content):
    sys.exit(4)


async def later_still(content):
    yield {}


class Nested:
    generate = staticmethod(generate)


number = 5
'''


@pytest.fixture
def jobs(tmp_path) -> Path:
    """Return a directory with the module `jobs`."""
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@pytest.fixture
def work(url, jobs):
    """Return a function that runs the command to its end, and returns status, output and errors."""

    def work(function="jobs:generate", *args):
        options = ("--database", url, *args)
        status, out, err = run_program("work", function, *options, cwd=jobs)
        return status, out.decode(), err

    return work


@pytest.fixture
def started(url, jobs) -> Iterator:
    """Yield a function that starts the command and waits until it generates.

    It returns the process.
    """
    processes = []

    def started(function, *args):
        options = ("--database", url, *args)
        processes.append(Forked("work", function, *options, cwd=jobs, text=True))
        assert processes[-1].stdout.readline() == "generating\n"
        return processes[-1]

    yield started
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


on_sqlite = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
"""Mark tests that do not depend on the backend."""


def ask(Content, user, number=1, type="lesson"):
    return [Content.request(user, type, {"topic": f"tea {n}"}).id for n in range(number)]


def rows(Content) -> list[tuple[str, int]]:
    """Return the status and failures of all rows, and assert that none has a lease."""
    columns = (Content.status, Content.failures, Content.lease_expires_at)
    found = list(Content.select(*columns).order_by(Content.created_at, Content.id).tuples())
    assert [lease for *_, lease in found] == [None] * len(found)
    return [(status, failures) for status, failures, _ in found]


def test_it_works_rows_off(work, Content, user):
    ids = ask(Content, user, 3)
    status, out, err = work("jobs:generate", "--until-empty")
    assert status == 0
    assert out == "generating\n" * 3 + "completed 3, failed 0, retried 0, released 0\n"
    assert all(f"INFO generated {id}\n" in err for id in ids)
    assert {c.generated_data["title"] for c in Content.select()} == {"tea 0", "tea 1", "tea 2"}
    assert {(c.status, c.token_usage, c.expires_at) for c in Content.select()} == {
        ("completed", 7, None)
    }


@on_sqlite
def test_the_options_of_what_it_works_off(work, Content, user):
    for type in ("lesson", "cultural_content", "vocabulary_drill"):
        ask(Content, user, 1, type)
    types = ("--type", "lesson", "--type", "cultural_content")
    status, out, err = work(
        "jobs:Nested.generate", "--until-empty", *types, "--expires-in", "600", "--json"
    )
    assert (status, "Traceback" in err) == (0, False)
    assert json.loads(out.splitlines()[-1]) == {
        "completed": 2, "failed": 0, "retried": 0, "released": 0
    }  # fmt: skip
    assert dict(Content.select(Content.type, Content.status).tuples()) == {
        "lesson": "completed", "cultural_content": "completed", "vocabulary_drill": "pending"
    }  # fmt: skip
    now = datetime.now(UTC)
    for content in Content.select().where(Content.status == "completed"):
        assert timedelta(minutes=5) < content.expires_at - now < timedelta(minutes=15)
    assert work("jobs:generate", "--until-empty", "--quiet")[1:] == ("generating\n", "")


@on_sqlite
def test_a_function_that_raises(work, Content, user):
    ask(Content, user)
    status, out, err = work("jobs:stumble", "--until-empty", "--max-attempts", "2")
    assert (status, out) == (0, "completed 0, failed 1, retried 1, released 0\n")
    assert "WARNING retried" in err
    assert "RuntimeError" in err
    assert "the prompt" not in err
    assert rows(Content) == [("failed", 2)]


@on_sqlite
def test_quiet_shows_errors_only(work, Content, user):
    ask(Content, user)
    args = ("--until-empty", "--max-attempts", "1", "--quiet")
    status, out, err = work("jobs:stumble", *args)
    assert (status, out) == (0, "")
    assert re.fullmatch(r".* ERROR error .*RuntimeError.*\n", err)


@on_sqlite
def test_the_hosts_logging_is_left_alone(work, jobs, Content, user):
    ask(Content, user)
    host = "import logging\nlogging.basicConfig(level=logging.INFO, format='host: %(message)s')\n"
    (jobs / "jobs.py").write_text(host + JOBS)
    [id] = [content.id for content in Content.select(Content.id)]
    assert work("jobs:generate", "--until-empty")[2] == f"host: generated {id}\n"


FINISHING = "finishing 1 running attempt; a second Ctrl-C releases the rows\n"


@on_sqlite
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_row_finish(started, jobs, Content, user, number):
    ask(Content, user, 2)
    process = started("jobs:wait_for_signal")
    process.send_signal(number)
    assert process.stdout.readline() == "noted\n"
    assert process.stderr.readline() == FINISHING
    (jobs / "go").touch()
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "completed 1, failed 0, retried 0, released 0\n")
    assert rows(Content) == [("completed", 0), ("pending", 0)]


@on_sqlite
def test_a_signal_prints_nothing_with_quiet(started, jobs, Content, user):
    ask(Content, user)
    process = started("jobs:wait_for_signal", "--quiet")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "noted\n"
    (jobs / "go").touch()
    assert process.communicate(timeout=60) == ("", "")


@on_sqlite
def test_a_signal_with_a_closed_standard_error_lets_the_row_finish(started, jobs, Content, user):
    ask(Content, user)
    process = started("jobs:wait_for_signal")
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "noted\n"
    (jobs / "go").touch()
    assert process.stdout.read() == "completed 1, failed 0, retried 0, released 0\n"
    assert process.wait() in (0, 120)  # Python exits with 120 if it cannot flush the log


@on_sqlite
def test_a_signal_without_a_standard_error_writes_to_no_other_file(url, jobs, Content, user):
    """The first file that such a process keeps open has the number of the standard error."""
    code = 'from jobs import *\nfile = open("notes", "w")\nassert file.fileno() == 2\n'
    (jobs / "opening.py").write_text(code)
    ask(Content, user)
    command = [PROGRAM, "work", "opening:wait_for_signal", "--database", url]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    with subprocess.Popen(shell, cwd=jobs, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "generating\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "noted\n"
            (jobs / "go").touch()
            assert process.stdout.read() == "completed 1, failed 0, retried 0, released 0\n"
        finally:
            process.kill()
    assert (jobs / "notes").read_text() == ""


@on_sqlite
def test_a_signal_promises_no_release_of_rows_whose_function_runs_in_threads(
    started, jobs, Content, user
):
    ask(Content, user, 2)
    process = started("jobs:wait_here", "--concurrency", "2")
    assert process.stdout.readline() == "generating\n"
    process.send_signal(signal.SIGINT)
    line = "finishing 2 running attempts; a function in a thread cannot be interrupted\n"
    assert process.stderr.readline() == line
    (jobs / "go").touch()
    assert process.communicate(timeout=60)[0].startswith("completed 2,")


@on_sqlite
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_releases_the_row(started, Content, user, number):
    ask(Content, user)
    process = started("jobs:wait_for_signal", "--json")
    process.send_signal(number)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert (json.loads(out)["completed"], json.loads(out)["failed"]) == (0, 0)
    assert "INFO released" in err
    assert "Traceback" not in err
    assert rows(Content) == [("pending", 0)]


@pytest.mark.parametrize(
    ("kind", "grace"), [("sqlite", "0"), ("postgresql", "0.2")], indirect=["kind"]
)
def test_a_row_that_outlasts_the_grace_is_released(started, Content, user, grace):
    ask(Content, user)
    process = started("jobs:wait_here", "--grace", grace)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "INFO released" in err
    assert (FINISHING in err) is (grace != "0")
    assert rows(Content) == [("pending", 0)]


@on_sqlite
def test_a_function_that_catches_interruptions_does_not_hold_the_worker(started, Content, user):
    ask(Content, user)
    process = started("jobs:hold_on", "--grace", "0")
    process.send_signal(signal.SIGTERM)
    for _ in range(4):
        assert process.stdout.readline() == "caught\n"
        assert process.stdout.readline() == "generating\n"
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert "Error: the function catches the interruptions that end it" in err
    assert [c.status for c in Content.select()] == ["generating"]  # until the lease expires


@pytest.mark.parametrize("function", ["jobs:later", "jobs:wait_here"])
def test_several_rows_at_a_time(started, jobs, Content, user, function):
    ask(Content, user, 5)
    process = started(function, "--until-empty", "--concurrency", "5")
    assert [process.stdout.readline() for _ in range(4)] == ["generating\n"] * 4
    (jobs / "go").touch()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "completed 5, failed 0, retried 0, released 0\n")
    assert rows(Content) == [("completed", 0)] * 5
    assert "Traceback" not in err


def test_an_async_function_takes_one_row_at_a_time_by_default(work, jobs, Content, user):
    (jobs / "go").touch()
    ask(Content, user, 2)
    assert work("jobs:later", "--until-empty")[1].splitlines()[-1].startswith("completed 2,")


@on_sqlite
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_rows_of_a_loop_finish(started, jobs, Content, user, number):
    ask(Content, user, 3)
    process = started("jobs:later", "--concurrency", "2")
    assert process.stdout.readline() == "generating\n"
    process.send_signal(number)
    assert process.stderr.readline().startswith("finishing 2 running attempts; ")
    (jobs / "go").touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    completed = int(out.splitlines()[-1].split()[1].rstrip(","))
    assert sorted(rows(Content))[:completed] == [("completed", 0)] * completed
    assert completed in (2, 3)  # both may end before the loop handles the signal


@on_sqlite
def test_rows_of_a_loop_that_outlast_the_grace_are_released(started, Content, user):
    ask(Content, user, 2)
    process = started("jobs:later", "--concurrency", "2", "--grace", "0")
    assert process.stdout.readline() == "generating\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "completed 0, failed 0, retried 0, released 2\n")
    assert rows(Content) == [("pending", 0)] * 2
    assert "Traceback" not in err


@on_sqlite
def test_an_async_function_that_catches_cancellations_does_not_hold_the_worker(
    started, Content, user
):
    ask(Content, user)
    process = started("jobs:for_ever", "--grace", "0")
    process.send_signal(signal.SIGTERM)
    for _ in range(4):
        assert process.stdout.readline() == "caught\n"
        assert process.stdout.readline() == "generating\n"
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert "Error: the function catches the interruptions that end it" in err


def test_an_idle_worker_stops_at_once(started, jobs, Content, user):
    ask(Content, user)
    (jobs / "go").touch()
    process = started("jobs:wait_here")
    while rows_are_left(Content):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "completed 1, failed 0, retried 0, released 0\n")


def rows_are_left(Content) -> bool:
    return bool(Content.select().where(Content.status != "completed").exists())


def test_a_function_that_ends_the_process_releases_the_row(work, Content, user):
    ask(Content, user)
    assert work("jobs:leave")[0] == 4
    assert work("jobs:interrupt")[0] == 1
    assert work("jobs:leave_later")[0] == 4
    assert rows(Content) == [("pending", 0)]


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_it_survives_the_loss_of_its_connection(started, jobs, url, Content, database, user):
    ask(Content, user, 2)
    process = started("jobs:wait_here", "--until-empty")
    database.execute_sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    (jobs / "go").touch()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.endswith("completed 2, failed 0, retried 0, released 0\n")
    assert plain(url) not in out


BROKEN = {
    "explodes": "raise ValueError('two\\nlines')",
    "lacks": "import no_such_dependency",
    "leaves": "raise SystemExit(3)",
    "garbled": "def (",
}


FUNCTIONS = [
    ("jobs", "jobs is not of this form: write it as in example.module:generate"),
    ("jobs:", "is not of this form"),
    (":generate", "is not of this form"),
    (".jobs:generate", "is not of this form"),
    ("nowhere:generate", "there is no module nowhere in "),
    ("jobs.py:generate", "there is no module jobs.py in "),
    ("jobs.more:generate", "there is no module jobs.more in "),
    ("explodes:f", "importing explodes fails with ValueError: two lines; `python -c "),
    ("lacks:f", "ModuleNotFoundError: No module named 'no_such_dependency'"),
    ("leaves:f", "fails with SystemExit: 3"),
    ("garbled:f", "fails with SyntaxError: "),
    ("jobs:generated", "the module jobs has no generated: check the name"),
    ("jobs:Nested.f", "the module jobs has no Nested.f: check the name"),
    ("jobs:generate()", "the module jobs has no generate()"),
    ("jobs:number", "jobs:number has the type int: name a function"),
    ("jobs:two", "jobs:two is one with other arguments; it must be a function of one argument"),
    ("jobs:later_still", "is an async generator function"),
    ("\udcff:f", "there is no module ? in "),
]

TRY_EACH = """
import json, sys
from click.testing import CliRunner
from aicontent.scripts.cli import main
for name in json.loads(sys.argv[1]):
    ran = CliRunner().invoke(main, ["work", name, "--until-empty"])
    print(json.dumps([ran.exit_code, ran.stdout, ran.stderr]))
"""


def test_a_function_that_cannot_be_called(jobs):
    for module, code in BROKEN.items():
        (jobs / f"{module}.py").write_text(code)
    ran = run_python(TRY_EACH, json.dumps([name for name, _ in FUNCTIONS]), cwd=jobs)
    for (name, message), line in zip(FUNCTIONS, ran.stdout.splitlines(), strict=True):
        status, out, err = json.loads(line)
        assert (status, out) == (2, ""), name
        last = err.splitlines()[-1]
        assert last.startswith("Error: Invalid value for MODULE:FUNCTION: ")
        assert message in last


@pytest.mark.parametrize(
    "option",
    [
        ("--type", "quiz"),
        ("--lease", "0"),
        ("--expires-in", "-1"),
        ("--grace", "-1"),
        ("--grace", "86401"),
        ("--grace", "nan"),
        ("--max-attempts", "0"),
        ("x",),
    ],
)
def test_usage_mistakes(option):
    assert run_here("work", "jobs:generate", *option)[0] == 2


def test_a_database_that_is_not_there(jobs):
    args = ("work", "jobs:generate", "--database", "sqlite:///none.db")
    status, out, err = run_program(*args, cwd=jobs)
    assert (status, out) == (1, b"")
    assert err.startswith("Error: there is no SQLite database none.db")


def test_the_help_tells_how_rows_are_retried_and_what_signals_do():
    text = " ".join(run_here("work", "--help")[1].split())
    for part in ("one second", "five minutes", "jitter", "SIGTERM", "second signal", "Exit status"):
        assert part in text


UNIT = ROOT / "scripts" / "systemd" / "aicontent-worker.service"


def test_the_unit_outwaits_the_grace():
    from aicontent.scripts.work import work

    [grace] = [option.default for option in work.params if option.name == "grace"]
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.M))
    assert int(settings["TimeoutStopSec"]) > grace
    assert settings["KillMode"] == "mixed"
    assert "--database" not in settings["ExecStart"]  # a command line would show the URL's password


def test_the_unit_is_as_confined_as_the_cleanups():
    def confinement(name: str) -> list[str]:
        text = (UNIT.parent / f"aicontent-{name}.service").read_text()
        settings = text[text.index("DynamicUser=") :].partition("[Install]")[0].splitlines()
        return [line for line in settings if line and not line.startswith("#")]

    assert confinement("worker") == confinement("cleanup")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_rates_the_unit_as_safe():
    rate = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", UNIT]
    rated = subprocess.run(rate, capture_output=True, text=True)
    assert rated.returncode == 0, rated.stdout
