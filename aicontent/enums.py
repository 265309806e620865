"""Enumerations: the specification's content types and statuses, and how content was served."""

from enum import StrEnum
from typing import Literal, TypeAlias


class ContentType(StrEnum):
    """The type of a piece of content, as the specification lists them."""

    LESSON = "lesson"
    VOCABULARY_DRILL = "vocabulary_drill"
    GRAMMAR_EXERCISE = "grammar_exercise"
    CULTURAL_CONTENT = "cultural_content"
    PERSONALIZED_EXERCISE = "personalized_exercise"
    PRONUNCIATION_DRILL = "pronunciation_drill"
    CONVERSATION_PRACTICE = "conversation_practice"


class ContentStatus(StrEnum):
    """The status of a row: how far the generation of its content is."""

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
"""A content type or its text; type checkers reject any other text."""

ContentStatusLike: TypeAlias = (
    ContentStatus | Literal["pending", "generating", "completed", "failed", "cached"]
)
"""A status or its text; type checkers reject any other text."""


class Served(StrEnum):
    """How `get_or_generate` got the content that it returned."""

    GENERATED = "generated"
    """This call generated it."""

    STORED = "stored"
    """The content was already stored."""

    WAITED = "waited"
    """This call waited until another caller had generated it."""

    STALE = "stale"
    """The content has expired, or is older than the refresh that was asked for."""
