"""Define caches of generated documents: aicontent, and plain tables of Peewee and SQLAlchemy.

`caches` measures them and the contestants of `cache_libraries`. Each contestant imports its library
when it is created, so that a process with one contestant shows the memory that it adds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from .requests import Request, request_hash

EXPIRES_IN = 3600.0
"""Seconds for which an answer is stored. LangChain's cache has no expiry."""

_PRAGMAS = {"journal_mode": "wal", "synchronous": 1, "wal_autocheckpoint": 4000}
"""The settings of `aicontent.connect()`, for the contestants that leave them to their user."""


class Cache:
    """A store of documents, each with its own database.

    Args:
        url: an empty database, or one that this contestant has used.
    """

    name: str
    backends: ClassVar[Sequence[str]] = ("sqlite", "postgresql")
    package = ""
    """The module of a library that may be missing."""

    def __init__(self, url: str) -> None:
        self.is_sqlite = url.startswith("sqlite")

    def ask(self, request: Request, generated: Any) -> Any:
        """Return the stored answer to a request, or store this document and return it."""
        document = self.get(request)
        if document is not None:
            return document
        self.set(request, generated)
        return generated

    def ask_all(self, requests: Sequence[Request], generated: Any) -> list[Any]:
        """Ask one request after the other."""
        return [self.ask(request, generated) for request in requests]

    def get(self, request: Request) -> Any:
        """Return the stored answer, or None."""
        raise NotImplementedError

    def set(self, request: Request, document: Any) -> None:
        """Store an answer."""
        raise NotImplementedError

    def durability(self) -> str:
        """Return the settings that decide what a power cut loses."""
        if not self.is_sqlite:
            return f"synchronous_commit {self.setting('synchronous_commit')}"
        return f"{self.setting('journal_mode')}, synchronous {self.setting('synchronous')}"

    def setting(self, name: str) -> Any:
        """Return a PRAGMA of SQLite, or a setting of the PostgreSQL session."""
        return self.query(f"{'PRAGMA' if self.is_sqlite else 'SHOW'} {name}")

    def query(self, sql: str) -> Any:
        """Return the value that a statement selects."""
        raise NotImplementedError

    @classmethod
    def is_installed(cls) -> bool:
        """Return whether the library is installed."""
        return not cls.package or find_spec(cls.package) is not None


class AIContent(Cache):
    """aicontent, which also counts the use of a stored answer."""

    name = "get_or_generate()"
    _mark = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        import aicontent

        self._database: Any = aicontent.connect(url)
        self._database.connect(reuse_if_open=True)
        self._model = aicontent.for_database(self._database)

    def ask(self, request: Request, generated: Any) -> Any:
        user, type, payload, level = request
        content = self._model.get_or_generate(
            user,
            type,
            payload,
            lambda _: generated,
            level=level,
            expires_in=EXPIRES_IN,
            mark=self._mark,
        )
        return content.generated_data

    def query(self, sql: str) -> Any:
        return self._database.execute_sql(sql).fetchone()[0]


class UnmarkedAIContent(AIContent):
    """aicontent, which does not count the use."""

    name = "get_or_generate(), mark=False"
    _mark = False


class PeeweeTable(Cache):
    """A table of keys and JSON documents with Peewee."""

    name = "a table with Peewee"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        import peewee

        self._database: Any
        if self.is_sqlite:
            self._database = peewee.SqliteDatabase(file_of(url), pragmas=_PRAGMAS)
        else:
            self._database = peewee.PostgresqlDatabase(url)

        class Entry(peewee.Model):
            key = peewee.TextField(primary_key=True)
            value = peewee.JSONField()
            expires = peewee.DoubleField()

            class Meta:
                database = self._database

        self._entry: Any = Entry
        self._database.connect()
        self._database.create_tables([Entry])

    def get(self, request: Request) -> Any:
        entry = self._entry
        is_current = entry.expires > time.time()
        found = entry.get_or_none((entry.key == request_hash(request)) & is_current)
        return None if found is None else found.value

    def set(self, request: Request, document: Any) -> None:
        entry = self._entry
        values = {"key": request_hash(request), "value": document}
        entry.insert(**values, expires=time.time() + EXPIRES_IN).on_conflict(
            conflict_target=[entry.key], preserve=[entry.value, entry.expires]
        ).execute()

    def query(self, sql: str) -> Any:
        return self._database.execute_sql(sql).fetchone()[0]


class SQLAlchemyTable(Cache):
    """A table of keys and JSON documents with SQLAlchemy's ORM, a session per call."""

    name = "a table with SQLAlchemy"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        import sqlalchemy
        from sqlalchemy import orm
        from sqlalchemy.dialects.postgresql import JSONB

        base: Any = orm.declarative_base()

        class Entry(base):
            __tablename__ = "entry"
            key = sqlalchemy.Column(sqlalchemy.Text(), primary_key=True)
            value: Any = sqlalchemy.Column(
                sqlalchemy.JSON() if self.is_sqlite else JSONB(), nullable=False
            )
            expires = sqlalchemy.Column(sqlalchemy.Double(), nullable=False)

        self._entry: Any = Entry
        self._engine = engine_of(url)
        self._select = sqlalchemy.select
        self._session = orm.sessionmaker(self._engine)
        base.metadata.create_all(self._engine)

    def get(self, request: Request) -> Any:
        entry = self._entry
        same = (entry.key == request_hash(request), entry.expires > time.time())
        with self._session() as session:
            found = session.scalars(self._select(entry).where(*same)).first()
            return None if found is None else found.value

    def set(self, request: Request, document: Any) -> None:
        values = {"key": request_hash(request), "value": document}
        with self._session() as session, session.begin():
            session.merge(self._entry(**values, expires=time.time() + EXPIRES_IN))

    def query(self, sql: str) -> Any:
        with self._engine.connect() as connection:
            return connection.exec_driver_sql(sql).scalar()


def file_of(url: str) -> str:
    """Return the path of a SQLite URL's file."""
    return url.removeprefix("sqlite:///")


def engine_of(url: str) -> Any:
    """Create an engine of SQLAlchemy with the driver and the settings of `aicontent.connect()`."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg2://", 1))
    if url.startswith("sqlite"):

        def set_pragmas(connection: Any, _: Any) -> None:
            for name, value in _PRAGMAS.items():
                connection.execute(f"PRAGMA {name} = {value}")

        sqlalchemy.event.listen(engine, "connect", set_pragmas)
    return engine
