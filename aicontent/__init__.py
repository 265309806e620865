"""Keep AI-generated content for reuse: one table, a Peewee model, SQLite or PostgreSQL."""

from .binding import bind, for_database
from .check import check
from .cleanup import CleanupReport
from .connection import connect
from .enums import ContentStatus, ContentType
from .errors import (
    AIContentError,
    ContentGoneError,
    DatabaseUnavailableError,
    DatabaseURLError,
    DuplicateIdError,
    MigrationError,
    NotBoundError,
    TableConflictError,
    UnknownUserError,
    UnsupportedDatabaseError,
    UsersTableError,
    ValidationError,
)
from .exporting import export_lines
from .importing import ImportReport, import_lines
from .index_usage import IndexUsage, index_usage
from .lines import Refused
from .migrate import migrate, rollback
from .model import AIGeneratedContent, User
from .reclaim import ReclaimReport, reclaim
from .stats import Stats, stats

__all__ = [
    "AIContentError",
    "AIGeneratedContent",
    "CleanupReport",
    "ContentGoneError",
    "ContentStatus",
    "ContentType",
    "DatabaseURLError",
    "DatabaseUnavailableError",
    "DuplicateIdError",
    "ImportReport",
    "IndexUsage",
    "MigrationError",
    "NotBoundError",
    "ReclaimReport",
    "Refused",
    "Stats",
    "TableConflictError",
    "UnknownUserError",
    "UnsupportedDatabaseError",
    "User",
    "UsersTableError",
    "ValidationError",
    "bind",
    "check",
    "connect",
    "export_lines",
    "for_database",
    "import_lines",
    "index_usage",
    "migrate",
    "reclaim",
    "rollback",
    "stats",
]
