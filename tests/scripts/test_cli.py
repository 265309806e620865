"""Test the command line in separate processes, as a person or a timer runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta

import peewee
import pytest

import aicontent
from aicontent.schema.history import available
from helpers import PROGRAM, PYTHON, ROOT, run_here, run_program


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the command in a temporary directory.

    It returns status, output and errors.
    """

    def run(*args, env=None, stdin="", code=None):
        environment = {k: v for k, v in os.environ.items() if k != "AICONTENT_DATABASE_URL"}
        options = {"cwd": tmp_path, "env": environment | (env or {}), "code": code}
        status, out, err = run_program(*args, stdin=stdin.encode(), **options)
        return status, out.decode(), err

    return run


def test_migrate_check_rollback(run, empty_url):
    on = ("--database", empty_url)
    aicontent.connect(empty_url)  # creates the file
    status, out, err = run_here("migrate", *on)
    assert (status, out) == (1, "")
    assert "users" in err
    assert "--create-users" in err
    status, out, _ = run_here("check", *on)
    assert status == 1
    assert "aicontent migrate" in out
    migrated = "".join(f"migrated {name}\n" for name in available())
    assert run_here("migrate", "--create-users", *on)[:2] == (0, migrated)
    assert run_here("migrate", *on)[:2] == (0, "up to date\n")
    status, out, _ = run_here("check", *on)
    assert (status, out.splitlines()[0]) == (0, "ok")
    status, out, err = run("rollback", *on)  # nobody can confirm
    assert status == 1
    assert "Aborted" in err
    assert run_here("check", *on)[0] == 0
    rolled_back = "".join(f"rolled back {name}\n" for name in available()[::-1])
    assert run_here("rollback", "--yes", "--steps", "99", *on)[:2] == (0, rolled_back)
    assert run("rollback", *on, stdin="y\n")[1].endswith("nothing to roll back\n")


def test_the_database_comes_from_the_option_the_environment_or_the_default(run, tmp_path):
    env = {"AICONTENT_DATABASE_URL": "sqlite:///environment.db"}
    run("migrate", "--create-users", "--database", "sqlite:///option.db", env=env)
    assert {path.name for path in tmp_path.glob("*.db")} == {"option.db"}
    run("migrate", "--create-users", env=env)
    run("migrate", "--create-users")
    names = {path.name for path in tmp_path.glob("*.db")}
    assert names == {"option.db", "environment.db", "aicontent.db"}


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("content.db", 2, "not a database URL"),
        ("mysql://host/db", 2, "unknown scheme"),
        ("sqlite://content.db", 2, "three slashes"),
        ("postgresql://ada:pa/ss-s3cret@host/db", 2, "%2F"),
        ("postgresql://ada:s3cret@127.0.0.1:1/db", 1, "cannot reach postgresql://ada@127.0.0.1"),
        ("sqlite:////no/such/folder/x.db", 1, "folder"),
    ],
)
def test_bad_urls(url, status, message):
    for command in ("migrate", "check", "quickstart"):
        got, out, err = run_here(command, "--database", url)
        assert (got, out) == (status, "")
        assert message in " ".join(err.split())
        assert "s3cret" not in err


def test_usage_mistakes(run):
    assert run("migrat")[0] == 2
    assert run_here("rollback", "--steps", "0", "--yes")[0] == 2
    assert run_here("quickstart", "missing.jsonl")[0] == 2
    assert run_here("quickstart", "--type", "quiz")[0] == 2
    assert run("quickstart", ".")[0] in (1, 2)
    assert run_here("quickstart", "--type", "lesson")[0] == 2


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("option", [("--schema", "tenant"), ("--partitions", "4")])
@pytest.mark.parametrize("scheme", ["sqlite", "SQLite"])
def test_migrate_refuses_options_for_postgresql_on_sqlite(empty_url, option, scheme):
    url = empty_url.replace("sqlite", scheme, 1)
    status, out, err = run_here("migrate", "--create-users", *option, "--database", url)
    assert (status, out) == (2, "")
    assert f"{option[0]} is for PostgreSQL; SQLite has none: leave it out" in err


