"""The means of the other tests can be trusted: the comparison sees what it claims, the worlds repeat."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest
import worlds
from keepsake import keep
from machine import KINDS, Place, missing, subvolume
from oracle import assert_same, differences, freeze
from worlds import World

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def furnish(root: Path) -> None:
    """One of everything that a change below touches."""
    (root / "dir").mkdir()
    worlds.fill(root / "file", 0, 50_000, 1)
    worlds.fill(root / "other", 0, 50_000, 2)
    (root / "empty").touch()
    os.link(root / "file", root / "dir" / "name")
    os.symlink("somewhere", root / "link")
    worlds.node(root / "device", worlds.CHAR, os.makedev(1, 3))
    worlds.node(root / "fifo", worlds.FIFO)
    worlds.preallocate(root / "plan", 0, 1 << 20)
    worlds.set_xattr(root / "file", b"user.x", b"1")
    worlds.set_acl(root / "other", "access", 1000, 5)


Change = Callable[[Path], object]

CHANGES: dict[str, tuple[str, Change]] = {
    "a byte, quietly": ("content", lambda r: worlds.rewrite_quietly(r / "file", 777, 1, 9)),
    "a byte more": ("size", lambda r: worlds.append(r / "file", 1, 9)),
    "mode": ("mode", lambda r: os.chmod(r / "file", 0o640)),
    "setuid": ("mode", lambda r: os.chmod(r / "file", 0o4644)),
    "owner of a link": ("uid", lambda r: worlds.chown(r / "link", 1, 0)),
    "group": ("gid", lambda r: os.chown(r / "dir", 0, 1)),
    "a nanosecond": ("mtime_ns", lambda r: later(r / "file")),
    "time of a directory": ("mtime_ns", lambda r: later(r / "dir")),
    "time of a link": ("mtime_ns", lambda r: later(r / "link")),
    "time of the root": ("mtime_ns", lambda r: later(r)),
    "mode of the root": ("mode", lambda r: os.chmod(r, 0o700)),
    "link target": ("target", lambda r: worlds.retarget(r / "link", b"elsewhere")),
    "xattr value": ("xattrs", lambda r: worlds.set_xattr(r / "file", b"user.x", b"2")),
    "xattr gone": ("xattrs", lambda r: worlds.remove_xattr(r / "file", b"user.x")),
    "xattr of a link": ("xattrs", lambda r: worlds.set_xattr(r / "link", b"trusted.x", b"")),
    "capability": (
        "xattrs",
        lambda r: worlds.set_xattr(r / "file", b"security.capability", CAPABILITY),
    ),
    "access list": ("xattrs", lambda r: worlds.set_acl(r / "other", "access", 1000, 4)),
    "default list": ("xattrs", lambda r: worlds.set_acl(r / "dir", "default", 1000, 4)),
    "flag": ("flags", lambda r: worlds.set_flags(r / "empty", worlds.NODUMP)),
    "immutable": ("flags", lambda r: worlds.set_flags(r / "dir", worlds.IMMUTABLE)),
    "hole": ("layout", lambda r: worlds.punch(r / "plan", 8192, 8192)),
    "written": ("layout", lambda r: worlds.write(r / "plan", 0, bytes(1 << 20))),
    "a name more": ("links 2 | 3", lambda r: os.link(r / "file", r / "more")),
    "names": ("hard links", lambda r: worlds.exchange(r / "dir" / "name", r / "other")),
    "kind": ("kind", lambda r: again(r / "fifo", worlds.SOCKET)),
    "device number": ("device", lambda r: again(r / "device", worlds.CHAR, 9)),
    "entry gone": ("only in the first", lambda r: os.unlink(r / "empty")),
    "entry new": ("only in the second", lambda r: (r / "dir" / "new").touch()),
}


def later(path: Path) -> None:
    worlds.touch(path, os.lstat(path).st_mtime_ns + 1)


def again(path: Path, kind: int, device: int = 0) -> None:
    path.unlink()
    worlds.node(path, kind, device)


@pytest.mark.parametrize("kind", KINDS)
def test_the_comparison_sees_every_kind_of_difference(place: Place, kind: str) -> None:
    root, copy = place(kind), place(kind)
    furnish(root)
    keep(root, copy)
    before = freeze(root)
    assert_same(before, copy)
    for name, (field, change) in CHANGES.items():
        changed = place(kind)
        keep(root, changed)
        change(changed)
        found = differences(before, changed)
        assert any(field in line for line in found), f"not seen: {name}; seen: {found}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_world_repeats_from_its_log(place: Place, kind: str) -> None:
    world = World(place(kind), seed=7)
    world.grow(120)
    world.churn(300)
    again = place(kind)
    worlds.replay(again, world.log)
    # Times of making differ, all else is the same.
    assert_same(world.root, again, ignore=("mtime_ns",))


@pytest.mark.parametrize("kind", KINDS)
def test_a_keepsake_equals_its_original(place: Place, kind: str) -> None:
    world = World(place(kind), seed=11)
    world.grow(150)
    world.churn(400)
    copy = place(kind)
    keep(world.root, copy)
    assert_same(world.root, copy)


def test_worlds_reach_every_state_that_matters(place: Place) -> None:
    """A random test that never makes a hole proves nothing about holes."""
    world = World(place("btrfs"), seed=5)
    world.grow(150)
    entries: list[oracle.Entry] = []
    groups = 0
    for _ in range(5):
        picture = freeze(world.root)
        entries += picture.entries.values()
        groups += len(picture.groups)
        world.churn(300)
    kinds = {"file", "directory", "symlink", "fifo", "socket", "char device"}
    assert {entry.kind for entry in entries} == kinds
    assert {what for entry in entries for _, _, what in entry.layout} == {"data", "unwritten"}
    assert any(e.size > 4096 * sum(b - a for a, b, _ in e.layout) for e in entries)
    assert any(e.past_end for e in entries)
    assert groups
    done = {line.split("(")[1].split(",")[0] for line in world.log if "#" not in line}
    missed = {step.__name__ for step in OPERATIONS} - done
    assert not missed


OPERATIONS = (
    worlds.fill,
    worlds.append,
    worlds.rewrite_quietly,
    worlds.truncate,
    worlds.punch,
    worlds.zero,
    worlds.preallocate,
    worlds.preallocate_past_end,
    worlds.exchange,
    worlds.rename,
    worlds.link,
    worlds.remove,
    worlds.symlink,
    worlds.retarget,
    worlds.set_xattr,
    worlds.remove_xattr,
    worlds.set_acl,
    worlds.chmod,
    worlds.chown,
    worlds.touch,
    worlds.set_flags,
    worlds.node,
)


def test_a_picture_can_be_put_away(place: Place) -> None:
    root = place("ext4")
    furnish(root)
    assert pickle.loads(pickle.dumps(freeze(root))) == freeze(root)


def test_the_store_and_other_devices_are_not_part_of_a_tree(place: Place) -> None:
    root = place("btrfs")
    furnish(root)
    before = freeze(root)
    stamp = os.stat(root).st_mtime_ns
    (root / ".snapsync").mkdir()
    (root / ".snapsync" / "x").touch()
    subvolume(root / "nested")
    (root / "nested" / "y").touch()
    worlds.touch(root, stamp)
    assert_same(before, root)


def test_paths_over_path_max_are_read(place: Place) -> None:
    one, two = place("xfs"), place("xfs")
    for root in (one, two):
        fd = os.open(root, os.O_RDONLY)
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=fd)
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open(str(root.name), os.O_CREAT, 0o644, dir_fd=fd))
        os.close(fd)
    found = differences(one, two, ignore=("mtime_ns",))
    assert len(found) == 2
    assert len(found[0]) > 4096


def test_reading_leaves_no_mark(place: Place) -> None:
    root = place("ext4")
    furnish(root)
    before = oracle.touch_marks(root), os.stat(root / "file").st_atime_ns
    freeze(root)
    assert (oracle.touch_marks(root), os.stat(root / "file").st_atime_ns) == before


def test_mounts_stay_in_this_run(place: Place) -> None:
    """A killed run leaves no mount: what it mounts is seen by nobody else."""
    point = str(place("ext4").parent.parent)
    outside = Path("/proc/1/mountinfo")
    try:
        mounted = outside.read_text()
    except PermissionError:
        missing("sight of the first process")
    assert point in Path("/proc/self/mountinfo").read_text()
    assert point not in mounted
