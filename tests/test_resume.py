"""A transfer that was cut goes on where it ended, and keeps nothing that was not verified."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from delta import MIB, Delta, parse
from machine import (
    FileSystems,
    Pair,
    Place,
    Ran,
    assert_told,
    command,
    done,
    environment,
    passed,
    run,
    snapshots,
    start,
    status,
    wait_until,
)
from oracle import assert_same, freeze, touch_marks
from transfer import deliver, delivered, send, stages, stored, take
from worlds import World, fill

QUEUE = 64 * MIB
"""What a receiver may have read and not yet stored when it is killed."""
CUTS = 50


@dataclass
class Parcel:
    """Two deltas, and the trees they make."""

    full: bytes
    content: bytes
    base: Path
    target: Path

    @property
    def delta(self) -> Delta:
        return parse(self.content)


def parcel(place: Place, kind: str, *, large: int) -> Parcel:
    source, base = place(kind), place.absent("xfs")
    world = World(source, seed=51)
    world.grow(60)
    if large:
        (source / "changing").write_bytes(bytes(large // 4))
    full = send(take(source, "first")).content
    delivered(full, base)
    world.churn(80)
    for number in range(12):
        fill(source / f"noise-{number}", 0, 60_000, 2 * number + 1)
        fill(source / f"text-{number}", 4096, 60_000, 2 * number)
    if large:
        chance = random.Random(52)
        for number in range(3):
            (source / f"large-{number}").write_bytes(chance.randbytes(large // 4))
        (source / "changing").write_bytes(chance.randbytes(large // 4))
    # No larger frames than there are pieces to cut between.
    content = send(take(source, "second"), "--base", f"{source}@first").content
    return Parcel(full, content, base, source)


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def small(request: pytest.FixtureRequest, file_systems: FileSystems) -> Iterator[Parcel]:
    place = Place(file_systems)
    try:
        yield parcel(place, request.param, large=0)
    finally:
        place.clear()


@pytest.fixture(scope="module")
def large(file_systems: FileSystems) -> Iterator[Parcel]:
    place = Place(file_systems)
    try:
        yield parcel(place, "xfs", large=200 * MIB)
    finally:
        place.clear()


def standby(place: Place, parcel: Parcel, kind: str) -> Path:
    target = place.absent(kind)
    delivered(parcel.full, target)
    return target


def whole_before(delta: Delta, cut: int) -> int:
    """The raw bytes of the frames that are whole in the first `cut` bytes."""
    ends = {span.name: span.end for span in delta.spans()}
    frames = [
        len(frame.raw) for number, frame in enumerate(delta.frames) if ends[f"frame {number} bytes"] <= cut
    ]
    return sum(frames)


def cut_off(target: Path, parcel: Parcel, cut: int) -> None:
    """The delta ends early: exit 5, and the tree is as it was."""
    marks = touch_marks(target)
    ran = deliver(parcel.content[:cut], target, "--quiet")
    assert_told(ran, codes=(5,))
    assert touch_marks(target) == marks
    assert len(snapshots(target)) == 1


# --- cut and resumed --------------------------------------------------------------------------


def test_a_delta_cut_anywhere_is_resumed(small: Parcel, place: Place, subtests: pytest.Subtests) -> None:
    """Every frame that was whole is kept; the rest comes with the second try."""
    chance, delta = random.Random(53), small.delta
    before = freeze(small.base)
    kinds = ("xfs", "btrfs", "ext4")
    for number in range(CUTS):
        cut = chance.randrange(1, len(small.content))
        with subtests.test(number=number, cut=cut):
            target = standby(place, small, kinds[number % 3])
            cut_off(target, small, cut)
            assert_same(before, target)
            report = delivered(small.content, target)
            assert_same(small.target, target)
            assert report["kept_bytes"] == whole_before(delta, cut)
            assert not stages(target)
            assert status(target)["unfinished"] is None


def test_a_delta_cut_many_times_is_finished(small: Parcel, place: Place) -> None:
    target, delta = standby(place, small, "xfs"), small.delta
    chance = random.Random(54)
    cuts = sorted(chance.randrange(1, len(small.content)) for _ in range(6))
    for cut in cuts:
        cut_off(target, small, cut)
    report = delivered(small.content, target)
    assert report["kept_bytes"] == whole_before(delta, cuts[-1])
    assert_same(small.target, target)


def test_what_came_in_two_halves_is_whole(small: Parcel, place: Place) -> None:
    """Frames need no order: first the later ones come, then all."""
    target, delta = standby(place, small, "xfs"), small.delta
    half = delta.copy()
    half.frames = delta.frames[len(delta.frames) // 2 :]
    half.lies = {"end": False}
    assert_told(deliver(half.bytes(), target, "--quiet"), codes=(5,))
    report = delivered(small.content, target)
    assert report["kept_bytes"] == sum(len(frame.raw) for frame in half.frames)
    assert_same(small.target, target)


def test_a_first_delta_is_resumed(small: Parcel, place: Place) -> None:
    delta = parse(small.full)
    chance = random.Random(55)
    for kind in ("xfs", "btrfs", "ext4"):
        target, cut = place.absent(kind), chance.randrange(len(small.full) // 2, len(small.full))
        assert_told(deliver(small.full[:cut], target, "--quiet"), codes=(5,))
        assert not target.exists() or len(freeze(target).entries) == 1
        report = delivered(small.full, target)
        assert report["kept_bytes"] == whole_before(delta, cut)
        assert_same(small.base, target)


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_received_snapshot_is_resumed_or_begun_anew(small: Parcel, place: Place, kind: str) -> None:
    folder, cut = place(kind), len(small.content) * 2 // 3
    delivered(small.full, "--as-snapshot", folder)
    ran = deliver(small.content[:cut], "--as-snapshot", folder, "--quiet")
    assert_told(ran, codes=(5,))
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["first"]
    report = delivered(small.content, "--as-snapshot", folder)
    assert 0 <= report["kept_bytes"] <= whole_before(small.delta, cut)
    assert_same(small.target, folder / "second")
    assert_same(small.base, folder / "first")


def test_a_large_delta_is_not_stored_again(large: Parcel, place: Place) -> None:
    """What was read before the receiver was killed is stored, but for what its queue holds."""
    delta, chance = large.delta, random.Random(56)
    total = sum(len(frame.raw) for frame in delta.frames)
    for share in (0.5, 0.9):
        target = standby(place, large, "xfs")
        cut = int(len(large.content) * share)
        fed = killed_after(target, large.content, cut)
        assert_same(large.base, target)
        report = delivered(large.content, target)
        assert_same(large.target, target)
        due = whole_before(delta, fed)
        assert due - QUEUE <= report["kept_bytes"] <= total, (due, report["kept_bytes"])
        assert report["kept_bytes"] > 0
        # And once more, cut by its end and not by a kill: then all of it is kept.
        target = standby(place, large, "ext4")
        cut = chance.randrange(cut // 2, cut)
        cut_off(target, large, cut)
        assert delivered(large.content, target)["kept_bytes"] == whole_before(delta, cut)
        assert_same(large.target, target)


def killed_after(target: Path, content: bytes, cut: int) -> int:
    """A receiver that is killed when it has taken so much; the pipe's own buffer is not taken yet."""
    words = [*command(), "receive", str(target), "--quiet"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdin is not None
    process.stdin.write(content[:cut])
    process.stdin.flush()
    process.kill()
    process.communicate()
    return cut - 65_536


def test_a_killed_receiver_goes_on_from_what_it_stored(small: Parcel, place: Place) -> None:
    for kind in ("xfs", "btrfs"):
        target = standby(place, small, kind)
        for share in (0.3, 0.6, 0.9):
            killed_after(target, small.content, int(len(small.content) * share))
            assert_same(small.base, target)
        delivered(small.content, target)
        assert_same(small.target, target)
        assert not stages(target)


def test_a_killed_sender_is_an_interruption(place: Place) -> None:
    source, target = place("xfs"), place.absent("xfs")
    (source / "file").write_bytes(os.urandom(48 * MIB))
    snap = take(source, "one")
    sender = subprocess.Popen(
        [*command(), "send", snap, "--bwlimit", "16M"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    receiver = subprocess.Popen(
        [*command(), "receive", str(target), "--quiet"],
        stdin=sender.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert sender.stdout is not None
    sender.stdout.close()
    wait_until(lambda: receiver.poll() is not None or stored(target) > 4 * MIB)
    sender.kill()
    out, err = receiver.communicate()
    sender.wait()
    assert_told(Ran((), receiver.returncode, out, err), codes=(5,))
    report = delivered(send(snap).content, target)
    assert report["kept_bytes"] > 0
    assert_same(source, target)


# --- what was left is not believed ------------------------------------------------------------


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def flipped(path: Path, chance: random.Random) -> None:
    """Bits of what is on the disk turn over; a hole has nothing that could."""
    fd = os.open(path, os.O_RDWR)
    try:
        for start, end in data_of(fd):
            for _ in range(1 + (end - start) // 10_000):
                at = chance.randrange(start, end)
                os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 1 << chance.randrange(8)]), at)
    finally:
        os.close(fd)


def data_of(fd: int) -> list[tuple[int, int]]:
    """Where the file has data."""
    found, end = [], 0
    with suppress(OSError):
        while True:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, end))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_stage_does_not_get_into_the_tree(small: Parcel, place: Place, seed: int) -> None:
    """Between the cut and the resumption a disk rots: it is noticed, and what is needed comes anew."""
    chance = random.Random(seed)
    target = standby(place, small, ("xfs", "btrfs", "ext4")[seed % 3])
    cut_off(target, small, len(small.content) * 9 // 10)
    left = [path for stage in stages(target) for path in files_of(stage)]
    assert left
    for path in left if seed < 4 else chance.sample(left, min(3, len(left))):
        flipped(path, chance)
    before = freeze(target)
    ran = deliver(small.content, target, "--quiet")
    if ran.code:
        assert_told(ran, codes=(4,))
        assert_same(before, target)
        # It was thrown away with the refusal: now there is nothing left to be damaged.
        delivered(small.content, target)
    assert_same(small.target, target)
    assert not stages(target)


def damaged(manifest: Path) -> None:
    """Bits all over it turn: whatever reads it meets some of them."""
    content = bytearray(manifest.read_bytes())
    for at in range(8, len(content), 40):
        content[at] ^= 1 << at % 7
    manifest.write_bytes(content)


def manifest_of(target: Path) -> Path:
    (stage,) = stages(target)
    return stage / "manifest.arrow"


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4"])
def test_a_damaged_manifest_in_the_stage_is_not_read(small: Parcel, place: Place, kind: str) -> None:
    """Nothing it says is believed: what is staged goes, and the same delta begins again."""
    target = standby(place, small, kind)
    cut_off(target, small, len(small.content) * 9 // 10)
    damaged(manifest_of(target))
    assert delivered(small.content, target)["kept_bytes"] == 0
    assert_same(small.target, target)
    assert not stages(target)


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4"])
def test_a_commit_does_not_go_on_from_a_damaged_manifest(small: Parcel, place: Place, kind: str) -> None:
    target = standby(place, small, kind)
    ran = deliver(small.content, target, env={"SNAPSYNC_FAULT": "commit.detached:1"})
    assert ran.code == -signal.SIGKILL, ran
    damaged(manifest_of(target))
    marks = touch_marks(target)
    for ran in (run("sync", small.target, target), deliver(small.content, target, "--quiet")):
        assert ran.code == 4, ran
        assert "the manifest in its stage was damaged" in ran.err
    assert touch_marks(target) == marks


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4"])
def test_what_was_put_into_a_hole_of_the_stage_does_not_get_into_the_tree(place: Place, kind: str) -> None:
    """A stage that somebody wrote to: also where nothing was to be."""
    source, target = place("xfs"), place.absent(kind)
    fill(source / "changing", 0, 300_000, 1)
    full = send(take(source, "a")).content
    delivered(full, target)
    for name in ("sparse", "changing"):
        fill(source / name, 100_000, 5_000, 3)
        os.truncate(source / name, 300_000)
    # Frames come in the order of inodes: what is cut off is to be of the last file.
    fill(source / "zz", 0, 200_000, 5)
    while (source / "zz").stat().st_ino < max(
        (source / name).stat().st_ino for name in ("sparse", "changing")
    ):
        (source / "zz").rename(source / f"early-{time.monotonic_ns()}")
        fill(source / "zz", 0, 200_000, 5)
    content = send(take(source, "b"), "--base", f"{source}@a").content
    assert deliver(content[:-60_000], target).code == 5
    staged = [path for stage in stages(target) for path in files_of(stage) if path.stat().st_size > 100_000]
    assert staged
    for path in staged:
        with path.open("r+b") as file:
            file.seek(20_000)
            file.write(b"planted")
    ran = deliver(content, target, "--quiet")
    if ran.code:
        assert_told(ran, codes=(4,))
        delivered(content, target)
    assert_same(source, target)


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "directory"])
def test_a_stage_that_lost_parts_does_not_get_into_the_tree(small: Parcel, place: Place, how: str) -> None:
    chance = random.Random(61)
    target = standby(place, small, "xfs")
    cut_off(target, small, len(small.content) * 9 // 10)
    left = [path for stage in stages(target) for path in files_of(stage)]
    for path in chance.sample(left, len(left) // 2):
        if how == "cut":
            os.truncate(path, path.stat().st_size // 2)
        elif how == "empty":
            os.truncate(path, 0)
        else:
            path.unlink()
            if how == "directory":
                path.mkdir()
    before = freeze(target)
    ran = deliver(small.content, target, "--quiet")
    if ran.code:
        assert_told(ran, codes=(1, 4))
        assert_same(before, target)
        delivered(small.content, target)
    assert_same(small.target, target)
    assert not stages(target)


def test_the_stage_of_one_delta_is_not_used_for_another(small: Parcel, place: Place) -> None:
    """The same snapshot by another delta: the same ids, other inodes, and a manifest with another digest."""
    target = standby(place, small, "xfs")
    cut_off(target, small, len(small.content) * 9 // 10)
    other = small.delta.change(lambda rows: None)
    other.frames.reverse()
    delivered(other.bytes(), target)
    assert_same(small.target, target)
    assert not stages(target)


def test_another_delta_works_in_the_place_of_the_cut_one(place: Place) -> None:
    source = place("xfs")
    world = World(source, seed=62)
    world.grow(60)
    full = send(take(source, "a")).content
    world.churn(60)
    fill(source / "noise", 0, 300_000, 1)
    second = send(take(source, "b"), "--base", f"{source}@a").content
    world.churn(60)
    third = send(take(source, "c"), "--base", f"{source}@a").content
    for kind in ("xfs", "btrfs", "ext4"):
        target = place.absent(kind)
        delivered(full, target)
        deliver(second[: len(second) * 3 // 4], target)
        report = delivered(third, target)
        assert report["snapshot"]["name"] == "c"
        assert_same(source, target)
        assert status(target)["unfinished"] is None


def test_two_cut_deltas_do_not_mix(place: Place) -> None:
    """Both have been begun; each is finished from its own parts or from nothing."""
    source = place("xfs")
    fill(source / "file", 0, 400_000, 1)
    full = send(take(source, "a")).content
    fill(source / "file", 0, 400_000, 3)
    second = send(take(source, "b"), "--base", f"{source}@a").content
    middle = freeze(source)
    fill(source / "file", 0, 400_000, 5)
    third = send(take(source, "c"), "--base", f"{source}@a").content
    for last, tree in ((second, middle), (third, freeze(source))):
        target = place.absent("xfs")
        delivered(full, target)
        for content in (second, third):
            assert deliver(content[: len(content) * 9 // 10], target).code == 5
        delivered(last, target)
        assert_same(tree, target)


# --- sync -------------------------------------------------------------------------------------


def test_a_sync_after_a_cut_receive_finishes_or_discards_it(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "btrfs"))
    world = World(pair.source, seed=63)
    world.grow(60)
    pair.sync("--name", "a")
    world.churn(60)
    fill(pair.source / "noise", 0, 300_000, 1)
    content = send(take(pair.source, "b"), "--base", f"{pair.source}@a").content
    assert deliver(content[: len(content) * 3 // 4], pair.target).code == 5
    world.churn(60)
    pair.sync("--name", "c")
    assert status(pair.target)["unfinished"] is None
    assert not stages(pair.target)


def test_a_sync_after_a_killed_one_uses_what_is_there(place: Place) -> None:
    """First the snapshot that was under way is completed, then there is a round for now."""
    pair = Pair.make(place, ("xfs", "xfs"))
    (pair.source / "file").write_text("first")
    pair.sync("--name", "a")
    (pair.source / "large").write_bytes(os.urandom(200 * MIB))
    before = freeze(pair.target)
    process = start("sync", pair.source, pair.target, "--name", "b", "--quiet")
    wait_until(lambda: process.poll() is not None or stored(pair.target) > 40 * MIB)
    process.kill()
    process.communicate()
    assert_same(before, pair.target)
    (pair.source / "file").write_text("second")
    pair.sync("--name", "c")
    assert snapshots(pair.target)[-1]["name"] == "c"
    assert not stages(pair.target)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_receive_says_so_and_is_resumed(small: Parcel, place: Place, how: signal.Signals) -> None:
    target = standby(place, small, "xfs")
    words = [*command(), "receive", str(target), "--quiet"]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdin is not None
    process.stdin.write(small.content[: len(small.content) * 2 // 3])
    process.stdin.flush()
    wait_until(lambda: process.poll() is not None or stages(target))
    process.send_signal(how)
    # It waits for more from a sender that is silent, and must end all the same.
    process.wait(timeout=20)
    assert process.returncode == 5
    process.communicate()
    delivered(small.content, target)
    assert_same(small.target, target)


def test_a_cut_delta_is_told_of_by_status(small: Parcel, place: Place) -> None:
    target = standby(place, small, "xfs")
    cut_off(target, small, len(small.content) // 2)
    assert status(target)["unfinished"] is not None
    ran = run("status", target)
    assert ran.code == 0
    delivered(small.content, target)
    assert status(target)["unfinished"] is None


def test_a_killed_receive_while_it_resumes_heals(small: Parcel, place: Place, tmp_path: Path) -> None:
    """Cut, resumed, killed at each point of that, and resumed again."""
    trace = tmp_path / "trace"
    target = standby(place, small, "xfs")
    cut_off(target, small, len(small.content) * 2 // 3)
    env: dict[str, Any] = {"SNAPSYNC_FAULT_TRACE": trace}
    assert deliver(small.content, target, env=env).code == 0
    for point in dict.fromkeys(passed(trace)):
        target = standby(place, small, "xfs")
        cut_off(target, small, len(small.content) * 2 // 3)
        ran = deliver(small.content, target, env={"SNAPSYNC_FAULT": f"{point}:1"})
        assert ran.code == -signal.SIGKILL, (point, ran)
        again = deliver(small.content, target, "--json")
        assert again.code in (0, 3), (point, again)
        assert_same(small.target, target)
        assert not stages(target)


def test_a_resumed_delta_of_a_file_by_name(small: Parcel, place: Place, tmp_path: Path) -> None:
    target, file = standby(place, small, "ext4"), tmp_path / "cut.delta"
    file.write_bytes(small.content[: len(small.content) // 2])
    assert_told(run("receive", target, "-i", file, "--quiet"), str(file), codes=(5,))
    file.write_bytes(small.content)
    assert done("receive", target, "-i", file)["kept_bytes"] > 0
    assert_same(small.target, target)
