"""What deleting costs, and that a kill in the middle of it costs nothing: however many snapshots go, they go
in one pass over their tables."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pool
import pytest
import worlds
from machine import MIB, Pair, Place, done, run, snapshots, store
from oracle import Picture, assert_same, freeze
from test_crash import assert_tidy

from snapsync import Volume

POINTS = [
    f"delete.{point}" for point in ("begin:1", "marked:1", "marked:3", "unlisted:1", "freed:1", "removed:2")
]


def change(root: Path, turn: int) -> None:
    """Files that change in each turn, in some, once; and that come and go."""
    worlds.fill(root / "always", 0, 5_000, turn)
    worlds.fill(root / f"some-{turn % 3}", 0, 9_000, turn)
    worlds.fill(root / f"new-{turn}", 0, 3_000, turn)
    if turn % 2 and (root / f"new-{turn - 1}").exists():
        (root / f"new-{turn - 1}").unlink()


def listed(volume: Path) -> list[str]:
    return [snap["id"] for snap in snapshots(volume)]


def assert_whole(volume: Path, held: dict[str, Picture], to: Callable[[], Path]) -> None:
    """Each snapshot that is listed is what it was taken of; of the pool by what its tables name."""
    for snap in listed(volume):
        if (store(volume) / "snapshots" / snap / "table.arrow").exists():
            assert pool.held_by_table(volume, snap) == pool.held_by_picture(held[snap])
        else:
            done("restore", f"{volume}@{snap}", "--to", there := to())
            assert_same(held[snap], there)


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_prune_that_is_killed_leaves_each_listed_snapshot_whole(place: Place, kind: str) -> None:
    volume, held, turn = place(kind), {}, 0
    for point in POINTS:
        for _ in range(5):
            turn += 1
            change(volume, turn)
            held[done("snapshot", volume)["snapshot"]["id"]] = freeze(volume)
        before = listed(volume)
        # Those that go lie between some that stay.
        done("hold", f"{volume}@{before[0]}")
        ran = run("prune", volume, "--keep-last", "2", env={"SNAPSYNC_FAULT": point})
        assert ran.code == -signal.SIGKILL, ran
        assert {before[0], *before[-2:]} <= set(listed(volume)) <= set(before)
        assert_whole(volume, held, lambda: place.absent(kind))
        done("recover", volume)
        assert_tidy(volume)
        assert_whole(volume, held, lambda: place.absent(kind))


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_standby_loses_nothing_that_it_keeps_when_others_go(place: Place, kind: str) -> None:
    pair, held = Pair(place("xfs"), place(kind)), {}
    for turn in range(9):
        change(pair.source, turn)
        held[done("sync", pair.source, pair.target)["snapshot"]["id"]] = freeze(pair.source)
    ids = list(held)
    for snap in ids[1:3]:
        done("hold", f"{pair.target}@{snap}")
    ran = run("prune", pair.target, "--keep-last", "2", env={"SNAPSYNC_FAULT": "delete.marked:4"})
    assert ran.code == -signal.SIGKILL, ran
    assert_whole(pair.target, held, Path)
    report = done("prune", pair.target, "--keep-last", "2")
    assert len(report["pruned"]) == 1
    assert listed(pair.target) == [*ids[1:3], *ids[-2:]]
    assert_tidy(pair.target)
    assert_whole(pair.target, held, Path)


def reading() -> tuple[int, int]:
    """How often this process has read anything, and how many bytes."""
    told = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(told["syscr"]), int(told["rchar"])


def test_a_prune_reads_the_whole_table_a_few_times_however_many_snapshots_go(
    mount: Callable[..., Path],
) -> None:
    volume = mount("xfs", 600 * MIB)
    worlds.bulk(volume, 3_000, size=10)
    # Rows of files that changed just now are written again by the next snapshot.
    time.sleep(0.3)
    api, kept = Volume(volume), 2
    for turn in range(30):
        change(volume, turn)
        api.snapshot()
    snaps = store(volume) / "snapshots"
    whole = (snaps / listed(volume)[0] / "table.arrow").stat()
    assert whole.st_nlink == 30, "they do not share their table"
    small = sum(file.stat().st_size for file in snaps.glob("*/*") if file.name != "table.arrow")
    # Otherwise the prune would first find out what changed in each snapshot.
    api.log()
    calls, read = reading()
    api.prune({"last": kept})
    calls, read = reading()[0] - calls, reading()[1] - read
    assert len(listed(volume)) == kept
    assert calls < 30 * 30, calls
    assert read < 4 * whole.st_size + 4 * small + 30 * os.sysconf("SC_PAGESIZE"), (read, whole.st_size, small)
    assert_tidy(volume)
