"""How rows are found, and their uses counted: in the statement that finds what is used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Self

import peewee

from ..database.compiled import slot
from ..enums import ContentStatus
from ..fields.policy import check_text
from ..fields.scalars import clock_now
from .bulk import BulkModel

# A constant, not a parameter: only so is the partial index known to serve.
_COMPLETED = peewee.SQL(f"'{ContentStatus.COMPLETED}'")

Narrow = Callable[[Any, Any, Any], Any]
"""Narrows and orders a query of a table by a moment: `(table, query, moment) -> query`."""


class UsedModel(BulkModel):
    """Adds to the base of the model how a row is found and marked accessed."""

    DoesNotExist: ClassVar[type[peewee.DoesNotExist]]

    # The columns it goes by, which the model has.
    id: Any
    usage_count: Any
    expires_at: Any

    @classmethod
    def get_by_id(cls, pk: Any) -> Self:
        """Return the row of this id, as Peewee's `get_by_id` does, with its SQL made once.

        Raises:
            DoesNotExist: the model's own: there is none.
            ValidationError: the id cannot be one. NotBoundError: the model has no database.
        """
        key: Any = cls._meta.primary_key
        if isinstance(pk, peewee.Node):
            return cls.get(key == pk)
        given = {"id": key.db_value(pk)}
        found = cls._found("by id", lambda table, query, _: query.where(key == slot("id")), given)
        if found is None:
            raise cls.DoesNotExist(f"{cls.__name__} has no row of the id {given['id']!r}")
        return found

    @classmethod
    def _found(cls, key: Hashable, narrow: Narrow, given: dict[str, Any]) -> Self | None:
        """Return the first of some rows; nothing is marked."""

        def make() -> tuple[Any, list[Any]]:
            query = narrow(cls, cls.select(), cls._moment_of(given))
            return query.limit(1), cls._meta.sorted_fields

        return cls._first(("find", key), given, make)

    @classmethod
    def _taken(cls, key: Hashable, narrow: Narrow, given: dict[str, Any]) -> Self | None:
        """Mark the first of some rows accessed, and return it."""

        def make() -> tuple[Any, list[Any]]:
            moment, table = cls._moment_of(given), cls.alias()
            first = narrow(table, table.select(table.id), moment).limit(1)
            if cls._database().for_update:
                # When the wait is over PostgreSQL judges the row anew, and takes the next if
                # need be.
                first = first.for_update("FOR NO KEY UPDATE")
            changes = {"usage_count": one_more(cls), "last_accessed_at": moment}
            query: Any = cls.update(changes | cls._touched()).where(cls.id == first)
            return query.returning(cls), cls._meta.sorted_fields

        return cls._first(("take", key), given, make)

    @classmethod
    def _first(
        cls,
        key: Hashable,
        given: Mapping[str, Any],
        make: Callable[[], tuple[Any, Sequence[Any]]],
    ) -> Self | None:
        """Execute a statement, as `_statement` has it, and return its first row, if any."""
        return next(iter(cls._loaded(cls._statement(key, given, make).rows(given))), None)

    # Pieces of statements

    @classmethod
    def _moment_of(cls, given: dict[str, Any]) -> Any:
        """Return a slot for the moment that is given, or the database's clock."""
        return slot("now") if "now" in given else clock_now(cls._database())

    @classmethod
    def _asked_for(cls, user: Any, type: str, level: str | None = None) -> dict[str, Any]:
        # What no row can have is a mistake, not a miss.
        asked = {"user": cls._user_id(user), "type": type, "level": level or None}
        cls._validate(asked | {"level": level}, partial=True)
        check_text(level or "", "level")
        return {name: value for name, value in asked.items() if value is not None}

    @classmethod
    def _reusable(
        cls, table: Any, query: Any, same: list[Any], moment: Any, completed: Any = None
    ) -> Any:
        """Narrow a query to what is the same as asked for and can be served, the first at first.

        `completed` is the condition for this; by default the one of the index for reuse.
        """
        return query.where(
            *same,
            table.status == _COMPLETED if completed is None else completed,
            table.expires_at.is_null() | (table.expires_at > moment),
        ).order_by(table.usage_count.asc(), table.created_at.desc())


def one_more(model: Any) -> Any:
    """Return the expression for a use more than there were."""
    return peewee.fn.COALESCE(model.usage_count, 0) + 1
