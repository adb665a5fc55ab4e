"""A full disk is when snapshots must go, and what is not needed is not demanded."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import worlds
from machine import GIB, MIB, Pair, Place, assert_told, done, run, snapshots, store, verified
from oracle import assert_same


def fill_up(disk: Path) -> None:
    """Not a byte is free, nor room for one more name with something in it."""
    for piece in (MIB, 4096, 512):
        with suppress(OSError), open(disk / f"full-{piece}", "wb", buffering=0) as file:
            while True:
                file.write(os.urandom(piece))
        os.sync()


@pytest.mark.parametrize("kind", ["xfs", "ext4", "btrfs"])
@pytest.mark.parametrize("verb", ["prune", "delete"])
def test_snapshots_go_from_a_disk_without_a_free_byte(
    mount: Callable[..., Path], kind: str, verb: str
) -> None:
    volume = mount(kind, 300 * MIB)
    for seed in (1, 3, 5):
        worlds.fill(volume / "file", 0, 10 * MIB, seed)
        done("snapshot", volume)
    fill_up(volume.parent)
    if verb == "prune":
        done("prune", volume, "--keep-last", "1")
    else:
        for _ in range(2):
            done("delete", f"{volume}@{snapshots(volume)[0]['name']}")
    assert len(snapshots(volume)) == 1
    if kind != "btrfs":
        # Objects of the other two are gone, and the one that is left is whole.
        objects = [path for path in (store(volume) / "pool").rglob("*") if path.is_file()]
        assert len(objects) == 1
        verified(f"{volume}@latest", volume)


def test_a_delete_that_was_killed_on_a_full_disk_is_finished(mount: Callable[..., Path]) -> None:
    volume = mount("xfs", 300 * MIB)
    for seed in (1, 3):
        worlds.fill(volume / "file", 0, 10 * MIB, seed)
        worlds.fill(volume / "same", 0, 1000, 1)
        done("snapshot", volume)
    fill_up(volume.parent)
    ran = run(
        "delete",
        f"{volume}@0",
        env={"SNAPSYNC_FAULT": "delete.unlisted:1"},
    )
    assert ran.code not in (0, 1, 3, 4), ran
    assert len(snapshots(volume)) == 1
    done("prune", volume, "--keep-last", "1")
    assert not list((store(volume) / "snapshots").glob("*.deleting"))
    objects = [path for path in (store(volume) / "pool").rglob("*") if path.is_file()]
    assert len(objects) == 2
    verified(f"{volume}@latest", volume)


@pytest.mark.parametrize("kind", ["xfs", "ext4", "btrfs"])
@pytest.mark.parametrize("left", [20 * MIB, 0])
def test_keep_makes_room_before_a_round_is_refused(mount: Callable[..., Path], kind: str, left: int) -> None:
    source, target = mount("xfs", 600 * MIB), mount(kind, 300 * MIB)
    names = []
    for seed in (1, 3):
        worlds.remove(source / "file") if names else None
        worlds.fill(source / "file", 0, 60 * MIB, seed)
        names.append(done("sync", source, target)["snapshot"]["name"])
    (source / "file").unlink()
    names.append(done("sync", source, target)["snapshot"]["name"])
    with suppress(OSError), open(target.parent / "other", "wb", buffering=0) as file:
        while os.statvfs(target).f_bavail * os.statvfs(target).f_frsize > left:
            file.write(os.urandom(MIB))
            os.fsync(file.fileno())
    if left == 0:
        fill_up(target.parent)  # Not even the journal of a round has room then.
    worlds.fill(source / "new", 0, 35 * MIB, 7)
    if left and kind != "btrfs":  # It compresses, so that it might fit.
        ran = run("sync", source, target, "--quiet")
        assert_told(ran, "free", "--no-space-check")
        assert re.search(r"has [\d.]+ [KMG]?i?B free, and this round needs [\d.]+ [KMG]iB", ran.err), ran.err
    if left == 0:
        assert_told(run("sync", source, target, "--quiet"), str(target), "free", codes=(3,))
    report = done("sync", source, target, "--keep-last", "2")
    assert [s["name"] for s in snapshots(target)] == [names[-1], report["snapshot"]["name"]]
    gone = [s["name"] for s in report["pruned"]]
    assert sorted(set(gone)) == sorted(names[:2])
    verified(source, target)


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_keep_makes_room_for_the_snapshot_of_a_full_primary(mount: Callable[..., Path], kind: str) -> None:
    source, target = mount(kind, 300 * MIB), mount("xfs", 600 * MIB)
    for seed in (1, 3):
        worlds.fill(source / "file", 0, 20 * MIB, seed)
        done("sync", source, target, "--history", "full")
    (source / "file").unlink()
    kept = done("sync", source, target)["snapshot"]["name"]
    (source / "new").write_bytes(b"new")
    fill_up(source.parent)
    for words in ((), ("--keep-last", "2", "--no-space-check")):
        ran = run("sync", source, target, *words)
        assert_told(ran, f"{source} has ", "No space left on device", "prune", codes=(3,))
    assert len(snapshots(source)) == 3
    report = done("sync", source, target, "--keep-last", "2")
    assert [s["name"] for s in snapshots(source)] == [kept, report["snapshot"]["name"]]
    verified(source, target)


def test_a_sparse_file_counts_with_its_data(mount: Callable[..., Path]) -> None:
    source, target = mount("ext4", 300 * MIB), mount("ext4", 300 * MIB)
    (source / "image").touch()
    worlds.truncate(source / "image", 20 * GIB)
    worlds.write(source / "image", 5 * GIB, b"data")
    done("sync", source, target)
    worlds.write(source / "image", 6 * GIB, b"more")
    done("sync", source, target)
    verified(source, target)


def test_what_is_compressed_there_is_not_demanded(mount: Callable[..., Path]) -> None:
    source, target = mount("btrfs", 300 * MIB), mount("btrfs", 300 * MIB)
    with open(source / "log", "wb") as file:
        for _ in range(500):
            file.write(b"a line of a log that compresses well\n" * (MIB // 37))
    report = done("sync", source, target)
    assert any("compressed" in note for note in report["notes"])
    verified(source, target)


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_without_the_space_check_a_full_disk_ends_a_round_cleanly(
    mount: Callable[..., Path], kind: str
) -> None:
    source, target = mount("xfs", 600 * MIB), mount(kind, 300 * MIB)
    worlds.fill(source / "small", 0, 1000, 1)
    done("sync", source, target)
    before = snapshots(target)
    for number in range(3):
        worlds.fill(source / f"large-{number}", 0, 120 * MIB, 2 * number + 1)
    assert_told(run("sync", source, target, "--quiet"), "--no-space-check")
    ran = run("sync", source, target, "--no-space-check")
    assert ran.code == 1, ran
    assert snapshots(target) == before
    assert len(snapshots(source)) == 1
    verified(f"{target}@latest", target)
    for number in range(3):
        (source / f"large-{number}").unlink()
    done("sync", source, target)
    verified(source, target)


def test_small_files_that_change_take_no_more_on_xfs_than_they_have(
    place: Place, mount: Callable[..., Path]
) -> None:
    """It sets 128 KiB aside for what is written into a clone."""
    pair = Pair(place("ext4"), mount("xfs", 420 * MIB) / "standby")
    for number in range(4_000):
        (pair.source / f"{number}").write_text(f"{number} some text\n")
    done("sync", pair.source, pair.target)
    for _ in range(2):
        for number in range(4_000):
            with (pair.source / f"{number}").open("a") as file:
                file.write("more\n")
        done("sync", pair.source, pair.target)
    assert_same(pair.source, pair.target)
