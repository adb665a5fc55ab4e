"""Snapshots taken, deleted and restored at random, and killed at random, against a model.

The model is a dictionary: what the tree held when each snapshot was taken. Whatever is killed, each snapshot
that is listed holds that, the store holds nothing that no listed snapshot uses, and nothing that one uses is
missing.
"""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from machine import Place, done, passed, run, snapshots
from oracle import Picture, assert_same, differences, freeze
from test_crash import assert_tidy
from worlds import World

SEEDS = int(os.environ.get("SNAPSYNC_STORE_SEEDS", 2))
TURNS = 16


@dataclass
class Life:
    """A volume and what each of its snapshots is to hold."""

    volume: Path
    place: Place
    kind: str
    chance: random.Random
    world: World
    held: dict[str, Picture] = field(default_factory=dict)
    points: list[str] = field(default_factory=list)

    def do(self, *words: object) -> bool:
        """Runs a verb that may be killed; whether it was done."""
        env = {}
        if self.chance.random() < 0.5:
            env = {"SNAPSYNC_FAULT": f"{self.chance.choice(self.points)}:{self.chance.randrange(1, 4)}"}
        self.world.log.append(f"# {words[0]} {env}")
        ran = run(*words, env=env)
        assert ran.code in (0, -signal.SIGKILL), ran
        return ran.code == 0

    def take(self) -> None:
        self.world.churn(12)
        now = freeze(self.volume)
        self.do("snapshot", self.volume)
        self.settle({None: now})

    def delete(self) -> None:
        if not self.held:
            return
        snap = self.chance.choice(list(self.held))
        if self.do("delete", f"{self.volume}@{snap}"):
            assert snap not in self.listed()
        self.settle({}, may_go={snap})

    def prune(self) -> None:
        line = [snap["id"] for snap in snapshots(self.volume) if not snap.get("aside")]
        stay = self.chance.randrange(1, 4)
        if self.do("prune", self.volume, "--keep-last", stay):
            assert not set(line[:-stay]) & set(self.listed())
        self.settle({}, may_go=set(line[:-stay]))

    def restore(self) -> None:
        if not self.held:
            return
        self.world.churn(6)
        snap = self.chance.choice(list(self.held))
        before, after = freeze(self.volume), self.held[snap]
        if self.do("restore", f"{self.volume}@{snap}"):
            assert_same(after, self.volume)
        self.settle({"before": before, "after": after})
        now = freeze(self.volume)
        assert not differences(before, now) or not differences(after, now)

    def listed(self) -> list[str]:
        return [snap["id"] for snap in snapshots(self.volume)]

    def settle(self, new: dict[str | None, Picture], may_go: set[str] | None = None) -> None:
        """Heals, and learns which of the new snapshots there are."""
        done("snapshot", self.volume)
        self.held[self.listed()[-1]] = freeze(self.volume)
        listed = self.listed()
        for snap in snapshots(self.volume):
            if snap["id"] not in self.held:
                name = "before" if snap["name"].startswith("before-") else "after" if "after" in new else None
                self.held[snap["id"]] = new[name]
        for gone in set(self.held) - set(listed):
            assert gone in (may_go or ()), "a snapshot went that nobody deleted"
            del self.held[gone]
        assert_tidy(self.volume)

    def prove(self) -> None:
        for snap, picture in self.held.items():
            to = self.place.absent(self.kind)
            done("restore", f"{self.volume}@{snap}", "--to", to)
            assert_same(picture, to)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_every_listed_snapshot_holds_what_it_was_taken_of(
    place: Place, tmp_path: Path, kind: str, seed: int
) -> None:
    volume, trace = place(kind), tmp_path / "trace"
    life = Life(volume, place, kind, random.Random(seed), World(volume, seed))
    try:
        life.world.grow(50)
        env = {"SNAPSYNC_FAULT_TRACE": trace}
        life.held[done("snapshot", volume, env=env)["snapshot"]["id"]] = freeze(volume)
        life.world.churn(5)
        done("restore", f"{volume}@0", env=env)
        done("delete", f"{volume}@2", env=env)
        life.points = sorted(set(passed(trace)) - {"init.store"})
        life.held = {}
        for snap in life.listed():
            done("delete", f"{volume}@{snap}")
        for _ in range(TURNS):
            life.chance.choice([life.take, life.take, life.delete, life.delete, life.prune, life.restore])()
        life.prove()
    except Exception as error:
        error.add_note("\n".join(life.world.log))
        raise
