"""A copy of a tree by the system's own tools, to compare a snapshot with after the tree has moved on."""

from __future__ import annotations

import os
from pathlib import Path

import worlds
from machine import sh
from oracle import BLOCK, Entry, freeze


def keep(source: str | bytes | os.PathLike[str], copy: Path) -> None:
    """Makes `copy`, an empty directory, hold what `source` holds, `.snapsync` aside."""
    root = Path(os.fsdecode(source))
    names = [str(path) for path in root.iterdir() if path.name != ".snapsync"]
    if names:
        sh("cp", "-a", "--reflink=auto", "--target-directory", copy, "--", *names)
    original, made = freeze(root), freeze(copy)
    for path, entry in original.entries.items():
        if entry.layout != made.entries[path].layout or entry.past_end:
            _lay_out(os.path.join(os.fsencode(copy), path), entry)
    _finish_root(os.fsencode(copy), original.entries[b"."])
    # Last, and deepest first: nothing below an immutable directory can change any more.
    for path in sorted(original.entries, reverse=True):
        if flags := original.entries[path].flags & KEPT_FLAGS:
            worlds.set_flags(os.path.join(os.fsencode(copy), path), flags)


KEPT_FLAGS = worlds.IMMUTABLE | worlds.APPEND_ONLY | worlds.NODUMP | worlds.NOATIME


def _lay_out(path: bytes, entry: Entry) -> None:
    """Writes the file again, block for block: cp fills holes and knows nothing of unwritten blocks."""
    with open(path, "rb") as file:
        content = file.read()
    runs = (*entry.layout, *entry.past_end)
    worlds.truncate(path, 0)
    # Before the file has a size: allocating past the end makes Btrfs write to the last block.
    for first, end, what in runs:
        if what == "unwritten":
            worlds.preallocate_past_end(path, first * BLOCK, (end - first) * BLOCK)
    if entry.size:
        worlds.truncate(path, entry.size)
    for first, end, what in runs:
        if what == "data":
            worlds.write(path, first * BLOCK, content[first * BLOCK : end * BLOCK])
    worlds.touch(path, entry.mtime_ns)


def _finish_root(path: bytes, entry: Entry) -> None:
    os.chown(path, entry.uid, entry.gid)
    os.chmod(path, entry.mode)
    for name, value in entry.xattrs:
        os.setxattr(path, name, value)
    worlds.touch(path, entry.mtime_ns)
