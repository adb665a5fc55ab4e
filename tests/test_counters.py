"""What a round costs follows what changed, not what there is: the counters of `diff` and `sync` prove it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import worlds
from extents import UNWRITTEN, address, mapped, shares_all
from machine import (
    GIB,
    KINDS,
    MIB,
    FileSystems,
    Pair,
    Place,
    capless,
    done,
    snapshots,
    store,
    subvolume,
)
from oracle import BLOCK, freeze
from told import assert_told, rows_of
from worlds import World, fill, reflink, reflink_range, touch, write

import snapsync

K = 1024
NAMES = {
    "visited",
    "inodes_compared",
    "extents_compared",
    "bytes_read",
    "bytes_sent",
    "ghosts",
    "ghost_bytes",
}

SHARING = [("btrfs", "btrfs"), ("btrfs", "xfs"), ("xfs", "xfs"), ("xfs", "btrfs")]
COPYING = [("btrfs", "ext4"), ("xfs", "ext4")]
COW = [("btrfs", "xfs"), ("xfs", "btrfs")]


def on(*pairs: tuple[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kinds", pairs, ids="-".join)


def counters(pair: Pair) -> dict[str, int]:
    """The counters of one round, proved by the independent comparison."""
    found: dict[str, int] = pair.sync()["counters"]
    return found


def last_round(pair: Pair, file: Path) -> dict[str, list[dict[str, Any]]]:
    """The extents of each file that the newest snapshot of the primary changed, by path."""
    old, new = snapshots(pair.source)[-2:]
    done("diff", f"{pair.source}@{old['id']}", f"{pair.source}@{new['id']}", "-o", file)
    with snapsync.Manifest(file) as manifest:
        rows = pa.table(manifest).select(["path", "extents"]).to_pylist()
    return {row["path"]: row["extents"] for row in rows if row["extents"]}


def operations(extents: list[dict[str, Any]]) -> set[str]:
    return {extent["op"] for extent in extents}


def separate_extents(path: Path, blocks: int) -> None:
    """A file whose every block is an extent of its own."""
    with path.open("wb") as file:
        for block in range(blocks):
            file.write(worlds.noise(BLOCK, 2 * block + 1))
            file.flush()
            os.fsync(file.fileno())


# --- the counters themselves ------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_diff_and_sync_tell_what_they_cost(place: Place, tmp_path: Path, kind: str) -> None:
    pair = Pair.make(place, (kind, "xfs"))
    pair.keep_history()
    fill(pair.source / "file", 0, 100 * K, 1)
    first = counters(pair)
    assert first.keys() == NAMES
    assert first["bytes_sent"] == 100 * K
    fill(pair.source / "file", 8 * K, 4 * K, 3)
    second = counters(pair)
    assert second["bytes_sent"] == 4 * K
    assert second["inodes_compared"] >= 1
    old, new = (f"{pair.source}@{snap['id']}" for snap in snapshots(pair.source))
    report = done("diff", old, new, "-o", tmp_path / "out.arrow")
    assert report["counters"].keys() == NAMES
    assert all(isinstance(value, int) and value >= 0 for value in report["counters"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_without_changes_reads_and_sends_nothing(place: Place, kind: str) -> None:
    pair = Pair.make(place, (kind, "xfs"))
    worlds.bulk(pair.source, 300)
    for path in sorted(pair.source.rglob("*"), reverse=True):
        touch(path, 7)
    pair.sync()
    # What is as young as the snapshot may be looked at once more.
    pair.sync()
    found = counters(pair)
    assert (found["bytes_read"], found["bytes_sent"], found["ghosts"]) == (0, 0, 0)


# --- the cost of a change ---------------------------------------------------------------------


@pytest.fixture
def roomy(file_systems: FileSystems, kinds: tuple[str, str]) -> Iterator[Pair]:
    """A pair on file systems of its own, with room for large files and many."""
    points = [file_systems.mount(kind, 4 * GIB) for kind in kinds]
    pair = Pair(points[0] / "volume", points[1] / "volume")
    if kinds[0] == "btrfs":
        subvolume(pair.source)
    else:
        pair.source.mkdir()
    yield pair
    for point in points:
        file_systems.unmount(point)


@on(*COW)
def test_scattered_writes_into_a_large_file_cost_what_they_wrote(roomy: Pair) -> None:
    file, chance = roomy.source / "disk.img", random.Random(1)
    part = chance.randbytes(4 * MIB)
    with file.open("wb") as opened:
        for _ in range(GIB // len(part)):
            opened.write(part)
    roomy.sync()
    blocks = chance.sample(range(GIB // BLOCK), 500)
    for block in blocks:
        write(file, block * BLOCK, chance.randbytes(BLOCK))
    found = counters(roomy)
    changed = len(blocks) * BLOCK
    print(f"1 GiB, {changed:,} bytes changed: {found}")
    assert found["bytes_sent"] == changed
    assert found["bytes_read"] <= 3 * changed


def test_changes_in_a_large_tree_cost_what_they_cost_in_a_small_one(
    file_systems: FileSystems, tmp_path: Path
) -> None:
    """Parts of the tree that both snapshots share are not looked at."""
    visited = []
    for files in (20_000, 200_000):
        point = file_systems.mount("btrfs", 2 * GIB)
        visited.append(visited_for_twenty_changes(point / "volume", files, tmp_path / "out.arrow"))
        file_systems.unmount(point)
    small, large = visited
    assert large < 1.3 * small
    assert large < 20_000


def test_python_gets_the_counters(place: Place) -> None:
    volume = place("btrfs")
    fill(volume / "file", 0, 100 * K, 1)
    done("snapshot", volume, "--name", "old")
    fill(volume / "file", 0, 4 * K, 2)
    done("snapshot", volume, "--name", "new")
    with snapsync.diff(f"{volume}@old", f"{volume}@new") as manifest:
        assert manifest.counters is not None
        assert manifest.counters.bytes_read == 2 * 4 * K
        with snapsync.Manifest(manifest.path) as opened:
            assert opened.counters is None


def test_without_the_privilege_trees_are_walked_and_a_note_says_so(place: Place, tmp_path: Path) -> None:
    volume = place("btrfs")
    worlds.bulk(volume, 5_000)
    fill(volume / "large", 0, MIB, 1)
    done("snapshot", volume, "--name", "old")
    fill(volume / "large", 64 * K, 4 * K, 2)
    (volume / "bulk-0001/000150").unlink()
    done("snapshot", volume, "--name", "new")
    trees = [store(volume) / "snapshots" / snap["id"] / "tree" for snap in snapshots(volume)]
    searched = done("diff", *trees, "-o", tmp_path / "searched.arrow")
    walked = done("diff", *trees, "-o", tmp_path / "walked.arrow", wrap=capless())
    assert rows_of(tmp_path / "searched.arrow") == rows_of(tmp_path / "walked.arrow")
    assert not searched["notes"]
    (note,) = walked["notes"]
    assert "CAP_SYS_ADMIN" in note
    assert searched["counters"]["visited"] < walked["counters"]["visited"] >= 10_000


def test_patterns_do_not_keep_a_tree_from_being_searched(place: Place) -> None:
    volume, standby = place("btrfs"), place.absent("xfs")
    worlds.bulk(volume, 5_000)
    (volume / "out").mkdir()
    fill(volume / "out/file", 0, 4 * K, 1)
    done("sync", volume, standby, "--exclude", "/out")
    (volume / "bulk-0001/000150").unlink()
    fill(volume / "out/file", 0, 4 * K, 2)
    report = done("sync", volume, standby)
    assert report["counters"]["visited"] < 5_000
    assert (report["changes"]["deleted"], report["data_bytes"]) == (1, 0)


def visited_for_twenty_changes(volume: Path, files: int, file: Path) -> float:
    """The mean of ten times: how full a node of the tree is hangs on when it was written."""
    subvolume(volume)
    worlds.bulk(volume, files, size=10)
    done("snapshot", volume, "--name", "turn-0")
    visited = []
    for turn in range(1, 11):
        paths = [volume / f"bulk-{n // 100:04}/{n:06}" for n in range(50 + 93 * turn, 20_000, 1_000)]
        for seed, path in enumerate(paths):
            write(path, 0, worlds.noise(20, seed))
        done("snapshot", volume, "--name", f"turn-{turn}")
        report = done("diff", f"{volume}@turn-{turn - 1}", f"{volume}@turn-{turn}", "-o", file)
        assert report["changes"]["changed"] == len(paths)
        assert len(paths) in (19, 20)
        visited.append(report["counters"]["visited"])
    print(f"{files:,} files, 20 changes: {visited}")
    return sum(visited) / len(visited)


# --- clones -----------------------------------------------------------------------------------


@on(*SHARING, *COPYING)
def test_a_clone_of_an_unchanged_file_sends_nothing(
    pair: Pair, kinds: tuple[str, str], tmp_path: Path
) -> None:
    """It shares its blocks on the standby too, or is a plain copy where blocks cannot be shared."""
    original, clone = pair.source / "original", pair.source / "clone"
    fill(original, 0, 64 * MIB, 1)
    pair.sync()
    reflink(original, clone)
    found = counters(pair)
    assert found["bytes_sent"] == 0
    told = last_round(pair, tmp_path / "out.arrow")
    assert operations(told["clone"]) == {"clone"}
    assert sum(extent["length"] for extent in told["clone"]) == 64 * MIB
    shared = shares_all(pair.target / "original", pair.target / "clone")
    assert shared == (kinds[1] != "ext4")


@on(("btrfs", "btrfs"))
def test_a_clone_of_compressed_extents_sends_nothing(pair: Pair) -> None:
    """What one address holds depends on where in the extent a file begins."""
    original, clone = pair.source / "original", pair.source / "clone"
    write(original, 0, b"".join(b"%015d\n" % number for number in range(MIB // 16)))
    pair.sync()
    reflink(original, clone)
    reflink_range(original, pair.source / "middle", 500 * K, 300 * K, 0)
    assert counters(pair)["bytes_sent"] == 0
    assert shares_all(pair.target / "original", pair.target / "clone")


@on(*COW)
def test_a_clone_names_a_source_that_holds_the_bytes(pair: Pair, tmp_path: Path) -> None:
    original = pair.source / "original"
    fill(original, 0, MIB, 1)
    pair.sync()
    reflink(original, pair.source / "clone")
    reflink_range(original, pair.source / "part", 512 * K, 256 * K, 64 * K)
    pair.sync()
    told = last_round(pair, tmp_path / "out.arrow")
    inode = original.stat().st_ino
    assert {extent["source_inode"] for path in ("clone", "part") for extent in told[path]} == {inode}
    assert told["part"][0]["source_offset"] == 512 * K + told["part"][0]["offset"] - 64 * K
    trees = [store(pair.source) / "snapshots" / snap["id"] / "tree" for snap in snapshots(pair.source)]
    if all(tree.is_dir() for tree in trees):
        rows = rows_of(tmp_path / "out.arrow")
        assert_told(*trees, rows)


@on(*SHARING, *COPYING)
def test_a_new_file_and_its_clone_travel_once(pair: Pair) -> None:
    fill(pair.source / "other", 0, 100 * K, 1)
    pair.sync()
    fill(pair.source / "original", 0, 4 * MIB, 3)
    reflink(pair.source / "original", pair.source / "a-clone")
    reflink(pair.source / "original", pair.source / "z-clone")
    assert counters(pair)["bytes_sent"] == 4 * MIB


@on(*SHARING, *COPYING)
def test_what_is_written_over_two_files_travels_once(pair: Pair) -> None:
    a, b = pair.source / "a", pair.source / "b"
    for path, seed in ((a, 1), (b, 3)):
        fill(path, 0, 4 * MIB, seed)
    pair.sync()
    fill(a, 0, 4 * MIB, 5)
    reflink(a, b)
    assert counters(pair)["bytes_sent"] == 4 * MIB


@on(*SHARING)
def test_a_part_shared_by_two_changed_files_travels_once(pair: Pair) -> None:
    a, b = pair.source / "a", pair.source / "b"
    for path, seed in ((a, 1), (b, 3)):
        fill(path, 0, 4 * MIB, seed)
    pair.sync()
    fill(a, MIB, 256 * K, 5)
    reflink_range(a, b, MIB, 256 * K, 2 * MIB)
    assert counters(pair)["bytes_sent"] == 256 * K
    assert address(pair.target / "a", MIB) == address(pair.target / "b", 2 * MIB)


@on(*SHARING, *COPYING)
def test_clones_within_a_file_send_nothing(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 16 * MIB, 1)
    pair.sync()
    reflink_range(file, file, 0, 4 * MIB, 8 * MIB)
    assert counters(pair)["bytes_sent"] == 0
    # Now what is the source of one range is the target of another.
    reflink_range(file, file, 14 * MIB, MIB, 0)
    reflink_range(file, file, 9 * MIB, MIB, 14 * MIB)
    assert counters(pair)["bytes_sent"] == 0


Shift = Callable[[Path, int, int], None]


@on(("xfs", "xfs"), ("xfs", "btrfs"))
@pytest.mark.parametrize("shift", [worlds.collapse, worlds.insert], ids=lambda shift: str(shift.__name__))
def test_moving_the_rest_of_a_large_file_sends_almost_nothing(pair: Pair, shift: Shift) -> None:
    file = pair.source / "file"
    fill(file, 0, 64 * MIB, 1)
    pair.sync()
    shift(file, MIB, MIB)
    assert counters(pair)["bytes_sent"] <= 64 * K


@on(*SHARING)
def test_holes_and_preallocation_stay_beside_clones(pair: Pair) -> None:
    original, clone = pair.source / "original", pair.source / "clone"
    fill(original, 0, MIB, 1)
    fill(original, 3 * MIB, MIB, 3)
    worlds.preallocate(original, 2 * MIB, MIB)
    pair.sync()
    reflink(original, clone)
    # XFS leaves preallocation out of a clone.
    worlds.preallocate(clone, 2 * MIB, MIB)
    assert counters(pair)["bytes_sent"] == 0
    copy = pair.target / "clone"
    blocks = MIB // BLOCK
    assert freeze(pair.target).entries[b"clone"].layout == (
        (0, blocks, "data"),
        (2 * blocks, 3 * blocks, "unwritten"),
        (3 * blocks, 4 * blocks, "data"),
    )
    assert copy.stat().st_blocks * 512 <= 3 * MIB + 64 * K
    for offset in (0, 3 * MIB):
        assert address(copy, offset) == address(pair.target / "original", offset)
    assert any(row.flags & UNWRITTEN for row in mapped(copy))


# --- ghosts -----------------------------------------------------------------------------------


@on(("btrfs", "xfs"))
@pytest.mark.parametrize("compression", [0, 3], ids=["plain", "compressed"])
def test_a_defragmented_file_is_ghosts_and_sends_nothing(pair: Pair, compression: int) -> None:
    file, blocks = pair.source / "file", 256
    separate_extents(file, blocks)
    pair.sync()
    before = mapped(file)
    worlds.defragment(file, compression)
    assert mapped(file) != before
    found = counters(pair)
    assert found["bytes_sent"] == 0
    assert found["ghosts"] >= 1
    assert BLOCK <= found["ghost_bytes"] <= blocks * BLOCK


@on(*COW)
def test_deduplicated_blocks_are_not_even_read(pair: Pair) -> None:
    """The base has them in the other file; a pool snapshot does not hold which blocks files share."""
    a, b = pair.source / "a", pair.source / "b"
    for path in (a, b):
        fill(path, 0, MIB, 1)
        with path.open("rb") as opened:
            os.fsync(opened.fileno())
    # Else a later change could have the same time, and the files would be looked at again.
    time.sleep(0.2)
    pair.sync()
    worlds.dedupe(a, b, 0, MIB, 0)
    assert shares_all(a, b)
    found = counters(pair)
    assert (found["bytes_read"], found["bytes_sent"]) == (0, 0)


@on(*COW)
def test_the_same_bytes_written_again_are_ghosts(pair: Pair) -> None:
    file = pair.source / "file"
    fill(file, 0, 4 * MIB, 1)
    pair.sync()
    worlds.copy_range(file, file, MIB, 256 * K, MIB)
    fill(file, 2 * MIB, 8 * K, 3)
    found = counters(pair)
    assert found["bytes_sent"] == 8 * K
    assert found["ghost_bytes"] == 256 * K


# --- threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_counters_and_rows_do_not_depend_on_the_number_of_threads(
    place: Place, tmp_path: Path, kind: str
) -> None:
    volume = place(kind)
    world = World(volume, 51)
    world.grow(150)
    worlds.bulk(volume, 500)
    done("snapshot", volume, "--name", "old")
    world.churn(200)
    done("snapshot", volume, "--name", "new")
    answers = []
    for threads in (1, 2, 7):
        file = tmp_path / f"{threads}.arrow"
        sides = (f"{volume}@old", f"{volume}@new")
        report = done("diff", *sides, "-o", file, env={"RAYON_NUM_THREADS": threads})
        with snapsync.Manifest(file) as manifest:
            answers.append((report["counters"], pa.table(manifest).replace_schema_metadata(None)))
    for found, table in answers[1:]:
        assert found == answers[0][0]
        assert table.equals(answers[0][1])
