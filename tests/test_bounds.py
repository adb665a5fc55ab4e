"""What a volume is and what it is not: other volumes, mounts, subvolumes and locked directories inside it."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from machine import (
    MIB,
    FileSystems,
    Pair,
    Place,
    assert_told,
    capless,
    done,
    missing,
    run,
    sh,
    subvolume,
    verified,
)
from oracle import Picture, assert_same, freeze

POOLS = [("xfs", "ext4"), ("ext4", "btrfs")]
PAIRS = [*POOLS, ("btrfs", "btrfs")]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def said(report: dict[str, object], *words: str) -> list[str]:
    """The notes that have all of these words."""
    return [note for note in report["notes"] if all(word in note for word in words)]  # type: ignore[attr-defined]


# --- a volume inside a volume -----------------------------------------------------------------


def without_stores(tree: Path) -> Picture:
    picture = freeze(tree)
    names = {path for path in picture.entries if b".snapsync" in path.split(b"/")}
    return replace(
        picture,
        entries={path: entry for path, entry in picture.entries.items() if path not in names},
        groups=frozenset(group for group in picture.groups if not group & names),
    )


def stores_in(tree: Path) -> list[Path]:
    own = tree / ".snapsync"
    return [path for path in tree.rglob(".snapsync") if path != own and own not in path.parents]


@pytest.mark.parametrize("kinds", PAIRS)
def test_a_store_is_left_out_at_every_depth_and_said_once(pair: Pair) -> None:
    write(pair.source / "srv/web/page", "1")
    done("snapshot", pair.source / "srv/web")
    report = done("sync", pair.source, pair.target)
    assert len(said(report, "srv/web/.snapsync")) == 1, report["notes"]
    # Others come to be later, beside what changes; one is no store, and has the name of one.
    write(pair.source / "mail/inbox", "2")
    write(pair.source / "odd/.snapsync", "a file")
    done("snapshot", pair.source / "mail")
    done("snapshot", pair.source / "srv/web")
    report = done("sync", pair.source, pair.target)
    assert said(report, ".snapsync")
    write(pair.source / "srv/web/page", "3")
    done("sync", pair.source, pair.target)
    assert stores_in(pair.target) == []
    assert_same(without_stores(pair.source), pair.target)
    assert done("status", pair.source / "srv/web")["volume"]["role"] == "primary"
    verified(pair.source, pair.target)
    verified(f"{pair.source}@latest", pair.target)
    # What is inside the inner store cannot be named into the tree either.
    to = pair.source.with_name(pair.source.name + "-restored")
    done("restore", f"{pair.source}@latest", "--to", to)
    assert stores_in(to) == []


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_new_volume_says_once_that_it_lies_in_another(place: Place, kind: str) -> None:
    outer, elsewhere = place(kind), place("ext4")
    done("snapshot", outer)
    for name in ("one", "two", "three"):
        write(outer / name / "file", name)
    news = (
        ("init", outer / "one"),
        ("snapshot", outer / "two"),
        ("sync", outer / "three", elsewhere / "a"),
        ("init", outer / "one/below"),
    )
    (outer / "one/below").mkdir()
    for words in news:
        (note,) = said(done(*words), "lies in the volume")
        assert str(words[1]) in note
        assert said(done(*words), "lies in the volume") == []
    (apart := elsewhere / "b").mkdir()
    # On Btrfs that is a subvolume, and no part of the tree around it.
    told = said(done("sync", apart, outer / "four"), f"{outer / 'four'} lies in the volume {outer}")
    assert len(told) == (kind == "xfs")
    assert done("init", apart)["notes"] == []


@pytest.mark.parametrize("kinds", PAIRS)
def test_what_gets_the_name_of_a_store_goes_and_what_loses_it_comes(pair: Pair) -> None:
    write(pair.source / "a/.snapsync/deep/er/file", "1")
    write(pair.source / "b/plain/deep/er/file", "2")
    write(pair.source / "c", "3")
    done("sync", pair.source, pair.target)
    assert_same(without_stores(pair.source), pair.target)
    (pair.source / "a/.snapsync").rename(pair.source / "a/plain")
    (pair.source / "b/plain").rename(pair.source / "b/.snapsync")
    done("sync", pair.source, pair.target)
    assert (pair.target / "a/plain/deep/er/file").read_text() == "1"
    assert_same(without_stores(pair.source), pair.target)
    # Something inside that moves out, and back in.
    (pair.source / "b/.snapsync/deep").rename(pair.source / "deep")
    done("sync", pair.source, pair.target)
    assert (pair.target / "deep/er/file").read_text() == "2"
    (pair.source / "deep").rename(pair.source / "b/.snapsync/deep")
    done("sync", pair.source, pair.target)
    assert_same(without_stores(pair.source), pair.target)


def test_a_path_with_a_store_in_it_is_not_exchanged_for_one_without(place: Place) -> None:
    volume = place("ext4")
    write(volume / "web/page", "1")
    done("snapshot", volume, "--name", "one")
    done("snapshot", volume / "web")
    write(volume / "web/page", "2")
    ran = run("restore", f"{volume}@one", volume / "web")
    assert_told(ran, "web/.snapsync", codes=(3,))
    assert sh("cat", volume / "web/page") == "2"


# --- what is mounted inside -------------------------------------------------------------------


@contextmanager
def mounted(*points: Path) -> Iterator[None]:
    """Another file system at each of these, with something of its own in it."""
    for point in points:
        sh("mount", "-t", "tmpfs", "none", point)
        (point / "foreign").touch()
    try:
        yield
    finally:
        sh("umount", *points)


MOUNTED = [("xfs", "ext4"), ("ext4", "xfs"), ("btrfs", "ext4")]


@pytest.mark.parametrize("kinds", MOUNTED)
def test_what_lies_under_a_mount_is_kept_and_followed(pair: Pair) -> None:
    write(pair.source / "data/db/rows", "1")
    write(pair.source / "data/other", "1")
    write(pair.source / "top", "1")
    (pair.source / "point").mkdir(mode=0o710)
    # In the first round, and in a later one.
    with mounted(pair.source / "point"):
        report = done("sync", pair.source, pair.target)
        assert len(said(report, "mount", "point")) == 1, report["notes"]
    assert_same(pair.source, pair.target)
    with mounted(pair.source / "data"):
        write(pair.source / "top", "2")
        report = done("sync", pair.source, pair.target)
        assert len(said(report, "mount", "data")) == 1, report["notes"]
        verified(pair.source, pair.target)
        assert (pair.target / "data/db/rows").read_text() == "1"
    assert_same(pair.source, pair.target)
    # Who has it open writes on underneath, and a bind mount of the same file system hides as well.
    with (pair.source / "data/db/rows").open("w") as rows, mounted(pair.source / "data"):
        rows.write("22")
        rows.flush()
        sh("mount", "--bind", pair.source / "data", pair.source / "point")
        try:
            done("sync", pair.source, pair.target)
            verified(pair.source, pair.target)
        finally:
            sh("umount", pair.source / "point")
        assert (pair.target / "data/db/rows").read_text() == "22"
    assert_same(pair.source, pair.target)
    report = done("sync", pair.source, pair.target)
    assert not said(report, "mount"), report["notes"]


def test_a_file_that_is_mounted_on_is_replicated_as_it_is_underneath(pair: Pair) -> None:
    write(pair.source / "etc/hosts", "true")
    write(pair.source / "other", "mounted")
    sh("mount", "--bind", pair.source / "other", pair.source / "etc/hosts")
    try:
        done("sync", pair.source, pair.target)
        write(pair.source / "more", "1")
        done("sync", pair.source, pair.target)
    finally:
        sh("umount", pair.source / "etc/hosts")
    assert (pair.target / "etc/hosts").read_text() == "true"
    assert_same(pair.source, pair.target)


def test_the_store_is_reached_though_something_is_mounted_in_it(place: Place) -> None:
    volume = place("xfs")
    write(volume / "file", "1")
    done("snapshot", volume, "--name", "one")
    view = volume / ".snapsync/store/view"
    view.mkdir()
    with mounted(view):
        write(volume / "file", "2")
        report = done("snapshot", volume, "--name", "two")
    assert not said(report, "mount")
    assert [row["name"] for row in done("list", volume)["snapshots"]] == ["one", "two"]


def test_who_may_not_look_under_a_mount_keeps_what_was_there(place: Place) -> None:
    pair = Pair.make(place, ("ext4", "ext4"))
    pair.target.mkdir()
    write(pair.source / "data/db/rows", "1")
    (pair.source / "linked").touch()
    (pair.source / "data/db/linked").hardlink_to(pair.source / "linked")
    write(pair.source / "top", "1")
    wrap = capless()
    done("sync", pair.source, pair.target, wrap=wrap)
    with mounted(pair.source / "data"):
        write(pair.source / "top", "2")
        for _ in range(2):
            report = done("sync", pair.source, pair.target, wrap=wrap)
            assert len(said(report, "data", "assumed unchanged", "root")) == 1, report["notes"]
    assert_same(pair.source, pair.target)
    (pair.source / "data/db/rows").unlink()
    done("sync", pair.source, pair.target, wrap=wrap)
    assert_same(pair.source, pair.target)


# --- what became a subvolume ------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["btrfs", "pool"])
def test_a_directory_that_became_a_subvolume_is_named_with_what_the_standby_loses(
    place: Place, provider: str
) -> None:
    pair = Pair(place("btrfs") if provider == "btrfs" else place.absent("btrfs"), place.absent("xfs"))
    pair.source.mkdir(exist_ok=True)
    for name in ("one/a", "one/deep/b", "two/c", "three/d"):
        write(pair.source / name, name)
    (pair.source / "empty").mkdir()
    done("sync", pair.source, pair.target)
    sh("rm", "-r", pair.source / "one", pair.source / "two", pair.source / "empty")
    (pair.source / "three").rename(pair.source / "moved")
    for name in ("one", "two", "three", "empty"):
        subvolume(pair.source / name)
        write(pair.source / name / "a", "within")
    # What would be lost is refused where nothing may be, and nothing was touched.
    assert_told(run("sync", pair.source, pair.target, "--strict"), "subvolume", codes=(3,))
    assert (pair.target / "two/c").read_text() == "two/c"
    report = done("sync", pair.source, pair.target)
    assert len(said(report, "one was a directory", "3 entries")) == 1, report["notes"]
    assert len(said(report, "two was a directory", "1 entry")) == 1, report["notes"]
    assert not said(report, "three was")
    assert not said(report, "empty was")
    assert (pair.target / "moved/d").read_text() == "three/d"
    assert_same(pair.source, pair.target)
    write(pair.source / "other", "1")
    assert not said(done("sync", pair.source, pair.target), "was a directory")


# --- encrypted directories --------------------------------------------------------------------


class Key:
    """A key of a file system that encrypts, and the policy that goes by it."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self.identifier = self.add()

    def add(self) -> bytes:
        secret = bytes(range(64))
        key = struct.pack("=II32xII32x", 2, 0, len(secret), 0) + secret
        return self.ask(self.point, 0xC050_6617, key)[8:24]  # FS_IOC_ADD_ENCRYPTION_KEY

    def remove(self) -> None:
        key = struct.pack("=II16s16xI20x", 2, 0, self.identifier, 0)
        self.ask(self.point, 0xC040_6618, key)  # FS_IOC_REMOVE_ENCRYPTION_KEY

    def encrypt(self, path: Path) -> None:
        policy = struct.pack("=BBBB4x16s", 2, 1, 4, 0, self.identifier)
        self.ask(path, 0x800C_6613, policy)  # FS_IOC_SET_ENCRYPTION_POLICY

    @staticmethod
    def ask(path: Path, number: int, argument: bytes) -> bytes:
        fd = os.open(path, os.O_RDONLY)
        try:
            return fcntl.ioctl(fd, number, argument)
        finally:
            os.close(fd)


