"""The guided tour: what the module does, shown on a real database."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import peewee

import aicontent
from aicontent import AIContentError, AIGeneratedContent, ContentStatus, User
from aicontent.database.catalog import Catalog

from .content_file import load

_REFUSED_SHOWN = 20

Tell = Callable[[str, str], object]


def run(
    database: peewee.Database,
    url: str,
    file: Iterable[bytes] | None,
    content_type: str,
    echo: Callable[[str], object],
) -> None:
    """Play the tour and tell it line by line.

    Args:
        database: where to; its users table must be this package's own minimal one, or missing.
        url: the database's name as it may be shown.
        file: the lines of a file of content as JSON; the samples when None.
        content_type: the type of lines that do not name one.
        echo: takes each line.

    Raises:
        AIContentError: the database belongs to an application, or cannot be used.
    """

    def tell(what: str, text: str) -> None:
        echo(f"{what:<11}{text}")

    with database.connection_context():
        users = Catalog(database).relation("users", anywhere=True)
        if users is not None and not users.is_minimal:
            raise AIContentError(
                "the quickstart makes users of its own, and this database has an application's: "
                "give it a database for itself with --database"
            )
        applied = aicontent.migrate(database, create_users=True)
        tell("Database", f"{url} ({', '.join(applied) or 'up to date'})")
        aicontent.bind(database)
        _tour(file, content_type, tell)
    if database.database != ":memory:":
        tell("Explore", _hint(database, url))


def _tour(file: Iterable[bytes] | None, content_type: str, tell: Tell) -> None:
    user = User.create().id
    first = content_type if file else "lesson"
    missed = AIGeneratedContent.reuse(user, first)
    tell("Miss", f"user {user} asks for a {first}: {missed or 'none is stored yet'}")

    started = time.perf_counter()
    lines = file or files(__package__).joinpath("samples.jsonl").read_bytes().splitlines()
    stored, refused = load(AIGeneratedContent, lines, user, content_type)
    source = "your file" if file else "samples, in the place of a model's answers"
    seconds = time.perf_counter() - started
    tell("Generated", f"{_counted(stored, 'piece')} in {seconds:.1f} s ({source})")
    for kind, status, pieces in _summary(user):
        tell("", f"{pieces:>6,} {kind}, {status}")
    if refused:
        tell("Refused", f"{_counted(len(refused), 'line')}, the others are stored:")
        for item in refused[:_REFUSED_SHOWN]:
            tell("", f"line {item.line}: {item.reason}")
        if len(refused) > _REFUSED_SHOWN:
            tell("", f"and {len(refused) - _REFUSED_SHOWN:,} more")

    completed = AIGeneratedContent.get_or_none(
        AIGeneratedContent.user == user, AIGeneratedContent.status == ContentStatus.COMPLETED
    )
    if completed is None:
        tell("Hit", "nothing was completed, so nothing can be reused")
        return
    _reuse(user, first if file is None else completed.type, tell)
    _expire(user, tell)


def _reuse(user: int, kind: str, tell: Tell) -> None:
    hit = AIGeneratedContent.reuse(user, kind)
    if hit is None:
        tell("Hit", f"none: no {kind} is completed and unexpired")
        return
    saved = f", {hit.token_usage:,} tokens saved" if hit.token_usage else ""
    tell("Hit", f"the same request again: {_headline(hit)} (use {hit.usage_count}{saved})")
    for label in ("Least used", ""):
        again = AIGeneratedContent.reuse(user, kind)
        if again is not None:
            tell(label, f"and again: {_headline(again)} (use {again.usage_count})")


def _expire(user: int, tell: Tell) -> None:
    now = datetime.now(UTC)
    later = now + timedelta(hours=2)
    brief = AIGeneratedContent.create(
        user=user,
        type="conversation_practice",
        status=ContentStatus.COMPLETED,
        request_payload={"topic": "today's weather"},
        generated_data={"title": "Small talk for today"},
        level="today",
        expires_at=now + timedelta(hours=1),
    )
    found = AIGeneratedContent.find_reusable_content(user, brief.type, "today", later).first()
    tell("Expiry", f"{_headline(brief)} is good for an hour; in two: {found or 'not served'}")
    report = AIGeneratedContent.cleanup(now=later)
    tell(
        "Cleanup",
        f"in two hours deletes {report.expired} expired, {report.failed} failed "
        "(failed content is kept a day)",
    )


def _summary(user: int) -> list[tuple[str, str, int]]:
    model = AIGeneratedContent
    query = (
        model.select(model.type, model.status, peewee.fn.COUNT(model.id))
        .where(model.user == user)
        .group_by(model.type, model.status)
        .order_by(model.type, model.status)
    )
    return list(query.tuples())


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _headline(content: AIGeneratedContent) -> str:
    data = content.generated_data or {}
    text = data.get("title") or content.request_payload.get("instruction") or content.id
    # Whatever a model wrote, a terminal must not obey it.
    text = "".join(c if c.isprintable() else " " for c in str(text))
    text = " ".join(text.split())
    return f'"{text}"' if len(text) <= 45 else f'"{text[:44]}…"'


def _hint(database: peewee.Database, url: str) -> str:
    query = 'SELECT type, level, "usageCount" FROM ai_generated_content'
    if isinstance(database, peewee.SqliteDatabase):
        return shlex.join(["sqlite3", str(database.database), query])
    return shlex.join(["psql", url, "-c", query])
