"""A host's program that mypy and pyright check against the installed package. It never runs.

docs/guides/models.md describes the types.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import peewee

import aicontent
from aicontent import (
    AIGeneratedContent,
    ContentStatus,
    ContentStatusLike,
    ContentType,
    ContentTypeLike,
    Generate,
    Outcome,
    User,
)

database = aicontent.connect("sqlite:///host.db")
aicontent.configure(database, compress_over=2_000)
aicontent.migrate(database, create_users=True)
aicontent.bind(database)
Content = aicontent.for_database(database)
now = datetime.now(UTC)
user = User.create()
assert_type(user.id, int)
assert_type(User.id, peewee.AutoField[int])


class Lesson(AIGeneratedContent):
    """A host's subclass with an additional column and method."""

    course: peewee.IntegerField[int | None] = peewee.IntegerField(null=True)

    class Meta:
        indexes = ((("course",), False),)

    def title(self) -> str:
        return str((self.generated_data or {}).get("title", self.id))


def values_of_columns(content: AIGeneratedContent) -> None:
    assert_type(content.id, str)
    assert_type(content.user, Any)
    assert_type(content.user_id, int)
    assert_type(content.type, ContentType)
    assert_type(content.status, ContentStatus)
    assert_type(content.request_payload, dict[str, Any])
    assert_type(content.generated_data, dict[str, Any] | None)
    assert_type(content.validation_results, dict[str, Any] | None)
    assert_type(content.metadata, dict[str, Any] | None)
    assert_type(content.level, str | None)
    assert_type(content.topics, list[Any] | None)
    assert_type(content.focus_areas, list[Any] | None)
    assert_type(content.estimated_completion_time, int | None)
    assert_type(content.validation_score, float | None)
    assert_type(content.generation_time_ms, int | None)
    assert_type(content.token_usage, int | None)
    assert_type(content.model_used, str | None)
    assert_type(content.usage_count, int | None)
    assert_type(content.last_accessed_at, datetime | None)
    assert_type(content.expires_at, datetime | None)
    assert_type(content.created_at, datetime)
    assert_type(content.updated_at, datetime)
    assert_type(content.fingerprint, str | None)
    assert_type(content.attempts, int)
    assert_type(content.lease_expires_at, datetime | None)
    assert_type(content.failures, int)
    assert_type(content.max_attempts, int | None)
    assert_type(content.retry_at, datetime | None)
    assert_type(content.queued, bool)
    assert_type(content.served, aicontent.Served | None)


def assignments(content: AIGeneratedContent, owner: User) -> None:
    content.level = "A2"
    content.level = None
    content.status = "completed"
    assert_type(content.status, ContentStatus)
    content.status = ContentStatus.FAILED
    content.type = "lesson"
    content.user = owner
    content.user_id = owner.id
    content.expires_at = now + timedelta(days=1)
    content.request_payload["topic"] = "tea"


def expressions() -> list[AIGeneratedContent]:
    assert_type(AIGeneratedContent.level == "A2", peewee.Expression)
    assert_type(AIGeneratedContent.user_id == 1, peewee.Expression)
    assert_type(
        AIGeneratedContent.status.in_(["completed", ContentStatus.FAILED]), peewee.Expression
    )
    assert_type(AIGeneratedContent.user.in_([1, 2]), peewee.Expression)
    assert_type(AIGeneratedContent.topics.in_([["tea"]]), peewee.Expression)
    assert_type(AIGeneratedContent.created_at > now, peewee.Expression)
    assert_type(AIGeneratedContent.metadata.has_key("variant"), peewee.Expression)
    query = Content.select().where(Content.level == "A2", Content.expires_at.is_null())
    assert_type(query, peewee.ModelSelect[AIGeneratedContent])
    newest = query.order_by(Content.created_at.desc()).limit(10)
    return list(newest)