@pytest.fixture
def encrypting(file_systems: FileSystems) -> Iterator[Path]:
    """A volume on a file system that can encrypt."""
    point = file_systems.mount("ext4", 64 * MIB, "-O", "encrypt")
    try:
        Key(point)
    except OSError as error:
        missing(f"a kernel that encrypts directories ({error})")
    volume = point / "volume"
    volume.mkdir()
    yield volume
    file_systems.unmount(point)


def test_a_locked_directory_is_refused_by_name_before_anything_is_done(
    encrypting: Path, place: Place
) -> None:
    source, target, other = encrypting, place.absent("xfs"), place.absent("xfs")
    key = Key(source.parent)
    (source / "home/secret").mkdir(parents=True)
    key.encrypt(source / "home/secret")
    write(source / "home/secret/plans/names", "in the clear")
    write(source / "open", "1")
    report = done("sync", source, target)
    assert len(said(report, "encrypted", "home/secret")) == 1, report["notes"]
    assert_same(source, target)
    before = freeze(target)
    key.remove()
    assert not (source / "home/secret/plans").exists()
    for line in (
        ("sync", source, target),
        ("sync", source, target, "--check"),
        ("sync", source, other),
        ("snapshot", source),
        ("verify", source, target),
        ("diff", f"{source}@latest", source),
    ):
        assert_told(run(*line, "--quiet"), "home/secret", "encrypted", codes=(3,))
    assert len(done("list", source)["snapshots"]) == 1
    assert not other.exists()
    assert_same(before, target)
    # What is left out is not looked at.
    write(source / "open", "2")
    done("sync", source, target, "--exclude", "/home/secret")
    assert (target / "open").read_text() == "2"
    key.add()
    write(source / "home/secret/plans/more", "3")
    done("sync", source, target, "--everything")
    assert_same(source, target)


def test_a_volume_in_a_locked_directory_is_not_taken_for_none(encrypting: Path, place: Place) -> None:
    key = Key(encrypting.parent)
    key.encrypt(encrypting)
    write(encrypting / "file", "1")
    target = place.absent("xfs")
    done("sync", encrypting, target)
    key.remove()
    for line in (("status", encrypting), ("sync", encrypting, target), ("sync", target, encrypting)):
        assert_told(run(*line), "encrypted", codes=(3,))
    key.add()
    write(encrypting / "more", "2")
    done("sync", encrypting, target)
    assert_same(encrypting, target)
