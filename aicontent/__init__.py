"""Keep AI-generated content for reuse: one table, a Peewee model, SQLite or PostgreSQL."""

from .binding import bind, for_database
from .check import check
from .cleanup import CleanupReport
from .connection import connect
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
from .exporting import export_lines
from .fingerprint import fingerprint
from .importing import ImportReport, import_lines
from .index_usage import IndexUsage, index_usage
from .lines import Refused
from .migrate import migrate, rollback
from .model import AIGeneratedContent, User
from .reclaim import ReclaimReport, reclaim
from .rescue import RescueReport
from .stats import Stats, stats
from .storage import configure

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
