"""A fork server: commands of snapsync begin as copies of a process that has loaded all that they need.

It is forked before its owner starts any thread, and has none itself, so each copy of it is whole.
"""

import gc
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO
from typing import IO, NoReturn, TextIO

from snapsync.errors import ExitCode

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ForkServer:
    """Starts commands on its owner's behalf, and ends them when the owner is gone.

    `main` is given the arguments of a command and returns its exit code.
    """

    def __init__(self, main: Callable[[list[str]], int]) -> None:
        _open_standard_handles()
        # Here and there a few files are open for each command.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._server, its = socket.socketpair()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._server.close()
            _Server(its, main).serve()
        its.close()

    def start(self, arguments: Sequence[str]) -> "ForkedProcess":
        """Start `snapsync ARGUMENTS`. Several threads may do so at once."""
        line = os.memfd_create("arguments")
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        answer, its_answer = socket.socketpair()
        with open(line, "wb") as file, its_answer:
            file.write(b"\0".join(os.fsencode(word) for word in arguments))
            file.flush()
            # One byte and one call, so requests of several threads do not mix.
            with suppress(BrokenPipeError):  # then nobody answers, either
                socket.send_fds(self._server, [b"\0"], [line, its_out, its_err, its_answer.fileno()])
        os.close(its_out)
        os.close(its_err)
        return ForkedProcess(out, err, answer)

    def close(self) -> None:
        """End what still runs, and the server."""
        self._server.close()
        os.waitpid(self._pid, 0)


class ForkedProcess:
    """A command that a server has started, to be watched like a `subprocess.Popen`."""

    def __init__(self, out: int, err: int, answer: socket.socket) -> None:
        self.stdout: IO[bytes] = FileIO(out)
        self.stderr: IO[bytes] = FileIO(err)
        self._answer = answer
        self._code: int | None = None
        self._handles: list[int] = []
        told, self._handles, _, _ = socket.recv_fds(answer, 32, 1)
        self.pid = int(told or _gone())

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or minus the signal that killed it. Raises `subprocess.TimeoutExpired`."""
        if self._code is None:
            self._answer.settimeout(timeout)
            try:
                told = self._answer.recv(32)
            except TimeoutError:
                raise subprocess.TimeoutExpired("snapsync", timeout or 0) from None
            self._code = os.waitstatus_to_exitcode(int(told or _gone()))
            self._answer.close()
        return self._code

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            # A handle of the process, which is no later one of that number.
            signal.pidfd_send_signal(self._handles[0], number)

    def __del__(self) -> None:
        for handle in self._handles:
            os.close(handle)


def _writer(handle: int) -> TextIO:
    return open(handle, "w", encoding="utf-8", errors="backslashreplace")


def _open_standard_handles() -> None:
    """Open what was closed when this was started, so that nothing else takes its number."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)


def _gone() -> NoReturn:
    raise ChildProcessError("the process that starts the rounds has ended")


class _Server:
    """The other process. It hears of an end of its children and of its owner in one place."""

    def __init__(self, asked: socket.socket, main: Callable[[list[str]], int]) -> None:
        self._asked, self._main = asked, main
        self._children: dict[int, tuple[int, socket.socket]] = {}
        self._events = selectors.DefaultSelector()
        self._events.register(asked, selectors.EVENT_READ)
        self._handlers = {number: signal.getsignal(number) for number in _STOPPING}

    def serve(self) -> NoReturn:
        """Start what is asked for until the owner closes its end, then end all that runs."""
        for number in _STOPPING:  # the owner is told to stop, and says what stops here
            signal.signal(number, signal.SIG_IGN)
        gc.freeze()  # what is loaded is shared with the copies as long as no one writes there
        try:
            while self._asked.fileno() >= 0:
                for event, _ in self._events.select():
                    if event.fd in self._children:
                        self._ended(event.fd)
                    else:
                        self._request()
        finally:
            for handle in self._children:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGTERM)
            for pid, _ in self._children.values():
                os.waitpid(pid, 0)
            os._exit(ExitCode.DONE)

    def _request(self) -> None:
        told, handles, _, _ = socket.recv_fds(self._asked, 1, 4)
        if not told:
            self._events.unregister(self._asked)
            self._asked.close()
            return
        line, out, err, answer = handles
        answers = socket.socket(fileno=answer)
        pid = os.fork()
        if pid == 0:
            answers.close()
            self._become(line, out, err)
        handle = os.pidfd_open(pid)
        self._children[handle] = pid, answers
        self._events.register(handle, selectors.EVENT_READ)
        for used in (line, out, err):
            os.close(used)
        with suppress(OSError):  # nobody waits for it any more
            socket.send_fds(answers, [str(pid).encode()], [handle])

    def _ended(self, handle: int) -> None:
        pid, answer = self._children.pop(handle)
        self._events.unregister(handle)
        os.close(handle)
        _, status = os.waitpid(pid, 0)
        with answer, suppress(OSError):
            answer.send(str(status).encode())

    def _become(self, line: int, out: int, err: int) -> NoReturn:
        """Be the command. Nothing of the server may happen in this process any more."""
        code: int = ExitCode.FAILED
        try:
            self._events.close()
            self._asked.close()
            for handle, (_, answer) in self._children.items():
                os.close(handle)
                answer.close()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            with open(line, "rb") as file:
                file.seek(0)
                words = [os.fsdecode(word) for word in file.read().split(b"\0")]
            for handle, at in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
                os.dup2(handle, at)
                os.close(handle)
            # Those of the server remember what kind of file they wrote to.
            sys.stdout, sys.stderr = _writer(1), _writer(2)
            code = self._main(words)
            sys.stdout.flush()
            sys.stderr.flush()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else code
        finally:
            os._exit(code)