def storing(owner: User, kind: ContentTypeLike, status: ContentStatusLike, text: str) -> None:
    content = Content.create(
        user=owner, type=kind, status=status, level="A2", request_payload={"topic": "tea"}
    )
    assert_type(content, AIGeneratedContent)
    assert_type(Lesson.create(user=1, type="lesson", request_payload={}, course=3), Lesson)
    assert_type(Content.create_many([{"user": 1, "type": "lesson"}]), list[str])
    content.level = "B1"
    assert_type(content.save(), int)
    Content.create(user=1, type=ContentType(text), request_payload={})


def finding(owner: User) -> None:
    assert_type(Content.get_by_id("x"), AIGeneratedContent)
    assert_type(Content.reuse(owner, "lesson", "A2"), AIGeneratedContent | None)
    assert_type(Content.first_reusable(owner, ContentType.LESSON), AIGeneratedContent | None)
    assert_type(Lesson.reuse(owner.id, "lesson"), Lesson | None)
    for content in Content.find_reusable_content(owner, "lesson", level="A2", now=now):
        assert_type(content, AIGeneratedContent)
        assert_type(content.is_expired(), bool)
        assert_type(content.is_reusable(now), bool)
        content.mark_accessed()
    assert_type(
        Content.find_by_user_and_type(owner, "lesson"), peewee.ModelSelect[AIGeneratedContent]
    )


def generate(content: AIGeneratedContent) -> tuple[dict[str, Any], Outcome]:
    return {"title": content.request_payload["topic"]}, {"token_usage": 812, "model_used": "m"}


def wrapped(other: Generate) -> Generate:
    def timed(content: AIGeneratedContent) -> Any:
        return other(content)

    return timed


def generating(owner: User) -> None:
    content = Content.get_or_generate(
        owner,
        "lesson",
        {"topic": "tea"},
        wrapped(generate),
        level="A2",
        variant={"prompt": 3},
        wait=timedelta(seconds=10),
        expires_in=3600,
    )
    assert_type(content, AIGeneratedContent)
    Content.get_or_generate(owner, "lesson", {}, lambda content: {"title": content.level})
    Lesson.get_or_generate(owner, "lesson", {}, lambda lesson: {"title": lesson.title()})
    assert_type(aicontent.fingerprint("lesson", {}), str)


async def generate_later(content: AIGeneratedContent) -> dict[str, Any]:
    return {"title": content.level}


async def in_a_loop(owner: User) -> None:
    content = await Content.aget_or_generate(owner, "lesson", {}, generate_later, wait=10)
    assert_type(content, AIGeneratedContent)
    await Lesson.aget_or_generate(owner, "lesson", {}, lambda lesson: {"title": lesson.title()})
    report = await Content.awork(generate_later, concurrency=10, until_empty=True)
    assert_type(report, aicontent.WorkReport)


def working(owner: User) -> None:
    asked = Content.request(owner, "lesson", {"topic": "tea"}, expires_at=now, max_attempts=5)
    assert_type(asked, AIGeneratedContent)
    content = Content.claim(["lesson", ContentType.VOCABULARY_DRILL], timedelta(minutes=1))
    assert_type(content, AIGeneratedContent | None)
    if content is not None:
        content.extend_lease(60)
        content.complete({"title": "Tea"}, token_usage=812, expires_in=timedelta(days=7))
        content.fail("no answer", retry=True, delay=10)
        content.release()
    report = Content.work(generate, types="lesson", until_empty=True, stop=lambda: False)
    assert_type(report, aicontent.WorkReport)
    assert_type(Content.rescue_stale(dry_run=True), aicontent.RescueReport)
    assert_type(Content.requeue(status="generating", types=[ContentType.LESSON]), int)


def maintaining() -> None:
    cleaned = Content.cleanup(max_seconds=10, progress=lambda report: print(report.deleted))
    assert_type(cleaned, aicontent.CleanupReport)
    assert_type(aicontent.stats(database), aicontent.Stats)
    assert_type(aicontent.stats(database).size, int)
    assert_type(aicontent.check(database), list[str])
    for line in aicontent.export_lines(database, type="lesson", status="completed"):
        assert_type(line, bytes)
