"""A Peewee model that validates what it writes, and writes no more than was changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Self, cast

import peewee

from ..database.compiled import Computed, slot
from ..database.constraints import constraints_explained
from ..errors import ContentGoneError, MigrationError, ValidationError
from ..fields.document import DocumentAccessor, DocumentField
from ..fields.encoding import snapshot
from ..fields.policy import shortened
from ..fields.scalars import UTCDateTimeField
from .statements import CompiledModel, computed, given_by
from .validation import validate_row

_ACCESSORS = {peewee.FieldAccessor, peewee.ForeignKeyAccessor, DocumentAccessor}
SET_BY_DATABASE = ("created_at", "updated_at")


class ValidatedModel(CompiledModel):
    """The base of the model: how rows get in. What they mean is the model's own matter.

    `is_new` tells whether an instance is yet to be inserted.
    """

    is_new: bool
    _dirty: set[str]  # Peewee's, which its stubs leave out
    _pk: Any
    _populate_unsaved_relations: Callable[[dict[str, Any]], None]

    class Meta:
        # A stale instance must not write back counters that others have moved on.
        only_save_dirty = True

    def __init__(self, **values: Any) -> None:
        # Text of the documents as they were last read or written, by attribute.
        self._as_read: dict[str, str | None] = {}
        self.is_new = "__no_default__" not in values  # else a row that Peewee loads
        if self.is_new:
            for name in values:
                if not isinstance(getattr(type(self), name, None), property):
                    self._field(name)
        super().__init__(**values)

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
        fields = [field for field in self.dirty_fields if not field.primary_key]
        if only is not None:
            wanted = {self._field(field) for field in only}
            fields = [field for field in fields if field in wanted]
        changes = {field.name: self.__data__[field.name] for field in fields}
        if changes and not self._update_row(changes):
            raise self._gone()
        return int(bool(changes))

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

    def _insert_row(self, **on_conflict: Any) -> bool:
        """Insert the row, and tell whether it was; it may be left out on a conflict alone."""
        cls = type(self)
        database = cls._database()
        data = self._with_relations()
        # A time that is not given is the database's to set: one clock for all writers.
        values = {n: v for n, v in data.items() if v is not None or n not in SET_BY_DATABASE}
        cls._validate(values)
        ready = cls._ready(values)

        def make() -> tuple[Any, list[Any]]:
            query = cls.insert(cls._with_slots(ready))
            if on_conflict:
                query = query.on_conflict(**on_conflict)
            returned = [cls._meta.fields[name] for name in (*SET_BY_DATABASE, *computed(values))]
            return query.returning(*returned), returned

        # Peewee would put a default that is missing into the statement, for all rows.
        is_whole = values.keys() >= {field.name for field in cls._meta.defaults}
        statement = cls._statement(("insert", bool(on_conflict)) if is_whole else None, ready, make)
        with constraints_explained(database):
            rows = statement.rows(given_by(ready))
        if rows:
            self.__data__ |= {**values, **rows[0]}
            self._saved(self.__data__, ready)
        return bool(rows)

    def _with_relations(self) -> dict[str, Any]:
        data = dict(self.__data__)
        self._populate_unsaved_relations(data)  # of a user who was stored after this was made
        return data

    def _update_row(self, changes: Mapping[str, Any], condition: Computed | None = None) -> bool:
        """Write changes, and tell whether there is such a row, which fulfils the condition."""
        cls = type(self)
        database = cls._database()
        if self._pk is None:
            raise ValidationError("id", "must be selected too, to write this instance", "None")
        cls._validate(changes, partial=True)
        ready, key = cls._ready(changes), cast(Any, cls._meta.primary_key)

        def make() -> tuple[Any, list[Any]]:
            query = cls.update({**cls._with_slots(ready), **cls._touched()})
            query = query.where(key == slot(":pk"))
            if condition is not None:
                query = query.where(condition.build(cls))
            returned = [cls._meta.fields[name] for name in (*computed(changes), "updated_at")]
            return query.returning(*returned), returned

        statement = cls._statement(("update", condition and condition.key), ready, make)
        given = {**given_by(ready), ":pk": key.db_value(self._pk)}
        given |= condition.given if condition else {}
        with constraints_explained(database):
            rows = statement.rows(given)
        if rows:
            self.__data__ |= {**changes, **rows[0]}
            self._saved(changes, ready)
        return bool(rows)

    @classmethod
    def _is_filled_plainly(cls) -> bool:
        """Tell whether there is neither a constructor nor an accessor of a host's own."""
        return cls.__init__ is ValidatedModel.__init__ and _has_known_accessors(
            cls, len(cls._meta.fields)
        )

    @classmethod
    def _loaded(cls, rows: Iterable[dict[str, Any]]) -> list[Self]:
        """Return rows as instances, as Peewee would."""
        if not cls._is_filled_plainly():
            instances = [cls(__no_default__=1, **row) for row in rows]
            for instance in instances:
                instance._dirty.clear()
            return instances
        instances = []
        for row in rows:
            instance = cls.__new__(cls)
            instance.__data__, instance.__rel__ = row, {}
            instance._dirty, instance._as_read, instance.is_new = set(), {}, False
            instances.append(instance)
        return instances

    def _gone(self) -> ContentGoneError:
        return ContentGoneError(f"content {self._pk} was deleted; nothing was written")

    def _saved(self, names: Iterable[str], written: Mapping[str, Any]) -> None:
        self.is_new = False
        self._dirty.difference_update(names)
        for name in names:
            value = self.__data__.get(name)
            if isinstance(value, (dict, list)):
                is_document = isinstance(self._meta.fields[name], DocumentField)
                text = written.get(name) if is_document else None
                self._as_read[name] = text if isinstance(text, str) else snapshot(value)
            else:
                self._as_read.pop(name, None)

    @classmethod
    def _field(cls, name: peewee.Field | str) -> peewee.Field:
        field = name if isinstance(name, peewee.Field) else getattr(cls, name, None)
        if not isinstance(field, peewee.Field):
            known = ", ".join(cls._meta.sorted_field_names)
            raise ValidationError(
                shortened(str(name)), f"is no attribute; there are {known}", "an unknown name"
            )
        return field

    @classmethod
    def check(cls, values: Mapping[str, Any], *, partial: bool = False) -> None:
        """Hold values to all rules: the schema's, and those that the fields know.

        Args:
            values: by attribute.
            partial: they are an update: what a row must have is not asked for.

        Raises:
            ValidationError: the first rule that is broken.
        """
        cls._validate(values, partial=partial)
        for name, value in values.items():
            cls._meta.fields[name].db_value(value)

    @classmethod
    def _validate(cls, values: Mapping[str, Any], *, partial: bool = False) -> None:
        fields = cls._meta.fields
        row = {
            fields[name].column_name: value
            for name, value in values.items()
            if not isinstance(fields[name], UTCDateTimeField)
            and not (partial and isinstance(value, (Computed, peewee.Node)))
        }
        validate_row(row, cls._meta.columns, partial=partial)

    @staticmethod
    def _user_id(user: Any) -> Any:
        return user.get_id() if isinstance(user, peewee.Model) else user


@lru_cache(maxsize=100)
def _has_known_accessors(model: type[ValidatedModel], _: int) -> bool:
    # It is asked for each row; the number of fields changes when a host adds one.
    return all(field.accessor_class in _ACCESSORS for field in model._meta.sorted_fields)
