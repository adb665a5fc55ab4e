"""Where the base of a delta is found, and what it is known by: what it holds."""

from __future__ import annotations

import fcntl
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from machine import MIB, FileSystems, Place, assert_told, run, sh, subvolume
from oracle import assert_same
from transfer import deliver, delivered, freeze_subvolume, piped, send
from worlds import fill

K = 1024


def deduplicate(source: Path, target: Path, at: int, length: int) -> None:
    """Makes a range of one file lie where the same bytes of another do: `xfs_io -r -c dedupe`."""
    one, two = os.open(source, os.O_RDONLY), os.open(target, os.O_RDONLY)
    try:
        request = struct.pack("=QQHHIqQQiI", at, length, 1, 0, 0, two, at, 0, 0, 0)
        answer = fcntl.ioctl(one, 0xC018_9436, request)  # FIDEDUPERANGE
        _, done, status, _ = struct.unpack_from("=QQiI", answer, 32)
        assert (done, status) == (length, 0)
    finally:
        os.close(one)
        os.close(two)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_an_increment_after_deduplicating_in_both_snapshots(place: Place, kind: str) -> None:
    """As fstests btrfs/191 does."""
    source, folder = place("btrfs"), place(kind)
    with (source / "foo").open("wb", buffering=0) as file:
        for _ in range(8):
            file.write(b"\xb8" * 64 * K)
            os.fsync(file.fileno())
        file.write(b"\xb8" * 512 * K)
    one = freeze_subvolume(source, place.absent("btrfs"))
    first = send(one).content
    (source / "bar").write_bytes(b"\xb8" * 1024 * K)
    two = freeze_subvolume(source, place.absent("btrfs"))
    sh("sync", "-f", source)
    deduplicate(source / "bar", one / "foo", 0, 512 * K)
    deduplicate(source / "bar", two / "foo", 512 * K, 512 * K)
    sh("sync", "-f", source)
    delivered(first, "--as-snapshot", folder)
    delivered(send(two, "--base", one).content, "--as-snapshot", folder)
    assert_same(one, folder / one.name)
    assert_same(two, folder / two.name)
    # What was received may be deduplicated as well, and still is a base.
    (folder / "twin").write_bytes(b"\xb8" * 1024 * K)
    sh("sync", "-f", folder)
    deduplicate(folder / "twin", folder / two.name / "foo", 512 * K, 512 * K)
    sh("sync", "-f", folder)
    (source / "more").touch()
    three = freeze_subvolume(source, place.absent("btrfs"))
    delivered(send(three, "--base", two).content, "--as-snapshot", folder)
    assert_same(three, folder / three.name)
    assert_told(
        deliver(send(three, "--base", two).content, "--as-snapshot", folder, "--name", "x", "--quiet"),
        "received before",
        codes=(3,),
    )


def test_a_base_that_was_changed_before_it_was_sent_from_is_another(
    place: Place, file_systems: FileSystems
) -> None:
    source, folder = place("btrfs"), file_systems.mount("btrfs", 512 * MIB)
    fill(source / "file", 0, 20_000, 1)
    one = freeze_subvolume(source, place.absent("btrfs"))
    fill(source / "file", 0, 100, 2)
    two = freeze_subvolume(source, place.absent("btrfs"))
    delivered(send(one).content, "--as-snapshot", folder)
    sh("btrfs", "property", "set", "-ts", one, "ro", "false")
    (one / "by hand").touch()
    sh("btrfs", "property", "set", "-ts", one, "ro", "true")
    ran = deliver(send(two, "--base", one).content, "--as-snapshot", folder, "--quiet")
    assert_told(ran, "changed", codes=(3,))
    file_systems.unmount(folder)


