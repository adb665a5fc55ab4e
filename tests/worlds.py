"""Random trees and random changes to them, from a seed.

Every operation is written down as the call that repeats it: `replay(root, log)` makes the tree again.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import shutil
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

libc = ctypes.CDLL(None, use_errno=True)

KEEP_SIZE, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
BLOCK = 4096
FIFO, SOCKET, CHAR = stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR
IMMUTABLE, APPEND_ONLY, NODUMP, NOATIME, NOCOW, COMPRESS = 0x10, 0x20, 0x40, 0x80, 0x80_0000, 0x4
PORTABLE = (IMMUTABLE, APPEND_ONLY, NODUMP, NOATIME)
OF_BTRFS = (*PORTABLE, NOCOW, COMPRESS)
# Erased when deleted, undeletable, written at once, not packed: ext4 keeps what it does not act upon.
OF_EXT4 = (*PORTABLE, 0x1, 0x2, 0x8, 0x8000)

Path = str | bytes | os.PathLike[str]

# --- operations: each does one thing to one path ----------------------------------------------


def noise(length: int, seed: int) -> bytes:
    """Random bytes; for every other seed such as Btrfs compresses well."""
    chance = random.Random(seed)
    if seed % 2:
        return chance.randbytes(length)
    return (chance.randbytes(50) * (length // 50 + 1))[:length]


def opened(path: Path, flags: int) -> int:
    """A snapshot has a lease on a file while it reads it: who will not wait is refused meanwhile."""
    while True:
        try:
            return os.open(path, flags, 0o644)
        except BlockingIOError:
            time.sleep(0.001)


def write(path: Path, offset: int, data: bytes) -> None:
    """Writes in place; makes the file if there is none. A fifo at that name is an error, not a wait."""
    fd = opened(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        while data:
            done = os.pwrite(fd, data, offset)
            data, offset = data[done:], offset + done
    finally:
        os.close(fd)


def fill(path: Path, offset: int, length: int, seed: int) -> None:
    write(path, offset, noise(length, seed))


def append(path: Path, length: int, seed: int) -> None:
    with open(path, "ab") as file:
        file.write(noise(length, seed))


def rewrite_quietly(path: Path, offset: int, length: int, seed: int) -> None:
    """Changes bytes, but neither the size nor the modification time."""
    before = os.lstat(path)
    write(path, offset, noise(length, seed)[: max(0, before.st_size - offset)])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def allocate(path: Path, offset: int, length: int, mode: int) -> None:
    """fallocate: plain, KEEP_SIZE, PUNCH or ZERO."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        both = ctypes.c_long(offset), ctypes.c_long(length)
        _checked(libc.fallocate(fd, mode, *both), path)
    finally:
        os.close(fd)


def preallocate(path: Path, offset: int, length: int) -> None:
    allocate(path, offset, length, 0)


def preallocate_past_end(path: Path, offset: int, length: int) -> None:
    allocate(path, offset, length, KEEP_SIZE)


def punch(path: Path, offset: int, length: int) -> None:
    allocate(path, offset, length, PUNCH | KEEP_SIZE)


def zero(path: Path, offset: int, length: int) -> None:
    allocate(path, offset, length, ZERO)


def collapse(path: Path, offset: int, length: int) -> None:
    """Takes blocks out of the middle: what follows moves up."""
    allocate(path, offset, length, COLLAPSE)


def insert(path: Path, offset: int, length: int) -> None:
    """Puts a hole into the middle: what follows moves down."""
    allocate(path, offset, length, INSERT)


@contextmanager
def _opened(a: Path, b: Path, *, create: bool = False) -> Iterator[tuple[int, int]]:
    """Two files, the first to read and the second to write."""
    source = os.open(a, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        how = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_CREAT if create else 0)
        target = opened(b, how)
        try:
            yield source, target
        finally:
            os.close(target)
    finally:
        os.close(source)


