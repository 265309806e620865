"""Find rows that are overdue, because a job does not run, and rows that cannot be read."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import peewee

from ..database.supported import backend_of
from ..errors import AIContentError, counted
from ..fields.compression import zstd
from ..fields.document import DocumentField
from ..generation.failures import UNREADABLE
from ..generation.rescue import rescue_stale
from ..records.lookup import FAILED, GENERATING, PENDING
from ..table import TABLE, ContentTable, bound_model
from ..transfer.exporter import read_newest
from .cleanup import NAMED, count_due

OVERDUE = timedelta(days=1)
"""How long a row may stay after it is due: the timer runs the cleanup every hour."""

_READ = 1000
"""How many of the newest rows to read."""


def row_problems(database: peewee.Database, now: datetime) -> list[str]:
    """Return the problems of the rows, each a sentence with its remedy; the schema is checked."""
    model: Any = bound_model(ContentTable, database)
    return [*_stuck(model, now), *_unread(model), *_unreadable(database)]


def _stuck(model: Any, now: datetime) -> Iterator[str]:
    then = now - OVERDUE
    stale = rescue_stale(model, now=then, dry_run=True)
    without_lease = model.lease_expires_at.is_null() & (model.status == GENERATING)
    waiting = (
        (model.status == PENDING)
        & (model.created_at < then)
        & (model.retry_at.is_null() | (model.retry_at < then))
    )
    timer = (
        "over a day ago: check that the cleanup timer runs "
        "(`systemctl list-timers aicontent-cleanup.timer`), and that its budget is enough"
    )
    for rows, problem in (
        (count_due(model, then).deleted, f"should have been deleted {timer}"),
        (
            stale.requeued + stale.failed,
            f"with an expired lease should have been freed {timer}",
        ),
        (
            model.select().where(without_lease).count(),
            "generating without a lease, which nothing frees: let the program that set this "
            "status set leaseExpiresAt too, or, if that program was lost, run "
            "`aicontent requeue --status generating`",
        ),
        (
            model.select().where(waiting).count(),
            "pending for over a day: check that a worker runs (`systemctl status "
            "aicontent-worker.service`), or delete requests that are not needed",
        ),
    ):
        if rows:
            yield f"{counted(rows, 'row')} {problem}"


def _unread(model: Any) -> Iterator[str]:
    """Report the requests that workers could not read."""
    unread = model.select(model.id).where(
        model.status.in_([PENDING, FAILED]),
        model.metadata["lastFailure"]["reason"].as_text().startswith(UNREADABLE),
    )
    ids = [id for (id,) in unread.order_by(model.id).limit(NAMED + 1).tuples()]
    if ids:
        more = "" if len(ids) <= NAMED else " and others"
        yield (
            f"workers could not read the stored requests of {', '.join(ids[:NAMED])}{more}, which "
            "are damaged or written by another program: repair or delete them"
        )


def _unreadable(database: peewee.Database) -> Iterator[str]:
    """Report a row that cannot be read, and a missing module to decompress documents."""
    columns = [
        field.column_name
        for field in ContentTable._meta.sorted_fields
        if isinstance(field, DocumentField) and field.is_compressible
    ]
    try:
        if backend_of(database).catalog(database).has_compressed(TABLE, columns):
            zstd()
        read_newest(database, _READ)
    except AIContentError as error:
        yield str(error)
