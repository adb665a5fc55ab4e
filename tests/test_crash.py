"""Killed at any step, the standby holds the old snapshot or the new one after the next command.

The steps are the fault points that a round passes; the process kills itself there. The pair of XFS volumes
is killed at every point, on the first, the middle and the last pass; the other pairs share the points.
SNAPSYNC_CRASH_ALL=1 does all of it on every pair.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pool
import pytest
import worlds
from machine import Pair, Place, done, passed, run, sh, snapshots, status, store, verified
from oracle import Picture, assert_same, freeze, same
from worlds import World, exchange, fill, punch, rewrite_quietly, set_flags, set_xattr

ALL = os.environ.get("SNAPSYNC_CRASH_ALL") == "1"
PAIRS = [("xfs", "xfs"), ("btrfs", "btrfs"), ("xfs", "ext4")]
K = 1024

Case = tuple[str, int]


# --- a round that is the same each time -------------------------------------------------------


def lay_out(root: Path) -> None:
    """What `advance` needs."""
    for name in ("swap-a", "swap-b", "ring/1", "ring/2", "ring/3", "quiet", "file-or-dir", "locked"):
        (root / name).parent.mkdir(exist_ok=True)
        fill(root / name, 0, 5_000, len(name))
    for name in ("turn/a/one", "turn/a/b/two", "dir-or-file/inside", "here/item", "there/other"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        fill(root / name, 0, 2_000, len(name))
    fill(root / "names-0", 0, 3_000, 7)
    os.link(root / "names-0", root / "names-1")
    fill(root / "large", 0, 600 * K, 1)
    for name in ("copy-0", "mirror"):
        sh("cp", "--reflink=auto", root / "large", root / name)
    grow_subtree(root, 0)


def advance(root: Path, turn: int) -> None:
    """Changes of every kind, of the same shape each time: a turn passes the same points as the one before."""
    exchange(root / "swap-a", root / "swap-b")
    exchange(root / "ring/1", root / "ring/2")
    exchange(root / "ring/2", root / "ring/3")
    turn_over(root / "turn")
    exchange(root / "file-or-dir", root / "dir-or-file")
    exchange(root / "here", root / "there")
    (root / f"copy-{turn - 1}").unlink()
    sh("cp", "--reflink=auto", root / "large", root / f"copy-{turn}")
    (root / f"names-{turn - 1}").unlink()
    os.link(root / f"names-{turn}", root / f"names-{turn + 1}")
    fill(root / "large", 64 * K + 5, 8 * K, turn)
    filled, emptied = (200 * K, 400 * K) if turn % 2 else (400 * K, 200 * K)
    punch(root / "large", emptied, 64 * K)
    fill(root / "large", filled, 64 * K, turn)
    sh("cp", "--reflink=auto", root / "large", root / "mirror")
    rewrite_quietly(root / "quiet", 100, 100, turn)
    os.chmod(root / "quiet", 0o600 + turn % 8)
    set_xattr(root / "quiet", b"user.turn", b"%d" % turn)
    set_flags(root / "locked", 0, worlds.IMMUTABLE)
    fill(root / "locked", 0, 100, turn)
    set_flags(root / "locked", worlds.IMMUTABLE)
    worlds.remove(root / f"tree-{turn - 1}")
    grow_subtree(root, turn)


def turn_over(folder: Path) -> None:
    """Of two nested directories the inner one becomes the outer one."""
    (outer,) = folder.iterdir()
    (inner,) = [path for path in outer.iterdir() if path.is_dir()]
    raised = inner.rename(folder / inner.name)
    outer.rename(raised / outer.name)


def grow_subtree(root: Path, turn: int) -> None:
    top = root / f"tree-{turn}"
    for number in range(4):
        folder = top / f"{number}" / "deep"
        folder.mkdir(parents=True)
        fill(folder / "file", 0, 9_000, turn * 10 + number)
    os.link(top / "0/deep/file", top / "1/link")
    os.symlink("nowhere", top / "symlink")
    worlds.node(top / "fifo", worlds.FIFO)
    worlds.preallocate_past_end(top / "0/deep/file", 0, 64 * K)
    worlds.touch(top / "2", 1_000_000_007)


@dataclass
class Primed:
    """A pair that is in step, ready for the next turn."""

    pair: Pair
    turn: int = 0

    @classmethod
    def fresh(cls, place: Place, kinds: tuple[str, str], synced: bool = True) -> Primed:
        primed = cls(Pair.make(place, kinds))
        lay_out(primed.pair.source)
        if synced:
            primed.pair.sync()
        return primed

    def next_turn(self) -> tuple[Picture, Picture]:
        """Changes the primary; what it held before, and what it holds now."""
        before = freeze(self.pair.source)
        self.turn += 1
        advance(self.pair.source, self.turn)
        return before, freeze(self.pair.source)


def hits_of_a_round(pair: Pair, trace: Path) -> Counter[str]:
    """How often a round passes each point."""
    done("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT_TRACE": trace})
    hits = Counter(passed(trace))
    assert hits, "no fault point was passed: is fault injection built in?"
    return hits


def cases(hits: Counter[str], every: bool) -> list[Case]:
    """Where to be killed: on the first, the middle and the last pass of each point, or on one of them."""
    if every or ALL:
        return [(point, n) for point, last in hits.items() for n in sorted({1, last // 2 + 1, last})]
    return [(point, last // 2 + 1) for point, last in hits.items()]


# --- killing and healing ----------------------------------------------------------------------


def kill(pair: Pair, case: Case) -> None:
    point, hit = case
    ran = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": f"{point}:{hit}"})
    assert ran.code == -signal.SIGKILL, f"not killed: {ran}"


@contextmanager
def without_primary(pair: Pair) -> Iterator[None]:
    """The primary is lost."""
    away = pair.source.with_name("away-" + pair.source.name)
    pair.source.rename(away)
    try:
        yield
    finally:
        away.rename(pair.source)


def recover(target: Path) -> None:
    """A mutating verb heals before all else; this one then refuses, as a standby takes no snapshots."""
    ran = run("snapshot", target)
    assert ran.code == 3, ran
    unfinished = status(target)["unfinished"]
    # What was staged is kept for the same delta; the tree was not touched.
    assert unfinished is None or unfinished["phase"] == "staging"


def assert_old_or_new(target: Path, before: Picture, after: Picture, old: str) -> None:
    """The tree and the newest snapshot agree, and are those of before or those of after."""
    latest = snapshots(target)[-1]["id"]
    assert_same(before if latest == old else after, target)
    verified(f"{target}@latest", target)


def assert_tidy(volume: Path, *, thinned: bool = False) -> None:
    """Nothing of the killed run is left in the store; where it has thinned out, more is missing."""
    listed = {snap["id"] for snap in snapshots(volume)}
    assert {path.name for path in (store(volume) / "snapshots").iterdir()} == listed
    assert not list(volume.glob(".snapsync/incoming/*"))
    if (store(volume) / "pool").exists():
        there, named = pool.objects_there(volume), pool.objects_named(volume, listed)
        # What the tree of a standby has needs no object.
        in_tree = json.loads((store(volume) / "volume.json").read_text()).get("partly_in_tree")
        assert there <= named if in_tree or thinned else there == named


def heal_alone(pair: Pair, before: Picture, after: Picture, old: str) -> None:
    with without_primary(pair):
        recover(pair.target)
        assert_old_or_new(pair.target, before, after, old)
    assert_same(after, pair.source)


def heal_by_the_next_round(pair: Pair, before: Picture, after: Picture, old: str) -> None:
    """The round that follows does it; what it must come to is asserted for both ways."""


Heal = Callable[[Pair, Picture, Picture, str], None]


@pytest.mark.parametrize("heal", [heal_alone, heal_by_the_next_round])
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_killed_round_leaves_the_old_snapshot_or_the_new(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str], heal: Heal
) -> None:
    first = Primed.fresh(place, kinds)
    first.next_turn()
    ready = [first]
    hits = hits_of_a_round(first.pair, tmp_path / "trace")
    # Of the sampled pairs, half of the points go to each way of healing.
    half = slice(None) if kinds == PAIRS[0] or ALL else slice(heal is heal_alone, None, 2)
    for case in cases(hits, every=kinds == PAIRS[0] and heal is heal_alone)[half]:
        with subtests.test(point=case[0], hit=case[1]):
            # A pair that failed is not used again.
            held = ready.pop() if ready else Primed.fresh(place, kinds)
            old = snapshots(held.pair.target)[-1]["id"]
            before, after = held.next_turn()
            kill(held.pair, case)
            heal(held.pair, before, after, old)
            held.pair.sync()
            assert_same(after, held.pair.target)
            assert_tidy(held.pair.source)
            assert_tidy(held.pair.target)
            ready.append(held)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_killed_first_round_leaves_nothing_or_everything(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    hits = hits_of_a_round(Primed.fresh(place, kinds, synced=False).pair, tmp_path / "trace")
    for case in cases(hits, every=False):
        with subtests.test(point=case[0], hit=case[1]):
            pair = Primed.fresh(place, kinds, synced=False).pair
            whole = freeze(pair.source)
            kill(pair, case)
            # The root's own time may still be that of making the store.
            assert_same(whole, pair.source, root_mtime=False)
            if (store(pair.target) / "volume.json").exists():
                with without_primary(pair):
                    run("snapshot", pair.target)
                held = freeze(pair.target)
                assert len(held.entries) == 1 or same(held, whole, root_mtime=False)
            pair.sync()
            assert_tidy(pair.source)
            assert_tidy(pair.target)


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_first_round_that_is_killed_while_it_takes_away_what_it_made_is_no_hindrance(
    place: Place, kinds: tuple[str, str]
) -> None:
    """A store without its record is none: the next round completes it. First goes the standby's."""
    for hit in (1, 2):
        pair = Primed.fresh(place, kinds, synced=False).pair
        whole = freeze(pair.source)
        faults = f"commit.attached:1=fail,init.undone:{hit}"
        assert run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": faults}).code == -signal.SIGKILL
        undone = pair.target if hit == 1 else pair.source
        assert store(undone).is_dir()
        assert "is not a volume" in run("status", undone).err
        pair.sync()
        assert_same(whole, pair.target, root_mtime=False)
        assert_tidy(pair.source)
        assert_tidy(pair.target)


