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
    as_nobody,
    assert_told,
    capless,
    done,
    missing,
    need,
    run,
    sh,
    snapshots,
    status,
    store,
)
from oracle import assert_same, freeze
from test_cli import reachable
from worlds import IMMUTABLE, fill, set_flags

KINDS = ["btrfs", "xfs", "ext4"]


def in_namespace() -> tuple[str, ...]:
    """Starts a program as root of a user namespace in which only root has a number."""
    wrap = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        missing("user namespaces")
    return wrap


FUSE = {
    "exfat": (("mkfs.exfat",), ("mount.exfat-fuse",)),
    "ntfs": (("mkfs.ntfs", "--quiet", "--fast", "--force"), ("ntfs-3g", "-o", "windows_names")),
}


@contextmanager
def fuse(file_systems: FileSystems, kind: str) -> Iterator[Path]:
    """exFAT keeps neither owners nor modes nor further names, and folds names; NTFS minds names, too."""
    make, mount = FUSE[kind]
    need(make[0], mount[0], "losetup")
    image, point = file_systems.home / f"{kind}.img", file_systems.home / kind
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    device = sh("losetup", "--find", "--show", image).strip()
    try:
        sh(*make, device)
        if subprocess.run([*mount, device, point], capture_output=True).returncode:
            missing(f"{kind} by FUSE")
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
    assert_told(ran, "owner and group (1 entry", codes=(3,))
    assert lost(done("sync", pair.source, pair.target, wrap=wrap)) == {"owner and group": 1}
    assert (pair.target / "f").stat().st_uid == 0
    # What went without its owner then was not changed by hand, though its row says nothing of one and
    # no round has noted it.
    (store(pair.target) / "limits.json").unlink()
    (pair.source / "f").unlink()
    assert done("sync", pair.source, pair.target, wrap=wrap)["losses"] == []
    pair.sync()


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_what_a_user_could_not_keep_was_not_changed_by_hand(place: Place, kind: str) -> None:
    wrap, home = as_nobody(), place(kind)
    reachable(home)
    pair = Pair(home / "source", home / "standby")
    pair.source.mkdir()
    lay_out(pair.source)
    os.chmod(pair.source / "gone", 0o2755)
    sh("chown", "-R", "65534:65534", pair.source)
    os.chown(pair.source / "f", 0, 0)
    os.chmod(pair.source / "f", 0o644)
    assert lost(done("sync", pair.source, pair.target, wrap=wrap)) == {"owner and group": 1}
    for path in ("f", "gone"):
        (pair.source / path).unlink()
        assert done("sync", pair.source, pair.target, wrap=wrap)["losses"] == []
    assert_same(pair.source, pair.target)


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


@pytest.mark.parametrize("kind", FUSE)
def test_modes_that_are_not_kept_are_a_loss_of_every_round_and_no_drift(
    place: Place, file_systems: FileSystems, kind: str
) -> None:
    with fuse(file_systems, kind) as point:
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
        fill(source / "f", 0, 60, 9)
        ran = run("sync", source, target, "-q", "--strict")
        assert_told(ran, "mode (", codes=(3,))
        assert not (target / ".snapsync/incoming").exists()
        done("sync", source, target)


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


