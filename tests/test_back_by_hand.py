"""What the page on failover tells to do by hand, after a promotion by mistake and at the end of a volume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from machine import Pair, Place, assert_told, done, run, sh, snapshots, status
from oracle import assert_same, freeze, same
from worlds import bulk


def set_store_aside(volume: Path) -> None:
    aside = volume.with_name(f"{volume.name}-promoted")
    if status(volume)["volume"]["provider"] == "btrfs":
        volume.rename(aside)
        sh("btrfs", "subvolume", "snapshot", aside, volume)
        sh("rm", "-r", volume / ".snapsync")
    else:
        (volume / ".snapsync").rename(aside)


def promoted_by_mistake(place: Place, kinds: tuple[str, str]) -> Pair:
    """A pair whose standby was promoted, while its primary lives on, and was written to."""
    pair = Pair.make(place, kinds)
    bulk(pair.source, 20)
    pair.sync("--name", "one")
    (pair.source / "file").write_text("of the second round")
    pair.sync("--name", "two")
    done("promote", pair.target)
    (pair.target / "by mistake").touch()
    (pair.source / "file").write_text("of the primary that lives")
    (pair.source / "new").touch()
    assert run("sync", pair.source, pair.target, "-q").code == 3
    return pair


MISTAKEN = pytest.mark.parametrize(
    "kinds", [("xfs", "btrfs"), ("btrfs", "xfs"), ("ext4", "ext4")], ids="-".join
)


@MISTAKEN
def test_a_primary_begins_anew_in_a_standby_that_was_promoted_by_mistake(
    place: Place, kinds: tuple[str, str]
) -> None:
    pair = promoted_by_mistake(place, kinds)
    set_store_aside(pair.target)
    done("release", pair.source, "--standby", pair.target)
    assert status(pair.source)["replaced"] is None
    kept = done("sync", pair.source, pair.target, "--adopt")["set_aside"]["name"]
    assert_same(pair.source, pair.target)
    found = place.absent("xfs")
    done("restore", f"{pair.target}@{kept}", "by mistake", "--to", found)
    assert os.listdir(found) == ["by mistake"]
    pair.sync()
    assert status(pair.source)["volume"]["epoch"] == 1


@MISTAKEN
def test_roles_that_change_twice_take_a_promotion_back(place: Place, kinds: tuple[str, str]) -> None:
    pair = promoted_by_mistake(place, kinds)
    before = freeze(pair.source)
    left = done("rejoin", pair.source, pair.target)["left"][-1]["name"]
    done("switch", pair.target, pair.source)
    done("restore", f"{pair.source}@{left}")
    assert same(freeze(pair.source), before)
    pair.sync()
    assert_same(pair.source, pair.target)
    assert status(pair.source)["volume"]["epoch"] == 3
    assert {"one", "two"} <= {snap["name"] for snap in snapshots(pair.target)}


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_volume_becomes_an_ordinary_directory_again(place: Place, kind: str) -> None:
    pair = Pair.make(place, ("btrfs", kind))
    bulk(pair.source, 5)
    pair.sync()
    done("sync", pair.source, place.absent("xfs"), "--part", "some", "--include", "/bulk-0000")
    if kind == "btrfs":
        done("init", pair.target, "--read-only")
    for volume in (pair.source, pair.target):
        store = volume / ".snapsync"
        if status(volume)["volume"]["provider"] == "btrfs":
            sh("btrfs", "property", "set", "-ts", volume, "ro", "false")
            which = ("-mindepth", "2", "-inum", "256", "!", "-name", "store", "-prune")
            sh("find", store, *which, "-exec", "btrfs", "subvolume", "delete", "{}", "+")
        sh("rm", "-r", store)
        (volume / "written").touch()
        assert_told(run("status", volume), "not a volume", codes=(2,))
    assert sorted(os.listdir(pair.source)) == sorted(os.listdir(pair.target))
