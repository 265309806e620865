"""The documents: their code runs, and they say what is there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import peewee
import pytest

import aicontent
from aicontent import AIGeneratedContent
from aicontent.database.supported import backend_of
from aicontent.schema.history import available, expected_definitions
from aicontent.table import TABLE, user_id_type
from helpers import PROGRAM, PYTHON, ROOT, code_of, plain, run_script

COLUMNS = [field.column_name for field in AIGeneratedContent._meta.sorted_fields]


def test_the_readmes_code(tmp_path, empty_url):
    code = "\n".join(code_of("README.md"))
    assert code.count("sqlite:///content.db") == 1
    out = run_script(code.replace("sqlite:///content.db", empty_url), tmp_path)
    assert out.splitlines() == [
        "About ordering in a café generated",
        "0 0",
        "level: must have at most 10 characters; got str of 12 characters",
    ]


def test_the_code_of_claims(tmp_path, empty_url):
    code = "\n".join(code_of("docs/claims.md"))
    run_script(code.replace("sqlite:///content.db", empty_url), tmp_path)


def test_the_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"^    (python3 -m venv .*)$", text, re.M)
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/aicontent quickstart",
        "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox",
    ]
    assert commands[1] in (ROOT / ".ci" / "run").read_text("utf-8")


SERVERS = [
    ("flask", "--app", "service", "run", "--port"),
    ("uvicorn", "service:app", "--log-level", "warning", "--port"),
]


@contextmanager
def serving(folder: Path, code: str, url: str, *command: str) -> Iterator[httpx.Client]:
    """Run a service of the docs on a real server."""
    (folder / "service.py").write_text(code, "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    environment = os.environ | {"AICONTENT_DATABASE_URL": url, "MODEL_URL": f"{base}/model"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*PYTHON, "-m", *command, str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=base, timeout=60, limits=httpx.Limits()) as client:
            until = time.monotonic() + 60
            while True:
                try:
                    client.get("/")
                    break
                except httpx.TransportError:
                    assert server.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < until
                    time.sleep(0.05)
            yield client
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.mark.parametrize("number", [0, 1], ids=["flask", "fastapi"])
def test_the_services_of_embedding(tmp_path, empty_url, number):
    service = code_of("docs/embedding.md")[number]
    with serving(tmp_path, service, empty_url, *SERVERS[number]) as client:
        user = client.post("/users").json()["id"]
        path = f"/users/{user}/content/lesson"

        def ask(topic: str) -> dict[str, str]:
            answer = client.get(path, params={"topic": topic})
            assert answer.status_code == 200, answer.text
            body: dict[str, str] = answer.json()
            return body

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(ask, ["tea"] * 20))
        assert Counter(answer["served"] for answer in answers)["generated"] == 1
        assert {answer["id"] for answer in answers} == {answers[0]["id"]}
        assert answers[0]["data"] == {"title": "About tea"}
        assert ask("tea")["served"] == "stored"
        refused = client.get(f"/users/{user}/content/quiz", params={"topic": "tea"})
        assert refused.status_code == 422
        assert "pronunciation_drill" in refused.text
        unknown = client.get("/users/999/content/lesson", params={"topic": "tea"})
        assert unknown.status_code == 404
        assert client.get(path).status_code in (400, 422)  # it names no topic
        assert client.get(f"/users/{10**30}/content/lesson?topic=tea").status_code == 422
        if empty_url.startswith("postgresql"):
            assert open_connections(empty_url) == 0


POOLED = """
from concurrent.futures import ThreadPoolExecutor
import aicontent
Content = aicontent.for_database(db)
with db.connection_context():
    user = Content.user.rel_model.create().id
def ask(number):
    return Content.get_or_generate(user, "lesson", {"number": number}, lambda content: {})
with ThreadPoolExecutor(60) as threads:
    assert {content.served for content in threads.map(ask, range(60))} == {"generated"}
