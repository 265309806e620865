"""The migrations that exist, those that a database has had, and the schema they add up to."""

import json
import re
from pathlib import Path

import peewee

from ..database.supported import backend_of
from ..errors import MigrationError
from ..table import TABLE

HISTORY_TABLE = "aicontent_migratehistory"

# Installed, the migrations are inside the package; in a checkout they are next to it.
_HERE = Path(__file__).parent
MIGRATIONS = next(
    folder
    for folder in (_HERE.parent / "migrations", _HERE.parents[1] / "migrations")
    if folder.is_dir()
)

_FILE = re.compile(r"\d{3}_[^.]+\.py$")  # the names that peewee-migrate accepts


def available(directory: Path = MIGRATIONS) -> list[str]:
    """Return the names of the migrations in a directory, in their order.

    Raises:
        MigrationError: there is no such directory.
    """
    if not directory.is_dir():
        raise MigrationError(f"there is no directory {directory} to read migrations from")
    return sorted(file.stem for file in directory.iterdir() if _FILE.match(file.name))


def applied(database: peewee.Database) -> list[str]:
    """Return the names of the migrations that a database has had, in their order."""
    if backend_of(database).catalog(database).relation(HISTORY_TABLE) is None:
        return []
    sql = f'SELECT name FROM "{HISTORY_TABLE}" ORDER BY id'  # noqa: S608 - a constant
    return [row[0] for row in database.execute_sql(sql).fetchall()]


def expected_definitions(
    backend: str, user_id_type: str, *, is_partitioned: bool = False
) -> dict[str, str]:
    """Return how all migrations together define the table on a backend, by its name.

    `user_id_type` is the type of `userId`, which is that of the host's users' ids.
    """
    text = (_HERE / f"{backend}.json").read_text("utf-8")
    definitions: dict[str, str] = json.loads(text)
    definitions["column userId"] = f"{user_id_type} NOT NULL"
    check = f"constraint {TABLE}_userId_integer"
    if check in definitions and "INT" not in user_id_type:  # SQLite's
        text = definitions.pop(check).replace("integer", "text")
        definitions[check.replace("integer", "text")] = text
    if is_partitioned:  # as PostgreSQL writes it
        for name, text in definitions.items():
            if name.startswith("index "):
                definitions[name] = text.replace(f" ON {TABLE} ", f" ON ONLY {TABLE} ")
        for name in (f"constraint {TABLE}_pkey", f"index {TABLE}_pkey"):
            definitions[name] = definitions[name].replace("(id)", '(id, "userId")')
        definitions["partition key"] = 'HASH ("userId")'
    return definitions
