"""A standby on each file system follows a primary on each, round after round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pool
import pytest
from keepsake import keep
from machine import KINDS, FileSystems, Pair, Place, done, run, snapshots, status, store, verified
from oracle import Picture, assert_same, freeze
from worlds import World

ROUNDS = 3


@dataclass
class Round:
    """One round: its report, and what the primary and the standby held when it had ended."""

    report: dict[str, Any]
    primary: Picture
    standby: Picture
    keepsake: Path


@dataclass
class History:
    pair: Pair
    kinds: tuple[str, str]
    rounds: list[Round] = field(default_factory=list)


@pytest.fixture(scope="module", params=list(product(KINDS, KINDS)), ids="-".join)
def history(request: pytest.FixtureRequest, file_systems: FileSystems) -> Iterator[History]:
    """Three rounds with many random changes between them."""
    place = Place(file_systems)
    try:
        history = History(Pair.make(place, request.param), request.param)
        world = World(history.pair.source, seed=3)
        for number in range(ROUNDS):
            (world.churn if number else world.grow)(150)
            history.rounds.append(one_round(history.pair, place(request.param[0])))
        yield history
    finally:
        place.clear()


def one_round(pair: Pair, keepsake: Path) -> Round:
    report = done("sync", pair.source, pair.target)
    keep(pair.source, keepsake)
    return Round(report, freeze(pair.source), freeze(pair.target), keepsake)


def test_the_standby_equals_the_primary_after_each_round(history: History) -> None:
    for one in history.rounds:
        assert_same(one.keepsake, one.primary)
        assert_same(one.primary, one.standby)


def test_a_volume_takes_the_provider_of_its_file_system(history: History) -> None:
    for side, kind in zip(("primary", "standby"), history.kinds, strict=True):
        volume = history.rounds[0].report[side]
        assert (volume["role"], volume["filesystem"]) == (side, kind)
        assert volume["provider"] == ("btrfs" if kind == "btrfs" else "pool")


def test_a_snapshot_has_the_same_identity_on_both_sides(history: History) -> None:
    taken = [one.report["snapshot"] for one in history.rounds]
    for volume in (history.pair.source, history.pair.target):
        listed = snapshots(volume)
        for key in ("id", "name", "sequence", "parent"):
            assert [snap[key] for snap in listed] == [snap[key] for snap in taken]
    assert len({snap["id"] for snap in taken}) == ROUNDS


def test_each_round_builds_on_the_one_before(history: History) -> None:
    reports = [one.report for one in history.rounds]
    assert reports[0]["base"] is None
    for before, after in pairwise(reports):
        assert after["base"]["id"] == before["snapshot"]["id"] == after["snapshot"]["parent"]
        assert not after["unchanged"]


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_snapshot_keeps_what_the_primary_held_at_the_time(history: History, side: str) -> None:
    volume = getattr(history.pair, side)
    if status(volume)["volume"].get("history") == "light" and side == "source":
        # Its standby keeps it, and the test of that is beside this one.
        return
    for one in history.rounds:
        identity = one.report["snapshot"]["id"]
        if (tree := store(volume) / "snapshots" / identity / "tree").is_dir():
            assert_same(one.primary, tree)
        else:
            assert pool.held_by_table(volume, identity) == pool.held_by_picture(one.primary)
        verified(f"{volume}@{identity}", one.keepsake)


def test_verify_tells_one_snapshot_from_another(history: History) -> None:
    """Without this, the test above would pass for a verify that always agrees."""
    first, last = history.rounds[0], history.rounds[-1]
    ran = run("verify", f"{history.pair.target}@{first.report['snapshot']['id']}", last.keepsake, "--json")
    assert ran.code == 4
    report = ran.json
    assert not report["equal"]
    assert report["difference_count"] >= len(report["differences"]) > 0


def test_a_quiet_file_moves_nothing(place: Place) -> None:
    pair = Pair.make(place, ("btrfs", "xfs"))
    (pair.source / "large").write_bytes(bytes(range(256)) * 16384)
    first = pair.sync()
    assert first["data_bytes"] >= 4 << 20
    (pair.source / "small").write_bytes(b"12345")
    second = pair.sync()
    assert 5 <= second["data_bytes"] <= 4096
    assert second["changes"]["created"] == 1
