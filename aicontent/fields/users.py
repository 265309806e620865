"""Define the field `user`, a foreign key to the host's users table with the type of its key."""

import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import peewee

from ..database.supported import known_backend
from ..errors import ValidationError, kind_of
from .policy import check_text, plain_text
from .scalars import MAX_INTEGER, RuledField, V

MAX_BIGINT = 2**63 - 1

KEYS = (peewee.IntegerField, peewee.UUIDField, peewee.CharField, peewee.TextField)
"""The field types of `users.id` that content can reference."""

_EIGHT_BYTES = (peewee.BigAutoField, peewee.BigIntegerField)


def key_field(column_type: str) -> peewee.Field:
    """Return a primary key field for users whose id has this column type.

    The case of the type tells the backends apart: SQLite's INTEGER has eight bytes, PostgreSQL's
    integer four.
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


def without_hyphens(id: object) -> object:
    """Return a UUID's text as Peewee stores it on SQLite; return any other id unchanged."""
    return id.replace("-", "") if isinstance(id, str) and re.fullmatch(_UUID, id) else id


_UUID = "-".join(f"[0-9a-f]{{{digits}}}" for digits in (8, 4, 4, 4, 12))


class UserAccessor(peewee.ForeignKeyAccessor):
    """Accepts an id, or an instance of a model of the same users table."""

    def __set__(self, instance: Any, user: Any) -> None:
        if not isinstance(user, peewee.Model):
            with suppress(ValidationError):  # the error is raised when the row is written
                user = self.field.id_of(user)
            super().__set__(instance, user)
            return
        is_user = self.field.is_user(user)
        # An instance of another model is refused when the row is written.
        instance.__data__[self.name] = self.field.key_of(user) if is_user else user
        instance.__rel__[self.name] = user
        instance._dirty.add(self.name)


class UserField(RuledField[V], peewee.ForeignKeyField):
    """The foreign key to the host's users table, without a back-reference on the user."""

    accessor_class = UserAccessor

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        self.declared_backref = "+"  # Peewee's copy of the field for a subclass has lost it
        super().bind(model, name, set_attribute)

    def is_user(self, instance: peewee.Model) -> bool:
        """Return whether an instance is a row of the users table that this field references."""
        if type(instance) is self.rel_model:
            return True
        own, other = self.rel_model._meta, instance._meta
        database = self.model._meta.get_database_instance()
        return (
            database is not None
            and other.get_database_instance() is database
            and (other.schema, other.table_name) == (own.schema, own.table_name)
            and self.rel_field.column_name in other.columns
        )

    def key_of(self, user: peewee.Model) -> Any:
        """Return the id of an instance of the users model."""
        key = user._meta.columns[self.rel_field.column_name]
        id = getattr(user, key.name)
        is_mistaken = type(id) is uuid.UUID and isinstance(self.rel_field, peewee.IntegerField)
        if key is self.rel_field or is_mistaken:
            return id
        # The other model may have another type for the same ids.
        return self.rel_field.python_value(key.db_value(id))

    def id_of(self, user: Any) -> Any:
        """Return the id of a user, which may be an id or an instance of the users model.

        Raises:
            ValidationError: it is an instance of another model, or an id of another type.
        """
        if isinstance(user, peewee.Model):
            if not self.is_user(user):
                raise self._refused(user)
            user = self.key_of(user)
        if isinstance(self.rel_field, peewee.IntegerField):
            return self._integer_of(user)
        if isinstance(self.rel_field, peewee.UUIDField):
            return self._uuid_of(user)
        return self._text_of(user)

    def _integer_of(self, user: Any) -> int:
        if not isinstance(user, int) or isinstance(user, bool):
            raise self._refused(user)
        most = MAX_BIGINT if isinstance(self.rel_field, _EIGHT_BYTES) else MAX_INTEGER
        if not -most - 1 <= user <= most:
            rule = f"must be at most {most}" if user > most else f"must be at least {-most - 1}"
            raise ValidationError(self.name, rule, kind_of(user))
        return int(user)  # it may be a member of an enumeration

    def _uuid_of(self, user: Any) -> uuid.UUID:
        try:
            return user if isinstance(user, uuid.UUID) else uuid.UUID(user)
        except (AttributeError, TypeError, ValueError):
            raise self._refused(user) from None

    def _text_of(self, user: Any) -> str:
        if not isinstance(user, str):
            raise self._refused(user)
        most = getattr(self.rel_field, "max_length", None) or len(user)
        if not 0 < len(user) <= most:
            rule = f"must have at most {most} characters" if user else "must not be empty"
            raise ValidationError(self.name, rule, kind_of(user))
        check_text(user, self.name)
        return plain_text(user)

    def db_value(self, value: Any) -> Any:
        return value if value is None else self.key_parameter(value)

    def key_parameter(self, user: Any) -> Any:
        """Return the id of a user as a parameter for the driver; unlike `db_value`, refuse None.

        Raises:
            ValidationError: as for `id_of`.
        """
        return self.rel_field.db_value(self.id_of(user))

    def case_value(self, value: Any) -> Any:
        backend = known_backend(self.model._meta.get_database_instance())
        if backend is None or not isinstance(self.rel_field, peewee.UUIDField):
            return super().case_value(value)
        return backend.typed(self.db_value(value), "uuid")

    def _operand(self, other: Any) -> Any:
        if isinstance(other, (list, tuple, set, frozenset)):
            return [self._operand(each) for each in other]
        is_expression = isinstance(other, peewee.Node) and not isinstance(other, peewee.Model)
        return other if other is None or is_expression else self.id_of(other)

    @property
    def read_value(self) -> Callable[[Any], Any] | None:
        """Return the conversion of the referenced key; None for an integer, which needs none."""
        key = type(self.rel_field)
        is_plain = key.python_value is peewee.Field.python_value and key.adapt in _IDENTITIES
        return None if is_plain else self.python_value

    def _refused(self, user: object) -> ValidationError:
        kinds = {peewee.IntegerField: "an int", peewee.UUIDField: "a UUID"}
        noun = next((n for kind, n in kinds.items() if isinstance(self.rel_field, kind)), "a str")
        rule = f"must be {noun}, or an instance of the users model of this database"
        if type(user) is uuid.UUID:
            rule += " (pass your users model to bind(): its ids are not of this type)"
        return ValidationError(self.name, rule, kind_of(user))


_IDENTITIES = (peewee.Field.adapt, peewee.IntegerField.adapt)


def _of_users(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operator that accepts only users: Peewee's accepts instances of any model."""

    def compare(self: UserField[Any], *users: Any) -> Any:
        return operator(self, *map(self._operand, users))

    return compare


for _name in ("eq", "ne", "lt", "le", "gt", "ge", "lshift"):
    _operator = getattr(peewee.ForeignKeyField, f"__{_name}__")
    setattr(UserField, f"__{_name}__", _of_users(_operator))
for _name in ("in_", "not_in", "between"):
    setattr(UserField, _name, _of_users(getattr(peewee.ForeignKeyField, _name)))
