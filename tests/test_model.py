"""Random trees, random changes, any pair of file systems: after each round both sides are equal.

Longer runs: SNAPSYNC_MODEL_SEEDS is how many seeds each pair gets, SNAPSYNC_MODEL_FIRST the first of
them, SNAPSYNC_MODEL_ROUNDS how many rounds each seed. A failure prints the seed and every operation:
`worlds.replay` does them again.
"""

from __future__ import annotations

import os
from itertools import product

import pytest
from machine import KINDS, Pair, verified
from worlds import OF_BTRFS, PORTABLE, World

FIRST = int(os.environ.get("SNAPSYNC_MODEL_FIRST", 100))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SNAPSYNC_MODEL_SEEDS", 1)))
ROUNDS = int(os.environ.get("SNAPSYNC_MODEL_ROUNDS", 4))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kinds", list(product(KINDS, KINDS)), ids="-".join)
def test_any_changes_arrive(pair: Pair, kinds: tuple[str, str], seed: int) -> None:
    # Each pair walks another path: the seed alone would give nine times the same world.
    flags = OF_BTRFS if kinds == ("btrfs", "btrfs") else PORTABLE
    world = World(pair.source, hash_of(*kinds, str(seed)), flags)
    try:
        world.grow(60)
        for _ in range(ROUNDS):
            pair.sync()
            world.churn(60)
        pair.sync()
        verified(pair.source, pair.target)
    except Exception as error:
        error.add_note(f"seed {seed} on {kinds}, after round {len(pair.reports)}. Operations:")
        error.add_note("\n".join(world.log))
        raise


def hash_of(*words: str) -> int:
    """A number that is the same in every run, which that of `hash` is not."""
    return int.from_bytes("/".join(words).encode(), "big")
