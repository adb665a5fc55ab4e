"""Where the blocks of a file lie on the device, as FIEMAP tells it."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

LAST, ENCODED, INLINE, UNWRITTEN, SHARED = 0x1, 0x8, 0x200, 0x800, 0x2000

Path = str | bytes | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Mapped:
    """One extent: where in the file, where on the device, how long, and the FIEMAP_EXTENT_* flags."""

    logical: int
    physical: int
    length: int
    flags: int


def mapped(path: Path) -> list[Mapped]:
    """All extents of a file, after it has been written out."""
    room, header, extent = 256, struct.Struct("=QQLLLL"), struct.Struct("=QQQQQLLLL")
    found: list[Mapped] = []
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
        start, more = 0, True
        while more:
            buffer = bytearray(header.size + room * extent.size)
            header.pack_into(buffer, 0, start, (1 << 63) - 1 - start, 1, 0, room, 0)
            fcntl.ioctl(fd, 0xC020_660B, buffer)  # FS_IOC_FIEMAP
            count = header.unpack_from(buffer)[3]
            for index in range(count):
                row = extent.unpack_from(buffer, header.size + index * extent.size)
                found.append(Mapped(row[0], row[1], row[2], row[5]))
            more = bool(count) and not found[-1].flags & LAST
            start = found[-1].logical + found[-1].length if found else 0
    finally:
        os.close(fd)
    return found


def address(path: Path, offset: int) -> int:
    """Where on the device the byte at `offset` lies. Of a compressed extent, only where all of it begins."""
    for row in mapped(path):
        if row.logical <= offset < row.logical + row.length:
            return row.physical + (0 if row.flags & ENCODED else offset - row.logical)
    raise ValueError(f"nothing of {path!r} is at {offset}")


def rot(path: Path, offset: int) -> None:
    """Changes a byte on the loop device of the file system, which hears nothing of it."""
    place, device = address(path, offset), os.stat(path).st_dev
    with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/uevent") as told:
        (name,) = (line.partition("=")[2].strip() for line in told if line.startswith("DEVNAME="))
    with open(f"/dev/{name}", "r+b", buffering=0) as disk:
        disk.seek(place)
        (byte,) = disk.read(1)
        disk.seek(place)
        disk.write(bytes([byte ^ 1]))
        os.fsync(disk.fileno())
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def shares_all(a: Path, b: Path) -> bool:
    """All of `b` lies in the same places of the device as `a`, offset for offset."""
    one, two = _places(a), _places(b)
    return bool(two) and one == two


def _places(path: Path) -> list[tuple[int, int, int]]:
    """Runs of the file and their place on the device, however the file system cuts them."""
    runs: list[tuple[int, int, int]] = []
    for row in mapped(path):
        if row.flags & UNWRITTEN:
            continue
        if runs:
            logical, physical, length = runs[-1]
            # Every part of a compressed extent has the address of the whole.
            next_to_it = physical if row.flags & ENCODED else physical + length
            if (logical + length, next_to_it) == (row.logical, row.physical):
                runs[-1] = (logical, physical, length + row.length)
                continue
        runs.append((row.logical, row.physical, row.length))
    return runs
