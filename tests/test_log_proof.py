"""A log proves by its digests alone what a standby holds: not one byte of a pack is read for that."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG

import pytest
from machine import Pair, Place, assert_told, done, run
from worlds import World, punch

MIB = 1 << 20


def flipped(path: Path, offset: int) -> None:
    """Changes one byte to another, whatever it was, and leaves the times. Twice is not at all."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def differing(one: object, other: object) -> list[str]:
    ran = run("verify", one, other, "--json")
    assert "differences" in ran.json, ran
    return [difference["path"] for difference in ran.json["differences"]]


CHANGES: dict[str, Callable[[Path], object]] = {
    "small": lambda tree: flipped(tree / "small", 3),
    "large": lambda tree: flipped(tree / "large", 3 * MIB - 1),
    "sparse": lambda tree: flipped(tree / "sparse", 2 * MIB),
    "tail": lambda tree: flipped(tree / "tail", 5 * MIB - 1),
    "cut": lambda tree: flipped(tree / "cut", 100),
}


@pytest.mark.parametrize("kinds", [("xfs", "btrfs"), ("btrfs", "xfs"), ("ext4", "ext4")], ids="-".join)
def test_a_standby_is_held_against_digests_and_no_pack_is_read(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    pair, log = Pair.make(place, kinds), tmp_path / "log"
    (pair.source / "small").write_bytes(b"abcdefgh")
    (pair.source / "large").write_bytes(os.urandom(3 * MIB))
    with (pair.source / "sparse").open("wb") as file:
        for part in (0, 4):
            file.seek(part * MIB)
            file.write(os.urandom(MIB))
    with (pair.source / "tail").open("wb") as file:
        file.write(b"begins")
        file.truncate(5 * MIB)
    (pair.source / "cut").write_bytes(os.urandom(5000))
    done("sync", pair.source, f"file://{log}")
    done("sync", f"file://{log}", pair.target)
    (log / "packs").rename(tmp_path / "packs")
    assert differing(f"file://{log}", pair.target) == []
    assert differing(pair.target, f"file://{log}") == []
    # Where a file differs, its bytes are read to tell where.
    (tmp_path / "packs").rename(log / "packs")
    expected = []
    for name, change in CHANGES.items():
        change(pair.target)
        expected.append(name)
        assert differing(f"file://{log}", pair.target) == sorted(expected)
    punch(pair.target / "large", 0, MIB)
    assert "large" in differing(f"file://{log}", pair.target)


def test_frames_of_which_files_have_only_parts_are_read(place: Place, tmp_path: Path) -> None:
    pair, log = Pair.make(place, ("xfs", "btrfs")), f"file://{tmp_path}/log"
    world = World(pair.source, seed=44)
    world.grow(60)
    for _ in range(5):
        done("sync", pair.source, log)
        done("sync", log, pair.target)
        assert differing(log, pair.target) == []
        world.churn(40)
    walk = ((Path(top), names) for top, _, names in os.walk(pair.target) if ".snapsync" not in top)
    files = [top / name for top, names in walk for name in names if len(str(top / name)) < 4000]
    files = [path for path in files if S_ISREG(path.lstat().st_mode) and path.lstat().st_size > 10]
    for path in files[:20]:
        at = path.stat().st_size // 2
        flipped(path, at)
        # Of several names of a file one is told.
        assert len(differing(log, pair.target)) == 1
        flipped(path, at)


def test_a_log_that_is_verified_with_itself_reads_all_packs(place: Place, tmp_path: Path) -> None:
    source, log = place("xfs"), tmp_path / "log"
    (source / "large").write_bytes(os.urandom(3 * MIB))
    (source / "small").write_bytes(b"small")
    done("sync", source, f"file://{log}")
    done("verify", f"file://{log}", f"file://{log}")
    for pack in (log / "packs").rglob("*/*/*"):
        whole = pack.read_bytes()
        # In the bytes of a frame, behind its head.
        pack.write_bytes(whole[:66] + bytes([whole[66] ^ 1]) + whole[67:])
        ran = run("verify", f"file://{log}", f"file://{log}", "--quiet")
        assert_told(ran, "digest", codes=(4,))
        pack.write_bytes(whole)
