"""What cannot be read is named, all of it at once; nothing is made of it, and the round ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from machine import Pair, Place, Ran, capless, done, run, status
from oracle import assert_same, freeze
from test_scrub import disks as disks  # a fixture
from worlds import fill


def hidden(root: Path) -> dict[str, Path]:
    """What root cannot read without capabilities: it belongs to somebody else, who lets nobody in."""
    shut = {name: root / name for name in ("shut/file", "closed", "listed/inner")}
    for path in shut.values():
        path.parent.mkdir(exist_ok=True)
    shut["closed"].mkdir(mode=0o700)
    for name in ("shut/file", "listed/inner"):
        fill(shut[name], 0, 5_000, 3)
        shut[name].chmod(0o600)
    (root / "listed").chmod(0o704)
    for path in (*shut.values(), root / "listed"):
        os.chown(path, 65534, 65534)
    return shut


def assert_all_named(ran: Ran, *paths: Path | str) -> None:
    assert ran.code == 1, ran
    assert all(str(path) in ran.err for path in paths), ran.err
    assert "--exclude" in ran.err


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_all_that_cannot_be_read_is_named_and_can_be_left_out(place: Place, kind: str) -> None:
    pair = Pair.make(place, (kind, "ext4"))
    fill(pair.source / "file", 0, 10_000, 1)
    pair.sync()
    before = freeze(pair.target)
    fill(pair.source / "file", 0, 10_000, 2)
    hidden(pair.source)
    wrap = capless()
    ran = run("sync", pair.source, pair.target, wrap=wrap)
    # Where names cannot be followed, nothing is told of what they are; data is read when all names are known.
    assert_all_named(ran, "/closed:", "/listed:")
    assert freeze(pair.target) == before
    if kind == "btrfs":
        # Without the right to remove it the snapshot that could not be read stays until root's next round.
        pair.source.joinpath("listed/inner").unlink()
        done("sync", pair.source, pair.target)
        return
    without = ["--exclude", "/closed", "--exclude", "/listed"]
    ran = run("sync", pair.source, pair.target, *without, wrap=wrap)
    assert_all_named(ran, "shut/file")
    assert freeze(pair.target) == before
    assert status(pair.target)["unfinished"] is None
    done("sync", pair.source, pair.target, *without, "--exclude", "/shut", wrap=wrap)
    assert (pair.target / "file").read_bytes() == (pair.source / "file").read_bytes()
    # Who may read it brings it.
    done("sync", pair.source, pair.target, "--everything")
    assert_same(pair.source, pair.target)


def test_all_files_that_a_disk_does_not_give_are_named(place: Place, disks: Any) -> None:
    disk = disks("btrfs")
    pair = Pair(disk.root, place("xfs"))
    disk.root.mkdir()
    for n in range(4):
        fill(disk.root / f"file{n}", 0, 200_000, n)
    os.sync()
    for n in (0, 2):
        disk.flip(disk.root / f"file{n}", 100_000)
    ran = run("sync", pair.source, pair.target)
    assert_all_named(ran, "file0", "file2")
    assert "file1" not in ran.err
    assert "file3" not in ran.err
    for n in (0, 2):
        (disk.root / f"file{n}").unlink()
    pair.sync()
