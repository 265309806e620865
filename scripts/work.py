"""Define the `aicontent work` command: a worker that generates the content of pending rows."""

import importlib
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import attrgetter
from types import FrameType
from typing import Any

import click

import aicontent
from aicontent import Generate, ValidationError
from aicontent.errors import counted, printable, shortened
from aicontent.generation.arguments import check_generate, is_async
from aicontent.generation.events import logger
from aicontent.generation.worker import WorkReport
from aicontent.table import detected_model

from .options import (
    Duration,
    Number,
    database_option,
    handled,
    max_attempts_option,
    open_database,
    output_options,
    type_option,
    wait_option,
)

_FUNCTION = "MODULE:FUNCTION"

_INTERRUPTIONS = 5
"""The number of interruptions after which the process ends, if the function catches them."""

_HINT = "a second Ctrl-C releases the rows"
_IN_THREADS = "a function in a thread cannot be interrupted"


def _seconds_option(name: str, help: str) -> Callable[[Any], Any]:
    return click.option(name, type=Duration(min_open=True), help=help)


@click.command()
@click.argument("name", metavar=_FUNCTION)
@database_option
@type_option("Only rows of this type. Repeatable.", "--type", "types", multiple=True)
@click.option("--until-empty", is_flag=True, help="Exit when no row is pending.")
@_seconds_option("--lease", "How long a row of a lost worker stays claimed; 60 by default.")
@max_attempts_option("a higher number")
@_seconds_option("--expires-in", "Time until new content expires; never by default.")
@click.option(
    "--concurrency",
    type=Number(min=1),
    default=1,
    show_default=True,
    help="How many rows to generate at the same time.",
)
@click.option(
    "--grace",
    type=Duration(most=86_400),
    default=60,
    show_default=True,
    help="How long running attempts may take to finish after a signal.",
)
@wait_option
@output_options
def work(
    name: str,
    url: str,
    types: tuple[str, ...],
    until_empty: bool,
    lease: float | None,
    max_attempts: int | None,
    expires_in: float | None,
    concurrency: int,
    grace: float,
    wait: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a worker that generates the content of pending rows.

    It calls your FUNCTION for each row. FUNCTION takes the claimed content and returns the
    document, or the document and a mapping of its costs. MODULE is imported from the current
    directory or the installed packages. An async FUNCTION runs in an event loop; a plain one runs
    in threads if --concurrency is more than 1.

    If FUNCTION raises an exception, the row is retried after one second, and after each further
    failure twice as long, up to five minutes, with jitter. After --max-attempts failures the row
    is failed. The log has only the class of an exception, because its text may repeat a prompt.

    On the first SIGTERM or SIGINT (Ctrl-C) the worker claims no more rows and finishes the
    running attempts. If they take longer than --grace, or on a second signal, it interrupts them
    and releases their rows to other workers; that is not a failure of the rows. FUNCTION must not
    handle these signals, nor SIGALRM, which measures --grace. If it catches the interruption
    (`except:`), it gets four more, and then the process ends. A plain FUNCTION that runs in a
    thread gets no interruption.

    \b
    Exit status:
        0  a signal stopped the worker, or with --until-empty no row is pending
        1  an error, such as a database that was unavailable for 30 seconds
        2  a wrong argument or option

    \b
    Example, for generate() in lessons.py:
        aicontent work lessons:generate --concurrency 4 --database postgresql://host/name
    """
    generate = _function(name)
    model = detected_model(aicontent.AIGeneratedContent, open_database(url, wait=wait))
    _log_to_stderr(logging.ERROR if quiet else logging.INFO)
    signals: list[int] = []
    running: list[Any] = []
    reports = deque([WorkReport()], maxlen=1)
    options: dict[str, Any] = {
        "types": types or None,
        "lease": lease,
        "stop": lambda: bool(signals),
        "until_empty": until_empty,
        "max_attempts": max_attempts,
        "expires_in": expires_in,
        "progress": reports.append,
    }
    hint = _IN_THREADS if concurrency > 1 and not is_async(generate) else _HINT
    interruptions = partial(_interruptions, signals, grace, running, "" if quiet else hint)

    @contextmanager
    def watching(content: Any) -> Iterator[None]:
        running.append(content)
        try:
            yield
        finally:
            running.remove(content)

    def watched(content: Any) -> Any:
        with watching(content):
            return generate(content)

    async def watched_later(content: Any) -> Any:
        with watching(content):
            return await generate(content)

    try:
        if concurrency > 1 or is_async(generate):
            function = watched_later if is_async(generate) else watched
            _run(model.awork(function, concurrency=concurrency, **options), interruptions)
        else:
            # All rows use one connection, instead of a new one for each statement.
            with model._meta.database.connection_context(), interruptions(_interrupt):
                model.work(watched, **options)
    except KeyboardInterrupt as interruption:
        if not signals:  # the function raised it
            raise
        if notes := getattr(interruption, "__notes__", None):
            raise click.ClickException("; ".join(notes)) from interruption
    finally:
        outcomes = ("completed", "failed", "retried", "released")
        report = {name: getattr(reports[0], name) for name in outcomes}
        if as_json:
            click.echo(json.dumps(report))
        elif not quiet:
            click.echo(", ".join(f"{outcome} {count:,}" for outcome, count in report.items()))


def _function(name: str) -> Generate:
    """Import the function that the argument MODULE:FUNCTION names.

    Raises:
        BadParameter: there is no such function, or it cannot be called with the content alone.
    """
    bad = partial(click.BadParameter, param_hint=_FUNCTION)
    module, _, path = name.partition(":")
    if not (module and path) or module != module.strip("."):
        raise bad(f"{_shown(name)} is not of this form: write it as in example.module:generate")
    sys.path.insert(0, os.getcwd())
    try:
        target: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise bad(
                f"there is no module {_shown(module)} in {os.getcwd()} or among the installed "
                "packages: change to the directory that contains it, and write the file "
                "example/module.py as example.module"
            ) from error
        reason = _shown(" ".join(f"{type(error).__name__}: {error}".split()))
        shown = f"`python -c 'import {_shown(module)}'` shows where"
        raise bad(f"importing {_shown(module)} fails with {reason}; {shown}") from error
    try:
        target = attrgetter(path)(target)
    except AttributeError as error:
        text = f"the module {_shown(module)} has no {_shown(path)}: check the name after the colon"
        raise bad(text) from error
    if not callable(target):
        kind = type(target).__name__
        raise bad(f"{_shown(name)} has the type {kind}: name a function, without calling it")
    try:
        check_generate(target)
    except ValidationError as error:
        raise bad(f"{_shown(name)} is {error.kind}; it {error.rule}") from error
    return target  # type: ignore[no-any-return]


def _shown(text: str) -> str:
    return printable(shortened(text))


def _log_to_stderr(level: int) -> None:
    """Log `aicontent.generation` to stderr, unless the function's module has set up logging."""
    above = (logger, logging.getLogger("aicontent"), logging.getLogger())
    handlers = [handler for each in above for handler in each.handlers]
    if any(not isinstance(handler, logging.NullHandler) for handler in handlers):
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)


