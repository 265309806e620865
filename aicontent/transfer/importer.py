"""Content from JSON lines: the good lines go in, the others are told with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import peewee

from ..binding import for_database, resolved
from ..database.among import among, parameter
from ..database.catalog import Catalog
from ..database.connections import connected, settings_lent
from ..database.constraints import constraints_explained, database_code
from ..errors import (
    DuplicateIdError,
    DuplicateRequestError,
    MigrationError,
    UnknownUserError,
    ValidationError,
)
from ..fields.document import DocumentField
from ..fields.policy import kind_of
from ..records.insertion import Insertion, Row
from ..schema.migrate import TABLE
from .json_lines import Batch, Refused, batches, by_column

OnConflict = Literal["error", "skip", "replace"]


@dataclass(frozen=True)
class ImportReport:
    """What became of the lines.

    `stored` counts new rows, `replaced` rows that were stored otherwise before, `skipped` rows
    that were left as they were stored, `refused` lines that hold no content.
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
    """Store content from JSON lines, such as `export_lines` writes. Call it outside any
    transaction.

    The lines are validated as the model validates, and stored in batches with a transaction
    each: of an import that was killed whole batches are there, and running it again with
    `on_conflict="skip"` stores the others.

    Args:
        database: where to; migrated, with the users that the lines name. Where `users` is this
            package's own minimal table, those that are missing are added.
        lines: UTF-8, each a JSON object by the table's column names. `id`, `userId`, `type` and
            `requestPayload` are required; times are ISO 8601 with their zone.
        on_conflict: what becomes of a line whose id is stored already: it is refused ("error"),
            left out ("skip"), or it overwrites the row ("replace"; `updatedAt` becomes the
            moment of that, and a row whose values and texts are the same is left alone).
        refused: is called with each line that was not stored, and why.

    Raises:
        ValidationError: `on_conflict` is none of the three. MigrationError: there is no table.
        peewee.OperationalError: the database cannot go on; what was stored before stays.
    """
    database = resolved(database)
    for_sqlite = isinstance(database, peewee.SqliteDatabase)
    read = batches(lines, for_sqlite=for_sqlite)
    return store_batches(database, read, on_conflict=on_conflict, refused=refused)


def store_batches(
    database: peewee.Database,
    read: Iterable[Batch],
    *,
    on_conflict: OnConflict = "error",
    refused: Callable[[Refused], object] | None = None,
    progress: Callable[[ImportReport, int], object] | None = None,
) -> ImportReport:
    """Store what `lines.batches` has read, maybe in another process.

    Args:
        progress: is called after each batch with the report so far and the bytes of its lines.

    The other arguments, what is returned and what is raised are those of `import_lines`.
    """
    if on_conflict not in ("error", "skip", "replace"):
        rule = 'must be "error", "skip" or "replace"'
        raise ValidationError("on_conflict", rule, kind_of(on_conflict))
    database = resolved(database)
    pragmas = _BULK if isinstance(database, peewee.SqliteDatabase) else {}
    with connected(database), settings_lent(database, **pragmas):
        run = _Import(database, on_conflict, refused)
        for batch in read:
            run.store(batch)
            if progress is not None:
                progress(run.report, batch.size)
    return run.report


_BULK = {"cache_size": -32_000, "wal_autocheckpoint": 10_000}
"""32 MB, and 40 MB of log: SQLite takes 1.4 times as many rows a second."""


