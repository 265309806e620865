"""Run the code of the guides."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

import aicontent
from aicontent.database.supported import backend_of
from aicontent.schema.history import available
from aicontent.table import TABLE
from helpers import PROGRAM, PYTHON, ROOT, code_of, run_script

pytestmark = pytest.mark.programs


@pytest.mark.parametrize(
    "page",
    [
        "explanation/claims",
        "guides/asyncio",
        "guides/moving",
        "guides/workers",
        "reference/json-queries",
    ],
)
def test_the_code_of_a_page(tmp_path, empty_url, page):
    code = "\n".join(code_of(f"docs/{page}.md"))
    run_script(code.replace("sqlite:///content.db", empty_url), tmp_path)


def test_a_database_of_your_own_and_its_types(tmp_path):
    pages = ("databases", "models")
    code = [block for page in pages for block in code_of(f"docs/guides/{page}.md")]
    run_script("\n".join(code), tmp_path)


def recipe(number: int) -> str:
    """Return a code block of the guide about tests."""
    return code_of("docs/guides/testing.md")[number]


def run_tests(directory: Path, passed: int = 4, **files: str) -> None:
    for name, code in files.items():
        (directory / f"{name}.py").write_text(code, "utf-8")
    # With the same temporary folder, this pytest would remove the files of the running tests.
    folder = f"--basetemp={directory / 'temporary'}"
    command = [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{passed} passed" in ran.stdout


def test_the_fixtures_that_roll_back(tmp_path, empty_url):
    fixtures, tests = recipe(0), recipe(1)
    memory = "sqlite:///:memory:"
    assert fixtures.count(memory) == 1
    if empty_url.startswith("postgresql"):
        fixtures = fixtures.replace(memory, empty_url)
    run_tests(tmp_path, conftest=fixtures, test_lessons=tests)


def test_the_fixtures_that_copy_a_file(tmp_path):
    run_tests(tmp_path, conftest=recipe(2), test_lessons=recipe(1))


def test_the_test_of_a_fastapi_service(tmp_path):
    service = code_of("docs/guides/services.md")[1]
    run_tests(tmp_path, passed=3, conftest=recipe(2), service=service, test_service=recipe(3))


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_the_indexes_that_are_built_before_the_migration(database):
    aicontent.rollback(database, steps=len(available()) - 3)
    text = (ROOT / "docs/guides/migrating.md").read_text("utf-8")
    statements = re.findall(r"CREATE INDEX CONCURRENTLY[^;]+;", text)
    for statement in statements:
        database.execute_sql(statement)
    aicontent.migrate(database)
    assert (len(statements), aicontent.check(database)) == (2, [])


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"], indirect=True)
def test_the_two_commands_that_move_content_into_partitions(url, varied, database, make_url):
    """The commands work from either database, and continue after an interruption when repeated."""
    text = (ROOT / "docs/guides/scaling.md").read_text("utf-8")
    section = text[text.index("### Move content into partitions") :].partition("###")[2]
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

    # The other option also transfers rows that changed in the meantime.
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
    code = next(each for each in code_of("docs/guides/scaling.md") if "FILES" in each)
    users = """
for number in range(8):
    model = content_of(number)
    user = model.user.rel_model.create(id=number)
    model.get_or_generate(user, "lesson", {"n": number}, lambda content: {"n": number})
print([model.select().count() for model in CONTENT])
"""
    assert run_script(code + users, tmp_path) == "[2, 2, 2, 2]\n"
