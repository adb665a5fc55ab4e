"""A primary with a light history keeps no copy of anything: old bytes are on its standbys. Others write to
its tree while a round reads it. Each file on the standby is as it was at one moment, or is named.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pool
import pytest
from machine import (
    FileSystems,
    Pair,
    Place,
    assert_told,
    done,
    need,
    passed,
    run,
    sh,
    snapshots,
    start,
    stopped_at,
    wait_until,
)
from oracle import assert_same, freeze, same
from test_ditto import History, inodes, read_back
from worlds import World, append, bulk, fill, noise, rewrite_quietly, write

SEEDS = int(os.environ.get("SNAPSYNC_LIGHT_SEEDS", 1))
TURNS = 12
IN_PLACE = ("ext4", "xfs")


def light(place: Place, kinds: tuple[str, str]) -> Pair:
    pair = Pair.make(place, kinds)
    report = done("init", pair.source, "--history", "light")
    assert report["volume"]["history"] == "light"
    return pair


def free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bfree * found.f_frsize


@pytest.mark.parametrize("kind", IN_PLACE)
def test_its_snapshots_take_neither_inodes_nor_bytes_of_what_they_hold(place: Place, kind: str) -> None:
    pair = light(place, (kind, "btrfs"))
    bulk(pair.source, 400)
    fill(pair.source / "large", 0, 16 << 20, 1)
    os.sync()
    before, room = inodes(pair.source), free(pair.source)
    pair.sync()
    for number in range(3):
        fill(pair.source / "large", 1 << 20, 4096, 10 + number)
        fill(pair.source / "small", 0, 5000, number)
        pair.sync()
    assert pool.objects_there(pair.source) == set()
    assert inodes(pair.source) - before < 50
    assert room - free(pair.source) < 2 << 20


class Life(History):
    """Of a light primary: it gives what a snapshot held or nothing, and its standby all of it."""

    def round(self) -> None:
        super().round()
        assert pool.objects_there(self.pair.source) == set()


def points_of(place: Place, kinds: tuple[str, str], trace: Path) -> list[str]:
    pair = light(place, kinds)
    World(pair.source, 1).grow(40)
    pair.sync()
    World(pair.source, 2).churn(30)
    done("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT_TRACE": trace})
    return sorted(set(passed(trace)))


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize(
    "kinds", [("ext4", "ext4"), ("xfs", "ext4"), ("ext4", "xfs"), ("directory", "directory")], ids="-".join
)
def test_every_snapshot_is_whole_on_the_standby_and_never_wrong_on_the_primary(
    place: Place, tmp_path: Path, kinds: tuple[str, str], seed: int
) -> None:
    points = points_of(place, kinds, tmp_path / "trace")
    life = Life(place, kinds, seed, light(place, kinds), points)
    try:
        World(life.pair.source, seed).grow(60)
        life.round()
        for _ in range(TURNS):
            life.chance.choice([life.round, life.round, life.round, life.delete])()
            assert life.prove(life.pair.target, kinds[1]) <= {"whole"}
            assert life.prove(life.pair.source, kinds[0]) <= {"whole", "lost"}
    except Exception as error:
        error.add_note("\n".join(life.log))
        raise


def changes(source: Path, seed: int) -> Callable[[], None]:
    def change() -> None:
        fill(source / "written", 0, 50_000, seed)
        rewrite_quietly(source / "quiet", 100, 1000, seed)
        append(source / "appended", 3000, seed)
        os.truncate(source / "cut", 10)
        os.rename(source / "dir", source / "moved")
        (source / "gone").unlink()
        World(source, seed).churn(25)

    return change


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("first", [True, False], ids=["first", "next"])
@pytest.mark.parametrize("at", range(5))
def test_what_others_change_during_a_round_is_on_the_standby_as_of_one_moment(
    place: Place, tmp_path: Path, kind: str, first: bool, at: int
) -> None:
    pair = light(place, (kind, "ext4"))
    World(pair.source, at).grow(40)
    (pair.source / "dir").mkdir()
    for name in ("written", "quiet", "appended", "cut", "gone", "dir/within"):
        fill(pair.source / name, 0, 300_000, at)
    if not first:
        pair.sync()
        for name in ("written", "quiet", "appended", "cut", "dir/within"):
            fill(pair.source / name, 100_000, 70_000, at + 1)
    trial = tmp_path / "trial"
    before = freeze(pair.source)
    words = ("sync", pair.source, pair.target)
    point = points_of_sync(place, (kind, "ext4"), trial)[at]
    with stopped_at(point, *words) as process:
        changes(pair.source, at)()
        after = freeze(pair.source)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate()
    assert process.returncode == 0, (out, err)
    if not same(before, pair.target):
        assert_same(after, pair.target)
    assert_same(after, pair.source)
    pair.sync()


def points_of_sync(place: Place, kinds: tuple[str, str], trace: Path) -> list[str]:
    """Five moments of a round, in order, of those before its commit."""
    pair = light(place, kinds)
    fill(pair.source / "file", 0, 300_000, 1)
    done("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT_TRACE": trace})
    found = list(dict.fromkeys(passed(trace)))
    found = found[found.index("snapshot.begin") : found.index("commit.marked")]
    return [found[round(part * (len(found) - 1) / 4)] for part in range(5)]


@contextmanager
def writing(write: Callable[[int], None]) -> Iterator[None]:
    stop = threading.Event()
    failed: list[BaseException] = []

    def go_on() -> None:
        number = 0
        try:
            while not stop.is_set():
                write(number)
                number += 1
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


@pytest.mark.parametrize("kind", IN_PLACE)
def test_files_that_never_hold_still_are_sent_as_they_were_read_and_named(place: Place, kind: str) -> None:
    pair = light(place, (kind, "ext4"))
    bulk(pair.source, 100)
    fill(pair.source / "still", 0, 1 << 20, 1)
    fill(pair.source / "base", 0, 8 << 20, 1)

    def churn(number: int) -> None:
        write(pair.source / "base", (number * 4096 * 7) % (8 << 20), noise(100, number))
        append(pair.source / "log", 40, number)

    with writing(churn):
        reports = [done("sync", pair.source, pair.target) for _ in range(3)]
    notes = [" ".join(report["notes"]) for report in reports]
    assert any("base" in note and "as it was read" in note for note in notes), notes
    assert not any("still" in note for note in notes)
    assert (pair.target / "still").read_bytes() == (pair.source / "still").read_bytes()
    assert (pair.source / "log").read_bytes().startswith((pair.target / "log").read_bytes())
    # The next round brings what they are by then.
    pair.sync()


@pytest.mark.parametrize("kind", IN_PLACE)
def test_a_round_that_was_killed_goes_on_with_a_tree_that_has_changed_since(
    place: Place, tmp_path: Path, kind: str
) -> None:
    pair = light(place, (kind, "ext4"))
    bulk(pair.source, 60)
    fill(pair.source / "large", 0, 30 << 20, 1)
    trace = tmp_path / "trace"
    for turn in range(3):
        process = start(
            "sync", pair.source, pair.target, "--bwlimit", "8M", env={"SNAPSYNC_FAULT_TRACE": trace}
        )
        try:
            process.wait(timeout=1.5 + turn / 2)
        except Exception:
            process.kill()
        process.communicate()
        World(pair.source, turn).churn(10)
        fill(pair.source / f"new-{turn}", 0, 9000, turn)
        if turn == 1:
            fill(pair.source / "large", 5 << 20, 4096, 9)
    pair.sync()


@pytest.mark.parametrize("point", ["retake.made", "again.made", "again.replaced"])
def test_a_kill_while_its_snapshot_is_taken_again_leaves_one_that_goes_on(
    place: Place, tmp_path: Path, point: str
) -> None:
    pair, trace = light(place, ("ext4", "xfs")), tmp_path / "trace"
    bulk(pair.source, 60)
    fill(pair.source / "large", 0, 8 << 20, 1)
    env = {"SNAPSYNC_FAULT": f"{point}:1", "SNAPSYNC_FAULT_TRACE": trace}
    process = start("sync", pair.source, pair.target, "--bwlimit", "4M", env=env)
    wait_until(lambda: "stage.frame" in passed(trace))
    fill(pair.source / "large", 7 << 20, 4096, 9)
    World(pair.source, 1).churn(10)
    out, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, (out, err)
    fill(pair.source / "large", 9000, 4096, 10)
    pair.sync()


@pytest.mark.parametrize("kind", IN_PLACE)
def test_bytes_that_came_without_a_time_before_a_crash_are_sent_and_never_an_old_snapshots(
    place: Place, tmp_path: Path, kind: str
) -> None:
    """As `fdatasync` and a power cut leave them: here they are changed in the image of the file system."""
    image, point, target = place.absent("tmpfs"), tmp_path / "point", place.absent("ext4")
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    sh(f"mkfs.{kind}", "-q", image)
    sh("mount", "-o", "loop", image, point)
    try:
        source, old, new = point / "volume", noise(4096, 1), noise(4096, 2)
        source.mkdir()
        (source / "file").write_bytes(old)
        fill(source / "other", 0, 300_000, 3)
        time.sleep(0.3)
        done("init", source, "--history", "light")
        done("sync", source, target, "--name", "first")
        sh("umount", point)
        with image.open("r+b") as file, mmap.mmap(file.fileno(), 0) as whole:
            at = whole.find(old)
            whole[at : at + 4096] = new
        sh("mount", "-o", "loop", image, point)
        assert (source / "file").read_bytes() == new
        done("sync", source, target, "--scrub", "off")
        assert_same(source, target)
        target.rename(target.with_name("away"))
        ran = run("restore", f"{source}@first", "--to", place.absent("ext4"), "--quiet")
        assert_told(ran, "keeps no history", "file", codes=(4,))
    finally:
        sh("umount", point)


def test_a_file_that_is_written_under_its_old_time_is_of_one_moment_or_named(place: Place) -> None:
    pair = light(place, ("ext4", "xfs"))
    size, page = 16 << 20, 4096
    fill(pair.source / "base", 0, size, 1)
    handle = os.open(pair.source / "base", os.O_RDWR)
    mtime = os.fstat(handle).st_mtime_ns

    def churn(number: int) -> None:
        for offset in (0, size - page):
            os.pwrite(handle, number.to_bytes(8, "big") * (page // 8), offset)
        os.utime(handle, ns=(mtime, mtime))
        time.sleep(0.005)

    try:
        with writing(churn):
            time.sleep(0.1)
            report = done("sync", pair.source, pair.target, "--bwlimit", "8M")
    finally:
        os.close(handle)
    whole = (pair.target / "base").read_bytes()
    first, last = (int.from_bytes(part, "big") for part in (whole[:8], whole[-8:]))
    assert first - last in (0, 1) or any("base" in note for note in report["notes"]), (first, last)
    pair.sync()


def test_a_snapshot_that_its_tree_no_longer_holds_is_not_sent(place: Place) -> None:
    pair = light(place, ("ext4", "ext4"))
    fill(pair.source / "file", 0, 5000, 1)
    done("snapshot", pair.source, "--name", "old")
    fill(pair.source / "file", 0, 5000, 2)
    ran = run("sync", pair.source, pair.target, "--snap", "old", "--quiet")
    assert_told(ran, "keeps no history", "file", "sync without --snap", codes=(3,))
    pair.sync()
    ran = run("restore", f"{pair.source}@old", "--to", place.absent("ext4"), "--quiet")
    assert_told(ran, "keeps no history", "file", "standby", codes=(4,))


@pytest.mark.parametrize("kinds", [("ext4", "ext4"), ("xfs", "ext4")], ids="-".join)
def test_roles_change_between_light_volumes(place: Place, kinds: tuple[str, str]) -> None:
    pair = light(place, kinds)
    World(pair.source, 1).grow(50)
    pair.sync()
    World(pair.source, 2).churn(20)
    pair.sync()
    # What the primary has beyond that is kept aside when it comes back.
    fill(pair.source / "beyond", 0, 9000, 1)
    World(pair.source, 3).churn(10)
    left = freeze(pair.source)
    done("promote", pair.target)
    World(pair.target, 4).churn(20)
    done("snapshot", pair.target)
    followed = done("rejoin", pair.source, pair.target)
    (aside,) = [snap for snap in snapshots(pair.source) if snap.get("aside")]
    assert aside["id"] in {snap["id"] for snap in followed["left"]}
    assert read_back(pair.source, aside["id"], left, place.absent(kinds[0])) == "whole"
    done("sync", pair.target, pair.source)
    assert_same(pair.target, pair.source)
    done("switch", pair.target, pair.source)
    World(pair.source, 5).churn(20)
    pair.sync()


@pytest.mark.parametrize("kind", IN_PLACE)
def test_its_tree_goes_back_and_what_that_replaces_is_kept(place: Place, kind: str) -> None:
    pair = light(place, (kind, "ext4"))
    for name in ("a", "b", "c"):
        fill(pair.source / name, 0, 70_000, 1)
    pair.sync()
    first = freeze(pair.source)
    os.rename(pair.source / "a", pair.source / "renamed")
    (pair.source / "b").chmod(0o600)
    fill(pair.source / "new", 0, 20_000, 1)
    now = freeze(pair.source)
    before = snapshots(pair.source)[0]["id"]
    ran = run("restore", f"{pair.source}@{before}")
    if ran.code == 0:
        assert_same(first, pair.source)
        (kept,) = [snap for snap in snapshots(pair.source) if snap["name"].startswith("before-restore")]
        assert read_back(pair.source, kept["id"], now, place.absent(kind)) == "whole"
    else:
        assert ran.code == 4, ran
        assert_same(now, pair.source)


def test_a_history_changes_both_ways(place: Place) -> None:
    pair = Pair.make(place, ("ext4", "ext4"))
    World(pair.source, 1).grow(40)
    done("init", pair.source, "--history", "full")
    pair.sync()
    first, held = snapshots(pair.source)[0]["id"], freeze(pair.source)
    done("init", pair.source, "--history", "light")
    World(pair.source, 2).churn(30)
    pair.sync()
    second, picture = snapshots(pair.source)[-1]["id"], freeze(pair.source)
    # What was kept before stays.
    assert read_back(pair.source, first, held, place.absent("ext4")) == "whole"
    done("sync", pair.source, pair.target, "--history", "full")
    World(pair.source, 3).churn(30)
    assert read_back(pair.source, snapshots(pair.source)[-1]["id"], picture, place.absent("ext4")) == "whole"
    assert read_back(pair.source, second, picture, place.absent("ext4")) == "whole"


@pytest.mark.parametrize("kind", ["btrfs", "tmpfs"])
def test_a_history_cannot_be_light_where_that_means_nothing_or_times_prove_nothing(
    place: Place, kind: str
) -> None:
    source = place(kind)
    fill(source / "file", 0, 5000, 1)
    assert_told(run("init", source, "--history", "light"), "--history", codes=(2,))
    ran = run("sync", source, place.absent("ext4"), "--history", "light", "--quiet")
    assert_told(ran, "--history", codes=(2,))
    assert not (source / ".snapsync").exists()
    assert run("init", source, "--history", "thin").code == 2


def test_it_needs_hardly_any_room_and_hardly_any_inodes(file_systems: FileSystems, place: Place) -> None:
    small = file_systems.mount("ext4", 64 << 20, "-N", "1200", "-m", "0")
    try:
        source, target = small / "volume", place.absent("ext4")
        source.mkdir()
        bulk(source, 900)
        fill(source / "large", 0, free(small) - (3 << 20), 1)
        assert inodes(small) > 900
        for number in range(inodes_left(small) - 40):
            (source / f"empty-{number}").touch()
        done("init", source, "--history", "light")
        pair = Pair(source, target)
        pair.sync()
        for number in range(3):
            fill(source / "large", number << 20, 4096, number)
            pair.sync()
    finally:
        file_systems.unmount(small)


def inodes_left(path: Path) -> int:
    return os.statvfs(path).f_ffree


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_writers_during_random_rounds(place: Place, seed: int) -> None:
    """After each quiet round both trees are equal, whatever was written during the ones before."""
    pair = light(place, ("ext4", "xfs"))
    chance = random.Random(seed)
    World(pair.source, seed).grow(60)
    worlds = iter(range(10_000 * (seed + 1), 10_000 * (seed + 2)))

    def churn(_: int) -> None:
        World(pair.source, next(worlds)).churn(chance.randrange(1, 4))

    for _ in range(4):
        with writing(churn):
            ran = run("sync", pair.source, pair.target)
        assert ran.code == 0, ran
        now = done("sync", pair.source, pair.target)
        assert_same(pair.source, pair.target)
        assert not any("each time" in note for note in now["notes"])


def test_the_newest_table_is_read_no_more_often_where_more_has_changed(place: Place, tmp_path: Path) -> None:
    need("strace")
    pair = Pair.make(place, ("ext4", "xfs"))
    for number in range(200):
        fill(pair.source / f"file-{number}", 0, 3_000, number)
    pair.sync()

    def opened(count: int) -> int:
        """How often a file of a table is opened in a round of so many changes."""
        for number in range(count):
            fill(pair.source / f"file-{number}", 0, 3_000, count + number)
        trace, which = tmp_path / f"calls-{count}", "trace=openat2"
        words = ("strace", "-f", "-qq", "-e", which, "-o", str(trace))
        assert run("sync", pair.source, pair.target, wrap=words).code == 0
        lines = trace.read_text(errors="surrogateescape").splitlines()
        return sum("O_PATH" not in line for line in lines if re.search(r"(table|patch)\.arrow\"", line))

    opened(10)
    assert opened(200) - opened(11) < 20


@pytest.mark.parametrize("kind", IN_PLACE)
def test_a_diff_says_where_it_cannot_tell_and_one_of_the_standby_can(place: Place, kind: str) -> None:
    pair = light(place, (kind, "ext4"))
    for name in ("large", "small"):
        fill(pair.source / name, 0, 300_000 if name == "large" else 3_000, 1)
    pair.sync("--name", "first")
    for name in ("large", "small"):
        (pair.source / name).chmod(0o600)
    assert pair.sync("--name", "second")["data_bytes"] == 0
    report = done("diff", f"{pair.source}@first", f"{pair.source}@second")
    assert report["data_bytes"] == 303_000
    assert ["the old bytes of 2 files" in note for note in report["notes"]] == [True]
    exact = done("diff", f"{pair.target}@first", f"{pair.target}@second")
    assert (exact["data_bytes"], exact["notes"]) == (0, [])


def test_what_it_cannot_show_is_said_with_who_can(place: Place) -> None:
    pair, mounted = Pair.make(place, ("ext4", "xfs")), place.absent("ext4")
    for number in (1, 2, 3):
        fill(pair.source / "file", 0, 4_000, number)
        pair.sync()
    ran = run("versions", pair.source / "file", "--diff", "1", "2")
    assert_told(ran, "`snapsync versions STANDBY/file --diff`", codes=(4,))
    done("versions", pair.target / "file", "--diff", "1", "2")
    report = done("mount", pair.source, mounted)
    try:
        assert any("keeps no history of its own" in note for note in report["notes"])
    finally:
        sh("umount", "--lazy", mounted)
    inner = pair.source / "inner"
    inner.mkdir()
    done("snapshot", inner)
    assert_told(run("versions", inner / "was"), f"`snapsync log {pair.source} PATH`", codes=(2,))
    ran = run("sync", f"{pair.source}@latest", pair.target)
    assert_told(ran, "names a snapshot", "--snap latest", codes=(2,))
