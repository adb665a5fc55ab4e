"""A standby without shared blocks keeps what is overwritten of large files that change in place, not more.
An older snapshot reads the rest where the file is now; whatever happens, it gives what it held or says lost.
"""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pool
import pytest
from machine import FileSystems, Pair, Place, done, run, snapshots
from oracle import Picture, assert_same, freeze
from test_ditto import read_back
from test_undo import occupy
from worlds import fill, punch, rewrite_quietly

import snapsync

SEEDS = int(os.environ.get("SNAPSYNC_BEFORE_SEEDS", 1))
MIB = 1 << 20
POINTS = (
    "displace.row",
    "displace.done",
    "commit.marked",
    "displace.under",
    "commit.displace",
    "commit.displaced",
    "commit.data",
    "commit.attributes",
    "commit.applied",
    "snapshot.successor",
    "snapshot.table",
    "snapshot.recorded",
    "commit.snapshot",
)
OF_DELETION = (
    "before.merged",
    "before.named",
    "before.left",
    "delete.marked",
    "delete.unlisted",
    "delete.freed",
)


@dataclass
class Large:
    """A primary with a few large files, its standby on ext4, and what each snapshot is to hold."""

    place: Place
    seed: int
    files: int = 3
    size: int = 2 * MIB
    held: dict[str, Picture] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.pair = Pair.make(self.place, ("btrfs", "ext4"))
        for number in range(self.files):
            fill(self.pair.source / f"large-{number}", 0, self.size, number)
        self.round()

    def round(self, **how: object) -> None:
        now = freeze(self.pair.source)
        if how:
            run("sync", self.pair.source, self.pair.target, **how)
        done("sync", self.pair.source, self.pair.target)
        assert_same(self.pair.source, self.pair.target)
        for snap in snapshots(self.pair.target):
            self.held.setdefault(snap["id"], now)

    def edit(self) -> None:
        """One of what a program may do to a large file."""
        path, seed = (
            self.pair.source / f"large-{self.chance.randrange(self.files)}",
            self.chance.randrange(10**6),
        )
        size = path.stat().st_size if path.exists() else 0
        if size < MIB:
            path.unlink(missing_ok=True)
            fill(path, 0, self.size, seed)
            return
        at = self.chance.randrange(size - 100_000)
        match self.chance.choice("wwwwwwtgphmd"):
            case "w":
                fill(path, at, self.chance.choice([1, 4096, 50_000]), seed)
            case "t":
                os.truncate(path, size - self.chance.randrange(200_000))
            case "g":
                fill(path, size + self.chance.choice([0, 5, 70_000]), 30_000, seed)
            case "p":
                punch(path, at, 60_000)
            case "h":
                os.truncate(path, size + 100_000)
            case "m":
                path.chmod(self.chance.choice([0o600, 0o640]))
            case "d":
                path.unlink()

    def prove(self) -> set[str]:
        kept = [snap["id"] for snap in snapshots(self.pair.target)]
        return {
            read_back(self.pair.target, snap, self.held[snap], self.place.absent("ext4")) for snap in kept
        }

    def bytes(self) -> int:
        return sum(
            path.stat().st_blocks * 512 for path in pool.files(self.pair.target) if path.stat().st_nlink
        )

    def images(self) -> list[Path]:
        return [path for path in pool.files(self.pair.target) if path.name.endswith(".before")]


def test_rounds_that_change_a_block_of_a_large_file_cost_what_they_change(place: Place) -> None:
    large = Large(place, 1, files=1, size=16 * MIB)
    for number in range(12):
        fill(large.pair.source / "large-0", number * MIB + 5, 100, number)
        large.round()
    assert len(large.images()) == 12
    assert not [path for path in pool.files(large.pair.target) if path.name.isdecimal()]
    assert sum(path.stat().st_blocks * 512 for path in large.images()) <= 12 * 16_384
    assert large.prove() == {"whole"}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_snapshot_is_whole_whatever_changes_and_whichever_goes(place: Place, seed: int) -> None:
    large, log = Large(place, seed), []
    try:
        for _ in range(12):
            if large.chance.random() < 0.3 and len(snapshots(large.pair.target)) > 2:
                old = [snap["id"] for snap in snapshots(large.pair.target)[:-1]]
                going = large.chance.sample(old, large.chance.randrange(1, len(old)))
                point = large.chance.choice(OF_DELETION)
                log.append(f"delete {going} {point}")
                run(
                    "delete",
                    *(f"{large.pair.target}@{one}" for one in going),
                    env={"SNAPSYNC_FAULT": f"{point}:1"},
                )
                done("recover", large.pair.target)
            else:
                for _ in range(large.chance.randrange(1, 4)):
                    large.edit()
                point = large.chance.choice(POINTS)
                log.append(f"round {point}")
                large.round(env={"SNAPSYNC_FAULT": f"{point}:{large.chance.randrange(1, 3)}"})
            assert large.prove() == {"whole"}
    except Exception as error:
        error.add_note("\n".join(log))
        raise


