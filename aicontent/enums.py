"""The specification's two enumerations, content types and statuses, and ours."""

from enum import StrEnum
from typing import Literal, TypeAlias


class ContentType(StrEnum):
    """The purpose of a piece of content."""

    LESSON = "lesson"
    VOCABULARY_DRILL = "vocabulary_drill"
    GRAMMAR_EXERCISE = "grammar_exercise"
    CULTURAL_CONTENT = "cultural_content"
    PERSONALIZED_EXERCISE = "personalized_exercise"
    PRONUNCIATION_DRILL = "pronunciation_drill"
    CONVERSATION_PRACTICE = "conversation_practice"


class ContentStatus(StrEnum):
    """The progress of its generation."""

    PENDING = "pending"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"
    CACHED = "cached"


ContentTypeLike: TypeAlias = (
    ContentType
    | Literal[
        "lesson",
        "vocabulary_drill",
        "grammar_exercise",
        "cultural_content",
        "personalized_exercise",
        "pronunciation_drill",
        "conversation_practice",
    ]
)
"""A content type or its text, so that type checkers find a misspelt one."""

ContentStatusLike: TypeAlias = (
    ContentStatus | Literal["pending", "generating", "completed", "failed", "cached"]
)
"""A status or its text."""


class Served(StrEnum):
    """How `get_or_generate` came by the content that it returned."""

    GENERATED = "generated"
    """This call generated it."""

    STORED = "stored"
    """It was there already."""

    WAITED = "waited"
    """This call waited until another caller had generated it."""

    STALE = "stale"
    """It has expired, or is older than the refresh that was asked for."""
