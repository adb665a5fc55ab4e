"""A child process that is watched: its output is limited, and it is noticed when it stands still."""

import os
import subprocess
from collections import deque
from collections.abc import Callable
from threading import Thread
from time import monotonic
from typing import IO, Protocol

# What is kept of what it says: the beginning of its report, the end of everything else.
_REPORT = 64 << 20
_WORDS = 64 << 10
# Below this share of a processor, for this many seconds, it stands still: it waits for something else.
_SHARE = 0.05
STILL = 2.0
# Told to end, it has so long; killed, it is waited for so long: what hangs in the kernel does not end.
_TO_END = 30.0
_TO_DIE = 10.0


class Process(Protocol):
    """What is used of a `subprocess.Popen` whose outputs are pipes."""

    pid: int

    @property
    def stdout(self) -> IO[bytes] | None: ...

    @property
    def stderr(self) -> IO[bytes] | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Child:
    """A process whose standard output and standard error are captured."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._out: deque[bytes] = deque()
        self._err: deque[bytes] = deque()
        streams = (process.stdout, process.stderr)
        self._readers = [
            Thread(target=target, args=(stream,), daemon=True)
            for target, stream in zip((self._keep_first, self._keep_last), streams, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, on_still: Callable[[], None], longest: float) -> tuple[int | None, str, str]:
        """Wait for its end, and give its exit code and what it said.

        `on_still` is called when it first stands still. After `longest` seconds of that it is ended, or left
        where that cannot be, and has no exit code.
        """
        code = self._watch(on_still, longest)
        for reader in self._readers:
            # Other processes may have inherited its outputs, and keep them open.
            reader.join(STILL)
        out, err = (b"".join(kept).decode("utf-8", "surrogateescape") for kept in (self._out, self._err))
        return code, out, err

    def _watch(self, on_still: Callable[[], None], longest: float) -> int | None:
        since = looked = monotonic()
        used, is_told = 0.0, False
        while True:
            try:
                return self._process.wait(1)
            except subprocess.TimeoutExpired:
                pass
            now = monotonic()
            if now - looked < STILL:
                continue
            before, used = used, self._used()
            if used - before > _SHARE * (now - looked):
                since = now
            looked = now
            if now - since >= longest:
                self._end()
                return None
            if now - since >= STILL and not is_told:
                is_told = True
                on_still()

    def _used(self) -> float:
        """Seconds of processor time that it has used."""
        try:
            with open(f"/proc/{self._process.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _end(self) -> None:
        for end, patience in ((self._process.terminate, _TO_END), (self._process.kill, _TO_DIE)):
            end()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            return

    def _keep_first(self, stream: IO[bytes]) -> None:
        room = _REPORT
        while piece := os.read(stream.fileno(), 1 << 16):
            self._out.append(piece[:room])
            room -= len(self._out[-1])

    def _keep_last(self, stream: IO[bytes]) -> None:
        size = 0
        while piece := os.read(stream.fileno(), 1 << 16):
            self._err.append(piece)
            size += len(piece)
            while size - len(self._err[0]) > _WORDS:
                size -= len(self._err.popleft())
