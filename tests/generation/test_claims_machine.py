"""Random sequences of requests, claims, losses, retries and cleanups, compared with a model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

import aicontent

HOUR = timedelta(hours=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
MAX_ATTEMPTS = 3

users = st.sampled_from([0, 1])
numbers = st.sampled_from([1, 2])
leases = st.sampled_from([HOUR, 2 * HOUR])
lifetimes = st.sampled_from([None, HOUR, 3 * HOUR])
delays = st.sampled_from([None, HOUR])
offsets = st.sampled_from([0.5 * HOUR, 1.5 * HOUR, 2.5 * HOUR, 30 * HOUR])


@dataclass
class Row:
    """The state that the model expects of a row."""

    user: int
    number: int
    created: tuple[datetime, str]
    status: str = "pending"
    attempts: int = 0
    failures: int = 0
    uses: int = 0
    document: dict | None = None
    lease: datetime | None = None
    retry: datetime | None = None
    expires: datetime | None = None
    queued: bool = True

    @property
    def due(self):
        return (self.retry or self.created[0], self.created[1])


class GenerateFailedError(Exception):
    pass


class Claims(RuleBasedStateMachine):
    """Workers keep their claims, and use them even after losing the row."""

    Content: type[aicontent.AIGeneratedContent]
    held = Bundle("held")

    def __init__(self):
        super().__init__()
        users = self.Content.user.rel_model
        users.delete().execute()
        self.users = [users.create().id for _ in range(2)]
        self.rows: dict[str, Row] = {}
        self.documents = 0

    # The model

    def in_flight(self, user, number):
        for id, row in self.rows.items():
            if (row.user, row.number) == (user, number) and row.status in ("pending", "generating"):
                return id
        return None

    def servable(self, user, now=None):
        now = now or datetime.now(UTC)
        return {
            id: row
            for id, row in self.rows.items()
            if row.user == user
            and row.status == "completed"
            and (row.expires is None or row.expires > now)
        }

    def newest(self, user, number):
        """Return the id of the row that answers a request."""
        found = {id: row for id, row in self.servable(user).items() if row.number == number}
        return max(found, key=lambda id: found[id].created, default=None)

    def reusable(self, user, now):
        """Return the ids of the rows that rank first for reuse; any of them may be served."""
        found = {
            id: (row.uses, -row.created[0].timestamp())
            for id, row in self.servable(user, now).items()
        }
        return {id for id, rank in found.items() if rank == min(found.values())}

    def is_held(self, content):
        row = self.rows.get(content.id)
        same = row and (row.status, row.attempts) == ("generating", content.attempts)
        return same and row.lease is not None and content.status == "generating"

    def claimed(self, content):
        row = self.rows[content.id]
        assert row.status == "pending"
        row.status, row.attempts, row.retry = "generating", row.attempts + 1, None
        assert (content.attempts, content.failures or 0) == (row.attempts, row.failures)
        row.lease = content.lease_expires_at

    def completed(self, content, document):
        row = self.rows[content.id]
        assert row.document is None
        row.status, row.document, row.lease, row.retry = "completed", document, None, None
        row.expires = content.expires_at

    def ended(self, id, status, retry=None):
        row = self.rows[id]
        row.status, row.lease, row.retry = status, None, retry

    def failed(self, id, again, retry=None):
        """Count a failure, and return the row's new status."""
        row = self.rows[id]
        row.failures += 1
        again = again and row.failures < MAX_ATTEMPTS
        self.ended(id, "pending" if again else "failed", retry if again else None)
        return row.status

    def new(self, content, user, number, queued=True):
        self.rows[content.id] = Row(user, number, (content.created_at, content.id), queued=queued)

    def change(self, id, **values):
        self.Content.update(values).where(self.Content.id == id).execute()

    def document(self):
        self.documents += 1
        return {"number": self.documents}

    # The rules

    @rule(user=users, number=numbers)
    def request(self, user, number):
        expected = self.in_flight(user, number)
        content = self.Content.request(self.users[user], "lesson", {"number": number})
        if expected is None:
            assert content.id not in self.rows
            self.new(content, user, number)
        else:
            assert content.id == expected
            self.rows[expected].queued = True

    @rule(target=held, lease=leases)
    def claim(self, lease):
        pending = [(row.due, id) for id, row in self.rows.items() if row.status == "pending"]
        due = [(moment, id) for moment, id in pending if moment[0] <= datetime.now(UTC)]
        fresh = [each for each in due if self.rows[each[1]].retry is None]
        retried = [each for each in due if each not in fresh]
        content = self.Content.claim(lease=lease, max_attempts=MAX_ATTEMPTS)
        if not due:
            assert content is None
            return multiple()
        # claim() prefers rows to retry, but looks for them only at intervals.
        assert content.id in [min(each)[1] for each in (fresh, retried) if each]
        self.claimed(content)
        return content

    @rule(content=held, lifetime=lifetimes)
    def complete(self, content, lifetime):
        """The first finished answer is stored, even from a worker that has lost the row."""
        document, row = self.document(), self.rows.get(content.id)
        if row and row.document is None:
            content.complete(document, expires_in=lifetime)
            self.completed(content, document)
        else:
            with pytest.raises(aicontent.LeaseLostError):
                content.complete(document, expires_in=lifetime)

    @rule(content=held, retry=st.booleans(), delay=delays)
    def fail(self, content, retry, delay):
        if self.is_held(content):
            content.fail("no", retry, delay=delay if retry else None)
            self.failed(content.id, retry, content.retry_at)
        else:
            with pytest.raises(aicontent.LeaseLostError):
                content.fail("no", retry)

    @rule(content=held)
    def release(self, content):
        if self.is_held(content):
            content.release()
            self.ended(content.id, "pending")
        else:
            with pytest.raises(aicontent.LeaseLostError):
                content.release()

    @rule(content=held, lease=leases)
    def extend(self, content, lease):
        if self.is_held(content):
            content.extend_lease(lease)
            self.rows[content.id].lease = content.lease_expires_at
        else:
            with pytest.raises(aicontent.LeaseLostError):
                content.extend_lease(lease)

    @rule(target=held, content=held, taken=st.booleans())
    def the_lease_runs_out(self, content, taken):
        if not self.is_held(content):
            return multiple()
        self.change(content.id, lease_expires_at=LONG_AGO)
        self.rows[content.id].lease = LONG_AGO
        if not taken:
            return multiple()
        self.rescue(timedelta(0))
        return self.claim(HOUR)

    @rule(user=users, number=numbers)
    def the_retry_is_due(self, user, number):
        row = self.rows.get(id := self.in_flight(user, number))
        if row and row.retry:
            self.change(id, retry_at=LONG_AGO)
            row.retry = LONG_AGO

    @rule(content=held)
    def another_program_begins(self, content):
        row = self.rows.get(content.id)
        if row and row.status in ("pending", "generating"):
            self.change(content.id, status="generating", lease_expires_at=None)
            row.status, row.lease = "generating", None

    @rule(status=st.sampled_from(["failed", "generating"]))
    def requeue(self, status):
        def is_wanted(row):
            if row.status != status or row.lease is not None:
                return False
            same = [r for r in self.rows.values() if (r.user, r.number) == (row.user, row.number)]
            others = [r for r in same if r is not row]
            newer = {r.status for r in others if r.created > row.created and not is_over(r)}
            in_flight = {r.status for r in others} & {"pending", "generating"}
            return not in_flight and not newer & {status, "completed"}

        def is_over(row):
            return row.status == "completed" and row.expires and row.expires <= now

        now = datetime.now(UTC)
        wanted = [row for row in self.rows.values() if is_wanted(row)]
        assert self.Content.requeue(status=status) == len(wanted)
        for row in wanted:
            row.status, row.failures, row.retry, row.queued = "pending", 0, None, True

    @rule(later=offsets)
    def rescue(self, later):
        now = datetime.now(UTC) + later
        stale = [id for id, row in self.rows.items() if row.lease and row.lease < now]
        freed = [self.failed(id, True) for id in stale]
        report = self.Content.rescue_stale(MAX_ATTEMPTS, now=now)
        assert (report.requeued, report.failed) == (freed.count("pending"), freed.count("failed"))

    @rule()
    def every_wait_ends(self):
        """All workers are lost, and a new one finishes every row in flight."""
        self.requeue("generating")
        for id, row in self.rows.items():
            if row.lease:
                self.change(id, lease_expires_at=LONG_AGO)
                self.failed(id, True)
            if row.retry:
                self.change(id, retry_at=LONG_AGO)
                row.retry = LONG_AGO
        order = [id for _, id in sorted((row.due, id) for id, row in self.rows.items())]
        pending = [id for id in order if self.rows[id].status == "pending"]
        retried = [id for id in pending if self.rows[id].retry]
        worked = []

        def generate(content):
            self.claimed(content)
            worked.append(content)
            return {"worked": content.id}

        report = self.Content.work(generate, until_empty=True, max_attempts=MAX_ATTEMPTS)
        ids = [content.id for content in worked]
        assert [id for id in ids if id in retried] == retried
        assert [id for id in ids if id not in retried] == [i for i in pending if i not in retried]
        assert report.completed == len(pending)
        for content in worked:
            self.completed(content, {"worked": content.id})

    @rule(user=users, later=offsets)
    def reuse(self, user, later):
        now = datetime.now(UTC) + later
        expected = self.reusable(user, now=now)
        content = self.Content.reuse(self.users[user], "lesson", now=now)
        assert (content.id in expected) if expected else content is None
        if content is not None:
            self.rows[content.id].uses += 1

    @rule(
        user=users,
        number=numbers,
        lifetime=lifetimes,
        error=st.sampled_from([None, None, GenerateFailedError, KeyboardInterrupt]),
        refresh=st.booleans(),
        mark=st.booleans(),
    )
    def get_or_generate(self, user, number, lifetime, error, refresh, mark):
        document, generated = self.document(), []

        def generate(content):
            if content.id not in self.rows:
                self.new(content, user, number, queued=False)
            self.claimed(content)
            generated.append(content)
            if error:
                raise error
            return document

        def call():
            return self.Content.get_or_generate(
                self.users[user],
                "lesson",
                {"number": number},
                generate,
                wait=0,
                expires_in=lifetime,
                refresh=refresh,
                mark=mark,
                max_attempts=MAX_ATTEMPTS,
            )

        there = None if refresh else self.newest(user, number)
        in_flight = self.in_flight(user, number)
        row = self.rows.get(in_flight)
        if there:
            assert call().id == there
            self.rows[there].uses += mark
            assert not generated
            return
        if row and row.status == "generating":
            if row.lease is None or row.lease > datetime.now(UTC):
                with pytest.raises(aicontent.InProgressError):
                    call()
                return
            if self.failed(in_flight, True) == "failed":
                with pytest.raises(aicontent.GenerationFailedError):
                    call()
                return
        if error is None:
            content = call()
            assert content.generated_data == document
            self.completed(content, document)
        else:
            with pytest.raises(error):
                call()
            self.given_up(generated[0].id, error)
        assert len(generated) == 1
        assert in_flight in (None, generated[0].id)

    def given_up(self, id, error):
        if error is KeyboardInterrupt:
            self.ended(id, "pending")
        elif self.failed(id, self.rows[id].queued) == "pending":
            # The row is due after a second or more, and an hour cannot pass during the test.
            self.rows[id].retry = datetime.now(UTC) + HOUR
            self.change(id, retry_at=self.rows[id].retry)

    @rule(later=offsets)
    def cleanup(self, later):
        now = datetime.now(UTC) + later
        self.Content.cleanup(now)
        for id, row in list(self.rows.items()):
            failed = row.status == "failed" and row.created[0] < now - 24 * HOUR
            if failed or (row.expires and row.expires < now):
                del self.rows[id]

    @invariant()
    def the_table_is_as_the_model_says(self):
        found = {
            content.id: Row(
                self.users.index(content.user_id),
                content.request_payload["number"],
                (content.created_at, content.id),
                content.status.value,
                content.attempts,
                content.failures,
                content.usage_count,
                content.generated_data,
                content.lease_expires_at,
                content.retry_at,
                content.expires_at,
                content.queued,
            )
            for content in self.Content.select()
        }
        assert found == self.rows


def test_any_order(Content):
    machine = type("Machine", (Claims,), {"Content": Content})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=20, stateful_step_count=40),
    )
