"""Fill the table of the load, and restore it before each turn.

`load` calls this. `load_worker` reads the inputs of the calls from the file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import peewee

import aicontent

from .claim_workers import pending_rows
from .contestants import Values
from .hot_paths import choose_lookups, generate_new_rows
from .requests import Request, request_hash
from .tables import (
    LEVELS,
    PERIOD,
    START,
    TABLE,
    USERS,
    fill,
    generate_rows,
    settle,
    uuid7_at,
)

_REQUESTS = 1_000
"""Different requests of the hits. A service answers today's users, not all users."""
_NEW_ROWS = 100
"""Different rows of create()."""
_BATCH = 10_000

# All rows that are not from `tables.fill` have a later id. Only claims count attempts.
_ADDED = f"id > '{uuid7_at(random.Random(1), START + PERIOD)}'"
_DELETE_CREATED = f"DELETE FROM {TABLE} WHERE {_ADDED} AND fingerprint IS NULL"
_RESET_CLAIMED = f"""
    UPDATE {TABLE} SET status = 'pending', attempts = 0, "generatedData" = NULL,
        "leaseExpiresAt" = NULL
    WHERE {_ADDED} AND attempts > 0
"""


def prepare(url: str, rows: int, characters: int, pending: int, inputs: Path) -> peewee.Database:
    """Fill an empty database, and write the inputs of the calls to a file.

    Args:
        url: the database.
        rows: the number of rows, besides the answered requests and the pending rows.
        characters: the size of each generated document.
        pending: the number of rows to claim.
        inputs: the file for the lookups of reuse(), the requests of hits and the rows of create().

    Returns:
        The database for `restore`.
    """
    database = aicontent.connect(url, timeout=60)
    fill(database, generate_rows(rows, characters))
    model, rng = aicontent.for_database(database), random.Random(8)
    requests = list(_requests())
    new_rows = list(islice(generate_new_rows(rng, characters), _NEW_ROWS))
    with database.connection_context():
        lookups = choose_lookups(database, rng)
        # The claims find only the rows that are inserted for them.
        database.execute_sql(f"UPDATE {TABLE} SET status = 'cached' WHERE status = 'pending'")
        model.create_many(_answered(requests, new_rows))
        for first in range(0, pending, _BATCH):
            model.create_many(pending_rows(first, min(first + _BATCH, pending)))
    document = {"lookups": lookups, "requests": requests, "rows": new_rows}
    inputs.write_text(json.dumps(document), "utf-8")
    return database


def restore(database: peewee.Database) -> None:
    """Undo the effect of the last turn, and let it cost the next turn nothing."""
    with database.connection_context():
        database.execute_sql(_DELETE_CREATED)
        database.execute_sql(_RESET_CLAIMED)
        settle(database)


def _requests() -> Iterator[Request]:
    for number in range(_REQUESTS):
        payload = {"topic": f"number {number}", "minutes": 15}
        yield Request(number % USERS + 1, "lesson", payload, LEVELS[number % len(LEVELS)])


def _answered(requests: list[Request], rows: list[Values]) -> Iterator[Values]:
    for request, values in zip(requests, cycle(rows), strict=False):
        yield {
            **values,
            "user": request.user,
            "type": request.type,
            "level": request.level,
            "request_payload": request.payload,
            "fingerprint": request_hash(request),
        }
