"""What a commit will do is tried beforehand: what cannot be is a loss or refused, before anything is done."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machine import (
    MIB,
    FileSystems,
    Pair,
    Place,
    Ran,
    assert_told,
    capless,
    done,
    missing,
    need,
    run,
    sh,
    snapshots,
    status,
)
from oracle import assert_same, freeze
from worlds import IMMUTABLE, fill, set_flags

KINDS = ["btrfs", "xfs", "ext4"]


def in_namespace() -> tuple[str, ...]:
    """Starts a program as root of a user namespace in which only root has a number."""
    wrap = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        missing("user namespaces")
    return wrap


@contextmanager
def exfat(file_systems: FileSystems) -> Iterator[Path]:
    """exFAT by FUSE: it keeps neither owners nor modes nor further names."""
    need("mkfs.exfat", "mount.exfat-fuse", "losetup")
    image, point = file_systems.home / "exfat.img", file_systems.home / "exfat"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    device = sh("losetup", "--find", "--show", image).strip()
    try:
        sh("mkfs.exfat", device)
        if subprocess.run(["mount.exfat-fuse", device, point], capture_output=True).returncode:
            missing("exFAT by FUSE")
        try:
            yield point
        finally:
            sh("umount", point)
    finally:
        sh("losetup", "--detach", device)
        image.unlink()
        point.rmdir()


def lay_out(source: Path) -> None:
    (source / "old").mkdir()
    fill(source / "old/kept", 0, 5_000, 1)
    fill(source / "f", 0, 9_000, 2)
    fill(source / "gone", 0, 100, 3)


def churn(source: Path) -> None:
    """Something of each kind, so that a commit that stops is half done."""
    (source / "old").rename(source / "new")
    fill(source / "f", 100, 50, 4)
    fill(source / "added", 0, 3_000, 5)


def refused(pair: Pair, *words: str, wrap: tuple[str, ...] = ()) -> Ran:
    """A round that is refused, and has changed nothing: not even the standby's history."""
    before, held = freeze(pair.target), snapshots(pair.target)
    ran = run("sync", pair.source, pair.target, "-q", wrap=wrap)
    assert_told(ran, *words, codes=(3,))
    assert_same(before, pair.target)
    assert snapshots(pair.target) == held
    assert status(pair.target)["unfinished"] is None
    return ran


def lost(report: dict[str, object]) -> dict[str, int]:
    losses = report["losses"]
    assert isinstance(losses, list)
    return {loss["what"]: loss["count"] for loss in losses}


@pytest.mark.parametrize("kind", KINDS)
def test_an_owner_without_a_number_in_the_namespace_is_a_loss(place: Place, kind: str) -> None:
    wrap, pair = in_namespace(), Pair.make(place, (kind, kind))
    lay_out(pair.source)
    assert done("sync", pair.source, pair.target, wrap=wrap)["losses"] == []
    os.chown(pair.source / "f", 1234, 1234)
    churn(pair.source)
    ran = run("sync", pair.source, pair.target, "-q", "--strict", wrap=wrap)
    assert_told(ran, "owner and group (1 entries)", codes=(3,))
    assert lost(done("sync", pair.source, pair.target, wrap=wrap)) == {"owner and group": 1}
    assert (pair.target / "f").stat().st_uid == 0
    # What went without its owner then was not changed by hand, also where its row says nothing of an owner.
    (pair.source / "f").unlink()
    assert done("sync", pair.source, pair.target, wrap=wrap)["losses"] == []
    pair.sync()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_process_may_not_change_is_found_before_anything_is(place: Place, kind: str) -> None:
    """Root without capabilities is as good as anybody."""
    wrap, pair = capless(), Pair.make(place, (kind, kind))
    lay_out(pair.source)
    os.chown(pair.source / "f", 1234, 1234)
    os.chmod(pair.source / "f", 0o666)
    pair.sync()
    churn(pair.source)
    refused(pair, "/f", "belongs to user 1234", wrap=wrap)
    pair.sync()
    os.chown(pair.source / "f", 0, 0)
    set_flags(pair.source / "new/kept", IMMUTABLE)
    pair.sync()
    set_flags(pair.source / "new/kept", 0, IMMUTABLE)
    (pair.source / "new").rename(pair.source / "newer")
    os.chmod(pair.source / "newer/kept", 0o600)
    refused(pair, "new/kept", "immutable", wrap=wrap)
    pair.sync()


def test_a_file_that_the_system_swaps_to_is_found_before_anything_is(place: Place) -> None:
    need("mkswap", "swapon")
    pair = Pair.make(place, ("xfs", "ext4"))
    lay_out(pair.source)
    (pair.source / "f").write_bytes(b"\1" * MIB)
    os.chmod(pair.source / "f", 0o600)
    sh("mkswap", pair.source / "f")
    pair.sync()
    if subprocess.run(["swapon", pair.target / "f"], capture_output=True).returncode:
        missing("a file to swap to")
    try:
        churn(pair.source)
        refused(pair, "/f", "swaps")
    finally:
        sh("swapoff", pair.target / "f")
    pair.sync()


def test_modes_that_are_not_kept_are_a_loss_of_every_round_and_no_drift(
    place: Place, file_systems: FileSystems
) -> None:
    with exfat(file_systems) as point:
        source, target = place("ext4"), point / "standby"
        lay_out(source)
        os.chmod(source / "f", 0o4600)
        os.chown(source / "old", 1234, 1234)
        first = done("sync", source, target)
        assert lost(first)["mode"] == 5
        assert lost(first)["owner and group"] == 1
        for turn in range(2):
            fill(source / "f", 0, 50 + turn, turn)
            (source / ("gone" if turn == 0 else "old/kept")).unlink()
            assert lost(done("sync", source, target))["mode"] >= 2
            assert (target / "f").read_bytes() == (source / "f").read_bytes()


@pytest.mark.parametrize("kinds", [("ext4", "ext4"), ("xfs", "btrfs")], ids="-".join)
def test_a_file_made_anew_under_its_number_where_the_directory_has_its_time_back(pair: Pair) -> None:
    """Both looks at the directory are too close to its change for its own time to be written down."""
    import snapsync

    (pair.source / "d").mkdir()
    fill(pair.source / "d/f", 0, 100, 1)
    pair.sync()
    for turn in range(5):
        os.utime(pair.source / "d", ns=(1, 10**18))
        snapsync.sync(pair.source, pair.target)
        (pair.source / "d/f").unlink()
        fill(pair.source / "d/f", 0, 100, 10 + turn)
        os.utime(pair.source / "d", ns=(1, 10**18))
        snapsync.sync(pair.source, pair.target)
        assert_same(pair.source, pair.target)
