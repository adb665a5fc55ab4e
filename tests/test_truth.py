"""What proves a file unchanged in a pool snapshot, on each kind of file system, and what does not."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machine import KINDS, MIB, FileSystems, Place, done, need, sh
from oracle import assert_same, freeze
from stalled import stalled_write

K = 1024


@contextmanager
def images(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory for images, whose mounts go with it."""
    home = Path("/dev/shm") / f"truth-{os.getpid()}-{tmp_path.name}"
    home.mkdir()
    try:
        yield home
    finally:
        for point in home.iterdir():
            if point.is_dir():
                subprocess.run(["umount", "--recursive", point], capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def mounted(image: Path, *options: str) -> Path:
    point = image.with_suffix(".d")
    point.mkdir(exist_ok=True)
    sh("mount", "-o", ",".join(("loop", *options)), image, point)
    return point


# --- a power cut --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        ("mkfs.ext4", "-q", "-F"),
        ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
        ("mkfs.xfs", "-q", "-f", "-m", "reflink=0,rmapbt=0"),
    ],
    ids=["ext4", "xfs", "xfs-without-reflinks"],
)
def test_data_that_a_power_cut_left_under_old_times_is_noticed(
    tmp_path: Path, place: Place, make: tuple[str, ...]
) -> None:
    need("xfs_io", make[0])
    with images(tmp_path) as home:
        image = home / "a.img"
        with image.open("wb") as file:
            file.truncate(320 * MIB)
        sh(*make, image)
        source, target = mounted(image) / "volume", place.absent("ext4")
        source.mkdir()
        for name in ("written", "other"):
            (source / name).write_bytes(b"o" * 64 * K)
        time.sleep(0.3)
        done("sync", source, target)
        assert not done("sync", source, target)["notes"]
        before = os.stat(source / "written")
        time.sleep(0.1)
        with open(source / "written", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"committed", 8 * K)
            os.fdatasync(file.fileno())
        sh("xfs_io", "-x", "-c", "shutdown", source.parent)
        sh("umount", source.parent)
        mounted(image)
        # XFS that shares blocks has written elsewhere, and told the time with the place.
        if "reflink=1" not in make:
            assert os.stat(source / "written").st_ctime_ns == before.st_ctime_ns
        assert b"committed" in (source / "written").read_bytes()
        report = done("sync", source, target)
        assert_same(freeze(source), freeze(target))
        assert report["changes"]["changed"] == 1
        assert sum("mounted anew" in note for note in report["notes"]) == 1
        # Once is enough.
        report = done("sync", source, target)
        assert not report["notes"]
        assert report["changes"]["changed"] == 0


# --- writes under way ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_write_that_is_under_way_while_its_file_is_copied_is_in_the_next_snapshot(
    place: Place, kind: str
) -> None:
    source, target = place(kind), place.absent("ext4")
    path = source / "file"
    path.write_bytes(b"o" * 2 * MIB)
    done("sync", source, target)
    with stalled_write(path, b"n" * 2 * MIB, seconds=1) as finish:
        done("sync", source, target)
        finish()
    done("sync", source, target)
    assert_same(freeze(source), freeze(target))
    # Nobody has it open any more, and it stands.
    done("sync", source, target)
    assert done("sync", source, target)["counters"]["inodes_compared"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_through_a_map_that_was_there_before_is_noticed(place: Place, kind: str) -> None:
    check_a_map(place(kind), place.absent("ext4"))


def test_what_is_stored_through_a_map_is_noticed_where_it_leaves_no_time(
    tmp_path: Path, place: Place
) -> None:
    with images(tmp_path) as home:
        point = home / "a.d"
        point.mkdir()
        sh("mount", "-t", "tmpfs", "none", point)
        (point / "volume").mkdir()
        notes = check_a_map(point / "volume", place.absent("ext4"))
        assert sum("memory map" in note for note in notes) == 1


def check_a_map(source: Path, target: Path) -> list[str]:
    path = source / "file"
    path.write_bytes(b"o" * 64 * K)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0:3] = b"new"
        time.sleep(0.3)
        done("sync", source, target)
        memory[100:104] = b"late"
        memory.flush()
        report = done("sync", source, target)
        assert (target / "file").read_bytes() == path.read_bytes()
        memory[40 * K : 40 * K + 4] = b"last"
    done("sync", source, target)
    assert (target / "file").read_bytes() == path.read_bytes()
    notes: list[str] = report["notes"]
    return notes


# --- times that are coarse, or copies -----------------------------------------------------------


def test_a_second_change_within_a_second_is_noticed_where_times_are_whole_seconds(
    file_systems: FileSystems, place: Place
) -> None:
    point = file_systems.mount("ext4", 64 * MIB, "-I", "128")
    try:
        source, target = point / "volume", place.absent("ext4")
        source.mkdir()
        done("sync", source, target)
        time.sleep(1.02 - time.time() % 1)
        (source / "file").write_text("first")
        time.sleep(0.25)
        done("sync", source, target)
        (source / "file").write_text("other")
        assert time.time() - os.stat(source / "file").st_ctime < 1, "too slow a machine for this test"
        time.sleep(2.2)
        done("sync", source, target)
        assert (target / "file").read_text() == "other"
    finally:
        file_systems.unmount(point)


@contextmanager
def fuse(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A directory of this machine as sshfs shows it: times of seconds, change times that are copies, and
    numbers in the order of looking."""
    need("sshfs")
    server = Path("/usr/lib/openssh/sftp-server")
    if not server.exists():
        need("sftp-server")
    real, point = tmp_path / "real", tmp_path / "seen"
    real.mkdir()
    point.mkdir()
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\nexec {server}\n")
    program.chmod(0o755)

    def mount() -> None:
        sh("sshfs", "-o", f"ssh_command={program},dir_cache=no", f"none:{real}", point)

    mount()
    try:
        yield real, point
    finally:
        subprocess.run(["umount", "--lazy", point], capture_output=True)


def test_by_path_where_numbers_change_and_by_bytes_where_times_prove_nothing(
    tmp_path: Path, place: Place
) -> None:
    with fuse(tmp_path) as (real, source):
        target = place.absent("ext4")
        for name in ("x", "y", "z"):
            (real / name).write_text(f"this is {name}")
            os.utime(real / name, (1e9, 1e9))
        (real / "d").mkdir()
        (real / "d/deep").write_text("deep")
        notes = done("sync", source, target)["notes"]
        numbers = {name: os.stat(source / name).st_ino for name in ("x", "y")}
        sh("umount", source)
        sh("sshfs", "-o", f"ssh_command={tmp_path / 'ssh'},dir_cache=no", f"none:{real}", source)
        # Looked at in another order, they have other numbers.
        assert (source / "y").read_text() == "this is y"
        assert os.stat(source / "y").st_ino != numbers["y"]
        before = os.stat(real / "x")
        (real / "x").write_text("this is Q")
        os.utime(real / "x", ns=(before.st_atime_ns, before.st_mtime_ns))
        report = done("sync", source, target)
        changes = report["changes"]
        assert (changes["created"], changes["renamed"], changes["deleted"]) == (0, 0, 0)
        assert changes["changed"] == 1
        assert sum("compared in each round" in note for note in report["notes"]) == 1, notes
        for name in ("x", "y", "z", "d/deep"):
            assert (target / name).read_text() == (real / name).read_text()
