"""Define the contestants that are ORMs: Peewee and SQLAlchemy, used as their docs show."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import peewee
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import JSONB

import aicontent

from .contestants import FIELDS, Values, new_id
from .requests import Request, request_hash
from .tables import TABLE


class PlainPeewee:
    """Peewee without aicontent."""

    name = "peewee"

    def __init__(self, database: peewee.Database) -> None:
        fields = {field.name: _peewee_field(field) for field in FIELDS}
        meta = type("Meta", (), {"database": database, "table_name": TABLE})
        self._model: Any = type("Content", (peewee.Model,), {**fields, "Meta": meta})
        self._is_sqlite = isinstance(database, peewee.SqliteDatabase)

    def first_reusable(self, user: int, type: str, level: str | None) -> Any:
        model = self._model
        query = model.select().where(
            model.user == user,
            model.type == type,
            model.status == "completed",
            model.expires_at.is_null() | (model.expires_at > _now(self._is_sqlite)),
        )
        if level:
            query = query.where(model.level == level)
        return query.order_by(model.usage_count, model.created_at.desc()).first()

    def reuse(self, user: int, type: str, level: str | None) -> Any:
        return self._count_use(self.first_reusable(user, type, level))

    def unmarked_hit(self, request: Request) -> Any:
        model = self._model
        query = model.select().where(
            model.user == request.user,
            model.fingerprint == request_hash(request),
            model.status == "completed",
            model.expires_at.is_null() | (model.expires_at > _now(self._is_sqlite)),
        )
        return query.order_by(model.created_at.desc()).first()

    def hit(self, request: Request) -> Any:
        return self._count_use(self.unmarked_hit(request))

    def _count_use(self, content: Any) -> Any:
        model = self._model
        if content is not None:
            model.update(
                {"usage_count": model.usage_count + 1, "last_accessed_at": _now(self._is_sqlite)}
            ).where(model.id == content.id).execute()
        return content

    def create(self, values: Values) -> Any:
        return self._model.create(**_defaults(self._is_sqlite), **values)

    def create_many(self, rows: Sequence[Values]) -> Any:
        for values in rows:
            self.create(values)


def _peewee_field(field: peewee.Field) -> peewee.Field:
    options = {"column_name": field.column_name, "null": field.null}
    if field.primary_key:
        return peewee.CharField(primary_key=True)
    kinds = (peewee.JSONField, peewee.DateTimeField, peewee.FloatField, peewee.BooleanField)
    for kind in (*kinds, peewee.TextField):
        if isinstance(field, kind):
            return kind(**options)
    is_integer = isinstance(field, (peewee.IntegerField, peewee.ForeignKeyField))
    return (peewee.IntegerField if is_integer else peewee.CharField)(**options)


def sqlalchemy_url(url: str) -> str:
    """Return the URL with which SQLAlchemy uses the same driver as aicontent."""
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


class SQLAlchemy:
    """SQLAlchemy's ORM, with a session and a transaction per call."""

    name = "sqlalchemy"

    def __init__(self, url: str) -> None:
        self._is_sqlite = url.startswith("sqlite")
        engine = sqlalchemy.create_engine(sqlalchemy_url(url))
        if self._is_sqlite:
            sqlalchemy.event.listen(engine, "connect", _set_pragmas)
        self._session = orm.sessionmaker(engine, expire_on_commit=False)
        base: Any = orm.declarative_base()
        columns = {_ATTRIBUTES.get(f.name, f.name): self._column(f) for f in FIELDS}
        self._model: Any = type("Content", (base,), {"__tablename__": TABLE, **columns})

    def first_reusable(self, user: int, type: str, level: str | None) -> Any:
        with self._session() as session:
            return session.scalars(self._query(user, type, level)).first()

    def reuse(self, user: int, type: str, level: str | None) -> Any:
        return self._use_first(self._query(user, type, level))

    def unmarked_hit(self, request: Request) -> Any:
        with self._session() as session:
            return session.scalars(self._answer(request)).first()

    def hit(self, request: Request) -> Any:
        return self._use_first(self._answer(request))

    def _use_first(self, query: Any) -> Any:
        with self._session() as session, session.begin():
            content = session.scalars(query).first()
            if content is not None:
                content.usage_count = self._model.usage_count + 1
                content.last_accessed_at = _now(self._is_sqlite)
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
        attributes = {_ATTRIBUTES.get(name, name): value for name, value in values.items()}
        return self._model(**_defaults(self._is_sqlite), **attributes)

    def _query(self, user: int, type: str, level: str | None) -> Any:
        model = self._model
        query = sqlalchemy.select(model).where(
            model.user_id == user,
            model.type == type,
            model.status == "completed",
            model.expires_at.is_(None) | (model.expires_at > _now(self._is_sqlite)),
        )
        if level:
            query = query.where(model.level == level)
        return query.order_by(model.usage_count, model.created_at.desc()).limit(1)

    def _answer(self, request: Request) -> Any:
        model = self._model
        query = sqlalchemy.select(model).where(
            model.user_id == request.user,
            model.fingerprint == request_hash(request),
            model.status == "completed",
            model.expires_at.is_(None) | (model.expires_at > _now(self._is_sqlite)),
        )
        return query.order_by(model.created_at.desc()).limit(1)

    def _column(self, field: peewee.Field) -> Any:
        json = sqlalchemy.JSON(none_as_null=True) if self._is_sqlite else JSONB(none_as_null=True)
        kinds: list[tuple[Any, Any]] = [
            (peewee.JSONField, json),
            (peewee.DateTimeField, sqlalchemy.DateTime(timezone=not self._is_sqlite)),
            (peewee.FloatField, sqlalchemy.Float()),
            (peewee.BooleanField, sqlalchemy.Boolean()),
            ((peewee.IntegerField, peewee.ForeignKeyField), sqlalchemy.Integer()),
            (peewee.Field, sqlalchemy.Text()),
        ]
        kind = next(kind for fields, kind in kinds if isinstance(field, fields))
        return sqlalchemy.Column(field.column_name, kind, primary_key=field.primary_key)


_ATTRIBUTES = {"user": "user_id", "metadata": "metadata_"}
"""Attributes that need another name in SQLAlchemy, which reserves `metadata`."""


def _set_pragmas(connection: Any, _: Any) -> None:
    """Give SQLAlchemy's connection the same settings as aicontent.connect()."""
    for name, value in aicontent.connect("sqlite:///:memory:")._pragmas:
        connection.execute(f"PRAGMA {name} = {value}")


def _defaults(is_sqlite: bool) -> dict[str, Any]:
    now = _now(is_sqlite)
    return {
        "id": new_id(),
        "usage_count": 0,
        "attempts": 0,
        "failures": 0,
        "queued": True,
        "created_at": now,
        "updated_at": now,
    }


def _now(is_sqlite: bool) -> datetime:
    """Return the current time, without a time zone for SQLite."""
    now = datetime.now(UTC)
    # Peewee writes a whole second without its fraction, which SQLite's CHECK refuses.
    return now.replace(tzinfo=None, microsecond=now.microsecond or 1) if is_sqlite else now
