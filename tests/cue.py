"""A tree whose names are exchanged on cue, between two system calls of a command.

A filter that the command is started with reports each of its calls on files before the kernel carries
it out (`seccomp_unotify(2)`): the command waits while the test changes the tree as the user of its choice,
and goes on. So whatever lies between a look and the act that follows from it is met, and met at will: the
cue is the number of a call.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from machine import Ran, command, environment

libc = ctypes.CDLL(None, use_errno=True)

CALLS = {
    437: "openat2",
    257: "openat",
    316: "renameat2",
    264: "renameat",
    265: "linkat",
    263: "unlinkat",
    258: "mkdirat",
    259: "mknodat",
    266: "symlinkat",
    268: "fchmodat",
    90: "chmod",
    91: "fchmod",
    260: "fchownat",
    93: "fchown",
    280: "utimensat",
    188: "setxattr",
    190: "fsetxattr",
    197: "removexattr",
    332: "statx",
    16: "ioctl",
    18: "pwrite64",
    326: "copy_file_range",
    77: "ftruncate",
    285: "fallocate",
}
"""By their numbers on x86-64."""

SECCOMP, PIDFD_OPEN, PIDFD_GETFD = 317, 434, 438
SET_MODE_FILTER, NEW_LISTENER = 1, 8
RECEIVE, SEND = 0xC0502100, 0xC0182101
CONTINUE = 1
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def _filter() -> _Program:
    """Reports the calls of the list, and lets all others be."""
    numbers = list(CALLS)
    lines = [_Instruction(LOAD, 0, 0, 0)]
    lines += [_Instruction(EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    lines += [_Instruction(RETURN, 0, 0, ALLOW), _Instruction(RETURN, 0, 0, NOTIFY)]
    array = (_Instruction * len(lines))(*lines)
    return _Program(len(lines), array)


@dataclass
class Cues:
    """What a command did until it ended."""

    ran: Ran
    calls: list[str] = field(default_factory=list)


def on_cue(
    act: Callable[[int, str], object],
    *args: object,
    env: Mapping[str, object] | None = None,
    wrap: tuple[str, ...] = (),
) -> Cues:
    """Runs `snapsync ARGS`; before each of its calls from its first look beneath a directory on calls `act`
    with the number and the name of the call."""
    words = tuple(str(arg) for arg in args)
    told, tell = os.pipe()
    heard, hear = os.pipe()
    program = _filter()

    def listen() -> None:
        fd = libc.syscall(SECCOMP, SET_MODE_FILTER, NEW_LISTENER, ctypes.byref(program))
        os.write(tell, struct.pack("ii", os.getpid(), fd))
        os.read(heard, 1)

    supervisor = _Supervisor(told, hear, act)
    thread = threading.Thread(target=supervisor.run, daemon=True)
    thread.start()
    try:
        process = subprocess.Popen(
            [*wrap, *command(), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            env=environment(env),
            preexec_fn=listen,
        )
        out, err = process.communicate(timeout=300)
    finally:
        for fd in (tell, heard):
            os.close(fd)
        thread.join(timeout=60)
    if supervisor.failure:
        raise supervisor.failure
    return Cues(Ran(words, process.returncode, out, err), supervisor.calls)


class _Supervisor:
    """Answers every report with leave to go on, once the test has had its turn."""

    def __init__(self, told: int, hear: int, act: Callable[[int, str], object]) -> None:
        self.told, self.hear, self.act = told, hear, act
        self.calls: list[str] = []
        self.has_begun = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            said = os.read(self.told, 8)
            os.close(self.told)
            if len(said) < 8:
                return
            pid, number = struct.unpack("ii", said)
            assert number >= 0, "the kernel does not report calls"
            process = os.pidfd_open(pid)
            listener = libc.syscall(PIDFD_GETFD, process, number, 0)
            assert listener >= 0, os.strerror(ctypes.get_errno())
            os.write(self.hear, b"x")
            os.close(self.hear)
            os.close(process)
            with suppress(FileNotFoundError):
                self.serve(listener)
            os.close(listener)
        except BaseException as error:
            self.failure = error

    def serve(self, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            _, events = poll.poll()[0]
            if events & select.POLLHUP:
                return
            report = bytearray(80)
            try:
                fcntl.ioctl(listener, RECEIVE, report)
            except FileNotFoundError:
                continue
            (ident, _, _, number) = struct.unpack_from("=QIIi", report)
            name = CALLS[number]
            try:
                self.heard(name)
            finally:
                answer = struct.pack("=QqiI", ident, 0, 0, CONTINUE)
                with suppress(FileNotFoundError):
                    fcntl.ioctl(listener, SEND, answer)

    def heard(self, name: str) -> None:
        # Before that the interpreter starts.
        self.has_begun |= name == "openat2"
        if self.has_begun and self.failure is None:
            try:
                self.act(len(self.calls), name)
            except BaseException as error:
                self.failure = error
            self.calls.append(name)


class User:
    """An ordinary user beside the command: what he does runs in a process of its own, without privileges."""

    def __init__(self, uid: int = 65534) -> None:
        self.uid = uid

    def does(self, act: Callable[[], Any]) -> bool:
        """Whether he could."""
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setresgid(self.uid, self.uid, self.uid)
                os.setresuid(self.uid, self.uid, self.uid)
                act()
            except BaseException:
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1] == 0
