"""Import the package once, and fork a process for each command or code of a test.

`helpers` starts it. A forked command starts in a fifth of the time of a new interpreter.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from contextlib import suppress

from aicontent.scripts.cli import main


def serve(requests: socket.socket) -> socket.socket:
    """Fork a process for each request, and return its socket there.

    Exit when the other side closes the connection.
    """
    while True:
        data, received, *_ = socket.recv_fds(requests, 1, 4)
        if not data:
            sys.exit()
        reap()
        if os.fork() == 0:
            requests.close()
            for number, file in enumerate(received[:3]):
                os.dup2(file, number)
                os.close(file)
            return socket.socket(fileno=received[3])
        for file in received:
            os.close(file)


def reap() -> None:
    """Reap the ended child processes."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def supervise(asked: socket.socket) -> dict[str, object]:
    """Fork again, and return the request in the child. The parent reports the status."""
    with asked, asked.makefile("rb") as lines:
        request: dict[str, object] = json.loads(lines.readline())
        pid = os.fork()
        if pid:
            for number in range(3):
                os.close(number)
            asked.sendall(b"%d\n" % pid)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            asked.sendall(b"%d\n" % status)
            os._exit(0)
    return request


gc.freeze()  # otherwise each fork visits, and so copies, every object when it ends
request = supervise(serve(socket.socket(fileno=int(sys.argv[1]))))
os.chdir(request["cwd"])
os.environ.clear()
os.environ.update(request["env"])
sys.argv = request["argv"]
if request["code"] is None:
    sys.exit(main())
exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})
