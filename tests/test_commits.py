"""What a round on Btrfs makes the file systems commit, and what it makes them search."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import delta
import pytest
import worlds
from machine import GIB, MIB, Pair, Place, done, missing, sh, subvolume
from told import rows_of
from worlds import write

Mount = Callable[..., Path]


def committed(volume: Path) -> int:
    """The transactions that the file system of a volume has committed since it was mounted."""
    uuid = sh("findmnt", "-n", "-o", "UUID", "-T", volume).strip()
    stats = Path(f"/sys/fs/btrfs/{uuid}/commit_stats")
    if not stats.exists():
        missing("commit_stats of Btrfs")
    found = re.search(r"commits (\d+)", stats.read_text())
    assert found
    return int(found[1])


@pytest.fixture
def apart(mount: Mount) -> Pair:
    """Two volumes on file systems of their own that commit nothing by the clock."""
    volumes = [mount("btrfs", 4 * GIB) for _ in range(2)]
    for volume in volumes:
        sh("mount", "-o", "remount,commit=3600,strictatime", volume.parent)
    return Pair(*volumes)


def of_a_round(pair: Pair) -> tuple[int, int]:
    """The transactions of a round on the primary and the standby, where nothing else is to be written."""
    os.sync()
    before = committed(pair.source), committed(pair.target)
    done("sync", pair.source, pair.target)
    return committed(pair.source) - before[0], committed(pair.target) - before[1]


def first(apart: Pair, trial: int) -> tuple[int, int]:
    """Of the first round of volumes of their own."""
    pair = Pair(apart.source.parent / f"first-{trial}", apart.target.parent / f"first-{trial}")
    for volume in (pair.source, pair.target):
        subvolume(volume)
    fill(pair.source)
    return of_a_round(pair)


def fill(volume: Path) -> None:
    worlds.bulk(volume, 2_000)
    worlds.fill(volume / "image", 0, 4 * MIB, 1)


def unchanged(pair: Pair, _trial: int) -> tuple[int, int]:
    return of_a_round(pair)


def many_files(pair: Pair, trial: int) -> tuple[int, int]:
    for at in range(0, 2_000, 10):
        write(pair.source / f"bulk-{at // 100:04}/{at:06}", 0, b"change %d" % trial)
    return of_a_round(pair)


def many_places(pair: Pair, trial: int) -> tuple[int, int]:
    for at in range(0, 4 * MIB, MIB // 16):
        write(pair.source / "image", at, b"change %d" % trial)
    return of_a_round(pair)


def names(pair: Pair, trial: int) -> tuple[int, int]:
    (pair.source / f"bulk-0001/{150 + trial:06}").unlink()
    (pair.source / f"new-{trial}").write_text("new")
    return of_a_round(pair)


@pytest.mark.parametrize(
    ("kind", "primary", "standby"),
    [(first, 3, 5), (unchanged, 1, 2), (many_files, 1, 3), (many_places, 1, 3), (names, 1, 4)],
)
def test_a_round_commits_no_more_than_it_needs(
    apart: Pair, kind: Callable[[Pair, int], tuple[int, int]], primary: int, standby: int
) -> None:
    """docs/correctness.md says what each is there for. A `sync` of whatever else runs on the machine commits
    here, too: what a round needs is what it takes at best."""
    fill(apart.source)
    apart.sync()
    counted = [kind(apart, trial) for trial in range(3)]
    assert min(of_primary for of_primary, _ in counted) <= primary, counted
    assert min(of_standby for _, of_standby in counted) <= standby, counted
    apart.sync()


def test_reading_a_volume_makes_no_round_compare_what_was_read(apart: Pair) -> None:
    worlds.bulk(apart.source, 500)
    apart.sync()
    apart.sync()
    for volume in (apart.source, apart.target):
        files = list(volume.glob("bulk-*/*"))
        before = [path.stat().st_atime_ns for path in files]
        read = sum(len(path.read_bytes()) for path in files)
        assert read > 0
        assert before != [path.stat().st_atime_ns for path in files]
    write(apart.source / "bulk-0000/000050", 0, b"changed")
    report = apart.sync()
    assert report["changes"]["changed"] == report["counters"]["inodes_compared"] == 1


def test_a_first_delta_is_the_same_by_search_and_by_walk(place: Place, tmp_path: Path) -> None:
    """The items of a tree say of each inode what the kernel tells of it, without that it is opened."""
    volume = place("btrfs")
    worlds.bulk(volume, 200)
    noise = worlds.noise
    (volume / "within").write_bytes(noise(700, 1))
    (volume / "many").write_bytes(noise(9_000, 2))
    os.link(volume / "many", volume / "bulk-0001/further")
    worlds.fill(volume / "holes", 64 << 10, 5_000, 3)
    worlds.preallocate(volume / "holes", 1 << 20, 1 << 16)
    worlds.preallocate_past_end(volume / "within", 1 << 16, 1 << 16)
    (volume / "link").symlink_to("x" * 900)
    worlds.node(volume / "pipe", stat.S_IFIFO)
    worlds.node(volume / "device", stat.S_IFCHR, os.makedev(300, 70_000))
    for path in (volume / "many", volume, volume / "bulk-0000"):
        for at in range(5):
            worlds.set_xattr(path, b"user.%d" % at, noise(40 * at, at))
    worlds.set_xattr(volume / "within", b"user.large", noise(5_000, 4))
    worlds.set_acl(volume / "holes", "access", 7, 6)
    worlds.set_acl(volume / "bulk-0001", "default", 8, 5)
    for name, flag in (("c", 0x04), ("S", 0x08), ("a", 0x20), ("d", 0x40), ("A", 0x80), ("C", 0x800000)):
        (volume / f"flag-{name}").touch()
        worlds.set_flags(volume / f"flag-{name}", flag)
    worlds.set_flags(volume / "bulk-0000", 0x10000)
    (volume / ("n" * 255)).touch()
    for at in range(200):
        os.link(volume / "within", volume / f"{'l' * 200}-{at}")
    done("snapshot", volume, "--name", "s")
    less = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    done("send", f"{volume}@s", "-o", tmp_path / "searched")
    done("send", f"{volume}@s", "-o", tmp_path / "walked", wrap=less)
    searched, walked = (
        delta.parse((tmp_path / name).read_bytes()).manifest for name in ("searched", "walked")
    )
    assert rows_of(searched) == rows_of(walked)
    assert searched == walked
    worlds.set_flags(volume / "flag-a", 0, 0x20)
