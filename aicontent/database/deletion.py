"""Delete rows by their ids while other connections write.

Called by `maintenance.batches`, which decides which rows to delete, and how many.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import peewee

from .constraints import CONFLICTS, error_code, refusal
from .internals import driver_errors

_LOCK_WAIT = "1s"

_IDS, _USERS, _PLACES = object(), object(), object()
"""Placeholders among a statement's values for the arrays of ids, users and storage locations."""

_Sql = tuple[str, list[Any]]

_REFERENCING = """
    SELECT DISTINCT m.name FROM sqlite_master m, pragma_foreign_key_list(m.name) f
    WHERE m.type = 'table' AND lower(f."table") = 'ai_generated_content'
    AND f.on_delete IN ('NO ACTION', 'RESTRICT') ORDER BY m.name
"""


def _value(stand_in: object) -> peewee.Value:
    return peewee.Value(stand_in, converter=False, unpack=False)


class Deleted(NamedTuple):
    """The result of a batch: the number of deleted rows, and the ids of the others.

    The database did not delete the `kept` rows, although they are due and not locked. Another
    transaction has locked the `locked` rows. Other writers may have waited `seconds`.
    """

    gone: int
    kept: set[str]
    locked: set[str]
    seconds: float


class Deletion(ABC):
    """Deletes rows by id if they still fulfil a rule at that time.

    Args:
        backend: the backend of the model's database.
        model: the bound model.
        rule: the condition.
    """

    location: Sequence[Any]
    """The columns with the storage location of a row. Rows next to each other share pages of the
    table and of most indexes, so a batch in the order of storage is the fastest."""

    def __init__(self, backend: Any, model: Any, rule: Any) -> None:
        self._backend = backend
        self._database: Any = model._meta.get_database_instance()
        self._chosen = backend.any_of(model.id, _value(_IDS))
        self._due = self._statement(model.select(model.id).where(self._chosen, rule))

    def storage_order(self, place: Any) -> Any:
        """Return the sort key of a storage location, which is the values of `location`."""
        return place

    def neighbours(self, rows: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Return the rows at the end of the list that share one partition, for one statement."""
        return rows

    @abstractmethod
    def delete(self, rows: Mapping[str, Any]) -> Deleted:
        """Delete the rows that are due, in one transaction; `rows` maps ids to locations."""

    def can_be_locked(self, ids: Collection[str]) -> bool | None:
        """Wait up to a second to lock one of the rows, and return whether that succeeded.

        None means that all are still locked. False means that none is due any more, or that a
        row-level security policy hides them from changes.
        """
        return False

    def refusal(self, error: BaseException) -> str | None:
        """Return why the database refuses to delete a row; None if the row is not the reason."""
        return refusal(error)

    def due(self, ids: Collection[str]) -> set[str]:
        """Return the ids of the rows that are due."""
        return {id for (id,) in self._rows(self._due, ids)}

    def _statement(self, query: Any) -> _Sql:
        sql, values = query.bind(self._database).sql()
        return sql, values

    def _execute(
        self,
        statement: _Sql,
        ids: Collection[str],
        places: Collection[Any] = (),
        users: Collection[Any] = (),
    ) -> Any:
        sql, values = statement
        arrays = {_IDS: ids, _PLACES: places, _USERS: users}
        filled = [self._backend.array(arrays[v]) if type(v) is object else v for v in values]
        return self._database.execute_sql(sql, filled)

    def _rows(self, statement: _Sql, ids: Collection[str], *arrays: Collection[Any]) -> list[Any]:
        if not ids:
            return []
        cursor = self._execute(statement, ids, *arrays)
        with driver_errors:
            return cursor.fetchall()  # type: ignore[no-any-return]


class SqliteDeletion(Deletion):
    """Deletion on SQLite, where no other connection writes while a batch is deleted."""

    location = (peewee.SQL("rowid"),)

    def __init__(self, backend: Any, model: Any, rule: Any) -> None:
        super().__init__(backend, model, rule)
        # The rowid makes it fast; the id is tested too, because VACUUM may have changed rowids.
        by_rowid = backend.any_of(peewee.SQL("rowid"), _value(_PLACES))
        self._delete = self._statement(model.delete().where(by_rowid, self._chosen, rule))
        self._delete_moved = self._statement(model.delete().where(self._chosen, rule))

    def delete(self, rows: Mapping[str, Any]) -> Deleted:
        kept: set[str] = set()
        with self._backend.atomic(self._database, "IMMEDIATE"):
            began = time.monotonic()  # after the wait for the lock
            gone = self._execute(self._delete, rows, [rowid for (rowid,) in rows.values()]).rowcount
            if gone < len(rows):
                gone += self._execute(self._delete_moved, rows).rowcount
                kept = self.due(rows)
        return Deleted(gone, kept, set(), time.monotonic() - began)

    def refusal(self, error: BaseException) -> str | None:
        why = super().refusal(error)
        if error_code(error) != "SQLITE_CONSTRAINT_FOREIGNKEY":
            return why
        names = ", ".join(name for (name,) in self._database.execute_sql(_REFERENCING))
        return f"{why}: a row of {names} references it" if names else why


class PostgresqlDeletion(Deletion):
    """Deletion on PostgreSQL, where a batch skips rows that other transactions have locked.

    Two cleanups at the same time delete different rows, and cannot deadlock.
    """

    def __init__(self, backend: Any, model: Any, rule: Any) -> None:
        super().__init__(backend, model, rule)
        meta = model._meta
        place, *others = (peewee.Column(meta.table, n) for n in ("ctid", "tableoid", "userId"))
        self.location = [place]
        same_users = []
        if backend.catalog(self._database).is_partitioned(meta.schema, meta.table_name):
            # The rows of a batch share a partition; naming their users limits the search to it.
            self.location += others
            same_users = [backend.any_of(model.user, _value(_USERS))]
        due = model.select(model.id, place).where(self._chosen, rule)
        self._lock = self._statement(due.where(*same_users).for_update("FOR UPDATE SKIP LOCKED"))
        self._wait = self._statement(due.limit(1).for_update())
        # The ctid makes it twice as fast; the id is tested too, because partitions share ctids.
        places = peewee.NodeList(
            (peewee.SQL("ctid = ANY("), _value(_PLACES), peewee.SQL("::tid[])"))
        )
        self._delete = self._statement(
            model.delete().where(places, self._chosen, *same_users).returning(model.id)
        )

    def storage_order(self, place: Any) -> tuple[int, ...]:
        block, _, item = place[0][1:-1].partition(",")
        return *place[1:2], int(block), int(item)

    def neighbours(self, rows: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        # PostgreSQL searches for all ids in each partition that has one of the users.
        _, (_, *partition) = rows[-1]
        others = (n for n in range(len(rows), 0, -1) if rows[n - 1][1][1:2] != partition[:1])
        return rows[next(others, 0) :]

    def delete(self, rows: Mapping[str, Any]) -> Deleted:
        users = {place[2] for place in rows.values() if place[2:]}
        began = time.monotonic()
        with self._backend.atomic(self._database):
            free = dict(self._rows(self._lock, rows, (), users))
            gone = {id for (id,) in self._rows(self._delete, free, free.values(), users)}
        took = time.monotonic() - began
        return Deleted(len(gone), free.keys() - gone, self.due(rows.keys() - free.keys()), took)

    def can_be_locked(self, ids: Collection[str]) -> bool | None:
        set_timeout = "SELECT set_config('lock_timeout', %s, true)"
        try:
            with self._backend.atomic(self._database):
                self._database.execute_sql(set_timeout, (_LOCK_WAIT,))
                return bool(self._rows(self._wait, ids))
        except peewee.OperationalError as error:
            if error_code(error) not in ("55P03", *CONFLICTS):  # lock_not_available
                raise
            return None
