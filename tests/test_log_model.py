"""What a standby gets from a log is what its primary had, whatever happened in between.

The trees and their changes come from a seed (`SNAPSYNC_LOG_SEED`).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from machine import Pair, Place, assert_told, done, run, snapshots, verified
from oracle import assert_same, freeze
from worlds import OF_BTRFS, PORTABLE, World

KINDS = [("btrfs", "xfs"), ("xfs", "btrfs"), ("ext4", "xfs"), ("xfs", "ext4")]
ROUNDS = 11
SEED = 1000 * int(os.environ.get("SNAPSYNC_LOG_SEED", "0"))
LAYOUT = {"layout"}
"""After a promotion the last block of what is preallocated may hold zeros instead: it reads the same."""


def blind_to(kinds: tuple[str, str]) -> set[str]:
    """XFS keeps some of what it preallocates of its own accord where a file is written in several pieces."""
    return LAYOUT if "xfs" in kinds else set()


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_standbys_of_a_log_are_equal_to_its_primary_whenever_they_begin(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    source, log = Pair.make(place, kinds).source, f"file://{tmp_path}/log"
    standbys = [Pair.make(place, kinds).target]
    world = World(source, SEED + 190, OF_BTRFS if kinds == ("btrfs", "btrfs") else PORTABLE)
    for turn in range(ROUNDS):
        world.grow(60 if turn == 0 else 15)
        world.churn(40)
        done("sync", source, log)
        if turn % 3 == 1:
            standbys.append(Pair.make(place, kinds).target)
        for standby in standbys:
            done("sync", log, standby)
            assert_same(source, standby, ignore=blind_to(kinds))
            verified(source, standby)
    assert list((tmp_path / "log/tables").iterdir()), "no checkpoint was made"


@pytest.mark.parametrize("kinds", KINDS[:3], ids="-".join)
def test_a_pruned_log_has_all_that_its_snapshots_and_its_standbys_need(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    source, log = Pair.make(place, kinds).source, f"file://{tmp_path}/log"
    late, world, pictures = Pair.make(place, kinds).target, World(source, SEED + 191), {}
    for turn in range(14):
        world.grow(50 if turn == 0 else 10)
        world.churn(30)
        name = done("sync", source, log)["snapshot"]["name"]
        pictures[name] = freeze(source)
        if turn in (1, 6):
            done("sync", log, late)
            assert_same(source, late, ignore=blind_to(kinds))
        if turn == 3:
            done("hold", f"{log}@{name}", "--reason", "kept")
            held = name
        if turn % 4 == 3:
            told = done("prune", log, "--keep-last", "3", "--dry-run")
            assert told["pruned"] == done("prune", log, "--keep-last", "3")["pruned"]
            listed = [snapshot["name"] for snapshot in done("list", log)["snapshots"]]
            assert held in listed
            assert len(listed) in (3, 4), listed
            for name in listed:
                to = place.absent(kinds[0])
                done("restore", f"{log}@{name}", "--to", to)
                assert_same(pictures[name], to, ignore=blind_to(kinds))
    assert len(done("list", log)["snapshots"]) < 8
    # Its own snapshot is not listed any more, and the log has kept what it needs.
    done("sync", log, late)
    assert_same(source, late, ignore=blind_to(kinds))
    fresh = Pair.make(place, kinds).target
    done("sync", log, fresh)
    assert_same(source, fresh, ignore=blind_to(kinds))


@pytest.mark.parametrize("kinds", [("xfs", "btrfs"), ("btrfs", "ext4")], ids="-".join)
def test_a_log_goes_on_under_a_new_primary_for_old_and_new_standbys(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    pair, log = Pair.make(place, kinds), f"file://{tmp_path}/log"
    primary, standby, pictures = pair.source, pair.target, {}
    for turn in range(9):
        world = World(primary, SEED + 192 + turn)
        world.grow(60 if turn == 0 else 15)
        world.churn(30)
        name = done("sync", primary, log)["snapshot"]["name"]
        pictures[name] = freeze(primary)
        done("sync", log, standby)
        assert_same(primary, standby, ignore=LAYOUT)
        if turn % 3 == 1:
            done("promote", standby)
            assert_told(run("sync", primary, log, "--quiet"), "was replaced", codes=(3,))
            done("sync", standby, log)
            done("rejoin", primary, log)
            assert_same(standby, primary, ignore=LAYOUT)
            primary, standby = standby, primary
    fresh = Pair.make(place, kinds).target
    done("sync", log, fresh)
    assert_same(primary, fresh, ignore=LAYOUT)
    verified(log, fresh)
    for name, picture in pictures.items():
        to = place.absent(kinds[0])
        done("restore", f"{log}@{name}", "--to", to)
        assert_same(picture, to, ignore=LAYOUT)
        verified(f"{log}@{name}", to)


@pytest.mark.parametrize("kinds", [("xfs", "btrfs"), ("btrfs", "xfs"), ("ext4", "xfs")], ids="-".join)
def test_a_standby_passes_on_what_it_gets_with_the_same_snapshots(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    pair, log = Pair.make(place, kinds), f"file://{tmp_path}/log"
    second, third, world = pair.target, Pair.make(place, kinds).target, World(pair.source, SEED + 193)
    fourth = Pair.make(place, ("btrfs", "ext4")).target
    for turn in range(5):
        world.grow(60 if turn == 0 else 15)
        world.churn(30)
        done("sync", pair.source, second)
        if turn != 2:  # One that it missed comes with the next.
            done("sync", second, third)
            done("sync", second, log)
            done("sync", log, fourth)
            for standby in (third, fourth):
                assert_same(second, standby, ignore=blind_to(kinds))
                assert_same(pair.source, standby, ignore=blind_to(kinds))
                verified(pair.source, standby)
    ids = [snapshot["id"] for snapshot in done("list", second)["snapshots"]]
    for place_of_them in (third, log, fourth):
        passed = [snapshot["id"] for snapshot in done("list", place_of_them)["snapshots"]]
        assert passed[-1] == ids[-1]
        assert set(passed) < set(ids)
    assert done("status", second)["volume"]["role"] == "standby"
    assert_told(run("sync", second, third, "--name", "own", "--quiet"), "passes on", codes=(2,))
    done("promote", third)
    done("rejoin", second, third)
    assert_same(third, second, ignore=blind_to(kinds))


@pytest.mark.parametrize("kinds", [("xfs", "btrfs"), ("btrfs", "xfs"), ("ext4", "xfs")], ids="-".join)
def test_a_standby_that_the_log_does_not_know_goes_on_from_what_is_listed(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    pair, log = Pair.make(place, kinds), f"file://{tmp_path}/log"
    other, world, pictures = Pair.make(place, kinds).target, World(pair.source, SEED + 194), {}
    for turn in range(12):
        world.grow(60 if turn == 0 else 15)
        world.churn(30)
        name = done("sync", pair.source, log)["snapshot"]["name"]
        pictures[name] = freeze(pair.source)
        if turn == 2:
            done("sync", log, other)
        if turn == 3:
            done("sync", log, pair.target)
            done("hold", f"{log}@{name}")
            for reader in (tmp_path / "log/readers").iterdir():
                reader.unlink()
        if turn == 7:
            done("prune", log, "--keep-last", "2")
    done("sync", log, pair.target)
    assert_same(pair.source, pair.target, ignore=blind_to(kinds))
    verified(pair.source, pair.target)
    # Nothing is kept for the other one: it gets all that is there, and is told what is not.
    ran = run("sync", log, other, "--quiet")
    if ran.code:
        assert_told(ran, "has let go of", codes=(3,))
    assert_same(pictures[snapshots(other)[-1]["name"]], other, ignore=blind_to(kinds))
