"""What a standby gets from a log is what its primary had, whatever happened in between."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine import Pair, Place, done, verified
from oracle import assert_same
from worlds import OF_BTRFS, PORTABLE, World

KINDS = [("btrfs", "xfs"), ("xfs", "btrfs"), ("ext4", "xfs"), ("xfs", "ext4")]
ROUNDS = 11


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_standbys_of_a_log_are_equal_to_its_primary_whenever_they_begin(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    source, log = Pair.make(place, kinds).source, f"file://{tmp_path}/log"
    standbys = [Pair.make(place, kinds).target]
    world = World(source, 190, OF_BTRFS if kinds == ("btrfs", "btrfs") else PORTABLE)
    for turn in range(ROUNDS):
        world.grow(60 if turn == 0 else 15)
        world.churn(40)
        done("sync", source, log)
        if turn % 3 == 1:
            standbys.append(Pair.make(place, kinds).target)
        for standby in standbys:
            done("sync", log, standby)
            assert_same(source, standby)
            verified(source, standby)
    assert list((tmp_path / "log/tables").iterdir()), "no checkpoint was made"
