"""Choose the rows that a cleanup deletes next, and skip rows that cannot be deleted."""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import peewee

from ..database.constraints import CONFLICTS, error_code
from ..database.supported import backend_of, database_of
from ..table import ContentTable

_LOOKED_UP = 50_000
"""Rows per look-up: of more rows, more are stored next to each other. It takes up to 10 MB."""

_MOST_BLOCKED = 100_000
"""The most skipped rows of one run: the look-up excludes each by its id."""

_WAITS = 3
"""How often a cleanup waits for rows that other transactions have locked."""

_Row = tuple[str, Any]
"""The id of a row, and its location in the storage."""


@dataclass(frozen=True)
class Reason:
    """A reason to delete rows: a condition, and the index that finds the rows in order."""

    name: str
    model: type[ContentTable]
    rule: Any
    order: Any
    index: str

    def select(self, *columns: Any) -> Any:
        """Select columns of the rows to delete."""
        return self.model.select(*columns).from_(self._source).where(self.rule)

    @cached_property
    def _source(self) -> Any:
        return backend_of(database_of(self.model)).with_index(self.model, self.index, self.rule)


class Batches:
    """Deletes the rows of one reason in batches, in the order of their storage.

    One look-up reads the ids of many rows without a lock, and the DELETE tests each row again.
    Paging by `expiresAt` would skip rows, because many rows may expire at the same time.
    """

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        self.blocked: dict[str, str] = {}
        """The reason why a row cannot be deleted, by the id of the row."""
        self.is_done = False
        self._may_be_more = True
        self._is_left = False
        self._locked: dict[str, Any] = {}
        self._waits = _WAITS
        self._rows: list[_Row] = []
        self._halves: list[list[_Row]] = []
        """Batches whose DELETE failed on one row: they are halved until that row is alone."""
        self._backend = backend_of(database_of(reason.model))
        self._deletion = self._backend.deletion(reason.model, reason.rule)

    def delete(self, limit: int) -> tuple[int, float]:
        """Delete a batch of at most `limit` rows.

        Returns:
            The number of rows deleted, and the seconds that other writers may have waited.
        """
        if not (self._halves or self._rows) and self._may_be_more:
            self._rows = self._look_up()
        source = self._halves[-1] if self._halves else self._rows
        if not source:
            self._finish()
            return 0, 0.0
        batch = self._deletion.neighbours(source[-limit:])
        del source[-len(batch) :]
        if self._halves and not source:
            self._halves.pop()
        places = dict(batch)
        began = time.monotonic()
        try:
            deleted = self._deletion.delete(places)
        except peewee.PeeweeException as error:
            if error_code(error) in CONFLICTS:
                self._locked.update(places)
                return 0, time.monotonic() - began
            why = self._deletion.refusal(error)
            if why is None:
                raise
            if len(batch) == 1:
                self.blocked |= dict.fromkeys(places, why)
            else:
                middle = len(batch) // 2
                self._halves += [batch[:middle], batch[middle:]]
            return 0, time.monotonic() - began
        reason = "a trigger, a policy or the model's own delete() keeps it"
        self.blocked |= dict.fromkeys(sorted(deleted.kept), reason)
        self._locked |= {id: places[id] for id in deleted.locked}
        return deleted.gone, deleted.seconds

    def is_left(self) -> bool:
        """Return whether rows are due that another run can delete."""
        if self.is_done:
            return self._is_left
        return bool(list(self._select(self.blocked, self.reason.model.id).limit(1).tuples()))

    def _finish(self) -> None:
        """Retry the rows that other transactions had locked; otherwise this reason is done."""
        can_be_locked = bool(self._locked) and self._deletion.can_be_locked(self._locked)
        self._waits -= 1
        if can_be_locked and self._waits:
            self._rows, self._locked = self._sorted(self._locked.items()), {}
            return
        self.is_done = True
        if can_be_locked is False:
            hidden = "a policy hides it from changes"
            self.blocked |= dict.fromkeys(sorted(self._deletion.due(self._locked)), hidden)
        else:
            self._is_left = True

    def _select(self, aside: Any, *columns: Any) -> Any:
        query = self.reason.select(*columns)
        if aside:
            query = query.where(~self._backend.any_of(self.reason.model.id, aside))
        return query

    def _look_up(self) -> list[_Row]:
        aside = self._locked.keys() | self.blocked.keys()
        if len(aside) > _MOST_BLOCKED:
            self._is_left = True
            return []
        columns = self.reason.model.id, *self._deletion.location
        query = self._select(aside, *columns).order_by(self.reason.order).limit(_LOOKED_UP)
        rows = [(id, place) for id, *place in query.tuples()]
        self._may_be_more = len(rows) == _LOOKED_UP
        ordered = self._sorted(rows)
        # Cleanups that run at the same time begin at different rows, so they rarely conflict.
        start = random.randrange(len(ordered) + 1)  # noqa: S311 - no secret
        return ordered[start:] + ordered[:start]

    def _sorted(self, rows: Iterable[_Row]) -> list[_Row]:
        return sorted(rows, key=lambda row: self._deletion.storage_order(row[1]))
