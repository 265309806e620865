"""A connection, or its settings, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peewee


@contextmanager
def connected(database: peewee.Database) -> Iterator[None]:
    """Have a connection, and leave it open only if it was (connection_context would close it)."""
    opened = database.connect(reuse_if_open=True)
    try:
        yield
    finally:
        if opened:
            database.close()


@contextmanager
def settings_lent(database: peewee.Database, **pragmas: int) -> Iterator[None]:
    """Have a SQLite connection with these settings, and give it its own back."""
    lent: Any = database
    before = {name: lent.pragma(name) for name in pragmas}
    try:
        for name, value in pragmas.items():
            lent.pragma(name, value)
        yield
    finally:
        for name, value in before.items():
            lent.pragma(name, value)
