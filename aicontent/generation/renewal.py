"""Renew the leases of claims while their content is generated: one thread for the process."""

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
from .arguments import Duration, seconds_of
from .claims import LEASE
from .events import say
from .holder import renew

RENEWED_LEASE = timedelta(minutes=1)
"""How long a claim holds that is renewed: after so long, a lost process is noticed."""

_PATIENCE = 1.0
"""Seconds to wait for a lock: the other claims must not wait for long."""

_SHORTEST, _LONGEST = 0.05, 3600.0
"""Seconds between two looks at the claims to renew."""


def lease_seconds(database: peewee.Database, lease: Duration | None) -> float:
    """Return the seconds of a lease; without one, it depends on whether it can be renewed.

    Raises:
        ValidationError: it is not a positive duration.
    """
    if lease is None:
        lease = RENEWED_LEASE if backend_of(database).connects_twice(database) else LEASE
    return seconds_of(lease, "lease")


@contextmanager
def renewed(content: Any, lease: float) -> Iterator[None]:
    """Renew the lease of a claimed row, to end `lease` seconds from each third of it."""
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
    """The lease of a claimed row: each third of it, it is set to end `lease` seconds later."""

    def __init__(self, content: Any, lease: float) -> None:
        self.content, self.lease = content, lease
        self.context = copy_context()  # what a host's queries depend on, such as a tenant
        self.due = time.monotonic() + max(lease / 3, _SHORTEST)

    def renew(self, *, connect: bool = False) -> bool:
        """Renew the lease by the open connection; False if the row is lost.

        With `connect`, a connection is opened if there is none, or if the server has closed it.
        """
        database, call = database_of(type(self.content)), partial(renew, self.content, self.lease)
        self.postpone(1)
        try:
            if not connect:
                return self.context.run(call)
            with connected(database):
                return self.context.run(survived, database, call)
        except Exception as error:  # noqa: BLE001 - the lease has two thirds left for other tries
            self.note(error)
            return True

    def due_in(self) -> float:
        """Return the seconds until the lease is to be renewed."""
        return max(self.due - time.monotonic(), 0.0)

    def note(self, error: Exception) -> None:
        """Note that the lease was not renewed; it is tried again soon."""
        self.postpone(4)
        say("unrenewed", self.content, note=type(error).__name__)

    def postpone(self, parts: int) -> None:
        self.due = time.monotonic() + max(self.lease / 3 / parts, _SHORTEST)


class _Renewer:
    """A daemon thread, which begins with the first claim and sleeps while there is none."""

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
                del group  # it would keep the content in memory

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
    """Renew the claims on one database by one connection; return those whose row is lost."""
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
    # The thread and the claims are the parent's.
    os.register_at_fork(after_in_child=_renewer.__init__)  # type: ignore[misc]
