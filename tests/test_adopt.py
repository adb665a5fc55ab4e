"""A copy of the primary that is there already becomes its standby, and only what differs travels."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from machine import Pair, Place, assert_told, done, need, run, sh, snapshots, status, store, verified
from oracle import assert_same, freeze
from remote import Server
from worlds import World, bulk, fill, link, noise, punch, set_xattr, touch, write

KIB, MIB = 1 << 10, 1 << 20
TOP = (("btrfs", "btrfs"), ("xfs", "xfs"), ("ext4", "ext4"), ("btrfs", "ext4"), ("ext4", "xfs"), ("xfs", "btrfs"))
kinds = pytest.mark.parametrize("kinds", TOP, ids="-".join)
one = pytest.mark.parametrize("kinds", [("ext4", "ext4"), ("btrfs", "btrfs")], ids="-".join)


@pytest.fixture
def copied(place: Place, kinds: tuple[str, str]) -> Pair:
    """The target is a directory."""
    return Pair(place(kinds[0]), place(kinds[1]))


def copy(pair: Pair, *options: str) -> None:
    need("rsync")
    sh("rsync", *(options or ("-aHAX",)), f"{pair.source}/", f"{pair.target}/")


def kept(volume: Path) -> list[str]:
    return [snapshot["name"] for snapshot in snapshots(volume) if snapshot["name"].startswith("adopted-")]


@kinds
def test_an_equal_copy_is_a_standby_and_nothing_travels(copied: Pair, kinds: tuple[str, str]) -> None:
    bulk(copied.source, 300)
    fill(copied.source / "large", 0, 5 * MIB, 1)
    link(copied.source / "large", copied.source / "further")
    set_xattr(copied.source / "large", b"user.x", b"y")
    sh("cp", "-a", f"{copied.source}/.", copied.target)
    report = copied.sync("--adopt")
    assert report["data_bytes"] == 0
    assert report["changes"]["rows"] <= 1, "at most the time of the root, in which the store is made"
    assert report["set_aside"] is None
    assert kept(copied.target) == []
    fill(copied.source / "large", MIB, 1, 2)
    assert copied.sync()["base"]["id"] == report["snapshot"]["id"]
    verified(copied.source, copied.target)


@kinds
def test_only_the_parts_of_files_that_differ_travel(copied: Pair, kinds: tuple[str, str]) -> None:
    fill(copied.source / "large", 0, 20 * MIB, 1)
    fill(copied.source / "small", 0, KIB, 2)
    copy(copied)
    fill(copied.target / "large", 7 * MIB + 5, 1, 9)
    fill(copied.target / "small", 0, 1, 9)
    (copied.target / "extra").write_bytes(b"not there")
    before = freeze(copied.target)
    report = copied.sync("--adopt")
    assert report["data_bytes"] == 64 * KIB + KIB
    aside = report["set_aside"]["name"]
    assert kept(copied.target) == [aside]
    there = copied.target.parent / f"{copied.target.name}-before"
    done("restore", f"{copied.target}@{aside}", "--to", there)
    assert_same(before, there)


@kinds
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_copy_is_it_becomes_the_primary(
    copied: Pair, kinds: tuple[str, str], seed: int
) -> None:
    chance = random.Random(seed)
    world = World(copied.source, seed)
    world.grow(150)
    world.churn(100)
    copy(copied, *chance.choice([("-aHAX",), ("-rlt",), ("-aX", "--size-only"), ("-aHAXS",)]))
    World(copied.target, seed + 100).churn(chance.choice([0, 5, 80]))
    before = freeze(copied.target)
    # What only a copy has of preallocation, and of holes in the place of zeros, is not looked for.
    report = copied.sync("--adopt", ignore={"layout"})
    if report["set_aside"]:
        there = copied.target.parent / f"{copied.target.name}-before"
        done("restore", f"{copied.target}@{report['set_aside']['name']}", "--to", there)
        assert_same(before, there)
    for _ in range(2):
        world.churn(40)
        copied.sync(ignore={"layout"})
    verified(copied.source, copied.target)
