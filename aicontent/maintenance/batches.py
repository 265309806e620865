"""Choose which rows a cleanup deletes next, and set those aside that cannot be deleted."""

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
"""Rows that are looked up at once: the more rows, the more neighbours; up to 10 MB of memory."""

_MOST_BLOCKED = 100_000
"""Rows that are set aside before the others are left for another run: the look-up names them."""

_WAITS = 3
"""How often a cleanup waits for the rows that other transactions have locked."""

_Row = tuple[str, Any]
"""The id of a row, and the place where it was found."""


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
    """Deletes the rows of one reason, in the order in which they are stored.

    Many rows are looked up at once, without a lock, and the DELETE judges each row again. A cursor
    over the expiry would skip rows, because many rows may expire at the same moment.
    """

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        self.blocked: dict[str, str] = {}
        """Why rows cannot be deleted, by their ids."""
        self.is_done = False
        self._may_be_more = True
        self._is_left = False
        self._locked: dict[str, Any] = {}
        self._waits = _WAITS
        self._rows: list[_Row] = []
        self._halves: list[list[_Row]] = []
        """Batches of which some row stops the whole statement, halved until it is found."""
        self._backend = backend_of(database_of(reason.model))
        self._deletion = self._backend.deletion(reason.model, reason.rule)

    def delete(self, limit: int) -> tuple[int, float]:
        """Delete a batch of at most `limit` rows.

        Returns:
            The number of rows deleted, and for how many seconds other writers may have waited.
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
        kept = "a trigger, a policy or the model's own delete() keeps it"
        self.blocked |= dict.fromkeys(sorted(deleted.kept), kept)
        self._locked |= {id: places[id] for id in deleted.locked}
        return deleted.gone, deleted.seconds

    def is_left(self) -> bool:
        """Tell whether there is a row that is due, and not one that cannot be deleted."""
        if self.is_done:
            return self._is_left
        return bool(list(self._select(self.blocked, self.reason.model.id).limit(1).tuples()))

    def _finish(self) -> None:
        """Try the rows again that other transactions had locked; otherwise this reason is done."""
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
        found = self._sorted(rows)
        # Cleanups that run at once begin at different rows, so they seldom meet.
        start = random.randrange(len(found) + 1)  # noqa: S311 - no secret
        return found[start:] + found[:start]

    def _sorted(self, rows: Iterable[_Row]) -> list[_Row]:
        return sorted(rows, key=lambda row: self._deletion.storage_order(row[1]))
