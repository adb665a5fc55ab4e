"""The way over and the way back: promote, rejoin, switch.

Whoever is primary, nothing that was ever written is lost: it is in the tree or in a snapshot that is kept.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from machine import Pair, Place, assert_told, command, done, passed, run, snapshots, status, verified
from oracle import Picture, assert_same, differences, freeze
from remote import Server, wrapped
from test_crash import assert_tidy
from worlds import World, bulk, fill

PAIRS = [("btrfs", "btrfs"), ("xfs", "xfs"), ("xfs", "ext4"), ("btrfs", "xfs"), ("ext4", "btrfs")]


@dataclass
class Two:
    """Two volumes, and how the command is told of each."""

    a: Path
    b: Path
    at_b: str = ""
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.at_b = self.at_b or str(self.b)

    def name(self, volume: Path) -> str:
        return self.at_b if volume == self.b else str(volume)

    def cut_off(self, fault: str, tmp_path: Path) -> None:
        """A round of which whoever stages it is killed."""
        if not self.options:
            assert self.run("sync", self.a, self.b, env={"SNAPSYNC_FAULT": fault}).code == -signal.SIGKILL
            return
        rsh, remote_path = self.options[:2], wrapped(tmp_path / "killed", SNAPSYNC_FAULT=fault)
        ran = run("sync", self.a, self.at_b, *rsh, "--remote-path", remote_path)
        assert ran.code == 5, ran

    def run(self, verb: str, one: Path, other: Path, *more: str, **how: Any) -> Any:
        return run(verb, self.name(one), self.name(other), *self.options, *more, **how)

    def done(self, verb: str, one: Path, other: Path, *more: str, **how: Any) -> dict[str, Any]:
        return done(verb, self.name(one), self.name(other), *self.options, *more, **how)


def role(volume: Path) -> tuple[str, int]:
    info = status(volume)["volume"]
    return info["role"], info["epoch"]


def restored(volume: Path, snap: str, place: Place) -> Path:
    """The tree of any snapshot, made by what has its own tests: a delta, received whole."""
    kind = status(volume)["volume"]["filesystem"]
    to, file = place(kind), place.absent(kind)
    done("send", f"{volume}@{snap}", "-o", file)
    done("receive", "--as-snapshot", to, "-i", file, "--name", "it")
    return to / "it"


@pytest.fixture(params=[*PAIRS, ("xfs", "xfs", "ssh"), ("btrfs", "btrfs", "ssh")], ids="-".join)
def two(request: pytest.FixtureRequest, place: Place) -> Two:
    a, b, *ssh = request.param
    both = Two(place(a), place.absent(b))
    if ssh:
        server: Server = request.getfixturevalue("server")
        client = server.client()
        both.at_b, both.options = client.at(both.b), client.options
    return both


def test_a_disaster_and_the_way_home(two: Two, place: Place, tmp_path: Path) -> None:
    """A works and syncs, and is killed in the middle of a sync; B is promoted, and works; A comes back with
    what B never got; a stale sync is refused; A rejoins; the roles go home. Nothing is lost anywhere."""
    world = World(two.a, seed=5)
    world.grow(120)
    two.done("sync", two.a, two.b)
    world.churn(40)
    two.done("sync", two.a, two.b)
    at_the_disaster = freeze(two.a)

    # A round is killed in the middle.
    world.churn(40)
    bulk(two.a / "late", 40, size=20_000)
    half_way = freeze(two.a)
    two.cut_off("stage.frame:3", tmp_path)
    fill(two.a / "stray", 0, 100_000, 9)
    lost_state = freeze(two.a)

    promoted = done("promote", two.b)
    assert role(two.b) == ("primary", 2)
    assert_same(at_the_disaster, two.b)
    assert promoted["newest"]["id"] == snapshots(two.b)[-2]["id"]
    of_b = World(two.b, seed=6)
    of_b.churn(60)
    done("snapshot", two.b)
    of_b.churn(20)

    # The old primary comes back, and does not know.
    before = freeze(two.b)
    ran = two.run("sync", two.a, two.b, "-q")
    assert_told(ran, "replaced", "rejoin", codes=(3,))
    assert status(two.a)["replaced"]["epoch"] == 2
    assert_same(before, two.b)
    assert_same(lost_state, two.a)

    # What it would leave behind, and what it does.
    file = tmp_path / "left.arrow"
    two.done("rejoin", two.a, two.b, "--preview", "--output", str(file))
    assert "stray" in pa.ipc.open_file(file).read_all()["path"].to_pylist()
    assert_same(lost_state, two.a)
    report = two.done("rejoin", two.a, two.b)
    assert_same(two.a, two.b)
    assert role(two.a) == ("standby", 2)
    assert status(two.a)["replaced"] is None
    left = report["left"]
    assert all(snap["aside"] for snap in left)
    assert_same(half_way, restored(two.a, left[0]["id"], place))
    assert_same(lost_state, restored(two.a, left[-1]["id"], place))

    # Some rounds the other way, then home.
    of_b.churn(30)
    two.done("sync", two.b, two.a)
    assert_same(two.b, two.a)
    of_b.churn(30)
    last = freeze(two.b)
    two.done("switch", two.b, two.a)
    assert role(two.a) == ("primary", 3)
    assert role(two.b) == ("standby", 3)
    assert_same(last, two.a)
    assert_same(last, two.b)
    World(two.a, seed=7).churn(40)
    two.done("sync", two.a, two.b)
    assert_same(two.a, two.b)
    verified(f"{two.a}@latest", f"{two.b}@latest")
    assert_tidy(two.a)
    assert_tidy(two.b)
    ids = {snap["id"] for snap in snapshots(two.a)}
    assert {snap["id"] for snap in left} <= ids


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_going_back_writes_only_the_difference(pair: Pair, kinds: tuple[str, str]) -> None:
    bulk(pair.source, 300, size=8_000)
    fill(pair.source / "large", 0, 8_000_000, 1)
    pair.sync()
    done("promote", pair.target)
    fill(pair.source / "large", 400_000, 4_096, 2)
    (pair.source / "new").write_bytes(b"x" * 5_000)
    report = done("rejoin", pair.source, pair.target)
    assert_same(pair.source, pair.target)
    back = report["back"]
    # The root, the large file and the new one.
    assert back["rows"] <= 3
    assert back["data_bytes"] <= 4_096 if "data_bytes" in back else True
    assert len(report["left"]) == 1


@pytest.mark.parametrize("kinds", [("btrfs", "btrfs"), ("xfs", "xfs"), ("ext4", "ext4")], ids="-".join)
def test_a_standby_that_went_another_way_rejoins(pair: Pair, place: Place, kinds: tuple[str, str]) -> None:
    """C has a snapshot of the old primary that the new one never got."""
    third = place.absent(kinds[1])
    bulk(pair.source, 50)
    pair.sync()
    done("sync", pair.source, third, "--snap", "latest")
    (pair.source / "more").write_bytes(b"more")
    done("sync", pair.source, third)
    newest = freeze(third)
    done("promote", pair.target)
    assert_told(run("sync", "-q", pair.target, third), "rejoin", codes=(3,))
    assert_same(newest, third)
    report = done("rejoin", third, pair.target)
    assert [snap["name"] for snap in report["left"]] == [snapshots(pair.source)[-1]["name"]]
    assert_same(pair.target, third)
    # The old primary learns of it from a standby that follows the new one.
    assert_told(run("sync", "-q", pair.source, third), "replaced", codes=(3,))
    # It is that one's word, and no reason to leave others without rounds.
    done("sync", pair.source, place.absent("xfs"))
    done("rejoin", pair.source, pair.target)
    assert_same(pair.source, pair.target)


def test_nothing_is_left_where_nothing_was_written(pair: Pair) -> None:
    bulk(pair.source, 20)
    pair.sync()
    done("promote", pair.target)
    report = done("rejoin", pair.source, pair.target)
    assert report["left"] == []
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize(
    ("verb", "words"), [("promote", "already"), ("rejoin", "volume"), ("switch", "volume")]
)
def test_roles_that_make_no_sense_change_nothing(pair: Pair, place: Place, verb: str, words: str) -> None:
    bulk(pair.source, 5)
    pair.sync()
    other = place("xfs")
    bulk(other, 3)
    done("snapshot", other)
    before = [status(volume)["volume"] for volume in (pair.source, pair.target, other)]
    if verb == "promote":
        assert_told(run(verb, "-q", pair.source), words, codes=(3,))
        assert_told(run(verb, "-q", place("xfs")), codes=(2,))
    else:
        assert_told(run(verb, "-q", pair.source, other), "never were", codes=(3,))
        assert_told(run(verb, "-q", pair.source, pair.source), "the same volume", codes=(2,))
        assert_told(run(verb, "-q", pair.source, place.absent("xfs")), codes=(2,))
        assert_told(run(verb, "-q", "a:/b", "c:/d"), "other machines", codes=(2,))
    if verb == "rejoin":
        assert_told(run(verb, "-q", pair.source, pair.target), "standby", codes=(3,))
    assert [status(volume)["volume"] for volume in (pair.source, pair.target, other)] == before


def test_the_newer_primary_does_not_follow_the_older(pair: Pair) -> None:
    bulk(pair.source, 5)
    pair.sync()
    done("promote", pair.target)
    assert_told(run("rejoin", "-q", pair.target, pair.source), "epoch", codes=(3,))


def test_a_server_that_is_kept_to_a_directory_does_not_change_roles(pair: Pair, server: Server) -> None:
    bulk(pair.source, 5)
    pair.sync()
    done("promote", pair.target)

    client = server.client(forced=f"{command()[0]} serve --restrict-to {pair.source.parent}")
    ran = run("rejoin", "-q", client.at(pair.source), pair.target, *client.options)
    assert_told(ran, "roles", codes=(3,))
    assert role(pair.source) == ("primary", 1)


def test_the_standbys_of_a_primary_are_handed_over(pair: Pair, place: Place) -> None:
    """The new primary knows what the others need as their base."""
    third = place.absent("xfs")
    bulk(pair.source, 20)
    pair.sync()
    done("sync", pair.source, third, "--snap", "latest")
    (pair.source / "more").write_bytes(b"more")
    done("switch", pair.source, pair.target)
    paths = {standby["path"] for standby in status(pair.target)["standbys"]}
    assert str(third) in paths
    done("sync", pair.target, third)
    assert_same(pair.target, third)


def test_switching_there_and_back_again_and_again_loses_nothing(two: Two) -> None:
    chance = random.Random(8)
    worlds = {volume: World(volume, seed=n) for n, volume in enumerate((two.a, two.b))}
    worlds[two.a].grow(60)
    two.done("sync", two.a, two.b)
    primary, standby = two.a, two.b
    for turn in range(4):
        worlds[primary].churn(chance.randrange(30))
        held = freeze(primary)
        two.done("switch", primary, standby)
        primary, standby = standby, primary
        assert role(primary) == ("primary", turn + 2)
        assert_same(held, primary)
        assert_same(held, standby)


# --- kills ------------------------------------------------------------------------------------


def killed_at(point: str, hit: int, *words: object) -> bool:
    ran = run(*words, env={"SNAPSYNC_FAULT": f"{point}:{hit}"})
    return ran.code == -signal.SIGKILL


def points_of(trace: Path, *words: object) -> list[tuple[str, int]]:
    """Where a run of these words passes: each point on its first and its last time.

    Not those of packs: how old a small file is says whether it is in one, and test_packs has them.
    """
    done(*words, env={"SNAPSYNC_FAULT_TRACE": trace})
    hits = Counter(point for point in passed(trace) if not point.startswith("pack."))
    return [(point, n) for point, last in hits.items() for n in sorted({1, last})]


@dataclass
class Fallen:
    """A pair after a failover: the old primary has changes of its own, and the new one has others."""

    a: Path
    b: Path
    of_a: Picture = field(init=False)
    of_b: Picture = field(init=False)

    @classmethod
    def make(cls, place: Place, kinds: tuple[str, str]) -> Fallen:
        fallen = cls(place(kinds[0]), place.absent(kinds[1]))
        World(fallen.a, seed=1).grow(40)
        done("sync", fallen.a, fallen.b)
        World(fallen.a, seed=2).churn(15)
        done("snapshot", fallen.a)
        World(fallen.a, seed=3).churn(15)
        fallen.of_a = freeze(fallen.a)
        done("promote", fallen.b)
        World(fallen.b, seed=4).churn(15)
        fallen.of_b = freeze(fallen.b)
        return fallen

    def everything_is_kept(self, place: Place) -> None:
        aside = [snap for snap in snapshots(self.a) if snap.get("aside")]
        trees = [restored(self.a, snap["id"], place) for snap in aside]
        assert any(not differences(self.of_a, freeze(tree)) for tree in trees)


@pytest.mark.parametrize("kinds", [("btrfs", "btrfs"), ("xfs", "ext4")], ids="-".join)
def test_a_killed_rejoin_goes_on_and_loses_nothing(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    first = Fallen.make(place, kinds)
    for point, hit in points_of(tmp_path / "trace", "rejoin", first.a, first.b):
        with subtests.test(point=point, hit=hit):
            fallen = Fallen.make(place, kinds)
            assert killed_at(point, hit, "rejoin", fallen.a, fallen.b)
            done("rejoin", fallen.a, fallen.b)
            assert_same(fallen.of_b, fallen.a)
            assert_same(fallen.of_b, fallen.b)
            assert_tidy(fallen.a)
            # Where no blocks are shared, what was changed after its promotion is lost to older snapshots.
            assert_tidy(fallen.b, thinned=kinds[1] == "ext4")
            verified(f"{fallen.a}@latest", fallen.a)
            fallen.everything_is_kept(place)


@pytest.mark.parametrize("kinds", [("btrfs", "btrfs"), ("xfs", "xfs")], ids="-".join)
def test_a_killed_promotion_is_done_or_can_be_done_again(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    def pair() -> Pair:
        made = Pair.make(place, kinds)
        World(made.source, seed=1).grow(30)
        made.sync()
        return made

    for point, hit in points_of(tmp_path / "trace", "promote", pair().target):
        with subtests.test(point=point, hit=hit):
            ready = pair()
            assert killed_at(point, hit, "promote", ready.target)
            if role(ready.target)[0] == "standby":
                done("promote", ready.target)
            assert role(ready.target) == ("primary", 2)
            World(ready.target, seed=2).churn(10)
            done("rejoin", ready.source, ready.target)
            assert_same(ready.source, ready.target)
            assert_tidy(ready.source)
            assert_tidy(ready.target)


@pytest.mark.parametrize("kinds", [("btrfs", "btrfs"), ("xfs", "xfs")], ids="-".join)
def test_a_killed_switch_goes_on(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    def pair() -> Pair:
        made = Pair.make(place, kinds)
        World(made.source, seed=1).grow(20)
        made.sync()
        World(made.source, seed=2).churn(10)
        return made

    ready = pair()
    for point, hit in points_of(tmp_path / "trace", "switch", ready.source, ready.target):
        with subtests.test(point=point, hit=hit):
            ready = pair()
            held = freeze(ready.source)
            assert killed_at(point, hit, "switch", ready.source, ready.target)
            done("switch", ready.source, ready.target)
            assert role(ready.target) == ("primary", 2)
            assert role(ready.source) == ("standby", 2)
            assert_same(held, ready.source)
            assert_same(held, ready.target)
            assert_tidy(ready.source)
            assert_tidy(ready.target)


def test_a_switch_names_the_primary_first(pair: Pair, place: Place) -> None:
    """The other way round nothing is changed, and the right order is told."""
    third = place.absent("xfs")
    (pair.source / "file").write_bytes(b"1")
    pair.sync()
    done("sync", pair.source, third, "--snap", "latest")

    def refused(standby: Path, primary: Path) -> None:
        (primary / "file").write_bytes(b"2")
        before = [(role(volume), snapshots(volume)) for volume in (standby, primary)]
        ran = run("switch", "-q", standby, primary)
        assert_told(ran, f"`snapsync switch {primary} {standby}`", codes=(3,))
        assert [(role(volume), snapshots(volume)) for volume in (standby, primary)] == before

    refused(pair.target, pair.source)
    done("switch", pair.source, pair.target)
    refused(pair.source, pair.target)
    done("sync", pair.target, third)
    refused(third, pair.target)


def test_a_primary_that_is_written_to_is_not_switched(pair: Pair, tmp_path: Path) -> None:
    import threading

    bulk(pair.source, 10)
    pair.sync()
    stop = threading.Event()

    def work(name: str) -> None:
        while not stop.is_set():
            (pair.source / name).write_bytes(random.randbytes(3_000))

    # Several, because a busy machine may hold up one for as long as a switch looks.
    writers = [threading.Thread(target=work, args=[f"busy-{number}"]) for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        ran = run("switch", "-q", pair.source, pair.target)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert_told(ran, "written to", codes=(3,))
    assert (role(pair.source), role(pair.target)) == (("primary", 1), ("standby", 1))
    done("switch", pair.source, pair.target)
    assert_same(pair.source, pair.target)
