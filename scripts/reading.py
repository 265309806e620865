"""Reading an import's lines in a process of its own: the one that stores has a processor for it.

Run as `python -m aicontent.scripts.reading sqlite|postgresql`, it reads lines and writes batches.
"""

from __future__ import annotations

import gc
import marshal
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

import click

from aicontent.lines import Batch, Refused, batches

_AHEAD = 8
"""Batches, of a megabyte, that may wait: those of a moment in which the disk is busy."""

_LENGTH = 8


def batches_of(file: IO[bytes], kind: str) -> Iterator[Batch]:
    """Read the batches of a file of lines, which has a file descriptor.

    Raises:
        click.ClickException: the reader ended before the file did.
    """
    # -P: what lies in the current directory is not to be imported.
    command = [sys.executable, "-P", "-m", __name__, kind]
    with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE) as process:  # noqa: S603
        assert process.stdout is not None  # noqa: S101 - for mypy
        waiting: queue.Queue[bytes] = queue.Queue(_AHEAD)
        collector = threading.Thread(target=_collect, args=(process.stdout, waiting), daemon=True)
        collector.start()
        try:
            while data := waiting.get():
                rows, refused, size = marshal.loads(data)  # noqa: S302 - our own
                yield Batch(rows, [Refused(*each) for each in refused], size)
            if process.wait():
                raise click.ClickException("the reader of the lines ended early")
        finally:
            process.terminate()
            while collector.is_alive():  # it may wait for room when storing has failed
                with suppress(queue.Empty):
                    waiting.get(timeout=0.05)


def _collect(pipe: IO[bytes], waiting: queue.Queue[bytes]) -> None:
    while length := int.from_bytes(pipe.read(_LENGTH), "big"):
        data = pipe.read(length)
        if len(data) < length:
            break
        waiting.put(data)
    waiting.put(b"")


def main(kind: str) -> None:
    """Read lines from the standard input, and write what they hold to the standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that stores ends this one
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # in silence
    gc.disable()  # rows are no cycles, and there are many
    out = sys.stdout.buffer
    for batch in batches(sys.stdin.buffer, for_sqlite=kind == "sqlite"):
        refused = [(each.line, each.reason) for each in batch.refused]
        data = marshal.dumps((batch.rows, refused, batch.size))
        out.write(len(data).to_bytes(_LENGTH, "big") + data)
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
