"""A volume goes back to one of its snapshots, and what it held before is kept."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from cue import on_cue
from machine import Pair, Place, assert_told, done, passed, run, sh, snapshots, status, verified
from oracle import Picture, assert_same, differences, freeze
from test_crash import assert_tidy
from test_roles import restored
from worlds import World, bulk, fill

KINDS = ["btrfs", "xfs", "ext4"]


def history(volume: Path, seed: int, turns: int) -> list[tuple[str, Picture]]:
    """Snapshots of a random life, and what the tree held at each."""
    world, held = World(volume, seed), []
    world.grow(80)
    for _ in range(turns):
        world.churn(25)
        held.append((done("snapshot", volume)["snapshot"]["id"], freeze(volume)))
    world.churn(25)
    return held


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_any_snapshot_comes_back_and_nothing_is_lost(place: Place, kind: str, seed: int) -> None:
    volume, chance = place(kind), random.Random(seed)
    held = history(volume, seed, 4)
    for turn in range(4):
        now = freeze(volume)
        snap, picture = chance.choice(held)
        report = done("restore", f"{volume}@{snap}")
        assert_same(picture, volume)
        verified(f"{volume}@latest", volume)
        assert_same(now, restored(volume, report["before"]["id"], place))
        held += [(report["before"]["id"], now), (report["snapshot"]["id"], picture)]
        World(volume, seed=50 + turn).churn(15)
    assert_tidy(volume)
    for snap, picture in held:
        assert_same(picture, restored(volume, snap, place))


@pytest.mark.parametrize("kinds", [("btrfs", "btrfs"), ("xfs", "xfs"), ("xfs", "ext4")], ids="-".join)
def test_a_standby_follows_a_restore(pair: Pair, kinds: tuple[str, str]) -> None:
    world = World(pair.source, seed=3)
    world.grow(60)
    pair.sync()
    first = freeze(pair.source)
    for _ in range(3):
        world.churn(20)
        pair.sync()
    done("restore", f"{pair.source}@0")
    pair.sync()
    assert_same(first, pair.target)
    World(pair.source, seed=4).churn(20)
    pair.sync()


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_difference_is_written(place: Place, kind: str) -> None:
    volume = place(kind)
    bulk(volume, 200)
    fill(volume / "large", 0, 20_000_000, 1)
    done("snapshot", volume, "--name", "good")
    fill(volume / "large", 5_000_000, 4_096, 2)
    fill(volume / "bad", 0, 100, 3)
    report = done("restore", f"{volume}@good")
    assert report["data_bytes"] <= 3 * 4_096
    assert report["changes"]["rows"] <= 3
    again = done("restore", f"{volume}@good")
    assert again["changes"]["rows"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_restore_leaves_the_tree_of_before_or_of_after(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kind: str
) -> None:
    volume, trace = place(kind), tmp_path / "trace"
    history(volume, 5, 1)
    done("restore", f"{volume}@0", env={"SNAPSYNC_FAULT_TRACE": trace})
    good = freeze(volume)
    done("snapshot", volume, "--name", "good")
    for point, hits in Counter(passed(trace)).items():
        with subtests.test(point=point):
            World(volume, seed=60).churn(12)
            bad = freeze(volume)
            ran = run("restore", f"{volume}@good", env={"SNAPSYNC_FAULT": f"{point}:{hits // 2 + 1}"})
            assert ran.code in (0, -signal.SIGKILL), ran
            done("snapshot", volume)  # heals, and is of whatever there is
            now = freeze(volume)
            assert not differences(good, now) or not differences(bad, now)
            assert_tidy(volume)
            verified(f"{volume}@latest", volume)
            done("restore", f"{volume}@good")
            assert_same(good, volume)
            for snap in snapshots(volume):
                if snap["name"] != "good":
                    done("delete", f"{volume}@{snap['id']}")


def test_a_restore_that_makes_no_sense_changes_nothing(pair: Pair) -> None:
    bulk(pair.source, 10)
    pair.sync("--name", "one")
    (pair.source / "two").write_bytes(b"2")
    pair.sync("--name", "two")
    held = freeze(pair.target)
    assert_told(run("restore", "-q", f"{pair.target}@one"), "standby", codes=(3,))
    assert_told(run("restore", "-q", f"{pair.source}@three"), "three", codes=(2,))
    assert_told(run("restore", "-q", pair.source), codes=(2,))
    assert_told(run("restore", "-q", f"{pair.source}@one", "--name", "two"), "two", codes=(2,))
    assert_same(held, pair.target)
    assert_same(held, pair.source)
    assert len(snapshots(pair.source)) == 2


def test_what_a_snapshot_did_not_hold_is_not_deleted(pair: Pair) -> None:
    (pair.source / "cache").mkdir()
    fill(pair.source / "cache/big", 0, 1_000, 1)
    bulk(pair.source / "data", 5)
    done("sync", pair.source, pair.target, "--exclude", "/cache", "--name", "part")
    done("sync", pair.source, pair.target, "--everything")
    assert_told(run("restore", "-q", f"{pair.source}@part"), "patterns", codes=(3,))
    assert (pair.source / "cache/big").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_leaves_alone_what_no_snapshot_holds(place: Place, kind: str) -> None:
    volume, standby = place(kind), place.absent("xfs")
    bulk(volume, 10)
    done("sync", volume, standby, "--exclude", "*.own", "--name", "good")
    (volume / "keep.own").write_bytes(b"mine")
    (volume / "bad").write_bytes(b"bad")
    done("restore", f"{volume}@good")
    assert (volume / "keep.own").read_bytes() == b"mine"
    assert not (volume / "bad").exists()
    assert status(volume)["volume"]["role"] == "primary"


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_whose_directory_became_something_else_is_refused(place: Place, kind: str) -> None:
    volume = place(kind)
    (volume / "dir").mkdir()
    fill(volume / "dir/file", 0, 1_000, 1)
    done("snapshot", volume, "--name", "one")
    fill(volume / "dir/file", 0, 1_000, 2)

    def act(_: int, __: str) -> None:
        if (volume / ".snapsync/incoming/restore/dir/file").exists() and (volume / "dir").is_dir():
            (volume / "dir").rename(volume / "moved")
            (volume / "dir").write_text("a file")

    assert_told(
        on_cue(act, "restore", f"{volume}@one", volume / "dir/file", "-q").ran, "was exchanged", codes=(3,)
    )
    assert (volume / "dir").read_text() == "a file"
    ran = run("restore", f"{volume}@one", volume / "dir/file")
    assert_told(ran, "dir", codes=(3,))


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_in_an_immutable_directory_is_refused_before_anything_is_done(place: Place, kind: str) -> None:
    volume = place(kind)
    (volume / "dir").mkdir()
    fill(volume / "dir/file", 0, 1_000, 1)
    done("snapshot", volume, "--name", "one")
    fill(volume / "dir/file", 0, 1_000, 2)
    sh("chattr", "+i", volume / "dir")
    try:
        before, taken = freeze(volume), snapshots(volume)
        assert_told(run("restore", f"{volume}@one", volume / "dir/file"), "dir", "chattr", codes=(3,))
        assert (freeze(volume), snapshots(volume)) == (before, taken)
    finally:
        sh("chattr", "-i", volume / "dir")
    done("restore", f"{volume}@one", volume / "dir/file")
    # What is immutable itself is replaced.
    sh("chattr", "+i", volume / "dir/file")
    done("restore", f"{volume}@one", volume / "dir/file")
