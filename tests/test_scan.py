"""Snapshots on XFS and ext4 without a walk: only inodes that are not as the last table says are looked at.

The table must say what is there, whatever was changed; where that cannot be told so, there must be a walk.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import worlds
from machine import GIB, MAKE, FileSystems, Pair, Place, done, need, run, sh, snapshots, status, stopped_at
from oracle import assert_same
from test_pool_table import assert_table_is_the_tree
from worlds import World, bulk, exchange, fill

# All inodes are asked for, or their tables are opened.
SCAN = re.compile(r'0x8040587f|open\("/dev/loop.*\) += [0-9]')
# Change times that are older than this are settled.
TICK = 0.12


@pytest.fixture(params=["xfs", "ext4"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def volume(place: Place, kind: str) -> Path:
    return place(kind)


def snapshot(volume: Path, *options: object) -> list[str]:
    """Takes one when all that was done is settled. Its table is what an independent walk finds; its notes."""
    time.sleep(TICK)
    notes: list[str] = done("snapshot", volume, *options)["notes"]
    assert_table_is_the_tree(volume)
    return notes


def calls(volume: Path, trace: Path) -> str:
    """Those for inodes and directories of taking a snapshot, which is right."""
    need("strace")
    time.sleep(TICK)
    which = "trace=ioctl,getdents64,statx,newfstatat,open"
    ran = run("snapshot", volume, wrap=("strace", "-f", "-qq", "-X", "raw", "-e", which, "-o", str(trace)))
    assert ran.code == 0, ran
    assert "walked" not in ran.err
    assert_table_is_the_tree(volume)
    return trace.read_text(errors="surrogateescape")


def is_scanned(volume: Path, trace: Path) -> bool:
    return bool(SCAN.search(calls(volume, trace)))


def counted(text: str, call: str) -> int:
    return len(re.findall(rf"^\d+ +{call}\(", text, re.MULTILINE))


# --- the same as a walk -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(int(os.environ.get("SNAPSYNC_SCAN_SEEDS", 6))))
def test_after_random_changes_the_table_is_what_a_walk_finds(place: Place, seed: int) -> None:
    pair = Pair.make(place, (("xfs", "ext4"), ("ext4", "xfs"))[seed % 2])
    world = World(pair.source, 9_000 + seed)
    world.grow(120)
    try:
        snapshot(pair.source)
        for operations in (1, 30, 80, 0, 3, 150, 10):
            world.churn(operations)
            assert not snapshot(pair.source)
        # What the tables say of each other is what becomes of a standby, too.
        for operations in (40, 5, 90):
            world.churn(operations)
            assert not snapshot(pair.source)
            pair.sync()
    except Exception as error:
        error.add_note("\n".join(world.log))
        raise


def two_trees(root: Path) -> None:
    for name in ("one", "two"):
        for below in ("", "/a", "/a/b", "/c"):
            (root / (name + below)).mkdir()
            for number in range(3):
                fill(root / (name + below) / f"file-{number}", 0, 3_000, number)


def moved_into_each_other(root: Path) -> None:
    (root / "one/a").rename(root / "two/c/new")
    (root / "two/a").rename(root / "two/c/new/b/deep")
    fill(root / "two/c/new/b/deep/b/file-1", 3, 9, 7)
    (root / "two").rename(root / "one/c/two")


def upside_down(root: Path) -> None:
    (root / "one/a/b").rename(root / "b")
    (root / "one").rename(root / "b/one")
    fill(root / "b/one/a/more", 0, 10, 1)


def exchanged(root: Path) -> None:
    exchange(root / "one/a", root / "two/c")
    exchange(root / "one", root / "two")
    fill(root / "one/c/more", 0, 10, 1)


def made_again_under_the_name(root: Path) -> None:
    """Numbers that were just freed are given to what is made next."""
    shutil.rmtree(root / "one")
    (root / "one/a").mkdir(parents=True)
    fill(root / "one/a/file-1", 0, 100, 9)
    (root / "one/b").symlink_to("a")


def another_kind_under_the_number(root: Path) -> None:
    shutil.rmtree(root / "one/a")
    for path in sorted((root / "two").glob("file-*")):
        path.unlink()
    for number in range(20):
        fill(root / f"two/new-{number}", 0, 100, number)
        (root / f"two/folder-{number}").mkdir()


def emptied_but_for_what_moved_away(root: Path) -> None:
    (root / "one/a/b").rename(root / "two/b")
    (root / "one/a/file-0").rename(root / "two/a/file-9")
    os.link(root / "one/c/file-1", root / "two/linked")
    shutil.rmtree(root / "one")


def replaced_by_what_was_beside_it(root: Path) -> None:
    (root / "one/file-1").rename(root / "one/file-0")
    (root / "two/a/file-2").rename(root / "two/file-2")
    shutil.rmtree(root / "one/a")
    (root / "two/a").rename(root / "one/a")


def other_names(root: Path) -> None:
    for number in range(30):
        os.link(root / "one/file-0", root / f"two/a/name-{number}")
    os.link(root / "two/file-1", root / "one/a/b/name")
    (root / "two/file-1").unlink()


def attributes_alone(root: Path) -> None:
    (root / "one/a").chmod(0o700)
    os.chown(root / "two/file-1", 5, 6)
    worlds.set_xattr(root / "two/c", b"user.x", b"y")
    os.utime(root / "one/file-2", ns=(1, 1))
    (root / "one/file-1").chmod(0o4755)


CHANGES = [
    moved_into_each_other,
    upside_down,
    exchanged,
    made_again_under_the_name,
    another_kind_under_the_number,
    emptied_but_for_what_moved_away,
    replaced_by_what_was_beside_it,
    other_names,
    attributes_alone,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_names_is_found_wherever_it_leads(
    volume: Path, place: Place, change: Callable[[Path], None]
) -> None:
    two_trees(volume)
    target = place.absent("ext4")
    snapshot(volume)
    done("sync", volume, target)
    change(volume)
    assert not snapshot(volume)
    # And again, with the changes in the patch.
    for path in sorted(volume.glob("*/**/file-1")):
        path.unlink()
    assert not snapshot(volume)
    done("sync", volume, target)
    assert_same(volume, target)


def test_a_name_outside_the_volume_does_not_stand_for_one_inside(
    place: Place, kind: str, volume: Path
) -> None:
    outside = place(kind)
    two_trees(volume)
    os.link(volume / "one/file-0", outside / "name")
    snapshot(volume)
    fill(outside / "name", 0, 10, 5)
    snapshot(volume)
    (volume / "two/a").rename(outside / "moved")
    snapshot(volume)
    (outside / "moved").rename(volume / "back")
    snapshot(volume)


# --- what it costs ----------------------------------------------------------------------------


def test_only_directories_that_differ_are_read(volume: Path, tmp_path: Path) -> None:
    done("init", volume, "--history", "full")
    bulk(volume, 1_000, per_directory=10)
    snapshot(volume)
    # Whatever was too young to be settled is looked at once more.
    snapshot(volume)
    fill(volume / "bulk-0000/new", 0, 10, 1)
    fill(volume / "bulk-0001/000011", 0, 10, 1)
    text = calls(volume, tmp_path / "trace")
    assert SCAN.search(text)
    # Of 100 directories and 1,100 inodes; what the interpreter does by itself is among them.
    assert counted(text, "getdents64") < 100
    assert counted(text, "statx") < 500


def test_what_is_under_a_mount_is_scanned_as_the_rest(volume: Path, tmp_path: Path) -> None:
    two_trees(volume)
    snapshot(volume)
    assert is_scanned(volume, tmp_path / "before")
    with (volume / "one/a/file-0").open("ab") as hidden:
        sh("mount", "-t", "tmpfs", "none", volume / "one/a")
        try:
            time.sleep(TICK)
            hidden.write(b"more, while it is hidden")
            hidden.flush()
            notes = "".join(done("snapshot", volume)["notes"])
        finally:
            sh("umount", volume / "one/a")
    assert "one/a" in notes
    assert "walked" not in notes
    assert_table_is_the_tree(volume)
    assert is_scanned(volume, tmp_path / "after")


# --- where there must be a walk ---------------------------------------------------------------


def test_a_table_of_a_part_is_no_table_of_all(volume: Path, place: Place, tmp_path: Path) -> None:
    two_trees(volume)
    target = place.absent("ext4")
    snapshot(volume)
    time.sleep(TICK)
    done("sync", volume, target, "--exclude", "/one/a")
    assert not (target / "one/a").exists()
    time.sleep(TICK)
    done("sync", volume, target, "--everything")
    assert_table_is_the_tree(volume)
    assert is_scanned(volume, tmp_path / "trace")


def test_what_was_mounted_anew_is_walked_once(file_systems: FileSystems, kind: str, tmp_path: Path) -> None:
    """While it was not mounted, a repair may have changed it without a new time."""
    image, point = tmp_path / "image", tmp_path / "point"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(GIB)
    need(MAKE[kind][0])
    sh(*MAKE[kind], image)
    for turn in range(3):
        sh("mount", "-o", "loop", image, point)
        try:
            if not turn:
                with suppress(FileNotFoundError):
                    (point / "lost+found").rmdir()
                two_trees(point)
                snapshot(point)
            else:
                assert not is_scanned(point, tmp_path / f"first-{turn}")
            assert is_scanned(point, tmp_path / f"second-{turn}")
        finally:
            sh("umount", point)


def test_what_a_standby_was_given_by_others_is_found_when_it_is_promoted(
    place: Place, kind: str, tmp_path: Path
) -> None:
    """Its tables are of manifests: of a directory that a round touched they tell no more than its time."""
    pair = Pair.make(place, ("xfs", kind))
    two_trees(pair.source)
    pair.sync()
    before = (pair.target / "one").stat().st_mtime_ns
    fill(pair.target / "one/stray", 0, 10, 1)
    worlds.touch(pair.target / "one", before)
    fill(pair.source / "one/file-9", 0, 10, 1)
    time.sleep(TICK)
    done("sync", pair.source, pair.target)
    assert (pair.target / "one/stray").exists()
    assert run("promote", pair.target).code
    done("promote", pair.target, "--accept-drift")
    assert status(pair.target)["volume"]["role"] == "primary"
    snapshot(pair.target)
    assert is_scanned(pair.target, tmp_path / "trace")
    assert len(snapshots(pair.target)) >= 4


@pytest.mark.parametrize("kind", ["xfs"])
def test_who_may_not_ask_walks(volume: Path) -> None:
    walks_behind(volume, "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


@pytest.mark.parametrize("kind", ["ext4"])
def test_another_device_under_the_name_is_not_read(volume: Path) -> None:
    mounted = sh("findmnt", "--noheadings", "--output", "SOURCE", "--target", volume).split("[")[0].strip()
    hide = f'mount --bind /dev/null {mounted} && exec "$@"'
    walks_behind(volume, "unshare", "--mount", "sh", "-c", hide, "-")


def walks_behind(volume: Path, *wrap: str) -> None:
    need(wrap[0])
    two_trees(volume)
    snapshot(volume)
    fill(volume / "one/new", 0, 10, 1)
    time.sleep(TICK)
    ran = run("snapshot", volume, wrap=wrap)
    assert ran.code == 0, ran
    assert "walked" not in ran.err
    assert_table_is_the_tree(volume)


# --- while it is used -------------------------------------------------------------------------


def unrest(root: Path, seed: int, stop: threading.Event) -> None:
    """Moves, exchanges, removes and makes names, and does not mind what is not there any more."""
    chance = random.Random(seed)

    def place() -> str:
        depth = chance.randrange(1, 4)
        return os.path.join(root, *(f"d{chance.randrange(4)}" for _ in range(depth)))

    while not stop.is_set():
        one, two, what = place(), place(), chance.randrange(9)
        file = os.path.join(one, f"f{chance.randrange(6)}")
        with suppress(OSError):
            if what < 2:
                os.makedirs(one, exist_ok=True)
            elif what < 4:
                Path(file).write_bytes(chance.randbytes(chance.randrange(9_000)))
            elif what == 4:
                os.rename(one, two)
            elif what == 5:
                exchange(Path(one), Path(two))
            elif what == 6:
                os.rename(file, os.path.join(two, f"f{chance.randrange(6)}"))
            elif what == 7:
                os.link(file, os.path.join(two, f"f{chance.randrange(6)}"))
            elif chance.randrange(5):
                os.unlink(file)
            else:
                shutil.rmtree(one)
        time.sleep(chance.random() * 0.003)


@pytest.mark.parametrize(("kind", "is_first"), [("xfs", True), ("xfs", False), ("ext4", False)])
def test_files_whose_way_was_moved_before_they_were_read_are_found_later(
    volume: Path, kind: str, tmp_path: Path, is_first: bool
) -> None:
    """They are not removed, and neither they nor their directory has another time for it."""
    done("init", volume, "--history", "full")
    (volume / "above/below").mkdir(parents=True)
    files = [volume / f"above/below/file-{number}" for number in range(1_500 if kind == "xfs" else 600)]
    for number, file in enumerate(files):
        fill(file, 0, 3_000, number)
    if not is_first:
        snapshot(volume)
        for file in files:
            fill(file, 7, 9, 1)
    time.sleep(TICK)
    with stopped_at("snapshot.object", "snapshot", volume, "--jobs", 1, "--quiet") as stopped:
        (volume / "above").rename(volume / "elsewhere")
        os.kill(stopped.pid, signal.SIGCONT)
        assert stopped.wait(60) == 0
    snapshot(volume)
    snapshot(volume)


@pytest.mark.parametrize("seed", range(int(os.environ.get("SNAPSYNC_UNREST_SEEDS", 1))))
def test_what_moved_while_snapshots_were_taken_is_in_the_next(volume: Path, seed: int) -> None:
    done("init", volume, "--history", "full")
    for turn in range(6):
        stop = threading.Event()
        workers = [
            threading.Thread(target=unrest, args=(volume, 100 * seed + 10 * turn + number, stop))
            for number in range(2)
        ]
        for worker in workers:
            worker.start()
        try:
            for _ in range(5):
                done("snapshot", volume)
        finally:
            stop.set()
            for worker in workers:
                worker.join()
        snapshot(volume)
        snapshot(volume)
