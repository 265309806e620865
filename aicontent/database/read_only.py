"""Open a SQLite file to read it without changing the file, its folder or its journal."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import peewee

from ..errors import DatabaseUnavailableError


class ReadOnlySqliteDatabase(peewee.SqliteDatabase):
    """A read-only SQLite database; the user need not have write permission on the file.

    Each new connection checks the file and its log again.
    """

    def _connect(self) -> Any:
        path = Path(os.path.realpath(self.database))
        connection = peewee.sqlite3.connect(  # type: ignore[attr-defined]
            f"file://{quote(str(path))}?{_mode(path)}",
            timeout=self._timeout,  # type: ignore[attr-defined]
            isolation_level=None,
            **self.connect_params,
            uri=True,
        )
        try:
            self._add_conn_hooks(connection)  # type: ignore[attr-defined]
            connection.execute("PRAGMA query_only = 1")
        except BaseException:
            connection.close()
            raise
        return connection


def may(access: int, path: Path) -> bool:
    """Return whether this user may read a file (os.R_OK), or write it (os.W_OK)."""
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def _mode(path: Path) -> str:
    """Return the URI parameters that open a file with all its content and leave no new files.

    With a write-ahead log, SQLite creates two files next to the database, and only a user who may
    write the database can remove them (wal.html#read_only_databases).
    """
    if may(os.W_OK, path) and may(os.W_OK, path.parent):
        return "mode=rw"
    shared, log = (path.with_name(f"{path.name}-{end}") for end in ("shm", "wal"))
    if shared.exists() or not _has_write_ahead_log(path):
        return "mode=ro"
    if log.exists() and log.stat().st_size:
        raise DatabaseUnavailableError(
            f"cannot read {path}: its newest content is in {log.name}, which SQLite reads only if "
            "this user may write in the folder: copy both files to a folder of this user"
        )
    return "mode=ro&immutable=1"


def _has_write_ahead_log(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(20)[18:] == b"\2\2"  # fileformat2.html, section 1.3.3
    except OSError:
        return False  # opening the file then raises SQLite's error
