"""Blocks are of each file system's own size: holes and data come over exactly, whatever the two have."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import worlds
from extents import mapped
from machine import MIB, done, verified

K = 1024

# What the kernel mounts: XFS from 1 KiB to 64 KiB, ext4 from 1 KiB to 4 KiB, and clusters.
MAKE: dict[str, tuple[str, ...]] = {
    "xfs-1k": ("xfs", "-b", "size=1024"),
    "xfs-2k": ("xfs", "-b", "size=2048"),
    "xfs-4k": ("xfs",),
    "xfs-16k": ("xfs", "-b", "size=16384"),
    "xfs-64k": ("xfs", "-b", "size=65536"),
    "ext4-1k": ("ext4", "-b", "1024"),
    "ext4-4k": ("ext4", "-b", "4096"),
    "ext4-clusters": ("ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"),
    "btrfs": ("btrfs",),
}
BLOCK = {"xfs-1k": 1, "xfs-2k": 2, "xfs-16k": 16, "xfs-64k": 64, "ext4-1k": 1, "ext4-clusters": 16}

PAIRS = [
    ("ext4-1k", "ext4-4k"),
    ("ext4-1k", "xfs-64k"),
    ("ext4-clusters", "btrfs"),
    ("ext4-4k", "ext4-1k"),
    ("xfs-1k", "btrfs"),
    ("xfs-1k", "xfs-16k"),
    ("xfs-2k", "ext4-1k"),
    ("xfs-16k", "xfs-1k"),
    ("xfs-64k", "ext4-4k"),
    ("btrfs", "xfs-64k"),
    ("btrfs", "ext4-clusters"),
]


@pytest.fixture
def make(mount: Callable[..., Path]) -> Callable[[str], Path]:
    """A new file system by its name in MAKE."""
    return lambda name: mount(MAKE[name][0], 500 * MIB, *MAKE[name][1:])


def contents(root: Path) -> dict[str, tuple[int, str]]:
    files = [path for path in root.iterdir() if path.is_file()]
    return {p.name: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files}


def allocated(path: Path, block: int, *, within: int = 1 << 62) -> set[int]:
    """The blocks of so many bytes that any extent lies in."""
    found: set[int] = set()
    for extent in mapped(path):
        end = min(extent.logical + extent.length, within)
        if extent.logical < end:
            found.update(range(extent.logical // block, (end - 1) // block + 1))
    return found


def assert_came_over(source: Path, target: Path, block: int) -> None:
    """Every byte is the same; and a block of the target in which the source has nothing is a hole too."""
    assert contents(source) == contents(target)
    for path in source.iterdir():
        if path.is_file():
            size = path.stat().st_size
            more = allocated(target / path.name, block, within=size) - allocated(path, block)
            assert not more, (
                f"{path.name}: blocks {sorted(more)} of {block} bytes are no holes on the standby"
            )


def change(path: Path, chance: random.Random) -> None:
    """One thing that moves data, holes or the end: by whole KiB, and some not."""
    offset, length = chance.randrange(300) * K, chance.choice((1, 2, 3, 5, 16, 70)) * K
    if chance.random() < 0.2:
        offset, length = offset + chance.randrange(K), length + chance.randrange(K)
    operation = chance.randrange(7)
    if operation < 3:
        worlds.punch(path, offset, length)
    elif operation == 3:
        worlds.fill(path, offset, length, chance.randrange(1 << 20))
    elif operation == 4:
        worlds.preallocate(path, offset, length)
    elif operation == 5:
        worlds.preallocate_past_end(path, path.stat().st_size + chance.randrange(40) * K, length)
    else:
        worlds.truncate(path, offset + length)


@pytest.mark.parametrize("names", PAIRS, ids="-to-".join)
def test_holes_and_data_come_over_between_blocks_of_other_sizes(
    make: Callable[[str], Path], names: tuple[str, str]
) -> None:
    seed = int(os.environ.get("SNAPSYNC_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    chance = random.Random(seed)
    source, target = make(names[0]), make(names[1])
    block = BLOCK.get(names[1], 4) * K
    for number in range(12):
        worlds.fill(source / f"{number}", 0, chance.randrange(300 * K), number)
        if number % 3 == 0:
            (source / f"hole-{number}").touch()
            worlds.truncate(source / f"hole-{number}", chance.randrange(300 * K))
    for _ in range(4):
        for path in sorted(source.iterdir()):
            for _ in range(chance.randrange(3) if path.is_file() else 0):
                change(path, chance)
        done("sync", source, target / "copy")
        assert_came_over(source, target / "copy", block)
    verified(source, target / "copy")
    done("restore", f"{target / 'copy'}@0", "--to", target / "before")
    done("restore", f"{source}@latest", "--to", target / "elsewhere")
    assert_came_over(source, target / "elsewhere", block)
    done("clone", f"{target / 'copy'}@latest", target / "clone")
    assert contents(source) == contents(target / "clone")
    assert contents(target / "before").keys() == contents(source).keys()


@pytest.mark.parametrize("name", ["ext4-1k", "xfs-1k"])
def test_data_behind_a_hole_of_one_small_block_stays(make: Callable[[str], Path], name: str) -> None:
    source, target = make(name), make("ext4-4k")
    worlds.fill(source / "file", 0, 16 * K, 1)
    done("sync", source, target)
    worlds.punch(source / "file", 5 * K, K)
    done("sync", source, target)
    assert contents(source) == contents(target)
    worlds.truncate(source / "file", 16 * K - 700)
    worlds.punch(source / "file", 13 * K, K)
    worlds.preallocate_past_end(source / "file", 17 * K, 8 * K)
    done("sync", source, target)
    assert contents(source) == contents(target)
    assert os.stat(target / "file").st_size == 16 * K - 700


def test_a_new_file_keeps_its_last_bytes_before_preallocation_beyond_its_end(
    make: Callable[[str], Path],
) -> None:
    """A block of the target that begins with a hole may hold data before its end."""
    source, target = make("ext4-1k"), make("xfs-4k")
    file = source / "file"
    worlds.fill(file, 0, 2000, 1)
    worlds.punch(file, 0, K)
    worlds.preallocate_past_end(file, 8 * K, 64 * K)
    done("sync", source, target)
    assert contents(source) == contents(target)
    done("clone", f"{source}@latest", source.parent / "clone")
    assert contents(source) == contents(source.parent / "clone")
