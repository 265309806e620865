"""Declare the columns of the table, each with the JSON Schema rule of its values.

Every column needs a rule. docs/reference/schema.md describes the columns.
"""

import sys
from copy import deepcopy
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

import peewee

from .database.availability import connected
from .database.statement import forget_statements
from .database.supported import backend_of, bindable, resolved
from .enums import ContentStatus, ContentStatusLike, ContentType, ContentTypeLike
from .errors import UnsupportedDatabaseError
from .fields.document import DocumentField
from .fields.scalars import (
    MAX_INTEGER,
    CountField,
    EnumField,
    FlagField,
    FractionField,
    ShortTextField,
    UTCDateTimeField,
)
from .fields.users import KEYS, UserField, key_field
from .records.record import Record
from .records.validation import Rules

TABLE = "ai_generated_content"

_OBJECT = {"type": "object"}
_OBJECT_OR_NULL = {"type": ["object", "null"]}
_ARRAY_OR_NULL = {"type": ["array", "null"]}
_USER = {  # the field checks the type, which the host's users table decides
    "not": {"type": "null"},
    "description": "must be the id of a user, or an instance of the users model of this database",
}
_COUNT = {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER}
_COUNT_OR_NULL = _COUNT | {"type": ["integer", "null"]}
_FRACTION_OR_NULL = {"type": ["number", "null"], "minimum": 0, "maximum": 1}


def _text(most: int) -> dict[str, Any]:
    return {"type": ["string", "null"], "maxLength": most}


def new_id() -> str:
    """Return a new UUID of version 7: ids of new rows are close together in the key's index."""
    if sys.version_info >= (3, 14):
        from uuid import uuid7
    else:
        from uuid_utils import uuid7  # imported here, because serving content needs no new id
    return str(uuid7())


class User(peewee.Model):
    """Peewee model of the host's users table; this package reads only the id."""

    if TYPE_CHECKING:  # Peewee adds it; at run time Peewee's fields cannot be subscripted
        id: peewee.AutoField[int]

    class Meta:
        table_name = "users"


