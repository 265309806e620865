"""Any order of requests, claims, ends, losses, expiry, reuse and cleanup, against a model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
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
offsets = st.sampled_from([0.5 * HOUR, 1.5 * HOUR, 2.5 * HOUR, 30 * HOUR])


@dataclass
class Row:
    """What a row is thought to be."""

    user: int
    number: int
    created: tuple[datetime, str]
    status: str = "pending"
    attempts: int = 0
    uses: int = 0
    document: dict | None = None
    lease: datetime | None = None
    expires: datetime | None = None


class GenerateFailedError(Exception):
    pass


class Claims(RuleBasedStateMachine):
    """Workers hold what they claimed, and go on with it even when it is no longer theirs."""

    Content: type[aicontent.AIGeneratedContent]
    held = Bundle("held")

    def __init__(self):
        super().__init__()
        users = self.Content.user.rel_model
        users.delete().execute()
        self.users = [users.create().id for _ in range(2)]
        self.rows: dict[str, Row] = {}
        self.documents = 0

    # What the model says

    def in_flight(self, user, number):
        for id, row in self.rows.items():
            if (row.user, row.number) == (user, number) and row.status in ("pending", "generating"):
                return id
        return None

    def reusable(self, user, number=None, now=None):
        """The ids of which any may be served."""
        now = now or datetime.now(UTC)
        found = {
            id: (row.uses, -row.created[0].timestamp())
            for id, row in self.rows.items()
            if row.user == user
            and number in (None, row.number)
            and row.status == "completed"
            and (row.expires is None or row.expires > now)
        }
        return {id for id, rank in found.items() if rank == min(found.values())}

    def is_held(self, content):
        row = self.rows.get(content.id)
        return row and (row.status, row.attempts) == ("generating", content.attempts)

    def claimed(self, content):
        row = self.rows[content.id]
        row.status, row.attempts, row.lease = "generating", row.attempts + 1, None
        assert content.attempts == row.attempts
        row.lease = content.lease_expires_at

    def completed(self, content, document):
        row = self.rows[content.id]
        row.status, row.document, row.lease = "completed", document, None
        row.expires = content.expires_at

    def ended(self, content, status):
        row = self.rows[content.id]
        row.status, row.lease = status, None

    def freed(self, id):
        row = self.rows[id]
        row.status = "failed" if row.attempts >= MAX_ATTEMPTS else "pending"
        row.lease = None
        return row.status

    def new(self, content, user, number):
        self.rows[content.id] = Row(user, number, (content.created_at, content.id))

    def document(self):
        self.documents += 1
        return {"number": self.documents}

    # What happens

    @rule(user=users, number=numbers)
    def request(self, user, number):
        expected = self.in_flight(user, number)
        content = self.Content.request(self.users[user], "lesson", {"number": number})
        if expected is None:
            assert content.id not in self.rows
            self.new(content, user, number)
        else:
            assert content.id == expected

    @rule(target=held, lease=leases)
    def claim(self, lease):
        pending = {row.created: id for id, row in self.rows.items() if row.status == "pending"}
        content = self.Content.claim(lease=lease)
        if not pending:
            assert content is None
            return multiple()
        assert content.id == pending[min(pending)]
        self.claimed(content)
        return content

    @rule(content=held, lifetime=lifetimes)
    def complete(self, content, lifetime):
        document = self.document()
        if self.is_held(content):
            content.complete(document, expires_in=lifetime)
            self.completed(content, document)
        else:
            with pytest.raises(aicontent.LeaseLostError):
                content.complete(document, expires_in=lifetime)

    @rule(content=held, retry=st.booleans())
    def fail(self, content, retry):
        if self.is_held(content):
            content.fail("no", retry, max_attempts=MAX_ATTEMPTS)
            again = retry and content.attempts < MAX_ATTEMPTS
            self.ended(content, "pending" if again else "failed")
        else:
            with pytest.raises(aicontent.LeaseLostError):
                content.fail("no", retry)

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
        model = self.Content
        model.update(lease_expires_at=LONG_AGO).where(model.id == content.id).execute()
        self.rows[content.id].lease = LONG_AGO
        if not taken:
            return multiple()
        self.rescue(timedelta(0))
        return self.claim(HOUR)

    @rule(later=offsets)
    def rescue(self, later):
        now = datetime.now(UTC) + later
        stale = [id for id, row in self.rows.items() if row.lease and row.lease < now]
        freed = [self.freed(id) for id in stale]
        report = self.Content.rescue_stale(MAX_ATTEMPTS, now=now)
        assert (report.requeued, report.failed) == (freed.count("pending"), freed.count("failed"))

    @rule(user=users, later=offsets)
    def reuse(self, user, later):
        now = datetime.now(UTC) + later
        expected = self.reusable(user, now=now)
        content = self.Content.reuse(self.users[user], "lesson", now=now)
        assert (content.id in expected) if expected else content is None
        if content is not None:
            self.rows[content.id].uses += 1

    @rule(user=users, number=numbers, lifetime=lifetimes, succeeds=st.booleans())
    def get_or_generate(self, user, number, lifetime, succeeds):
        document, generated = self.document(), []

        def generate(content):
            if content.id not in self.rows:
                self.new(content, user, number)
            self.claimed(content)
            generated.append(content)
            if not succeeds:
                raise GenerateFailedError
            return document

        def call():
            return self.Content.get_or_generate(
                self.users[user],
                "lesson",
                {"number": number},
                generate,
                wait=0,
                expires_in=lifetime,
                max_attempts=MAX_ATTEMPTS,
            )

        there = self.reusable(user, number)
        in_flight = self.in_flight(user, number)
        row = self.rows.get(in_flight)
        if there:
            content = call()
            assert content.id in there
            self.rows[content.id].uses += 1
            assert not generated
            return
        if row and row.status == "generating":
            if row.lease > datetime.now(UTC):
                with pytest.raises(aicontent.InProgressError):
                    call()
                return
            if self.freed(in_flight) == "failed":
                with pytest.raises(aicontent.GenerationFailedError):
                    call()
                return
        if succeeds:
            content = call()
            assert content.generated_data == document
            self.completed(content, document)
        else:
            with pytest.raises(GenerateFailedError):
                call()
            self.ended(generated[0], "failed")
        assert len(generated) == 1
        assert in_flight in (None, generated[0].id)

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
                content.usage_count,
                content.generated_data,
                content.lease_expires_at,
                content.expires_at,
            )
            for content in self.Content.select()
        }
        assert found == self.rows


def test_any_order(Content):
    machine = type("Machine", (Claims,), {"Content": Content})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
