"""Runs `snapsync` as copies of a process that has loaded it, which saves most of a start: tests start it ten
thousand times.

    python nursery.py FD

Each message that comes through the socket FD is a call, with three descriptors: where its exit code goes, its
stdout and its stderr. A copy is as good as a start where the environment tells neither interpreter nor
loader anything: `machine.run` starts the program for all else, and always with SNAPSYNC_TESTS_START=1.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any

MOST = 1 << 16
"""The bytes of a call."""


def serve(calls: socket.socket) -> dict[str, Any]:
    """Returns in a copy, with its call."""
    running: dict[int, tuple[int, int]] = {}
    with calls, selectors.DefaultSelector() as ready:
        ready.register(calls, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fd in running:
                    ready.unregister(key.fd)
                    ended(key.fd, *running.pop(key.fd))
                    continue
                text, (answer, *streams), _, _ = received(calls)
                pid = os.fork()
                if pid == 0:
                    for one in (answer, *running, *(answer for _, answer in running.values())):
                        os.close(one)
                    call: dict[str, Any] = json.loads(text)
                    become(call, streams)
                    return call
                for stream in streams:
                    os.close(stream)
                handle = os.pidfd_open(pid)
                running[handle] = (pid, answer)
                ready.register(handle, selectors.EVENT_READ)


def received(calls: socket.socket) -> tuple[bytes, list[int], int, Any]:
    """The next call; when there are no more, all is over."""
    message = socket.recv_fds(calls, MOST, 3)
    if not message[0]:
        os._exit(0)
    return message


def ended(handle: int, pid: int, answer: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(answer, str(code).encode())
    os.close(answer)
    os.close(handle)


def become(call: dict[str, Any], streams: list[int]) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate((nothing, *streams)):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(call["env"])
    time.tzset()
    os.umask(call["umask"])
    os.chdir(call["cwd"])
    sys.argv = call["words"]


if __name__ == "__main__":
    # As where the program itself is started.
    sys.path.remove(str(Path(__file__).parent))
    from snapsync.cli import commands
    from snapsync.cli.main import main

    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
    main()
