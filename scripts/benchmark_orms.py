"""What else one could use: plain Peewee, and SQLAlchemy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import peewee

import aicontent

from .benchmark_data import TABLE
from .benchmark_rivals import FIELDS, Values, new_id


class PlainPeewee:
    """Peewee, as its documentation writes it."""

    name = "peewee"

    def __init__(self, database: peewee.Database) -> None:
        columns = {field.name: _plain(field) for field in FIELDS}
        meta = type("Meta", (), {"database": database, "table_name": TABLE})
        self._model: Any = type("Content", (peewee.Model,), {**columns, "Meta": meta})
        self._naive = isinstance(database, peewee.SqliteDatabase)

    def first_reusable(self, user: int, type: str, level: str | None) -> Any:
        model = self._model
        query = model.select().where(
            model.user == user,
            model.type == type,
            model.status == "completed",
            model.expires_at.is_null() | (model.expires_at > self._now()),
        )
        if level:
            query = query.where(model.level == level)
        return query.order_by(model.usage_count, model.created_at.desc()).first()

    def reuse(self, user: int, type: str, level: str | None) -> Any:
        model = self._model
        content = self.first_reusable(user, type, level)
        if content is not None:
            changes = {"usage_count": model.usage_count + 1, "last_accessed_at": self._now()}
            model.update(changes).where(model.id == content.id).execute()
        return content

    def create(self, values: Values) -> Any:
        now = self._now()
        return self._model.create(
            id=new_id(), usage_count=0, attempts=0, created_at=now, updated_at=now, **values
        )

    def create_many(self, rows: Sequence[Values]) -> Any:
        for values in rows:
            self.create(values)

    def _now(self) -> datetime:
        now = datetime.now(UTC)
        return now.replace(tzinfo=None) if self._naive else now


def _plain(field: peewee.Field) -> peewee.Field:
    options = {"column_name": field.column_name, "null": field.null}
    if field.primary_key:
        return peewee.CharField(primary_key=True)
    for kind in (peewee.JSONField, peewee.DateTimeField, peewee.FloatField, peewee.TextField):
        if isinstance(field, kind):
            return kind(**options)
    integer = isinstance(field, (peewee.IntegerField, peewee.ForeignKeyField))
    return (peewee.IntegerField if integer else peewee.CharField)(**options)


class SQLAlchemy:
    """SQLAlchemy's ORM, a session and a transaction for each call."""

    name = "sqlalchemy"

    def __init__(self, url: str) -> None:
        import sqlalchemy as sa
        from sqlalchemy import orm

        self._sa, self._sqlite = sa, url.startswith("sqlite")
        driver = "sqlite" if self._sqlite else "postgresql+psycopg2"
        engine = sa.create_engine(driver + url[url.index(":") :])
        if self._sqlite:
            sa.event.listen(engine, "connect", _as_ours)
        self._session = orm.sessionmaker(engine, expire_on_commit=False)
        base: Any = orm.declarative_base()
        columns = {_NAMES.get(f.name, f.name): self._column(f) for f in FIELDS}
        self._model: Any = type("Content", (base,), {"__tablename__": TABLE, **columns})

    def first_reusable(self, user: int, type: str, level: str | None) -> Any:
        with self._session() as session:
            return session.scalars(self._query(user, type, level)).first()

    def reuse(self, user: int, type: str, level: str | None) -> Any:
        with self._session() as session, session.begin():
            content = session.scalars(self._query(user, type, level)).first()
            if content is not None:
                content.usage_count = self._model.usage_count + 1
                content.last_accessed_at = self._now()
        return content

    def create(self, values: Values) -> Any:
        content = self._new(values)
        with self._session() as session, session.begin():
            session.add(content)
        return content

    def create_many(self, rows: Sequence[Values]) -> Any:
        with self._session() as session, session.begin():
            session.add_all([self._new(values) for values in rows])

    def _new(self, values: Values) -> Any:
        row = {_NAMES.get(name, name): value for name, value in values.items()}
        now = self._now()
        row |= {"id": new_id(), "usage_count": 0, "attempts": 0}
        return self._model(**row, created_at=now, updated_at=now)

    def _query(self, user: int, type: str, level: str | None) -> Any:
        model = self._model
        query = self._sa.select(model).where(
            model.user_id == user,
            model.type == type,
            model.status == "completed",
            model.expires_at.is_(None) | (model.expires_at > self._now()),
        )
        if level:
            query = query.where(model.level == level)
        return query.order_by(model.usage_count, model.created_at.desc()).limit(1)

    def _now(self) -> datetime:
        now = datetime.now(UTC)
        return now.replace(tzinfo=None) if self._sqlite else now

    def _column(self, field: peewee.Field) -> Any:
        from sqlalchemy.dialects.postgresql import JSONB

        sa = self._sa
        kinds: list[tuple[Any, Any]] = [
            (peewee.JSONField, sa.JSON(none_as_null=True) if self._sqlite else JSONB(True)),
            (peewee.DateTimeField, sa.DateTime(timezone=not self._sqlite)),
            (peewee.FloatField, sa.Float()),
            ((peewee.IntegerField, peewee.ForeignKeyField), sa.Integer()),
            (peewee.Field, sa.Text()),
        ]
        kind = next(kind for fields, kind in kinds if isinstance(field, fields))
        return sa.Column(field.column_name, kind, primary_key=field.primary_key)


_NAMES = {"user": "user_id", "metadata": "metadata_"}
"""What two attributes are called there, where their names mean something else."""


def _as_ours(connection: Any, _: Any) -> None:
    for name, value in aicontent.connect("sqlite:///:memory:")._pragmas:
        connection.execute(f"PRAGMA {name} = {value}")