def test_a_round_that_is_killed_anywhere_keeps_the_older_snapshots_whole(place: Place) -> None:
    large = Large(place, 2, files=2)
    for turn, point in enumerate(POINTS):
        for number in range(2):
            fill(large.pair.source / f"large-{number}", turn * 70_000, 5000, turn + 100)
        os.truncate(large.pair.source / "large-1", 2 * MIB - turn * 10_000)
        ran = run("sync", large.pair.source, large.pair.target, env={"SNAPSYNC_FAULT": f"{point}:1"})
        assert ran.code == -signal.SIGKILL, point
        large.round()
        assert read_back(large.pair.target, *list(large.held.items())[-2], place.absent("ext4")) == "whole", (
            point
        )
    assert large.prove() == {"whole"}
    assert len(large.images()) == 2 * len(POINTS)
    assert not [path for path in pool.files(large.pair.target) if path.name.isdecimal()]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)], ids=str)
def test_snapshots_go_in_any_order_and_nothing_is_left(place: Place, order: tuple[int, ...]) -> None:
    large = Large(place, 3, files=1)
    for number in range(3):
        fill(large.pair.source / "large-0", number * 300_000, 10_000, number)
        fill(large.pair.source / "large-0", MIB, 10_000, number + 50)
        large.round()
    old = [snap["id"] for snap in snapshots(large.pair.target)[:-1]]
    before = sum(path.stat().st_size for path in large.images())
    for at in order:
        done("delete", f"{large.pair.target}@{old[at]}")
        assert large.prove() == {"whole"}
        assert sum(path.stat().st_size for path in large.images()) <= before
    assert not pool.files(large.pair.target)


@pytest.mark.parametrize("point", OF_DELETION)
def test_a_deletion_that_is_killed_is_finished(place: Place, point: str) -> None:
    large = Large(place, 4, files=1)
    for number in range(4):
        fill(large.pair.source / "large-0", number * 300_000, 10_000, number)
        large.round()
    (large.pair.source / "large-0").unlink()
    large.round()
    old = [snap["id"] for snap in snapshots(large.pair.target)]
    # What was deleted is whole in the pool: it stays as long as something lies over it.
    stay = (old[0], old[1]) if point == "before.left" else (old[0], old[3])
    for snap in stay:
        done("hold", f"{large.pair.target}@{snap}")
    prune = ("prune", large.pair.target, "--keep-last", 1)
    ran = run(*prune, env={"SNAPSYNC_FAULT": f"{point}:1"})
    assert ran.code == -signal.SIGKILL, ran
    done("recover", large.pair.target)
    done(*prune)
    assert {snap["id"] for snap in snapshots(large.pair.target)} == {*stay, old[-1]}
    assert large.prove() == {"whole"}
    assert not [path for path in pool.files(large.pair.target) if path.name.endswith(".new")]
    for snap in stay:
        done("release", f"{large.pair.target}@{snap}")
    done(*prune)
    assert not pool.files(large.pair.target)


def test_what_somebody_writes_while_a_round_is_committed_is_in_no_older_snapshot(place: Place) -> None:
    for point in ("commit.marked", "commit.displaced", "commit.data", "commit.applied"):
        large = Large(place, 5, files=1)
        first = snapshots(large.pair.target)[-1]["id"]
        fill(large.pair.source / "large-0", MIB, 5000, 7)
        now = freeze(large.pair.source)
        ran = run("sync", large.pair.source, large.pair.target, env={"SNAPSYNC_FAULT": f"{point}:1"})
        assert ran.code == -signal.SIGKILL
        rewrite_quietly(large.pair.target / "large-0", 300_000, 5000, 99)
        done("recover", large.pair.target)
        for snap in snapshots(large.pair.target):
            large.held.setdefault(snap["id"], now)
        assert read_back(large.pair.target, first, large.held[first], place.absent("ext4")) == "lost", point


