"""A commit that cannot go on goes back: whatever step fails, the volume is at the old snapshot or the new.

Steps are made to fail by fault points (`SNAPSYNC_FAULT=name:n=fail`), and by what fails in real life: an
entry in the way, a directory that is made immutable meanwhile, a full disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import worlds
from machine import (
    MIB,
    FileSystems,
    Pair,
    Place,
    assert_told,
    done,
    passed,
    run,
    snapshots,
    status,
    stopped_at,
    store,
    verified,
)
from oracle import Picture, assert_same, freeze
from remote import wrapped
from test_crash import ALL, Case, Primed, assert_tidy, hits_of_a_round, recover
from test_roles import restored
from worlds import fill, set_flags

PAIRS = [("xfs", "xfs"), ("btrfs", "btrfs"), ("xfs", "ext4")]

NO_WAY_BACK = ("commit.settling", "commit.cleared", "commit.protected", "commit.applied", "commit.snapshot")
"""From these on a commit only goes forward."""


def cases(hits: Counter[str], *prefixes: str, every: bool = False) -> list[Case]:
    """The first, the middle and the last pass of each of these points, or the middle one."""
    of = {point: last for point, last in hits.items() if point.startswith(prefixes)}
    if every or ALL:
        return [(point, n) for point, last in of.items() for n in sorted({1, last // 2 + 1, last})]
    return [(point, last // 2 + 1) for point, last in of.items()]


def fail_at(pair: Pair, *faults: str) -> None:
    ran = run("sync", pair.source, pair.target, "-q", env={"SNAPSYNC_FAULT": ",".join(faults)})
    assert_told(ran, "not permitted", codes=(1,))
    if status(pair.target)["unfinished"] is None and "commit.cleaned" not in faults[0]:
        assert "nothing was changed" in ran.err or faults[0].startswith("save."), ran


def assert_at(pair: Pair, old: str, before: Picture) -> None:
    """Nothing of a round is there, on either side."""
    assert status(pair.target)["unfinished"] is None
    assert snapshots(pair.target)[-1]["id"] == old
    assert_same(before, pair.target)
    verified(f"{pair.target}@latest", pair.target)
    assert_tidy(pair.target)


def go_on(pair: Pair, after: Picture) -> None:
    pair.sync()
    assert_same(after, pair.target)
    verified(f"{pair.target}@latest", pair.target)
    assert_tidy(pair.source)
    assert_tidy(pair.target)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_whatever_step_fails_the_volume_is_at_the_old_snapshot_or_the_new(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    primed = Primed.fresh(place, kinds)
    pair = primed.pair
    primed.next_turn()
    hits = hits_of_a_round(pair, tmp_path / "trace")
    assert {"save.row", "commit.detach"} <= set(hits)
    for point, hit in cases(hits, "save.row", "commit.", every=kinds == PAIRS[2]):
        if point == "commit.marked":
            continue
        with subtests.test(point=point, hit=hit):
            old = snapshots(pair.target)[-1]["id"]
            before, after = primed.next_turn()
            taken = len(snapshots(pair.source))
            fail_at(pair, f"{point}:{hit}=fail")
            if snapshots(pair.target)[-1]["id"] == old and not status(pair.target)["unfinished"]:
                assert not point.startswith(NO_WAY_BACK)
                assert_at(pair, old, before)
                assert len(snapshots(pair.source)) == taken, "a snapshot that came to nothing is left"
            else:
                done("recover", pair.target)
                assert_same(after, pair.target)
            go_on(pair, after)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_new_directory_in_the_place_of_one_that_moves_leaves_the_way_back(
    place: Place, kinds: tuple[str, str]
) -> None:
    pair = Pair.make(place, kinds)
    old = pair.source / "d"
    old.mkdir()
    fill(old / "one", 0, 100, 1)
    pair.sync()
    before = freeze(pair.target)
    old.rename(pair.source / "moved")
    old.mkdir()
    fill(old / "two", 0, 100, 2)
    at = snapshots(pair.target)[-1]["id"]
    for fault in ("commit.marked:1", "commit.detach:1", "commit.detached:1", "commit.attach:1"):
        killed = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": fault})
        assert killed.code == -signal.SIGKILL, fault
        done("recover", pair.target, "--back")
        assert_at(pair, at, before)
    go_on(pair, freeze(pair.source))


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_the_way_back_survives_kills_and_failures_and_can_be_turned(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    """All was done but the last attributes when it failed; then the way back is stopped at each step."""
    primed = Primed.fresh(place, kinds)
    pair = primed.pair
    primed.next_turn()
    hits = hits_of_a_round(pair, tmp_path / "trace")
    # What fails is the last that can.
    last = f"commit.attributes:{hits['commit.attributes']}=fail"
    primed.next_turn()
    env = {"SNAPSYNC_FAULT": last, "SNAPSYNC_FAULT_TRACE": tmp_path / "back"}
    assert run("sync", pair.source, pair.target, env=env).code == 1
    back = Counter(passed(tmp_path / "back"))
    points = pytest.importorskip("snapsync._native").fault_points()
    assert {point for point in points if point.startswith("undo.")} <= set(back)
    pair.sync()
    heals = [("recover",), ("recover", "--back"), ("sync",)]
    for number, (point, hit) in enumerate(cases(back, "undo.")):
        fails, heal = number % 2 == 1, heals[number % 3]
        with subtests.test(point=point, hit=hit, fails=fails, heal=heal):
            old = snapshots(pair.target)[-1]["id"]
            before, after = primed.next_turn()
            fault = f"{point}:{hit}=fail" if fails else f"{point}:{hit}"
            ran = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": f"{last},{fault}"})
            assert ran.code == (1 if fails else -signal.SIGKILL), ran
            if point != "undo.done":
                left = status(pair.target)["unfinished"]
                assert left["phase"] in ("undoing", "returning", "detached"), left
                assert left["can_go_back"], left
                assert "recover --back" in run("status", pair.target).out
            if heal == ("recover",) and point != "undo.done":
                done("recover", pair.target)
                assert_same(after, pair.target)
            elif heal[0] == "recover":
                done(heal[0], pair.target, *heal[1:])
                assert_at(pair, old, before)
            go_on(pair, after)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_killed_commit_goes_back_when_it_is_told_to(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    primed = Primed.fresh(place, kinds)
    pair = primed.pair
    primed.next_turn()
    hits = hits_of_a_round(pair, tmp_path / "trace")
    for point, hit in cases(hits, "stage.done", "commit."):
        with subtests.test(point=point, hit=hit):
            old = snapshots(pair.target)[-1]["id"]
            before, after = primed.next_turn()
            ran = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": f"{point}:{hit}"})
            assert ran.code == -signal.SIGKILL, ran
            left = status(pair.target)["unfinished"]
            back = run("recover", pair.target, "--back", "-q")
            if left is None:
                assert back.code == 0, back
                assert snapshots(pair.target)[-1]["id"] != old
            elif left["can_go_back"]:
                assert back.code == 0, back
                assert_at(pair, old, before)
            else:
                assert_told(back, "no way back", codes=(3,))
                done("recover", pair.target)
                assert_same(after, pair.target)
            go_on(pair, after)


@contextlib.contextmanager
def meanwhile(pair: Pair, point: str, code: int, *told: str) -> Iterator[None]:
    """A round is stopped at a point, and goes on after the block. It ends with the code, and says that."""
    with stopped_at(point, "sync", pair.source, pair.target, "-q") as process:
        yield
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    for words in told:
        assert words in err, err


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_what_appears_in_the_way_is_kept_aside(place: Place, kinds: tuple[str, str]) -> None:
    primed = Primed.fresh(place, kinds)
    pair = primed.pair
    _, after = primed.next_turn()
    with meanwhile(pair, "stage.done", 0):
        (pair.target / "copy-1").write_text("not yours")
    assert_same(after, pair.target)
    (kept,) = pair.target.glob(".snapsync/aside/*/1/copy-1")
    assert kept.read_text() == "not yours"
    # The way back keeps it, too.
    before, after = primed.next_turn()
    with meanwhile(pair, "commit.detached", 1, "nothing was changed"):
        gone = next(path for path in before.entries if not (pair.target / os.fsdecode(path)).exists())
        (pair.target / os.fsdecode(gone)).write_text("nor this")
        set_flags(pair.target / "turn", worlds.IMMUTABLE)
    set_flags(pair.target / "turn", 0)
    assert_same(before, pair.target)
    assert "nor this" in [path.read_text() for path in pair.target.glob(".snapsync/aside/*/1/*")]
    shutil.rmtree(pair.target / ".snapsync/aside")
    go_on(pair, after)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_directory_that_is_made_immutable_meanwhile_takes_the_round_back(
    place: Place, kinds: tuple[str, str]
) -> None:
    primed = Primed.fresh(place, kinds)
    pair = primed.pair
    old = snapshots(pair.target)[-1]["id"]
    before, after = primed.next_turn()
    with meanwhile(pair, "commit.marked", 1, "not permitted", "nothing was changed"):
        set_flags(pair.target / "turn/a", worlds.IMMUTABLE)
    assert_at(pair, old, before)
    go_on(pair, after)


def occupy(file: Path) -> None:
    """Takes all the space there is."""
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))


def test_a_disk_that_fills_meanwhile_takes_the_round_back(file_systems: FileSystems, place: Place) -> None:
    """The holes that the commit is to fill have no space any more, and neither has the journal."""
    small = file_systems.mount("ext4", 64 * MIB)
    pair = Pair(place("xfs"), small / "copy")
    for number in range(20):
        fill(pair.source / f"sparse-{number}", MIB, 4096, number)
    pair.sync()
    old, before = snapshots(pair.target)[-1]["id"], freeze(pair.target)
    for number in range(20):
        fill(pair.source / f"sparse-{number}", 0, 100_000, number)
    with meanwhile(pair, "commit.marked", 1, "No space left", "nothing was changed"):
        occupy(small / "ballast")
    assert_at(pair, old, before)
    (small / "ballast").unlink()
    pair.sync()
    file_systems.unmount(small)


def discard_drift(place: Place, kind: str) -> tuple[list[object], Path, Callable[[], object]]:
    pair = Pair.make(place, (kind, kind))
    world = worlds.World(pair.source, 4)
    world.grow(40)
    pair.sync()
    fill(pair.target / "by-hand", 0, 50_000, 1)
    worlds.World(pair.target, 5).churn(15)
    return ["sync", pair.source, pair.target, "--check", "--discard-drift"], pair.target, pair.sync


def restore(place: Place, kind: str) -> tuple[list[object], Path, Callable[[], object]]:
    volume = place(kind)
    world = worlds.World(volume, 4)
    world.grow(40)
    done("snapshot", volume)
    first = freeze(volume)
    world.churn(30)
    return ["restore", f"{volume}@0"], volume, lambda: assert_same(first, volume)


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4"])
@pytest.mark.parametrize("begin", [restore, discard_drift])
def test_a_tree_that_cannot_go_back_to_a_snapshot_stays_as_it_is(
    place: Place, kind: str, begin: Callable[..., tuple[list[object], Path, Callable[[], object]]]
) -> None:
    words, volume, afterwards = begin(place, kind)
    now = freeze(volume)
    for fault in ("commit.detach:2", "commit.attached:1", "commit.attributes:2"):
        ran = run(*words, "-q", env={"SNAPSYNC_FAULT": f"{fault}=fail"})
        assert_told(ran, "not permitted", "nothing was changed", codes=(1,))
        assert_same(now, volume)
        assert status(volume)["unfinished"] is None
        kept = [snap for snap in snapshots(volume) if snap["name"].startswith(("before-restore-", "drift-"))]
        assert_same(now, restored(volume, kept[-1]["id"], place))
    done(*words)
    afterwards()
    assert_tidy(volume)


def test_a_round_over_a_channel_goes_back_and_its_snapshot_goes(place: Place, tmp_path: Path) -> None:
    primed = Primed.fresh(place, ("xfs", "xfs"))
    pair = primed.pair
    rsh = tmp_path / "rsh"
    rsh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    rsh.chmod(0o755)
    for fault, is_back in (("commit.attach:3=fail", True), ("commit.cleaned:1=fail", False)):
        before, after = primed.next_turn()
        taken = len(snapshots(pair.source))
        there = wrapped(tmp_path / fault[:9], SNAPSYNC_FAULT=fault)
        ran = run("sync", pair.source, f"host:{pair.target}", "--rsh", rsh, "--remote-path", there, "-q")
        assert ran.code == 1, ran
        assert ("nothing was changed" in ran.err) == is_back, ran
        assert len(snapshots(pair.source)) == taken + (not is_back)
        assert_same(before if is_back else after, pair.target)
        pair.sync()


def test_a_commit_of_an_older_build_goes_on_and_not_back(place: Place) -> None:
    """Its journal does not say that anything was saved."""
    primed = Primed.fresh(place, ("xfs", "ext4"))
    pair = primed.pair
    _, after = primed.next_turn()
    run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": "commit.attach:4"})
    file = store(pair.target) / "journal.json"
    journal = json.loads(file.read_text())
    del journal["saved"]
    file.write_text(json.dumps(journal))
    assert_told(run("recover", pair.target, "--back"), "cannot be undone", codes=(3,))
    recover(pair.target)
    assert_same(after, pair.target)
    pair.sync()


def test_a_name_that_an_older_build_linked_is_moved_no_more(place: Place) -> None:
    primed = Primed.fresh(place, ("xfs", "ext4"))
    pair = primed.pair
    _, after = primed.next_turn()
    run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": "commit.detached:1"})
    held = pair.target.glob(".snapsync/incoming/*/held/*")
    (linked,) = [path for path in held if path.is_file() and path.stat().st_nlink > 1]
    os.link(linked, pair.target / "names-2")
    recover(pair.target)
    assert_same(after, pair.target)
    pair.sync()


def test_an_inode_never_has_more_names_than_before_or_after(pair: Pair) -> None:
    """ext4 takes 65,000: all of them may change."""
    pair = Pair(pair.source, pair.target.with_name("on-ext4"))
    names = [pair.source / f"{number:05}" for number in range(500)]
    fill(names[0], 0, 10_000, 1)
    for name in names[1:]:
        os.link(names[0], name)
    pair.sync()
    for name in names:
        name.rename(name.with_name(f"x{name.name}"))
    pair.sync()
    os.link(pair.source / "x00000", pair.source / "more")
    (pair.source / "deep/er").mkdir(parents=True)
    os.link(pair.source / "more", pair.source / "deep/er/more")
    pair.sync()
