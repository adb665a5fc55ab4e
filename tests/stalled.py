"""One write(2) that is under way for as long as a test wants: the source of its bytes is not there yet."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import libc, missing

USERFAULTFD = 323
API, REGISTER, COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03
PAGE = mmap.PAGESIZE


@contextmanager
def stalled_write(path: Path, data: bytes, seconds: float = 20) -> Iterator[Callable[[], None]]:
    """Writes `data`, whole pages, over the beginning of a file, and halts after the first of them, when the
    times of the file are set, for so many seconds at most. What is given lets it go on until it is done."""
    fault = libc.syscall(USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    if fault < 0:
        missing("userfaultfd(2)")
    go, stalls, done = threading.Event(), threading.Event(), threading.Event()
    fcntl.ioctl(fault, API, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
    memory = mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(fault, REGISTER, bytearray(struct.pack("QQQQ", start, len(data), 1, 0)))

    def serve() -> None:
        while not done.is_set():
            if not select.select([fault], [], [], 0.05)[0]:
                continue
            page = struct.unpack_from("=BxHIQQ", os.read(fault, 32))[4] & -PAGE
            if page > start:
                stalls.set()
                go.wait(seconds)
                go.set()
            source = ctypes.create_string_buffer(data[page - start :][:PAGE], PAGE)
            # Memory of its own, whole pages of which are copied.
            room = mmap.mmap(-1, PAGE)
            room[:] = source.raw
            where = ctypes.addressof(ctypes.c_char.from_buffer(room))
            fcntl.ioctl(fault, COPY, bytearray(struct.pack("QQQQq", page, where, PAGE, 0, 0)))

    def write() -> None:
        file = os.open(path, os.O_WRONLY)
        written = 0
        while written < len(data):
            written += os.pwrite(file, memoryview(memory)[written:], written)
        os.close(file)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    writer = threading.Thread(target=write)
    writer.start()
    assert stalls.wait(10)
    time.sleep(0.3)  # the time that it has set is settled

    def finish() -> None:
        go.set()
        writer.join()

    try:
        yield finish
    finally:
        finish()
        done.set()
        server.join()
        os.close(fault)
