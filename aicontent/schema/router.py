"""Run migrations with peewee-migrate's router, and work around three of its faults.

Its history model is one class for the whole process, so two routers write to the same history;
here each router has its own class. It replays applied migrations with `Database.execute_sql`
replaced for all threads, which loses their writes; our migrations need no replay. It takes no
lock, so migrators that run at the same time may fail; `aicontent.migrate` holds a lock.
"""

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from textwrap import dedent
from typing import Any

import peewee
from peewee_migrate.migrator import Migrator
from peewee_migrate.models import MigrateHistory
from peewee_migrate.router import Router as FileRouter
from playhouse.migrate import Operation  # type: ignore[import-untyped]

from ..database.supported import backend_of
from .history import HISTORY_TABLE, MIGRATIONS, applied, available

logger = logging.getLogger("aicontent")
logger.addHandler(logging.NullHandler())


_RECORD = (
    f'INSERT INTO "{HISTORY_TABLE}" ("name", "migrated_at") '  # noqa: S608 - a constant
    "VALUES ('{}', CURRENT_TIMESTAMP)"
)


class Router(FileRouter):
    """Runs the migrations of one directory in the caller's transaction."""

    database: Any
    is_partitioned = False
    """Whether the first migration creates a partitioned table."""

    def __init__(self, database: peewee.Database, directory: Path | None = None) -> None:
        super().__init__(
            database,
            migrate_dir=directory or MIGRATIONS,
            migrate_table=HISTORY_TABLE,
            logger=logger,
        )

    @property
    def todo(self) -> list[str]:
        """Return the names of the directory's migrations, in their order."""
        return available(self.migrate_dir)

    @property
    def done(self) -> list[str]:
        """Return the names of the applied migrations, in their order."""
        return applied(self.database)

    @cached_property
    def model(self) -> Any:
        """Return a history model that is bound to this database only."""
        meta = type("Meta", (), {"database": self.database, "table_name": HISTORY_TABLE})
        history: Any = type("History", (MigrateHistory,), {"Meta": meta})
        return history

    def statements(self) -> Iterator[str]:
        """Return the SQL of the pending migrations and of their history rows; run nothing."""
        database = self.database
        if backend_of(database).catalog(database).relation(HISTORY_TABLE) is None:
            yield self.model._schema._create_table(safe=False).query()[0]
        for name in self.diff:
            migrate, _ = self.read(name)  # type: ignore[no-untyped-call]
            migrator = self._migrator()
            migrate(migrator, database, fake=False)
            yield f"-- {name}"
            steps = [s for s in migrator.__ops__ if isinstance(s, Operation)]
            yield from (dedent(step.args[0]).strip() for step in steps)
            if len(steps) < len(migrator.__ops__):
                yield "-- on SQLite this migration needs Python: run `aicontent migrate`"
            else:
                yield _RECORD.format(name)

    def run_one(self, name: str, *_: Any, downgrade: bool = False, **__: Any) -> str:
        """Run one migration, or roll it back, and record it in the history."""
        # CREATE TABLE IF NOT EXISTS needs the right to create tables even if the table exists.
        if backend_of(self.database).catalog(self.database).relation(HISTORY_TABLE) is None:
            self.model.create_table(safe=False)
        migrate, rollback = self.read(name)  # type: ignore[no-untyped-call]
        migrator = self._migrator()
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

    def _migrator(self) -> Any:
        migrator: Any = Migrator(self.database)
        migrator.is_partitioned = self.is_partitioned
        return migrator