def names(source: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        os.link(source / "f", source / "many" / f"a-name-of-some-length-{number:05}")


def test_names_beyond_the_limit_of_a_file_are_found_before_any_is_made(
    place: Place, file_systems: FileSystems
) -> None:
    """Where Btrfs keeps all names of a file in one node, there is room for few."""
    point = file_systems.mount("btrfs", 256 * MIB, "-n", "4096", "-O", "^extref")
    source, target = place("xfs"), point / "standby"
    pair = Pair(source, target)
    lay_out(source)
    (source / "many").mkdir()
    names(source, 0, 100)
    pair.sync()
    churn(source)
    names(source, 100, 200)
    refused(pair, "names of one file", "f")
    for number in range(200, 300):
        (source / "many" / f"a-name-of-some-length-{number:05}").unlink()
    refused(pair, "names of one file")
    for number in range(102, 200):
        (source / "many" / f"a-name-of-some-length-{number:05}").unlink()
    pair.sync()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_extended_attributes_that_exchange_their_sizes(place: Place, kind: str) -> None:
    """ext4 has one block for all of an inode: what grows takes the room of what shrinks."""
    pair = Pair.make(place, ("xfs", kind))
    lay_out(pair.source)

    def give(**sizes: int) -> None:
        for name in os.listxattr(pair.source / "f"):
            os.removexattr(pair.source / "f", name)
        for name, size in sizes.items():
            os.setxattr(pair.source / "f", f"user.{name}", name.encode() * size)

    give(a=100, b=3_700)
    assert pair.sync()["losses"] == []
    churn(pair.source)
    give(a=3_700, b=100)
    assert pair.sync()["losses"] == []
    give(a=1_200, b=1_200, c=1_300)
    assert pair.sync()["losses"] == []
    give(c=1_200, a=1_250, b=1_250)
    assert pair.sync()["losses"] == []


def test_extended_attributes_that_are_too_large_together_are_a_loss(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    lay_out(pair.source)
    pair.sync()
    for name in "abc":
        os.setxattr(pair.source / "f", f"user.{name}", name.encode() * 2_000)
    churn(pair.source)
    ran = run("sync", pair.source, pair.target, "-q", "--strict")
    assert_told(ran, "too large together (1 entry)", codes=(3,))
    losses = lost(done("sync", pair.source, pair.target))
    assert losses == {"extended attributes that are too large together": 1}
    for name in "abc":
        os.removexattr(pair.source / "f", f"user.{name}")
    pair.sync()


@pytest.mark.parametrize("kind", FUSE)
def test_names_that_are_not_held_are_found_before_any_is_made(
    place: Place, file_systems: FileSystems, kind: str
) -> None:
    refused_names = {"exfat": ("a:b", "Old", "what?"), "ntfs": ("a:b", "NUL", "tail.", os.fsdecode(b"\xff"))}
    with fuse(file_systems, kind) as point:
        source, target = place("ext4"), point / "standby"
        lay_out(source)
        done("sync", source, target)
        told = sorted(os.listdir(target))
        (source / "new").mkdir()
        for name in refused_names[kind]:
            fill(source / "new" / name if name != "Old" else source / name, 0, 100, 1)
            ran = run("sync", source, target, "-q")
            assert ran.code == 3, ran
            assert name in ran.err or name == os.fsdecode(b"\xff")
            assert sorted(os.listdir(target)) == told
            (source / "new" / name if name != "Old" else source / name).unlink()
        os.link(source / "f", source / "again")
        if kind == "exfat":
            assert_told(run("sync", source, target, "-q"), "2 names of one file", codes=(3,))
            (source / "again").unlink()
        (source / "old").rename(source / "OLD")
        done("sync", source, target)
        assert "OLD" in os.listdir(target)


def folding(file_systems: FileSystems) -> Path:
    if not Path("/sys/fs/ext4/features/casefold").exists():
        pytest.skip("this kernel folds no names")
    return file_systems.mount("ext4", 256 * MIB, "-O", "casefold")


@pytest.mark.parametrize("top", [False, True])
def test_two_names_that_a_directory_takes_for_one(place: Place, file_systems: FileSystems, top: bool) -> None:
    target = folding(file_systems) / "standby"
    pair = Pair(place("xfs"), target)
    lay_out(pair.source)
    (pair.source / "in").mkdir()
    if top:
        target.mkdir()
        sh("chattr", "+F", target)
    pair.sync()
    if not top:
        (target / "in").rmdir()
        (target / "in").mkdir()
        sh("chattr", "+F", target / "in")
        os.utime(target / "in", ns=(1, (pair.source / "in").stat().st_mtime_ns))
    at = pair.source if top else pair.source / "in"
    churn(pair.source)
    for name in ("Name", "nAME"):
        fill(at / name, 0, 100, 1)
    refused(pair, "nAME", "Name")
    (at / "nAME").unlink()
    pair.sync()
    fill(at / "namE", 0, 100, 1)
    refused(pair, "namE", "Name")
    (at / "Name").unlink()
    pair.sync()
    (at / "namE").rename(at / "NAME")
    pair.sync()
    assert "NAME" in os.listdir(target if top else target / "in")


def test_a_directory_of_the_standby_may_have_a_project_of_its_own(place: Place) -> None:
    need("chattr")
    pair = Pair.make(place, ("ext4", "xfs"))
    lay_out(pair.source)
    (pair.source / "home").mkdir()
    fill(pair.source / "home/there", 0, 100, 1)
    pair.sync()
    sh("chattr", "-p", "5", "+P", pair.target / "home")
    churn(pair.source)
    fill(pair.source / "home/mail", 0, 5_000, 2)
    (pair.source / "home/below").mkdir()
    fill(pair.source / "home/below/deep", 0, 50, 3)
    (pair.source / "new").rename(pair.source / "home/new")
    os.link(pair.source / "f", pair.source / "home/f")
    pair.sync()
    (pair.source / "home/new").rename(pair.source / "out")
    os.unlink(pair.source / "home/mail")
    pair.sync()


@pytest.mark.parametrize("how", ["removed", "moved", "made"])
def test_a_mount_point_in_the_standby_is_found_before_anything_changes(place: Place, how: str) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    lay_out(pair.source)
    (pair.source / "m").mkdir()
    if how != "made":
        pair.sync()
    else:
        (pair.source / "m").rmdir()
        pair.sync()
        (pair.source / "m").mkdir()
        time = pair.target.stat().st_mtime_ns
        (pair.target / "m").mkdir()
        os.utime(pair.target, ns=(1, time))
    sh("mount", "-t", "tmpfs", "none", pair.target / "m")
    try:
        churn(pair.source)
        if how == "removed":
            (pair.source / "m").rmdir()
        elif how == "moved":
            (pair.source / "m").rename(pair.source / "n")
        ran = run("sync", pair.source, pair.target, "-q")
        assert_told(ran, "m", codes=(3,))
        assert sorted(os.listdir(pair.target)) == sorted([".snapsync", "f", "gone", "m", "old"])
    finally:
        sh("umount", pair.target / "m")
    if how == "made":
        (pair.target / "m").rmdir()
        os.utime(pair.target, ns=(1, time))
    done("sync", pair.source, pair.target)


def test_a_directory_of_a_lower_layer_is_found_before_anything_changes(
    place: Place, file_systems: FileSystems
) -> None:
    lower, upper, merged = place("ext4"), place("xfs"), place("ext4")
    source = place("ext4")
    lay_out(source)
    done("sync", source, lower / "standby")
    for part in ("upper", "work"):
        (upper / part).mkdir()
    layers = f"lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work,redirect_dir=off"
    if subprocess.run(["mount", "-t", "overlay", "none", "-o", layers, merged]).returncode:
        missing("overlay file systems")
    try:
        pair = Pair(source, merged / "standby")
        done("recover", pair.target, "--adopt")
        churn(source)
        ran = run("sync", pair.source, pair.target, "-q")
        assert_told(ran, "old", "lower layer", codes=(3,))
        assert (pair.target / "old/kept").exists()
        (source / "new").rename(source / "old")
        done("sync", pair.source, pair.target)
        assert (pair.target / "f").read_bytes() == (source / "f").read_bytes()
    finally:
        sh("umount", merged)


def test_what_a_received_base_went_without_is_not_missed_in_the_next(place: Place, tmp_path: Path) -> None:
    wrap, source, shelf = capless(), place("xfs"), place("ext4")
    lay_out(source)
    os.chown(source / "f", 1234, 1234)
    os.chmod(source / "f", 0o666)
    done("snapshot", source, "--name", "one")
    (source / "f").unlink()
    done("snapshot", source, "--name", "two")
    done("send", f"{source}@one", "-o", tmp_path / "one")
    done("send", "--base", f"{source}@one", f"{source}@two", "-o", tmp_path / "two")
    whole = done("receive", "--as-snapshot", shelf, "-i", tmp_path / "one", wrap=wrap)
    assert lost(whole) == {"owner and group": 1}
    done("receive", "--as-snapshot", shelf, "-i", tmp_path / "two", wrap=wrap)
    assert not (shelf / "two/f").exists()


def test_a_directory_of_another_user_is_no_target_and_stays_as_it_is(place: Place) -> None:
    source, target = place("xfs"), place("ext4")
    lay_out(source)
    done("snapshot", source, "--name", "one")
    os.chown(target, 1234, 1234)
    os.chmod(target, 0o777)
    for verb in (("restore", f"{source}@one", "--to", target), ("sync", source, target)):
        assert_told(run(*verb, "-q", wrap=capless()), "owner", codes=(1, 3))
        assert os.listdir(target) == []
    done("restore", f"{source}@one", "--to", target)
    assert_same(source, target)
