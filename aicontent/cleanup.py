"""The deletion policy: what has expired, and what failed a day ago."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import peewee

from .enums import ContentStatus
from .errors import ValidationError

if TYPE_CHECKING:
    from .model import AIGeneratedContent

FAILED_AFTER = timedelta(hours=24)
"""How long a failed row is kept for a look at it: the specification's 24 hours."""


@dataclass(frozen=True)
class CleanupReport:
    """How many rows a cleanup deleted, by reason."""

    expired: int
    failed: int

    @property
    def deleted(self) -> int:
        """All rows that went."""
        return self.expired + self.failed


def cleanup(
    model: type[AIGeneratedContent], database: peewee.Database, now: datetime
) -> CleanupReport:
    """Delete by one statement a reason, so that each can use its own index."""
    try:
        failed_before = now - FAILED_AFTER
    except OverflowError:
        raise ValidationError("now", "must be a day after the year 1 began", "less") from None
    with database.atomic():
        expired = model.delete().where(model.expires_at < now).execute()
        failed = (
            model.delete()
            .where(model.status == ContentStatus.FAILED, model.created_at < failed_before)
            .execute()
        )
    return CleanupReport(expired=expired, failed=failed)
