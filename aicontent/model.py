"""The model: every public operation on content. Each delegates to a function of a folder.

The columns are in `table.py`. Hosts may subclass the model and override its methods.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import peewee

from .database.internals import data_with_relations
from .enums import ContentStatus, ContentTypeLike
from .fields.scalars import moment_of, to_utc
from .generation import claims, completion, holder, requests, rescue, single_flight
from .generation.arguments import Duration
from .generation.claims import LEASE
from .generation.completion import Outcome
from .generation.rescue import MAX_ATTEMPTS, RescueReport
from .generation.single_flight import WAIT
from .maintenance.defaults import BATCH_SIZE, FAILED_AFTER
from .records import lookup
from .records.instances import check_selected, mark_saved
from .table import ContentTable

if TYPE_CHECKING:
    from .generation.worker import WorkReport
    from .maintenance.cleanup import CleanupReport


class AIGeneratedContent(ContentTable):
    """A piece of generated content: the request, the answer, and how it was used.

    It has no database on import: call `aicontent.bind(database)` once, or use
    `aicontent.for_database(database)`.
    """

    if TYPE_CHECKING:  # otherwise pyright refuses the Meta of a host's subclass
        Meta: Any

    # Find and serve content

    @classmethod
    def get_by_id(cls, pk: Any, user: Any = lookup.ANYBODY) -> Self:
        """Return the row of this id, as Peewee's `get_by_id` does.

        Args:
            pk: the id.
            user: the user to whom the row must belong, an id or an instance; anybody by default.
                In a partitioned table, that user's partition alone is then searched.

        Raises:
            DoesNotExist: the model's own: there is no such row.
            ValidationError: the id has characters that no text can have, or `user` is not a user.
            NotBoundError: the model has no database.
        """
        return lookup.get_by_id(cls, pk, user)

    @classmethod
    def find_by_user_and_type(cls, user: Any, type: ContentTypeLike) -> peewee.ModelSelect[Self]:
        """Select a user's content of one type, newest first (by id within one moment).

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.

        Raises:
            ValidationError: the user or the type breaks the rule of its column.
        """
        return lookup.by_user_and_type(cls, user, type)

    @classmethod
    def find_reusable_content(
        cls, user: Any, type: ContentTypeLike, level: str | None = None, now: datetime | None = None
    ) -> peewee.ModelSelect[Self]:
        """Select content that can be served again: completed and not expired.

        The least used content comes first, and of equally used content the newest. SQLite's clock
        has milliseconds: content of the same one comes in any order.

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.
            level: only this level; any level when None or empty.
            now: the moment to judge by, aware; the current one by default.

        Raises:
            ValidationError: an argument breaks the rule of its column.
        """
        return lookup.reusable_content(cls, user, type, level, now)

    @classmethod
    def first_reusable(
        cls, user: Any, type: ContentTypeLike, level: str | None = None, now: datetime | None = None
    ) -> Self | None:
        """Return the first of `find_reusable_content`, or None, without marking it accessed.

        Args and Raises:
            As `find_reusable_content`; NotBoundError without a database.
        """
        return lookup.first_reusable(cls, user, type, level, now)

    @classmethod
    def reuse(
        cls, user: Any, type: ContentTypeLike, level: str | None = None, now: datetime | None = None
    ) -> Self | None:
        """Return the first of `find_reusable_content` and mark it accessed, in one statement.

        If another caller is marking the row, this one waits for it instead of missing.

        Args and Raises:
            As `find_reusable_content`; NotBoundError without a database.

        Returns:
            The content, as it is stored now, or None when nothing can be reused.
        """
        return lookup.reuse(cls, user, type, level, now)

    def mark_accessed(self, now: datetime | None = None) -> None:
        """Count one use in one atomic UPDATE, and update this instance from the row.

        On an instance that is not stored yet, it changes the instance alone.

        Args:
            now: the moment of the use, aware; the current one by default.

        Raises:
            ContentGoneError: the row was deleted meanwhile. ValidationError: `now` is naive.
        """
        lookup.mark_accessed(self, now)

    def is_expired(self, now: datetime | None = None) -> bool:
        """Tell whether `expires_at` has passed by `now` (aware; the current moment by default).

        Raises:
            ValidationError: a query that did not select `expires_at` returned this instance.
        """
        check_selected(self, "expires_at")
        expires_at = self.expires_at
        return expires_at is not None and moment_of(now) > to_utc(expires_at, "expires_at")

    def is_reusable(self, now: datetime | None = None) -> bool:
        """Tell whether this is completed and has not expired by `now`.

        Raises:
            ValidationError: a query that did not select `status` and `expires_at` returned this.
        """
        check_selected(self, "status", "expires_at")
        return self.status == ContentStatus.COMPLETED and not self.is_expired(now)

    # Store many rows

    @classmethod
    def create_many(cls, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """Validate and insert many rows, all of them or none.

        Args:
            rows: the keyword arguments of `create`, one mapping a row; any iterable. It is read
                in batches within the transaction, so an iterable that produces rows slowly
                blocks other writers to SQLite meanwhile.

        Returns:
            The ids, in the order of the rows.

        Raises:
            ValidationError, UnknownUserError, DuplicateIdError: with `row`, the number of the
                row at fault, from 1.
            NotBoundError: the model has no database.
        """
        from .records import bulk  # loaded only where many rows are written

        return bulk.create_many(cls, rows)

    @classmethod
    def bulk_create(cls, model_list: Iterable[Self], batch_size: int | None = None) -> None:
        """Insert instances, as Peewee's method does; validated, all of them or none.

        Args:
            model_list: new instances; their times stay unset until they are loaded again.
            batch_size: ignored; it is here because Peewee's method has it.

        Raises:
            As `create_many`.
        """
        instances = list(model_list)
        cls.create_many(data_with_relations(instance) for instance in instances)
        for instance in instances:
            mark_saved(instance, instance.__data__, {})

    @classmethod
    def bulk_update(
        cls, model_list: Iterable[Self], fields: Iterable[Any], batch_size: int | None = None
    ) -> int:
        """Update instances, as Peewee's method does; validated, all of them or none.

        Args:
            model_list: stored instances.
            fields: fields or their names.
            batch_size: instances per UPDATE; 200 by default.

        Returns:
            The number of rows written; a row that was deleted meanwhile is not counted.

        Raises:
            ValidationError, UnknownUserError: with `row`, the number of the instance at fault,
                from 1. Nothing was written, and an open transaction stays usable.
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
        """Return this user's content for a request: stored content, or what `generate` returns.

        The first caller generates, and all others wait for its content. If it crashes, a waiting
        caller takes over when the lease has run out. While `generate` runs, and while a caller
        waits, no transaction is open, and no connection but one that was open before. Call it
        outside any transaction.

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.
            request_payload, level, variant: the request, as `aicontent.fingerprint` takes it.
            generate: is called with the claimed content, at most once. It returns the document,
                or a pair: the document and a mapping of its costs, which are arguments of
                `complete`. `generation_time_ms` is measured if the costs do not have it. A cost
                that cannot be stored is left out, and its rule noted in `metadata["refused"]`.
            wait: how long to wait for another caller, in seconds or as a timedelta; 0 not to wait.
            expires_in: how long new content can be served; for ever by default.
            serve_stale: return content that has expired, where it is still stored, rather than
                wait for it to be generated again, and instead of an error of `generate`.
            refresh: generate even if there is content, which is served no more afterwards.
            mark: count the use. Without it, content that is stored is served without writing, as
                a read-only replica needs.
            lease: how long a lost process holds the row; it is renewed while `generate` runs. By
                default 60 s, or five minutes where no second connection can renew it.
            max_attempts: failures and lost processes after which the row is failed; by default
                what its request and its claims allowed, or 3.

        Returns:
            The newest completed content for the request. `served` tells how this call came by
            it. Unless this call generated it, it is marked accessed.

        Raises:
            InProgressError: the wait is over. GenerationFailedError: the caller who was waited
                for has failed. Errors of `generate`, unchanged, after the row was marked failed,
                or pending again if `request()` had asked for it too.
            GeneratedContentError: what `generate` returned cannot be stored; the error holds it.
                It is a peewee.OperationalError too if the database was unavailable for 30 s.
            OpenTransactionError: before anything is generated, if the caller has one open; after
                the content was stored, if `generate` left one open.
            ValidationError, UnknownUserError, NotBoundError: before anything is generated.
            RunningLoopError: an event loop runs in this thread: await `aget_or_generate`.
        """
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
        """Do what `get_or_generate` does, in an event loop, without blocking it.

        A caller who is cancelled leaves alone. Once `generate` has begun it goes on for the other
        callers, and for the next ones, until it ends or the loop does: the end of the loop cancels
        an async `generate` and releases its row, and waits for a plain one, whose content is
        stored. Statements run in up to four threads of the database; where it has one connection,
        as in memory, they run in the loop's thread.

        Args:
            generate: an async function, which is awaited in this loop, or a plain one, which runs
                in a thread of its own; either sees the contextvars of the caller who began.
            user, type, request_payload: as `get_or_generate` takes them, and so are the others.

        Returns:
            What `get_or_generate` returns; each caller gets an instance of its own.

        Raises:
            What `get_or_generate` raises, and CancelledError if the caller is cancelled. A
            transaction that an async `generate` leaves open is not noticed.
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
        """Return the row in flight for this user's request, or a new pending one.

        There is one row in flight, however many callers ask at once. Completed content is not
        considered.

        Args:
            user: the user's id, or the user's model instance.
            type: a ContentType or its text.
            request_payload, level, variant: the request, as `aicontent.fingerprint` takes it.
                The variant is also stored in `metadata["variant"]`, for the worker.
            values: further attributes of a new row; a row in flight keeps its own.
                `expires_at` is the moment after which nobody needs the answer any more: then the
                row is never claimed. `max_attempts` is how many failures it may have.

        Raises:
            ValidationError, UnknownUserError: nothing was written, and an open transaction stays
                usable.
            NotBoundError: the model has no database.
        """
        return requests.request(cls, user, type, request_payload, level, variant, values)

    @classmethod
    def claim(
        cls,
        types: Collection[ContentTypeLike] | ContentTypeLike | None = None,
        lease: Duration = LEASE,
        *,
        max_attempts: int | None = None,
    ) -> Self | None:
        """Claim a pending row: make it generating, with a lease.

        Rows whose retry is due come before others, within a second; then comes the oldest.

        It never waits for a row: on PostgreSQL it passes over rows that others have locked. It
        passes over rows whose retry is not due, and rows that have expired. A row that cannot be
        read counts a failure, and the next is claimed.

        Args:
            types: only rows of these types; of all types by default.
            lease: how long the claim holds, in seconds or as a timedelta, by the database's clock.
            max_attempts: how many failures the row may have, if no earlier claim allowed more.

        Returns:
            The content, or None when nothing is due.

        Raises:
            ValidationError: an argument breaks a rule. NotBoundError: the model has no database.
        """
        return claims.claim(cls, types, lease, max_attempts)

    def complete(self, generated_data: Any, /, **outcome: Unpack[Outcome]) -> None:
        """Store the generated document of this claimed row, in one statement.

        The first finished answer wins: it is stored even if the lease has run out, unless the
        row has an answer already.

        Args:
            generated_data: the document: a dict, or an object that becomes one (a pydantic model,
                a dataclass). docs/explanation/claims.md lists which types are converted to JSON.
            outcome: further attributes, by the names of `Outcome`. `expires_in` is how long the
                content can be served, in seconds or as a timedelta, by the database's clock;
                `metadata` is added to the metadata that the row had when it was claimed. An
                attribute that is None or missing stays as it is.

        Raises:
            ValidationError: the row stays claimed. LeaseLostError: the row has another answer, or
                was deleted. Nothing was written.
        """
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
            reason: the reason, which is stored in `metadata["lastFailure"]`, cut to 500
                characters and without anything that looks like a secret; of an exception only
                its class (of a ValidationError its message, which repeats no value).
            retry: make the row pending again, unless it used up its attempts. None does so only
                if `request()` asked for it; a row that `get_or_generate` alone needed fails.
            delay: with `retry`, how long `claim` passes over it; not at all by default.
            max_attempts: how many failures it may have; by default what its claims and its
                request allowed, or 3.

        Raises:
            LeaseLostError: the claim is over, and nothing was written. ValidationError: an
                argument breaks a rule.
        """
        holder.fail(self, reason, retry, delay, max_attempts)

    def release(self) -> None:
        """Give this claimed row back to the queue; this counts as no failure.

        Raises:
            LeaseLostError: the claim is over, and nothing was written.
        """
        holder.release(self)

    def extend_lease(self, lease: Duration = LEASE) -> None:
        """Extend the lease of this claimed row, to end this long from now.

        Raises:
            LeaseLostError: the claim is over. ValidationError: `lease` is not a positive duration
                in seconds or as a timedelta.
        """
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
        """Return rows whose lease has run out to the queue.

        They are pending again, or failed if they used up their attempts. A row without a lease
        belongs to another program, which made it generating. It goes in short batches with a
        transaction each, without pauses within the caller's transaction. A row that the database
        refuses to change is passed over and named; one that is locked is left.

        Args:
            max_attempts: how many failures a row may have that no claim allowed a number.
            now: the moment to judge by, aware; the database's clock by default.
            max_rows, max_seconds: stop after this number of rows, or of seconds.
            dry_run: count, and change nothing.
            stop: is asked before each batch whether to stop.

        Raises:
            ValidationError: an argument breaks a rule. NotBoundError: the model has no database.
        """
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
        """Claim pending rows one after another, and generate and store their content.

        A row whose `generate` raises is retried after one second, then after twice as long each
        time, up to five minutes, with jitter; after `max_attempts` failures it is failed. When
        nothing is due it sleeps about a second. An interruption (KeyboardInterrupt, SystemExit)
        releases the row and is raised. Call it outside any transaction.

        Args:
            generate: as `get_or_generate` takes it.
            types: only rows of these types; of all types by default.
            lease: as `get_or_generate` takes it.
            stop: is asked before each claim whether to return.
            until_empty: return when nothing is pending, rows that wait for a retry included.
            max_attempts: how many failures a row may have, if nobody allowed it more; by default
                what its request and its claims allowed, or 3.
            expires_in: how long new content can be served; for ever by default.
            progress: is called with the report so far after each row.

        Returns:
            How many rows were completed, failed, put back to retry, and released.

        Raises:
            ContentNotStoredError: the database was unavailable for 30 s; the error holds the
                answer. peewee.OperationalError: it was, before a row was claimed.
            ValidationError, OpenTransactionError, NotBoundError: before a row is claimed.
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
        """Do what `work` does, in an event loop, with several rows at a time.

        Its cancellation releases the rows whose async `generate` runs, waits for a plain one, and
        is raised. After an error, the rows that are running are finished first.

        Args:
            generate: as `aget_or_generate` takes it.
            concurrency: how many rows are generated at the same time.
            types, lease, stop, until_empty, max_attempts, expires_in, progress: as `work` takes
                them; `stop` and `progress` are called in the event loop.

        Returns:
            What `work` returns.

        Raises:
            What `work` raises, in an exception group if several rows meet an error at once, and
            CancelledError.
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
        """Make failed rows pending again, with their failures forgotten.

        Of several failed rows for one request the newest is taken. A row is left if its request
        is in flight, was answered after the row was created, or has expired.

        Args:
            status: `failed`; or `generating`, for rows without a lease, which another program
                began and which `rescue_stale` never frees.
            types: only rows of these types; of all types by default.
            ids: only these rows.
            failed_within: only rows that were last changed within this time before now, in
                seconds or as a timedelta, by the database's clock.
            dry_run: count, and change nothing.

        Returns:
            The number of rows made pending.

        Raises:
            ValidationError: an argument breaks a rule, or an id is of no such row; nothing was
                written. NotBoundError: the model has no database.
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
        refuses to delete is passed over and reported.

        It deletes in batches with a transaction each. Call it outside any transaction; several
        may run at once.

        Args:
            now: the moment to judge by, aware; by default the database's clock.
            failed_after: how long a failed row stays, in seconds or as a timedelta, counted from
                the later of `created_at` and `updated_at`; the specification's 24 hours.
            batch_size: the most rows of one batch; batches shrink if they take long.
            max_rows, max_seconds: stop after this number of rows, or of seconds.
            dry_run: count, and delete nothing.
            progress: is called with the report so far after each batch.
            stop: is asked before each batch whether to stop.

        Returns:
            How many rows were deleted, by reason, whether any that are due are left, and which
            ones could not be deleted.

        Raises:
            ValidationError: an argument breaks a rule. NotBoundError: the model has no database.
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
"""Takes the claimed content; returns the document, alone or in a pair with a mapping of its
costs, which are named as in `Outcome`."""
