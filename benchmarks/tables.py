"""Fill a database with rows for the measurements, the same rows on SQLite and PostgreSQL.

`run` fills the tables. `transfer` compares an import with this.
"""

from __future__ import annotations

import io
import json
import random
import string
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any
from uuid import UUID

import peewee

import aicontent
from aicontent import AIGeneratedContent, ContentType

TABLE = "ai_generated_content"
USERS = 10_000
LEVELS = ("A1", "A2", "B1", "B2", "C1")

START = datetime(2026, 1, 1, tzinfo=UTC)
"""The creation time of the first row. The others follow at equal intervals over PERIOD."""
PERIOD = timedelta(days=30)

Row = tuple[Any, ...]
"""The values of the specification's columns in their order. Documents are JSON text."""

_COLUMNS = list(AIGeneratedContent._meta.columns)[:21]
_COLUMN_LIST = ", ".join(f'"{name}"' for name in _COLUMNS)
_INSERT = f"INSERT INTO {TABLE} ({_COLUMN_LIST}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_FIRST_DUE = START + timedelta(days=40)
_DAY = timedelta(days=1)
_COPY_BATCH = 2_000
_INSERT_BATCH = 40_000
_DOCUMENTS = 2_000


def due(group: int) -> datetime:
    """Return the time after which a cleanup deletes the rows of groups 1 to `group`."""
    return _FIRST_DUE + group * _DAY


def generate_rows(count: int, characters: int, groups: int = 1, due_rows: int = 0) -> Iterator[Row]:
    """Generate the same rows in each run.

    Args:
        count: the number of rows.
        characters: the size of each row's generated document.
        groups: the number of groups of rows that become due for deletion, one group a day.
        due_rows: the number of rows in each group, scattered over the table. One in ten has
            failed, and the others expire.
    """
    rng = random.Random(1)
    documents = _documents(characters)
    due_places = rng.sample(range(count), groups * due_rows)
    group_at = {place: index % groups for index, place in enumerate(due_places)}
    types = [member.value for member in ContentType]
    for place in range(count):
        created = START + PERIOD * (place / count)
        status = rng.choices(("completed", "cached", "pending"), (94, 4, 2))[0]
        expires = created + 365 * _DAY if rng.random() < 0.5 else None
        group = group_at.get(place)
        if group is not None:
            due_at = due(group) + _DAY * rng.random()
            if rng.random() < 0.1:
                status, created = "failed", due_at - _DAY
            else:
                expires = due_at
        usage_count = rng.randrange(20) if status == "completed" else 0
        yield (
            uuid7_at(rng, created),
            rng.randint(1, USERS),
            rng.choice(types),
            status,
            f'{{"topic":"{rng.randrange(10**6)}","minutes":15}}',
            rng.choice(documents),
            '{"valid":true,"checks":{"level":"ok","length":"ok"}}',
            '{"promptVersion":3,"temperature":0.7}',
            rng.choice(LEVELS),
            '["food","politeness"]',
            '["speaking"]',
            15,
            rng.randrange(100) / 100,
            rng.randrange(500, 9000),
            rng.randrange(100, 3000),
            "example-large-1",
            usage_count,
            created + _DAY if usage_count else None,
            expires,
            created,
            created,
        )


@cache
def _documents(characters: int) -> list[str]:
    rng = random.Random(2)
    return [_json(generate_document(rng, characters)) for _ in range(_DOCUMENTS)]


def uuid7_at(rng: random.Random, created: datetime) -> str:
    """Generate a UUID of version 7 for a row with this creation time."""
    milliseconds = int(created.timestamp() * 1000)
    random_bits = rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | random_bits))


def generate_document(rng: random.Random, characters: int) -> dict[str, Any]:
    """Generate a lesson whose JSON text has this many characters without white space."""

    def words(count: int) -> str:
        letters = string.ascii_lowercase
        return " ".join("".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(count))

    sections: list[dict[str, str]] = []
    lesson = {"title": words(4), "objectives": [words(4), words(5)], "sections": sections}
    while (length := len(_json(lesson))) < characters - 200:
        sections.append({"heading": words(3), "body": words(60)})
    missing = characters - length - 30
    body = words(max(1, missing // 6))[: max(1, missing)]
    sections.append({"heading": "", "body": body})
    return lesson


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def fill(database: peewee.Database, rows: Iterator[Row]) -> None:
    """Migrate an empty database, and insert the rows as fast as the driver can."""
    aicontent.migrate(database, create_users=True)
    with database.connection_context():
        if isinstance(database, peewee.SqliteDatabase):
            _fill_sqlite(database, rows)
        else:
            _fill_postgresql(database, rows)


def _fill_sqlite(database: peewee.SqliteDatabase, rows: Iterator[Row]) -> None:
    connection: Any = database.connection()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -1000000")
    connection.executemany("INSERT INTO users VALUES (?)", ((n + 1,) for n in range(USERS)))
    parameters = map(_sqlite_parameters, rows)
    # One transaction for all rows would make the write-ahead log as large as the table.
    while batch := list(islice(parameters, _INSERT_BATCH)):
        connection.execute("BEGIN")
        connection.executemany(_INSERT, batch)
        connection.execute("COMMIT")
    checkpoint(database)


def _sqlite_parameters(row: Row) -> Row:
    times = (time and f"{time:%Y-%m-%d %H:%M:%S.%f}" for time in row[-4:])
    return (*row[:-4], *times)


def _fill_postgresql(database: peewee.Database, rows: Iterator[Row]) -> None:
    with database.atomic(), database.cursor() as cursor:
        cursor.execute("INSERT INTO users SELECT generate_series(1, %s)", (USERS,))
        while batch := list(islice(rows, _COPY_BATCH)):
            copy_from = f"COPY {TABLE} ({_COLUMN_LIST}) FROM STDIN"
            cursor.copy_expert(copy_from, io.StringIO(copy_text(batch)))
    database.connection().autocommit = True
    database.execute_sql(f"VACUUM ANALYZE {TABLE}")
    database.execute_sql("CHECKPOINT")


def copy_text(rows: Iterable[Iterable[object]]) -> str:
    """Format rows in the text format of PostgreSQL's COPY."""
    return "".join("\t".join(map(_copy_value, row)) + "\n" for row in rows)


def _copy_value(value: object) -> str:
    return r"\N" if value is None else str(value).replace("\\", "\\\\")


def checkpoint(database: peewee.Database) -> None:
    """Empty SQLite's write-ahead log; do nothing on PostgreSQL."""
    if isinstance(database, peewee.SqliteDatabase):
        database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def settle(database: peewee.Database) -> None:
    """Finish PostgreSQL's and SQLite's deferred work before a measurement."""
    checkpoint(database)
    if isinstance(database, peewee.PostgresqlDatabase):
        database.execute_sql("VACUUM ANALYZE")
        database.execute_sql("CHECKPOINT")
