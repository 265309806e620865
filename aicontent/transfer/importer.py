"""Import content from JSON lines: store the valid lines, and report the others by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import peewee

from ..database.availability import connected
from ..database.bulk_load import Row
from ..database.constraints import reason_of_error, refusal
from ..database.supported import backend_of, resolved
from ..errors import (
    ArgumentError,
    DuplicateIdError,
    DuplicateRequestError,
    MigrationError,
    UnknownUserError,
    ValidationError,
    kind_of,
)
from ..fields.document import DocumentField
from ..fields.scalars import MAX_INTEGER
from ..fields.users import MAX_BIGINT, without_hyphens
from ..records.insertion import BATCH, USER, Insertion
from ..records.partitioning import is_partitioned
from ..table import TABLE, ContentTable, bound_model, user_id_type, users_model
from .json_lines import Batch, Refused, batches, by_column

OnConflict = Literal["error", "skip", "replace"]


@dataclass(frozen=True)
class ImportReport:
    """How many lines an import stored, replaced, skipped and refused.

    `stored` counts new rows, `replaced` existing rows that changed, `skipped` existing rows that
    did not change, `refused` lines that could not be stored.
    """

    stored: int = 0
    replaced: int = 0
    skipped: int = 0
    refused: int = 0


def import_lines(
    database: peewee.Database,
    lines: Iterable[bytes],
    *,
    on_conflict: OnConflict = "error",
    refused: Callable[[Refused], object] | None = None,
) -> ImportReport:
    """Import content from JSON lines, as `export_lines` writes them.

    Call it outside any transaction. Each line is validated by the rules of the model. Each batch
    is one transaction, so an import that was killed has stored complete batches: run it again
    with `on_conflict="skip"` to store the others.

    Args:
        database: a migrated database with the users of the lines. If `users` is the minimal
            table that `migrate(create_users=True)` creates, missing users are added.
        lines: lines of UTF-8 bytes, each a JSON object with the table's column names. `id`,
            `userId`, `type` and `requestPayload` are required; times are ISO 8601 with an offset.
        on_conflict: what to do if the id of a line is already stored: refuse the line ("error"),
            skip it ("skip"), or overwrite the row ("replace"). "replace" sets `updatedAt` to the
            current time, and does not write a row that is already equal.
        refused: a function that is called with a `Refused` for each line that was not stored.

    Raises:
        ArgumentError: `on_conflict` is not one of the three, or a line is not bytes.
        MigrationError: the table does not exist.
        peewee.OperationalError: the database failed; batches that were already stored stay.
    """
    database = resolved(database)
    parsed = batches(lines, backend_of(database), user_id_type(database))
    return store_batches(database, parsed, on_conflict=on_conflict, refused=refused)


def store_batches(
    database: peewee.Database,
    parsed: Iterable[Batch],
    *,
    on_conflict: OnConflict = "error",
    refused: Callable[[Refused], object] | None = None,
    progress: Callable[[ImportReport, int], object] | None = None,
) -> ImportReport:
    """Store batches of `json_lines.batches`, which may be parsed in other processes.

    Args:
        progress: a function that is called after each batch with the report so far and the bytes
            of the batch's lines. The other arguments, the result and the errors are those of
            `import_lines`.
    """
    if on_conflict not in ("error", "skip", "replace"):
        rule = 'must be "error", "skip" or "replace"'
        raise ArgumentError("on_conflict", rule, kind_of(on_conflict))
    database = resolved(database)
    with connected(database), backend_of(database).bulk_settings(database):
        run = _Import(database, on_conflict, refused)
        for batch in parsed:
            run.store(batch)
            if progress is not None:
                progress(run.report, batch.size)
        run.store_deferred()
    return run.report


class _Import:
    """Runs one import: stores its batches and counts its lines."""

    def __init__(
        self,
        database: peewee.Database,
        on_conflict: OnConflict,
        refused: Callable[[Refused], object] | None,
    ) -> None:
        self.report = ImportReport()
        self._id_type = user_id_type(database)
        self._model = bound_model(ContentTable, database, users_model(self._id_type, database))
        self._database = database
        self._backend = backend_of(database)
        self._insertion = Insertion(self._model, replace=on_conflict == "replace")
        self._on_conflict = on_conflict
        self._refused = refused
        self._deferred: dict[str, _Numbered] = {}
        self._may_defer = on_conflict == "replace"
        fields = enumerate(self._model._meta.sorted_fields)
        self._documents = [(i, field) for i, field in fields if isinstance(field, DocumentField)]
        catalog = self._backend.catalog(database)
        if catalog.relation(TABLE, anywhere=True) is None:
            raise MigrationError(f"there is no table {TABLE}: run `aicontent migrate`")
        users = catalog.relation("users", anywhere=True)
        self._may_add_users = users is not None and users.is_minimal

    def store(self, batch: Batch) -> None:
        """Store a batch in one transaction."""
        rows = batch.rows
        refused: dict[str, str] = {}
        superseded = [self._deferred.pop(id) for id in rows.keys() & self._deferred.keys()]
        with self._backend.writing(self._database):
            if is_partitioned(self._model):  # no unique key prevents two rows with the same id
                self._backend.take_turn(self._database)
            unknown = self._unknown_users(rows) if rows else ()
            stored = self._stored_ids(rows) if rows else set()
            for id, (_, row) in rows.items():
                if row[USER] in unknown:
                    refused[id] = _UNKNOWN_USER
                elif id in stored and self._on_conflict == "error":
                    refused[id] = _DUPLICATE
            skipped = stored if self._on_conflict == "skip" else ()
            # All imports insert in the order of the ids, so that they do not deadlock.
            chosen = {i: rows[i] for i in sorted(rows) if i not in refused and i not in skipped}
            refused |= self._compress(chosen)
            written, faults = self._write(chosen)
        deferred = self._deferred.keys() & rows.keys()
        refused |= faults
        report = batch.refused + [Refused(rows[id][0], reason) for id, reason in refused.items()]
        replaced = len(written & stored)
        self.report = ImportReport(
            stored=self.report.stored + len(written) - replaced,
            replaced=self.report.replaced + replaced,
            skipped=self.report.skipped
            + len(rows)
            + len(superseded)
            - len(written)
            - len(refused)
            - len(deferred),
            refused=self.report.refused + len(report),
        )
        if self._refused is not None:
            for line in sorted(report, key=lambda line: line.line):
                self._refused(line)

    def store_deferred(self) -> None:
        """Store rows whose request was in flight in another row, which a later line replaced."""
        while self._deferred:
            rows, self._deferred = self._deferred, {}
            ids = list(rows)
            for start in range(0, len(ids), BATCH):
                self.store(Batch({id: rows[id] for id in ids[start : start + BATCH]}))
            self._may_defer = len(self._deferred) < len(rows)  # without progress, report the rest

    def _compress(self, rows: dict[str, _Numbered]) -> dict[str, str]:
        """Convert documents to their stored form; remove rows with a document that is too large."""
        faults = {}
        for id, (_, row) in list(rows.items()):
            try:
                for position, document in self._documents:
                    if isinstance(row[position], str):  # a deferred row is converted already
                        row[position] = document.stored(row[position])
            except ValidationError as error:
                faults[id] = str(by_column(error))
                del rows[id]
        return faults

    def _write(self, rows: Mapping[str, _Numbered]) -> tuple[set[str], dict[str, str]]:
        """Write rows; return the ids of the written rows, and the errors of the others by id."""
        if not rows:
            return set(), {}
        try:
            with self._backend.atomic(self._database):
                moved = self._move(rows)
                return {*moved, *self._insertion.execute([row for _, row in rows.values()])}, {}
        except (peewee.PeeweeException, UnicodeEncodeError) as error:
            self._raise_unless_of_a_row(error)
        written: set[str] = set()
        faults = {}
        for id, (_, row) in rows.items():
            try:
                with (
                    self._backend.constraints_explained(self._database),
                    self._backend.atomic(self._database),
                ):
                    moved = self._move({id: rows[id]})
                    written |= {*moved, *self._insertion.execute([row])}
            except (peewee.PeeweeException, UnicodeEncodeError) as error:
                self._raise_unless_of_a_row(error)
                may_defer = self._may_defer and len(self._deferred) < _MOST_DEFERRED
                if isinstance(error, DuplicateRequestError) and may_defer:
                    self._deferred[id] = rows[id]
                elif not (isinstance(error, DuplicateIdError) and self._on_conflict == "skip"):
                    faults[id] = reason_of_error(error)
        return written, faults

    def _raise_unless_of_a_row(self, error: peewee.PeeweeException | UnicodeEncodeError) -> None:
        """Raise an error, unless the data of one row is its cause."""
        # UnicodeEncodeError: the database's encoding lacks a character.
        ours = DuplicateIdError, DuplicateRequestError, UnknownUserError, UnicodeEncodeError
        is_of_a_row = isinstance(error, ours) or refusal(error) is not None
        # A trigger's RAISE(ROLLBACK) has rolled back the rows before this one too.
        if not is_of_a_row or not self._backend.in_transaction(self._database):
            raise error

    def _stored_ids(self, rows: Mapping[str, _Numbered]) -> set[str]:
        key: Any = self._model.id
        selected: Any = self._model.select(key).where(self._backend.any_of(key, rows)).tuples()
        return {id for (id,) in selected}

    def _move(self, rows: Mapping[str, _Numbered]) -> list[str]:
        """Change the user of stored rows to the user of their line; return the ids of these rows.

        ON CONFLICT cannot find them: the key of a partitioned table includes the user.
        """
        moved: list[str] = []
        if self._on_conflict != "replace" or not is_partitioned(self._model):
            return moved
        model: Any = self._model
        is_stored = self._backend.any_of(model.id, rows)
        for id, user in list(model.select(model.id, model.user).where(is_stored).tuples()):
            new = rows[id][1][USER]
            if model.user.db_value(user) != model.user.db_value(new):
                same = (model.id == id, model.user == user)
                changes = {model.user: new, model.status: rows[id][1][_STATUS]}
                model.update(changes).where(*same).execute()
                moved.append(id)
        return moved

    def _unknown_users(self, rows: Mapping[str, _Numbered]) -> set[int | str]:
        """Add missing users if `users` is minimal; return those that are still missing."""
        missing = self._missing({row[USER] for _, row in rows.values()})
        bare = {id: without_hyphens(id) for id in missing if without_hyphens(id) != id}
        if bare:  # an export from PostgreSQL has hyphens, which SQLite does not store
            unknown = self._missing(set(bare.values()))
            known = {id: form for id, form in bare.items() if form not in unknown}
            for _, row in rows.values():
                row[USER] = known.get(row[USER], row[USER])
            missing -= known.keys()
        if not (missing and self._may_add_users):
            return missing
        users: Any = self._model.user.rel_model
        last = MAX_INTEGER if self._id_type.upper() == "INTEGER" else MAX_BIGINT
        added = [(id,) for id in sorted(missing) if id < last]  # after `last` there is no next id
        users.insert_many(added, [users.id]).on_conflict_ignore().execute()
        self._backend.advance_identity(self._database, "users")
        return missing & {last}

    def _missing(self, ids: set[Any]) -> set[Any]:
        """Return the ids that are not in `users`."""
        same = f"users.id = CAST(each.value AS {self._id_type})"
        exists = f"EXISTS (SELECT 1 FROM users WHERE {same})"  # noqa: S608 - a checked name
        # Ids that are not integers are compared and returned as text, as the rows have them.
        table = self._backend.array_rows(self._id_type if "int" in self._id_type else "text")
        sql = f"SELECT each.value FROM {table} WHERE NOT {exists}"  # noqa: S608
        return {id for (id,) in self._database.execute_sql(sql, (self._backend.array(ids),))}


_STATUS = 3  # the position of the status in a row

_MOST_DEFERRED = 100_000
"""The most rows that wait in memory for a later line, because their request is in flight."""

_Numbered = tuple[int, Row]
_UNKNOWN_USER = "userId: the users table has no such id; store the user first"
_DUPLICATE = "id: a row with this id is already stored; skip or replace it with on-conflict"
