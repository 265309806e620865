"""The field of the user to whom a row belongs; its type is that of the host's users' key."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import peewee

from ..database.supported import known_backend
from ..errors import ValidationError, kind_of
from .policy import check_text, plain_text
from .scalars import Rule, RuledField, V

_MODEL = "or an instance of the users model of this database"


def _integer(bits: int) -> Rule:
    most = 2 ** (bits - 1) - 1
    rule = f"must be an int, {_MODEL}"
    return {"type": "integer", "minimum": -most - 1, "maximum": most, "description": rule}


INTEGER_KEY = _integer(32)
"""The rule of the specification's key: PostgreSQL's `integer`."""

_UUID_KEY = {"description": f"must be a UUID, {_MODEL}"}


def rule_of_key(key: peewee.Field) -> Rule | None:
    """Return the rule of ids that reference this primary key; None if its type is unsupported."""
    if isinstance(key, (peewee.BigAutoField, peewee.BigIntegerField)):
        return _integer(64)
    if isinstance(key, peewee.IntegerField):
        return INTEGER_KEY
    if isinstance(key, peewee.UUIDField):
        return _UUID_KEY
    if isinstance(key, (peewee.CharField, peewee.TextField)):
        rule = f"must be a str, {_MODEL}"
        text: dict[str, Any] = {"type": "string", "minLength": 1, "description": rule}
        length = getattr(key, "max_length", None)
        return text | {"maxLength": length} if length else text
    return None


def key_field(column_type: str) -> peewee.Field:
    """Return the primary key of users to whom a `userId` of this type in a database refers.

    SQLite's INTEGER has eight bytes, PostgreSQL's integer four.
    """
    name = column_type.upper()
    if "INT" in name:
        return peewee.AutoField() if column_type == "integer" else peewee.BigAutoField()
    if name == "UUID":
        return peewee.UUIDField(primary_key=True)
    length = re.search(r"\((\d+)\)", name)
    if length is None:
        return peewee.TextField(primary_key=True)
    return peewee.CharField(max_length=int(length[1]), primary_key=True)


class UserAccessor(peewee.ForeignKeyAccessor):
    """Takes an id, or an instance of a model of the same users table."""

    def __set__(self, instance: Any, user: Any) -> None:
        if not isinstance(user, peewee.Model):
            super().__set__(instance, user)
            return
        is_user = self.field.is_user(user)
        # Validation refuses another model's instance when the row is written.
        instance.__data__[self.name] = self.field.key_of(user) if is_user else user
        instance.__rel__[self.name] = user
        instance._dirty.add(self.name)


class UserField(RuledField[V], peewee.ForeignKeyField):
    """The reference to the host's users table; a user has no attribute that leads back."""

    accessor_class = UserAccessor

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        self.declared_backref = "+"  # a subclass's copy of the field has lost it
        super().bind(model, name, set_attribute)

    def is_user(self, instance: peewee.Model) -> bool:
        """Tell whether an instance is a row of the users table that this field references."""
        if type(instance) is self.rel_model:
            return True
        own, other = self.rel_model._meta, instance._meta
        database = self.model._meta.get_database_instance()
        return (
            database is not None
            and other.get_database_instance() is database
            and (other.schema, other.table_name) == (own.schema, own.table_name)
        )

    def key_of(self, user: peewee.Model) -> Any:
        """Return the id of an instance of the users model."""
        key = user._meta.columns[self.rel_field.column_name]
        id = getattr(user, key.name)
        # The other model may know the same ids as another type.
        return id if key is self.rel_field else self.rel_field.python_value(key.db_value(id))

    def id_of(self, user: Any) -> Any:
        """Return the id of a user: an id, or an instance of the users model.

        Raises:
            ValidationError: it is an instance of another model, or no UUID where ids are UUIDs.
        """
        if isinstance(user, peewee.Model):
            if not self.is_user(user):
                raise self._refused(user)
            user = self.key_of(user)
        if user is not None and isinstance(self.rel_field, peewee.UUIDField):
            return self._uuid_of(user)
        if isinstance(user, str):
            check_text(user, self.name)
            return plain_text(user)
        if isinstance(user, int) and type(user) not in (int, bool):
            return int(user)  # a member of an enumeration
        return user

    def _uuid_of(self, user: Any) -> uuid.UUID:
        try:
            return user if isinstance(user, uuid.UUID) else uuid.UUID(user)
        except (AttributeError, TypeError, ValueError):
            raise self._refused(user) from None

    def db_value(self, value: Any) -> Any:
        return self.rel_field.db_value(self.id_of(value))

    def case_value(self, value: Any) -> Any:
        backend = known_backend(self.model._meta.get_database_instance())
        if backend is None or not isinstance(self.rel_field, peewee.UUIDField):
            return super().case_value(value)
        return backend.uuid_parameter(self.db_value(value))

    # Peewee would take the key of any instance for which `db_value` raises a ValueError.

    def __eq__(self, other: Any) -> peewee.Expression:  # type: ignore[override]
        return super().__eq__(self._operand(other))

    def __ne__(self, other: Any) -> peewee.Expression:  # type: ignore[override]
        return super().__ne__(self._operand(other))

    __hash__ = peewee.ForeignKeyField.__hash__

    def in_(self, rhs: Any) -> peewee.Expression:
        return super().in_(self._operand(rhs))

    def not_in(self, rhs: Any) -> peewee.Expression:
        return super().not_in(self._operand(rhs))

    __lshift__ = in_

    def _operand(self, other: Any) -> Any:
        if isinstance(other, (list, tuple, set, frozenset)):
            return [self._operand(each) for each in other]
        return self.id_of(other) if isinstance(other, peewee.Model) else other

    @property
    def read_value(self) -> Callable[[Any], Any] | None:
        """The conversion of the key that is referenced; an integer needs none."""
        key = type(self.rel_field)
        is_plain = key.python_value is peewee.Field.python_value and key.adapt in _IDENTITIES
        return None if is_plain else self.python_value

    def _refused(self, user: object) -> ValidationError:
        return ValidationError(self.name, self.validation_rule["description"], kind_of(user))


_IDENTITIES = (peewee.Field.adapt, peewee.IntegerField.adapt)
