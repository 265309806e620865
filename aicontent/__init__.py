"""Keep AI-generated content for reuse: one table, a Peewee model, SQLite or PostgreSQL."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .binding import bind, for_database
from .cleanup import CleanupReport
from .enums import ContentStatus, ContentType
from .errors import (
    AIContentError,
    ContentGoneError,
    CorruptDocumentError,
    DatabaseUnavailableError,
    DatabaseURLError,
    DuplicateIdError,
    DuplicateRequestError,
    GenerationFailedError,
    InProgressError,
    LeaseLostError,
    MigrationError,
    NotBoundError,
    OpenTransactionError,
    TableConflictError,
    UnknownUserError,
    UnsupportedDatabaseError,
    UsersTableError,
    ValidationError,
)
from .fingerprint import fingerprint
from .model import AIGeneratedContent, User
from .rescue import RescueReport
from .storage import configure

if TYPE_CHECKING:
    from .checking import check
    from .connection import connect
    from .exporting import export_lines
    from .importing import ImportReport, import_lines
    from .indexes import IndexUsage, index_usage
    from .lines import Refused
    from .migrating import migrate, rollback
    from .reclaiming import ReclaimReport, reclaim
    from .summary import Stats, stats
else:
    # What serving content does not need is loaded when it is first asked for: an import costs a
    # third less.
    _LATER = {
        "ImportReport": "importing",
        "IndexUsage": "indexes",
        "ReclaimReport": "reclaiming",
        "Refused": "lines",
        "Stats": "summary",
        "check": "checking",
        "connect": "connection",
        "export_lines": "exporting",
        "import_lines": "importing",
        "index_usage": "indexes",
        "migrate": "migrating",
        "reclaim": "reclaiming",
        "rollback": "migrating",
        "stats": "summary",
    }

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(f".{_LATER[name]}", __name__), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})


__all__ = [
    "AIContentError",
    "AIGeneratedContent",
    "CleanupReport",
    "ContentGoneError",
    "ContentStatus",
    "ContentType",
    "CorruptDocumentError",
    "DatabaseURLError",
    "DatabaseUnavailableError",
    "DuplicateIdError",
    "DuplicateRequestError",
    "GenerationFailedError",
    "ImportReport",
    "InProgressError",
    "IndexUsage",
    "LeaseLostError",
    "MigrationError",
    "NotBoundError",
    "OpenTransactionError",
    "ReclaimReport",
    "Refused",
    "RescueReport",
    "Stats",
    "TableConflictError",
    "UnknownUserError",
    "UnsupportedDatabaseError",
    "User",
    "UsersTableError",
    "ValidationError",
    "bind",
    "check",
    "configure",
    "connect",
    "export_lines",
    "fingerprint",
    "for_database",
    "import_lines",
    "index_usage",
    "migrate",
    "reclaim",
    "rollback",
    "stats",
]