@pytest.mark.parametrize("turn", range(3))
def test_a_change_by_hand_costs_what_lies_over_it_and_gives_no_other_bytes(place: Place, turn: int) -> None:
    large = Large(place, 6, files=2)
    for number in range(2):
        fill(large.pair.source / "large-0", number * 300_000, 10_000, number)
        large.round()
    by_hand = large.pair.target / "large-0"
    match turn:
        case 0:
            fill(by_hand, MIB, 10, 5)
        case 1:
            os.truncate(by_hand, MIB)
        case 2:
            by_hand.unlink()
    assert large.prove() == {"lost"}
    done("sync", large.pair.source, large.pair.target, "--discard-drift")
    assert_same(large.pair.source, large.pair.target)
    for snap in snapshots(large.pair.target):
        if snap["id"] in large.held:
            read_back(large.pair.target, snap["id"], large.held[snap["id"]], place.absent("ext4"))


def test_a_commit_that_is_taken_back_leaves_no_before_image(place: Place) -> None:
    large = Large(place, 7, files=1)
    fill(large.pair.source / "large-0", MIB, 5000, 7)
    for point in ("commit.displaced", "commit.data", "commit.attributes"):
        ran = run("sync", large.pair.source, large.pair.target, env={"SNAPSYNC_FAULT": f"{point}:1"})
        assert ran.code == -signal.SIGKILL
        done("recover", "--back", large.pair.target)
        assert not pool.files(large.pair.target)
        assert large.prove() == {"whole"}
    large.round()
    assert large.prove() == {"whole"}


def test_a_promoted_standby_keeps_what_its_snapshots_read_in_the_tree(place: Place) -> None:
    large = Large(place, 8, files=2)
    for number in range(3):
        fill(large.pair.source / "large-0", number * 300_000, 10_000, number)
        large.round()
    done("promote", large.pair.target)
    done("snapshot", large.pair.target)
    fill(large.pair.target / "large-0", MIB, 100_000, 77)
    fill(large.pair.target / "large-1", MIB, 100_000, 78)
    for snap in snapshots(large.pair.target):
        if snap["id"] in large.held:
            assert (
                read_back(large.pair.target, snap["id"], large.held[snap["id"]], place.absent("ext4"))
                == "whole"
            )


def test_a_round_needs_room_for_what_changes_and_not_for_the_file(
    file_systems: FileSystems, place: Place
) -> None:
    """And a disk without a free byte keeps no snapshot from going."""
    small = file_systems.mount("ext4", 64 * MIB)
    pair = Pair(place("btrfs"), small / "copy")
    fill(pair.source / "large", 0, 32 * MIB, 1)
    pair.sync()
    first = freeze(pair.source)
    for number in range(4):
        fill(pair.source / "large", number * MIB, 3 * MIB, number + 5)
        pair.sync()
    old = [snap["id"] for snap in snapshots(pair.target)]
    now = freeze(pair.source)
    occupy(small / "ballast")
    for at in (2, 1, 3):
        done("delete", f"{pair.target}@{old[at]}")
    (small / "ballast").unlink()
    for snap, held in ((old[0], first), (old[4], now)):
        assert read_back(pair.target, snap, held, place.absent("ext4")) == "whole"
    done("delete", f"{pair.target}@{old[0]}")
    assert not pool.files(pair.target)
    file_systems.unmount(small)


def test_a_file_that_is_open_in_an_old_snapshot_stays_what_it_was_while_rounds_change_it(
    place: Place,
) -> None:
    large = Large(place, 9, files=1)
    was = (large.pair.source / "large-0").read_bytes()
    first = snapshots(large.pair.target)[-1]["id"]
    fill(large.pair.source / "large-0", 100_000, 5000, 7)
    large.round()
    at = place.absent("ext4")
    with snapsync.mount(f"{large.pair.target}@{first}", at) as tree, open(tree / "large-0", "rb", 0) as file:
        assert os.pread(file.fileno(), 200_000, 50_000) == was[50_000:250_000]
        fill(large.pair.source / "large-0", MIB, 300_000, 8)
        large.round()
        assert os.pread(file.fileno(), 600_000, MIB - 100_000) == was[MIB - 100_000 : MIB + 500_000]
        fill(large.pair.target / "large-0", 700_000, 5000, 9)
        with pytest.raises(OSError, match="Input/output"):
            os.pread(file.fileno(), 600_000, 600_000)