def reflink(a: Path, b: Path) -> None:
    """All of `b`, a new file or one that exists, shares the blocks of `a`. A longer `b` keeps its tail."""
    with _opened(a, b, create=True) as (source, target):
        fcntl.ioctl(target, 0x4004_9409, source)  # FICLONE


def reflink_range(a: Path, b: Path, offset: int, length: int, to: int) -> None:
    """A range of `a` is shared at another offset of `b`, which may be `a` itself. Length 0: to the end."""
    with _opened(a, b, create=True) as (source, target):
        fcntl.ioctl(target, 0x4020_940D, struct.pack("=qQQQ", source, offset, length, to))  # FICLONERANGE


def copy_range(a: Path, b: Path, offset: int, length: int, to: int) -> None:
    """The same bytes again, in blocks of their own."""
    with _opened(a, b) as (source, target):
        os.pwrite(target, os.pread(source, length, offset), to)


def dedupe(a: Path, b: Path, offset: int, length: int, at: int) -> None:
    """Where `b` holds the same bytes as `a`, it gives up its blocks and shares those of `a`."""
    with _opened(a, b) as (source, target):
        request = struct.pack("=QQHHLqQQlL", offset, length, 1, 0, 0, target, at, 0, 0, 0)
        answer = bytearray(request)
        fcntl.ioctl(source, 0xC018_9436, answer)  # FIDEDUPERANGE
        status = struct.unpack_from("=l", answer, 48)[0]
        if status < 0:
            raise OSError(-status, os.strerror(-status), b)


