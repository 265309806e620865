"""The base of the model: its database, and the statements that are made once for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import peewee

from .compiled import Computed, Statement, Statements, slot
from .errors import NotBoundError
from .fields import clock


def computed(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the values that the database is to compute."""
    return [n for n, value in values.items() if isinstance(value, (Computed, peewee.Node))]


def given_by(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what fills the slots."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        given |= value.given if isinstance(value, Computed) else {name: value}
    return given


class CompiledModel(peewee.Model):
    """The base of the model: its database, and the statements made for it."""

    is_new: bool
    _statements: ClassVar[Statements]
    _as_read: dict[str, str | None]
    __rel__: dict[str, Any]
    _dirty: set[str]  # Peewee's, which its stubs leave out

    @classmethod
    def _database(cls) -> peewee.Database:
        database: peewee.Database | None = cls._meta.database
        if database is None:
            raise NotBoundError(
                f"{cls.__name__} has no database: call aicontent.bind(database) at start-up"
            )
        return database

    @classmethod
    def _touched(cls) -> dict[str, Any]:
        # RETURNING comes before SQLite's trigger has run; PostgreSQL's has run by then.
        database = cls._database()
        if isinstance(database, peewee.PostgresqlDatabase):
            return {}
        return {"updated_at": clock(database)}

    @classmethod
    def _with_slots(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values for a statement: slots, what the database computes, and nodes."""
        return {
            name: value.build(cls)
            if isinstance(value, Computed)
            else value
            if isinstance(value, peewee.Node)
            else slot(name, cls._meta.fields[name])
            for name, value in values.items()
        }

    @classmethod
    def _statement(
        cls,
        key: Hashable,
        values: Mapping[str, Any],
        make: Callable[[], tuple[Any, Sequence[Any]]],
    ) -> Statement:
        """Return a statement of this binding: made at its first use, kept under its key and the
        names of its values, and not kept where there is no key, or a node of the caller's own."""
        database = cls._database()
        if key is None or any(isinstance(value, peewee.Node) for value in values.values()):
            query, fields = make()
            return Statement(query, database, fields)
        statements: Statements | None = cls.__dict__.get("_statements")
        if statements is None or statements.database is not database:
            statements = Statements(database)
            cls._statements = statements
        names = tuple((n, v.key if isinstance(v, Computed) else None) for n, v in values.items())
        place = cls._meta.schema, cls._meta.table_name  # which a host may change
        return statements.get((place, key, names), make)

    @classmethod
    def _loaded(cls, rows: Iterable[dict[str, Any]]) -> list[Self]:
        """Return rows as instances, as Peewee would."""
        instances = []
        for row in rows:
            instance = cls.__new__(cls)
            instance.__data__, instance.__rel__ = row, {}
            instance._dirty, instance._as_read, instance.is_new = set(), {}, False
            instances.append(instance)
        return instances
