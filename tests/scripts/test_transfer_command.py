"""Test the commands export and import in separate processes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
from pathlib import Path

import pytest

import aicontent
from aicontent.scripts.reading import Ahead
from helpers import PROGRAM, Forked, lines, run_here, run_program


def test_the_commands_in_a_pipe(varied, url, make_url, tmp_path):
    to = make_url("postgresql" if url.startswith("sqlite") else "sqlite", True)
    status, data, err = run_program("export", "--database", url)
    assert (status, err) == (0, "exported 13 rows\n")
    status, out, err = run_program("import", "--database", to, stdin=data)
    assert (status, out, err) == (0, b"imported 13 new, replaced 0, skipped 0, refused 0\n", "")
    file = tmp_path / "out.jsonl"
    assert run_program("export", str(file), "--database", to)[:2] == (0, b"")
    assert file.read_bytes() == data
    assert list(tmp_path.glob(".aicontent-*")) == []
    assert run_program("import", str(file), "--database", to, "--on-conflict", "skip")[0] == 0
    status, out, err = run_program("import", "-", "--database", to, stdin=data)
    assert (status, out) == (1, b"imported 0 new, replaced 0, skipped 0, refused 13\n")
    assert err.startswith("line 1: id: a row with this id is already stored")
    status, data, _ = run_program(
        "export", "--type", "lesson", "--status", "failed", "--database", url
    )
    assert (status, data.count(b"\n")) == (0, 1)


def test_mistakes(url, empty_url, tmp_path):
    assert run_here("export", "--type", "quiz")[0] == 2
    assert run_here("import", "missing.jsonl")[0] == 2
    assert run_here("import", "--on-conflict", "ignore")[0] == 2
    status, _, err = run_program("export", str(tmp_path / "no" / "where"), "--database", url)
    assert (status, "does not exist" in err) == (2, True)
    aicontent.connect(empty_url)
    for command in ("export", "import"):
        status, _, err = run_program(command, "--database", empty_url, stdin=lines({})[0])
        assert status == 1
        assert "run `aicontent migrate`" in err


def test_an_export_that_fails_leaves_the_file_as_it_was(empty_url, tmp_path):
    aicontent.connect(empty_url)
    file = tmp_path / "out.jsonl"
    file.write_text("before")
    assert run_program("export", str(file), "--database", empty_url)[0] == 1
    assert file.read_text() == "before"
    assert list(tmp_path.glob(".aicontent-*")) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_import_that_was_killed_goes_on(Content, url, number):
    """The repeated import loses no row and duplicates none."""
    rows = b"".join(lines(*({"id": f"{n:05}"} for n in range(1600))))
    process = Forked("import", "--database", url)
    process.stdin.write(rows[: len(rows) // 2])
    process.stdin.flush()
    while not Content.select().count():
        assert process.poll() is None
    os.kill(process.pid, number)
    _, err = process.communicate()
    before = Content.select().count()
    assert 0 < before < 1600
    assert b"Traceback" not in err
    assert (b"; to go on: --on-conflict skip" in err) is (number != signal.SIGKILL)
    status, out, _ = run_program("import", "--database", url, "--on-conflict", "skip", stdin=rows)
    assert status == 0
    assert (
        out.decode()
        == f"imported {1600 - before:,} new, replaced 0, skipped {before:,}, refused 0\n"
    )
    assert Content.select().count() == 1600


def test_a_signal_while_waiting_for_lines_is_all_that_is_raised():
    """The signal must not become a RuntimeError, or make the reader wait forever."""

    class Stopped(BaseException):
        pass

    def stop(*_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Stopped

    def wait_until_signalled():
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 6e-5), 0.01)
        while True:
            ahead.get()

    reads, writes = os.pipe()
    ahead = Ahead(lambda: os.read(reads, 1))
    chance = random.Random(1)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(1000):
            with pytest.raises(Stopped):
                wait_until_signalled()
    finally:
        signal.signal(signal.SIGALRM, before)
    os.write(writes, b"x")
    assert ahead.get() == b"x"
    os.close(writes)
    assert ahead.get() == b""
    ahead.close()
    os.close(reads)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_locked_database_is_one_line(Content, url, database):
    with database.atomic():
        status, _, err = run_program(
            "import", "--database", url, "--wait", "0.1", stdin=lines({})[0]
        )
    assert status == 1
    assert err.startswith("Error: database is locked: another process holds its lock")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_reader_that_ends_early_is_no_end_of_the_file(Content, url):
    """Otherwise the import would accept a part of the lines as the whole file."""
    process = Forked("import", "--database", url)
    process.stdin.write(b"".join(lines(*({"id": f"{n:05}"} for n in range(1000)))))
    process.stdin.flush()
    while not Content.select().count():
        assert process.poll() is None
    (reader,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(reader), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.decode().endswith("Error: the process that parses the lines ended early\n")


def test_importing_beside_another_import(url, Content, tmp_path):
    """One import stores each row and the other skips it, in any order of the lines."""
    rows = lines(*({"id": f"{n:05}"} for n in range(4000)))
    running = []
    for file, given in ((tmp_path / "up", rows), (tmp_path / "down", rows[::-1])):
        file.write_bytes(b"".join(given))
        running.append(Forked("import", file, "--database", url, "--on-conflict", "skip"))
    told = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    new = [int(out.split()[1].replace(b",", b"")) for out, _ in told]
    assert sum(new) == Content.select().count() == 4000


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_failing_import_does_not_wait_for_its_reader(url, database):
    """The input exceeds the read-ahead buffer."""
    rows = b"".join(lines(*({"id": f"{n:05}"} for n in range(20_000))))
    assert len(rows) < 2_000_000  # a separate process would read a larger input
    with database.atomic():
        status, _, err = run_program("import", "--database", url, "--wait", "0.1", stdin=rows)
    assert (status, "database is locked" in err) == (1, True)


def test_a_pipe_a_link_and_a_mode_stay_what_they_are(store, url, tmp_path):
    store(id="a")
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_text("before")
    real.chmod(0o640)
    link.symlink_to(real)
    assert run_program("export", str(link), "--database", url)[0] == 0
    assert link.is_symlink()
    assert b'"id":"a"' in real.read_bytes()
    assert real.stat().st_mode & 0o777 == 0o640
    os.mkfifo(pipe)
    process = Forked("export", pipe, "--database", url)
    assert b'"id":"a"' in pipe.read_bytes()
    process.communicate()
    assert process.returncode == 0
    assert pipe.is_fifo()


def test_no_standard_input_is_a_usage_error(url):
    ran = subprocess.run(
        f"{PROGRAM} import --database '{url}' <&-", shell=True, capture_output=True, text=True
    )
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)


def test_a_name_cannot_pass_for_a_line_of_the_report(url):
    line = json.dumps({"x\nline 9: fake": 1}).encode()
    status, _, err = run_program("import", "--database", url, stdin=line)
    assert (status, err.count("\n")) == (1, 1)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_an_export_replaces_no_database(store, url, tmp_path, make_url):
    """Users of other programs may pass the database's name as the first argument."""
    store()
    other = aicontent.connect(make_url("sqlite"))
    link = tmp_path / "link.jsonl"
    link.symlink_to(other.database)
    for name in (aicontent.connect(url).database, other.database, link):
        status, out, err = run_program("export", str(name), "--database", url)
        assert (status, out, "is a SQLite database" in err) == (2, b"", True)
        assert Path(name).read_bytes().startswith(b"SQLite format 3")
    for name in (tmp_path, f"{tmp_path}/new/"):
        assert run_program("export", str(name), "--database", url)[0] == 2


NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_export_that_is_ended_leaves_nothing(fill, url, tmp_path, number):
    fill(3000, generated_data={"text": "x" * 10_000})
    file = tmp_path / "out.jsonl"
    file.write_text("before")
    process = Forked("export", str(file), "--database", url)
    while not list(tmp_path.glob(".aicontent-*")):
        assert process.poll() is None
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    assert file.read_text() == "before"
    assert list(tmp_path.glob(".aicontent-*")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_replaced_file_keeps_its_owner_and_mode(store, url, tmp_path):
    store()
    file = tmp_path / "out.jsonl"
    file.write_text("before")
    os.chown(file, 12, 34)
    file.chmod(0o2640)
    assert run_program("export", str(file), "--database", url)[0] == 0
    after = file.stat()
    assert (after.st_uid, after.st_gid, oct(after.st_mode)[-4:]) == (12, 34, "2640")
    assert file.read_bytes().count(b"\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_takes_no_file(store, url, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    status, _, err = run_program("export", str(tmp_path / "closed" / "x"), "--database", url)
    assert (status, "closed: Permission denied" in err) == (2, True)


@pytest.mark.parametrize("user", ["9" * 20, "-" + "9" * 20, "ada", ""])
def test_a_user_that_cannot_be_an_id(url, user):
    status, out, err = run_here("export", "--user", user, "--database", url)
    assert (status, out) == (2, "")
    assert re.search(rf"Error: Invalid value for --user: must be .*; got {user}\n$", err)


def test_few_of_many_refused_lines_are_printed(Content, url):
    data = b"\n".join([b"nothing"] * 50)
    status, out, err = run_program("import", "--database", url, stdin=data)
    assert (status, out) == (1, b"imported 0 new, replaced 0, skipped 0, refused 50\n")
    assert err.count("not JSON") == 20
    assert err.endswith("and 30 more lines were refused\n")


def test_a_line_of_any_length_is_one_refused_line(Content, url, tmp_path):
    file = tmp_path / "long.jsonl"
    (good,) = lines({"id": "good"})
    with file.open("wb") as out:
        out.write(b'{"id": "' + b"x" * 64_000_000 + b'"}\n' + good)
    status, out, err = run_program("import", str(file), "--database", url)
    assert (status, out) == (1, b"imported 1 new, replaced 0, skipped 0, refused 1\n")
    assert err == "line 1: must have at most 64,000,000 bytes a line\n"


def test_an_export_to_the_standard_output_by_its_name(store, url, tmp_path):
    """The redirected file keeps its earlier content."""
    store()
    file = tmp_path / "all.txt"
    with file.open("wb") as out:
        out.write(b"first\n")
        out.flush()
        command = [PROGRAM, "export", "/dev/stdout", "--database", url]
        subprocess.run(command, stdout=out, stderr=subprocess.DEVNULL, check=True)
    first, row = file.read_bytes().splitlines()
    assert (first, json.loads(row)["type"]) == (b"first", "lesson")


@pytest.mark.parametrize("command", ["export", "stats"])
def test_a_standard_output_that_is_closed(store, url, command):
    store()
    shell = f"exec {PROGRAM} {command} --database '{url}' >&-"
    ran = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in ran.stderr
    if command == "export":
        assert (ran.returncode, "name a FILE" in ran.stderr) == (2, True)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_files_of_a_database_are_no_lines(store, url, database):
    store()
    name = database.database
    for end in ("", "-journal", "-wal", "-shm"):
        status, _, err = run_here("export", f"{name}{end}", "--database", url)
        assert (status, "is a SQLite database" in err) == (2, True)
    status, _, err = run_here("import", name, "--database", url)
    assert (status, "run `aicontent export` on it" in err) == (2, True)
    assert len(run_here("export", "--database", url)[1].splitlines()) == 1
