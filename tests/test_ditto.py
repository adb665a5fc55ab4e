"""A standby keeps its history without a second copy: what old snapshots hold stays in the tree until a commit
would lose it. Whatever happens, a read gives what the snapshot held, or fails and names the file.
"""

from __future__ import annotations

import os
import random
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pool
import pytest
from machine import Pair, Place, done, passed, run, snapshots
from oracle import Picture, assert_same, freeze
from worlds import World, bulk, fill

SEEDS = int(os.environ.get("SNAPSYNC_DITTO_SEEDS", 1))
TURNS = 14
IN_PLACE = ("xfs", "ext4")


def objects(volume: Path) -> int:
    return len(pool.objects_there(volume))


def inodes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_files - found.f_ffree


def shown(path: bytes) -> str:
    """As a message names it."""
    text = path.decode(errors="replace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def read_back(volume: Path, snap: str, picture: Picture, to: Path) -> str:
    """What reading all of a snapshot comes to: `whole`, or `lost`, and never anything else."""
    ran = run("restore", f"{volume}@{snap}", "--to", to)
    if ran.code == 0:
        assert_same(picture, to)
        return "whole"
    assert ran.code == 4, ran
    path = re.search(
        r"(?:the bytes of|history of its own, and) (.*?) (?:in a snapshot of|is not what it)", ran.err
    )
    assert path, ran
    assert path[1] in {shown(name) for name in picture.entries}
    return "lost"


@dataclass
class History:
    """Two volumes that may change their roles, and what each snapshot is to hold."""

    place: Place
    kinds: tuple[str, str]
    seed: int
    pair: Pair
    points: list[str]
    held: dict[str, Picture] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.worlds = 0

    def churn(self) -> None:
        self.worlds += 1
        world = World(self.pair.source, self.seed * 1000 + self.worlds)
        world.churn(14)
        self.log += world.log

    def do(self, *words: object, ends: tuple[int, ...] = ()) -> bool:
        """Runs a verb that may be killed; whether it was done."""
        env = {}
        if self.chance.random() < 0.4:
            env = {"SNAPSYNC_FAULT": f"{self.chance.choice(self.points)}:{self.chance.randrange(1, 4)}"}
        self.log.append(f"# {words} {env}")
        ran = run(*words, env=env)
        assert ran.code in (0, -signal.SIGKILL, *ends), ran
        return ran.code == 0

    def round(self) -> None:
        self.churn()
        now = freeze(self.pair.source)
        self.do("sync", self.pair.source, self.pair.target)
        done("sync", self.pair.source, self.pair.target)
        assert_same(self.pair.source, self.pair.target)
        for snap in snapshots(self.pair.target):
            self.held.setdefault(snap["id"], now)

    def delete(self) -> None:
        old = [snap["id"] for snap in snapshots(self.pair.target)[:-1]]
        if old:
            self.do("delete", f"{self.pair.target}@{self.chance.choice(old)}")
            done("recover", self.pair.target)

    def switch(self) -> None:
        if not self.do("switch", self.pair.source, self.pair.target, ends=(3,)):
            return
        self.pair = Pair(self.pair.target, self.pair.source)
        for snap in snapshots(self.pair.source):
            self.held.setdefault(snap["id"], freeze(self.pair.source))

    def prove(self, volume: Path, kind: str) -> set[str]:
        found = set()
        for snap in snapshots(volume):
            if snap["id"] in self.held:
                found.add(read_back(volume, snap["id"], self.held[snap["id"]], self.place.absent(kind)))
        return found


def points_of_a_round(place: Place, kinds: tuple[str, str], trace: Path) -> list[str]:
    pair = Pair.make(place, kinds)
    World(pair.source, 1).grow(40)
    pair.sync()
    World(pair.source, 2).churn(30)
    done("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT_TRACE": trace})
    return sorted(set(passed(trace)))


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize(
    "kinds",
    [("xfs", "xfs"), ("btrfs", "ext4"), ("ext4", "xfs"), ("tmpfs", "tmpfs"), ("directory", "directory")],
    ids="-".join,
)
def test_every_kept_snapshot_of_a_standby_is_whole_after_each_step(
    place: Place, tmp_path: Path, kinds: tuple[str, str], seed: int
) -> None:
    points = points_of_a_round(place, kinds, tmp_path / "trace")
    life = History(place, kinds, seed, Pair.make(place, kinds), points)
    try:
        World(life.pair.source, seed).grow(60)
        life.round()
        for _ in range(TURNS):
            life.chance.choice([life.round, life.round, life.round, life.delete])()
            assert life.prove(life.pair.target, kinds[1]) <= {"whole"}
    except Exception as error:
        error.add_note("\n".join(life.log))
        raise


