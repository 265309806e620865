"""Renew the leases of claims while their content is generated, in one thread per process."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import Any

import peewee

from ..database.availability import connected, own_connection, survived
from ..database.supported import backend_of, database_of
from .arguments import seconds_of
from .defaults import LEASE, Duration
from .events import say
from .holder import renew

RENEWED_LEASE = timedelta(minutes=1)
"""The default lease of a claim that is renewed: a dead process is noticed after this time."""

_PATIENCE = 1.0
"""Seconds to wait for a lock, because the other claims wait meanwhile."""

_SHORTEST, _LONGEST = 0.05, 3600.0
"""The least and the most seconds that the thread sleeps."""


def lease_seconds(database: peewee.Database, lease: Duration | None) -> float:
    """Return a lease in seconds; the default depends on whether the lease can be renewed.

    Raises:
        ValidationError: the lease is not a positive duration.
    """
    if lease is None:
        lease = RENEWED_LEASE if backend_of(database).connects_twice(database) else LEASE
    return seconds_of(lease, "lease")


@contextmanager
def renewed(content: Any, lease: float) -> Iterator[None]:
    """Renew the lease of a claimed row after each third of it, until the block ends."""
    database = database_of(type(content))
    if not backend_of(database).connects_twice(database):
        yield
        return
    claim = Claim(content, lease)
    try:
        _renewer.add(claim)
    except RuntimeError as error:  # no thread can be started
        say("unrenewed", content, note=type(error).__name__)
    try:
        yield
    finally:
        _renewer.remove(claim)


class Claim:
    """A claim to renew: after each third of the lease, its end is set to `lease` from then."""

    def __init__(self, content: Any, lease: float) -> None:
        self.content, self.lease = content, lease
        self.context = copy_context()  # a host's queries may depend on it, for example on a tenant
        self.due = time.monotonic() + max(lease / 3, _SHORTEST)

    def renew(self, *, connect: bool = False) -> bool:
        """Renew the lease on the open connection; return False if the claim is lost.

        With `connect`, open a connection if there is none, or if the server has closed it.
        """
        database, call = database_of(type(self.content)), partial(renew, self.content, self.lease)
        self.postpone(1)
        try:
            if not connect:
                return self.context.run(call)
            with connected(database):
                return self.context.run(survived, database, call)
        except Exception as error:  # noqa: BLE001 - two thirds of the lease are left to try again
            self.note(error)
            return True

    def due_in(self) -> float:
        """Return the seconds until the next renewal."""
        return max(self.due - time.monotonic(), 0.0)

    def note(self, error: Exception) -> None:
        """Log that the lease was not renewed, and try again soon."""
        self.postpone(4)
        say("unrenewed", self.content, note=type(error).__name__)

    def postpone(self, parts: int) -> None:
        self.due = time.monotonic() + max(self.lease / 3 / parts, _SHORTEST)


class _Renewer:
    """A daemon thread that starts with the first claim, and sleeps while there is no claim."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._claims: set[Claim] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0

    def add(self, claim: Claim) -> None:
        with self._changed:
            self._claims.add(claim)
            if self._thread is None:
                name = "aicontent-leases"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                thread.start()
                self._thread = thread
            elif claim.due < self._wakes_at:
                self._changed.notify()

    def remove(self, claim: Claim) -> None:
        with self._changed:
            self._claims.discard(claim)

    def _run(self) -> None:
        while True:
            due = self._due()
            while due:
                database = database_of(type(due[0].content))
                group = [each for each in due if database_of(type(each.content)) is database]
                due = [each for each in due if each not in group]
                for lost in _renew_group(database, group):
                    self.remove(lost)
                del group  # otherwise it keeps the content in memory

    def _due(self) -> list[Claim]:
        """Wait until claims are due, and return them."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [claim for claim in self._claims if claim.due <= now]
                if due:
                    return due
                self._wakes_at = min([now + _LONGEST, *(claim.due for claim in self._claims)])
                self._changed.wait(self._wakes_at - now)


def _renew_group(database: peewee.Database, claims: list[Claim]) -> list[Claim]:
    """Renew the claims on one database with one connection; return the lost ones."""
    try:
        with own_connection(database):
            backend_of(database).limit_waits(database, _PATIENCE)
            return [claim for claim in claims if not claim.renew()]
    except Exception as error:  # noqa: BLE001 - as in Claim.renew
        for claim in claims:
            claim.note(error)
        return []


_renewer = _Renewer()
if hasattr(os, "register_at_fork"):
    # After a fork, the thread and the claims belong to the parent process.
    os.register_at_fork(after_in_child=_renewer.__init__)  # type: ignore[misc]
