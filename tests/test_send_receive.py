"""Deltas between places: chains of snapshots, whoever made them and wherever they go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import pytest
from delta import MIB
from keepsake import keep
from machine import (
    KINDS,
    FileSystems,
    Place,
    as_nobody,
    assert_told,
    command,
    done,
    environment,
    need,
    passed,
    run,
    sh,
    snapshots,
    start,
    status,
    wait_until,
)
from oracle import assert_same, freeze, same, touch_marks
from transfer import (
    deliver,
    delivered,
    freeze_subvolume,
    pipe,
    piped,
    send,
    shown,
    stages,
    take,
)
from worlds import World, fill

CHAIN = 10


# --- snapshots that no volume knows -----------------------------------------------------------


@dataclass
class Chain:
    """Read-only snapshots of one subvolume, oldest first, each with changes since the one before."""

    subvolume: Path
    snapshots: list[Path]
    world: World


def chain(place: Place, length: int, seed: int = 7) -> Chain:
    subvolume, home = place("btrfs"), place("btrfs")
    world = World(subvolume, seed)
    world.grow(120)
    made = Chain(subvolume, [], world)
    for number in range(length):
        if number:
            world.churn(40)
        made.snapshots.append(freeze_subvolume(subvolume, home / f"snap-{number}"))
    return made


@pytest.fixture(scope="module")
def ten(file_systems: FileSystems) -> Iterator[Chain]:
    place = Place(file_systems)
    try:
        yield chain(place, CHAIN)
    finally:
        place.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_of_plain_snapshots_arrives_whole(ten: Chain, place: Place, kind: str) -> None:
    folder = place(kind)
    made = [Path(piped((ten.snapshots[0],), ("--as-snapshot", folder))["path"])]
    for base, snap in pairwise(ten.snapshots):
        report = piped((snap, "--base", base), ("--as-snapshot", folder))
        made.append(Path(report["path"]))
        assert report["standby"] is None
    assert made == [folder / snap.name for snap in ten.snapshots]
    # All of them still hold what they held: nothing that came later wrote to an earlier one.
    for snap, copy in zip(ten.snapshots, made, strict=True):
        assert_same(snap, copy)
    assert visible(folder) == sorted(snap.name for snap in ten.snapshots)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_received_snapshot_is_read_only_and_says_what_it_is(ten: Chain, place: Place) -> None:
    """As after `btrfs receive`: `btrfs send` finds it as a parent by these."""
    folder = place("btrfs")
    for base, snap in zip([None, *ten.snapshots], ten.snapshots[:3], strict=False):
        options = ("--base", base) if base else ()
        made = Path(delivered(send(snap, *options).content, "--as-snapshot", folder)["path"])
        one, two = shown(snap), shown(made)
        assert two["Received UUID"] == one["UUID"]
        assert two["Flags"] == "readonly"
        assert two["Send transid"] != "0"


def test_data_that_a_snapshot_shares_with_its_base_stays_shared(place: Place) -> None:
    source, folder = place("btrfs"), place("btrfs")
    (source / "large").write_bytes(os.urandom(64 * MIB))
    first = freeze_subvolume(source, place.absent("btrfs"))
    (source / "small").touch()
    second = freeze_subvolume(source, place.absent("btrfs"))
    delivered(send(first).content, "--as-snapshot", folder, "--name", "first")
    before = used(folder)
    report = delivered(send(second, "--base", first).content, "--as-snapshot", folder, "--name", "second")
    assert report["data_bytes"] == 0
    assert used(folder) - before < 16 * MIB
    assert_same(second, folder / "second")


def used(path: Path) -> int:
    sh("sync", "-f", path)
    free = os.statvfs(path)
    return (free.f_blocks - free.f_bfree) * free.f_bsize


def test_a_received_snapshot_is_sent_on(ten: Chain, place: Place) -> None:
    """A second hop knows the snapshot by the identity that the first had."""
    for kinds in (("btrfs", "btrfs"), ("xfs", "btrfs"), ("btrfs", "ext4"), ("ext4", "xfs")):
        here, there = place(kinds[0]), place(kinds[1])
        a, b, c = ten.snapshots[:3]
        for base, snap in ((None, a), (a, b), (b, c)):
            delivered(send(snap, *(("--base", base) if base else ())).content, "--as-snapshot", here)
        # The base comes from the source itself, the first increment over two hops, the next from the source.
        delivered(send(a).content, "--as-snapshot", there)
        delivered(send(here / b.name, "--base", here / a.name).content, "--as-snapshot", there)
        delivered(send(c, "--base", b).content, "--as-snapshot", there)
        for snap in (a, b, c):
            assert_same(snap, there / snap.name)
        if kinds[1] == "btrfs":
            for snap in (a, b, c):
                assert shown(there / snap.name)["Received UUID"] == shown(snap)["UUID"]


def test_what_was_received_and_renamed_is_still_a_base(ten: Chain, place: Place) -> None:
    for kind in KINDS:
        folder = place(kind)
        a, b = ten.snapshots[:2]
        delivered(send(a).content, "--as-snapshot", folder)
        (folder / a.name).rename(folder / "another name")
        made = delivered(send(b, "--base", a).content, "--as-snapshot", folder)
        assert made["base"]["id"] == send(a).delta.header["snapshot"]["id"]
        assert_same(b, folder / b.name)
        assert_same(a, folder / "another name")


def test_a_missing_base_is_refused(ten: Chain, place: Place, file_systems: FileSystems) -> None:
    a, b, c = ten.snapshots[:3]
    increment = send(c, "--base", b).content
    for kind in KINDS:
        # Not on the Btrfs that has the base itself: there it is found, wherever it is.
        folder = place(kind) if kind != "btrfs" else file_systems.mount("btrfs", 512 * MIB)
        assert_told(deliver(increment, "--as-snapshot", folder, "--quiet"), "base", codes=(3,))
        assert visible(folder) == []
        delivered(send(a).content, "--as-snapshot", folder)
        assert_told(deliver(increment, "--as-snapshot", folder, "--quiet"), "base", codes=(3,))
        assert visible(folder) == [a.name]
        assert_same(a, folder / a.name)


def test_any_older_snapshot_is_a_base(ten: Chain, place: Place) -> None:
    """Steps may be left out, and go back."""
    folder = place("btrfs")
    first, middle, last = ten.snapshots[0], ten.snapshots[4], ten.snapshots[9]
    for base, snap in ((None, middle), (middle, last), (middle, first)):
        delivered(send(snap, *(("--base", base) if base else ())).content, "--as-snapshot", folder)
        assert_same(snap, folder / snap.name)


def test_the_best_of_several_bases_is_taken(ten: Chain, place: Place) -> None:
    target = ten.snapshots[9]
    sizes = [len(send(target, "--base", base).content) for base in (ten.snapshots[2], ten.snapshots[8])]
    sent = send(target, "--base", ten.snapshots[2], "--base", ten.snapshots[8])
    assert sent.report["base"]["id"] in {
        send(snap).delta.header["snapshot"]["id"] for snap in (ten.snapshots[2], ten.snapshots[8])
    }
    assert len(sent.content) <= min(sizes) * 1.2


# --- btrfs send and btrfs receive -------------------------------------------------------------


def btrfs_send(snap: Path, folder: Path, base: Path | None = None) -> Path:
    parent = ["-p", str(base)] if base else []
    sender = subprocess.Popen(
        ["btrfs", "-q", "send", *parent, str(snap)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    receiver = subprocess.run(
        ["btrfs", "-q", "receive", str(folder)], stdin=sender.stdout, capture_output=True, text=True
    )
    assert (sender.wait(), receiver.returncode) == (0, 0), receiver.stderr
    return folder / snap.name


def test_a_chain_of_both_tools(place: Place) -> None:
    """Each takes what the other has made as a base."""
    source, folder = chain(place, 5, seed=9), place("btrfs")
    a, b, c, d, e = source.snapshots
    btrfs_send(a, folder)
    delivered(send(b, "--base", a).content, "--as-snapshot", folder)
    btrfs_send(c, folder, b)
    delivered(send(d, "--base", c).content, "--as-snapshot", folder)
    btrfs_send(e, folder, d)
    for snap in source.snapshots:
        # `btrfs send` carries neither inode flags nor what is preallocated.
        assert_same(snap, folder / snap.name, ignore=("flags", "layout"))


def test_btrfs_goes_on_from_a_full_delta(place: Place) -> None:
    source, folder = chain(place, 3, seed=10), place("btrfs")
    a, b, c = source.snapshots
    delivered(send(a).content, "--as-snapshot", folder)
    assert_same(a, folder / a.name)
    btrfs_send(b, folder, a)
    delivered(send(c, "--base", b).content, "--as-snapshot", folder)
    for snap in source.snapshots:
        assert_same(snap, folder / snap.name, ignore=("flags", "layout"))


def test_what_btrfs_received_is_sent_on(place: Place) -> None:
    """From the second place back to the first one's third copy, with identities that btrfs gave."""
    source, there, third = chain(place, 2, seed=11), place("btrfs"), place("btrfs")
    a, b = source.snapshots
    btrfs_send(a, there)
    btrfs_send(b, there, a)
    delivered(send(a).content, "--as-snapshot", third)
    delivered(send(there / b.name, "--base", there / a.name).content, "--as-snapshot", third)
    assert_same(there / b.name, third / b.name)
    assert shown(third / b.name)["Received UUID"] == shown(b)["UUID"]