@pytest.mark.parametrize("point", ["commit.marked", "commit.attach", "commit.attributes"])
def test_a_crash_while_healing_heals_too(place: Place, tmp_path: Path, point: str) -> None:
    """Killed again and again, at each point that healing passes."""
    primed = Primed.fresh(place, ("xfs", "xfs"))
    pair = primed.pair
    primed.next_turn()
    hits = hits_of_a_round(pair, tmp_path / "trace")
    old = snapshots(pair.target)[-1]["id"]
    before, after = primed.next_turn()
    kill(pair, (point, hits[point] // 2 + 1))
    for later in [later for later in hits if later.startswith("commit.")]:
        ran = run("snapshot", pair.target, env={"SNAPSYNC_FAULT": f"{later}:1"})
        assert ran.code in (-signal.SIGKILL, 3), ran
    recover(pair.target)
    assert_old_or_new(pair.target, before, after, old)
    pair.sync()


@pytest.mark.parametrize("seed", range(int(os.environ.get("SNAPSYNC_CRASH_SEEDS", 2))))
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_random_changes_survive_kills_at_random(
    pair: Pair, tmp_path: Path, kinds: tuple[str, str], seed: int
) -> None:
    world, chance = World(pair.source, seed), random.Random(seed)
    world.grow(80)
    done("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT_TRACE": tmp_path / "trace"})
    points = sorted(set(passed(tmp_path / "trace")))
    try:
        for _ in range(4):
            before, old = freeze(pair.source), snapshots(pair.target)[-1]["id"]
            world.churn(40)
            after = freeze(pair.source)
            case = f"{chance.choice(points)}:{chance.randrange(1, 12)}"
            world.log.append(f"# killed at {case}")
            ran = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": case})
            assert ran.code in (0, -signal.SIGKILL), ran
            recover(pair.target)
            assert_old_or_new(pair.target, before, after, old)
            pair.sync()
    except Exception as error:
        error.add_note("\n".join(world.log))
        raise


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_killed_snapshot_is_whole_or_not_there(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kind: str
) -> None:
    volume = place(kind)
    lay_out(volume)
    trace = tmp_path / "trace"
    done("snapshot", volume, env={"SNAPSYNC_FAULT_TRACE": trace})
    points = Counter(passed(trace))
    del points["init.store"]  # passed only once in a volume's life
    for turn, (point, hits) in enumerate(points.items(), 1):
        with subtests.test(point=point):
            advance(volume, turn)
            ran = run("snapshot", volume, env={"SNAPSYNC_FAULT": f"{point}:{hits // 2 + 1}"})
            assert ran.code in (0, -signal.SIGKILL)
            taken = done("snapshot", volume)["snapshot"]["id"]
            assert_tidy(volume)
            verified(f"{volume}@{taken}", volume)


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_killed_delete_leaves_the_other_snapshots_whole(place: Place, tmp_path: Path, kind: str) -> None:
    volume, trace = place(kind), tmp_path / "trace"
    lay_out(volume)
    for name in ("first", "middle", "last"):
        done("snapshot", volume, "--name", name)
        advance(volume, {"first": 1, "middle": 2, "last": 3}[name])
    done("delete", f"{volume}@first", env={"SNAPSYNC_FAULT_TRACE": trace})
    for point in dict.fromkeys(passed(trace)):
        run("delete", f"{volume}@middle", env={"SNAPSYNC_FAULT": f"{point}:1"})
        done("snapshot", volume)
        assert_tidy(volume)
        assert "last" in [snap["name"] for snap in snapshots(volume)]
    names = [snap["name"] for snap in snapshots(volume)]
    if "middle" in names:
        done("delete", f"{volume}@middle")
    verified(f"{volume}@latest", volume)


def test_every_fault_point_is_passed_by_these_tests(place: Place, tmp_path: Path) -> None:
    """A point that no test reaches protects nothing."""
    native = pytest.importorskip("snapsync._native")
    trace = tmp_path / "trace"
    env = {"SNAPSYNC_FAULT_TRACE": trace}
    for kinds in PAIRS:
        primed = Primed.fresh(place, kinds, synced=False)
        pair = primed.pair
        done("sync", pair.source, pair.target, env=env)
        primed.next_turn()
        done("sync", pair.source, pair.target, env=env)
        done("delete", f"{pair.source}@0", env=env)
        done("promote", pair.target, env=env)
        primed.next_turn()
        done("snapshot", pair.source)
        (pair.source / "more").touch()
        done("rejoin", pair.source, pair.target, env=env)
        done("switch", pair.target, pair.source, env=env)
    # Those of a receive beside other snapshots are passed, and killed at, by rust/snapshot/tests/received.rs.
    # Those of a restore by test_restore_to.py, of a clone by test_clones.py, of mount by test_shelves.py.
    # Those of another manifest for what is staged by rust/engine/src/remote/tests.rs.
    # Those of the way back by test_undo.py, that of a store which is taken away by a test above.
    # That of a snapshot which is taken again by test_light.py, those of what leaves a pack by test_packs.py.
    # Those of before-images by test_before.py, that of a fold by test_history_attack.py.
    # That of the owners of a standby by test_owners.py.
    others = (
        "carry.",
        "receive.",
        "retake.",
        "pack.",
        "before.",
        "commit.owned",
        "displace.under",
        "snapshot.successor",
        "restore.",
        "mount.",
        "history.",
        "hooks.",
        "taking.",
        "clone.",
        "undo.",
        "init.undone",
    )
    points = {point for point in native.fault_points() if not point.startswith(others)}
    assert points <= set(passed(trace))