class _Import:
    """One import: how a batch is stored, and what became of those before."""

    def __init__(
        self,
        database: peewee.Database,
        on_conflict: OnConflict,
        refused: Callable[[Refused], object] | None,
    ) -> None:
        self.report = ImportReport()
        self._model = for_database(database)
        self._database = database
        self._is_postgresql = isinstance(database, peewee.PostgresqlDatabase)
        self._users = self._model.user.rel_model
        self._insertion = Insertion(self._model, replace=on_conflict == "replace")
        self._on_conflict = on_conflict
        self._refused = refused
        fields = enumerate(self._model._meta.sorted_fields)
        self._documents = [(i, field) for i, field in fields if isinstance(field, DocumentField)]
        catalog = Catalog(database)
        if catalog.relation(TABLE, anywhere=True) is None:
            raise MigrationError(f"there is no table {TABLE}: run `aicontent migrate`")
        users = catalog.relation("users", anywhere=True)
        self._may_add_users = users is not None and users.is_minimal

    def store(self, batch: Batch) -> None:
        """Store a batch in a transaction of its own."""
        rows = batch.rows
        refused: dict[str, str] = {}
        with self._database.atomic():
            unknown = self._unknown_users(rows) if rows else ()
            stored = self._stored(rows) if rows else set()
            for id, (_, row) in rows.items():
                if row[_USER] in unknown:
                    refused[id] = _UNKNOWN_USER
                elif id in stored and self._on_conflict == "error":
                    refused[id] = _DUPLICATE
            left = stored if self._on_conflict == "skip" else ()
            # In one order, so that two imports of the same ids do not wait for each other.
            chosen = {i: rows[i] for i in sorted(rows) if i not in refused and i not in left}
            refused |= self._too_large(chosen)
            written, faults = self._written(chosen)
        refused |= faults
        told = batch.refused + [Refused(rows[id][0], reason) for id, reason in refused.items()]
        replaced = len(written & stored)
        self.report = ImportReport(
            stored=self.report.stored + len(written) - replaced,
            replaced=self.report.replaced + replaced,
            skipped=self.report.skipped + len(rows) - len(written) - len(refused),
            refused=self.report.refused + len(told),
        )
        if self._refused is not None:
            for line in sorted(told, key=lambda line: line.line):
                self._refused(line)

    def _too_large(self, rows: dict[str, _Numbered]) -> dict[str, str]:
        """Make documents what is stored of them; leave rows out where that cannot be."""
        faults = {}
        for id, (_, row) in list(rows.items()):
            try:
                for place, document in self._documents:
                    if row[place] is not None:
                        row[place] = document.kept(row[place])
            except ValidationError as error:
                faults[id] = str(by_column(error))
                del rows[id]
        return faults

    def _written(self, rows: Mapping[str, _Numbered]) -> tuple[set[str], dict[str, str]]:
        """Write rows; return the ids of those that were, and why others could not be."""
        if not rows:
            return set(), {}
        try:
            with self._database.atomic():
                return set(self._insertion.execute([row for _, row in rows.values()])), {}
        except (peewee.PeeweeException, UnicodeEncodeError) as error:
            _raise_unless_of_a_row(error)
        written: set[str] = set()
        faults = {}
        for id, (_, row) in rows.items():
            try:
                with constraints_explained(self._database), self._database.atomic():
                    written.update(self._insertion.execute([row]))
            except (peewee.PeeweeException, UnicodeEncodeError) as error:
                _raise_unless_of_a_row(error)
                if not (isinstance(error, DuplicateIdError) and self._on_conflict == "skip"):
                    faults[id] = " ".join(str(error).split())
        return written, faults

    def _stored(self, rows: Mapping[str, _Numbered]) -> set[str]:
        key: Any = self._model.id
        found: Any = self._model.select(key).where(among(self._database, key, rows)).tuples()
        return {id for (id,) in found}

    def _unknown_users(self, rows: Mapping[str, _Numbered]) -> set[int]:
        """Return the users that are not there, and that may not be added."""
        wanted = parameter(self._database, {row[_USER] for _, row in rows.values()})
        every = "unnest(%s) AS each(value)" if self._is_postgresql else "json_each(?) AS each"
        known = "EXISTS (SELECT 1 FROM users WHERE users.id = each.value)"
        sql = f"SELECT each.value FROM {every} WHERE NOT {known}"  # noqa: S608 - constants
        missing = {id for (id,) in self._database.execute_sql(sql, (wanted,))}
        if not (missing and self._may_add_users):
            return missing
        added = [(id,) for id in sorted(missing)]
        self._users.insert_many(added, [self._users.id]).on_conflict_ignore().execute()
        if self._is_postgresql:
            self._database.execute_sql(_MOVE_SEQUENCE)
        return set()


_Numbered = tuple[int, Row]
_USER = 1
_UNKNOWN_USER = "userId: the users table has no such id; store the user first"
_DUPLICATE = "id: a row with this id is stored already; on-conflict skip or replace takes it"

# Else the next user would be given an id that was brought in.
_MOVE_SEQUENCE = """
    SELECT setval(sequence, last) FROM (
        SELECT pg_get_serial_sequence('users', 'id')::regclass AS sequence, max(id) AS last
        FROM users
    ) AS users WHERE last > coalesce(pg_sequence_last_value(sequence), 0)
"""


def _raise_unless_of_a_row(error: peewee.PeeweeException | UnicodeEncodeError) -> None:
    """Raise what is not the fault of a row: data, a constraint, or a limit of the database."""
    # The last is of a database that has not all characters.
    of_a_row = DuplicateIdError, DuplicateRequestError, UnknownUserError, UnicodeEncodeError
    if isinstance(error, of_a_row):
        return
    if not database_code(error).startswith(_ROWS_FAULTS):
        raise error


_ROWS_FAULTS = ("22", "23", "54", "SQLITE_CONSTRAINT", "SQLITE_TOOBIG")