assert len(db._connections) <= 20
db.close_all()
print("served")
"""


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_the_pool_of_embedding(tmp_path, url):
    database = aicontent.connect(url)
    place = ", ".join(f"{name}={value!r}" for name, value in database.connect_params.items())
    code = code_of("docs/embedding.md")[2]
    pool = '"lessons", host="localhost", user="lessons"'
    assert pool in code
    code = code.replace(pool, f"{database.database!r}, {place}")
    assert run_script(code + POOLED, tmp_path) == "served\n"


def open_connections(url: str) -> int:
    database = peewee.PostgresqlDatabase(plain(url))
    sql = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    (count,) = database.execute_sql(sql).fetchone()
    database.close()
    return int(count)


def test_a_database_of_your_own_and_its_types(tmp_path):
    run_script("\n".join(code_of("docs/embedding.md")[3:]), tmp_path)


def recipe(number: int) -> str:
    """Return a file of the section on tests."""
    return code_of("docs/embedding.md")[4 + number]


def run_tests(directory: Path, **files: str) -> None:
    for name, code in files.items():
        (directory / f"{name}.py").write_text(code, "utf-8")
    # A pytest with the same folder for temporary files would remove those of the tests that run.
    folder = f"--basetemp={directory / 'temporary'}"
    command = [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout


def test_the_fixtures_that_roll_back(tmp_path, empty_url):
    fixtures, tests = recipe(0), recipe(1)
    memory = "sqlite:///:memory:"
    assert fixtures.count(memory) == 1
    if empty_url.startswith("postgresql"):
        fixtures = fixtures.replace(memory, empty_url)
    run_tests(tmp_path, conftest=fixtures, test_lessons=tests)


def test_the_fixtures_that_copy_a_file(tmp_path):
    run_tests(tmp_path, conftest=recipe(2), test_lessons=recipe(1))


def test_the_diagram_names_every_column():
    diagram = (ROOT / "docs/database_schema.mermaid").read_text("utf-8")
    body = re.search(rf"{TABLE} {{\n(.*?)\n    }}", diagram, re.S)
    assert body is not None
    assert [line.split()[1] for line in body[1].splitlines()] == COLUMNS
    assert f"users ||--o{{ {TABLE}" in diagram


def test_the_schema_document_names_everything(database):
    text = (ROOT / "docs/schema.md").read_text("utf-8")
    made = [
        name.split()[1]
        for name in expected_definitions(backend_of(database).name, user_id_type(database))
        if name.startswith(("index", "trig"))
    ]
    for name in [*COLUMNS, *made[-12:], *aicontent.ContentType, *aicontent.ContentStatus]:
        assert name in text, name


def test_what_the_migrations_make_is_what_the_model_says(database):
    table = backend_of(database).catalog(database).relation(TABLE)
    assert list(table.columns) == COLUMNS
    sqlite = isinstance(database, peewee.SqliteDatabase)
    nullable = {column.name: column.null for column in database.get_columns(TABLE)}
    for field in AIGeneratedContent._meta.sorted_fields:
        assert nullable[field.column_name] is field.null, field
        kind = table.columns[field.column_name].lower()
        if isinstance(field, peewee.CharField):
            assert f"({field.max_length})" in kind
        elif isinstance(field, peewee.JSONField):
            assert kind == ("text" if sqlite else "jsonb")
        elif isinstance(field, peewee.DateTimeField):
            assert kind == ("text" if sqlite else "timestamp with time zone")
    (key,) = database.get_foreign_keys(TABLE)
    assert (key.column, key.dest_table, key.dest_column) == ("userId", "users", "id")
    assert AIGeneratedContent.user.on_delete == key.on_delete == "CASCADE"


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_the_indexes_that_are_built_before_the_migration(database):
    aicontent.rollback(database, steps=len(available()) - 3)
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    statements = re.findall(r"CREATE INDEX CONCURRENTLY[^;]+;", text)
    for statement in statements:
        database.execute_sql(statement)
    aicontent.migrate(database)
    assert (len(statements), aicontent.check(database)) == (2, [])


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"], indirect=True)
def test_the_two_commands_that_move_content_into_partitions(url, varied, database, make_url):
    """From either database; interrupted, it goes on when it is repeated."""
    text = (ROOT / "docs/scaling.md").read_text("utf-8")
    section = text[text.index("### Moving there") :].partition("###")[2]
    commands = re.findall(r"^\$ (aicontent .*)$", section, re.M)
    assert len(commands) == 2
    new = make_url("postgresql")
    environment = {**os.environ, "OLD": url, "NEW": new, "PATH": f"{PROGRAM.parent}:/usr/bin:/bin"}
    for command in (*commands, commands[1]):
        shell = ["bash", "-o", "pipefail", "-c", command]
        ran = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
    moved = aicontent.connect(new)
    partitions = backend_of(moved).catalog(moved).partitions(TABLE)
    assert partitions is not None
    assert len(partitions) == 32
    lines = list(aicontent.export_lines(database))
    assert len(lines) == 13
    assert list(aicontent.export_lines(moved)) == lines
    assert aicontent.check(moved) == aicontent.check(database)

    # What has changed meanwhile comes along by the other option.
    Content = aicontent.for_database(database)  # noqa: N806
    content = Content.claim()
    content.complete({"title": "Tea"})
    replacing = commands[1].replace("--on-conflict skip", "--on-conflict replace")
    shell = ["bash", "-o", "pipefail", "-c", replacing]
    subprocess.run(shell, env=environment, check=True, capture_output=True, timeout=60)
    arrived = aicontent.for_database(moved).get_by_id(content.id)
    assert (arrived.status, arrived.generated_data) == ("completed", {"title": "Tea"})
    moved.close()


def test_the_code_of_scaling(tmp_path):
    code = next(each for each in code_of("docs/scaling.md") if "FILES" in each)
    users = """
for number in range(8):
    model = content_of(number)
    user = model.user.rel_model.create(id=number)
    model.get_or_generate(user, "lesson", {"n": number}, lambda content: {"n": number})
print([model.select().count() for model in CONTENT])
"""
    assert run_script(code + users, tmp_path) == "[2, 2, 2, 2]\n"


def test_the_reference_has_every_name_and_the_table_every_error():
    page = (ROOT / "docs/reference.md").read_text("utf-8")
    named = set(re.findall(r"^\.\. (?:auto)?\w+:: aicontent\.(\w+)$", page, re.M))
    assert named - {"testing"} == set(aicontent.__all__)
    errors = {
        name
        for name in aicontent.__all__
        if isinstance(getattr(aicontent, name), type)
        and issubclass(getattr(aicontent, name), aicontent.AIContentError)
    }
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \| \d{3} \|$", page, re.M)
    assert sorted(rows) == sorted(errors - {"AIContentError"})
    members = re.search(r"AIGeneratedContent\n   :members: (.*?)\n   :exclude", page, re.S)
    assert members is not None
    public = {
        name
        for name, value in vars(AIGeneratedContent).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, classmethod))
    }
    assert set(re.findall(r"\w+", members[1])) == public - {"DoesNotExist"}
