"""The migrations there are, and those a database has had."""

from __future__ import annotations

import re
from pathlib import Path

import peewee

from ..database.catalog import Catalog
from ..errors import MigrationError

HISTORY_TABLE = "aicontent_migratehistory"

# Installed they are inside the package; in a checkout they lie beside it.
_PACKAGE = Path(__file__).parents[1]
MIGRATIONS = next(
    folder
    for folder in (_PACKAGE / "migrations", _PACKAGE.parent / "migrations")
    if folder.is_dir()
)

_FILE = re.compile(r"\d{3}_[^.]+\.py$")  # as peewee-migrate has it


def available(directory: Path = MIGRATIONS) -> list[str]:
    """Return the names of the migrations in a directory, in their order.

    Raises:
        MigrationError: there is no such directory.
    """
    if not directory.is_dir():
        raise MigrationError(f"there is no directory {directory} to read migrations from")
    return sorted(file.stem for file in directory.iterdir() if _FILE.match(file.name))


def applied(database: peewee.Database) -> list[str]:
    """Return the names of the migrations a database has had, in their order."""
    if Catalog(database).relation(HISTORY_TABLE) is None:
        return []
    sql = f'SELECT name FROM "{HISTORY_TABLE}" ORDER BY id'  # noqa: S608 - a constant
    return [row[0] for row in database.execute_sql(sql).fetchall()]
