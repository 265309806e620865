"""Run the tour of `aicontent quickstart`: generate, reuse, expire and delete content."""

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
"""How long the function that stands for a model takes."""


def run(
    database: peewee.Database, url: str, file: Iterable[bytes] | None, content_type: str
) -> None:
    """Run the tour, and print it line by line.

    Args:
        database: where to store the content. It must have no users table, or the minimal one of
            this package.
        url: the database's URL without a password, to print it.
        file: JSON lines as `import` takes them, or None for the samples.
        content_type: the type of lines that have none.

    Raises:
        AIContentError: the users table belongs to an application, or the database cannot be used.
        click.ClickException: no line of the file can be stored.
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
        _show("Database", f"{url} ({'migrated' if applied else 'up to date'})")
        aicontent.bind(database)
        others = AIGeneratedContent.select().count()
        if others:
            _show("", f"{counted(others, 'row')} of other users, which the tour does not change")
        if backend.connects_twice(database):
            _ask_together(database)
        _tour(file, content_type)
    if database.database != ":memory:":
        query = 'SELECT type, level, "usageCount" FROM ai_generated_content'
        _show("Explore", "The rows stay in the database. To list them, run:")
        _show("", shlex.join(backend.shell_command(database, url, query)))


def _show(label: str, text: str) -> None:
    click.echo(f"{label:<11}{text}")


def _ask_together(database: peewee.Database) -> None:
    """Let many threads request the same content at the same time."""
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
    _show("Generate", f"{_CALLERS} threads call get_or_generate() for the same lesson at once.")
    verb = f"generated it with a stand-in for a model, which takes {_MODEL_SECONDS:.0f} s."
    _show("", f"{counted(served.pop('generated'), 'thread')} {verb}")
    _show("", f"{counted(served.total(), 'thread')} waited, and were served the same lesson.")
    _show("", f"All {_CALLERS} had it after {seconds:.1f} s, and the model ran once.")
    started = time.perf_counter()
    how, seconds = ask(0), time.perf_counter() - started
    _show("Repeat", f"The same call again is served from the table ({how}) in {seconds:.3f} s.")


def _tour(file: Iterable[bytes] | None, content_type: str) -> None:
    user = User.create().id
    first = content_type if file else "lesson"
    miss = AIGeneratedContent.reuse(user, first)
    _show("Miss", f"reuse() of a {first} for the new user {user} finds {miss or 'nothing'}.")

    started = time.perf_counter()
    lines = file or files(__package__).joinpath("samples.jsonl").read_bytes().splitlines()
    stored, refused = _load(lines, user, content_type)
    source = "of your file" if file else "with samples in place of a model's answers"
    seconds = time.perf_counter() - started
    _show("Store", f"{counted(stored, 'row')} {source}, in {seconds:.1f} s:")
    for kind, status, pieces in _summary(user):
        _show("", f"{pieces:>6,} {kind}, {status}")
    if refused:
        _show("Refused", f"{counted(len(refused), 'line')} of your file cannot be stored:")
        for item in refused[:_REFUSED_SHOWN]:
            _show("", f"line {item.line}: {printable(item.reason)}")
        if len(refused) > _REFUSED_SHOWN:
            _show("", f"and {len(refused) - _REFUSED_SHOWN:,} more")
    if not stored:
        reason = "write lines like those of `aicontent export`, where id and userId may be missing"
        raise click.ClickException(f"FILE has no line that can be stored: {reason}")

    completed = AIGeneratedContent.get_or_none(
        AIGeneratedContent.user == user, AIGeneratedContent.status == ContentStatus.COMPLETED
    )
    if completed is None:
        _show("Reuse", "No row is completed, so reuse() has nothing to serve.")
        return
    _reuse(user, first if file is None else completed.type)
    _expire(user)


def _load(lines: Iterable[bytes], user: int, content_type: str) -> tuple[int, list[Refused]]:
    """Store the lines as new content of one user; return their number and the refused lines."""
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
    row.pop("id", None)  # the copy gets a new id
    return row


def _reuse(user: int, kind: str) -> None:
    _show("Reuse", f"reuse(), called 3 times, serves the least-used {kind} each time:")
    for _ in range(3):
        hit = AIGeneratedContent.reuse(user, kind)
        if hit is None:
            _show("", f"nothing, because no {kind} is completed and unexpired")
            return
        saved = f", {hit.token_usage:,} tokens saved" if hit.token_usage else ""
        _show("", f"{_headline(hit)}, usage count {hit.usage_count}{saved}")


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
    _show("Expiry", f"A new row, {_headline(brief)}, expires in 1 hour.")
    _show("", f"A lookup with the time set 2 hours ahead finds {content or 'nothing'}.")

    class Own(AIGeneratedContent):
        """The content of the tour's user, so that the cleanup deletes no other user's rows."""

        @classmethod
        def select(cls, *fields: Any) -> Any:
            return super().select(*fields).where(cls.user == user)

    report = Own.cleanup(now=later)
    deleted = f"{counted(report.expired, 'expired row')} and {counted(report.failed, 'failed row')}"
    _show("Cleanup", f"cleanup() with the same time deletes {deleted} of user {user}.")
    _show("", "It keeps failed rows for 1 day.")


def _summary(user: int) -> list[tuple[str, str, int]]:
    model, columns = AIGeneratedContent, (AIGeneratedContent.type, AIGeneratedContent.status)
    query = model.select(*columns, peewee.fn.COUNT(model.id)).where(model.user == user)
    return list(query.group_by(*columns).order_by(*columns).tuples())


def _headline(content: AIGeneratedContent) -> str:
    data = content.generated_data or {}
    text = data.get("title") or content.request_payload.get("instruction") or content.id
    text = " ".join(printable(str(text), " ").split())
    return f'"{text}"' if len(text) <= 45 else f'"{text[:44]}…"'
