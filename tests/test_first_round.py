"""A first round asks little of each small file. What its snapshots then say of it is still what it has."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from machine import Pair, Place, done, need, snapshots, stopped_at
from oracle import assert_same, freeze
from test_packs import old
from worlds import bulk, fill, link, preallocate, preallocate_past_end, punch, set_acl, set_flags, set_xattr

KINDS = ("xfs", "ext4")
NO_DUMP = 0x40


def odd_ones(root: Path) -> None:
    """Plain files, and among them others of the same size, each with one thing more."""
    bulk(root, 60, size=20_000, per_directory=20)
    for directory in [path for path in root.iterdir() if path.is_dir() and path.name != ".snapsync"]:
        few = sorted(directory.iterdir())[3::4]
        set_xattr(few[0], b"user.odd", b"one")
        punch(few[1], 4096, 8192)
        preallocate_past_end(few[2], 32_768, 65_536)
        set_flags(few[3], NO_DUMP)
        set_acl(few[4], "access", 65_534, 4)
        link(few[4], directory / "again")
        os.chmod(sorted(directory.iterdir())[1], 0o4711)
        os.chown(sorted(directory.iterdir())[2], 65_534, 65_534)
        preallocate(directory / "reserved", 0, 20_000)
        fill(directory / "short", 0, 1, 7)
        (directory / "empty").touch()


@pytest.mark.parametrize("history", ["full", "light"])
@pytest.mark.parametrize("kind", KINDS)
def test_snapshots_of_both_sides_know_what_each_new_file_has(
    place: Place, kind: str, history: str, tmp_path: Path
) -> None:
    pair = Pair.make(place, (kind, kind))
    done("init", pair.source, "--history", history)
    odd_ones(pair.source)
    old(pair.source)
    pair.sync()
    picture = freeze(pair.source)
    for side in (pair.source, pair.target):
        again = place.absent(kind)
        done("restore", f"{side}@{snapshots(side)[-1]['name']}", "--to", again)
        assert_same(picture, again)
    # What a row does not tell, the next round would not find either.
    for path in pair.source.rglob("*"):
        if path.is_file() and ".snapsync" not in path.parts and path.stat().st_size == 20_000:
            os.chmod(path, 0o604)
    pair.sync()


@pytest.mark.parametrize(("kind", "history"), [("xfs", "full"), ("ext4", "light")])
def test_a_first_round_looks_for_nothing_that_is_not_there(
    place: Place, kind: str, history: str, tmp_path: Path
) -> None:
    need("strace")
    pair = Pair.make(place, (kind, kind))
    bulk(pair.source, 300, size=4096, per_directory=100)
    old(pair.source)
    trace = tmp_path / "calls"
    wrap = ("strace", "-f", "-qq", "-e", "trace=openat2", "-o", str(trace))
    done("sync", pair.source, pair.target, "--history", history, wrap=wrap)
    vain = [line for line in trace.read_text().splitlines() if "ENOENT" in line]
    assert len(vain) < 150, vain[:150]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_changed_by_hand_before_the_first_snapshot_is_in_it(
    place: Place, kind: str, tmp_path: Path
) -> None:
    """The commit made these files with nothing but data; somebody opens them before they are looked at."""
    pair = Pair.make(place, (kind, kind))
    bulk(pair.source, 60, size=20_000, per_directory=20)
    words = ("sync", pair.source, pair.target)
    with stopped_at("commit.applied", *words) as process:
        changed = sorted(path for path in pair.target.rglob("*") if ".snapsync" not in path.parts)
        one, two = [path for path in changed if path.is_file()][5:7]
        set_xattr(one, b"user.odd", b"one")
        before = two.stat()
        fill(two, 4096, 5000, 77)
        os.utime(two, ns=(before.st_atime_ns, before.st_mtime_ns))
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate()
    assert process.returncode == 0, (out, err)
    again = place.absent(kind)
    done("restore", f"{pair.target}@{snapshots(pair.target)[-1]['name']}", "--to", again)
    assert_same(freeze(pair.target), again)
