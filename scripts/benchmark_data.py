"""A table of many rows to measure on: the same rows for SQLite and for PostgreSQL."""

from __future__ import annotations

import io
import json
import random
import string
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

import peewee

import aicontent
from aicontent import AIGeneratedContent, ContentType

TABLE = "ai_generated_content"
_COLUMNS = ", ".join(f'"{name}"' for name in list(AIGeneratedContent._meta.columns)[:21])
"""Those of the specification."""
USERS = 10_000
START = datetime(2026, 1, 1, tzinfo=UTC)
MADE_IN = timedelta(days=30)
"""When the first row was made; the others follow, at equal distances, over thirty days."""

_DUE = START + timedelta(days=40)
_DAY = timedelta(days=1)
_BATCH = 2000
_DOCUMENTS = 2000


def due(group: int) -> datetime:
    """The moment at which the rows of a group (from 1), and of those before it, may go."""
    return _DUE + group * _DAY


def rows(number: int, size: int, groups: int, of_group: int) -> Iterator[tuple[Any, ...]]:
    """Make rows, each a tuple in the order of the columns, the documents as JSON text.

    Args:
        number: how many.
        size: characters of each row's generated document.
        groups: how many groups of rows come due, one after the other.
        of_group: how many rows a group has, scattered over the table; one in ten of them has
            failed, the others expire.
    """
    chance = random.Random(1)  # noqa: S311 - the same rows at each run
    documents = [_text(document(chance, size)) for _ in range(_DOCUMENTS)]
    places = chance.sample(range(number), groups * of_group)
    group_of = {place: index % groups for index, place in enumerate(places)}
    types = [member.value for member in ContentType]
    for place in range(number):
        created = START + MADE_IN * (place / number)
        status = chance.choices(("completed", "cached", "pending"), (94, 4, 2))[0]
        expires = created + 365 * _DAY if chance.random() < 0.5 else None
        group = group_of.get(place)
        if group is not None:
            within = due(group) + _DAY * chance.random()
            if chance.random() < 0.1:
                status, created = "failed", within - _DAY
            else:
                expires = within
        used = chance.randrange(20) if status == "completed" else 0
        yield (
            id_at(chance, created),
            chance.randint(1, USERS),
            chance.choice(types),
            status,
            f'{{"topic":"{chance.randrange(10**6)}","minutes":15}}',
            chance.choice(documents),
            '{"valid":true,"checks":{"level":"ok","length":"ok"}}',
            '{"promptVersion":3,"temperature":0.7}',
            chance.choice(("A1", "A2", "B1", "B2", "C1")),
            '["food","politeness"]',
            '["speaking"]',
            15,
            chance.randrange(100) / 100,
            chance.randrange(500, 9000),
            chance.randrange(100, 3000),
            "example-large-1",
            used,
            created + _DAY if used else None,
            expires,
            created,
            created,
        )


def id_at(chance: random.Random, created: datetime) -> str:
    """A UUID of version 7 for a row of that moment."""
    moment = int(created.timestamp() * 1000)
    bits = moment << 80 | 7 << 76 | chance.getrandbits(12) << 64 | 2 << 62 | chance.getrandbits(62)
    return str(UUID(int=bits))


def document(chance: random.Random, size: int) -> dict[str, Any]:
    """Make a lesson of so many characters, as JSON text without white space."""

    def words(length: int) -> str:
        letters = string.ascii_lowercase
        return " ".join(
            "".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(length)
        )

    sections: list[dict[str, str]] = []
    made = {"title": words(4), "objectives": [words(4), words(5)], "sections": sections}
    while (length := len(_text(made))) < size - 200:
        sections.append({"heading": words(3), "body": words(60)})
    sections.append({"heading": "", "body": ""})
    missing = size - length - 30
    sections[-1]["body"] = words(max(1, missing // 6))[: max(1, missing)]
    return made


def _text(made: dict[str, Any]) -> str:
    return json.dumps(made, separators=(",", ":"))


def fill(database: peewee.Database, made: Iterator[tuple[Any, ...]]) -> None:
    """Migrate an empty database and put the rows in, as fast as its driver can."""
    aicontent.migrate(database, create_users=True)
    with database.connection_context():
        if isinstance(database, peewee.SqliteDatabase):
            _fill_sqlite(database, made)
        else:
            _fill_postgresql(database, made)


def _fill_sqlite(database: peewee.SqliteDatabase, made: Iterator[tuple[Any, ...]]) -> None:
    connection: Any = database.connection()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -1000000")
    connection.executemany("INSERT INTO users VALUES (?)", ((n + 1,) for n in range(USERS)))
    ready = sqlite_rows(made)
    while batch := list(islice(ready, 20 * _BATCH)):  # else the log is as large as all of it
        connection.execute("BEGIN")
        connection.executemany(INSERT, batch)
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


INSERT = f"INSERT INTO {TABLE} ({_COLUMNS}) VALUES ({', '.join('?' * 21)})"


def sqlite_rows(made: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The rows with their times as SQLite has them."""
    for row in made:
        times = (time and f"{time:%Y-%m-%d %H:%M:%S.%f}" for time in row[-4:])
        yield (*row[:-4], *times)


def _fill_postgresql(database: peewee.Database, made: Iterator[tuple[Any, ...]]) -> None:
    with database.atomic(), database.cursor() as cursor:
        cursor.execute("INSERT INTO users SELECT generate_series(1, %s)", (USERS,))
        copy(cursor, made)
    database.connection().autocommit = True
    database.execute_sql(f"VACUUM ANALYZE {TABLE}")
    database.execute_sql("CHECKPOINT")


def copy(cursor: Any, made: Iterator[tuple[Any, ...]]) -> None:
    """Send the rows by COPY."""
    while batch := list(islice(made, _BATCH)):
        text = "\n".join("\t".join(map(_copied, row)) for row in batch)
        cursor.copy_expert(f"COPY {TABLE} ({_COLUMNS}) FROM STDIN", io.StringIO(text + "\n"))


def _copied(value: object) -> str:
    return r"\N" if value is None else str(value).replace("\\", "\\\\")
