"""Define the base class of the model, and the functions that insert and update one row.

`Record` overrides methods of Peewee's Model; all other operations are functions.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy, deepcopy
from functools import partial
from typing import Any, ClassVar, Self, TypeVar, cast

import peewee

from ..database.constraints import MOVED, error_code
from ..database.internals import data_with_relations, is_loaded
from ..database.statement import (
    Computed,
    computed_names,
    driver_values,
    parameters_of,
    slot,
    statement_of,
    with_slots,
)
from ..database.supported import backend_of, database_of
from ..enums import Served
from ..errors import MigrationError, ValidationError
from ..fields.encoding import is_same, snapshot
from .instances import SET_BY_DATABASE, check_times, field_named, gone, mark_saved, stored_user
from .validation import Rules, validate

R = TypeVar("R", bound="Record")


class Record(peewee.Model):
    """A Peewee model that validates values before it writes, and writes only changed columns.

    `is_new` is True until the instance is inserted. `_document_texts` has the text of each document
    as it was last read or written, by attribute. `_stored_texts` has the names and the values of
    documents as the driver returned them; it is a pair, because most instances need no dict of it.
    """

    served: Served | None = None
    """How `get_or_generate` got this content; None on other instances."""

    _aicontent_rules: ClassVar[Rules]
    _claimed_at: float | None = None
    is_new: bool
    _is_selected = False
    """Whether a query returned this instance, which may not have selected all columns."""
    _document_texts: dict[str, str | None]
    _stored_texts: tuple[Sequence[str], Sequence[Any]] = (), ()
    _dirty: set[str]  # an attribute of Peewee's Model that its stubs omit
    _pk: Any

    class Meta:
        # If a host calls Peewee's own save(), a stale instance must not overwrite counters.
        only_save_dirty = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        models: list[Any] = [base for base in cls.__bases__ if hasattr(base, "_meta")]
        table = next((base for base in models if issubclass(base, Record)), None)
        # Peewee inherits the key of the first base, which may be the automatic key of a mix-in.
        if table is not None and models[0] is not table:
            key = table._meta.primary_key
            if key.name not in vars(cls):
                setattr(cls, key.name, deepcopy(key))

    @classmethod
    def validate_model(cls) -> None:
        """Inherit the table's name and database, as Peewee inherits only from the first base."""
        meta: Any = cls._meta
        tables: list[Any] = [base for base in cls.__bases__ if hasattr(base, "_aicontent_rules")]
        if tables and meta.database is None:
            meta.set_database(tables[0]._meta.database)
        if tables and meta.table_name == meta.make_table_name():
            meta.set_table_name(tables[0]._meta.table_name)

    def __init__(self, **values: Any) -> None:
        self._document_texts = {}
        self.is_new = not is_loaded(values)
        self._is_selected = not self.is_new
        if self.is_new:
            for name in values:
                if not isinstance(getattr(type(self), name, None), property):
                    field_named(type(self), name)
        super().__init__(**values)

    def __reduce_ex__(self, protocol: Any) -> Any:
        base = type(self).__dict__.get("_aicontent_base")
        if base is None:
            return super().__reduce_ex__(protocol)
        # The class of for_database() cannot be imported by its name, so pickle its base.
        return _unpickled, (base, {**self.__getstate__(), "__rel__": {}})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_stored_texts"}

    # Without these two methods, copying would pickle the instance, which changes its class.

    def __copy__(self) -> Self:
        content = type(self).__new__(type(self))
        own = ("__data__", "__rel__", "_dirty", "_document_texts")
        vars(content).update(vars(self), **{name: copy(vars(self)[name]) for name in own})
        return content

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        content = memo[id(self)] = type(self).__new__(type(self))
        vars(content).update(deepcopy(vars(self), memo))
        return content

    def _pk_expr(self) -> Any:  # Peewee calls it in delete_instance()
        user, model = stored_user(self), cast(Any, type(self))
        by_id = super()._pk_expr()  # type: ignore[misc]
        return by_id if user is None else by_id & (model.user == user)

    @property
    def dirty_fields(self) -> list[peewee.Field]:
        """Return the fields that `save()` would write, including documents changed in place."""
        for name, text in self._document_texts.items():
            document = self.__data__[name]
            now = text if name in self._dirty else snapshot(document)
            if now == text:
                continue
            if text is None or not is_same(document, text):
                self._dirty.add(name)
            elif now is not None:
                self._document_texts[name] = now  # the next comparison is faster
        fields: list[peewee.Field] = super().dirty_fields
        return fields

    def is_dirty(self) -> bool:
        """Return whether `save()` would write anything."""
        return bool(self.dirty_fields)

    def save(self, force_insert: bool = False, only: Iterable[Any] | None = None) -> int:
        """Insert a new instance, or write the changed fields of a stored instance.

        Args:
            force_insert: insert the instance even if it was loaded.
            only: fields or their names: write only these fields of a stored instance.

        Returns:
            The number of rows written: 1, or 0 if nothing had changed.

        Raises:
            ValidationError, UnknownUserError, DuplicateIdError: nothing was written, and an open
                transaction stays usable.
            ContentGoneError: the row was deleted meanwhile.
            NotBoundError: the model has no database.
        """
        if force_insert or self.is_new:
            insert(self)
            return 1
        data = data_with_relations(self)
        names = [field.name for field in self.dirty_fields if not field.primary_key]
        if only is not None:
            wanted = {field_named(type(self), field).name for field in only}
            names = [name for name in names if name in wanted]
        changes = {name: data[name] for name in names}
        if changes and not update(self, changes):
            raise gone(self)
        return int(bool(changes))

    @classmethod
    def create_table(cls, safe: bool = True, **options: Any) -> None:
        """Refuse to create the table: Peewee would omit the trigger, the checks and the indexes.

        Raises:
            MigrationError: the table does not exist, or `safe` is false.
        """
        if not (safe and database_of(cls).table_exists(cls._meta.table_name)):
            raise MigrationError(
                f"{cls._meta.table_name} is created by its migrations: call aicontent.migrate()"
            )


