"""Two package versions share one database: during a deployment, and after a rollback.

These tests check the promises of docs/guides/upgrading.md. The new version is a copy of the
checkout with one more migration. Like every migration, it adds a nullable column.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_packaging import build, copy_checkout

import aicontent
from helpers import PYTHON

DEADLINE = 60
"""Seconds to wait for a process's answer, on a busy machine."""

OLD, NEW = aicontent.__version__, "99.0"

NEXT = "007_add_rating"

MIGRATION = '''
"""Add what users think of the content."""

TABLE = "ai_generated_content"


def migrate(migrator, database, *, fake=False):
    """Add the column."""
    migrator.sql(f'ALTER TABLE "{TABLE}" ADD COLUMN "rating" integer NULL')


def rollback(migrator, database, *, fake=False):
    """Drop the column."""
    migrator.sql(f'ALTER TABLE "{TABLE}" DROP COLUMN "rating"')
'''

COLUMN = """
    rating: CountField[int | None] = CountField(rule=_COUNT_OR_NULL, null=True)

    if TYPE_CHECKING:"""

DRIVER = """
import json, sys, time
from pathlib import Path
import aicontent

version = aicontent.__version__


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"no {path.name} after 60 seconds")


def error_of(call, *args, **options):
    try:
        call(*args, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


for line in sys.stdin:
    exec(json.loads(line), globals())
    print(json.dumps(globals().pop("result", None)), flush=True)
"""

OPEN = """
import os
os.chdir({folder!r})
database = aicontent.connect({url!r}, timeout=60)
Content = aicontent.for_database(database)
database.connect()
"""


class Process:
    """Run code in a process with one version of the package."""

    def __init__(self, package: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(package)}
        self._process = subprocess.Popen(
            [*PYTHON, "-c", DRIVER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=package,
        )
        self.is_running = False

    def start(self, code: str) -> None:
        """Start code, which assigns its answer to `result`."""
        assert self._process.stdin is not None
        self.is_running = True
        self._process.stdin.write(json.dumps(code).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Return the result of the started code."""
        output = self._process.stdout
        assert output is not None
        assert select.select([output], [], [], DEADLINE)[0], "the process does not answer"
        line = output.readline()
        assert line, "the process has ended, and its standard error says why"
        self.is_running = False
        return json.loads(line)

    def run(self, code: str) -> Any:
        self.start(code)
        return self.answer()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders with the two installed versions."""
    folder = tmp_path_factory.mktemp("upgrades")
    checkout = folder / "checkout"
    copy_checkout(checkout)
    old = install(checkout, folder / "old")
    (checkout / "migrations" / f"{NEXT}.py").write_text(MIGRATION.lstrip(), "utf-8")
    replace(checkout / "setup.cfg", f"version = {OLD}", f"version = {NEW}")
    replace(checkout / "aicontent" / "table.py", "\n    if TYPE_CHECKING:", COLUMN)
    for backend, type in (("sqlite", "INTEGER"), ("postgresql", "integer")):
        path = checkout / "aicontent" / "schema" / f"{backend}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"column rating": type}))
    return {OLD: old, NEW: install(checkout, folder / "new")}


def replace(path: Path, old: str, new: str) -> None:
    """Replace the last occurrence of a text in a file."""
    before, found, after = path.read_text("utf-8").rpartition(old)
    assert found
    path.write_text(before + new + after, "utf-8")


def install(checkout: Path, folder: Path) -> Path:
    """Build the wheel and unpack it, as pip does with pure Python."""
    wheels = folder.with_name(f"{folder.name}-wheel")
    wheels.mkdir()
    zipfile.ZipFile(build("wheel", checkout, wheels)).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, Process]]:
    """Yield the processes by name; the tests share them."""
    processes: dict[str, Process] = {}
    yield processes
    for process in processes.values():
        process.end()


@pytest.fixture
def connected(installed, processes, empty_url, tmp_path):
    """Yield a function that connects a process to this test's database, which has no table yet."""
    names = []

    def connect(name: str, version: str) -> Process:
        if name not in processes:
            processes[name] = Process(installed[version])
        names.append(name)
        processes[name].run(OPEN.format(url=empty_url, folder=str(tmp_path)))
        return processes[name]

    yield connect
    for name in names:
        if processes[name].is_running:  # after a failed test
            processes.pop(name).end()
        else:
            processes[name].run("database.close()")


