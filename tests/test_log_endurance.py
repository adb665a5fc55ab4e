"""Logs over many rounds: primaries that write at once until they are killed, and standbys that follow when
they like.

`SNAPSYNC_LOG_KILLS` and `SNAPSYNC_LOG_ROUNDS` say how many there are, `SNAPSYNC_LOG_SEED` which; `make soak`
takes many. Each test prints what it has seen, which `-rP` shows.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from http_proxy import Answer, Asked, Forward, Proxy, proxy, where
from machine import (
    KINDS,
    MAKE,
    MIB,
    OPTIONS,
    Place,
    Ran,
    assert_told,
    done,
    run,
    sh,
    snapshots,
    start,
    status,
    subvolume,
    verified,
)
from object_store import BucketLog, Log, Logs
from oracle import Picture, assert_same, freeze
from worlds import World, fill

KILLS = int(os.environ.get("SNAPSYNC_LOG_KILLS", "12"))
ROUNDS = int(os.environ.get("SNAPSYNC_LOG_ROUNDS", "6"))
SEED = 1000 * int(os.environ.get("SNAPSYNC_LOG_SEED", "0"))
PLACES = ("directory", "seaweedfs")
CASES = len(PLACES) * (len(KINDS) + 1)
"""In how many tests the kills are."""

LAYOUT = {"layout"}
"""After a promotion the last block of what is preallocated may hold zeros instead: it reads the same."""

LOST = (
    "another snapsync has just published",
    "does not have snapshot",
    "another volume was promoted",
    "was replaced",
    "has other snapshots after",
    "something was just published to",
)
"""What one of two is told that has lost."""

UNFINISHED = re.compile(r"#\d+$")
"""How the name of a file ends that was being written to a directory."""


# --- what is seen of a log --------------------------------------------------------------------


@dataclass
class Line:
    """The commits of a log, as each was when it was first seen."""

    log: Log
    records: list[bytes] = field(default_factory=list)

    def read(self, *, wholly: bool = False) -> None:
        """Looks again, and proves that it is one line and that nothing in it has changed."""
        names = [name for name in self.log.names("commits/") if not UNFINISHED.search(name)]
        assert names == [f"commits/{number:020}.json" for number in range(len(names))]
        assert len(names) >= len(self.records), "commits are gone"
        known = len(self.records)
        for number in range(0 if wholly else max(0, known - 3), len(names)):
            record = self.log.read(names[number])
            if number < known:
                assert record == self.records[number], f"{names[number]} was changed"
            else:
                self.records.append(record)
        commits = self.commits
        assert [commit["sequence"] for commit in commits] == list(range(len(commits)))
        digests = [blake3(record).hexdigest() for record in self.records]
        assert [commit["before"] for commit in commits] == ["", *digests][: len(commits)]
        epochs = [commit["epoch"] for commit in commits]
        assert epochs == sorted(epochs)
        line = self.snapshots
        assert len(set(line)) == len(line)
        assert [(delta["base"] or {}).get("id") for delta in self.deltas] == [None, *line][: len(line)]

    @property
    def commits(self) -> list[dict[str, Any]]:
        return [json.loads(record) for record in self.records]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        deeds = [commit["deed"] for commit in self.commits]
        return [deed["snapshot"]["delta"] for deed in deeds if "snapshot" in deed]

    @property
    def snapshots(self) -> list[str]:
        return [delta["snapshot"]["id"] for delta in self.deltas]

    @property
    def epoch(self) -> int:
        return int(self.commits[-1]["epoch"])


# --- two who write ----------------------------------------------------------------------------


@dataclass
class Way:
    """How one of two reaches the log: through a proxy of its own, where there are requests."""

    env: dict[str, str]
    proxy: Proxy | None


@dataclass
class Contest:
    """Two volumes that take themselves for the primary of one log, and are killed by chance."""

    log: Log
    ways: list[Way]
    chance: random.Random
    line: Line
    turns: int = 0
    kills: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    done: set[str] = field(default_factory=set)
    """The snapshots of rounds that said that they were done."""
    pictures: dict[str, Picture] = field(default_factory=dict)
    cut: Counter[str] = field(default_factory=Counter)
    """What those had asked for last that were killed, where there are requests."""
    usual: float = 0.1
    """How long a round takes, in seconds."""

    @classmethod
    @contextmanager
    def over(cls, log: Log, seed: int) -> Iterator[Contest]:
        with ExitStack() as opened:
            ways = [Way(log.env, None), Way(log.env, None)]
            if isinstance(log, BucketLog):
                proxies = [opened.enter_context(proxy(log.server.url)) for _ in ways]
                ways = [Way(log.behind(between.url).env, between) for between in proxies]
            yield cls(log, ways, random.Random(seed), Line(log))

    def change(self, side: Path) -> None:
        """What only this side has."""
        world = World(side, self.chance.randrange(1 << 30))
        world.churn(8)
        world.do(fill, f"only-{self.turns}".encode(), 0, self.chance.randrange(60_000), self.turns)

    def race(self, *commands: tuple[object, ...]) -> list[Ran]:
        """Runs commands at once, of which chance kills some. What it is told who lost is proved, and that
        nothing that was there or was acknowledged has gone."""
        began = time.monotonic()
        rivals = [self.begun(way, words) for way, words in zip(self.ways, commands, strict=False)]
        ended = [self.ended(*rival) for rival in rivals]
        if all(ran.code == 0 for ran in ended):
            self.usual = (self.usual + time.monotonic() - began) / 2
        for way, ran in zip(self.ways, ended, strict=False):
            if way.proxy and ran.code == -signal.SIGKILL:
                last = [f"{asked.method} {asked.kind}" for asked in way.proxy.asked[-1:]]
                self.cut[last[0] if last else "nothing"] += 1
        self.check()
        return ended

    def begun(self, way: Way, words: tuple[object, ...]) -> tuple[tuple[object, ...], Any, list[Any]]:
        how = self.chance.choice(["spared", "time", "time", "request"] if way.proxy else ["spared", "time"])
        process: list[subprocess.Popen[str]] = []
        known = threading.Event()
        if way.proxy:
            number, after = self.chance.randrange(1, 16), self.chance.random() < 0.5

            def kill(asked: Asked, forward: Forward) -> Answer | None:
                if after:
                    forward()
                known.wait(10)
                process[0].kill()
                return None

            is_it = partial(is_number, number if how == "request" else 0)
            way.proxy.begin(where(is_it, kill))
        process.append(start(*words, "--json", env=way.env))
        known.set()
        timers = [threading.Timer((0.4 + 0.8 * self.chance.random()) * self.usual, process[0].kill)]
        if how != "time":
            timers.clear()
        for timer in timers:
            timer.start()
        return words, process[0], timers

    def ended(self, words: tuple[object, ...], process: Any, timers: list[Any]) -> Ran:
        out, err = process.communicate(timeout=300)
        for timer in timers:
            timer.cancel()
        ran = Ran(tuple(map(str, words)), process.returncode, out, err)
        self.count(ran)
        return ran

    def count(self, ran: Ran) -> None:
        self.codes[ran.code] += 1
        self.kills += ran.code == -signal.SIGKILL
        if ran.code == 0 and ran.args[0] == "sync":
            self.done.add(ran.json["snapshot"]["id"])
        elif ran.code == 3:
            words = [words for words in LOST if words in ran.err]
            assert words, ran
            self.told[words[0]] += 1
        else:
            assert ran.code in (0, 5, -signal.SIGKILL), ran

    def check(self, *, wholly: bool = False) -> None:
        self.line.read(wholly=wholly)
        assert self.done <= set(self.line.snapshots), "a snapshot that was acknowledged is lost"

    def must(self, *words: object) -> dict[str, Any]:
        """Runs what nobody disturbs."""
        ran = run(*words, "--json", env=self.log.env)
        assert ran.code == 0, ran
        self.count(ran)
        self.check()
        return ran.json

    def loses(self, side: Path, *words: str) -> None:
        """A round of a side that has lost is told so, and changes nothing."""
        before = len(self.line.records)
        ran = run("sync", side, self.log.address, "--quiet", env=self.log.env)
        assert_told(ran, *words, codes=(3,))
        self.count(ran)
        self.check()
        assert len(self.line.records) == before

    def picture(self, *sides: Path) -> None:
        """What new snapshots of these sides hold, whose trees nobody has changed since."""
        for side in sides:
            new = [each["id"] for each in snapshots(side) if each["id"] not in self.pictures]
            self.pictures |= dict.fromkeys(new, freeze(side)) if new else {}

    def follow(self, standby: Path) -> Path:
        """A standby gets what was published last."""
        self.must("sync", self.log.address, standby)
        assert [each["id"] for each in snapshots(standby)][-1] == self.line.snapshots[-1]
        assert_same(self.pictures[self.line.snapshots[-1]], standby, ignore=LAYOUT)
        return standby

    def publish(self, side: Path) -> None:
        """A round of who is the primary now."""
        self.change(side)
        self.must("sync", side, self.log.address)
        self.picture(side)

    def hand_over(self, new: Path, *others: Path, begin: Callable[[Path], None]) -> None:
        """A standby is promoted; the old primary, or whoever took himself for it, comes back. One that has
        lost bytes which only it had begins anew."""
        self.must("promote", new)
        for other in others:
            if status(other)["volume"]["role"] == "primary":
                self.loses(other, "was replaced", "rejoin")
        self.publish(new)
        for other in others:
            ran = run("rejoin", other, self.log.address, "--quiet", env=self.log.env)
            if ran.code != 0:
                assert_told(ran, "have lost what they held", "begin a new standby", codes=(3,))
                begin(other)
                self.must("sync", self.log.address, other)
            assert_same(new, other, ignore=LAYOUT)

    def summary(self, what: str, started: float) -> str:
        promotions = sum("promotion" in commit["deed"] for commit in self.line.commits)
        unheard = len(set(self.line.snapshots) - self.done)
        return (
            f"{what}: {self.turns} turns, {self.kills} kills, exit codes {dict(self.codes)}, "
            f"{len(self.line.records)} commits, {len(self.line.snapshots)} snapshots, of which {unheard} by "
            f"rounds that were killed, {promotions} promotions, told {dict(self.told)}, "
            f"killed after {dict(self.cut)}, {time.monotonic() - started:.0f} seconds"
        )


def is_number(number: int, asked: Asked) -> bool:
    return asked.number == number


# --- two copies -------------------------------------------------------------------------------


@dataclass
class Copies:
    """A volume in an image of a file system, and the copy that somebody made of that image."""

    kind: str
    home: Path
    mounted: set[int] = field(default_factory=set)

    @classmethod
    @contextmanager
    def of(cls, kind: str, home: Path) -> Iterator[Copies]:
        copies = cls(kind, home)
        with copies.image(0).open("wb") as file:
            file.truncate(512 * MIB)
        sh(*MAKE[kind], copies.image(0))
        try:
            copies.mount(0)
            subvolume(copies.volume(0)) if kind == "btrfs" else copies.volume(0).mkdir()
            yield copies
        finally:
            for number in tuple(copies.mounted):
                copies.unmount(number)
            for number in range(2):
                copies.image(number).unlink(missing_ok=True)

    def image(self, number: int) -> Path:
        return self.home / f"copy-{number}.img"

    def volume(self, number: int) -> Path:
        return self.home / f"copy-{number}" / "volume"

    def mount(self, number: int) -> None:
        point = self.volume(number).parent
        point.mkdir(exist_ok=True)
        options = {"xfs": "loop,nouuid", "btrfs": OPTIONS["btrfs"]}.get(self.kind, "loop")
        sh("mount", "-o", options, self.image(number), point)
        self.mounted.add(number)

    def unmount(self, number: int) -> None:
        sh("umount", self.volume(number).parent)
        self.mounted.remove(number)

    def begin(self, volume: Path) -> None:
        """Makes an empty file system of one of them."""
        number = int(volume != self.volume(0))
        self.unmount(number)
        sh(*MAKE[self.kind], self.image(number))
        self.mount(number)

    def copy(self, number: int) -> Path:
        """Copies one over the other."""
        for each in tuple(self.mounted):
            self.unmount(each)
        sh("cp", "--sparse=always", self.image(number), self.image(1 - number))
        # A second Btrfs of one UUID gets another one for as long as it is mounted.
        for each in (number, 1 - number):
            self.mount(each)
            if self.kind == "btrfs":
                adopted = run("recover", self.volume(each), "--adopt")
                assert adopted.code == 0, adopted
        return self.volume(1 - number)


@pytest.mark.parametrize("where_it_is", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_of_two_copies_of_a_primary_one_line_comes_and_the_other_is_told(
    logs: Logs, place: Place, where_it_is: str, kind: str
) -> None:
    seed, started = SEED + 100 + KINDS.index(kind), time.monotonic()
    home = logs.home / f"copies-{kind}-{where_it_is}"
    home.mkdir()
    log = logs(where_it_is)
    if where_it_is != "directory":
        log.begin()
    with Contest.over(log, seed) as contest, Copies.of(kind, home) as copies:
        sides = [copies.volume(0), copies.volume(1)]
        World(sides[0], seed).grow(30)
        contest.publish(sides[0])
        copies.copy(0)
        while contest.kills < max(2, KILLS // CASES):
            contest.turns += 1
            before = len(contest.line.snapshots)
            for side in sides:
                contest.change(side)
            contest.race(*(("sync", side, log.address) for side in sides))
            contest.picture(*sides)
            if len(contest.line.snapshots) > before:
                newest = contest.line.snapshots[-1]
                has_it = [newest in {each["id"] for each in snapshots(side)} for side in sides]
                assert any(has_it)
                if all(has_it):
                    continue
                winner = has_it.index(True)
                contest.loses(sides[1 - winner], "does not have snapshot", "only one can go on", "rejoin")
                if contest.turns % 25 == 0:
                    winner = come_back(contest, place, copies, winner)
                copies.copy(winner)
        come_back(contest, place, copies, contest.chance.randrange(2))
        contest.check(wholly=True)
        print(contest.summary(f"seed {seed}, {kind} copied, {where_it_is}", started))


def come_back(contest: Contest, place: Place, copies: Copies, winner: int) -> int:
    """A new standby takes over, and both copies follow it; then each of them has its time as the primary.
    Returns which of them is it in the end."""
    log, kinds, begin = contest.log, contest.chance.sample(KINDS, 2), copies.begin
    sides = [copies.volume(0), copies.volume(1)]
    standby = contest.follow(place.absent(kinds[0]))
    contest.hand_over(standby, *sides, begin=begin)
    contest.hand_over(sides[winner], standby, begin=begin)
    contest.follow(sides[1 - winner])
    contest.hand_over(sides[1 - winner], sides[winner], begin=begin)
    contest.follow(standby)
    contest.publish(sides[1 - winner])
    fresh = contest.follow(place.absent(kinds[1]))
    verified(sides[1 - winner], fresh)
    for gone in (standby, fresh):
        volume = status(gone)["volume"]["id"]
        contest.must("release", log.address, "--standby", volume)
    contest.must("prune", log.address, "--keep-last", "20")
    return 1 - winner


# --- an old primary and a promoted standby ----------------------------------------------------


@pytest.mark.parametrize("where_it_is", PLACES)
def test_of_an_old_primary_and_a_promoted_standby_one_line_comes_and_the_other_is_told(
    logs: Logs, place: Place, where_it_is: str
) -> None:
    seed, started = SEED + 110, time.monotonic()
    log = logs(where_it_is)
    if where_it_is != "directory":
        log.begin()
    with Contest.over(log, seed) as contest:
        old, new = place("xfs"), place.absent("btrfs")
        World(old, seed).grow(30)
        contest.publish(old)
        while contest.kills < max(2, KILLS // CASES):
            contest.turns += 1
            epoch = contest.line.epoch
            contest.follow(new)
            contest.change(old)
            contest.race(("sync", old, log.address), ("promote", new))
            contest.picture(old)
            both = []
            for side in (old, new):
                if status(side)["volume"]["role"] == "primary":
                    contest.change(side)
                    both.append(side)
            contest.race(*(("sync", side, log.address) for side in both))
            contest.picture(*both)
            if contest.line.epoch == epoch:
                assert both == [old]
                contest.publish(old)
                continue
            # One that was killed finds what it has put there.
            if both == [old]:
                contest.must("promote", new)
            contest.loses(old, "was replaced", "rejoin")
            contest.publish(new)
            back = contest.race(("rejoin", old, log.address))
            if back[0].code != 0:
                contest.must("rejoin", old, log.address)
            assert_same(new, old, ignore=LAYOUT)
            old, new = new, old
            if contest.turns % 25 == 0:
                gone = contest.follow(place.absent(contest.chance.choice(KINDS)))
                contest.must("release", log.address, "--standby", status(gone)["volume"]["id"])
                contest.must("prune", log.address, "--keep-last", "20")
        fresh = contest.follow(place.absent("ext4"))
        contest.must("verify", log.address, fresh)
        contest.check(wholly=True)
        print(contest.summary(f"seed {seed}, promoted, {where_it_is}", started))


# --- standbys that never meet their primary ---------------------------------------------------


@dataclass
class Followed:
    """A primary, and what its tree was at each of its rounds."""

    primary: Path
    address: str
    chance: random.Random
    rounds: int = 0
    pictures: dict[str, Picture] = field(default_factory=dict)

    def publish(self) -> None:
        world = World(self.primary, self.chance.randrange(1 << 30))
        world.grow(10 if self.rounds else 60)
        world.churn(30)
        self.rounds += 1
        newest = done("sync", self.primary, self.address)["snapshot"]["id"]
        self.pictures[newest] = freeze(self.primary)

    def follow(self, standby: Path) -> None:
        newest = done("sync", self.address, standby)["snapshot"]["id"]
        assert newest == list(self.pictures)[-1]
        assert_same(self.pictures[newest], standby, ignore=LAYOUT)

    def prune(self, what: object) -> None:
        rules = [("--keep-last", "1"), ("--keep-last", "3"), ("--keep-last", "7"), ("--keep-hourly", "2")]
        done("prune", what, *self.chance.choice(rules))


@pytest.mark.parametrize("kind", KINDS)
def test_three_standbys_that_never_meet_their_primary_follow_it_and_can_each_be_promoted(
    place: Place, tmp_path: Path, kind: str
) -> None:
    seed, started = SEED + 120 + KINDS.index(kind), time.monotonic()
    followed = Followed(place(kind), f"file://{tmp_path}/log", random.Random(seed))
    standbys = [place.absent(each) for each in KINDS]
    pace = [0.9, 0.5, 0.2]
    followed.chance.shuffle(pace)
    for _ in range(ROUNDS):
        followed.publish()
        if followed.chance.random() < 0.25:
            followed.prune(followed.address)
        for standby, often in zip(standbys, pace, strict=True):
            if followed.chance.random() < often:
                followed.follow(standby)
                if followed.chance.random() < 0.25:
                    followed.prune(standby)
    for standby in standbys:
        followed.follow(standby)
        verified(followed.address, standby)
    for new in standbys:
        old, followed.primary = followed.primary, new
        done("promote", new)
        assert_told(run("sync", old, followed.address, "--quiet"), "was replaced", "rejoin", codes=(3,))
        followed.publish()
        done("rejoin", old, followed.address)
        assert_same(new, old, ignore=LAYOUT)
        followed.publish()
        for other in (old, *standbys):
            if other != new:
                followed.follow(other)
        if followed.chance.random() < 0.5:
            followed.prune(followed.address)
    fresh = place.absent(followed.chance.choice(KINDS))
    followed.follow(fresh)
    verified(followed.address, fresh)
    print(
        f"seed {seed}, three standbys of {kind}: {followed.rounds} rounds, "
        f"{len(list((tmp_path / 'log/commits').iterdir()))} commits, "
        f"{len(done('list', followed.address)['snapshots'])} listed, {time.monotonic() - started:.0f} seconds"
    )
