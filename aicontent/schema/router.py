"""Run migrations with peewee-migrate's router, without three of its faults.

Its history model is one class for the whole process, so two routers write into each other's
history; here each router has its own class. It replays applied migrations with
`Database.execute_sql` replaced for all threads, whose writes are lost meanwhile; our migrations
need no replay. It takes no lock, so of several migrators at once some fail; `aicontent.migrate`
holds a lock.
"""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import peewee
from peewee_migrate.migrator import Migrator
from peewee_migrate.models import MigrateHistory
from peewee_migrate.router import Router as FileRouter

from ..database.supported import backend_of
from .history import HISTORY_TABLE, MIGRATIONS, available

logger = logging.getLogger("aicontent")
logger.addHandler(logging.NullHandler())


class Router(FileRouter):
    """Runs the migrations of one directory in the caller's transaction."""

    def __init__(self, database: peewee.Database, directory: Path | None = None) -> None:
        super().__init__(
            database,
            migrate_dir=directory or MIGRATIONS,
            migrate_table=HISTORY_TABLE,
            logger=logger,
        )

    @property
    def todo(self) -> list[str]:
        """The names of the directory's migrations, in their order."""
        return available(self.migrate_dir)

    @cached_property
    def model(self) -> Any:
        """The history of this database, in a class of its own."""
        meta = type("Meta", (), {"database": self.database, "table_name": HISTORY_TABLE})
        history: Any = type("History", (MigrateHistory,), {"Meta": meta})
        # IF NOT EXISTS would need the right to create a table that exists already.
        database: Any = self.database
        if backend_of(database).catalog(database).relation(HISTORY_TABLE) is None:
            history.create_table(safe=False)
        return history

    def run_one(self, name: str, *_: Any, downgrade: bool = False, **__: Any) -> str:
        """Run one migration, or roll it back, and record it in the history."""
        migrate, rollback = self.read(name)  # type: ignore[no-untyped-call]
        migrator = Migrator(self.database)
        if downgrade:
            rollback(migrator, self.database, fake=False)
            migrator()
            self.model.delete().where(self.model.name == name).execute()
        else:
            migrate(migrator, self.database, fake=False)
            migrator()
            self.model.create(name=name)
        logger.info("%s %s", "rolled back" if downgrade else "migrated", name)
        return name
