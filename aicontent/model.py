"""The model AIGeneratedContent. Each method calls a function of one of the package's folders.

A method imports its function when it is called, so that importing the package takes little time.
`table.py` declares the columns. Hosts may subclass the model and override its methods.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import peewee

from .database.internals import data_with_relations
from .enums import ContentStatus, ContentTypeLike
from .fields.scalars import now_in_utc, to_utc
from .generation.defaults import LEASE, MAX_ATTEMPTS, WAIT, Duration
from .maintenance.defaults import BATCH_SIZE, FAILED_AFTER
from .records import lookup
from .records.instances import check_selected, mark_saved
from .table import ContentTable

if TYPE_CHECKING:
    from .generation.completion import Outcome
    from .generation.rescue import RescueReport
    from .generation.worker import WorkReport
    from .maintenance.cleanup import CleanupReport


class AIGeneratedContent(ContentTable):
    """Peewee model of the content table: a request, its generated answer, and its use counts.

    The model has no database at import: call `aicontent.bind(database)` once, or use the class
    that `aicontent.for_database(database)` returns.
    """

    if TYPE_CHECKING:  # otherwise pyright refuses the Meta of a host's subclass
        Meta: Any

    # Find and serve content

    @classmethod
    def get_by_id(cls, pk: Any, user: Any = lookup.ANYBODY) -> Self:
        """Return the row with this id, as Peewee's `get_by_id` does.

        Args:
            pk: the id of the row.
            user: the owner of the row, as an id or a model instance; any user by default. If the
                table is partitioned, PostgreSQL then searches only this user's partition.

        Raises:
            DoesNotExist: there is no such row; the class is the model's own `DoesNotExist`.
            ValidationError: the id has characters that no text can have, or `user` is not a user.
            NotBoundError: the model has no database.
        """
        return lookup.get_by_id(cls, pk, user)

    @classmethod
    def find_by_user_and_type(cls, user: Any, type: ContentTypeLike) -> peewee.ModelSelect[Self]:
        """Select a user's content of one type, newest first; rows of equal age are sorted by id.

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.

        Raises:
            ValidationError: the user or the type is not valid for its column.
        """
        return lookup.by_user_and_type(cls, user, type)

    @classmethod
    def find_reusable_content(
        cls, user: Any, type: ContentTypeLike, level: str | None = None, now: datetime | None = None
    ) -> peewee.ModelSelect[Self]:
        """Select content that can be served again: completed and not expired.

        The query sorts the least used content first, and equally used content newest first. SQLite
        stores milliseconds, so the order of rows created in the same millisecond is not defined.

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.
            level: only content of this level; None or an empty string selects every level.
            now: an aware datetime at which to test expiry; the current time by default.

        Raises:
            ValidationError: an argument is not valid for its column.
        """
        return lookup.reusable_content(cls, user, type, level, now)

    @classmethod
    def first_reusable(
        cls, user: Any, type: ContentTypeLike, level: str | None = None, now: datetime | None = None
    ) -> Self | None:
        """Return the first row of `find_reusable_content`, or None, without counting a use.

        Args and Raises:
            As for `find_reusable_content`; NotBoundError if the model has no database.
        """
        return lookup.first_reusable(cls, user, type, level, now)

    @classmethod
    def reuse(
        cls, user: Any, type: ContentTypeLike, level: str | None = None, now: datetime | None = None
    ) -> Self | None:
        """Return the first row of `find_reusable_content` and count one use, in one statement.

        If another caller has locked the row, this call waits for that lock.

        Args and Raises:
            As for `find_reusable_content`; NotBoundError if the model has no database.

        Returns:
            The content with its new use count, or None if no content can be reused.
        """
        return lookup.reuse(cls, user, type, level, now)

    def mark_accessed(self, now: datetime | None = None) -> None:
        """Count one use of this content in one atomic UPDATE, and update this instance.

        If the instance is not stored yet, the method changes only the instance.

        Args:
            now: the time of the use as an aware datetime; the current time by default.

        Raises:
            ContentGoneError: the row was deleted.
            ValidationError: `now` is naive.
        """
        lookup.mark_accessed(self, now)

    def is_expired(self, now: datetime | None = None) -> bool:
        """Return whether `expires_at` is before `now` (aware; the current time by default).

        Raises:
            ValidationError: this instance comes from a query that did not select `expires_at`.
        """
        check_selected(self, "expires_at")
        expires_at = self.expires_at
        return expires_at is not None and now_in_utc(now) > to_utc(expires_at, "expires_at")

    def is_reusable(self, now: datetime | None = None) -> bool:
        """Return whether this content is completed and has not expired at `now`.

        Raises:
            ValidationError: the query for this instance did not select `status` or `expires_at`.
        """
        check_selected(self, "status", "expires_at")
        return self.status == ContentStatus.COMPLETED and not self.is_expired(now)

    # Store many rows

    @classmethod
    def create_many(cls, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """Validate and insert many rows in one transaction: all of them or none.

        Args:
            rows: any iterable of mappings, each with the keyword arguments of `create` for one
                row. It is read in batches inside the transaction, so a slow iterable blocks other
                writers to SQLite.

        Returns:
            The ids, in the order of the rows.

        Raises:
            ValidationError, UnknownUserError, DuplicateIdError: one row cannot be stored; `row`
                of the error is its number, from 1.
            NotBoundError: the model has no database.
        """
        from .records import bulk  # imported here because few programs write many rows

        return bulk.create_many(cls, rows)

    @classmethod
    def bulk_create(cls, model_list: Iterable[Self], batch_size: int | None = None) -> None:
        """Validate and insert many instances, as Peewee's method does: all of them or none.

        Args:
            model_list: new instances. Reload them to get `created_at` and `updated_at`.
            batch_size: ignored; Peewee's method has this argument.

        Raises:
            ValidationError, UnknownUserError, DuplicateIdError, NotBoundError: as `create_many`.
        """
        instances = list(model_list)
        cls.create_many(data_with_relations(instance) for instance in instances)
        for instance in instances:
            mark_saved(instance, instance.__data__, {})

    @classmethod
    def bulk_update(
        cls, model_list: Iterable[Self], fields: Iterable[Any], batch_size: int | None = None
    ) -> int:
        """Validate and update many instances, as Peewee's method does: all of them or none.

        Args:
            model_list: stored instances.
            fields: the fields to write, or their names.
            batch_size: instances per UPDATE; 200 by default.

        Returns:
            The number of rows written. A row that another process deleted is not counted.

        Raises:
            ValidationError, UnknownUserError: one instance cannot be stored; `row` of the error is
                its number, from 1. Nothing was written, and an open transaction stays usable.
        """
        from .records import bulk

        return bulk.bulk_update(cls, list(model_list), fields, batch_size)

    # Generate content

    @classmethod
    def get_or_generate(
        cls,
        user: Any,
        type: ContentTypeLike,
        request_payload: dict[str, Any],
        generate: Callable[[Self], Any],
        *,
        level: str | None = None,
        variant: Any = None,
        wait: Duration = WAIT,
        expires_in: Duration | None = None,
        serve_stale: bool = False,
        refresh: bool = False,
        mark: bool = True,
        lease: Duration | None = None,
        max_attempts: int | None = None,
    ) -> Self:
        """Return stored content for a user's request, or generate and store it.

        The first caller generates, and all others wait for its content. If that process dies, a
        waiting caller takes over when the lease has run out. While `generate` runs, and while a
        caller waits, this call keeps no transaction open, and no connection except one that was
        open before. Call it outside any transaction.

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.
            request_payload, level, variant: the request, as `aicontent.fingerprint` takes it.
            generate: a function that takes the claimed content and is called at most once. It
                returns the document, or a pair of the document and a mapping of its costs, with
                the names of `complete`'s arguments. `generation_time_ms` is measured if the costs
                lack it. A cost that cannot be stored is noted in `metadata["refused"]` instead.
            wait: how long to wait for another caller, in seconds or as a timedelta; 0 not to wait.
            expires_in: how long new content can be served (a Duration); without limit by default.
            serve_stale: return stored content that has expired, rather than wait for another
                caller to generate it, and rather than raise an error of `generate`.
            refresh: generate although content is stored; later calls return the new content.
            mark: count the use. With False, stored content is read without a write, for example
                from a read-only replica.
            lease: how long a dead process keeps the row; it is renewed while `generate` runs. By
                default 60 s, or five minutes where no second connection can renew it.
            max_attempts: failures and lost leases after which the row is failed; by default
                the number from its request or its claims, or 3.

        Returns:
            The newest completed content for the request. Its `served` is a `Served` that says how
            this call got it. The use is counted unless this call generated the content.

        Raises:
            InProgressError: the wait is over, and another caller is still generating.
            GenerationFailedError: the other caller failed. Errors of this caller's `generate` are
                raised unchanged, after the row was marked failed, or pending again if `request()`
                had asked for it too.
            GeneratedContentError: the result of `generate` cannot be stored; the error holds it.
                It is also a peewee.OperationalError if the database was unavailable for 30 s.
            OpenTransactionError: the caller has a transaction open, and nothing was generated; or
                `generate` left one open, and its content was stored.
            ValidationError, UnknownUserError, NotBoundError: nothing was generated.
            RunningLoopError: an event loop runs in this thread: await `aget_or_generate`.
        """
        from .generation import single_flight

        return single_flight.get_or_generate(
            cls,
            user,
            type,
            request_payload,
            generate,
            level=level,
            variant=variant,
            wait=wait,
            expires_in=expires_in,
            serve_stale=serve_stale,
            refresh=refresh,
            mark=mark,
            lease=lease,
            max_attempts=max_attempts,
        )

    @classmethod
    async def aget_or_generate(
        cls,
        user: Any,
        type: ContentTypeLike,
        request_payload: dict[str, Any],
        generate: Callable[[Self], Any],
        *,
        level: str | None = None,
        variant: Any = None,
        wait: Duration = WAIT,
        expires_in: Duration | None = None,
        serve_stale: bool = False,
        refresh: bool = False,
        mark: bool = True,
        lease: Duration | None = None,
        max_attempts: int | None = None,
    ) -> Self:
        """Return stored content or generate it, in an event loop, as `get_or_generate` does.

        Cancelling one caller does not stop `generate`: it continues for the other callers, and
        for later ones, until it ends or the loop ends. The end of the loop cancels an async
        `generate` and releases its row; a plain `generate` is awaited and its content stored.
        Statements run in up to four threads per database, or in the loop's thread if the database
        has only one connection, as in memory.

        Args:
            generate: an async function, which is awaited in this loop, or a plain one, which runs
                in a new thread. Either sees the contextvars of the caller that started it.
            user, type, request_payload: as for `get_or_generate`, like all other arguments.

        Returns:
            The content, as `get_or_generate` returns it; each caller gets a separate instance.

        Raises:
            CancelledError: the caller was cancelled. Otherwise as `get_or_generate`, except that a
                transaction that an async `generate` leaves open is not detected.
        """
        from .aio import flights  # asyncio takes longer to import than this package

        return await flights.get_or_generate(
            cls,
            user,
            type,
            request_payload,
            generate,
            level=level,
            variant=variant,
            wait=wait,
            expires_in=expires_in,
            serve_stale=serve_stale,
            refresh=refresh,
            mark=mark,
            lease=lease,
            max_attempts=max_attempts,
        )

    @classmethod
    def request(
        cls,
        user: Any,
        type: ContentTypeLike,
        request_payload: dict[str, Any],
        *,
        level: str | None = None,
        variant: Any = None,
        **values: Any,
    ) -> Self:
        """Queue a user's request for a worker: return its row in flight, or a new pending row.

        At most one row per request is in flight (pending or generating), however many callers
        ask at once. Completed content is ignored.

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.
            request_payload, level, variant: the request, as `aicontent.fingerprint` takes it.
                The variant is also stored in `metadata["variant"]`, for the worker.
            values: further attributes of a new row; a row that is already in flight keeps its own.
                `expires_at` is when the answer becomes useless: no worker claims the row after
                that time. A row in flight gets the later of the two times, or none if one call
                set none. `max_attempts` is how many failures the row may have.

        Raises:
            ValidationError, UnknownUserError: nothing was written; an open transaction is usable.
            NotBoundError: the model has no database.
        """
        from .generation import requests

        return requests.request(cls, user, type, request_payload, level, variant, values)

    @classmethod
    def claim(
        cls,
        types: Collection[ContentTypeLike] | ContentTypeLike | None = None,
        lease: Duration = LEASE,
        *,
        max_attempts: int | None = None,
    ) -> Self | None:
        """Claim a pending row: set its status to generating, with a lease.

        Rows with a due retry come first (within a second of being due), then the oldest row. A
        claim never waits for a row: on PostgreSQL it skips rows that other transactions have
        locked. It also skips rows whose retry is not due and rows that have expired. A row that
        cannot be read gets a failure, and the next row is claimed.

        Args:
            types: claim only rows of these types; of all types by default.
            lease: how long the claim lasts, in seconds or as a timedelta, by the database's clock.
            max_attempts: how many failures the row may have, if no earlier claim allowed more.

        Returns:
            The content, or None if no row is due.

        Raises:
            ValidationError: an argument is not valid.
            NotBoundError: the model has no database.
        """
        from .generation import claims

        return claims.claim(cls, types, lease, max_attempts)

    def complete(self, generated_data: Any, /, **outcome: Unpack[Outcome]) -> None:
        """Store the generated document of this claimed row and set its status to completed.

        Only the first finished answer is stored, even if its lease has run out.

        Args:
            generated_data: a dict, or an object that converts to one (a pydantic model, a
                dataclass). docs/explanation/claims.md lists the types that convert to JSON.
            outcome: further attributes, with the names of `Outcome`. `expires_in` is how long the
                content can be served, in seconds or as a timedelta, by the database's clock;
                `metadata` is added to the metadata that the row had when it was claimed. An
                attribute that is None or missing is not changed.

        Raises:
            ValidationError: a value is not valid; nothing was written, and the row stays claimed.
            LeaseLostError: the row has another answer, or was deleted; nothing was written.
        """
        from .generation import completion

        completion.complete(self, generated_data, outcome)

    def fail(
        self,
        reason: str | BaseException,
        retry: bool | None = False,
        *,
        delay: Duration | None = None,
        max_attempts: int | None = None,
    ) -> None:
        """Mark this claimed row failed, or pending again to retry it.

        Args:
            reason: stored in `metadata["lastFailure"]`, cut to 500 characters and without text
                that looks like a secret. For an exception only its class is stored, for a
                ValidationError its message, which repeats no value.
            retry: make the row pending again, unless it has used up its attempts. None retries
                only a row that `request()` asked for; a row of `get_or_generate` alone fails.
            delay: with `retry`, how long `claim` skips the row, in seconds or as a timedelta.
            max_attempts: how many failures the row may have; by default the number from its
                claims or its request, or 3.

        Raises:
            LeaseLostError: the claim is over, and nothing was written.
            ValidationError: an argument is not valid.
        """
        from .generation import holder

        holder.fail(self, reason, retry, delay, max_attempts)

    def release(self) -> None:
        """Return this claimed row to the queue without counting a failure.

        Raises:
            LeaseLostError: the claim is over, and nothing was written.
        """
        from .generation import holder

        holder.release(self)

    def extend_lease(self, lease: Duration = LEASE) -> None:
        """Extend the lease of this claimed row: it then ends `lease` from now.

        Raises:
            LeaseLostError: the claim is over.
            ValidationError: `lease` is not a positive number of seconds or a positive timedelta.
        """
        from .generation import holder

        holder.extend_lease(self, lease)

    @classmethod
    def rescue_stale(
        cls,
        max_attempts: int = MAX_ATTEMPTS,
        *,
        now: datetime | None = None,
        max_rows: int | None = None,
        max_seconds: float | None = None,
        dry_run: bool = False,
        stop: Callable[[], bool] | None = None,
    ) -> RescueReport:
        """Return rows whose lease has run out to the queue (status pending).

        A row that has used up its attempts is failed instead. A row that is generating without a
        lease belongs to another program and stays. Each short batch is one transaction; inside
        the caller's transaction there are no pauses. A row that the database refuses to change is
        skipped and reported, and a locked row is skipped.

        Args:
            max_attempts: how many failures a row may have if no request or claim set a number.
            now: an aware datetime to compare leases with; the database's clock by default.
            max_rows, max_seconds: stop after this number of rows or seconds.
            dry_run: count the rows, and change nothing.
            stop: a function that is called before each batch; a true result stops the run.

        Raises:
            ValidationError: an argument is not valid.
            NotBoundError: the model has no database.
        """
        from .generation import rescue

        return rescue.rescue_stale(
            cls,
            max_attempts,
            now=now,
            max_rows=max_rows,
            max_seconds=max_seconds,
            dry_run=dry_run,
            stop=stop,
        )

    @classmethod
    def work(
        cls,
        generate: Callable[[Self], Any],
        *,
        types: Collection[ContentTypeLike] | ContentTypeLike | None = None,
        lease: Duration | None = None,
        stop: Callable[[], bool] | None = None,
        until_empty: bool = False,
        max_attempts: int | None = None,
        expires_in: Duration | None = None,
        progress: Callable[[WorkReport], object] | None = None,
    ) -> WorkReport:
        """Run a worker: claim pending rows one after another, generate and store their content.

        If `generate` raises, the row is retried after one second, then after twice as long each
        time, up to five minutes, with jitter; after `max_attempts` failures it is failed. When no
        row is due, the worker sleeps about a second. KeyboardInterrupt and SystemExit release the
        row and are raised. Call it outside any transaction.

        Args:
            generate: as for `get_or_generate`.
            types: claim only rows of these types; of all types by default.
            lease: as for `get_or_generate`.
            stop: a function that is called before each claim; a true result ends the worker.
            until_empty: return when no row is pending, not even one that waits for a retry.
            max_attempts: how many failures a row may have, unless its request or an earlier claim
                allowed more; by default that number, or 3.
            expires_in: how long new content can be served; without limit by default.
            progress: a function that is called with the report so far after each row.

        Returns:
            How many rows were completed, failed, returned for a retry, and released.

        Raises:
            ContentNotStoredError: the database was unavailable for 30 s; it holds the answer.
            peewee.OperationalError: the same, before a row was claimed.
            ValidationError, OpenTransactionError, NotBoundError: no row was claimed.
            RunningLoopError: an event loop runs in this thread: await `awork`.
        """
        from .generation import worker  # serving content does not need it

        return worker.work(
            cls,
            generate,
            types=types,
            lease=lease,
            stop=stop,
            until_empty=until_empty,
            max_attempts=max_attempts,
            expires_in=expires_in,
            progress=progress,
        )

    @classmethod
    async def awork(
        cls,
        generate: Callable[[Self], Any],
        *,
        concurrency: int = 10,
        types: Collection[ContentTypeLike] | ContentTypeLike | None = None,
        lease: Duration | None = None,
        stop: Callable[[], bool] | None = None,
        until_empty: bool = False,
        max_attempts: int | None = None,
        expires_in: Duration | None = None,
        progress: Callable[[WorkReport], object] | None = None,
    ) -> WorkReport:
        """Run a worker in an event loop, as `work` does, with several rows at a time.

        If it is cancelled, it releases the rows whose async `generate` runs, waits for each plain
        `generate`, and raises CancelledError. After an error it first finishes the running rows.

        Args:
            generate: as for `aget_or_generate`.
            concurrency: how many rows to generate at the same time.
            types, lease, stop, until_empty, max_attempts, expires_in, progress: as for `work`;
                `stop` and `progress` are called in the event loop.

        Returns:
            The report, as `work` returns it.

        Raises:
            CancelledError: the call was cancelled. Otherwise as `work`, in an exception group if
                several rows fail at the same time.
        """
        from .aio import workers

        return await workers.work(
            cls,
            generate,
            concurrency,
            types=types,
            lease=lease,
            stop=stop,
            until_empty=until_empty,
            max_attempts=max_attempts,
            expires_in=expires_in,
            progress=progress,
        )

    @classmethod
    def requeue(
        cls,
        *,
        status: Literal[
            ContentStatus.FAILED, ContentStatus.GENERATING, "failed", "generating"
        ] = ContentStatus.FAILED,
        types: Collection[ContentTypeLike] | ContentTypeLike | None = None,
        ids: Collection[str] | str | None = None,
        failed_within: Duration | None = None,
        dry_run: bool = False,
    ) -> int:
        """Make failed rows pending again and reset their failures to 0.

        If a request has several failed rows, only the newest is requeued. A row stays failed if
        its request is in flight, was answered after the row was created, or has expired.

        Args:
            status: `failed`; or `generating`, for rows without a lease, which another program
                started and which `rescue_stale` never frees.
            types: only rows of these types; of all types by default.
            ids: only rows with these ids.
            failed_within: only rows that were last changed within this time before now, in
                seconds or as a timedelta, by the database's clock.
            dry_run: count the rows, and change nothing.

        Returns:
            The number of rows made pending.

        Raises:
            ValidationError: an argument is not valid, or no row of this status has one of the ids;
                nothing was written.
            NotBoundError: the model has no database.
        """
        from .generation import requeue  # serving content does not need it

        return requeue.requeue(
            cls, status=status, types=types, ids=ids, failed_within=failed_within, dry_run=dry_run
        )

    # Delete content

    @classmethod
    def cleanup(
        cls,
        now: datetime | None = None,
        *,
        failed_after: Duration = FAILED_AFTER,
        batch_size: int = BATCH_SIZE,
        max_rows: int | None = None,
        max_seconds: float | None = None,
        dry_run: bool = False,
        progress: Callable[[CleanupReport], object] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> CleanupReport:
        """Delete expired rows of any status, and rows that failed over 24 hours ago.

        A row that a worker holds stays until its lease has run out. A row that the database
        refuses to delete is skipped and reported. Each batch is one transaction. Call it outside
        any transaction; several cleanups may run at the same time.

        Args:
            now: an aware datetime to compare with; the database's clock by default.
            failed_after: how long a failed row stays, in seconds or as a timedelta, counted from
                the later of `created_at` and `updated_at`; the specification says 24 hours.
            batch_size: the most rows of one batch; slow batches get smaller.
            max_rows, max_seconds: stop after this number of rows or seconds.
            dry_run: count the rows, and delete nothing.
            progress: a function that is called with the report so far after each batch.
            stop: a function that is called before each batch; a true result stops the cleanup.

        Returns:
            How many rows were deleted by reason, whether due rows remain, and the blocked rows.

        Raises:
            ValidationError: an argument is not valid.
            NotBoundError: the model has no database.
        """
        from .maintenance import cleanup  # serving content does not need it

        return cleanup.cleanup(
            cls,
            now,
            failed_after=failed_after,
            batch_size=batch_size,
            max_rows=max_rows,
            max_seconds=max_seconds,
            dry_run=dry_run,
            progress=progress,
            stop=stop,
        )


Generate = Callable[[AIGeneratedContent], Any]
"""A function that takes the claimed content and returns the document, alone or in a pair with a
mapping of its costs, with the names of `Outcome`."""
