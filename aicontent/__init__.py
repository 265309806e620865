"""Keep AI-generated content for reuse: one table, a Peewee model, SQLite or PostgreSQL."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .binding import bind, for_database
from .enums import ContentStatus, ContentStatusLike, ContentType, ContentTypeLike, Served
from .errors import (
    AIContentError,
    ArgumentError,
    ContentGoneError,
    ContentNotStoredError,
    CorruptDocumentError,
    DatabaseUnavailableError,
    DatabaseURLError,
    DuplicateIdError,
    DuplicateRequestError,
    GeneratedContentError,
    GenerationFailedError,
    InProgressError,
    LeaseLostError,
    MigrationError,
    NotBoundError,
    OpenTransactionError,
    RunningLoopError,
    TableConflictError,
    UnknownUserError,
    UnsupportedDatabaseError,
    UsersTableError,
    ValidationError,
)
from .fields.compression import configure
from .generation.defaults import Duration
from .model import AIGeneratedContent, Generate
from .table import User

if TYPE_CHECKING:
    __version__: str

    from .connection import connect
    from .database.catalog import IndexUsage
    from .generation.completion import Outcome
    from .generation.fingerprint import fingerprint
    from .generation.rescue import RescueReport
    from .generation.worker import WorkReport
    from .maintenance.cleanup import CleanupReport
    from .maintenance.health import check
    from .maintenance.reclaim import ReclaimReport, reclaim
    from .maintenance.stats import Stats, index_usage, stats
    from .schema.migrate import migrate, rollback
    from .transfer.exporter import export_lines
    from .transfer.importer import ImportReport, import_lines
    from .transfer.json_lines import Refused
else:
    # A program that only serves content needs none of these, so they are imported at first use.
    _LAZY = {
        name: module
        for module, names in {
            "connection": ("connect",),
            "database.catalog": ("IndexUsage",),
            "generation.completion": ("Outcome",),
            "generation.fingerprint": ("fingerprint",),
            "generation.rescue": ("RescueReport",),
            "generation.worker": ("WorkReport",),
            "maintenance.cleanup": ("CleanupReport",),
            "maintenance.health": ("check",),
            "maintenance.reclaim": ("ReclaimReport", "reclaim"),
            "maintenance.stats": ("Stats", "stats", "index_usage"),
            "schema.migrate": ("migrate", "rollback"),
            "transfer.exporter": ("export_lines",),
            "transfer.importer": ("ImportReport", "import_lines"),
            "transfer.json_lines": ("Refused",),
        }.items()
        for name in names
    }

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            value = import_module("importlib.metadata").version(__name__)
        elif name in _LAZY:
            value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})


__all__ = [
    "AIContentError",
    "AIGeneratedContent",
    "ArgumentError",
    "CleanupReport",
    "ContentGoneError",
    "ContentNotStoredError",
    "ContentStatus",
    "ContentStatusLike",
    "ContentType",
    "ContentTypeLike",
    "CorruptDocumentError",
    "DatabaseURLError",
    "DatabaseUnavailableError",
    "DuplicateIdError",
    "DuplicateRequestError",
    "Duration",
    "Generate",
    "GeneratedContentError",
    "GenerationFailedError",
    "ImportReport",
    "InProgressError",
    "IndexUsage",
    "LeaseLostError",
    "MigrationError",
    "NotBoundError",
    "OpenTransactionError",
    "Outcome",
    "ReclaimReport",
    "Refused",
    "RescueReport",
    "RunningLoopError",
    "Served",
    "Stats",
    "TableConflictError",
    "UnknownUserError",
    "UnsupportedDatabaseError",
    "User",
    "UsersTableError",
    "ValidationError",
    "WorkReport",
    "__version__",
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