@pytest.mark.parametrize("kind", IN_PLACE)
def test_a_first_round_makes_one_inode_for_each_of_the_tree_and_no_second_copy(
    place: Place, kind: str
) -> None:
    pair = Pair.make(place, ("btrfs", kind))
    bulk(pair.source, 500)
    fill(pair.source / "large", 0, 8 << 20, 1)
    before = inodes(pair.target.parent)
    report = pair.sync()
    assert objects(pair.target) == 0
    assert inodes(pair.target.parent) - before <= report["tree_entries"] + 40


@pytest.mark.parametrize("kind", IN_PLACE)
def test_a_round_adds_objects_for_what_it_changed_alone(place: Place, kind: str) -> None:
    pair = Pair.make(place, ("btrfs", kind))
    bulk(pair.source, 300)
    pair.sync()
    files = sorted(path for path in pair.source.glob("bulk-*/*") if path.is_file())
    files[0].unlink()
    fill(files[1], 0, 5000, 7)
    os.replace(files[2], files[3])
    files[4].rename(files[4].with_name("renamed"))
    files[5].chmod(0o600)
    pair.sync()
    # What went, what changed in place, and what another file took the name of.
    assert objects(pair.target) == 3


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("seed", range(3))
def test_no_change_by_hand_makes_an_old_snapshot_give_other_bytes(place: Place, kind: str, seed: int) -> None:
    pair = Pair.make(place, (kind, kind))
    World(pair.source, seed).grow(60)
    history = History(place, (kind, kind), seed, pair, [])
    pair.sync()
    history.held[snapshots(pair.target)[-1]["id"]] = freeze(pair.source)
    World(pair.source, seed + 10).churn(20)
    pair.sync()
    history.held[snapshots(pair.target)[-1]["id"]] = freeze(pair.source)
    World(pair.target, seed + 20).churn(40)
    assert history.prove(pair.target, kind) <= {"whole", "lost"}
    done("sync", pair.source, pair.target, "--discard-drift")
    assert_same(pair.source, pair.target)
    assert history.prove(pair.target, kind) <= {"whole", "lost"}


@pytest.mark.parametrize("kind", IN_PLACE)
def test_a_promoted_standby_keeps_its_history_where_blocks_are_shared_and_says_so_elsewhere(
    place: Place, kind: str
) -> None:
    pair = Pair.make(place, (kind, kind))
    World(pair.source, 5).grow(60)
    history = History(place, (kind, kind), 5, pair, [])
    pair.sync()
    history.held[snapshots(pair.target)[-1]["id"]] = freeze(pair.source)
    World(pair.source, 6).churn(20)
    pair.sync()
    history.held[snapshots(pair.target)[-1]["id"]] = freeze(pair.source)
    report = done("promote", pair.target)
    World(pair.target, 7).churn(40)
    found = history.prove(pair.target, kind)
    if kind == "xfs":
        assert found == {"whole"}
    else:
        assert any("one copy" in note for note in report["notes"]), report["notes"]
        assert found <= {"whole", "lost"}
    # What changes from now on is kept whole, and the old primary follows.
    now = freeze(pair.target)
    new = done("snapshot", pair.target)["snapshot"]["id"]
    done("rejoin", pair.source, pair.target)
    done("sync", pair.target, pair.source)
    assert_same(pair.target, pair.source)
    World(pair.target, 8).churn(40)
    assert read_back(pair.target, new, now, place.absent(kind)) == "whole"


def test_a_promoted_standby_without_shared_blocks_keeps_its_history_from_its_next_snapshot_on(
    place: Place,
) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    World(pair.source, 9).grow(40)
    history = History(place, ("xfs", "ext4"), 9, pair, [])
    pair.sync()
    history.held[snapshots(pair.target)[-1]["id"]] = freeze(pair.source)
    done("promote", pair.target)
    assert objects(pair.target) == 0
    done("snapshot", pair.target)
    World(pair.target, 10).churn(40)
    assert history.prove(pair.target, "ext4") == {"whole"}