def defragment(path: Path, compression: int = 0) -> None:
    """Btrfs writes the file anew, compressed if asked to (3: Zstandard). The bytes stay the same."""
    fd = opened(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        write_out, compress = 2, 1 if compression else 0
        everything = (1 << 64) - 1
        request = struct.pack("=QQQLL16x", 0, everything, write_out | compress, 0, compression)
        fcntl.ioctl(fd, 0x4030_9410, request)  # BTRFS_IOC_DEFRAG_RANGE
    finally:
        os.close(fd)


def exchange(a: Path, b: Path) -> None:
    """Two names swap what they name, in one step."""
    here, swap = -100, 2
    _checked(libc.renameat2(here, os.fsencode(a), here, os.fsencode(b), swap), a)


def set_flags(path: Path, on: int, off: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        now = struct.unpack_from("=I", fcntl.ioctl(fd, 0x8008_6601, bytes(8)))[0]
        fcntl.ioctl(fd, 0x4008_6602, struct.pack("=Q", (now | on) & ~off))
    finally:
        os.close(fd)


def set_project(path: Path, project: int) -> None:
    """The number that quotas of XFS count what is in a directory by."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        now = bytearray(fcntl.ioctl(fd, 0x801C_581F, bytes(28)))  # FS_IOC_FSGETXATTR
        struct.pack_into("=L", now, 12, project)
        fcntl.ioctl(fd, 0x401C_5820, bytes(now))  # FS_IOC_FSSETXATTR
    finally:
        os.close(fd)


def set_xattr(path: Path, name: bytes, value: bytes) -> None:
    os.setxattr(path, name, value, follow_symlinks=False)


def remove_xattr(path: Path, name: bytes) -> None:
    os.removexattr(path, name, follow_symlinks=False)


def set_acl(path: Path, kind: str, user: int, permissions: int) -> None:
    """An ACL that gives one more user some permissions; `kind` is access or default."""
    none = 0xFFFF_FFFF
    rows = [(1, 6, none), (2, permissions, user), (4, 4, none), (16, 7, none), (32, 0, none)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)
    os.setxattr(path, f"system.posix_acl_{kind}", value)


def touch(path: Path, mtime_ns: int) -> None:
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def chmod(path: Path, mode: int) -> None:
    os.chmod(path, mode)


def chown(path: Path, uid: int, gid: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)


def node(path: Path, kind: int, device: int = 0) -> None:
    """A fifo, a socket or a character device."""
    os.mknod(path, kind | 0o640, device)


def retarget(path: Path, target: bytes) -> None:
    """A symlink gets a new target, as programs do it: another link renamed over it."""
    new = os.path.join(os.path.dirname(os.fsencode(path)), b".new-link")
    os.symlink(target, new)
    os.rename(new, path)


def remove(path: Path) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def mkdir(path: Path) -> None:
    os.mkdir(path)


def rename(a: Path, b: Path) -> None:
    os.rename(a, b)


def link(a: Path, b: Path) -> None:
    os.link(a, b, follow_symlinks=False)


def symlink(path: Path, target: bytes) -> None:
    os.symlink(target, path)


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def _checked(result: int, path: Path) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)


def bulk(root: Path, files: int, *, size: int = 300, per_directory: int = 100, seed: int = 0) -> None:
    """Many small files, a hundred a directory."""
    chance = random.Random(seed)
    base = os.fsencode(root)
    for number in range(files):
        folder = os.path.join(base, b"bulk-%04d" % (number // per_directory))
        if number % per_directory == 0:
            os.makedirs(folder)
        with open(os.path.join(folder, b"%06d" % number), "wb") as file:
            file.write(chance.randbytes(chance.randrange(2 * size)))


# --- random worlds ----------------------------------------------------------------------------

TWO_PATHS = {rename, exchange, link, reflink, reflink_range, copy_range, dedupe}

# What a file system may answer to an operation that makes no sense where it was tried.
REFUSED = {
    errno.EACCES,
    errno.EBUSY,
    errno.EEXIST,
    errno.EFBIG,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.EMLINK,
    errno.ENAMETOOLONG,
    errno.ENODATA,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.ENOTTY,
    errno.ENXIO,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.ETXTBSY,
    errno.EXDEV,
}

ODD_NAMES = (
    b"\xff\xfe not utf-8",
    b"two\nlines",
    b"-rf",
    "naïve ✓".encode(),
    b" ",
    b"%s$(x)`y`",
    b"back\\slash",
    b"...",
    b"\x01\x7f",
    b".snapsync.not",
    b"n" * 255,
    b"\xc3" * 255,
)


class World:
    """A tree that changes at random, the same way for the same seed."""

    def __init__(
        self, root: Path, seed: int, flags: tuple[int, ...] = PORTABLE, projects: bool = False
    ) -> None:
        self.root = os.fsencode(root)
        self.flags = flags
        self.projects = projects
        self.random = random.Random(seed)
        self.log: list[str] = []

    def do(self, operation: Callable[..., None], *args: object) -> None:
        """Does it, writes it down, and lets the file system refuse what makes no sense."""
        line = f"do({operation.__name__}, {', '.join(map(repr, args))})"
        paths = 2 if operation in TWO_PATHS else 1
        whole = [os.path.join(self.root, p) for p in args[:paths]]  # type: ignore[call-overload]
        try:
            operation(*whole, *args[paths:])
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            line += f"  # {errno.errorcode[error.errno or 0]}"
        self.log.append(line)

    def grow(self, entries: int) -> None:
        """Mostly makes things."""
        makers = (
            [self.make_file] * 5
            + [self.make_directory] * 3
            + [
                self.make_link,
                self.make_symlink,
                self.make_node,
                self.any_xattr,
                self.any_mode,
            ]
        )
        for _ in range(entries):
            self.random.choice(makers)()

    def churn(self, operations: int) -> None:
        """Does anything to anything."""
        steps, weights = zip(*self.steps().items(), strict=True)
        for step in self.random.choices(steps, weights, k=operations):
            step()

    def steps(self) -> dict[Callable[[], object], int]:
        return {
            self.make_file: 6,
            self.make_directory: 3,
            self.make_link: 4,
            self.make_symlink: 2,
            self.make_node: 2,
            self.write_somewhere: 8,
            self.append_some: 3,
            self.rewrite: 4,
            self.cut: 4,
            self.cut_and_regrow: 3,
            self.punch_some: 3,
            self.fill_hole: 3,
            self.preallocate_some: 4,
            self.zero_some: 2,
            self.share: 4,
            self.share_range: 5,
            self.share_within: 3,
            self.share_equal: 3,
            self.collapse_some: 2,
            self.insert_some: 2,
            self.defragment_one: 3,
            self.move: 6,
            self.move_into: 5,
            self.swap: 4,
            self.cycle: 2,
            self.turn_over: 3,
            self.remove_one: 5,
            self.remove_tree: 1,
            self.replace_kind: 3,
            self.change_target: 2,
            self.any_xattr: 4,
            self.drop_xattr: 2,
            self.any_acl: 3,
            self.any_mode: 3,
            self.any_owner: 2,
            self.any_time: 2,
            self.any_flags: 3,
            self.clear_flags: 3,
        } | ({self.any_project: 3} if self.projects else {})

    # what there is

    def all(self, test: Callable[[int], bool] = lambda mode: True) -> list[bytes]:
        """The paths whose mode passes, the root not among them."""
        found = []
        device = os.stat(self.root).st_dev
        for folder, folders, files in os.walk(self.root):
            if folder == self.root and b".snapsync" in folders:
                folders.remove(b".snapsync")
            folders.sort()
            for name in sorted(folders + files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                if status.st_dev == device and test(status.st_mode):
                    found.append(os.path.relpath(path, self.root))
        return found

    def pick(self, test: Callable[[int], bool] = lambda mode: True) -> bytes | None:
        return self.random.choice(self.all(test) or [None])

    def file(self) -> bytes:
        """Some regular file, made if there is none."""
        found = self.pick(stat.S_ISREG)
        return found if found is not None else self.make_file()

    def directory(self) -> bytes:
        return self.random.choice([b"", *self.all(stat.S_ISDIR)])

    def name(self) -> bytes:
        """Mostly from a small stock, so that names come back for other inodes."""
        if self.random.random() < 0.1:
            return self.random.choice(ODD_NAMES)
        return b"%c%d" % (self.random.choice(b"abcd"), self.random.randrange(30))

    def new_path(self) -> bytes:
        return os.path.join(self.directory(), self.name())

    def size(self) -> int:
        most = self.random.choice([1, 100, 5_000, 40_000, 300_000])
        return self.random.randrange(most)

    def range_in(self, path: bytes) -> tuple[int, int]:
        """Some range that begins in the file, half of the time on block borders."""
        end = max(1, os.lstat(os.path.join(self.root, path)).st_size)
        offset, length = self.random.randrange(end), 1 + self.random.randrange(end)
        if self.random.random() < 0.5:
            return offset // 4096 * 4096, -(-length // 4096) * 4096
        return offset, length

    def seed(self) -> int:
        return self.random.randrange(1 << 30)

    # making

    def make_file(self) -> bytes:
        path = self.new_path()
        self.do(fill, path, self.random.choice([0, 0, 0, 4096, 100_000]), self.size(), self.seed())
        return path

    def make_directory(self) -> None:
        self.do(mkdir, self.new_path())

    def make_link(self) -> None:
        if (path := self.pick(lambda mode: not stat.S_ISDIR(mode))) is not None:
            self.do(link, path, self.new_path())

    def make_symlink(self) -> None:
        self.do(symlink, self.new_path(), self.link_target())

    def link_target(self) -> bytes:
        choices = [b"nowhere", b"/etc/passwd", b"../..", b"t" * 900, b"\xff\n", self.new_path()]
        return self.random.choice(choices)

    def make_node(self) -> None:
        kind = self.random.choice([FIFO, SOCKET, CHAR])
        self.do(node, self.new_path(), kind, os.makedev(1, 3) if kind == CHAR else 0)

    # content

    def write_somewhere(self) -> None:
        path = self.file()
        offset = self.random.choice([*self.range_in(path), 500_000])
        self.do(fill, path, offset, self.size(), self.seed())

    def append_some(self) -> None:
        self.do(append, self.file(), self.size(), self.seed())

    def rewrite(self) -> None:
        path = self.file()
        self.do(rewrite_quietly, path, *self.range_in(path), self.seed())

    def cut(self) -> None:
        path = self.file()
        self.do(truncate, path, self.range_in(path)[0])

    def cut_and_regrow(self) -> None:
        path = self.file()
        size = os.lstat(os.path.join(self.root, path)).st_size
        self.do(truncate, path, self.range_in(path)[0])
        self.do(truncate, path, self.random.choice([size, size + 9_000]))

    def punch_some(self) -> None:
        path = self.file()
        self.do(punch, path, *self.range_in(path))

    def fill_hole(self) -> None:
        path = self.file()
        offset, length = self.range_in(path)
        self.do(punch, path, offset, length)
        self.do(fill, path, offset, min(length, 50_000), self.seed())

    def preallocate_some(self) -> None:
        path = self.file()
        how = self.random.choice([preallocate, preallocate_past_end])
        offset, length = self.range_in(path)
        self.do(how, path, offset, length + self.random.choice([0, 100_000]))

    def zero_some(self) -> None:
        path = self.file()
        self.do(zero, path, *self.range_in(path))

    def share(self) -> None:
        """A clone of a whole file, under a new name or in the place of what another file held."""
        path = self.file()
        self.do(reflink, path, self.random.choice([self.new_path(), self.file()]))

    def share_range(self) -> None:
        a, b = self.file(), self.random.choice([self.new_path(), self.file(), self.file()])
        self.do(reflink_range, a, b, *self.blocks_in(a), self.random.randrange(40) * BLOCK)

    def share_within(self) -> None:
        """A file shares its own blocks at another offset."""
        path = self.file()
        self.do(reflink_range, path, path, *self.blocks_in(path), self.random.randrange(80) * BLOCK)

    def share_equal(self) -> None:
        """Equal bytes are written, and then shared."""
        a, b = self.file(), self.file()
        (offset, length), to = self.blocks_in(a), self.random.randrange(40) * BLOCK
        self.do(copy_range, a, b, offset, length or BLOCK, to)
        self.do(dedupe, a, b, offset, length or BLOCK, to)

    def blocks_in(self, path: bytes) -> tuple[int, int]:
        """Some whole blocks of a file; where it has none, or by chance, all from some block to its end."""
        try:
            blocks = os.lstat(os.path.join(self.root, path)).st_size // BLOCK
        except FileNotFoundError:
            blocks = 0  # to make it was refused
        first = self.random.randrange(max(1, blocks))
        to_the_end = first == blocks or self.random.random() < 0.2
        return first * BLOCK, 0 if to_the_end else (1 + self.random.randrange(blocks - first)) * BLOCK

    def collapse_some(self) -> None:
        path = self.file()
        offset, length = self.blocks_in(path)
        self.do(collapse, path, offset, length or BLOCK)

    def insert_some(self) -> None:
        path = self.file()
        offset, length = self.blocks_in(path)
        self.do(insert, path, offset, length or BLOCK)

    def defragment_one(self) -> None:
        self.do(defragment, self.file(), self.random.choice([0, 0, 3]))

    # names

    def move(self) -> None:
        """To a free name, or over whatever has it."""
        if (path := self.pick()) is not None:
            self.do(rename, path, self.random.choice([self.new_path(), self.pick() or path]))

    def move_into(self) -> None:
        if (path := self.pick()) is not None:
            self.do(rename, path, os.path.join(self.directory(), os.path.basename(path)))

    def swap(self) -> None:
        paths = self.all()
        if len(paths) > 1:
            self.do(exchange, *self.random.sample(paths, 2))

    def cycle(self) -> None:
        """a takes the name of b, b that of c, c that of a."""
        paths = self.all(lambda mode: not stat.S_ISDIR(mode))
        if len(paths) > 2:
            a, b, c = self.random.sample(paths, 3)
            self.do(exchange, a, b)
            self.do(exchange, a, c)

    def turn_over(self) -> None:
        """A directory ends up below what was its child."""
        children = [path for path in self.all(stat.S_ISDIR) if b"/" in path]
        if children:
            child = self.random.choice(children)
            parent = os.path.dirname(child)
            raised = os.path.join(os.path.dirname(parent), b"up%d" % self.random.randrange(99))
            self.do(rename, child, raised)
            if os.path.islink(os.path.join(self.root, raised)):
                return  # the name was taken, and the way through the link may lead out of the tree
            self.do(rename, parent, os.path.join(raised, os.path.basename(parent)))

    def remove_one(self) -> None:
        if (path := self.pick(lambda mode: not stat.S_ISDIR(mode))) is not None:
            self.do(remove, path)

    def remove_tree(self) -> None:
        if (path := self.pick(stat.S_ISDIR)) is not None:
            self.do(remove, path)

    def replace_kind(self) -> None:
        """A name goes on to name something else."""
        if (path := self.pick()) is not None:
            self.do(remove, path)
            makers: list[tuple[Callable[..., None], tuple[object, ...]]]
            makers = [(mkdir, ()), (symlink, (b"instead",)), (fill, (0, self.size(), self.seed()))]
            how, args = self.random.choice(makers)
            self.do(how, path, *args)

    def change_target(self) -> None:
        if (path := self.pick(stat.S_ISLNK)) is not None:
            self.do(retarget, path, self.link_target())

    # attributes

    def any_xattr(self) -> None:
        if (path := self.pick()) is not None:
            space = self.random.choice([b"user", b"trusted", b"security"])
            name = b"%s.x%d" % (space, self.random.randrange(4))
            self.do(set_xattr, path, name, noise(self.random.randrange(60), self.seed()))

    def drop_xattr(self) -> None:
        if (path := self.pick()) is not None:
            whole = os.path.join(self.root, path)
            if names := sorted(os.listxattr(whole, follow_symlinks=False)):
                self.do(remove_xattr, path, os.fsencode(self.random.choice(names)))

    def any_acl(self) -> None:
        folder = self.random.random() < 0.5
        path = self.pick(stat.S_ISDIR if folder else stat.S_ISREG)
        if path is not None:
            kind = self.random.choice(["access", "default"]) if folder else "access"
            self.do(set_acl, path, kind, self.random.randrange(1000, 1010), self.random.randrange(8))

    def any_mode(self) -> None:
        if (path := self.pick(lambda mode: not stat.S_ISLNK(mode))) is not None:
            self.do(chmod, path, self.random.choice([0o600, 0o755, 0o4755, 0o2770, 0o1777, 0]))

    def any_owner(self) -> None:
        if (path := self.pick()) is not None:
            self.do(chown, path, self.random.randrange(5), self.random.randrange(5))

    def any_time(self) -> None:
        if (path := self.pick()) is not None:
            self.do(touch, path, self.random.randrange(-(10**18), 2 * 10**18))

    def any_flags(self) -> None:
        if (path := self.pick(_has_flags)) is not None:
            self.do(set_flags, path, self.random.choice(self.flags), 0)

    def any_project(self) -> None:
        if (path := self.pick(_has_flags)) is not None:
            self.do(set_project, path, self.random.randrange(4))

    def clear_flags(self) -> None:
        for path in self.all(_has_flags):
            if self.random.random() < 0.5:
                self.do(set_flags, path, 0, IMMUTABLE | APPEND_ONLY)


def _has_flags(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def replay(root: Path, log: Iterable[str]) -> None:
    """Does again what a log says."""
    world = World(root, 0)
    for line in log:
        eval(line, globals() | {"do": world.do})
