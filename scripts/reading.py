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
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import IO

import click

from aicontent.transfer.json_lines import Batch, Refused, batches

_AHEAD = 8
"""Batches, of a megabyte, that may wait: those of a moment in which the disk is busy."""

_LENGTH = 8


class Ahead:
    """What another thread has read ahead of the main one, some pieces at most.

    An exception that a signal raises leaves it whole, and is no other exception. queue.Queue
    can keep its lock then, or raise RuntimeError instead: its Condition is written in Python.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[bool] = queue.SimpleQueue()
        for _ in range(_AHEAD):
            self._room.put(True)
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def get(self) -> bytes:
        """Return the next piece; the empty one is the last."""
        while True:
            # A signal just before the wait does not end it, hence the timeout.
            with suppress(queue.Empty):
                data = self._pieces.get(timeout=1)
                self._room.put(True)
                return data

    def close(self) -> None:
        """Read no more: what is read from must be at its end, or end by itself."""
        self._room.put(False)
        self._thread.join()

    def _fill(self) -> None:
        while self._room.get():
            data = self._read()
            self._pieces.put(data)
            if not data:
                return


def batches_of(file: IO[bytes], kind: str) -> Iterator[Batch]:
    """Read the batches of a file of lines, which has a file descriptor.

    Raises:
        click.ClickException: the reader ended before the file did.
    """
    # -P: what lies in the current directory is not to be imported.
    command = [sys.executable, "-P", "-m", __name__, kind]
    with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE) as process:  # noqa: S603
        assert process.stdout is not None  # noqa: S101 - for mypy
        ahead = Ahead(partial(_piece, process.stdout))
        try:
            while data := ahead.get():
                rows, refused, size = marshal.loads(data)  # noqa: S302 - our own
                yield Batch(rows, [Refused(*each) for each in refused], size)
            if process.wait():
                raise click.ClickException("the reader of the lines ended early")
        finally:
            process.terminate()
            ahead.close()


def _piece(pipe: IO[bytes]) -> bytes:
    length = int.from_bytes(pipe.read(_LENGTH), "big")
    data = pipe.read(length)
    return data if len(data) == length else b""


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
