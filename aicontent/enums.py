"""The two enumerations of the specification: content types and statuses."""

from __future__ import annotations

from enum import StrEnum


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
