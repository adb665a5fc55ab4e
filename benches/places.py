"""File systems in memory that go with the run, and the trees that are put into them."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAKE = {
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    "ext4": ("mkfs.ext4", "-q", "-F", "-i", "4096"),
}
GIB = 1 << 30
MIB = 1 << 20


def own_mounts() -> None:
    """Moves this process into a mount namespace: whatever happens, its mounts end with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, recursive, private = 0x00020000, 0x4000, 1 << 18
    if libc.unshare(new_namespace) or libc.mount(None, b"/", None, recursive | private, None):
        raise OSError(ctypes.get_errno(), "cannot make a mount namespace: run this as root")


def sh(*command: str | os.PathLike[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def mounted(kind: str, size: int, options: str = "noatime") -> Iterator[Path]:
    """A new file system of `kind` on a sparse image in /dev/shm."""
    home = Path(tempfile.mkdtemp(prefix="snapsync-bench-", dir="/dev/shm"))
    image, point = home / "image", home / kind
    try:
        point.mkdir()
        with image.open("wb") as file:
            file.truncate(size)
        sh(*MAKE[kind], image)
        sh("mount", "-t", kind, "-o", f"loop,{options}", image, point)
        image.unlink()  # freed with the mount
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def volume(mount: Path, kind: str, name: str) -> Path:
    """An empty root of a volume to be: a subvolume on Btrfs."""
    path = mount / name
    if kind == "btrfs":
        sh("btrfs", "-q", "subvolume", "create", path)
    else:
        path.mkdir()
    return path


def discard(path: Path) -> None:
    """Removes a tree with the subvolumes in it."""
    if not path.exists():
        return
    if sh("stat", "-f", "-c", "%T", path).strip() == "btrfs":
        mount = next(above for above in path.parents if above.is_mount())
        listed = sh("btrfs", "subvolume", "list", mount).splitlines()
        found = [mount / line.split(" path ", 1)[1] for line in listed]
        inside = [one for one in found if path == one or path in one.parents]
        for one in sorted(inside, key=lambda one: len(one.parts)):
            sh("btrfs", "property", "set", "-f", one, "ro", "false")
        for one in sorted(inside, key=lambda one: len(one.parts), reverse=True):
            sh("btrfs", "-q", "subvolume", "delete", one)
        if inside:
            sh("btrfs", "subvolume", "sync", mount)  # else they are cleaned in the time of the next tool
    if path.exists():
        sh("rm", "-rf", path)


class Tree:
    """Many small files, a hundred to a directory, that change at random."""

    def __init__(self, root: Path, count: int, seed: int = 1) -> None:
        self.root, self.random, self.made = root, random.Random(seed), 0
        self.files: list[Path] = []
        for _ in range(count):
            self.create()

    def create(self) -> None:
        path = self.root / f"d{self.made // 100:06}" / f"f{self.made:08}"
        if self.made % 100 == 0:
            path.parent.mkdir(exist_ok=True)
        self.made += 1
        path.write_bytes(self.random.randbytes(self.random.randrange(100, 8000)))
        self.files.append(path)

    def _take(self) -> Path:
        at = self.random.randrange(len(self.files))
        self.files[at], self.files[-1] = self.files[-1], self.files[at]
        return self.files.pop()

    def change(self, count: int) -> None:
        """Mostly new content; a tenth each is created, deleted and renamed."""
        for number in range(count):
            match number % 10:
                case 0:
                    self.create()
                case 1:
                    self._take().unlink()
                case 2:
                    old = self._take()
                    self.files.append(old.rename(old.with_name(f"{old.name}-{self.made}")))
                    self.made += 1
                case _:
                    path = self.random.choice(self.files)
                    path.write_bytes(self.random.randbytes(self.random.randrange(100, 8000)))


def fill(path: Path, size: int, seed: int = 1) -> None:
    """Random bytes, which nothing compresses."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            file.write(chance.randbytes(min(MIB, size - at)))


def half_text(path: Path, size: int, seed: int) -> None:
    """Bytes that compress to about half."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            file.write(chance.randbytes(MIB // 2).hex().encode()[: min(MIB, size - at)])


def overwrite(path: Path, count: int, chance: random.Random, step: int = 1) -> None:
    """`count` blocks of 4 KiB in place, among each `step`th of the file."""
    blocks = range(0, path.stat().st_size // 4096, step)
    with path.open("r+b") as file:
        for at in chance.sample(blocks, min(count, len(blocks))):
            file.seek(at * 4096)
            file.write(chance.randbytes(4096))
