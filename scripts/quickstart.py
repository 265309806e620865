"""Run the guided tour: store, reuse and expire content on a real database."""

import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import islice
from typing import Any

import click
import peewee

import aicontent
from aicontent import AIGeneratedContent, ContentStatus, Refused, User, ValidationError
from aicontent.database.supported import backend_of
from aicontent.errors import counted, printable
from aicontent.fields.scalars import UTCDateTimeField
from aicontent.records.bulk import values_of
from aicontent.records.insertion import BATCH
from aicontent.records.validation import check_values
from aicontent.transfer.json_lines import by_column, field_of, objects, time_of

_REFUSED_SHOWN = 20
_CALLERS = 20
_MODEL_SECONDS = 1.0
"""How long the stand-in for a model takes."""


def run(
    database: peewee.Database, url: str, file: Iterable[bytes] | None, content_type: str
) -> None:
    """Run the tour, and print it line by line.

    Args:
        database: where to store the content; its users table must be this package's own minimal
            one, or missing.
        url: the database's URL as it may be shown.
        file: JSON lines as `import` takes them; the samples when None.
        content_type: the type of lines that have none.

    Raises:
        AIContentError: the database belongs to an application, or cannot be used.
    """
    backend = backend_of(database)
    with database.connection_context():
        users = backend.catalog(database).relation("users", anywhere=True)
        if users is not None and not users.is_minimal:
            raise aicontent.AIContentError(
                "the quickstart creates users, but this database's users belong to an "
                "application: name another database with --database"
            )
        applied = aicontent.migrate(database, create_users=True)
        _show("Database", f"{url} ({', '.join(applied) or 'up to date'})")
        aicontent.bind(database)
        others = AIGeneratedContent.select().count()
        if others:
            _show("", f"{counted(others, 'row')} of other users, which this tour leaves alone")
        if backend.connects_twice(database):
            _ask_together(database)
        _tour(file, content_type)
    if database.database != ":memory:":
        query = 'SELECT type, level, "usageCount" FROM ai_generated_content'
        _show("Explore", shlex.join(backend.shell_command(database, url, query)))


def _show(label: str, text: str) -> None:
    click.echo(f"{label:<11}{text}")


def _ask_together(database: peewee.Database) -> None:
    """Let many callers ask for the same content at once."""
    user = User.create().id
    request = {"topic": "ordering in a café"}

    def generate(_: AIGeneratedContent) -> dict[str, Any]:
        time.sleep(_MODEL_SECONDS)
        return {"title": "En la cafetería"}

    def ask(_: int) -> str:
        with database.connection_context():
            content = AIGeneratedContent.get_or_generate(user, "lesson", request, generate)
            return str(content.served)

    started = time.perf_counter()
    with ThreadPoolExecutor(_CALLERS) as threads:
        served = Counter(threads.map(ask, range(_CALLERS)))
    seconds = time.perf_counter() - started
    _show("At once", f"{_CALLERS} callers of get_or_generate() ask for the same lesson:")
    _show("", f"{served.pop('generated')} asks the model, which takes {_MODEL_SECONDS:.0f} s,")
    _show("", f"{served.total()} wait for its answer; all have it after {seconds:.1f} s")
    started = time.perf_counter()
    _show("Once more", f"{ask(0)}, served in {(time.perf_counter() - started) * 1000:.0f} ms")


def _tour(file: Iterable[bytes] | None, content_type: str) -> None:
    user = User.create().id
    first = content_type if file else "lesson"
    miss = AIGeneratedContent.reuse(user, first)
    _show("Miss", f"user {user} asks for a {first}: {miss or 'none is stored yet'}")

    started = time.perf_counter()
    lines = file or files(__package__).joinpath("samples.jsonl").read_bytes().splitlines()
    stored, refused = _load(lines, user, content_type)
    source = "your file" if file else "samples, in the place of a model's answers"
    seconds = time.perf_counter() - started
    _show("Generated", f"{counted(stored, 'piece')} in {seconds:.1f} s ({source})")
    for kind, status, pieces in _summary(user):
        _show("", f"{pieces:>6,} {kind}, {status}")
    if refused:
        _show("Refused", f"{counted(len(refused), 'line')}, the others are stored:")
        for item in refused[:_REFUSED_SHOWN]:
            _show("", f"line {item.line}: {printable(item.reason)}")
        if len(refused) > _REFUSED_SHOWN:
            _show("", f"and {len(refused) - _REFUSED_SHOWN:,} more")

    completed = AIGeneratedContent.get_or_none(
        AIGeneratedContent.user == user, AIGeneratedContent.status == ContentStatus.COMPLETED
    )
    if completed is None:
        _show("Hit", "nothing was completed, so nothing can be reused")
        return
    _reuse(user, first if file is None else completed.type)
    _expire(user)


def _load(lines: Iterable[bytes], user: int, content_type: str) -> tuple[int, list[Refused]]:
    """Store the lines as new content of one user; return how many, and those refused."""
    refused: list[Refused] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number, _, record in objects(lines):
            if isinstance(record, str):
                refused.append(Refused(number, record))
                continue
            try:
                row = {"type": content_type} | _attributes(record) | {"user": user}
                check_values(AIGeneratedContent, values_of(AIGeneratedContent, row))
            except ValidationError as error:
                refused.append(Refused(number, str(by_column(error))))
            else:
                yield row

    stored, source = 0, rows()
    while batch := list(islice(source, BATCH)):
        stored += len(AIGeneratedContent.create_many(batch))
    return stored, refused


def _attributes(record: dict[str, Any]) -> dict[str, Any]:
    row = {}
    for column, value in record.items():
        field = field_of(column)
        is_time = isinstance(field, UTCDateTimeField) and value is not None
        row[field.name] = time_of(column, value) if is_time else value
    row.pop("id", None)  # the copy is a row of its own
    return row


def _reuse(user: int, kind: str) -> None:
    hit = AIGeneratedContent.reuse(user, kind)
    if hit is None:
        _show("Hit", f"none: no {kind} is completed and unexpired")
        return
    saved = f", {hit.token_usage:,} tokens saved" if hit.token_usage else ""
    _show("Hit", f"the same request again: {_headline(hit)} (use {hit.usage_count}{saved})")
    for label in ("Least used", ""):
        again = AIGeneratedContent.reuse(user, kind)
        if again is not None:
            _show(label, f"and again: {_headline(again)} (use {again.usage_count})")


def _expire(user: int) -> None:
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
    content = AIGeneratedContent.find_reusable_content(user, brief.type, "today", later).first()
    _show("Expiry", f"{_headline(brief)} is good for an hour; in two: {content or 'not served'}")

    class Own(AIGeneratedContent):
        """The content of the tour's user: nobody else's is the tour's to delete."""

        @classmethod
        def select(cls, *fields: Any) -> Any:
            return super().select(*fields).where(cls.user == user)

    report = Own.cleanup(now=later)
    _show(
        "Cleanup",
        f"in two hours deletes {report.expired} expired, {report.failed} failed of this user "
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


def _headline(content: AIGeneratedContent) -> str:
    data = content.generated_data or {}
    text = data.get("title") or content.request_payload.get("instruction") or content.id
    text = " ".join(printable(str(text), " ").split())
    return f'"{text}"' if len(text) <= 45 else f'"{text[:44]}…"'