def _unpickled(model: type[R], state: dict[str, Any]) -> R:
    content = model.__new__(model)
    content.__dict__.update(state)
    return content


def insert(content: Record, unless: Computed | None = None, **on_conflict: Any) -> bool:
    """Insert the row of a new instance, and return whether it was inserted.

    Args:
        content: the instance.
        unless: a query; insert nothing if it finds a row.
        on_conflict: as for Peewee's `on_conflict`; without it, a conflict raises an error.

    Raises:
        ValidationError, UnknownUserError, DuplicateIdError, DuplicateRequestError,
        NotBoundError: nothing was written.
    """
    model = type(content)
    database = database_of(model)
    data = data_with_relations(content)
    values = {n: v for n, v in data.items() if v is not None or n not in SET_BY_DATABASE}
    validate(model, values)
    converted = driver_values(model, values)

    def build() -> tuple[Any, list[Any]]:
        columns = with_slots(model, converted)
        if unless is None:
            query: Any = model.insert(columns)
        else:
            absent = ~peewee.fn.EXISTS(unless.build(model))
            row = peewee.Select(columns=[*columns.values()]).where(absent)
            query = model.insert_from(row, [model._meta.fields[name] for name in columns])
        if on_conflict:
            query = query.on_conflict(**on_conflict)
        names = (*SET_BY_DATABASE, *computed_names(values))
        returned = [model._meta.fields[name] for name in names]
        return query.returning(*returned), returned

    # If a default is missing, Peewee puts its value into the SQL, which must then not be cached.
    is_complete = values.keys() >= {field.name for field in model._meta.defaults}
    key = ("insert", bool(on_conflict), unless and unless.key) if is_complete else None
    statement = statement_of(model, key, converted, build)
    with backend_of(database).constraints_explained(database, converted.get("user")):
        rows = statement.rows(parameters_of(converted) | dict(unless.parameters if unless else {}))
    if rows:
        content.__data__ |= {**values, **rows[0]}
        mark_saved(content, content.__data__, converted)
    return bool(rows)


def update(content: Any, changes: Mapping[str, Any], condition: Computed | None = None) -> bool:
    """Write changes to a row if it fulfils a condition, and return whether it was written.

    Raises:
        ValidationError, UnknownUserError, NotBoundError: nothing was written.
    """
    model: Any = type(content)
    database = database_of(model)
    if content._pk is None:
        raise ValidationError("id", "must be selected by the query to write this instance", "None")
    check_times(changes)
    validate(model, changes, partial=True)
    converted, key = driver_values(model, changes), cast(Any, model._meta.primary_key)

    def build(names_user: bool) -> tuple[Any, list[Any]]:
        columns = {**with_slots(model, converted), **backend_of(database).columns_of_update()}
        query = model.update(columns).where(key == slot(":pk"))
        if names_user:
            query = query.where(model.user == slot(":user"))
        if condition is not None:
            query = query.where(condition.build(model))
        returned = [model._meta.fields[name] for name in (*computed_names(changes), "updated_at")]
        return query.returning(*returned), returned

    parameters = {**parameters_of(converted), ":pk": key.db_value(content._pk)}
    parameters |= condition.parameters if condition else {}
    # Try again without the user, because the row may belong to another user now.
    named = stored_user(content)
    for user in (None,) if named is None else (named, None):
        name = ("update", user is not None, condition and condition.key)
        statement = statement_of(model, name, converted, partial(build, user is not None))
        backend = backend_of(database)
        try:
            with backend.constraints_explained(database, converted.get("user")):
                rows = statement.rows({**parameters, ":user": user})
        except peewee.OperationalError as error:
            is_moved = user is not None and error_code(error) == MOVED
            if not is_moved or backend.in_transaction(database):
                raise
            continue
        if rows:
            content.__data__ |= {**changes, **rows[0]}
            mark_saved(content, changes, converted)
            return True
    return False