def test_parallel_increments_from_bases_anywhere_on_the_file_system(file_systems: FileSystems) -> None:
    """As fstests btrfs/152 does: what was sent from subvol2 was never received where it goes on."""
    mount = file_systems.mount("btrfs", 512 * MIB)
    sh("btrfs", "quota", "enable", mount)
    targets = ["recv1_1", "recv1_2", "recv2_1", "recv2_2"]
    for name in ["subvol1", "subvol2", *targets]:
        subvolume(mount / name)
    sources = [mount / "subvol1", mount / "subvol2"]
    for source in sources:
        (source / ".snapshots").mkdir()
        (source / "foo").touch()
        freeze_subvolume(source, source / ".snapshots/1")
    for name in targets:
        piped((sources[0] / ".snapshots/1",), ("--as-snapshot", mount / name))
    for number in range(1, 4):
        for source in sources:
            (source / f"new-{number}").write_text(str(number))
            freeze_subvolume(source, source / f".snapshots/{number + 1}")

        def increment(name: str, number: int = number) -> None:
            snapshots = mount / f"subvol{name[4]}" / ".snapshots"
            base, snapshot = snapshots / str(number), snapshots / str(number + 1)
            piped((snapshot, "--base", base), ("--as-snapshot", mount / name))

        with ThreadPoolExecutor() as pool:
            list(pool.map(increment, targets))
        for name in targets:
            source = mount / f"subvol{name[4]}" / f".snapshots/{number + 1}"
            assert_same(source, mount / name / str(number + 1))
    file_systems.unmount(mount)


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_base_on_a_shelf_beside_is_found(place: Place, file_systems: FileSystems, kind: str) -> None:
    source = place("btrfs")
    above = file_systems.mount(kind, 512 * MIB)
    fill(source / "file", 0, 200_000, 1)
    one = freeze_subvolume(source, place.absent("btrfs"))
    fill(source / "file", 0, 100, 2)
    two = freeze_subvolume(source, place.absent("btrfs"))
    shelves = [above / "first", above / "second", above / "third"]
    for shelf in shelves:
        shelf.mkdir()
    delivered(send(one).content, "--as-snapshot", shelves[0])
    increment = send(two, "--base", one).content
    delivered(increment, "--as-snapshot", shelves[1])
    assert_same(one, shelves[0] / one.name)
    assert_same(two, shelves[1] / two.name)
    # It must still be what it was, and there.
    if kind != "btrfs":
        (shelves[0] / one.name / "by hand").touch()
        ran = deliver(increment, "--as-snapshot", shelves[2], "--quiet")
        assert_told(ran, str(shelves[0] / one.name), codes=(3,))
        sh("rm", "-r", shelves[0] / one.name)
        assert_told(deliver(increment, "--as-snapshot", shelves[2], "--quiet"), "base", codes=(3,))
    file_systems.unmount(above)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_what_is_advised_for_a_base_that_was_changed_works(place: Place, kind: str) -> None:
    source, folder = place("btrfs"), place(kind)
    fill(source / "file", 0, 20_000, 1)
    one = freeze_subvolume(source, place.absent("btrfs"))
    fill(source / "file", 0, 100, 2)
    two = freeze_subvolume(source, place.absent("btrfs"))
    first, increment = send(one).content, send(two, "--base", one).content
    made = Path(delivered(first, "--as-snapshot", folder)["path"])
    if kind == "btrfs":
        sh("btrfs", "property", "set", "-f", "-ts", made, "ro", "false")
    (made / "by hand").touch()
    ran = deliver(increment, "--as-snapshot", folder, "--quiet")
    assert_told(ran, str(made), "delete it and receive the base again", codes=(3,))
    sh(*(["btrfs", "-q", "subvolume", "delete"] if kind == "btrfs" else ["rm", "-r"]), made)
    delivered(first, "--as-snapshot", folder)
    delivered(increment, "--as-snapshot", folder)
    assert_same(two, folder / two.name)


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_an_attribute_of_the_root_is_part_of_what_was_received(place: Place, kind: str) -> None:
    source, folder = place("btrfs"), place(kind)
    os.setxattr(source, b"user.kept", b"1")
    fill(source / "file", 0, 20_000, 1)
    one = freeze_subvolume(source, place.absent("btrfs"))
    fill(source / "file", 0, 100, 2)
    two = freeze_subvolume(source, place.absent("btrfs"))
    made = Path(delivered(send(one).content, "--as-snapshot", folder)["path"])
    increment = send(two, "--base", one).content
    os.setxattr(made, b"user.by-hand", b"1")
    assert_told(deliver(increment, "--as-snapshot", folder, "--quiet"), "changed", codes=(3,))
    assert_told(run("send", made, "-o", folder / "out.delta"), "changed", codes=(3,))
    os.removexattr(made, b"user.by-hand")
    os.setxattr(made, b"user.kept", b"2")
    assert_told(deliver(increment, "--as-snapshot", folder, "--quiet"), "changed", codes=(3,))
    os.setxattr(made, b"user.kept", b"1")
    delivered(increment, "--as-snapshot", folder)
    assert_same(two, folder / two.name)


def test_a_protected_root_is_what_was_received(place: Place) -> None:
    source, folder = place("btrfs"), place("xfs")
    fill(source / "file", 0, 20_000, 1)
    sh("chattr", "+i", source)
    one = freeze_subvolume(source, place.absent("btrfs"))
    sh("chattr", "-i", source)
    fill(source / "more", 0, 100, 2)
    two = freeze_subvolume(source, place.absent("btrfs"))
    delivered(send(one).content, "--as-snapshot", folder)
    delivered(send(two, "--base", one).content, "--as-snapshot", folder)
    assert_same(two, folder / two.name)
    # An immutable root keeps a subvolume from being deleted.
    sh("btrfs", "property", "set", "-ts", one, "ro", "false")
    sh("chattr", "-i", one)


@pytest.mark.parametrize("owner", [4711, 0])
def test_what_others_can_have_marked_is_no_base(place: Place, owner: int) -> None:
    """Whoever owns a subvolume says what it was received as: on the file system, and on a shelf beside."""
    source, home, shelf = place("btrfs"), place("btrfs"), place("btrfs")
    fill(source / "file", 0, 20_000, 1)
    one = freeze_subvolume(source, home / "one")
    fill(source / "file", 0, 100, 2)
    two = freeze_subvolume(source, place.absent("btrfs"))
    delta = send(two, "--base", one).content
    os.chown(home, owner, owner)
    ran = deliver(delta, "--as-snapshot", shelf, "--quiet")
    if owner == 0:
        assert ran.code == 0, ran
        assert_same(two, shelf / two.name)
        return
    assert_told(ran, "others may write where it lies", codes=(3,))
    (home / ".snapsync").mkdir(mode=0o700)
    assert_told(deliver(delta, "--as-snapshot", shelf, "--quiet"), "others may write", codes=(3,))
    assert not (shelf / two.name).exists()
