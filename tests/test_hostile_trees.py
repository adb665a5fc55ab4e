"""Whoever owns a part of a volume's tree cannot keep its rounds from ending."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from cue import on_cue
from machine import Pair, Place, assert_told, command, done, need, run, sh, status, wait_until
from oracle import assert_same, freeze
from worlds import fill, punch, reflink, truncate, write

LEASES = Path(__file__).with_name("leases.py")
BREAK_TIME = Path("/proc/sys/fs/lease-break-time")
IN_PLACE = ("xfs", "ext4")


@contextmanager
def leased(files: Sequence[Path], seconds: int = 2) -> Iterator[None]:
    """Somebody has a lease on each, and gives none back: the kernel takes them after some seconds."""
    before = BREAK_TIME.read_text()
    BREAK_TIME.write_text(str(seconds))
    holder = subprocess.Popen([sys.executable, LEASES, *files], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.kill()
        holder.communicate()
        BREAK_TIME.write_text(before)


@contextmanager
def stopped_fuse(point: Path, real: Path) -> Iterator[None]:
    """A file system in user space that does not answer any more."""
    need("bindfs")
    daemon = subprocess.Popen(["bindfs", "-f", "-o", "nonempty", real, point], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.ismount(point))
        os.kill(daemon.pid, signal.SIGSTOP)
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
        sh("umount", "-l", point)
        daemon.kill()
        daemon.wait()


@pytest.mark.parametrize("kind", IN_PLACE)
def test_leases_on_many_files_of_a_primary_take_no_longer_than_one(place: Place, kind: str) -> None:
    pair = Pair.make(place, (kind, kind))
    files = [pair.source / f"file{n}" for n in range(60)]
    for file in files:
        fill(file, 0, 10_000, 1)
    began = time.monotonic()
    with leased(files):
        pair.sync()
    assert time.monotonic() - began < 15
    for file in files:
        fill(file, 0, 10_000, 2)
    with leased(files):
        pair.sync()
        done("verify", pair.source, pair.target)


@pytest.mark.parametrize("kind", IN_PLACE)
def test_leases_on_files_of_a_standby_do_not_keep_a_commit_from_ending(place: Place, kind: str) -> None:
    pair = Pair.make(place, (kind, kind))
    files = [pair.source / f"file{n}" for n in range(6)]
    for file in files:
        fill(file, 0, 100_000, 1)
    pair.sync()
    for file in files:
        fill(file, 40_000, 10_000, 2)
    began = time.monotonic()
    with leased([pair.target / file.name for file in files]):
        done("sync", pair.source, pair.target, "--scrub", "1s")
    assert time.monotonic() - began < 60
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_file_system_in_user_space_that_never_answers_is_not_asked(
    place: Place, kind: str, tmp_path: Path
) -> None:
    pair = Pair.make(place, (kind, kind))
    for name in ("mine", "other"):
        (pair.source / name).mkdir()
        fill(pair.source / name / "file", 0, 10_000, 1)
    pair.sync()
    (real := tmp_path / "real").mkdir()
    with stopped_fuse(pair.source / "mine", real), stopped_fuse(pair.target / "other", real):
        fill(pair.source / "file", 0, 10_000, 2)
        for verb in (
            ("sync", pair.source, pair.target),
            ("status", pair.target),
            ("verify", pair.source, pair.target),
            ("diff", f"{pair.source}@latest", pair.source),
        ):
            subprocess.run([*command(), *map(str, verb)], timeout=40, check=True, stdout=subprocess.DEVNULL)
    assert status(pair.target)["unfinished"] is None
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_what_lies_too_deep_to_be_followed_is_named_and_the_rest_goes_on(place: Place, kind: str) -> None:
    pair = Pair.make(place, (kind, kind))
    fill(pair.source / "file", 0, 10_000, 1)
    notes = pair_notes(pair)
    assert not notes
    os.close(nested(pair.source, 300, "n" * 240))
    notes = pair_notes(pair)
    assert "not replicated, because their paths have more than 65536 bytes" in notes
    fill(pair.source / "file", 0, 10_000, 2)
    pair_notes(pair)
    assert (pair.target / "file").read_bytes() == (pair.source / "file").read_bytes()
    done("verify", pair.source, pair.target)


def pair_notes(pair: Pair) -> str:
    return "\n".join(done("sync", pair.source, pair.target)["notes"])


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
@pytest.mark.parametrize(("depth", "name"), [(1200, "d"), (150, "n" * 240)], ids=["deep", "long"])
def test_trees_deeper_than_paths_can_be_told_are_like_any_other(
    place: Place, kind: str, depth: int, name: str
) -> None:
    pair = Pair.make(place, (kind, kind))
    bottom = nested(pair.source, depth, name)
    (Path("/proc/self/fd") / str(bottom) / "file").write_text("one")
    done("sync", pair.source, pair.target)
    (Path("/proc/self/fd") / str(bottom) / "file").write_text("two")
    os.mkdir("another", dir_fd=bottom)
    done("sync", pair.source, pair.target)
    done("verify", pair.source, pair.target)
    done("restore", f"{pair.source}@latest", "--to", place(kind) / "r")
    os.rename(pair.source / name, pair.source / "moved")
    done("sync", pair.source, pair.target)
    sh("rm", "-r", pair.source / "moved")
    os.close(bottom)
    done("sync", pair.source, pair.target)
    done("verify", pair.source, pair.target)
    assert [entry for entry in os.listdir(pair.target) if entry != ".snapsync"] == []


def nested(top: Path, depth: int, name: str) -> int:
    """Makes so many directories in each other; the innermost, open."""
    at = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    return at


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_program_that_runs_on_a_standby_is_named_and_keeps_only_changes_of_itself(
    place: Place, kind: str
) -> None:
    pair = Pair.make(place, (kind, kind))
    programs = [pair.source / name for name in ("changed", "replaced", "removed", "dressed")]
    for program in programs:
        shutil.copy("/bin/sleep", program)
    pair.sync()
    running = [subprocess.Popen([pair.target / program.name, "60"]) for program in programs]
    try:
        fill(pair.source / "new", 0, 1_000, 1)
        shutil.copy("/bin/true", pair.source / "new-one")
        (pair.source / "new-one").rename(pair.source / "replaced")
        (pair.source / "removed").unlink()
        (pair.source / "dressed").chmod(0o700)
        pair.sync()
        fill(pair.source / "changed", 20_000, 1_000, 1)
        before = freeze(pair.target)
        ran = run("sync", pair.source, pair.target, "-q")
        assert_told(ran, "changed", "somebody runs it", "fuser", codes=(3,))
        assert freeze(pair.target) == before
    finally:
        for process in running:
            process.kill()
            process.wait()
    pair.sync()


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_files_of_eight_exbibytes_are_like_any_other(place: Place, kind: str) -> None:
    pair = Pair.make(place, (kind, kind))
    files = [pair.source / f"file{n}" for n in range(3)]
    for file in files:
        file.touch()
        truncate(file, (1 << 63) - 1)
        write(file, 5, b"begin")
        write(file, (1 << 63) - 11, b"end")
    done("sync", pair.source, pair.target)
    write(files[0], 1 << 62, b"middle")
    files[1].unlink()
    done("sync", pair.source, pair.target)
    done("verify", pair.source, pair.target)
    done("restore", f"{pair.source}@latest", "--to", place(kind) / "r")
    truncate(files[0], 100)
    done("sync", pair.source, pair.target)
    done("verify", pair.source, pair.target)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_copy_of_a_file_in_thousands_of_pieces_is_found_without_asking_for_each(
    place: Place, kind: str
) -> None:
    pair = Pair.make(place, (kind, kind))
    file = pair.source / "file"
    fill(file, 0, 3000 * 8192, 1)
    os.sync()
    for piece in range(3000):
        punch(file, piece * 8192 + 4096, 4096)
    pair.sync()
    reflink(file, pair.source / "copy")
    began = time.monotonic()
    report = done("sync", pair.source, pair.target)
    assert time.monotonic() - began < 20
    assert report["data_bytes"] == 0
    done("verify", pair.source, pair.target)


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_file_with_thousands_of_names_is_like_any_other(place: Place, kind: str) -> None:
    pair, names = Pair.make(place, (kind, kind)), 3_000
    folder = pair.source / "folder"
    folder.mkdir()
    fill(folder / "0", 0, 1_000, 1)
    for number in range(1, names):
        os.link(folder / "0", folder / str(number))
    done("sync", pair.source, pair.target)
    (folder / "1").rename(pair.source / "moved")
    (folder / "2").unlink()
    fill(folder / "0", 0, 1_000, 2)
    done("sync", pair.source, pair.target)
    assert (pair.target / "moved").stat().st_nlink == names - 1
    done("verify", pair.source, pair.target)


def test_what_appeared_in_the_way_of_a_first_round_outlives_its_store(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    fill(pair.source / "file", 0, 1_000, 1)
    pair.target.mkdir(exist_ok=True)
    done_once: list[int] = []

    def act(number: int, call: str) -> None:
        if call.startswith("renameat") and not done_once:
            done_once.append(number)
            (pair.target / "file").write_text("somebody's own")

    fault = {"SNAPSYNC_FAULT": "commit.attributes:1=fail"}
    ran = on_cue(act, "sync", pair.source, pair.target, env=fault).ran
    assert done_once
    assert ran.code != 0
    kept = [path for path in pair.target.rglob("file") if path.read_text() == "somebody's own"]
    assert len(kept) == 1
    if kept[0] != pair.target / "file":
        pair.sync()
        assert kept[0].read_text() == "somebody's own"
