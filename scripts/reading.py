"""Reading an import's lines in a process of its own: the one that stores has a processor for it.

Run as `python -m aicontent.scripts.reading sqlite|postgresql`, it reads lines and writes batches.
"""

from __future__ import annotations

import gc
import marshal
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import click

from aicontent.lines import Batch, Refused, batches

_PIPE = 2**20
"""Bytes the reader may be ahead: as many as Linux gives to anyone."""


def batches_of(file: IO[bytes], kind: str) -> Iterator[Batch]:
    """Read the batches of a file of lines, which has a file descriptor.

    Raises:
        click.ClickException: the reader ended before the file did.
    """
    # -P: what lies in the current directory is not to be imported.
    command = [sys.executable, "-P", "-m", __name__, kind]
    pipes = {"stdin": file, "stdout": subprocess.PIPE, "pipesize": _PIPE}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]  # noqa: S603
        assert process.stdout is not None  # noqa: S101 - for mypy
        try:
            while (found := marshal.load(process.stdout)) is not None:  # noqa: S302 - our own
                rows, refused, size = found
                yield Batch(rows, [Refused(*each) for each in refused], size)
        except EOFError:
            raise click.ClickException("the reader of the lines ended early") from None
        finally:
            process.stdout.close()  # a reader that is still busy ends
            process.terminate()


def main(kind: str) -> None:
    """Read lines from the standard input, and write what they hold to the standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that stores ends this one
    gc.disable()  # rows are no cycles, and there are many
    out = sys.stdout.buffer
    for batch in batches(sys.stdin.buffer, for_sqlite=kind == "sqlite"):
        refused = [(each.line, each.reason) for each in batch.refused]
        out.write(marshal.dumps((batch.rows, refused, batch.size)))
        out.flush()
    out.write(marshal.dumps(None))


if __name__ == "__main__":
    main(sys.argv[1])
