"""How uses are counted: in the database, in the statement that finds what is used."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Self

import peewee

from .bulk import BulkModel
from .compiled import slot
from .fields import clock_now


class UsedModel(BulkModel):
    """Adds to the base of the model how a row is found and marked accessed."""

    # The columns it goes by, which the model has.
    id: Any
    usage_count: Any
    expires_at: Any

    @classmethod
    def _taken(
        cls, key: Hashable, ids: Callable[[Any, Any], Any], given: dict[str, Any]
    ) -> Self | None:
        """Mark the first of some rows accessed, and return it; `ids` selects them from a table
        and by a moment, which is the database's where none is given."""

        def make() -> tuple[Any, list[Any]]:
            database, has_now = cls._database(), "now" in given
            moment = slot("now", cls.expires_at) if has_now else clock_now(database)
            first = ids(cls.alias(), moment).limit(1)
            if database.for_update:
                # When the wait is over PostgreSQL judges the row anew, and takes the next if
                # need be.
                first = first.for_update("FOR NO KEY UPDATE")
            changes = {"usage_count": one_more(cls), "last_accessed_at": moment}
            query: Any = cls.update(changes | cls._touched()).where(cls.id == first)
            return query.returning(cls), cls._meta.sorted_fields

        rows = cls._statement(key, given, make).rows(given)
        return next(iter(cls._loaded(rows)), None)


def one_more(model: Any) -> Any:
    """Return the expression for a use more than there were."""
    return peewee.fn.COALESCE(model.usage_count, 0) + 1