def _run(coroutine: Coroutine[Any, Any, object], interruptions: Callable[[Any], Any]) -> None:
    """Run a coroutine in an event loop; an interruption cancels it, and is raised."""
    import asyncio  # only here, because the other commands do not need it

    async def main() -> None:
        task = asyncio.create_task(coroutine)
        loop = asyncio.get_running_loop()
        with interruptions(lambda: loop.call_soon_threadsafe(task.cancel)):
            await task

    try:
        asyncio.run(main())
    except asyncio.CancelledError as error:
        interruption = KeyboardInterrupt()
        for note in getattr(error, "__notes__", ()):
            interruption.add_note(note)
        raise interruption from error


def _interrupt() -> None:
    raise KeyboardInterrupt


def _write_error(line: str) -> None:
    """Write a line to the standard error. A signal handler must not use a buffered stream."""
    if sys.__stderr__ is not None:  # otherwise 2 may be another file, such as a connection
        with suppress(OSError):  # it may be closed
            os.write(2, f"{line}\n".encode())


@contextmanager
def _interruptions(
    signals: list[int], grace: float, running: list[Any], hint: str, interrupt: Callable[[], Any]
) -> Iterator[None]:
    """Add SIGTERM and SIGINT to `signals`. Interrupt at the second, or after `grace` seconds.

    While the function is `running`, each further signal and each second interrupt it again, in
    case it catches the interruption. The last one ends the process. At the first, a line says how
    many run, with the `hint`; without a hint there is no line.
    """
    set_timer: Callable[..., object] | None = getattr(signal, "setitimer", None)  # not on Windows
    first = 2 if grace > 0 else 1

    def handle(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        # The timer is set first: a full pipe of errors must not delay it.
        if set_timer is not None and len(signals) <= first:
            set_timer(signal.ITIMER_REAL, *((1, 1) if len(signals) == first else (grace,)))
        if len(signals) == 1 < first and running and hint:
            _write_error(f"finishing {counted(len(running), 'running attempt')}; {hint}")
        # If the function does not run, rows are being released, which must not be interrupted.
        if len(signals) == first or (running and len(signals) > first):
            if len(signals) == first + _INTERRUPTIONS:
                _write_error("Error: the function catches the interruptions that end it")
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
            interrupt()

    alarm = [] if set_timer is None else [signal.SIGALRM]
    with handled([signal.SIGINT, signal.SIGTERM, *alarm], handle):
        try:
            yield
        finally:
            if set_timer is not None:
                set_timer(signal.ITIMER_REAL, 0)