class ContentTable(Record):
    """The columns of the table, without the methods of `AIGeneratedContent`.

    Each column is annotated with the type of its values. The user is Any, because a host may bind
    its own model of users.
    """

    id: ShortTextField[str] = ShortTextField(
        rule={"type": "string", "minLength": 1, "maxLength": 36},
        required=True,
        max_length=36,
        primary_key=True,
        default=new_id,
    )
    user: UserField[Any] = UserField(
        User,
        rule=_USER,
        required=True,
        column_name="userId",
        object_id_name="user_id",
        on_delete="CASCADE",
        index=False,
    )
    user_id: UserField[int]  # Peewee adds it
    type: EnumField[ContentType, ContentTypeLike] = EnumField(ContentType, required=True)
    status: EnumField[ContentStatus, ContentStatusLike] = EnumField(
        ContentStatus, required=True, default=ContentStatus.PENDING
    )

    request_payload: DocumentField[dict[str, Any]] = DocumentField(
        rule=_OBJECT, required=True, column_name="requestPayload", compressible=True
    )
    generated_data: DocumentField[dict[str, Any] | None] = DocumentField(
        rule=_OBJECT_OR_NULL, column_name="generatedData", null=True, compressible=True
    )
    validation_results: DocumentField[dict[str, Any] | None] = DocumentField(
        rule=_OBJECT_OR_NULL, column_name="validationResults", null=True, compressible=True
    )
    metadata: DocumentField[dict[str, Any] | None] = DocumentField(rule=_OBJECT_OR_NULL, null=True)

    level: ShortTextField[str | None] = ShortTextField(rule=_text(10), max_length=10, null=True)
    topics: DocumentField[list[Any] | None] = DocumentField(rule=_ARRAY_OR_NULL, null=True)
    focus_areas: DocumentField[list[Any] | None] = DocumentField(
        rule=_ARRAY_OR_NULL, column_name="focusAreas", null=True
    )

    estimated_completion_time: CountField[int | None] = CountField(  # minutes
        rule=_COUNT_OR_NULL, column_name="estimatedCompletionTime", null=True
    )
    validation_score: FractionField[float | None] = FractionField(
        rule=_FRACTION_OR_NULL, column_name="validationScore", null=True
    )
    generation_time_ms: CountField[int | None] = CountField(
        rule=_COUNT_OR_NULL, column_name="generationTimeMs", null=True
    )
    token_usage: CountField[int | None] = CountField(
        rule=_COUNT_OR_NULL, column_name="tokenUsage", null=True
    )
    model_used: ShortTextField[str | None] = ShortTextField(
        rule=_text(50), max_length=50, column_name="modelUsed", null=True
    )

    usage_count: CountField[int | None] = CountField(
        rule=_COUNT, column_name="usageCount", null=True, default=0
    )
    last_accessed_at: UTCDateTimeField[datetime | None] = UTCDateTimeField(
        column_name="lastAccessedAt", null=True
    )
    expires_at: UTCDateTimeField[datetime | None] = UTCDateTimeField(
        column_name="expiresAt", null=True
    )

    # The database sets these two, so that all writers use one clock.
    created_at: UTCDateTimeField[datetime] = UTCDateTimeField(column_name="createdAt")
    updated_at: UTCDateTimeField[datetime] = UTCDateTimeField(column_name="updatedAt")

    # Columns of claims: fingerprint is the request, attempts the number of the last claim;
    # max_attempts limits failures, not claims; queued means that request() asked for the row.
    fingerprint: ShortTextField[str | None] = ShortTextField(
        rule={"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}, max_length=64, null=True
    )
    attempts: CountField[int] = CountField(rule=_COUNT, default=0)
    lease_expires_at: UTCDateTimeField[datetime | None] = UTCDateTimeField(
        column_name="leaseExpiresAt", null=True
    )
    failures: CountField[int] = CountField(rule=_COUNT, default=0)
    max_attempts: CountField[int | None] = CountField(
        rule=_COUNT_OR_NULL | {"minimum": 1}, column_name="maxAttempts", null=True
    )
    retry_at: UTCDateTimeField[datetime | None] = UTCDateTimeField(column_name="retryAt", null=True)
    queued: FlagField[bool] = FlagField(rule={"type": "boolean"}, default=True)

    if TYPE_CHECKING:  # `values` are the columns of claims and those that a host has added

        @classmethod
        def create(
            cls,
            *,
            id: str = ...,
            user: Any = ...,
            user_id: int = ...,
            type: ContentTypeLike = ...,
            status: ContentStatusLike = ...,
            request_payload: dict[str, Any] = ...,
            generated_data: dict[str, Any] | None = ...,
            validation_results: dict[str, Any] | None = ...,
            metadata: dict[str, Any] | None = ...,
            level: str | None = ...,
            topics: list[Any] | None = ...,
            focus_areas: list[Any] | None = ...,
            estimated_completion_time: int | None = ...,
            validation_score: float | None = ...,
            generation_time_ms: int | None = ...,
            token_usage: int | None = ...,
            model_used: str | None = ...,
            usage_count: int = ...,
            last_accessed_at: datetime | None = ...,
            expires_at: datetime | None = ...,
            created_at: datetime | None = ...,
            updated_at: datetime | None = ...,
            **values: Any,
        ) -> Self: ...

    class Meta:
        table_name = TABLE


RULES = Rules(ContentTable._meta.sorted_fields)
ContentTable._aicontent_rules = RULES
# This base class has no table, so Peewee must not search it for rows when it deletes a user.
ContentTable._meta.remove_ref(ContentTable.user)

C = TypeVar("C", bound=ContentTable)


def bound_model(
    base: type[C], database: peewee.Database, user_model: type[peewee.Model] | None = None
) -> type[C]:
    """Return a new subclass of a model, bound to a database.

    Args:
        base: `AIGeneratedContent`, or `ContentTable` for code that needs only the columns.
        database: the database with the content table.
        user_model: the host's model of the `users` table; `.user` then returns its instances.

    Raises:
        UnsupportedDatabaseError: as for `aicontent.for_database`.
    """
    database = bindable(database)
    user = user_field(users_model("integer", database) if user_model is None else user_model)
    namespace: dict[str, Any] = {
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "Meta": _meta(database, base),
        "user": user,
        "_aicontent_base": base,
    }
    return type(base.__name__, (base,), namespace)


def detected_model(base: type[C], database: peewee.Database) -> type[C]:
    """Return a subclass of a model, bound to a database, with the type of its `userId`."""
    database = resolved(database)
    return bound_model(base, database, users_model(user_id_type(database), database))


def user_id_type(database: peewee.Database) -> str:
    """Return the type of `userId` in a database, which follows from the type of `users.id`."""
    backend = backend_of(database)
    with connected(database):
        users = backend.catalog(database).relation("users", anywhere=True)
    type = users.columns.get("id", "integer") if users is not None else "integer"
    return backend.user_id_type(type) or "integer"


def users_model(id_type: str, database: peewee.Database | None = None) -> type[peewee.Model]:
    """Return a model of a users table whose ids have this column type."""
    namespace = {"Meta": _meta(database, User), "id": key_field(id_type)}
    return type("User", (User,), namespace)


def user_field(user_model: type[peewee.Model]) -> UserField[Any]:
    """Return a copy of the field `user` that references another model of the users table.

    Raises:
        UnsupportedDatabaseError: the model is not of the table `users`, or its primary key is not
            the column `id` of a supported type.
    """
    key: Any = user_model._meta.primary_key
    if user_model._meta.table_name != "users" or getattr(key, "column_name", None) != "id":
        raise UnsupportedDatabaseError(
            f"user_model {user_model.__name__} must be a model of the table users with the "
            "primary key id, which the foreign key references: if yours has other names, see "
            "docs/guides/databases.md"
        )
    if not isinstance(key, KEYS):
        raise UnsupportedDatabaseError(
            f"user_model {user_model.__name__} has a {type(key).__name__} as its primary key, "
            "which a foreign key cannot reference: use an integer, a UUID or a text"
        )
    # A copy keeps the field's position among the columns.
    user: UserField[Any] = deepcopy(ContentTable._meta.fields["user"])
    user.rel_model, user.rel_field = user_model, key
    return user


def set_user_field(model: type[ContentTable], user: UserField[Any]) -> None:
    """Replace a model's field `user`, and empty its statement cache."""
    if user.rel_model is model._meta.fields["user"].rel_model:
        return
    model._meta.add_field("user", user)
    forget_statements(model)  # the cached statements convert ids for the previous field


def _meta(database: peewee.Database | None, model: type[peewee.Model]) -> type:
    return type("Meta", (), {"database": database, "table_name": model._meta.table_name})
