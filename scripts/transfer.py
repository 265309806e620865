"""Define the `aicontent export` and `aicontent import` commands."""

import os
import secrets
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

import click
import peewee

import aicontent
from aicontent import ContentStatus, ImportReport
from aicontent.database.sqlite import is_database_file
from aicontent.database.supported import backend_of
from aicontent.errors import counted, printable
from aicontent.table import user_id_type
from aicontent.transfer.exporter import selected
from aicontent.transfer.importer import OnConflict, store_batches
from aicontent.transfer.json_lines import Refused, batches, lines_of

from .options import Number, database_option, handled, open_database, type_option, wait_option
from .reading import batches_of

_SHOWN = 20
"""The number of refused lines that an import prints."""

_SMALL = 2_000_000
"""Bytes of a file. A smaller one is parsed in this process: to start another takes longer."""


@click.command(name="export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@database_option
@click.option("--user", metavar="ID", help="Only the content of the user with this id.")
@type_option("Only content of this type.")
@click.option(
    "--status",
    type=click.Choice([each.value for each in ContentStatus]),
    help="Only content with this status.",
)
def export_command(
    file: str, url: str, user: str | None, content_type: str | None, status: str | None
) -> None:
    """Write content as JSON lines.

    Without FILE it writes to the standard output. Each line is a JSON object with the table's
    column names as keys. One transaction reads all rows, so the export does not mix older and
    newer content. FILE is replaced after everything is written; after an error it is unchanged.

    The exit status is 129 or 143 if SIGHUP or SIGTERM ended it.

    \b
    Example, to copy content to another database that has the same users:
        aicontent export --database URL | aicontent import --database OTHER_URL
    """
    database = open_database(url, reads=True)
    try:
        user_id = None if user is None else _user_id(database, user)
        lines = aicontent.export_lines(database, user=user_id, type=content_type, status=status)
    except ValueError as error:
        rule = getattr(error, "rule", "must be an integer, as the users' ids are here")
        rule += f"; got {printable(user or '')}"
        raise click.BadParameter(rule, param_hint="--user") from error
    hidden = not sys.stderr.isatty() or (file == "-" and sys.stdout.isatty())
    written = 0
    if file != "-" and _is_of_a_database(file):
        rule = f"{file} is a SQLite database, which an export would replace: name another file"
        raise click.BadParameter(rule, param_hint="FILE")
    signals = handled((signal.SIGTERM, signal.SIGHUP), _exit)  # so that no incomplete file remains
    with signals, _output(file) as out, database.connection_context():
        length = 0 if hidden else selected(database, user_id, content_type, status).count()
        with click.progressbar(lines, length, "Exporting", file=sys.stderr, hidden=hidden) as bar:
            for line in bar:
                out.write(line)
                written += 1
    click.echo(f"exported {counted(written, 'row')}", err=True)


def _is_of_a_database(name: str) -> bool:
    """Return whether a file is a SQLite database, or is named like the journal of one."""
    names = [name, *(name.removesuffix(end) for end in ("-wal", "-journal", "-shm"))]
    return any(Path(each).is_file() and is_database_file(Path(each)) for each in names)


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)


def _user_id(database: peewee.Database, text: str) -> int | str:
    """Return the user id in a command-line argument with the type of the users table's ids."""
    return int(text) if "INT" in user_id_type(database).upper() else text


@contextmanager
def _output(name: str) -> Iterator[IO[bytes]]:
    path = Path(os.path.realpath(name))
    if name in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        if sys.stdout is None:
            raise click.UsageError("the standard output is closed: name a FILE")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif name.endswith(os.sep):
        raise click.BadParameter(f"{name} is a directory: name a file", param_hint="FILE")
    else:
        is_device = path.exists() and not path.is_file()  # or a pipe
        with path.open("wb") if is_device else _replaced(path) as out:
            yield out


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """Write a temporary file, and rename it to `path` when it is complete and on the disk."""
    folder = path.parent
    if not folder.is_dir():
        rule = f"the directory {folder} does not exist: create it"
        raise click.BadParameter(rule, param_hint="FILE")
    umask = os.umask(0)
    os.umask(umask)
    before = path.stat() if path.exists() else None
    # The name is set before the file exists, so that the file is removed after a signal too.
    temporary = folder / f".aicontent-{secrets.token_hex(8)}"
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            reason = f"cannot create a file in {folder}: {error.strerror}"
            raise click.BadParameter(reason, param_hint="FILE") from error
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            if before is not None:
                with suppress(PermissionError):  # only root may change the owner
                    os.fchown(descriptor, before.st_uid, before.st_gid)
            mode = stat.S_IMODE(before.st_mode) if before else 0o666 & ~umask
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # makes the rename durable
    finally:
        os.close(handle)


