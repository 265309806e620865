"""Run processes that put load on the database during a measurement.

`claims`, `cleanup`, `load` and `transfer` start them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Protocol

import peewee

import aicontent

PAUSE = 0.005
"""Seconds between two calls of a busy service, and between two checks for work."""

_ROOT = Path(__file__).resolve().parents[1]

_WORK = """
from benchmarks.processes import work
work(*sys.argv[1:])
"""


class Load(Protocol):
    """Work that a process repeats until it is stopped."""

    def __init__(self, database: peewee.Database) -> None:
        """Prepare the work. This time is not measured."""

    def step(self) -> None:
        """Run one step of the work."""

    def result(self) -> dict[str, float]:
        """Return the figures over all steps."""


@contextmanager
def concurrently(
    load: type[Load], url: str, count: int = 1
) -> Iterator[Callable[[], list[dict[str, float]]]]:
    """Run a load in processes that start together when all are ready.

    Yields a function that stops the processes and returns the result of each.
    """
    child = in_checkout(_WORK, load.__module__, load.__qualname__, url)
    with processes([child] * count) as started:
        for process in started:
            receive(process)
        for process in started:
            send(process, "start")

        def stop() -> list[dict[str, float]]:
            for process in started:
                process.stdin.close()  # type: ignore[union-attr]
                process.stdin = None
            return [json.loads(output(process)) for process in started]

        yield stop


@contextmanager
def processes(commands: Sequence[Sequence[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes, and kill those that are still running at the end of the block.

    Each process leads its own process group, so that Ctrl-C in a terminal interrupts only the
    benchmark, which then kills the processes and their children.
    """
    started: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    process_group=0,
                )
            )
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def output(process: subprocess.Popen[str]) -> str:
    """Wait for a process and return its output.

    Raises:
        subprocess.CalledProcessError: its exit status is not 0.
    """
    text = process.communicate()[0]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return text


def send(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to the input of a process."""
    process.stdin.write(f"{line}\n")  # type: ignore[union-attr]
    process.stdin.flush()  # type: ignore[union-attr]


def receive(process: subprocess.Popen[str]) -> str:
    """Wait for a line of the output of a process.

    Raises:
        subprocess.CalledProcessError: the process has ended.
    """
    line = process.stdout.readline()  # type: ignore[union-attr]
    if not line:
        raise subprocess.CalledProcessError(process.wait(), process.args)
    return line


def python(code: str) -> list[str]:
    """Return the command that runs this code. The caller appends the arguments.

    -P keeps the checkout's aicontent folder from hiding the installed package.
    """
    return [sys.executable, "-P", "-c", code]


def in_checkout(code: str, *arguments: str) -> list[str]:
    """Return the command that runs code which imports modules of the benchmark.

    The checkout comes last on the path, so that the child imports the installed aicontent.
    """
    prelude = "import sys\nsys.path.append(sys.argv.pop(1))\n"
    return [*python(prelude + code), str(_ROOT), *arguments]


def work(module: str, name: str, url: str) -> None:
    """Repeat a load between the first line of the input and its end, and print JSON results."""
    database = aicontent.connect(url, timeout=60)
    with database.connection_context():
        load: Load = getattr(import_module(module), name)(database)
        print("ready", flush=True)
        sys.stdin.readline()
        load.step()  # at least once, even if the input ends at once
        while not select.select([sys.stdin], [], [], 0)[0]:
            load.step()
    print(json.dumps(load.result()))
