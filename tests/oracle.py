"""The independent comparison: what two trees hold, read with the system's own calls and nothing of snapsync.

`freeze` takes a picture of a tree that outlives it; `assert_same` compares trees or pictures.

Compared are type, mode, owner, device number, size, modification time in nanoseconds, link target,
every extended attribute, content, hard-link groups, inode flags that both file systems know, the project
between file systems that have such, and for each 4 KiB block whether it is data, hole or unwritten. Left out
are `.snapsync` at the root, an empty `lost+found` there, the size and link count of directories (each file
system has its own), and whatever is on another device than the root.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

libc = ctypes.CDLL(None, use_errno=True)

BLOCK = 4096

SYNC, IMMUTABLE, APPEND, NODUMP = 0x8, 0x10, 0x20, 0x40
NOATIME, DIRSYNC, NOCOW = 0x80, 0x1_0000, 0x80_0000
SECRM, UNRM, NOTAIL = 0x1, 0x2, 0x8000
EVERYWHERE = SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME
KNOWN_FLAGS = {
    "btrfs": EVERYWHERE | DIRSYNC | NOCOW,
    "ext4": EVERYWHERE | DIRSYNC | SECRM | UNRM | NOTAIL,
    "xfs": EVERYWHERE,
}
MAGIC = {0x9123683E: "btrfs", 0x58465342: "xfs", 0xEF53: "ext4"}

# ext4 writes out an unwritten extent of up to 32 KiB on either side of a write into it.
EXT4_ZEROED_BLOCKS = 16

Run = tuple[int, int, str]
"""First block, block after the last, and "data" or "unwritten"; between runs there is a hole."""


@dataclass(frozen=True, slots=True)
class Entry:
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    flags: int = 0
    project: int = 0
    links: int = 0
    device: int = 0
    size: int = 0
    target: bytes = b""
    content: str = ""
    layout: tuple[Run, ...] = ()
    past_end: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A tree as it was: entries by path (the root is `.`), and which paths are one inode."""

    file_system: str
    entries: dict[bytes, Entry]
    groups: frozenset[frozenset[bytes]]


Tree = Picture | str | bytes | os.PathLike[str]


# --- reading ----------------------------------------------------------------------------------


