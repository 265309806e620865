"""Run workers in an event loop, each with one row at a time."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..database.supported import database_of
from ..errors import check_number, one_line
from ..generation.arguments import check_generate
from ..generation.worker import Work, WorkReport
from .driver import Driver


async def work(
    model: Any, generate: Callable[[Any], Any], concurrency: int, **options: Any
) -> WorkReport:
    """Run `concurrency` workers in this loop; see `AIGeneratedContent.awork`."""
    check_generate(generate)
    check_number(concurrency, "concurrency", 1)
    all_work = Work("awork", model, generate, **options)
    drivers = [Driver(all_work.steps(), database_of(model)) for _ in range(concurrency)]
    tasks = [driver.start() for driver in drivers]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError as cancellation:
        await _cancel(tasks)
        for error in _errors(tasks):
            cancellation.add_note(one_line(error))
        raise
    if len(errors := _errors(tasks)) > 1:
        raise BaseExceptionGroup("several workers failed", errors)
    for task in tasks:
        task.result()
    return all_work.report


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks until all have ended; a further cancellation cancels them again."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait(pending)


def _errors(tasks: list[asyncio.Task[None]]) -> list[BaseException]:
    """Return the errors of tasks, without cancellations."""
    return [
        error for task in tasks if not task.cancelled() and (error := task.exception()) is not None
    ]
