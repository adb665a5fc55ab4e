"""What each snapshot holds by itself and what history costs, by what the file system says, and which of
them have lost bytes; what a promotion does for those that find bytes in the tree."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pool
import pytest
import worlds
from machine import MIB, Pair, Place, done, run, sh, snapshots, store
from oracle import assert_same, freeze

K = 1024
BLOCK = 4096


def change(root: Path, turn: int) -> None:
    """Some files have other bytes in each turn, in some, or once; one is large and changes in one place."""
    if turn == 0:
        worlds.fill(root / "large", 0, 2 * MIB, 1)
        worlds.bulk(root / "many", 40, size=5_000)
    # Random bytes, which Btrfs does not compress.
    seed = 2 * turn + 1
    worlds.fill(root / "large", 0, 64 * K, seed)
    for number in range(4):
        if turn % (number + 1) == 0:
            worlds.fill(root / f"some-{number}", 0, 300 * K, seed)
    worlds.fill(root / f"new-{turn}", 0, 100 * K, seed)
    if turn > 1:
        (root / f"new-{turn - 2}").unlink()


def alone(volume: Path) -> dict[str, dict[str, Any]]:
    told: list[dict[str, Any]] = done("list", volume)["alone"]
    return {one["snapshot"]: one for one in told}


def used(place: Path) -> tuple[int, int]:
    """Bytes and inodes in use, once the file system has freed what it still has to."""
    before = (-1, -1)
    for _ in range(100):
        os.sync()
        subprocess.run(["btrfs", "filesystem", "sync", place], check=False, capture_output=True)
        now = os.statvfs(place)
        found = (now.f_blocks - now.f_bfree) * now.f_frsize, now.f_files - now.f_ffree
        if found == before:
            break
        before = found
        time.sleep(0.05)
    return before


def history(kind: str, mount: Callable[..., Path]) -> Path:
    """A volume with six snapshots on a file system of its own."""
    if kind == "standby":
        pair = Pair(mount("xfs", 600 * MIB), mount("ext4", 600 * MIB))
        for turn in range(6):
            change(pair.source, turn)
            done("sync", pair.source, pair.target)
        return pair.target
    volume = mount(kind, 600 * MIB)
    if kind == "btrfs":
        volume = volume.parent / "plain"
        volume.mkdir()
    for turn in range(6):
        change(volume, turn)
        done("snapshot", volume)
    return volume


@pytest.mark.parametrize("kind", ["xfs", "ext4", "btrfs", "standby"])
def test_what_a_snapshot_holds_by_itself_is_what_its_end_frees(mount: Callable[..., Path], kind: str) -> None:
    volume = history(kind, mount)
    # What changed in each snapshot is kept when it goes, and is not freed.
    done("log", volume)
    most = 0
    for _ in range(4):
        told, ids = alone(volume), [snap["id"] for snap in snapshots(volume)]
        assert {one["state"] for one in told.values()} == {"whole"}
        going = ids[len(ids) // 2 - 1]
        before, folders = used(volume.parent), len(list((store(volume) / "pool").glob("**/")))
        done("delete", f"{volume}@{going}")
        freed = [was - now for was, now in zip(before, used(volume.parent), strict=True)]
        # Directories of the pool go with what is in them.
        gone = folders - len(list((store(volume) / "pool").glob("**/")))
        near = 2 * BLOCK * (told[going]["inodes"] + gone)
        assert abs(freed[0] - told[going]["bytes"]) <= near, (freed, told[going])
        if kind != "btrfs":
            assert freed[1] == told[going]["inodes"] + gone, (freed, told[going])
        most = max(most, told[going]["bytes"])
    assert most > 5 * near, "nothing was freed that could be told"


def there(volume: Path, place: tuple[int, int]) -> Path | None:
    found = list((store(volume) / "pool" / str(place[0])).glob(f"*/{place[1]}"))
    return found[0] if found else None


def test_what_several_hold_is_nobodys_and_what_is_kept_aside_counts(mount: Callable[..., Path]) -> None:
    volume = history("ext4", mount)
    ids = [snap["id"] for snap in snapshots(volume)]
    record = store(volume) / "snapshots" / ids[2] / "snapshot.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"aside": True}))
    told = alone(volume)
    for one in ids:
        others = pool.objects_named(volume, set(ids) - {one})
        own = [there(volume, place) for place in pool.objects_named(volume, {one}) - others]
        table = store(volume) / "snapshots" / one
        own += [table, *(file for file in table.iterdir() if file.stat().st_nlink == 1)]
        status = [file.stat() for file in own if file]
        expected = {"snapshot": one, "bytes": sum(s.st_blocks * 512 for s in status), "inodes": len(status)}
        assert told[one] == expected | {"state": "whole"}


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_who_has_lost_bytes_is_thinned_and_nobody_else(mount: Callable[..., Path], kind: str) -> None:
    volume = history(kind, mount)
    ids = [snap["id"] for snap in snapshots(volume)]
    old = pool.objects_named(volume, {ids[2]}) & pool.objects_named(volume, {ids[3]})
    place = min(old - pool.objects_named(volume, {ids[-1]}))
    gone = there(volume, place)
    assert gone
    gone.unlink()
    told = alone(volume)
    thinned = {one for one in ids if place in pool.objects_named(volume, {one})}
    assert {one for one in ids if told[one]["state"] == "thinned"} == thinned
    assert thinned >= {ids[2], ids[3]}
    assert run("list", volume).out.count("thinned") == len(thinned)


def test_a_subvolume_shares_with_the_tree_and_is_not_weighed(place: Place) -> None:
    volume = place("btrfs")
    (volume / "file").touch()
    snap = done("snapshot", volume)["snapshot"]["id"]
    assert alone(volume) == {snap: {"snapshot": snap, "bytes": None, "inodes": None, "state": "whole"}}
    assert done("status", volume)["history"] is None


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_status_tells_what_history_takes_beside_the_tree(mount: Callable[..., Path], kind: str) -> None:
    volume = mount(kind, 600 * MIB)
    worlds.bulk(volume, 30, size=100 * K)
    done("snapshot", volume)
    (volume / "more").write_bytes(worlds.noise(900 * K, 1))
    done("snapshot", volume)
    files = {}
    for part in ("pool", "snapshots"):
        for folder, _, names in os.walk(store(volume) / part):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                found = os.lstat(path)
                files[found.st_ino] = found
    told = done("status", volume)["history"]
    assert told["inodes"] == len(files)
    taken = sum(found.st_blocks * 512 for found in files.values())
    assert taken > 3 * MIB
    if kind == "ext4":
        assert told["bytes"] == taken
        return
    assert told["bytes"] < 500 * K, "it shares its blocks with the tree"
    before = used(volume.parent)[0]
    (volume / "more").unlink()
    assert used(volume.parent)[0] == before
    assert done("status", volume)["history"]["bytes"] - told["bytes"] == 900 * K
    assert "beside the tree" in run("status", volume).out


def standby(place: Place, kind: str) -> Pair:
    pair = Pair(place("xfs"), place(kind))
    for turn in range(4):
        change(pair.source, turn)
        done("sync", pair.source, pair.target)
    return pair


def foreseen(target: Path) -> dict[str, Any]:
    """What a dry run says, which changes nothing."""
    files = sh("find", target, "-printf", "%P %i %C@ %T@ %n %b\n")
    tree = freeze(target)
    told: dict[str, Any] = done("promote", target, "--dry-run")
    assert_same(tree, target)
    assert sh("find", target, "-printf", "%P %i %C@ %T@ %n %b\n") == files
    return told


def test_a_dry_run_tells_what_a_promotion_clones(place: Place) -> None:
    target = standby(place, "xfs").target
    ids = [snap["id"] for snap in snapshots(target)]
    before, told = pool.objects_there(target), foreseen(target)
    done("promote", target)
    # The snapshot that it takes has the same files.
    new = [there(target, place) for place in pool.objects_there(target) - before]
    assert (told["clones"], told["thins"]) == (True, [])
    assert told["files"] == len(new) == len(pool.objects_named(target, {ids[-1]}) - before)
    assert told["bytes"] == sum(file.stat().st_blocks * 512 for file in new if file)
    assert 0 < told["clone_seconds"] < 60
    assert "a primary already" in run("promote", target, "--dry-run").err


def test_a_dry_run_tells_which_snapshots_a_promotion_thins_out(place: Place) -> None:
    pair = standby(place, "ext4")
    target, ids = pair.target, [snap["id"] for snap in snapshots(pair.target)]
    before, told = pool.objects_there(target), foreseen(target)
    assert (told["clones"], told["clone_seconds"]) == (False, None)
    missing = {one: len(pool.objects_named(target, {one}) - before) for one in ids}
    assert {thin["snapshot"]["id"]: thin["files"] for thin in told["thins"]} == missing
    assert told["files"] == missing[ids[-1]] > missing[ids[0]] > 0
    done("promote", target)
    assert pool.objects_there(target) == before
    assert {one["state"] for one in alone(target).values()} == {"whole"}
    table = {
        pool.paths({row["inode"]: row for row in rows}, row)[0]: row
        for rows in [pool.rows(target, ids[-1])]
        for row in rows
    }
    place_of = pool.place_of(table[b"some-3"]["object"])
    worlds.fill(target / "some-3", 0, 300 * K, 77)
    done("snapshot", target)
    told = alone(target)
    thinned = {one for one in told if told[one]["state"] == "thinned"}
    assert thinned == {one for one in told if place_of in pool.objects_named(target, {one})}
    assert set(ids) <= thinned
