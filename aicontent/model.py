"""The table as Python sees it: columns, helpers, queries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import peewee

from .database.compiled import Computed, slot
from .enums import ContentStatus, ContentType
from .fields.document import DocumentField
from .fields.scalars import EnumColumn, FractionField, TextColumn, UTCDateTimeField, to_utc
from .generation.single_flight import SingleFlightModel
from .maintenance.cleanup import BATCH_SIZE, FAILED_AFTER, Budget, CleanupReport, cleanup
from .records.lookup import Narrow, one_more

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils import uuid7


def _new_id() -> str:
    return str(uuid7())


def _moment(now: datetime | None) -> datetime:
    return datetime.now(UTC) if now is None else to_utc(now, "now")


class User(peewee.Model):
    """The host's users, of whom this package knows the id alone."""

    class Meta:
        table_name = "users"


class AIGeneratedContent(SingleFlightModel):
    """A piece of generated content: what was asked, what came back, and how it was used.

    Unbound on import: call `aicontent.bind(database)` once, or use
    `aicontent.for_database(database)`.
    """

    id = TextColumn(max_length=36, primary_key=True, default=_new_id)
    user = peewee.ForeignKeyField(
        User,
        column_name="userId",
        object_id_name="user_id",
        backref="+",
        on_delete="CASCADE",
        index=False,
    )
    type = EnumColumn(ContentType)
    status = EnumColumn(ContentStatus, default=ContentStatus.PENDING)

    request_payload = DocumentField(column_name="requestPayload", compressible=True)
    generated_data = DocumentField(column_name="generatedData", null=True, compressible=True)
    validation_results = DocumentField(
        column_name="validationResults", null=True, compressible=True
    )
    metadata = DocumentField(null=True)

    level = TextColumn(max_length=10, null=True)
    topics = DocumentField(null=True)
    focus_areas = DocumentField(column_name="focusAreas", null=True)

    estimated_completion_time = peewee.IntegerField(
        column_name="estimatedCompletionTime", null=True
    )  # minutes
    validation_score = FractionField(column_name="validationScore", null=True)  # 0 to 1
    generation_time_ms = peewee.IntegerField(column_name="generationTimeMs", null=True)
    token_usage = peewee.IntegerField(column_name="tokenUsage", null=True)
    model_used = TextColumn(max_length=50, column_name="modelUsed", null=True)

    usage_count = peewee.IntegerField(column_name="usageCount", null=True, default=0)
    last_accessed_at = UTCDateTimeField(column_name="lastAccessedAt", null=True)
    expires_at = UTCDateTimeField(column_name="expiresAt", null=True)

    # Set by the database: one clock for all writers.
    created_at = UTCDateTimeField(column_name="createdAt")
    updated_at = UTCDateTimeField(column_name="updatedAt")

    # What claims go by: of what was asked, which attempt this is, and until when it is held.
    fingerprint = TextColumn(max_length=64, null=True)
    attempts = peewee.IntegerField(default=0)
    lease_expires_at = UTCDateTimeField(column_name="leaseExpiresAt", null=True)

    class Meta:
        table_name = "ai_generated_content"

    # Queries

    @classmethod
    def find_by_user_and_type(cls, user: Any, type: str) -> peewee.ModelSelect[Self]:
        """Select a user's content of one type, newest first (ids tell within one moment).

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.

        Raises:
            ValidationError: the user or the type cannot be one.
        """
        newest_first = (cls.created_at.desc(), cls.id.desc())
        asked = cls._asked_for(user, type)
        return cls.select().where(*cls._same(cls, asked)).order_by(*newest_first)

    @classmethod
    def find_reusable_content(
        cls, user: Any, type: str, level: str | None = None, now: datetime | None = None
    ) -> peewee.ModelSelect[Self]:
        """Select what can be served again: completed, not expired; the least used first, of
        these the newest.

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.
            level: only this level; any level when None or empty.
            now: the moment to judge by, aware; the current one by default.

        Raises:
            ValidationError: an argument cannot be what it should be.
        """
        query: peewee.ModelSelect[Self] = cls._reusable(
            cls, cls.select(), cls._same(cls, cls._asked_for(user, type, level)), _moment(now)
        )
        return query

    @classmethod
    def first_reusable(
        cls, user: Any, type: str, level: str | None = None, now: datetime | None = None
    ) -> Self | None:
        """Return the first of `find_reusable_content`, or None. Nothing is marked.

        Args and Raises:
            As `find_reusable_content`; NotBoundError without a database.
        """
        return cls._found(*cls._to_reuse(user, type, level, now))

    @classmethod
    def reuse(
        cls, user: Any, type: str, level: str | None = None, now: datetime | None = None
    ) -> Self | None:
        """Take the first of `find_reusable_content` and mark it accessed, in one statement.

        A row that another caller is marking is waited for, never taken for a miss.

        Args and Raises:
            As `find_reusable_content`; NotBoundError without a database.

        Returns:
            The content, as it is stored now, or None when nothing can be reused.
        """
        return cls._taken(*cls._to_reuse(user, type, level, now))

    @classmethod
    def cleanup(
        cls,
        now: datetime | None = None,
        *,
        failed_after: timedelta = FAILED_AFTER,
        batch_size: int = BATCH_SIZE,
        max_rows: int | None = None,
        max_seconds: float | None = None,
        dry_run: bool = False,
        progress: Callable[[CleanupReport], object] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> CleanupReport:
        """Delete what has expired, whatever its status, and what failed a day ago, in batches
        with a transaction each. Call it outside any transaction; several may run at once.

        Args:
            now: the moment to judge by, aware; the current one by default.
            failed_after: the age at which failed content goes; the specification's 24 hours.
            batch_size: the most rows of one batch; it shrinks where a batch takes long.
            max_rows, max_seconds: end after so many rows, or when so many seconds are over.
            dry_run: count, and delete nothing.
            progress: is called with the report so far after each batch.
            stop: is asked before each batch whether to end.

        Returns:
            What went, by reason, and whether anything that could go is left.

        Raises:
            ValidationError: an argument is not what it should be.
            NotBoundError: the model has no database.
        """
        return cleanup(
            cls,
            _moment(now),
            failed_after=failed_after,
            batch_size=batch_size,
            budget=Budget(max_rows, max_seconds, stop),
            dry_run=dry_run,
            progress=progress,
        )

    # Helpers of an instance

    def is_expired(self, now: datetime | None = None) -> bool:
        """Tell whether `expires_at` has passed by `now` (aware; the current moment by default)."""
        if self.expires_at is None:
            return False
        return _moment(now) > to_utc(self.expires_at, "expires_at")

    def is_reusable(self, now: datetime | None = None) -> bool:
        """Tell whether this is completed and has not expired by `now`."""
        return self.status == ContentStatus.COMPLETED and not self.is_expired(now)

    def mark_accessed(self, now: datetime | None = None) -> None:
        """Count one use, in one atomic UPDATE, and show on this instance what the row then holds.

        On an instance that is not stored yet it changes the instance alone.

        Raises:
            ContentGoneError: the row was deleted meanwhile. ValidationError: `now` is naive.
        """
        moment = _moment(now)
        if self.is_new:
            self.last_accessed_at = moment
            self.usage_count = (self.usage_count or 0) + 1
            return
        counted = Computed("one more", one_more)
        if not self._update_row({"usage_count": counted, "last_accessed_at": moment}):
            raise self._gone()

    # Pieces of statements

    @classmethod
    def _same(cls, table: Any, asked: dict[str, Any]) -> list[Any]:
        return [getattr(table, name) == value for name, value in asked.items()]

    @classmethod
    def _to_reuse(
        cls, user: Any, type: str, level: str | None, now: datetime | None
    ) -> tuple[Hashable, Narrow, dict[str, Any]]:
        asked = cls._asked_for(user, type, level)

        def narrow(table: Any, query: Any, moment: Any) -> Any:
            same = cls._same(table, {name: slot(name) for name in asked})
            return cls._reusable(table, query, same, moment)

        return "to reuse", narrow, asked | {"now": cls.expires_at.db_value(_moment(now))}