def freeze(root: Tree) -> Picture:
    """A picture of the tree, which may be pickled."""
    if isinstance(root, Picture):
        return root
    fd = os.open(os.fsencode(root), os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _picture(fd)
    finally:
        os.close(fd)


def _picture(fd: int) -> Picture:
    status = os.fstat(fd)
    file_system = _file_system(fd)
    entries = {b".": _opened(fd, status, file_system)}
    names: dict[int, set[bytes]] = defaultdict(set)
    for path, entry, inode in _below(fd, b"", status.st_dev, file_system):
        entries[path] = entry
        if entry.kind != "directory":
            names[inode].add(path)
    if not any(path.startswith(b"lost+found/") for path in entries):
        entries.pop(b"lost+found", None)
    groups = frozenset(frozenset(paths) for paths in names.values() if len(paths) > 1)
    return Picture(file_system, entries, groups)


def _below(fd: int, prefix: bytes, device: int, kind: str) -> Iterator[tuple[bytes, Entry, int]]:
    """Every entry under an open directory. Names are relative to it: paths may exceed PATH_MAX."""
    for name in sorted(map(os.fsencode, os.listdir(fd))):
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        path = prefix + name
        if path == b".snapsync" or status.st_dev != device:
            continue
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            yield path, _unopened(fd, name, status, kind), status.st_ino
            continue
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME
        child = os.open(name, flags, dir_fd=fd)
        try:
            yield path, _opened(child, status, kind), status.st_ino
            if stat.S_ISDIR(status.st_mode):
                yield from _below(child, path + b"/", device, kind)
        finally:
            os.close(child)


def _opened(fd: int, status: os.stat_result, file_system: str) -> Entry:
    """A regular file or directory."""
    flags, project = _flags(fd), _project(fd)
    if stat.S_ISDIR(status.st_mode):
        return Entry(*_common(status), _xattrs(fd, file_system), flags, project)
    end = -(-status.st_size // BLOCK)
    runs = _runs(fd)
    with open(fd, "rb", closefd=False) as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(
        *_common(status),
        _xattrs(fd, file_system),
        flags,
        project,
        links=status.st_nlink,
        size=status.st_size,
        content=content,
        layout=_clip(runs, 0, end),
        past_end=_clip(runs, end, 1 << 63),
    )


def _unopened(directory: int, name: bytes, status: os.stat_result, file_system: str) -> Entry:
    """A symlink or a special file: opening it would follow it, or wait for its other end."""
    link = stat.S_ISLNK(status.st_mode)
    return Entry(
        *_common(status),
        _xattrs(b"/proc/self/fd/%d/%s" % (directory, name), file_system),
        links=status.st_nlink,
        device=status.st_rdev,
        size=status.st_size if link else 0,
        target=os.fsencode(os.readlink(name, dir_fd=directory)) if link else b"",
    )


def _common(status: os.stat_result) -> tuple[str, int, int, int, int]:
    kind = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "char device",
        stat.S_IFBLK: "block device",
    }[stat.S_IFMT(status.st_mode)]
    return kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns


def _xattrs(at: int | bytes, file_system: str) -> tuple[tuple[bytes, bytes], ...]:
    follow = isinstance(at, int)
    found = []
    try:
        names = os.listxattr(at, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return ()
        raise
    for name in names:
        # XFS shows an ACL a second time under its own name.
        if not (file_system == "xfs" and name.startswith("trusted.SGI_ACL_")):
            found.append((os.fsencode(name), os.getxattr(at, name, follow_symlinks=follow)))
    return tuple(sorted(found))


def _file_system(fd: int) -> str:
    buffer = ctypes.create_string_buffer(256)
    if libc.fstatfs(fd, buffer):
        raise OSError(ctypes.get_errno(), "fstatfs")
    magic: int = struct.unpack_from("=L", buffer)[0]
    return MAGIC.get(magic, "other")


def _flags(fd: int) -> int:
    try:
        answer = fcntl.ioctl(fd, 0x8008_6601, bytes(8))  # FS_IOC_GETFLAGS
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            return 0
        raise
    return int(struct.unpack_from("=I", answer)[0])


def _project(fd: int) -> int:
    try:
        answer = fcntl.ioctl(fd, 0x801C_581F, bytes(28))  # FS_IOC_FSGETXATTR
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            return 0
        raise
    return int(struct.unpack_from("=L", answer, 12)[0])


def _runs(fd: int) -> list[Run]:
    """Where the file has blocks, after all of it has been written out. Neighbours of a kind are joined."""
    runs: list[Run] = []
    for logical, length, unwritten in _extents(fd):
        first, end = logical // BLOCK, -(-(logical + length) // BLOCK)
        what = "unwritten" if unwritten else "data"
        if runs and runs[-1][1] >= first and runs[-1][2] == what:
            first = runs.pop()[0]
        runs.append((first, end, what))
    return runs


def _extents(fd: int) -> Iterator[tuple[int, int, bool]]:
    room, header, extent = 256, struct.Struct("=QQLLLL"), struct.Struct("=QQQQQLLLL")
    start = 0
    while True:
        buffer = bytearray(header.size + room * extent.size)
        header.pack_into(buffer, 0, start, (1 << 63) - 1 - start, 1, 0, room, 0)  # 1: write out first
        try:
            fcntl.ioctl(fd, 0xC020_660B, buffer)  # FS_IOC_FIEMAP
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
                return
            raise
        found = header.unpack_from(buffer)[3]
        if not found:
            return
        for index in range(found):
            row = extent.unpack_from(buffer, header.size + index * extent.size)
            logical, length, flags = row[0], row[2], row[5]
            yield logical, length, bool(flags & 0x800)
            if flags & 1:  # the last of the file
                return
        start = logical + length


def _clip(runs: list[Run], first: int, end: int) -> tuple[Run, ...]:
    clipped = ((max(a, first), min(b, end), what) for a, b, what in runs)
    return tuple(run for run in clipped if run[0] < run[1])


# --- comparing --------------------------------------------------------------------------------


def assert_same(a: Tree, b: Tree, **tolerances: object) -> None:
    """Fails with every difference named by path. The tolerances are those of `differences`."""
    found = differences(a, b, **tolerances)  # type: ignore[arg-type]
    shown = "\n  ".join(found[:40])
    assert not found, f"{len(found)} differences (left: first tree, right: second)\n  {shown}"


def same(a: Tree, b: Tree, **tolerances: object) -> bool:
    return not differences(a, b, **tolerances)  # type: ignore[arg-type]


def differences(
    a: Tree,
    b: Tree,
    *,
    ignore: Collection[str] = (),
    past_end: bool = False,
    without: Collection[bytes] = (),
    root_mtime: bool = True,
) -> list[str]:
    """What differs, a line each.

    ignore      fields of `Entry` not to compare, or "groups"
    past_end    compare blocks past the end of files too (XFS allocates some there by itself)
    without     paths not to compare
    root_mtime  compare the root directory's own modification time
    """
    one, two = freeze(a), freeze(b)
    names = [field.name for field in fields(Entry) if field.name not in ignore]
    if not past_end:
        names.remove("past_end")
    found = []
    for path in sorted(one.entries.keys() | two.entries.keys()):
        if path in without:
            continue
        left, right = one.entries.get(path), two.entries.get(path)
        if left is None or right is None:
            found.append(f"{path!r}: only in the {'second' if left is None else 'first'} tree")
            continue
        for name in names:
            if path == b"." and name == "mtime_ns" and not root_mtime:
                continue
            if not _equal(name, left, right, one.file_system, two.file_system):
                x, y = getattr(left, name), getattr(right, name)
                found.append(f"{path!r}: {name} {_shown(name, x)} | {_shown(name, y)}")
    if "groups" not in ignore:
        found += [f"hard links only in the first tree: {sorted(g)}" for g in one.groups - two.groups]
        found += [f"hard links only in the second tree: {sorted(g)}" for g in two.groups - one.groups]
    return found


def _equal(name: str, left: Entry, right: Entry, one: str, two: str) -> bool:
    if getattr(left, name) == getattr(right, name):
        return True
    if name == "flags":
        known = KNOWN_FLAGS.get(one, 0) & KNOWN_FLAGS.get(two, 0)
        return left.flags & known == right.flags & known
    if name == "project":
        return (one, two) != ("xfs", "xfs")
    if name == "xattrs" and (one, two) != ("btrfs", "btrfs"):
        # Only Btrfs has properties such as btrfs.compression.
        return _plain(left.xattrs) == _plain(right.xattrs)
    if name == "layout":
        return _same_but_zeroed(left, right, two)
    return False


def _plain(xattrs: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in xattrs if not pair[0].startswith(b"btrfs.")]


def _same_but_zeroed(left: Entry, right: Entry, file_system: str) -> bool:
    """Equal, but for unwritten blocks that the second file system writes zeros to by itself.

    ext4 does so with short runs beside a write, Btrfs with a last block that the file's end cuts.
    """
    edges = sorted({edge for run in (*left.layout, *right.layout) for edge in run[:2]} | {left.size // BLOCK})
    for first, end in pairwise(edges):
        was, became = _at(left.layout, first), _at(right.layout, first)
        short = file_system == "ext4" and end - first <= EXT4_ZEROED_BLOCKS
        last = file_system == "btrfs" and first == left.size // BLOCK
        if was != became and not ((was, became) == ("unwritten", "data") and (short or last)):
            return False
    return True


def _at(runs: tuple[Run, ...], block: int) -> str:
    return next((what for first, end, what in runs if first <= block < end), "hole")


def _shown(name: str, value: object) -> str:
    if name == "mode":
        return f"{value:#o}"
    if name == "flags":
        return f"{value:#x}"
    return str(value) if isinstance(value, int) else repr(value)[:200]


# --- untouched --------------------------------------------------------------------------------


def touch_marks(root: str | os.PathLike[str]) -> dict[bytes, tuple[int, ...]]:
    """What any write to the tree would change, change times included. Empty where nothing exists."""
    base = os.fsencode(root)
    if not os.path.lexists(base):
        return {}
    marks = {b".": _mark(base)}
    for folder, folders, files in os.walk(base):
        if folder == base and b".snapsync" in folders:
            folders.remove(b".snapsync")
        for name in folders + files:
            path = os.path.join(folder, name)
            marks[os.path.relpath(path, base)] = _mark(path)
    return marks


def _mark(path: bytes) -> tuple[int, ...]:
    s = os.lstat(path)
    return s.st_ino, s.st_mode, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns
