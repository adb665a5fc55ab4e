"""The inode tables of a mounted ext4, as they are read through its block device: they are what `stat` tells,
for each kind of inode and each form of the file system, and what was changed is there at once.
"""

from __future__ import annotations

import mmap
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import worlds
from machine import FileSystems, done, need, run, sh
from test_pool_table import assert_table_is_the_tree
from test_scan import SCAN, TICK
from worlds import fill, preallocate, punch, rewrite_quietly

MIB = 1 << 20
SHAPES = {
    "1k": ("-b", "1024"),
    # 64 groups of a MiB each, the descriptors of sixteen of them in a block.
    "meta_bg": ("-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^flex_bg"),
    "few_copies": ("-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^flex_bg,sparse_super2,^64bit"),
    "no_sums": ("-O", "^metadata_csum,^64bit,uninit_bg"),
    "bigalloc": ("-O", "bigalloc", "-C", "65536"),
    "inline": ("-I", "512", "-O", "inline_data"),
    "seconds": ("-I", "128"),
    "mapped": ("-O", "^extents,^64bit,^huge_file,^has_journal"),
    "rich": ("-I", "1024", "-O", "ea_inode,large_dir,metadata_csum_seed,orphan_file,encrypt,mmp"),
}


def every_kind(root: Path, has_far_times: bool) -> None:
    """Names begin with `inode-`."""
    for number in range(24):
        (root / f"inode-{number}").mkdir()
        fill(root / f"inode-{number}/inode-file", 0, 900 * number, number)
    home = root / "inode-kinds"
    home.mkdir()
    for size in (0, 1, 59, 60, 61, 150, 4_096, 70_000):
        fill(home / f"inode-size-{size}", 0, size, size)
    (home / "inode-short").symlink_to("x" * 50)
    (home / "inode-long").symlink_to("x" * 900)
    os.mkfifo(home / "inode-fifo")
    os.mknod(home / "inode-device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(home / "inode-socket"))
    (home / "inode-large").touch()
    os.truncate(home / "inode-large", 9_000_000_000)
    with suppress(OSError):  # only with extents
        preallocate(home / "inode-size-70000", 200_000, 100_000)
    os.link(home / "inode-size-1", home / "inode-link")
    os.chown(home / "inode-size-59", 70_001, 4_000_000_000)
    (home / "inode-size-60").chmod(0o6755)
    worlds.set_xattr(home / "inode-size-61", b"user.x", b"y" * 900)
    with suppress(OSError):  # only with ea_inode
        worlds.set_xattr(home / "inode-size-150", b"user.large", b"z" * 20_000)
    sh("chattr", "+d", "+A", home / "inode-size-150")
    for number, second in enumerate((-2_000_000_000, -1, 3_000_000_000, 9_000_000_000)):
        fill(home / f"inode-time-{number}", 0, 9, number)
        if has_far_times or second < 1 << 31:
            os.utime(home / f"inode-time-{number}", ns=(0, second * 1_000_000_000 + 123_456_789))


def mapped(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 100) as window:
        window[5] ^= 1


# Each is another file's.
CHANGES: list[Callable[[Path], object]] = [
    lambda path: path.chmod(0o751),
    lambda path: os.chown(path, 9, 70_000),
    lambda path: os.utime(path, ns=(5, 7)),
    lambda path: worlds.set_xattr(path, b"user.new", b"1"),
    lambda path: rewrite_quietly(path, 10, 10, 3),
    lambda path: fill(path, 50_000, 5_000, 4),
    lambda path: os.truncate(path, 77),
    lambda path: punch(path, 0, 65_536),
    mapped,
    lambda path: path.unlink(),
    lambda path: path.rename(path.parent.parent / "inode-0/inode-moved"),
    lambda path: os.link(path, path.parent.parent / "inode-0/inode-linked"),
    lambda path: path.rename(path.with_name("inode-other")),
    lambda path: sh("chattr", "+d", path),
]


def traced(volume: Path, trace: Path) -> str:
    """Of taking a snapshot by a scan: what was opened and looked at."""
    which = "trace=open,openat,openat2,statx,newfstatat"
    ran = run("snapshot", volume, wrap=("strace", "-f", "-qq", "-s", "200", "-e", which, "-o", str(trace)))
    text = trace.read_text(errors="surrogateescape")
    assert ran.code == 0, ran
    assert "walked" not in ran.err
    assert SCAN.search(text)
    return text


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_say_what_stat_says_and_what_was_changed(
    file_systems: FileSystems, tmp_path: Path, shape: str
) -> None:
    need("strace", "chattr")
    volume = file_systems.mount("ext4", 64 * MIB, *SHAPES[shape])
    try:
        (volume / "lost+found").rmdir()
        sh("mount", "-o", f"remount,{'lazytime' if shape in ('1k', 'seconds') else 'nolazytime'}", volume)
        settled = 2.2 if shape == "seconds" else TICK
        every_kind(volume, has_far_times=shape != "seconds")
        files = sorted((volume / "inode-kinds").glob("inode-size-*")) + [
            volume / f"inode-{number}/inode-file" for number in range(10, 24)
        ]
        files = files[-len(CHANGES) :]
        assert shape not in ("meta_bg", "few_copies") or max(path.stat().st_ino for path in files) > 5_000
        time.sleep(settled)
        done("snapshot", volume)
        # Not one differs, so none is looked at.
        assert "inode-" not in traced(volume, tmp_path / "first")
        (volume / "inode-kinds/inode-large").unlink()
        for change, path in zip(CHANGES, files, strict=True):
            change(path)
        text = traced(volume, tmp_path / "second")
        assert "inode-20" in text
        assert "inode-size-61" not in text
        assert_table_is_the_tree(volume)
        time.sleep(settled)
        done("snapshot", volume)
        assert "inode-" not in traced(volume, tmp_path / "third")
    finally:
        file_systems.unmount(volume)


def test_what_a_block_device_cannot_prove_is_walked_and_said(file_systems: FileSystems) -> None:
    volume = file_systems.mount("ext4", 64 * MIB)
    try:
        (volume / "lost+found").rmdir()
        fill(volume / "file", 0, 9, 1)
        done("snapshot", volume)
        assert not done("snapshot", volume)["notes"]
        device = Path(sh("findmnt", "--noheadings", "--output", "SOURCE", volume).strip()).name
        (Path("/sys/fs/ext4") / device / "trigger_fs_error").write_text("1")
        fill(volume / "file", 0, 9, 2)
        (note,) = done("snapshot", volume)["notes"]
        assert "walked" in note
        assert "e2fsck" in note
        assert_table_is_the_tree(volume)
    finally:
        file_systems.unmount(volume)