@pytest.mark.parametrize("command", [["check"], ["migrate"], ["rollback", "--yes"], ["check", "x"]])
def test_a_file_is_made_only_where_it_is_meant(run, tmp_path, command):
    status, _, err = run(*command)
    assert status == (2 if "x" in command else 1)
    assert "no SQLite database aicontent.db" in err or "x" in command
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written(tmp_path, monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [PROGRAM, "quickstart"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ran.returncode == 1
    assert ran.stderr == "Error: [Errno 28] No space left on device\n"


def test_output_that_nobody_reads(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        ran = subprocess.run(
            [PROGRAM, "quickstart"], cwd=tmp_path, stdout=pipe, stderr=subprocess.PIPE, text=True
        )
    assert (ran.returncode, ran.stderr) == (1, "")


IMPATIENT = """
from aicontent.scripts import cli, options

options.open_database.__kwdefaults__["wait"] = 0.1
cli.main()
"""


def test_a_locked_database_is_one_line(run, tmp_path):
    path = tmp_path / "locked.db"
    holder = peewee.SqliteDatabase(path, pragmas={"journal_mode": "wal"})
    holder.execute_sql("CREATE TABLE t (x)")
    with holder.transaction("IMMEDIATE"):
        status, _, err = run("migrate", "--database", f"sqlite:///{path}", code=IMPATIENT)
    assert status == 1
    assert err.startswith("Error: another connection holds a lock")
    holder.close()


def keys_of(value):
    """Return all keys of a JSON value, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_json_has_the_documented_keys(url, kind, store, Content, user):
    text = (ROOT / "docs/reference/command.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (`.*`.*) \|$", text, re.M))
    documented = {name: set(re.findall("`([a-z_]+)`", keys)) for name, keys in rows.items()}
    store(generated_data={"a": 1})
    store(expires_at=datetime.now(UTC) - timedelta(hours=1))
    Content.request(user, "lesson", {})
    found = {}
    for name, *options in (
        ("check",),
        ("stats",),
        ("cleanup",),
        ("requeue", "--dry-run"),
        ("migrate",),
        ("migrate", "--dry-run"),
        ("work", "builtins:dict", "--until-empty", "--type", "cultural_content"),
    ):
        status, out, err = run_here(name, *options, "--json", "-d", url)
        assert status == 0, err
        found[name] = found.get(name, set()) | keys_of(json.loads(out))
    found["cleanup"] |= {"id", "reason", "freed"}  # for undeletable rows, and for --reclaim
    if kind == "sqlite":
        found["check"] |= documented["check"]
    assert found == documented


def test_the_command_is_also_the_packages_main(run):
    ran = subprocess.run([*PYTHON, "-m", "aicontent", "--version"], capture_output=True)
    assert ran.stdout.decode() == run("--version")[1]


def test_every_command_and_option_has_help(run):
    from aicontent.scripts.cli import main

    listed = run_here("--help")[1].partition("Commands:")[2]
    assert "..." not in listed
    assert run("--help")[0] == run("-h")[0] == 0
    assert run("--version")[1].startswith("aicontent, version ")
    for name, command in main.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.help, (name, parameter)
        assert command.help.split("\n")[0] in " ".join(run_here(name, "--help")[1].split())


HURRIED = """
from aicontent.scripts import cli, quickstart

quickstart._MODEL_SECONDS = 0.1
cli.main()
"""
"""Run the command with a stand-in model that answers in 0.1 seconds instead of one."""


def test_quickstart(run, empty_url):
    status, out, err = run("quickstart", "--database", empty_url)
    assert (status, err) == (0, "")
    lines = [line.split(None, 1) for line in out.splitlines()]
    told = " ".join(line[0] for line in lines)
    steps = ("Generate", "Repeat", "Miss", "Store", "Reuse", "Expiry", "Cleanup", "Explore")
    for step in ("Database", *steps):
        assert step in told
    assert "1 thread generated it" in out
    assert "19 threads waited" in out
    assert "9 rows" in out
    assert "1 expired row and 0 failed rows" in out
    database = aicontent.connect(empty_url)
    model = aicontent.for_database(database)
    assert {content.type for content in model.select()} == set(aicontent.ContentType)
    uses = model.select(model.user, peewee.fn.SUM(model.usage_count)).group_by(model.user)
    assert sorted(uses.tuples()) == [(1, 20), (2, 3)]
    assert aicontent.check(database) == []
    database.close()
    again = run("quickstart", "--database", empty_url, code=HURRIED)[1]
    assert "for the new user 4 finds nothing" in again


def test_quickstart_on_a_file(run, empty_url, tmp_path):
    untyped = {"requestPayload": {"instruction": "Name a fruit."}, "validationScore": 0.75}
    row = {
        "type": "lesson",
        "status": "completed",
        "requestPayload": {"topic": "tea"},
        "generatedData": {"title": "Tee"},
        "expiresAt": "2999-01-01T00:00:00Z",
        "userId": 99,
        "id": "theirs",
    }
    lines = [
        json.dumps(untyped | {"status": "completed"}).encode(),
        b'{"requestPayload": "broken',
        b"",
        json.dumps(row).encode(),
        b"[1, 2]",
        b'{"generatedData": {"output": "of what?"}}',
        b'{"requestPayload": "\xff"}',
        json.dumps(untyped | {"generatedData": {"output": "nul \0"}}).encode(),
        json.dumps(row | {"colour": "red"}).encode(),
        json.dumps(row | {"expiresAt": "soon"}).encode(),
        json.dumps(row | {"expiresAt": "2999-01-01T00:00:00"}).encode(),
        json.dumps(row | {"level": "x" * 11}).encode(),
        b'{"requestPayload": ' + b"[" * 100_000,
        b'{"requestPayload": {"input": NaN}}',
        b'{"tokenUsage": ' + b"9" * 5000 + b"}",
        json.dumps(untyped | {"status": "failed"}).encode(),
    ]
    path = tmp_path / "content.jsonl"
    path.write_bytes(b"\n".join(lines))
    status, out, err = run("quickstart", str(path), "--database", empty_url, code=HURRIED)
    assert (status, err) == (0, "")
    assert "3 rows of your file" in out
    refused = dict(line.split(":", 1) for line in out.splitlines() if line.strip()[:5] == "line ")
    reasons = {int(key.split()[1]): reason for key, reason in refused.items()}
    assert sorted(reasons) == [2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    expected = {
        2: "not JSON",
        5: "each line must be one JSON object; got list of 2 items",
        6: "requestPayload: is required",
        7: "not UTF-8 at byte",
        8: "generatedData.output: must not contain NUL",
        9: "colour: is not a column",
        13: "nested too deeply",
        15: "an integer is too long",
        10: "expiresAt: must be an ISO 8601 time",
        11: "expiresAt: must be an aware datetime",
        12: "level: must have at most 10",
        14: "requestPayload.input: must be a finite number",
    }
    for line, reason in expected.items():
        assert reason in reasons[line]
    database = aicontent.connect(empty_url)
    model = aicontent.for_database(database)
    stored = {
        content.type: content
        for content in model.select().where(model.status == "completed", model.user != 1)
    }
    exercise, lesson = stored["personalized_exercise"], stored["lesson"]
    assert exercise.validation_score == 0.75
    assert exercise.request_payload == {"instruction": "Name a fruit."}
    assert lesson.user_id == 2
    assert lesson.expires_at.year == 2999
    database.close()


@pytest.mark.parametrize("text", ["", "[1]\n", '{"type": "quiz"}\nx\n'])
def test_quickstart_fails_on_a_file_without_a_line_to_store(tmp_path, empty_url, text):
    path = tmp_path / "content.jsonl"
    path.write_text(text)
    status, out, err = run_here("quickstart", str(path), "--database", empty_url)
    assert (status, out.count("line 1: "), out.count("line 2: ")) == (
        1, int(bool(text)), text.count("x")
    )  # fmt: skip
    assert err.startswith("Error: FILE has no line that can be stored: write lines like ")


def test_quickstart_leaves_an_applications_database_alone(run, empty):
    empty.execute_sql("CREATE TABLE users (id integer PRIMARY KEY, email text NOT NULL)")
    url = f"sqlite:///{empty.database}" if "://" not in empty.database else empty.database
    status, _, err = run("quickstart", "--database", url)
    assert status == 1
    assert "belong to an application" in err
    assert not empty.table_exists("ai_generated_content")


def test_quickstart_deletes_nothing_of_others(run, url, store):
    soon = datetime.now(UTC) + timedelta(minutes=90)
    kept = [store(expires_at=soon).id for _ in range(5)]
    kept.append(store(status="failed", created_at=datetime.now(UTC) - timedelta(hours=23)).id)
    for others in (6, None):
        status, out, _ = run("quickstart", "--database", url, code=HURRIED)
        assert status == 0
        assert others is None or f"{others} rows of other users" in out
        assert "deletes 1 expired row and 0 failed rows" in out
    model = aicontent.for_database(aicontent.connect(url))
    assert model.select().where(model.id.in_(kept)).count() == 6
    model._meta.database.close()


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (1, "006_retry_claims, and deletes the failures, limits and retry times of 2 rows."),
        (4, "003_add_claims, and deletes the claims of 2 rows: "),
        (99, "001_create_ai_generated_content, and deletes the table with 2 rows of content. "),
    ],
)
def test_a_rollback_says_what_goes(run, url, store, Content, steps, says):
    store(), store()
    status, out, _ = run("rollback", "--steps", str(steps), "--database", url)
    assert (status, says in out) == (1, True)
    assert Content.select().count() == 2
