"""List available and applied migrations, and the table definition that they create."""

import json
import re
from pathlib import Path

import peewee

from ..database.supported import backend_of
from ..errors import MigrationError
from ..table import TABLE

HISTORY_TABLE = "aicontent_migratehistory"

# In an installed package the migrations are inside it; in a checkout they are next to it.
_HERE = Path(__file__).parent
MIGRATIONS = next(
    folder
    for folder in (_HERE.parent / "migrations", _HERE.parents[1] / "migrations")
    if folder.is_dir()
)

_FILE = re.compile(r"\d{3}_[^.]+\.py$")  # the names that peewee-migrate accepts


def available(directory: Path = MIGRATIONS) -> list[str]:
    """Return the names of the migrations in a directory, in the order in which they run.

    Raises:
        MigrationError: the directory does not exist.
    """
    if not directory.is_dir():
        raise MigrationError(f"there is no folder {directory} with migrations: check the path")
    return sorted(file.stem for file in directory.iterdir() if _FILE.match(file.name))


def applied(database: peewee.Database) -> list[str]:
    """Return the names of the migrations that were applied to a database, in their order."""
    if backend_of(database).catalog(database).relation(HISTORY_TABLE) is None:
        return []
    sql = f'SELECT name FROM "{HISTORY_TABLE}" ORDER BY id'  # noqa: S608 - a constant
    return [row[0] for row in database.execute_sql(sql).fetchall()]


def expected_definitions(
    backend: str, user_id_type: str, *, is_partitioned: bool = False
) -> dict[str, str]:
    """Return the definitions of columns, constraints and indexes after all migrations.

    Args:
        backend: the name of the backend.
        user_id_type: the type of `userId`, which follows from the type of `users.id`.
        is_partitioned: whether the table is partitioned.
    """
    text = (_HERE / f"{backend}.json").read_text("utf-8")
    definitions: dict[str, str] = json.loads(text)
    definitions["column userId"] = f"{user_id_type} NOT NULL"
    check = f"constraint {TABLE}_userId_integer"
    if check in definitions and "INT" not in user_id_type:  # SQLite's
        text = definitions.pop(check).replace("integer", "text")
        definitions[check.replace("integer", "text")] = text
    if is_partitioned:  # PostgreSQL writes these definitions differently
        for name, text in definitions.items():
            if name.startswith("index "):
                definitions[name] = text.replace(f" ON {TABLE} ", f" ON ONLY {TABLE} ")
        for name in (f"constraint {TABLE}_pkey", f"index {TABLE}_pkey"):
            definitions[name] = definitions[name].replace("(id)", '(id, "userId")')
        definitions["partition key"] = 'HASH ("userId")'
    return definitions
