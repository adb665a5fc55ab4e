"""Commands that a job runs before its round, after it, and where it failed.

A command is a list of words and no line of a shell. It is told of the job in its environment.
"""

import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from threading import Thread

from snapsync import _native, render
from snapsync.errors import SnapsyncError, describe
from snapsync.record import Record

NAMES = ("before", "after", "failed")
# What is kept of what one says, in bytes, and how many of its last lines go to the log.
_WORDS = 64 << 10
_LINES = 20
# Told to end, it has so many seconds; what it left behind may keep its output open for as long.
_TO_END = 5.0
_TO_CLOSE = 1.0


class Hooks(Record):
    """The commands of a job, each empty where there is none, and how many seconds each may take."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    timeout: int = 300


class Command:
    """A command that runs, with all that it starts."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], what: bytes = b"") -> None:
        """Start it with these variables beside those of this process, and `what` at its standard input.

        Raises OSError where it cannot be started, RefusedError where another user can have written it.
        """
        program = shutil.which(words[0]) or words[0]
        os.close(_native.trusted("the command", program))
        self._process = subprocess.Popen(
            [program, *words[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self._said: deque[bytes] = deque()
        self._helpers = [
            Thread(target=self._write, args=(what,), daemon=True),
            Thread(target=self._read, daemon=True),
        ]
        for helper in self._helpers:
            helper.start()

    def wait(self, seconds: float) -> tuple[str | None, list[str]]:
        """Wait for its end: why it failed, None if it did not, and its last lines."""
        try:
            code = self._process.wait(seconds)
            error = None if code == 0 else _ended(code)
        except subprocess.TimeoutExpired:
            self.terminate()
            error = f"it took longer than {render.seconds(seconds)}, and was ended"
        for helper in self._helpers:
            helper.join(_TO_CLOSE)
        said = b"".join(self._said).decode("utf-8", "replace").splitlines()
        return error, [render.name(line) for line in said[-_LINES:] if line.strip()]

    def terminate(self) -> None:
        """End it and all that it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(_TO_END)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def _write(self, what: bytes) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            with stream:
                stream.write(what)
        except OSError:  # it does not want to know
            return

    def _read(self) -> None:
        stream, size = self._process.stdout, 0
        assert stream is not None
        while piece := os.read(stream.fileno(), 1 << 16):
            self._said.append(piece)
            size += len(piece)
            while size - len(self._said[0]) > _WORDS:
                size -= len(self._said.popleft())


def start(words: Sequence[str], environment: Mapping[str, str], what: bytes = b"") -> Command | str:
    """Start a command, or say why it cannot be."""
    try:
        return Command(words, environment, what)
    except (SnapsyncError, OSError) as error:
        return describe(error).message


def _ended(code: int) -> str:
    if code > 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"