@pytest.fixture
def old(connected) -> Process:
    """The old version, after it has created the table, a user and a row."""
    process = connected("old", OLD)
    process.run("""
aicontent.migrate(database, create_users=True)
user = Content.user.rel_model.create().id
row = {"user": user, "type": "lesson", "status": "completed", "request_payload": {}}
first = Content.create(**row, generated_data={"by": version}).id
""")
    return process


@pytest.fixture
def worker(connected, old) -> Process:
    """A second process of the old version."""
    return connected("worker", OLD)


@pytest.fixture
def new(connected, old) -> Process:
    """The new version, before its migration."""
    process = connected("new", NEW)
    process.run(f"""
user, first = {old.run("result = user, first")}
row = {{"user": user, "type": "lesson", "status": "completed", "request_payload": {{}}}}
""")
    return process


MIGRATE = "result = aicontent.migrate(database)"
ROLLBACK = "result = aicontent.rollback(database)"
CHECK = "result = aicontent.check(database)"

WORK = """
done = []
def generate(content):
    done.append(content.id)
    for number, mine, other in HOLDS:
        if len(done) == number:
            Path(mine).touch()
            wait_for(Path(other))
    return {"by": version}
report = Content.work(generate, until_empty=True)
result = done, report.completed
"""

SERVE = """
rounds = 0
while not Path("changed").exists() or rounds < 2:
    content = Content.get_or_generate(user, "lesson", {"round": rounds}, lambda _: {"by": version})
    content.level = "A2"
    content.save()
    assert Content.reuse(user, "lesson", level="A2") is not None
    rounds += 1
    Path("serving").touch()
result = rounds
"""

QUEUE = """
rows = [{"user": user, "type": "vocabulary_drill", "request_payload": {}} for _ in range(NUMBER)]
result = Content.create_many(rows)
"""

STATES = """
drills = Content.select().where(Content.type == "vocabulary_drill")
result = sorted({(row.status, row.attempts, row.generated_data["by"]) for row in drills})
"""


def test_a_migration_while_the_old_version_works(old, worker, new, tmp_path):
    """An old service and an old worker continue during the migration to the new version.

    The service writes, and the worker holds a claim. Then workers of both versions empty one queue.
    """
    assert old.run("result = version") == OLD
    assert new.run("result = version") == NEW
    ids = old.run(QUEUE.replace("NUMBER", "200"))
    # The old worker holds its 50th row during the migration, until the new worker has claimed a
    # row. The new worker holds its first row until the old worker has claimed another.
    holds = [(50, "held", "new-has-claimed"), (51, "old-goes-on", "old-goes-on")]
    worker.start(WORK.replace("HOLDS", repr(holds)))
    old.start(SERVE)
    new.run("for name in ('held', 'serving'): wait_for(Path(name))")
    assert new.run(MIGRATE) == [NEXT]
    (tmp_path / "changed").touch()
    new.start(WORK.replace("HOLDS", repr([(1, "new-has-claimed", "old-goes-on")])))
    (by_new, completed_by_new), (by_old, completed_by_old) = new.answer(), worker.answer()
    assert old.answer() >= 2
    assert len(by_old) > 50
    assert by_new
    assert sorted(by_old + by_new) == sorted(ids)
    assert completed_by_old + completed_by_new == 200
    assert old.run(STATES) == new.run(STATES) == [["completed", 1, OLD], ["completed", 1, NEW]]


def test_one_generation_for_both_versions(old, new):
    new.run(MIGRATE)
    ask = """
paid = []
def generate(content):
    paid.append(content.id)
    return {"by": version}
answers = [Content.get_or_generate(user, "lesson", {"n": n}, generate) for n in range(30)]
result = len(paid), [answer.generated_data["by"] for answer in answers]
"""
    old.start(ask)
    new.start(ask)
    (paid_by_old, answers_of_old), (paid_by_new, answers_of_new) = old.answer(), new.answer()
    assert paid_by_old + paid_by_new == 30
    assert answers_of_old == answers_of_new
    served = "result = Content.get_or_generate(user, 'lesson', {'by': BY}, generate).served"
    assert old.run(served.replace("BY", "'old'")) == "generated"
    assert new.run(served.replace("BY", "'old'")) == "stored"
    assert new.run(served.replace("BY", "'new'")) == "generated"
    assert old.run(served.replace("BY", "'new'")) == "stored"


