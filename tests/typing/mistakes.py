"""Mistakes in a host's code that mypy and pyright must report. It never runs.

Each line names the expected error of both tools. They also report a missing expected error.
"""

from aicontent import AIGeneratedContent, export_lines


def assigned(content: AIGeneratedContent) -> None:
    content.level = 3  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    content.status = "done"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    content.type = "lessn"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    content.generated_data = []  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    content.expires_at = 60  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    print(content.levl)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def passed(text: str) -> None:
    AIGeneratedContent.create(user=1, type=text, request_payload={})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AIGeneratedContent.create(user=1, type="lessn")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AIGeneratedContent.create(user=1, type="lesson", level=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AIGeneratedContent.reuse(1, "lessn")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AIGeneratedContent.find_by_user_and_type(1, "lessn")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AIGeneratedContent.get_or_generate(1, "lesson", {}, lambda content: {"title": content.levl})  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    AIGeneratedContent.get_or_generate(1, "lesson", {}, print, wait="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AIGeneratedContent.claim("lessn")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AIGeneratedContent.requeue(status="pending")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    export_lines(AIGeneratedContent._meta.database, status="done")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def ended(content: AIGeneratedContent) -> None:
    content.complete({}, tokens=812)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    content.complete({}, token_usage="812")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