@click.command(name="import")
@click.argument(
    "name",
    metavar="[FILE]",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    default="-",
)
@database_option
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "skip", "replace"]),
    default="error",
    show_default=True,
    help="How to treat a line whose id is stored: refuse it, skip it, or replace the row.",
)
@click.option(
    "--max-document-bytes",
    type=Number(min=1),
    help="The largest document to accept, in bytes; 16,000,000 by default.",
)
@wait_option
def import_command(
    name: str, url: str, on_conflict: OnConflict, max_document_bytes: int | None, wait: float
) -> None:
    """Store content from JSON lines.

    Without FILE it reads the standard input. Each line is a JSON object as `aicontent export`
    writes it. The users of the rows must exist; in a users table that has only ids, missing users
    are added. The command lists the first 20 lines that it cannot store, each with the reason,
    and stores the others.

    To resume an interrupted import, run it again with --on-conflict skip.

    The exit status is 1 if a line was refused, and 143 if SIGTERM ended it.
    """
    if name == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError("name a FILE, or send lines to the standard input")
    if name != "-" and _is_of_a_database(name):
        rule = f"{name} is a SQLite database: run `aicontent export` on it, and import the result"
        raise click.BadParameter(rule, param_hint="FILE")
    database = open_database(url, wait=wait)
    if max_document_bytes is not None:
        aicontent.configure(database, max_document_bytes=max_document_bytes)
    # SIGTERM raises SystemExit, so that the report is printed before the exit.
    with click.open_file(name, "rb") as file, handled((signal.SIGTERM,), _exit):
        _import(file, database, on_conflict)


def _import(file: IO[bytes], database: peewee.Database, on_conflict: OnConflict) -> None:
    size = os.fstat(file.fileno()).st_size  # 0 for a pipe
    hidden = not (sys.stderr.isatty() and size)
    backend = backend_of(database)
    id_type = user_id_type(database)
    is_small = 0 < size < _SMALL
    parsed = (
        batches(lines_of(file), backend, id_type)
        if is_small
        else batches_of(file, backend.name, id_type)
    )
    report, shown = ImportReport(), 0
    with click.progressbar(length=size, label="Importing", file=sys.stderr, hidden=hidden) as bar:

        def show(line: Refused) -> None:
            nonlocal shown
            shown += 1
            if shown <= _SHOWN:
                click.echo(f"line {line.line}: {printable(line.reason)}", err=True)

        def progress(done: ImportReport, length: int) -> None:
            nonlocal report
            report = done
            bar.update(length)

        try:
            # If storing fails, close the parser at once, so that the command does not wait for it.
            with closing(parsed):
                report = store_batches(
                    database, parsed, on_conflict=on_conflict, refused=show, progress=progress
                )
        except BaseException as error:
            # An interrupted import may have stored a batch that it has not counted yet.
            if report != ImportReport() or isinstance(error, (KeyboardInterrupt, SystemExit)):
                way = "skip" if on_conflict == "error" else on_conflict
                click.echo(f"{_summary(report)}; to go on: --on-conflict {way}", err=True)
            raise
    click.echo(_summary(report))
    if report.refused > _SHOWN:
        more = counted(report.refused - _SHOWN, "more line was", "more lines were")
        click.echo(f"and {more} refused", err=True)
    if report.refused:
        click.get_current_context().exit(1)


def _summary(report: ImportReport) -> str:
    return (
        f"imported {report.stored:,} new, replaced {report.replaced:,}, "
        f"skipped {report.skipped:,}, refused {report.refused:,}"
    )
