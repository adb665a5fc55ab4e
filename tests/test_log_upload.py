"""An upload to a log that is cut goes on with what is there, as far as that is still right."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from machine import Pair, Place, done, start, verified, wait_until
from oracle import assert_same

MIB = 1 << 20


def packs(log: Path) -> list[Path]:
    return [path for path in (log / "packs").rglob("*") if path.is_file() and "#" not in path.name]


def cut(source: Path, log: Path, count: int) -> None:
    """Kills a round once so many packs are there."""
    before = len(packs(log))
    # One thread reads in the order of the inodes: the first files are uploaded first.
    process = start("sync", source, f"file://{log}", "--bwlimit", "32M", "--jobs", "1", "-q")
    wait_until(lambda: len(packs(log)) >= before + count)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def fill(source: Path, files: int) -> None:
    for number in range(files):
        (source / f"{number:02}").write_bytes(os.urandom(4 * MIB))


@pytest.mark.parametrize("kinds", [("xfs", "btrfs"), ("btrfs", "xfs"), ("ext4", "xfs")], ids="-".join)
def test_what_is_there_is_not_uploaded_again(place: Place, tmp_path: Path, kinds: tuple[str, str]) -> None:
    pair, log = Pair.make(place, kinds), tmp_path / "log"
    fill(pair.source, 24)
    cut(pair.source, log, 2)
    cut(pair.source, log, 1)
    report = done("sync", pair.source, f"file://{log}")
    assert report["kept_bytes"] > 20 * MIB, report
    done("sync", f"file://{log}", pair.target)
    assert_same(pair.source, pair.target)
    verified(f"file://{log}", pair.target)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_has_changed_since_is_uploaded_again(place: Place, tmp_path: Path, kind: str) -> None:
    pair, log = Pair.make(place, (kind, "xfs")), tmp_path / "log"
    fill(pair.source, 24)
    cut(pair.source, log, 2)
    for number in range(0, 24, 2):
        with (pair.source / f"{number:02}").open("r+b") as file:
            file.seek(MIB)
            file.write(b"changed")
    (pair.source / "03").unlink()
    (pair.source / "new").write_bytes(os.urandom(MIB))
    cut(pair.source, log, 2)
    (pair.source / "05").write_bytes(os.urandom(5 * MIB))
    done("sync", pair.source, f"file://{log}")
    done("sync", f"file://{log}", pair.target)
    assert_same(pair.source, pair.target)
    verified(pair.source, pair.target)


def test_what_was_pruned_meanwhile_is_not_gone_on_with(place: Place, tmp_path: Path) -> None:
    pair, log = Pair.make(place, ("xfs", "btrfs")), tmp_path / "log"
    (pair.source / "first").write_text("first")
    done("sync", pair.source, f"file://{log}")
    fill(pair.source, 24)
    cut(pair.source, log, 2)
    there = packs(log)
    done("prune", f"file://{log}", "--keep-last", "5")
    assert len(packs(log)) < len(there)
    assert done("sync", pair.source, f"file://{log}")["kept_bytes"] == 0
    done("sync", f"file://{log}", pair.target)
    assert_same(pair.source, pair.target)