def test_the_old_version_changes_a_row_of_the_new_one(old, new):
    """The old version does not change a column that it does not know."""
    new.run(MIGRATE)
    id = new.run("""
result = Content.create(**row, generated_data={"by": version}, rating=5).id
""")
    old.run(f"content = Content.get_by_id({id!r})")
    assert old.run("result = content.generated_data") == {"by": NEW}
    old.run("content.level = 'B1'; content.save(); content.mark_accessed()")
    new.run(f"content = Content.get_by_id({id!r})")
    assert new.run("result = content.level, content.usage_count, content.rating") == ["B1", 1, 5]
    assert new.run("result = Content.get_by_id(first).rating") is None


def test_exports_of_the_other_version(old, new):
    """The new version imports the old version's export. The old version refuses the new one's."""
    new.run(MIGRATE)
    new.run("Content.create(**row, rating=5)")
    export = "result = [line.decode() for line in aicontent.export_lines(database)]"
    read = """
reasons = []
lines, note = [line.encode() for line in LINES], lambda each: reasons.append(each.reason)
aicontent.import_lines(database, lines, on_conflict="skip", refused=note)
result = reasons
"""
    by_old, by_new = old.run(export), new.run(export)
    assert new.run(read.replace("LINES", repr(by_old))) == []
    refused = "rating: is not a column of the table; got an unknown name"
    assert old.run(read.replace("LINES", repr(by_new))) == [refused, refused]


def test_a_cleanup_of_each_version(old, new):
    new.run(MIGRATE)
    expired = """
from datetime import UTC, datetime, timedelta
past = datetime.now(UTC) - timedelta(hours=1)
Content.create_many([row | {"expires_at": past} for _ in range(50)])
"""
    old.run(expired)
    new.run(expired)
    cleanup = "result = Content.cleanup(batch_size=10).expired"
    old.start(cleanup)
    new.start(cleanup)
    assert old.answer() + new.answer() == 100
    assert new.run("result = [content.id for content in Content.select()] == [first]")


def test_the_old_version_on_the_newer_schema(old, new):
    new.run(MIGRATE)
    assert new.run(CHECK) == []
    assert old.run(CHECK) == [f"migration {NEXT} comes from a newer aicontent: upgrade the package"]
    assert old.run(MIGRATE) == []
    assert old.run("result = error_of(aicontent.rollback, database)") == (
        f"MigrationError: {NEXT} was applied by a newer version of aicontent: upgrade the package "
        "to roll it back"
    )


def test_the_new_version_on_the_older_schema(old, new, empty_url):
    """The new version cannot read before the migration, and it does not pay for any content."""
    assert new.run(CHECK) == [f"migration {NEXT} is pending: run `aicontent migrate`"]
    old.run(QUEUE.replace("NUMBER", "1"))
    errors = new.run("""
paid = []
def generate(content):
    paid.append(content)
    return {}
result = [
    error_of(Content.get_by_id, first),
    error_of(Content.reuse, user, "lesson"),
    error_of(Content.get_or_generate, user, "lesson", {"a": 1}, generate),
    error_of(Content.create_many, [row]),
    error_of(Content.work, generate, until_empty=True),
]
""")
    for error in errors:
        assert error.startswith(("OperationalError: ", "ProgrammingError: column "))
        assert "rating" in error
    assert new.run("result = paid") == []
    assert new.run("Content.create(**row); result = Content.cleanup().deleted") == 0
    export = f"""
from click.testing import CliRunner
from aicontent.scripts.cli import main
ran = CliRunner().invoke(main, ["export", "--database", {empty_url!r}])
result = ran.exit_code, ran.output
"""
    message = "Error: ai_generated_content is not up to date: run `aicontent migrate`\n"
    assert new.run(export) == [1, message]
    # The old version continues, and processes the row that the new version could not claim.
    assert old.run(WORK.replace("HOLDS", "[]"))[1] == 1
    assert old.run("result = Content.get_by_id(first).generated_data") == {"by": OLD}


def test_a_rollback_while_the_old_version_works(old, worker, new, tmp_path):
    new.run(MIGRATE)
    new.run("Content.create(**row, rating=5)")
    old.run(QUEUE.replace("NUMBER", "20"))
    worker.start(WORK.replace("HOLDS", repr([(10, "held", "changed")])))
    old.start(SERVE)
    new.run("for name in ('held', 'serving'): wait_for(Path(name))")
    assert new.run(ROLLBACK) == [NEXT]
    (tmp_path / "changed").touch()
    assert worker.answer()[1] == 20
    assert old.answer() >= 2
    assert old.run(CHECK) == []
    assert new.run(MIGRATE) == [NEXT]
    assert new.run(CHECK) == []
    assert new.run("result = Content.select().where(Content.rating.is_null(False)).count()") == 0
