"""Keep AI-generated content for reuse: one table, a Peewee model, SQLite or PostgreSQL."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .binding import bind, for_database
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
from .fields.compression import configure
from .generation.fingerprint import fingerprint
from .generation.rescue import RescueReport
from .model import AIGeneratedContent
from .table import User

if TYPE_CHECKING:
    from .connection import connect
    from .database.catalog import IndexUsage
    from .maintenance.cleanup import CleanupReport
    from .maintenance.health import check
    from .maintenance.index_usage import index_usage
    from .maintenance.reclaim import ReclaimReport, reclaim
    from .maintenance.stats import Stats, stats
    from .schema.migrate import migrate, rollback
    from .transfer.exporter import export_lines
    from .transfer.importer import ImportReport, import_lines
    from .transfer.json_lines import Refused
else:
    # Serving content does not need these, so they are imported at first use.
    _LAZY = {
        name: module
        for module, names in {
            "connection": ("connect",),
            "database.catalog": ("IndexUsage",),
            "maintenance.cleanup": ("CleanupReport",),
            "maintenance.health": ("check",),
            "maintenance.index_usage": ("index_usage",),
            "maintenance.reclaim": ("ReclaimReport", "reclaim"),
            "maintenance.stats": ("Stats", "stats"),
            "schema.migrate": ("migrate", "rollback"),
            "transfer.exporter": ("export_lines",),
            "transfer.importer": ("ImportReport", "import_lines"),
            "transfer.json_lines": ("Refused",),
        }.items()
        for name in names
    }

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})


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
