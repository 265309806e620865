"""A Peewee model that validates what it writes, and writes no more than was changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, Self

import peewee

from .documents import snapshot
from .errors import (
    AIContentError,
    ContentGoneError,
    DuplicateIdError,
    MigrationError,
    NotBoundError,
    UnknownUserError,
    ValidationError,
    database_code,
)
from .fields import SQLITE_NOW, UTCDateTimeField
from .validation import validate_row

_BATCH = 500
"""Rows of one INSERT in create_many: 21 columns each, within SQLite's 32,766 parameters."""

_SET_BY_DATABASE = ("created_at", "updated_at")


class ValidatedModel(peewee.Model):
    """The base of the model: how rows get in. What they mean is the model's own matter."""

    _dirty: set[str]  # Peewee's, which its stubs leave out
    _pk: Any

    class Meta:
        # A stale instance must not write back counters that others have moved on.
        only_save_dirty = True

    def __init__(self, **values: Any) -> None:
        # Text of the documents as they were read from this instance, by attribute.
        self._as_read: dict[str, str | None] = {}
        if "__no_default__" not in values:  # else a row that Peewee loads
            for name in values:
                if not isinstance(getattr(type(self), name, None), peewee.Field):
                    known = ", ".join(self._meta.sorted_field_names)
                    raise ValidationError(name, f"must be one of {known}", "an unknown name")
        super().__init__(**values)

    @property
    def is_new(self) -> bool:
        """Whether this instance is yet to be inserted."""
        return "id" in self._dirty

    @property
    def dirty_fields(self) -> list[peewee.Field]:
        """The fields that `save()` would write, documents changed in place included."""
        for name, text in self._as_read.items():
            if name not in self._dirty and snapshot(self.__data__[name]) != text:
                self._dirty.add(name)
        fields: list[peewee.Field] = super().dirty_fields
        return fields

    def is_dirty(self) -> bool:
        """Whether `save()` would write anything."""
        return bool(self.dirty_fields)

    def save(self, force_insert: bool = False, only: Iterable[Any] | None = None) -> int:
        """Insert a new instance, or write the changed fields of a stored one.

        Args:
            force_insert: insert even an instance that was loaded.
            only: fields or their names; of a stored instance write only these.

        Returns:
            The number of rows written: 1, or 0 when nothing had changed.

        Raises:
            ValidationError, UnknownUserError, DuplicateIdError: nothing was written, and a
                transaction that was open still is.
            ContentGoneError: the row was deleted meanwhile.
            NotBoundError: the model has no database.
        """
        if force_insert or self.is_new:
            self._insert_row()
            return 1
        fields = self.dirty_fields
        if only is not None:
            wanted = {self._meta.combined[f] if isinstance(f, str) else f for f in only}
            fields = [field for field in fields if field in wanted]
        if fields:
            self._update_row({field.name: self.__data__[field.name] for field in fields})
        return int(bool(fields))

    @classmethod
    def create_many(cls, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """Validate and insert many rows, all of them or none.

        Args:
            rows: the keyword arguments of `create`, one mapping a row; any iterable, which is
                read in batches.

        Returns:
            The ids, in the order of the rows.

        Raises:
            ValidationError, UnknownUserError, DuplicateIdError: with `row`, the number of the
                row at fault, from 1.
            NotBoundError: the model has no database.
        """
        ids: list[str] = []
        source = iter(rows)
        with cls._database().atomic():
            while batch := cls._validated(islice(source, _BATCH), len(ids)):
                cls._insert_batch(batch, len(ids))
                ids += (values["id"] for values in batch)
        return ids

    @classmethod
    def bulk_create(cls, model_list: Iterable[Self], batch_size: int | None = None) -> None:
        """Peewee's name for inserting instances: here validated, all of them or none.

        Args:
            model_list: new instances; their times stay unset until they are loaded again.
            batch_size: accepted as Peewee does, and not needed.

        Raises:
            As `create_many`.
        """
        instances = list(model_list)
        cls.create_many(instance.__data__ for instance in instances)
        for instance in instances:
            instance._saved(instance.__data__)

    @classmethod
    def create_table(cls, safe: bool = True, **options: Any) -> None:
        """Refuse: Peewee would leave out the trigger, the checks and the indexes.

        Raises:
            MigrationError: the table is not there yet, or `safe` is false.
        """
        if not (safe and cls._database().table_exists(cls._meta.table_name)):
            raise MigrationError(
                f"{cls._meta.table_name} is made by its migrations: call aicontent.migrate()"
            )

    def _insert_row(self) -> None:
        cls = type(self)
        database = cls._database()
        values = cls._validated_row(self.__data__)
        query = cls.insert(values).returning(*map(cls._meta.fields.get, _SET_BY_DATABASE)).dicts()
        with _constraints_explained(database):
            (times,) = list(query.execute())
        self.__data__ |= times
        self._saved(self.__data__)

    def _update_row(self, changes: Mapping[str, Any]) -> None:
        cls = type(self)
        database = cls._database()
        if self._pk is None:
            raise ValidationError("id", "must be selected too, to write this instance", "None")
        cls._validate(changes, partial=True)
        computed = [cls._meta.fields[n] for n, v in changes.items() if isinstance(v, peewee.Node)]
        query = (
            cls.update({**changes, **cls._touched()})
            .where(cls._meta.primary_key == self._pk)
            .returning(*computed, cls._meta.fields["updated_at"])
            .dicts()
        )
        with _constraints_explained(database):
            rows = list(query.execute())
        if not rows:
            raise ContentGoneError(f"content {self._pk} was deleted; nothing was written")
        self.__data__ |= {**changes, **rows[0]}
        self._saved(changes)

    def _saved(self, names: Iterable[str]) -> None:
        self._dirty.difference_update(names)
        for name in self._as_read.keys() - self._dirty:
            self._as_read[name] = snapshot(self.__data__[name])

    @classmethod
    def _validated_row(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        # A time that is not given is the database's to set: one clock for all writers.
        values = {n: v for n, v in data.items() if v is not None or n not in _SET_BY_DATABASE}
        cls._validate(values)
        return values

    @classmethod
    def _validate(cls, values: Mapping[str, Any], *, partial: bool = False) -> None:
        fields = cls._meta.fields
        row = {
            fields[name].column_name: value
            for name, value in values.items()
            if not isinstance(fields[name], UTCDateTimeField)
            and not (partial and isinstance(value, peewee.Node))
        }
        validate_row(row, cls._meta.columns, partial=partial)

    @classmethod
    def _validated(cls, rows: Iterable[Mapping[str, Any]], before: int) -> list[dict[str, Any]]:
        batch = []
        for number, row in enumerate(rows, before + 1):
            try:
                values = cls._validated_row(cls(**row).__data__)
                for name, value in values.items():  # what the schema leaves to the fields
                    cls._meta.fields[name].db_value(value)
            except ValidationError as error:
                error.row = number
                raise
            batch.append(values)
        return batch

    @classmethod
    def _insert_batch(cls, batch: list[dict[str, Any]], before: int) -> None:
        database = cls._database()
        blank = dict.fromkeys(cls._meta.sorted_field_names)
        blank |= dict.fromkeys(_SET_BY_DATABASE, cls._clock())
        rows = [blank | values for values in batch]
        try:
            with database.atomic():
                cls.insert_many(rows).execute()
        except peewee.IntegrityError:
            # One by one, to learn which row it was.
            for number, row in enumerate(rows, before + 1):
                try:
                    with _constraints_explained(database):
                        cls.insert(row).execute()
                except AIContentError as error:
                    error.row = number
                    raise

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
        return {"updated_at": cls._clock()} if not cls._on_postgresql() else {}

    @classmethod
    def _clock(cls) -> peewee.SQL:
        return peewee.SQL("CURRENT_TIMESTAMP" if cls._on_postgresql() else SQLITE_NOW)

    @classmethod
    def _on_postgresql(cls) -> bool:
        return isinstance(cls._database(), peewee.PostgresqlDatabase)


@contextmanager
def _constraints_explained(database: peewee.Database) -> Iterator[None]:
    # A failed statement spoils PostgreSQL's transaction; behind a savepoint it does not.
    with database.savepoint() if database.in_transaction() else nullcontext():
        try:
            yield
        except peewee.IntegrityError as error:
            raise _explained(error) from error


def _explained(error: peewee.IntegrityError) -> Exception:
    code = database_code(error)
    if code in ("23503", "SQLITE_CONSTRAINT_FOREIGNKEY"):
        return UnknownUserError("user: the users table has no such id; store the user first")
    if code in ("23505", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE"):
        return DuplicateIdError("id: a row with this id is stored already; leave the id out")
    return error
