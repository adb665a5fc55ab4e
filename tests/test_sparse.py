"""Holes are not read, to prove what two sides hold or to tell versions apart; and `--bwlimit` is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import worlds
from machine import GIB, MIB, Place, done, run

SIZE = 100 * GIB
SECONDS = 5.0
"""To read the holes takes half a minute. A second is what it is to be, and the machine may be busy."""


@contextmanager
def quickly() -> Iterator[None]:
    before = time.monotonic()
    yield
    assert time.monotonic() - before < SECONDS


def sparse(path: Path, *data: int) -> None:
    path.touch()
    worlds.truncate(path, SIZE)
    for offset in data:
        worlds.write(path, offset, b"data" * 1024)


@pytest.mark.parametrize("kinds", [("xfs", "btrfs"), ("btrfs", "ext4"), ("ext4", "xfs")], ids="-".join)
def test_a_hundred_gib_with_4_kib_of_data_are_verified_at_once(place: Place, kinds: tuple[str, str]) -> None:
    source, target = place(kinds[0]), place.absent(kinds[1])
    sparse(source / "image", 50 * GIB + 4096)
    with quickly():
        done("sync", source, target)
    with quickly():
        report = done("verify", source, target)
    assert (report["equal"], report["bytes"]) == (True, SIZE)
    # One byte at the end of it all, and the first that differs is named.
    worlds.rewrite_quietly(target / "image", SIZE - 1, 1, 1)
    with quickly():
        ran = run("verify", source, target)
    assert ran.code == 4
    assert f"at byte {SIZE - 1}" in ran.out
    with quickly():
        assert len(done("diff", target, source)["changes"]) > 0


@pytest.mark.parametrize("kinds", [("ext4", "ext4"), ("xfs", "ext4"), ("ext4", "xfs")], ids="-".join)
def test_a_round_that_changes_a_hundred_gib_of_holes_costs_what_it_writes(
    place: Place, kinds: tuple[str, str]
) -> None:
    """Whoever keeps the history: of the older snapshot nothing is copied but data."""
    source, target, back = place(kinds[0]), place.absent(kinds[1]), place.absent("xfs")
    sparse(source / "image", 4096, 50 * GIB, SIZE - 4096)
    done("sync", source, target, "--name", "first")
    worlds.write(source / "image", 30 * GIB, b"more" * 1024)
    worlds.write(source / "image", 50 * GIB, b"else" * 1024)
    with quickly():
        report = done("sync", source, target)
    assert report["data_bytes"] <= 256 * 1024
    with quickly():
        done("restore", f"{target}@first", "--to", back)
    for volume, there, bytes_ in ((target, 30, b"more"), (target, 50, b"else"), (back, 50, b"data")):
        with (volume / "image").open("rb") as file:
            assert os.pread(file.fileno(), 4096, there * GIB) == bytes_ * 1024
    with (back / "image").open("rb") as file:
        assert os.lseek(file.fileno(), 4096 + 4096, os.SEEK_DATA) == 50 * GIB


def test_zeros_are_the_same_whether_they_are_written_or_a_hole(place: Place) -> None:
    a, b = place("xfs"), place("btrfs")
    for root, is_written in ((a, True), (b, False)):
        for name, size in (("short", 5000), ("long", 3 * MIB + 17)):
            (root / name).touch()
            worlds.truncate(root / name, size)
            if is_written:
                worlds.write(root / name, 0, bytes(size))
            worlds.write(root / name, size // 2, b"x")
            worlds.touch(root / name, 10**18)
        worlds.touch(root, 10**18)
    assert done("verify", a, b)["equal"]
    # The same bytes one chunk further are others.
    for root, at in ((a, 0), (b, 64 * 1024)):
        worlds.write(root / "long", at, b"y")
        worlds.touch(root / "long", 10**18)
    ran = run("verify", a, b)
    assert ran.code == 4
    assert "at byte 0" in ran.out


def test_versions_of_a_sparse_file_are_told_apart_at_once(place: Place) -> None:
    volume = place("xfs")
    sparse(volume / "image", 0)
    done("snapshot", volume)
    os.utime(volume / "image", ns=(0, 10**18))
    done("snapshot", volume)
    worlds.rewrite_quietly(volume / "image", 10 * GIB, 1, 1)
    with quickly():
        assert len(done("versions", volume / "image")["versions"]) == 2


@pytest.mark.parametrize("kinds", [("xfs", "ext4"), ("btrfs", "btrfs")], ids="-".join)
def test_a_round_on_one_machine_takes_no_more_than_bwlimit(place: Place, kinds: tuple[str, str]) -> None:
    source, target = place(kinds[0]), place.absent(kinds[1])
    worlds.fill(source / "file", 0, 6 * MIB, 1)
    before = time.monotonic()
    done("sync", source, target, "--bwlimit", "4M")
    assert time.monotonic() - before > 0.75
    assert (target / "file").read_bytes() == (source / "file").read_bytes()
