"""The base of the model: its database, and the statements that are made once for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

import peewee

from ..database.compiled import Computed, Statement, Statements, slot
from ..errors import NotBoundError
from ..fields.scalars import clock


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

    _statements: ClassVar[Statements]

    @classmethod
    def _database(cls) -> peewee.Database:
        database: Any = cls._meta.get_database_instance()
        if database is None:
            raise NotBoundError(
                f"{cls.__name__} has no database: call aicontent.bind(database) at start-up"
            )
        found: peewee.Database = database
        return found

    @classmethod
    def _builds_as_peewee(cls) -> bool:
        own: Any = cls
        base: Any = peewee.Model
        return (
            own.select.__func__ is base.select.__func__
            and own.update.__func__ is base.update.__func__
            and own.insert.__func__ is base.insert.__func__
        )

    @classmethod
    def _touched(cls) -> dict[str, Any]:
        # RETURNING comes before SQLite's trigger has run; PostgreSQL's has run by then.
        database = cls._database()
        if isinstance(database, peewee.PostgresqlDatabase):
            return {}
        return {"updated_at": clock(database)}

    @classmethod
    def _ready(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values as the driver takes them, but for those that the database computes:
        a field may make its value such a one, too."""
        fields = cls._meta.fields
        return {
            name: value
            if isinstance(value, (Computed, peewee.Node))
            else to_driver(fields[name])(value)
            for name, value in values.items()
        }

    @classmethod
    def _with_slots(cls, ready: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values for a statement: slots, what the database computes, and nodes."""
        return {
            name: value.build(cls)
            if isinstance(value, Computed)
            else value
            if isinstance(value, peewee.Node)
            else slot(name)
            for name, value in ready.items()
        }

    @classmethod
    def _statement(
        cls,
        key: Hashable,
        values: Mapping[str, Any],
        make: Callable[[], tuple[Any, Sequence[Any]]],
    ) -> Statement:
        """Return a statement of this binding: made at its first use, kept under its key and the
        names of its values, and not kept where there is no key, or a node of the caller's own.

        `make` returns its query and the fields of its rows.
        """
        database = cls._database()
        statements: Statements | None = cls.__dict__.get("_statements")
        if statements is None or statements.database is not database:
            statements = Statements(database)
            cls._statements = statements
        names: list[Hashable] = []
        for name, value in values.items():
            if type(value) is Computed:
                names.append((name, value.key))
            elif isinstance(value, peewee.Node):
                key = None
            else:
                names.append(name)
        meta = cls._meta
        # A host may change where the table is, and which fields it has, and make queries its way.
        kept_as = key and (meta.schema, meta.table_name, len(meta.fields), key, *names)
        if not cls._builds_as_peewee():
            kept_as = None
        statement = statements.get(kept_as)
        if statement is None:
            query, fields = make()
            statement = Statement(query, database, fields)
            # Another thread may have bound the model anew, while the query was made.
            if kept_as is not None and cls._database() is database:
                statements.keep(kept_as, statement)
        return statement


def to_driver(field: Any) -> Callable[[Any], Any]:
    """Return what makes a field's value ready for the driver, without a node if it knows how."""
    ready: Callable[[Any], Any] = getattr(field, "parameter", field.db_value)
    return ready
