"""Random trees, random changes, any pair of file systems: after each round both sides are equal.

Longer runs: SNAPSYNC_MODEL_SEEDS is how many seeds each pair gets, SNAPSYNC_MODEL_FIRST the first of
them, SNAPSYNC_MODEL_ROUNDS how many rounds each seed, SNAPSYNC_MODEL_ALL=1 takes every odd source to every
target. `make soak` goes on with new seeds for as long as it is told. A failure prints the seed and every
operation: `worlds.replay` does them again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, product

import pytest
from hardships import HARDSHIPS
from machine import KINDS, Pair, Place, verified
from worlds import OF_BTRFS, OF_EXT4, PORTABLE, World

FIRST = int(os.environ.get("SNAPSYNC_MODEL_FIRST", 100))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SNAPSYNC_MODEL_SEEDS", 1)))
ROUNDS = int(os.environ.get("SNAPSYNC_MODEL_ROUNDS", 4))
ALL = os.environ.get("SNAPSYNC_MODEL_ALL") == "1"

OWN_FLAGS = {("btrfs", "btrfs"): OF_BTRFS, ("ext4", "ext4"): OF_EXT4}
"""Flags that are held between two file systems of one kind alone."""

ODD = (
    "btrfs-nocow",
    "btrfs-forced",
    "xfs-1k",
    "xfs-unshared",
    "ext4-1k",
    "ext4-seconds",
    "ext4-inline",
    "ext4-mapped",
    "tmpfs",
    "overlay",
)
"""Sources of which something is not true that is true of the usual ones."""

FROM_ODD = list(product(ODD, KINDS)) if ALL else list(zip(ODD, cycle(KINDS), strict=False))
HARD = list(product(KINDS, KINDS)) if ALL else [("btrfs", "ext4"), ("xfs", "btrfs"), ("ext4", "xfs")]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kinds", list(product(KINDS, KINDS)), ids="-".join)
def test_any_changes_arrive(pair: Pair, kinds: tuple[str, str], seed: int) -> None:
    with world_of(pair, kinds, seed) as world:
        for _ in range(ROUNDS):
            pair.sync()
            world.churn(60)
        pair.sync()
        verified(pair.source, pair.target)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kinds", FROM_ODD, ids="-".join)
def test_any_changes_arrive_from_an_odd_file_system(pair: Pair, kinds: tuple[str, str], seed: int) -> None:
    with world_of(pair, kinds, seed) as world:
        for _ in range(ROUNDS):
            pair.sync(ignore=unknown_to(kinds))
            world.churn(60)
        pair.sync(ignore=unknown_to(kinds))
        # What a target cannot hold was told, and is a difference.
        if not any(report["losses"] for report in pair.reports):
            verified(pair.source, pair.target)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kinds", HARD, ids="-".join)
def test_any_hardship_heals(pair: Pair, place: Place, kinds: tuple[str, str], seed: int) -> None:
    """A round is cut, starved or disturbed; the next one, which is not, makes both sides equal."""
    chance = random.Random(hash_of("hardship", *kinds, str(seed)))
    with world_of(pair, kinds, seed) as world:
        pair.sync()
        for _ in range(ROUNDS):
            world.churn(40)
            hardship = chance.choice(HARDSHIPS)
            world.log.append(f"# {hardship.__name__}")
            hardship(pair, world, chance).befall()
            pair.sync()
        verified(pair.source, pair.target)


@contextmanager
def world_of(pair: Pair, kinds: tuple[str, str], seed: int) -> Iterator[World]:
    """A tree at the source. What goes wrong names the seed and all that was done."""
    # Each pair walks another path: the seed alone would give all of them the same world.
    flags = OWN_FLAGS.get(kinds, PORTABLE)
    world = World(pair.source, hash_of(*kinds, str(seed)), flags, projects=kinds == ("xfs", "xfs"))
    try:
        world.grow(60)
        yield world
    except Exception as error:
        error.add_note(f"seed {seed} on {kinds}, after round {len(pair.reports)}. Operations:")
        error.add_note("\n".join(world.log))
        raise


def unknown_to(kinds: tuple[str, str]) -> tuple[str, ...]:
    """What the independent comparison cannot compare: blocks of 4 KiB where there are none."""
    return ("layout",) if kinds[0] in ("xfs-1k", "ext4-1k", "ext4-inline", "tmpfs", "overlay") else ()


def hash_of(*words: str) -> int:
    """A number that is the same in every run, which that of `hash` is not."""
    return int.from_bytes("/".join(words).encode(), "big")
