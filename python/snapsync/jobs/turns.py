"""A job runs once at a time, whoever starts it.

Each job has a file that whoever runs it holds locked. The kernel lets go of the lock when that process ends,
however it ends, so a crash leaves no job that seems to run. The locks are those of open file descriptions
(fcntl(2)): they hold between threads too, can be asked about without being taken, and are shared with a
process that inherits the file. So a round that outlives a `run` that was killed is seen until it ends.
"""

import fcntl
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from time import sleep

from snapsync.jobs import state
from snapsync.record import Record

# `struct flock` of 64-bit Linux, and a lock for writing on all of a file.
_FLOCK = "hhqqi4x"
_ALL = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
# How long it takes until who waits sees that the turn has come.
_LOOK = 0.5


class Turn(Record):
    """Who runs a job: the number of its process, and since when. None while that is being written."""

    process: int | None
    since: datetime | None


def runs(job: str) -> Turn | None:
    """Who runs a job now; None if nobody does."""
    try:
        with state.directory() as home, _file(home, job, os.O_RDONLY) as file:
            return _holder(file) if _is_locked(file) else None
    except FileNotFoundError:
        return None


@contextmanager
def taken(job: str, wait: Callable[[Turn], bool]) -> Iterator[int | None]:
    """Take a job's turn for as long as the block runs: the file of it, None if it was not taken.

    While another process has it, `wait` is asked again and again whether to go on waiting.
    """
    with state.directory(make=True) as home, _file(home, job, os.O_RDWR | os.O_CREAT) as file:
        while not _lock(file):
            if not wait(_holder(file)):
                yield None
                return
            sleep(_LOOK)
        _write(file, Turn(os.getpid(), state.now()))
        yield file


def handed(file: int, process: int) -> None:
    """Note that the round of a turn is this process, which has inherited the file."""
    turn = _holder(file)
    _write(file, turn, process)


@contextmanager
def _file(home: int, job: str, how: int) -> Iterator[int]:
    flags = how | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(f"{job}.running", flags, 0o600, dir_fd=home)
    try:
        yield file
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    """Lock all of a file, if nobody else has."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _ALL)
    except BlockingIOError:
        return False
    return True


def _is_locked(file: int) -> bool:
    told = struct.unpack_from(_FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, _ALL))
    return bool(told[0] != fcntl.F_UNLCK)


def _write(file: int, turn: Turn, round_: int | None = None) -> None:
    text = json.dumps({"process": turn.process, "since": str(turn.since), "round": round_})
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _holder(file: int) -> Turn:
    try:
        told = json.loads(os.pread(file, 1 << 12, 0))
        process, its_round = int(told["process"]), told.get("round")
        if its_round is not None and not os.path.exists(f"/proc/{process}"):
            process = int(its_round)  # it was killed, and its round goes on
        return Turn(process, datetime.fromisoformat(told["since"]))
    except (ValueError, KeyError, TypeError):
        return Turn(None, None)
