"""What is written while and after a snapshot is taken is in it or in the next one."""

from __future__ import annotations

import mmap
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machine import KINDS, MIB, Place, done
from oracle import assert_same, freeze
from stalled import stalled_write
from worlds import append, exchange, fill, punch, rewrite_quietly, write

K = 1024


@pytest.fixture(params=KINDS)
def volume(request: pytest.FixtureRequest, place: Place) -> Path:
    """Small and large files that were written long enough before they are looked at."""
    root = place(request.param)
    for number in range(60):
        (root / f"d{number % 3}").mkdir(exist_ok=True)
        fill(root / f"d{number % 3}/{number}", 0, 500 + 400 * number, number)
    for number in range(4):
        fill(root / f"large-{number}", 0, 5 * MIB, 100 + number)
    time.sleep(0.3)
    return root


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and ".snapsync" not in path.parts)


@pytest.mark.parametrize("turn", range(3))
def test_a_standby_gets_what_the_snapshot_holds_whatever_became_of_the_volume(
    volume: Path, place: Place, turn: int
) -> None:
    chance = random.Random(turn)
    mapped = volume / "large-0"
    with mapped.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0:4] = memory[4:8]  # this page may be written to
        time.sleep(0.3)
        done("snapshot", volume)
        picture = freeze(volume)
        memory[1:5] = b"late"
        memory[3 * MIB : 3 * MIB + 4] = b"late"
        some = [path for path in files(volume) if path != mapped and chance.random() < 0.5]
        for path in some:
            match chance.randrange(6):
                case 0 | 1:
                    rewrite_quietly(path, 0, 400, chance.randrange(1000))
                case 2:
                    os.truncate(path, path.stat().st_size // 2)
                case 3:
                    append(path, 700, 3)
                case 4:
                    punch(path, 0, 4 * K)
                case 5:
                    exchange(path, chance.choice([other for other in some if other != path]))
        target = place.absent("xfs")
        done("sync", volume, target, "--snap", "latest")
    assert_same(picture, freeze(target))


def test_a_standby_gets_what_the_snapshot_holds_while_everything_is_written_to(
    volume: Path, place: Place
) -> None:
    done("snapshot", volume)
    picture = freeze(volume)
    with written_to(files(volume)):
        targets = [place.absent("xfs") for _ in range(3)]
        for target in targets:
            done("sync", volume, target, "--snap", "latest")
    for target in targets:
        assert_same(picture, freeze(target))


def test_a_write_that_goes_on_after_a_btrfs_snapshot_is_not_taken_for_the_snapshots(place: Place) -> None:
    source, target = place("btrfs"), place.absent("ext4")
    path = source / "file"
    path.write_bytes(b"o" * 4 * MIB)
    done("sync", source, target)
    with stalled_write(path, b"n" * 4 * MIB) as finish:
        done("snapshot", source)
        picture = freeze(source / ".snapsync/latest")
        finish()
        done("sync", source, target, "--snap", "latest")
    assert_same(picture, freeze(target))


def test_what_a_long_write_brought_after_a_btrfs_snapshot_is_a_version_and_a_change(place: Place) -> None:
    """Both snapshots have the file with the same times: what is walked is told as what is searched."""
    source, target = place("btrfs"), place.absent("ext4")
    path = source / "file"
    (source / "other").mkdir()
    path.write_bytes(b"o" * 4 * MIB)
    with stalled_write(path, b"n" * 4 * MIB) as finish:
        done("sync", source, target)
        before = os.stat(source / ".snapsync/latest/file")
        finish()
    done("snapshot", source)
    assert os.stat(source / ".snapsync/latest/file").st_ctime_ns == before.st_ctime_ns
    assert len(done("versions", path)["versions"]) == 2
    # Patterns that a renamed directory may be one of have both snapshots walked.
    (source / "other").rename(source / "another")
    done("sync", source, target, "--exclude", "*.none", "--exclude", "another/*.no")
    assert_same(freeze(source), freeze(target))


@contextmanager
def written_to(paths: list[Path]) -> Iterator[None]:
    """From now on for a second, file after file: sizes and modification times stay."""

    def work() -> None:
        for number, path in enumerate(paths):
            time.sleep(1 / len(paths))
            before = path.stat()
            write(path, chance.randrange(before.st_size), b"%d" % number)
            os.truncate(path, before.st_size)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    chance = random.Random(7)
    chance.shuffle(paths)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