def test_what_snapsync_sent_on_btrfs_takes_as_a_parent(place: Place) -> None:
    """Over XFS, which knows nothing of subvolumes."""
    source, middle, last = chain(place, 2, seed=12), place("xfs"), place("btrfs")
    a, b = source.snapshots
    delivered(send(a).content, "--as-snapshot", middle)
    delivered(send(middle / a.name).content, "--as-snapshot", last)
    assert shown(last / a.name)["Received UUID"] == shown(a)["UUID"]
    delivered(send(b, "--base", a).content, "--as-snapshot", last)
    assert_same(a, last / a.name)
    assert_same(b, last / b.name)


# --- names and places -------------------------------------------------------------------------


def test_two_receives_into_one_place_at_once(ten: Chain, place: Place) -> None:
    for kind in KINDS:
        folder = place(kind)
        deltas = [send(snap).content for snap in ten.snapshots[:2]]
        running = [
            subprocess.Popen(
                [*command(), "receive", "--as-snapshot", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(),
            )
            for _ in deltas
        ]
        # Both have begun before either ends.
        for process, content in zip(running, deltas, strict=True):
            assert process.stdin is not None
            process.stdin.write(content[:-20])
            process.stdin.flush()
        ended = [process.communicate(content[-20:]) for process, content in zip(running, deltas, strict=True)]
        codes = [process.returncode for process in running]
        assert set(codes) <= {0, 3}, ended
        assert 0 in codes
        for content, code, snap in zip(deltas, codes, ten.snapshots, strict=False):
            if code:
                delivered(content, "--as-snapshot", folder)
            assert_same(snap, folder / snap.name)
        assert len(visible(folder)) == 2


def test_the_same_delta_twice_at_once_makes_one_snapshot(ten: Chain, place: Place) -> None:
    folder, content = place("btrfs"), send(ten.snapshots[0]).content
    words = [*command(), "receive", "--as-snapshot", str(folder), "--quiet"]
    running = [subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in running:
        assert process.stdin is not None
        # The one that comes second may be refused before it has taken all.
        with suppress(BrokenPipeError):
            process.stdin.write(content[:-20])
            process.stdin.flush()
    for process in running:
        process.communicate(content[-20:])
    assert sorted(process.returncode for process in running) in ([0, 1], [0, 3])
    assert visible(folder) == [ten.snapshots[0].name]
    assert_same(ten.snapshots[0], folder / ten.snapshots[0].name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_taken_is_refused(ten: Chain, place: Place, kind: str) -> None:
    folder, content = place(kind), send(ten.snapshots[0]).content
    name = ten.snapshots[0].name
    (folder / name).mkdir()
    (folder / name / "precious").write_text("mine")
    before = touch_marks(folder / name)
    assert_told(deliver(content, "--as-snapshot", folder, "--quiet"), name, codes=(3,))
    assert touch_marks(folder / name) == before
    report = delivered(content, "--as-snapshot", folder, "--name", "another")
    assert report["path"] == str(folder / "another")
    assert_same(ten.snapshots[0], folder / "another")
    # The same once more, under its own name or the other.
    for name in ("another", "third"):
        ran = deliver(content, "--as-snapshot", folder, "--name", name, "--quiet")
        assert ran.code in ((3,) if name == "another" else (0, 3)), ran
    assert touch_marks(folder / ten.snapshots[0].name) == before


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "x" * 300, "../up", "/tmp/x", "two\nlines"])
def test_a_name_that_would_be_a_path_is_refused(ten: Chain, place: Place, name: str) -> None:
    folder = place("xfs")
    parent = sorted(folder.parent.iterdir())
    ran = deliver(send(ten.snapshots[0]).content, "--as-snapshot", folder, "--name", name, "--quiet")
    assert_told(ran, codes=(2, 3))
    assert visible(folder) == []
    assert sorted(folder.parent.iterdir()) == parent
    assert_told(run("send", ten.snapshots[0], "--name", name, "-o", folder / "out", "--quiet"), codes=(2, 3))


def test_send_gives_the_name_and_receive_another(ten: Chain, place: Place) -> None:
    folder = place("xfs")
    content = send(ten.snapshots[0], "--name", "chosen").content
    assert Path(delivered(content, "--as-snapshot", folder)["path"]).name == "chosen"
    other = place("xfs")
    report = delivered(content, "--as-snapshot", other, "--name", "mine")
    assert Path(report["path"]).name == "mine"
    # Whatever its name, it is the same snapshot.
    delivered(send(ten.snapshots[1], "--base", ten.snapshots[0]).content, "--as-snapshot", other)
    assert_same(ten.snapshots[1], other / ten.snapshots[1].name)


def test_receiving_into_what_is_no_directory_is_refused(ten: Chain, place: Place) -> None:
    folder, content = place("xfs"), send(ten.snapshots[0]).content
    (folder / "file").write_text("mine")
    for target in (folder / "file", folder / "missing"):
        ran = deliver(content, "--as-snapshot", target, "--quiet")
        assert_told(ran, str(target), codes=(1, 2, 3))
    assert visible(folder) == ["file"]
    assert (folder / "file").read_text() == "mine"


@pytest.mark.parametrize("again", [False, True], ids=["writable", "read-only again"])
def test_a_base_that_was_made_writable_is_none(ten: Chain, place: Place, again: bool) -> None:
    folder = place("btrfs")
    a, b = ten.snapshots[:2]
    made = Path(delivered(send(a).content, "--as-snapshot", folder)["path"])
    sh("btrfs", "property", "set", "-f", "-ts", made, "ro", "false")
    (made / "by hand").write_text("not in the snapshot")
    if again:
        sh("btrfs", "property", "set", "-ts", made, "ro", "true")
    assert_told(deliver(send(b, "--base", a).content, "--as-snapshot", folder, "--quiet"), "base", codes=(3,))
    assert visible(folder) == [a.name]
    assert (made / "by hand").exists()


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
@pytest.mark.parametrize("change", ["content", "new", "gone", "mode"])
def test_a_base_that_was_changed_by_hand_is_none(place: Place, kind: str, change: str) -> None:
    """A directory cannot be made read-only: what an increment would take from it must be as it was."""
    source, folder = place("btrfs"), place(kind)
    fill(source / "file", 0, 20_000, 1)
    fill(source / "other", 0, 20_000, 2)
    (source / "dir").mkdir()
    a = freeze_subvolume(source, place.absent("btrfs"))
    fill(source / "file", 0, 100, 3)
    b = freeze_subvolume(source, place.absent("btrfs"))
    made = Path(delivered(send(a).content, "--as-snapshot", folder, "--name", "a")["path"])
    if change == "content":
        fill(made / "other", 0, 20_000, 4)
    elif change == "new":
        (made / "dir/new").touch()
    elif change == "gone":
        (made / "other").unlink()
    else:
        (made / "other").chmod(0o600)
    ran = deliver(send(b, "--base", a).content, "--as-snapshot", folder, "--name", "b", "--quiet")
    # Refused, or made right from what is kept elsewhere; a wrong snapshot is what may not be.
    if ran.code == 0:
        assert_same(b, folder / "b")
    else:
        assert_told(ran, codes=(3,))
        assert visible(folder) == ["a"]


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_snapshot_changed_by_hand_is_not_sent_on(ten: Chain, place: Place, kind: str) -> None:
    folder = place(kind)
    made = Path(delivered(send(ten.snapshots[0]).content, "--as-snapshot", folder)["path"])
    (made / "by hand").write_text("not in the snapshot")
    ran = run("send", made, "-o", folder / "out.delta", "--quiet")
    if ran.code == 0:
        # What was sent then is what was received, not what is there now.
        other = place("btrfs")
        delivered((folder / "out.delta").read_bytes(), "--as-snapshot", other, "--name", "x")
        assert_same(ten.snapshots[0], other / "x")
    else:
        assert_told(ran, codes=(3,))
        assert not (folder / "out.delta").exists()


def test_a_writable_subvolume_is_not_sent(place: Place) -> None:
    source = place("btrfs")
    (source / "file").touch()
    ran = run("send", source, "-o", source.parent / "out", "--quiet")
    assert_told(ran, str(source), codes=(2, 3))
    assert not (source.parent / "out").exists()


# --- volumes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", list(product(KINDS, KINDS)), ids="-".join)
def test_a_standby_follows_over_a_pipe(place: Place, kinds: tuple[str, str]) -> None:
    source, target = place(kinds[0]), place.absent(kinds[1])
    world = World(source, seed=23)
    world.grow(100)
    names = [take(source, "round-0")]
    reports = [piped((names[0],), (target,))]
    assert_same(source, target)
    for number in range(1, 4):
        world.churn(80)
        names.append(take(source, f"round-{number}"))
        reports.append(piped((names[-1], "--base", names[-2]), (target,)))
        assert_same(source, target)
    ours, theirs = snapshots(source), snapshots(target)
    for key in ("id", "name", "sequence", "parent"):
        assert [snap[key] for snap in ours] == [snap[key] for snap in theirs]
    for report, snap in zip(reports, ours, strict=True):
        assert report["snapshot"]["id"] == snap["id"]
        assert report["standby"]["role"] == "standby"
        assert (report["path"], report["kept_bytes"], report["recovered"]) == (None, 0, [])
    assert status(target)["unfinished"] is None
    assert not stages(target)


def test_an_empty_directory_becomes_a_standby(place: Place) -> None:
    source = place("xfs")
    fill(source / "file", 0, 10_000, 1)
    content = send(take(source, "one")).content
    for kind in KINDS:
        empty = place(kind)
        delivered(content, empty)
        assert_same(source, empty)
        assert status(empty)["volume"]["role"] == "standby"


def test_a_full_delta_is_refused_where_something_is(place: Place) -> None:
    source, target = place("xfs"), place("xfs")
    fill(source / "file", 0, 10_000, 1)
    (target / "precious").write_text("mine")
    content = send(take(source, "one")).content
    before = touch_marks(target)
    assert_told(deliver(content, target, "--quiet"), str(target), codes=(3,))
    assert touch_marks(target) == before
    standby = place.absent("xfs")
    delivered(content, standby)
    before = touch_marks(standby)
    assert_told(deliver(content, standby, "--quiet"), codes=(3,))
    assert touch_marks(standby) == before


def test_an_increment_does_not_make_a_standby(place: Place) -> None:
    source, target = place("xfs"), place.absent("xfs")
    first = take(source, "one")
    fill(source / "file", 0, 10_000, 1)
    content = send(take(source, "two"), "--base", first).content
    assert_told(deliver(content, target, "--quiet"), "base", codes=(3,))
    assert not target.exists() or not list(target.iterdir())


def test_a_primary_receives_nothing(place: Place) -> None:
    source = place("xfs")
    fill(source / "file", 0, 10_000, 1)
    first = take(source, "one")
    fill(source / "file", 0, 10, 2)
    content = send(take(source, "two"), "--base", first).content
    before = touch_marks(source)
    assert_told(deliver(content, source, "--quiet"), "primary", codes=(3,))
    assert touch_marks(source) == before


def test_sync_and_deltas_may_take_turns(place: Place) -> None:
    source, target = place("btrfs"), place.absent("xfs")
    world = World(source, seed=24)
    world.grow(60)
    done("sync", source, target, "--name", "a")
    world.churn(40)
    second = take(source, "b")
    delivered(send(second, "--base", f"{source}@a").content, target)
    assert_same(source, target)
    world.churn(40)
    report = done("sync", source, target, "--name", "c")
    assert report["base"]["name"] == "b"
    assert_same(source, target)


def test_one_delta_feeds_many_standbys_and_a_standby_feeds_another(place: Place) -> None:
    source, first, second = place("xfs"), place.absent("btrfs"), place.absent("ext4")
    world = World(source, seed=25)
    world.grow(60)
    content = send(take(source, "a")).content
    delivered(content, first)
    delivered(content, second)
    world.churn(40)
    take(source, "b")
    delivered(send(f"{source}@b", "--base", f"{source}@a").content, first)
    delivered(send(f"{first}@b", "--base", f"{first}@a").content, second)
    assert_same(source, second)


def test_a_subset_travels_in_a_delta(place: Place) -> None:
    source, other, target = place("xfs"), place.absent("xfs"), place.absent("btrfs")
    fill(source / "kept", 0, 5_000, 1)
    fill(source / "left.out", 0, 5_000, 2)
    done("sync", source, other, "--name", "a", "--exclude", "*.out")
    delivered(send(f"{source}@a").content, target)
    assert sorted(path.name for path in target.iterdir() if path.name != ".snapsync") == ["kept"]
    assert_same(other, target)


def test_drift_refuses_a_delta(place: Place) -> None:
    source, target = place("xfs"), place.absent("xfs")
    fill(source / "file", 0, 10_000, 1)
    delivered(send(take(source, "a")).content, target)
    fill(source / "file", 0, 100, 2)
    increment = send(take(source, "b"), "--base", f"{source}@a").content
    (target / "file").write_text("changed by hand")
    before = touch_marks(target)
    assert_told(deliver(increment, target, "--quiet"), "file", codes=(3,))
    assert touch_marks(target) == before


# --- files ------------------------------------------------------------------------------------


def test_a_delta_goes_by_file(place: Place, tmp_path: Path) -> None:
    source, target, file = place("xfs"), place.absent("ext4"), tmp_path / "one.delta"
    fill(source / "file", 0, 100_000, 1)
    snap = take(source, "one")
    report = done("send", snap, "-o", file)
    assert report["output"] == str(file)
    assert report["stored_bytes"] <= file.stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert done("receive", target, "-i", file)["data_bytes"] == report["data_bytes"]
    assert_same(source, target)


def test_a_killed_send_leaves_the_file_that_was(place: Place, tmp_path: Path) -> None:
    source, file = place("xfs"), tmp_path / "one.delta"
    (source / "file").write_bytes(os.urandom(64 * MIB))
    snap = take(source, "one")
    file.write_text("what was there")
    process = start("send", snap, "-o", file, "--bwlimit", "4M")
    wait_until(lambda: process.poll() is not None or size_of_all(tmp_path) > 2 * MIB)
    assert process.poll() is None, process.communicate()
    assert file.read_text() == "what was there"
    process.kill()
    process.communicate()
    assert file.read_text() == "what was there"
    done("send", snap, "-o", file)
    delivered(file.read_bytes(), place.absent("xfs"))


def size_of_all(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.iterdir())


def test_an_interrupted_send_leaves_nothing(place: Place, tmp_path: Path) -> None:
    source, file = place("xfs"), tmp_path / "one.delta"
    (source / "file").write_bytes(os.urandom(64 * MIB))
    process = start("send", take(source, "one"), "-o", file, "--bwlimit", "4M")
    wait_until(lambda: process.poll() is not None or size_of_all(tmp_path) > 2 * MIB)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 5, err
    assert not list(tmp_path.iterdir())


def test_a_receiver_that_goes_away_ends_the_sender(place: Place) -> None:
    source = place("xfs")
    (source / "file").write_bytes(os.urandom(16 * MIB))
    snap = take(source, "one")
    process = subprocess.Popen(
        [*command(), "send", snap], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    process.stdout.read(100)
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode in (1, 5), err
    assert b"Traceback" not in err
    assert b"panicked" not in err


def test_a_delta_is_not_written_to_a_terminal(place: Place) -> None:
    need("script")
    source = place("xfs")
    (source / "file").write_text("text")
    snap = take(source, "one")
    words = " ".join([*command(), "send", snap])
    ran = subprocess.run(["script", "-qec", words, "/dev/null"], capture_output=True, env=environment())
    assert ran.returncode == 2, ran
    assert b"SNSD" not in ran.stdout


def test_a_rate_is_kept(place: Place, tmp_path: Path) -> None:
    source = place("xfs")
    (source / "file").write_bytes(os.urandom(6 * MIB))
    snap = take(source, "one")
    limited = done("send", snap, "-o", tmp_path / "slow", "--bwlimit", "3M")
    assert 1.0 < limited["seconds"] < 10
    assert done("send", snap, "-o", tmp_path / "fast")["seconds"] < limited["seconds"]
    for bad in ("0", "-1", "x", "3Q"):
        assert run("send", snap, "-o", tmp_path / "bad", "--bwlimit", bad).code == 2


def test_a_base_that_is_no_snapshot_or_the_snapshot_itself_is_refused(ten: Chain, place: Place) -> None:
    volume = place("xfs")
    snap = take(volume, "one")
    for base in (volume, f"{volume}@nope", volume / "missing"):
        assert_told(run("send", snap, "--base", base, "-o", volume.parent / "x", "--quiet"), codes=(2, 3))
    ran = run("send", ten.snapshots[0], "--base", snap, "-o", volume.parent / "x", "--quiet")
    assert ran.code in (0, 2, 3), ran


def test_send_without_rights_says_what_it_cannot_read(place: Place) -> None:
    volume = place("xfs")
    (volume / "secret").write_text("x")
    (volume / "secret").chmod(0o600)
    snap = take(volume, "one")
    ran = run("send", snap, "-o", volume.parent / "x", "--quiet", wrap=as_nobody())
    assert_told(ran, codes=(1, 2, 3))
    assert not (volume.parent / "x").exists()


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "btrfs"), ("ext4", "ext4")], ids="-".join)
def test_a_killed_receive_leaves_the_old_snapshot_or_the_new(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    """At each fault point that a receive passes."""
    source, trace = place(kinds[0]), tmp_path / "trace"
    world = World(source, seed=26)
    world.grow(60)
    full = send(take(source, "a")).content
    before = freeze(source)
    world.churn(60)
    increment = send(take(source, "b"), "--base", f"{source}@a").content
    first = place.absent(kinds[1])
    delivered(full, first)
    assert deliver(increment, first, env={"SNAPSYNC_FAULT_TRACE": trace}).code == 0
    for point in dict.fromkeys(passed(trace)):
        with subtests.test(point=point):
            target = place.absent(kinds[1])
            delivered(full, target)
            ran = deliver(increment, target, env={"SNAPSYNC_FAULT": f"{point}:1"})
            assert ran.code == -signal.SIGKILL, ran
            again = deliver(increment, target, "--json")
            # Already applied when it was killed: then this is a replay.
            assert again.code in (0, 3), again
            assert_same(source, target)
            assert not same(before, target)
            assert not stages(target)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_receive_of_a_snapshot_leaves_none_or_all_of_it(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kind: str
) -> None:
    source, trace = place("btrfs"), tmp_path / "trace"
    World(source, seed=27).grow(60)
    content = send(freeze_subvolume(source, place.absent("btrfs")), "--name", "one").content
    first = place(kind)
    assert deliver(content, "--as-snapshot", first, env={"SNAPSYNC_FAULT_TRACE": trace}).code == 0
    for point in dict.fromkeys(passed(trace)):
        with subtests.test(point=point):
            folder = place(kind)
            ran = deliver(content, "--as-snapshot", folder, env={"SNAPSYNC_FAULT": f"{point}:1"})
            assert ran.code == -signal.SIGKILL, ran
            whole = (folder / "one").exists()
            if whole:
                assert_same(source, folder / "one", root_mtime=False)
            again = deliver(content, "--as-snapshot", folder, "--json")
            assert again.code in ((0, 3) if whole else (0,)), again
            assert_same(source, folder / "one", root_mtime=False)
            assert visible(folder) == ["one"]


def test_a_snapshot_outlives_its_source(place: Place) -> None:
    """What was received depends on nothing of where it came from."""
    source, folder, copy = place("xfs"), place("xfs"), place("xfs")
    World(source, seed=28).grow(60)
    keep(source, copy)
    delivered(send(take(source, "one")).content, "--as-snapshot", folder)
    first, second = pipe((folder / "one",), ("--as-snapshot", folder, "--name", "two"))
    assert first.code in (0, 5), first  # the receiver may know it, and refuse it, before all of it is sent
    assert second.code in (0, 3), second
    # It fails on links and devices, which have no flags.
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", source], check=False)
    shutil.rmtree(source)
    assert_same(copy, folder / "one")
