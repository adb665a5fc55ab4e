"""A standby that was changed by hand is noticed before anything is applied, and the change is not lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from machine import Pair, Place, assert_told, done, passed, run, sh, snapshots, status
from oracle import assert_same, differences, freeze
from test_crash import assert_tidy
from test_roles import restored
from worlds import World, bulk, chmod, fill, rename, rewrite_quietly, set_xattr

PAIRS = [("btrfs", "btrfs"), ("xfs", "xfs"), ("btrfs", "ext4")]


def add(root: Path) -> str:
    fill(root / "d/new", 0, 5_000, 3)
    return "d/new"


def edit_quietly(root: Path) -> str:
    """Other bytes, and the modification time put back."""
    rewrite_quietly(root / "d/quiet", 100, 50, 4)
    return "d/quiet"


def remove(root: Path) -> str:
    (root / "d/gone").unlink()
    return "d/gone"


def move(root: Path) -> str:
    rename(root / "d/moved", root / "elsewhere")
    return "elsewhere"


def mode(root: Path) -> str:
    chmod(root / "d/mode", 0o640)
    return "d/mode"


def xattr(root: Path) -> str:
    set_xattr(root / "d/xattr", b"user.by", b"hand")
    return "d/xattr"


CHANGES = [add, edit_quietly, remove, move, mode, xattr]


def lay_out(root: Path) -> None:
    (root / "d").mkdir()
    for name in ("quiet", "gone", "moved", "mode", "xattr"):
        fill(root / "d" / name, 0, 9_000, len(name))
    bulk(root / "more", 30)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_drift_is_refused_and_named_and_can_be_put_aside(
    pair: Pair, place: Place, kinds: tuple[str, str], change: Callable[[Path], str]
) -> None:
    lay_out(pair.source)
    pair.sync()
    path = change(pair.target)
    drifted = freeze(pair.target)
    # What is changed on the primary is not where the drift is.
    fill(pair.source / "more/other", 0, 4_000, 5)
    check = () if kinds[1] == "btrfs" else ("--check",)
    held = [snap["id"] for snap in snapshots(pair.target)]
    for _ in range(2):
        ran = run("sync", pair.source, pair.target, "-q", *check)
        assert_told(ran, "by hand", path, "--discard-drift", codes=(3,))
        assert_same(drifted, pair.target)
    assert [snap["id"] for snap in snapshots(pair.target)] == held
    report = pair.sync("--discard-drift")
    kept = report["set_aside"]
    assert kept["aside"]
    assert_same(drifted, restored(pair.target, kept["id"], place))
    assert_tidy(pair.target)
    # From then on all is as before.
    fill(pair.source / "d/quiet", 0, 30, 6)
    assert pair.sync("--check")["set_aside"] is None


def written(file: Path) -> None:
    rewrite_quietly(file, 100, 50, 4)


def replaced(file: Path) -> None:
    """Another file of the same size, time and name."""
    copy = file.with_name("copy")
    sh("cp", "-p", file, copy)
    rewrite_quietly(copy, 100, 50, 4)
    copy.rename(file)


def touched(file: Path) -> None:
    """Nothing tells that it has its bytes still."""
    set_xattr(file, b"user.by", b"hand")
    os.removexattr(file, b"user.by")


def append(file: Path) -> None:
    fill(file, 300_000, 10, 5)


def overwrite(file: Path) -> None:
    fill(file, 200_000, 10, 5)


def lend(file: Path) -> None:
    sh("cp", "--reflink=always", file, file.with_name("clone"))


@pytest.mark.parametrize("change", [append, overwrite, lend, Path.unlink])
@pytest.mark.parametrize("by_hand", [written, replaced, touched])
@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_no_round_builds_on_bytes_of_which_only_the_change_time_tells_that_they_may_be_others(
    place: Place, kind: str, by_hand: Callable[[Path], None], change: Callable[[Path], None]
) -> None:
    pair = Pair.make(place, ("xfs", kind))
    fill(pair.source / "file", 0, 300_000, 1)
    pair.sync()
    directory = pair.target.stat()
    by_hand(pair.target / "file")
    os.utime(pair.target, ns=(directory.st_atime_ns, directory.st_mtime_ns))
    before, content = freeze(pair.target), (pair.target / "file").read_bytes()
    change(pair.source / "file")
    words = ("sync", pair.source, pair.target, "--scrub", "off", "--quiet")
    assert_told(run(*words), "file (written, or only its change time is another)", codes=(3,))
    assert_same(before, pair.target)
    assert run(*words, "--discard-drift").code == 0
    assert_same(pair.source, pair.target)
    kept = [snapshot for snapshot in snapshots(pair.target) if snapshot["name"].startswith("drift-")]
    again = place.absent(kind)
    done("restore", f"{pair.target}@{kept[0]['name']}", "--to", again)
    assert (again / "file").read_bytes() == content


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_reading_a_standby_is_no_drift(pair: Pair, kinds: tuple[str, str]) -> None:
    lay_out(pair.source)
    pair.sync()
    for path in pair.target.rglob("*"):
        if path.is_file() and ".snapsync" not in path.parts:
            # A time of access that reading alone moves: that leaves the change time as it is.
            path.read_bytes()
    fill(pair.source / "d/new", 0, 100, 1)
    pair.sync("--check")


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_random_drift_goes_back_exactly(pair: Pair, place: Place, kinds: tuple[str, str]) -> None:
    world = World(pair.source, seed=21)
    world.grow(80)
    pair.sync()
    for turn in range(3):
        World(pair.target, seed=100 + turn).churn(25)
        drifted = freeze(pair.target)
        world.churn(10)
        report = pair.sync("--discard-drift")
        if report["set_aside"]:
            assert_same(drifted, restored(pair.target, report["set_aside"]["id"], place))
        assert_tidy(pair.target)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_standby_that_was_changed_is_promoted_only_as_one_says(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    lay_out(pair.source)
    pair.sync()
    path = add(pair.target)
    drifted = freeze(pair.target)
    assert_told(run("promote", "-q", pair.target), path, "--accept-drift", codes=(3,))
    assert status(pair.target)["volume"]["role"] == "standby"
    assert_same(drifted, pair.target)
    report = done("promote", pair.target, "--discard-drift")
    assert_same(pair.source, pair.target)
    assert_same(drifted, restored(pair.target, report["set_aside"]["id"], place))
    # The other way.
    done("rejoin", pair.source, pair.target)
    add(pair.source)
    accepted = freeze(pair.source)
    done("promote", pair.source, "--accept-drift")
    assert_same(accepted, pair.source)
    done("rejoin", pair.target, pair.source)
    assert_same(accepted, pair.target)


@pytest.mark.parametrize("kinds", [("btrfs", "btrfs"), ("xfs", "btrfs")], ids="-".join)
def test_entries_that_no_pattern_replicates_are_no_drift(pair: Pair, kinds: tuple[str, str]) -> None:
    lay_out(pair.source)
    done("sync", pair.source, pair.target, "--exclude", "*.own")
    (pair.target / "d/standby.own").write_bytes(b"mine")
    fill(pair.source / "d/new", 0, 100, 1)
    done("sync", pair.source, pair.target)
    assert (pair.target / "d/standby.own").read_bytes() == b"mine"
    assert (pair.target / "d/new").exists()


# --- a tree that is read-only between rounds --------------------------------------------------


def is_read_only(path: Path) -> bool:
    return "ro=true" in sh("btrfs", "property", "get", path, "ro")


@pytest.mark.parametrize("source", ["btrfs", "xfs"])
def test_a_standby_can_be_read_only_between_rounds(place: Place, source: str) -> None:
    pair = Pair(place(source), place("btrfs"))
    world = World(pair.source, seed=31)
    world.grow(50)
    done("init", pair.target, "--read-only")
    pair.sync()
    for _ in range(2):
        assert is_read_only(pair.target)
        with pytest.raises(OSError, match="Read-only"):
            (pair.target / "by-hand").write_bytes(b"")
        world.churn(20)
        pair.sync("--keep-last", "2")
    # Whoever makes it writable and changes it is noticed.
    sh("btrfs", "property", "set", pair.target, "ro", "false")
    (pair.target / "by-hand").write_bytes(b"")
    assert_told(run("sync", pair.source, pair.target, "-q"), "by-hand", codes=(3,))
    pair.sync("--discard-drift")
    assert is_read_only(pair.target)
    done("delete", f"{pair.target}@{snapshots(pair.target)[0]['id']}")
    # A primary is written to.
    done("promote", pair.target)
    assert not is_read_only(pair.target)
    (pair.target / "work").write_bytes(b"")
    done("rejoin", pair.source, pair.target)
    assert_same(pair.source, pair.target)
    done("switch", pair.target, pair.source)
    assert is_read_only(pair.target)
    done("init", pair.target, "--read-write")
    assert not is_read_only(pair.target)


def test_a_round_says_whether_the_standby_is_read_only(place: Place) -> None:
    """As a configuration does; later rounds that say nothing leave it as it is."""
    pair = Pair(place("xfs"), place.absent("btrfs"))
    world = World(pair.source, seed=33)
    world.grow(50)
    pair.sync("--read-only")
    for options, sealed in (((), True), (("--read-write",), False), ((), False)):
        world.churn(20)
        pair.sync(*options)
        assert is_read_only(pair.target) == sealed
    plain = place.absent("ext4")
    assert_told(run("sync", "-q", pair.source, plain, "--read-only"), "Btrfs", codes=(2,))
    assert not plain.exists()


def test_a_killed_round_heals_where_the_tree_is_read_only(place: Place) -> None:
    pair = Pair(place("xfs"), place("btrfs"))
    world = World(pair.source, seed=32)
    world.grow(50)
    done("init", pair.target, "--read-only")
    pair.sync()
    for point in ("stage.done", "commit.attach", "commit.applied", "commit.snapshot", "snapshot.recorded"):
        world.churn(15)
        run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": f"{point}:2"})
        run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": f"{point}:1"})
        pair.sync()
        assert is_read_only(pair.target)
        assert_tidy(pair.target)


def test_only_a_subvolume_can_be_read_only(place: Place) -> None:
    plain = place("xfs")
    assert_told(run("init", "-q", plain, "--read-only"), "Btrfs", codes=(2,))
    assert not (plain / ".snapsync").exists()
    full = place("btrfs")
    bulk(full, 3)
    assert_told(run("init", "-q", full, "--read-only"), "empty", codes=(3,))
    assert not (full / ".snapsync").exists()


def test_init_makes_a_primary(place: Place) -> None:
    volume = place("xfs")
    bulk(volume, 3)
    before = freeze(volume)
    assert done("init", volume)["volume"]["role"] == "primary"
    assert_same(before, volume)
    assert done("init", volume)["volume"]["id"] == status(volume)["volume"]["id"]


# --- kills ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_drift_that_is_being_put_aside_survives_a_kill(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kind: str
) -> None:
    def drifted() -> Pair:
        pair = Pair(place(kind), place.absent(kind))
        lay_out(pair.source)
        pair.sync()
        for change in CHANGES:
            change(pair.target)
        fill(pair.source / "more/other", 0, 4_000, 5)
        return pair

    pair, trace = drifted(), tmp_path / "trace"
    done("sync", pair.source, pair.target, "--discard-drift", env={"SNAPSYNC_FAULT_TRACE": trace})
    for point in dict.fromkeys(passed(trace)):
        with subtests.test(point=point):
            pair = drifted()
            held = freeze(pair.target)
            words = ("sync", pair.source, pair.target, "--discard-drift")
            assert run(*words, env={"SNAPSYNC_FAULT": f"{point}:1"}).code == -signal.SIGKILL
            done(*words)
            assert_same(pair.source, pair.target)
            assert_tidy(pair.target)
            aside = [snap["id"] for snap in snapshots(pair.target) if snap.get("aside")]
            kept = [freeze(restored(pair.target, snap, place)) for snap in aside]
            assert any(not differences(held, tree) for tree in kept)
