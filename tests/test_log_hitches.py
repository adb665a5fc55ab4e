"""A log while its rounds are killed, its writers race, and its store loses answers or is busy."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from http_proxy import (
    Answer,
    Asked,
    Forward,
    Hitch,
    Proxy,
    cut,
    lagging,
    says,
    unanswered,
    unconditional,
    unheard,
    where,
)
from machine import MIB, Place, Ran, assert_told, done, run, sh, snapshots, start, wait_until
from object_store import BucketLog, Log, Logs
from oracle import assert_same, freeze
from transfer import stored
from worlds import World, fill, preallocate, reflink

Watched = tuple[BucketLog, Proxy]
K = 1024


@pytest.fixture
def watched(logs: Logs) -> Watched:
    return logs.watched()


def line_of(log: Log) -> list[str]:
    """The snapshots of a log, and each commit is the successor of the one before it."""
    commits = log.commits()
    assert [commit["sequence"] for commit in commits] == list(range(len(commits)))
    deltas = [commit["deed"]["snapshot"]["delta"] for commit in commits if "snapshot" in commit["deed"]]
    line = [delta["snapshot"]["id"] for delta in deltas]
    bases = [(delta["base"] or {}).get("id") for delta in deltas]
    assert bases == [None, *line][: len(line)]
    return line


def assert_all_is_well(log: Log, place: Place, primary: Path, *standbys: Path) -> None:
    """One line, which has the primary's newest snapshot; old and new standbys follow it."""
    newest = log.sync(primary, log.address)["snapshot"]["id"]
    line = line_of(log)
    assert line[-1] == newest
    assert [snapshot["id"] for snapshot in snapshots(primary) if snapshot["id"] in line] == line
    for standby in (*standbys, place.absent("ext4")):
        log.sync(log.address, standby)
        assert_same(primary, standby)
        held = [snapshot["id"] for snapshot in snapshots(standby)]
        assert held == line[-len(held) :]


# --- killed -----------------------------------------------------------------------------------


class Killed:
    """A command that is killed when it asks for something."""

    def __init__(self, log: BucketLog, proxy: Proxy, *sides: object) -> None:
        self.log, self.proxy, self.sides = log, proxy, sides
        self.process: subprocess.Popen[str] | None = None

    def at(self, number: int, *, after: bool) -> Asked | None:
        """Kills it before its request of this number comes to the store, or after. None if it had ended."""
        hit: list[Asked] = []
        known = threading.Event()

        def kill(asked: Asked, forward: Forward) -> Answer | None:
            if after:
                forward()
            known.wait(10)
            assert self.process
            os.kill(self.process.pid, signal.SIGKILL)
            hit.append(asked)
            return None

        self.proxy.begin(where(lambda asked: asked.number == number, kill))
        self.process = start("sync", *self.sides, env=self.log.env)
        known.set()
        _, err = self.process.communicate(timeout=60)
        assert self.process.returncode == (-signal.SIGKILL if hit else 0), err
        self.proxy.begin()
        return hit[0] if hit else None


def test_a_publisher_that_is_killed_at_any_request_is_followed_by_rounds(
    watched: Watched, place: Place
) -> None:
    log, proxy = watched
    primary, standby = place("xfs"), place.absent("xfs")
    world = World(primary, seed=20)
    world.grow(30)
    log.sync(primary, log.address)
    killed, committed = Killed(log, proxy, primary, log.address), 0
    number, after = 1, False
    while True:
        world.churn(10)
        (primary / "more").write_bytes(os.urandom(20_000))
        asked = killed.at(number, after=after)
        if asked is None:
            break
        line = len(line_of(log))
        # What is read makes no difference to the store.
        number, after = (number, True) if asked.method == "PUT" and not after else (number + 1, False)
        if asked.is_put_of("commits"):
            committed += 1
        report = log.sync(primary, log.address)
        assert len(line_of(log)) > line, report
        log.sync(log.address, standby)
        assert_same(primary, standby)
    assert number > 6
    assert committed == 2
    assert_all_is_well(log, place, primary, standby)


def test_a_follower_that_is_killed_at_any_request_goes_on(watched: Watched, place: Place) -> None:
    log, proxy = watched
    primary, standby = place("btrfs"), place.absent("xfs")
    world = World(primary, seed=21)
    world.grow(30)
    log.sync(primary, log.address)
    before = freeze(primary)
    log.sync(log.address, standby)
    for _ in range(2):
        world.churn(20)
        log.sync(primary, log.address)
    killed, number = Killed(log, proxy, log.address, standby), 1
    while killed.at(number, after=True):
        number += 1
        if number < 6:
            assert_same(before, standby)
    assert number > 8
    assert_same(primary, standby)
    assert_all_is_well(log, place, primary, standby)


@pytest.mark.parametrize(
    "point",
    ["stage.manifest", "stage.frame", "stage.done", "commit.marked", "commit.attach", "commit.snapshot"],
)
def test_a_follower_that_is_killed_on_its_way_goes_on(logs: Logs, place: Place, point: str) -> None:
    log, primary, standby = logs("directory"), place("xfs"), place.absent("xfs")
    world = World(primary, seed=22)
    world.grow(30)
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    fill(primary / "new", 0, 50_000, 3)
    log.sync(primary, log.address)
    world.churn(20)
    log.sync(primary, log.address)
    ran = run("sync", log.address, standby, env={"SNAPSYNC_FAULT": f"{point}:1"})
    assert ran.code == -signal.SIGKILL, ran
    log.sync(log.address, standby)
    assert_same(primary, standby)
    assert [snapshot["id"] for snapshot in snapshots(standby)] == line_of(log)


def test_a_follower_fetches_nothing_twice(watched: Watched, place: Place) -> None:
    log, proxy = watched
    primary, standby = place("xfs"), place.absent("xfs")
    size = 40 * MIB
    (primary / "large").write_bytes(os.urandom(size))
    log.sync(primary, log.address)

    def none_once_something_is_there(asked: Asked, forward: Forward) -> Answer | None:
        wait_until(lambda: stored(standby) > MIB)
        return says(403, "AccessDenied")(asked, forward)

    first = iter(range(2))
    some = where(
        lambda asked: asked.kind == "packs" and next(first, None) is None, none_once_something_is_there
    )
    proxy.begin(some)
    ran = run("sync", log.address, standby, "--quiet", env=log.env)
    assert_told(ran, "AccessDenied", codes=(5,))
    proxy.begin()
    report = log.sync(log.address, standby)
    assert report["kept_bytes"] >= MIB
    assert proxy.fetched() <= size - report["kept_bytes"] + MIB
    assert_same(primary, standby)


# --- answers that are lost, late or cut -------------------------------------------------------

LOSSES: dict[str, Hitch] = {"unheard": unheard, "unanswered": unanswered}


@pytest.mark.parametrize("how", LOSSES)
@pytest.mark.parametrize("kind", ["format.json", "manifests", "packs", "index", "commits"])
def test_a_lost_answer_loses_nothing(logs: Logs, place: Place, kind: str, how: str) -> None:
    """Least of all that of a commit: whose it is tells its token."""
    log, proxy = logs.watched("moto")
    log.remove("format.json")
    primary, standby = place("xfs"), place.absent("xfs")
    fill(primary / "file", 0, 50_000, 1)
    proxy.begin(where(lambda asked: asked.is_put_of(kind), LOSSES[how], times=1))
    ran = run("sync", primary, log.address, "--json", env=log.env)
    tries = [asked for asked in proxy.asked if asked.is_put_of(kind)]
    assert ran.code == 0, ran
    assert len(tries) == 2, ran
    proxy.begin()
    assert line_of(log) == [ran.json["snapshot"]["id"]]
    log.sync(log.address, standby)
    assert_same(primary, standby)


def test_a_commit_whose_fate_nobody_tells_is_found_by_the_next_round(watched: Watched, place: Place) -> None:
    log, proxy = watched
    primary, standby = place("xfs"), place.absent("xfs")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)
    fill(primary / "file", 0, 50_000, 2)
    committing = threading.Event()

    def gone(asked: Asked, forward: Forward) -> Answer | None:
        """The server is gone from the commit on, which it has."""
        if committing.is_set():
            return says(403, "AccessDenied")(asked, forward)
        if asked.is_put_of("commits"):
            committing.set()
            return unanswered(asked, forward)
        return forward()

    proxy.begin(gone)
    ran = run("sync", primary, log.address, "--quiet", env=log.env)
    assert_told(ran, "AccessDenied", codes=(1,))
    proxy.begin()
    assert len(line_of(log)) == 2
    assert line_of(log)[-1] in {snapshot["id"] for snapshot in snapshots(primary)}
    log.sync(log.address, standby)
    assert_same(primary, standby)
    assert_all_is_well(log, place, primary, standby)


@pytest.mark.parametrize(
    ("status_code", "code"), [(503, "SlowDown"), (429, "TooManyRequests"), (500, "InternalError")]
)
def test_a_store_that_is_busy_is_waited_for(
    watched: Watched, place: Place, status_code: int, code: str
) -> None:
    log, proxy = watched
    primary, standby = place("xfs"), place.absent("xfs")
    fill(primary / "file", 0, 50_000, 1)
    for sides in ((primary, log.address), (log.address, standby)):
        proxy.begin(where(lambda asked: asked.number % 2 == 1, says(status_code, code), times=5))
        log.sync(*sides)
    proxy.begin()
    assert len(line_of(log)) == 1
    assert_same(primary, standby)


@pytest.mark.parametrize("kind", ["format.json", "commits", "manifests", "index", "packs"])
def test_what_comes_cut_short_is_asked_for_again(watched: Watched, place: Place, kind: str) -> None:
    log, proxy = watched
    primary, standby = place("xfs"), place.absent("xfs")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)

    def is_it(asked: Asked) -> bool:
        return asked.method == "GET" and asked.kind == kind and not asked.is_list()

    proxy.begin(where(is_it, cut, times=3))
    log.sync(log.address, standby)
    assert_same(primary, standby)


def test_a_store_that_never_answers_is_given_up_and_the_standby_stays_as_it_was(
    watched: Watched, place: Place
) -> None:
    log, proxy = watched
    primary, standby = place("xfs"), place.absent("xfs")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    fill(primary / "file", 0, 50_000, 2)
    log.sync(primary, log.address)
    before = freeze(standby)
    proxy.begin(where(lambda asked: asked.kind == "packs", says(400, "RequestTimeout")))
    ran = run("sync", log.address, standby, "--quiet", env=log.env)
    assert_told(ran, "RequestTimeout", codes=(5,))
    assert_same(before, standby)
    proxy.begin()
    log.sync(log.address, standby)
    assert_same(primary, standby)


def test_a_listing_that_lags_hides_no_commit(watched: Watched, place: Place) -> None:
    log, proxy = watched
    primary, standby = place("xfs"), place.absent("xfs")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)
    proxy.begin(lagging())
    for number in range(3):
        fill(primary / f"file-{number}", 0, 5_000, number)
        log.sync(primary, log.address)
        log.sync(log.address, standby)
        assert_same(primary, standby)
    proxy.begin()
    assert len(line_of(log)) == 4


def test_a_clock_that_is_off_is_told(watched: Watched, place: Place) -> None:
    log, proxy = watched
    primary = place("xfs")
    proxy.begin(where(lambda asked: True, says(403, "RequestTimeTooSkewed")))
    ran = run("sync", primary, log.address, "--quiet", env=log.env)
    assert_told(ran, "RequestTimeTooSkewed", "clock", codes=(1,))
    assert not (primary / ".snapsync").exists()


def test_a_file_that_changes_before_it_is_read_travels_in_another_pass_and_nothing_else_does(
    watched: Watched, place: Place
) -> None:
    """A primary on ext4 keeps no copies of what a snapshot holds."""
    log, proxy = watched
    primary, standby = place("ext4"), place.absent("xfs")
    (primary / "large").write_bytes(os.urandom(4 * MIB))
    fill(primary / "busy", 0, 50_000, 1)

    def write(asked: Asked, forward: Forward) -> Answer | None:
        fill(primary / "busy", 0, 50_000, 3)
        return forward()

    # The manifest goes before any data is read.
    proxy.begin(where(lambda asked: asked.is_put_of("manifests"), write, times=1))
    log.sync(primary, log.address, "--compress", "none")
    assert proxy.counted()["PUT manifests"] == 2
    assert proxy.brought() <= 4 * MIB + 300 * K
    log.sync(log.address, standby)
    assert_same(primary, standby)


def test_nothing_is_kept_of_a_file_that_changes_while_it_is_read(watched: Watched, place: Place) -> None:
    log, proxy = watched
    primary, standby = place("ext4"), place.absent("xfs")
    # More than four packs and the frames before them hold: the first pack goes before the end is read.
    (primary / "large").write_bytes(os.urandom(MIB) * 192)

    def write(asked: Asked, forward: Forward) -> Answer | None:
        fill(primary / "large", 0, 3_000_000, 3)
        return forward()

    proxy.begin(where(lambda asked: asked.is_put_of("packs"), write, times=1))
    log.sync(primary, log.address, "--compress", "none")
    assert proxy.counted()["PUT manifests"] == 2
    log.sync(log.address, standby)
    assert_same(primary, standby)


def test_rounds_while_somebody_works_in_the_primary_make_whole_snapshots(logs: Logs, place: Place) -> None:
    log, primary, standby = logs("directory"), place("ext4"), place.absent("xfs")
    world = World(primary, seed=23)
    world.grow(40)
    stop, failures = threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set():
                world.churn(5)
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for _ in range(4):
            log.sync(primary, log.address)
    finally:
        stop.set()
        writer.join()
    assert not failures, failures
    log.sync(log.address, standby)
    assert_all_is_well(log, place, primary, standby)


# --- two who write ----------------------------------------------------------------------------


def overtaken(log: BucketLog, proxy: Proxy, other: Callable[[], object], *sides: object) -> Ran:
    """A round into whose commit another one comes: when it asks to commit, the other has."""

    def wait(asked: Asked, forward: Forward) -> Answer | None:
        other()
        return forward()

    once = where(lambda asked: asked.is_put_of("commits"), wait, times=1)
    proxy.begin(once)
    ran = run("sync", *sides, "--quiet", env=log.env)
    proxy.begin()
    return ran


def test_of_two_rounds_at_once_one_is_told_that_it_lost(watched: Watched, place: Place) -> None:
    log, proxy = watched
    primary, standby = place("xfs"), place.absent("xfs")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)
    winners: list[str] = []

    def other() -> None:
        fill(primary / "file", 0, 50_000, 2)
        winners.append(log.sync(primary, log.address)["snapshot"]["id"])

    fill(primary / "loser", 0, 50_000, 3)
    ran = overtaken(log, proxy, other, primary, log.address)
    assert_told(ran, "another snapsync has just published", "run the same command again", codes=(3,))
    # What the loser had uploaded is there, and the winner went on with it.
    assert line_of(log)[-1:] == winners
    assert [snapshot["id"] for snapshot in snapshots(primary)] == line_of(log)
    log.sync(log.address, standby)
    assert_same(primary, standby)
    assert_all_is_well(log, place, primary, standby)


def test_of_two_copies_of_a_primary_one_is_told_that_it_lost(watched: Watched, place: Place) -> None:
    """Both believe that they are the primary: there is one line, and it is of one of them."""
    log, proxy = watched
    primary = place("ext4")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)
    copy = place.absent("ext4")
    sh("cp", "-a", primary, copy)
    adopted = run("recover", copy, "--adopt")
    assert adopted.code == 0, adopted
    fill(primary / "file", 0, 50_000, 2)
    fill(copy / "file", 0, 50_000, 3)
    won: list[str] = []
    ran = overtaken(
        log,
        proxy,
        lambda: won.append(log.sync(copy, log.address)["snapshot"]["id"]),
        primary,
        log.address,
    )
    assert_told(ran, "another snapsync has just published", codes=(3,))
    assert line_of(log)[1:] == won
    # From now on it does not know the log's newest snapshot.
    assert_told(run("sync", primary, log.address, env=log.env), "does not have snapshot", codes=(3,))
    assert_all_is_well(log, place, copy)


def test_many_rounds_at_once_make_one_line(watched: Watched, place: Place) -> None:
    log, _ = watched
    primary = place("xfs")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)
    for _ in range(2):
        rivals = [start("sync", primary, log.address, env=log.env) for _ in range(5)]
        codes = []
        for rival in rivals:
            _, err = rival.communicate(timeout=60)
            assert rival.returncode in (0, 3), err
            codes.append(rival.returncode)
        assert 0 in codes
        line_of(log)
    assert_all_is_well(log, place, primary)


def test_a_store_that_lets_several_writers_win_is_refused(logs: Logs, place: Place) -> None:
    # It looks at no signature, which the condition is part of.
    log, proxy = logs.watched("moto")
    log.remove("format.json")
    primary = place("xfs")
    fill(primary / "file", 0, 50_000, 1)
    proxy.begin(where(lambda asked: asked.method == "PUT", unconditional))
    ran = run("sync", primary, log.address, env=log.env)
    assert_told(ran, "lets several writers make the same object", "If-None-Match", codes=(3,))
    proxy.begin()
    assert log.names() == []
    # Not because of what it is: as it comes, it is a good place.
    log.sync(primary, log.address)
    assert {name.split("/")[0] for name in log.names()} == {
        "commits",
        "format.json",
        "upload.json",
        "index",
        "manifests",
        "packs",
    }


# --- a standby that takes over ----------------------------------------------------------------


@dataclass
class TakenOver:
    """An old primary, and the standby that was promoted."""

    log: BucketLog
    proxy: Proxy
    old: Path
    new: Path


@pytest.fixture
def taken_over(watched: Watched, place: Place) -> TakenOver:
    log, proxy = watched
    old, new = place("xfs"), place.absent("btrfs")
    fill(old / "file", 0, 50_000, 1)
    log.sync(old, log.address)
    log.sync(log.address, new)
    done("promote", new, env=log.env)
    fill(old / "file", 0, 50_000, 2)
    fill(new / "file", 0, 50_000, 3)
    return TakenOver(log, proxy, old, new)


def test_a_promoted_standby_goes_on_with_the_log_and_the_old_primary_is_refused(
    taken_over: TakenOver, place: Place
) -> None:
    log, follower = taken_over.log, place.absent("ext4")
    log.sync(log.address, follower)
    log.sync(taken_over.new, log.address)
    ran = run("sync", taken_over.old, log.address, "--quiet", env=log.env)
    assert_told(ran, "epoch 2", "rejoin", codes=(3,))
    log.sync(log.address, follower)
    assert_same(taken_over.new, follower)
    assert_all_is_well(log, place, taken_over.new, follower)


def test_an_old_primary_rejoins_before_the_new_one_has_published(taken_over: TakenOver, place: Place) -> None:
    log, old, new = taken_over.log, taken_over.old, taken_over.new
    refused = run("rejoin", new, log.address, env=log.env)
    assert_told(refused, "is the primary that publishes to", codes=(3,))
    done("rejoin", old, log.address, env=log.env)
    log.sync(new, log.address)
    log.sync(log.address, old)
    assert_same(new, old)
    assert_all_is_well(log, place, new)


def test_a_snapshot_that_is_held_meanwhile_takes_no_place_of_a_round(watched: Watched, place: Place) -> None:
    log, proxy = watched
    primary, standby = place("xfs"), place.absent("xfs")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)
    fill(primary / "file", 0, 50_000, 2)
    ran = overtaken(log, proxy, lambda: done("hold", f"{log.address}@0", env=log.env), primary, log.address)
    assert ran.code == 0, ran
    log.sync(log.address, standby)
    assert_same(primary, standby)


def test_an_old_primary_that_is_overtaken_by_a_promotion_is_told(watched: Watched, place: Place) -> None:
    log, proxy = watched
    old, new = place("xfs"), place.absent("btrfs")
    fill(old / "file", 0, 50_000, 1)
    log.sync(old, log.address)
    log.sync(log.address, new)
    fill(old / "file", 0, 50_000, 2)
    ran = overtaken(log, proxy, lambda: done("promote", new, env=log.env), old, log.address)
    assert_told(ran, "epoch 2", "another volume was promoted", "rejoin", codes=(3,))
    log.sync(new, log.address)
    done("rejoin", old, log.address, env=log.env)
    assert_same(new, old)


def test_a_standby_that_lacks_the_newest_snapshot_is_not_promoted(watched: Watched, place: Place) -> None:
    log, _ = watched
    old, new = place("xfs"), place.absent("btrfs")
    fill(old / "file", 0, 50_000, 1)
    log.sync(old, log.address)
    log.sync(log.address, new)
    log.sync(old, log.address)
    assert_told(run("promote", new, env=log.env), "has other snapshots", "brings them", codes=(3,))
    log.sync(log.address, new)
    done("promote", new, env=log.env)


def test_of_two_standbys_of_a_log_only_one_is_promoted(taken_over: TakenOver, place: Place) -> None:
    log, other = taken_over.log, place.absent("xfs")
    log.sync(log.address, other)
    assert_told(run("promote", other, env=log.env), "another volume was promoted", codes=(3,))
    log.sync(taken_over.new, log.address)
    log.sync(log.address, other)
    assert_same(taken_over.new, other)


# --- what may not be deleted ------------------------------------------------------------------


def retained(asked: Asked, forward: Forward) -> Answer | None:
    """A store that lets go of no pack, as with object lock: it answers for each object."""
    keys = re.findall(rb"<Key>([^<]+)</Key>", asked.body)
    one = "<Error><Key>{}</Key><Code>AccessDenied</Code><Message>locked</Message></Error>"
    errors = "".join(one.format(key.decode()) for key in keys if b"/packs/" in key)
    deleted = "".join(
        f"<Deleted><Key>{key.decode()}</Key></Deleted>" for key in keys if b"/packs/" not in key
    )
    page = f"<?xml version='1.0'?><DeleteResult>{errors}{deleted}</DeleteResult>".encode()
    return Answer(200, (("content-type", "application/xml"),), page, len(page))


def is_deletion(asked: Asked) -> bool:
    return asked.method == "POST" and "delete" in asked.path


def with_old_packs(log: Log, primary: Path) -> None:
    for number in range(3):
        fill(primary / "file", 0, 50_000, number)
        log.sync(primary, log.address)


@pytest.mark.parametrize("hitch", [retained, says(403, "AccessDenied")], ids=["each", "all"])
def test_what_a_store_retains_stays_and_prune_says_so(watched: Watched, place: Place, hitch: Hitch) -> None:
    log, proxy = watched
    primary = place("xfs")
    with_old_packs(log, primary)
    proxy.begin(where(is_deletion, hitch))
    pruned = done("prune", log.address, "--keep-last", "1", env=log.env)
    [note] = [note for note in pruned["notes"] if "does not let go" in note]
    assert "AccessDenied" in note
    assert len(pruned["pruned"]) == 2
    proxy.begin()
    assert len(log.names("packs/")) == 3
    done("prune", log.address, "--keep-last", "1", env=log.env)
    assert len(log.names("packs/")) == 1
    log.sync(log.address, place.absent("xfs"))


def test_what_a_directory_does_not_let_go_of_stays_and_prune_says_so(logs: Logs, place: Place) -> None:
    log, primary = logs("directory"), place("xfs")
    with_old_packs(log, primary)
    packs = [Path(log.address.removeprefix("file://")) / name for name in log.names("packs/")]
    subprocess.run(["chattr", "+i", *packs], check=True)
    try:
        pruned = done("prune", log.address, "--keep-last", "1")
        assert any("does not let go of" in note for note in pruned["notes"]), pruned["notes"]
    finally:
        subprocess.run(["chattr", "-i", *packs], check=True)
    assert len(log.names("packs/")) == 3
    done("prune", log.address, "--keep-last", "1")
    assert len(log.names("packs/")) == 1


# --- numbers ------------------------------------------------------------------------------------


def fresh_is_equal(log: Log, place: Place, primary: Path) -> None:
    """A new standby, which reads all tables of the log, and a restore get what the primary has."""
    fresh, restored = place.absent("ext4"), place.absent("xfs")
    log.sync(log.address, fresh)
    assert_same(primary, fresh)
    done("restore", f"{log.address}@0", "--to", restored, env=log.env)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_volume_that_is_the_primary_again_publishes_files_that_have_other_numbers_now(
    logs: Logs, place: Place, kind: str
) -> None:
    """Nobody else has published meanwhile, so nothing but the epoch tells."""
    log, primary, standby = logs("directory"), place(kind), place.absent("xfs")
    for name in ("kept", "gone", "back"):
        fill(primary / name, 0, 5_000, len(name))
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    done("promote", standby)
    (primary / "gone").unlink()
    (primary / "back").unlink()
    done("rejoin", primary, log.address)
    done("promote", primary)
    fill(primary / "back", 0, 6_000, 7)
    log.sync(primary, log.address)
    fresh_is_equal(log, place, primary)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_standby_that_went_back_passes_on_files_that_have_other_numbers_now(
    logs: Logs, place: Place, kind: str
) -> None:
    log, primary, between = logs("directory"), place("xfs"), place.absent(kind)
    follower = place.absent("btrfs")
    for name in ("kept", "gone", "back"):
        (primary / f"of-{name}").mkdir()
        fill(primary / name, 0, 5_000, len(name))
    done("sync", primary, between)
    log.sync(between, log.address)
    log.sync(log.address, follower)
    for name in ("gone", "back"):
        (between / name).unlink()
        (between / f"of-{name}").rmdir()
    fill(primary / "back", 0, 6_000, 7)
    fill(primary / "of-back/file", 0, 6_000, 8)
    done("sync", primary, between, "--discard-drift")
    for _ in range(2):
        log.sync(between, log.address)
        log.sync(log.address, follower)
        assert_same(primary, follower)
        fresh_is_equal(log, place, primary)
        fill(primary / "of-gone/file", 0, 6_000, 9)
        done("sync", primary, between)


def test_a_new_primary_that_wrote_zeros_into_what_is_preallocated_clones_them(
    logs: Logs, place: Place
) -> None:
    """Btrfs does so with a last block that the end of a file cuts: the log has no bytes of it."""
    log, primary, standby = logs("directory"), place("xfs"), place.absent("btrfs")
    fill(primary / "some", 0, 5_000, 1)
    preallocate(primary / "some", 0, 50_001)
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    done("promote", standby)
    sh("cp", "--reflink=always", standby / "some", standby / "clone")
    fill(standby / "other", 0, 5_000, 1)
    log.sync(standby, log.address)
    reflink(standby / "some", standby / "other")
    fill(standby / "clone", 49_000, 1_001, 2)
    log.sync(standby, log.address)
    fresh = place.absent("ext4")
    log.sync(log.address, fresh)
    assert_same(standby, fresh, ignore={"layout"})
    done("rejoin", primary, log.address)
    assert_same(standby, primary, ignore={"layout"})


def test_an_old_primary_that_lacks_snapshots_of_its_own_epoch_rejoins(logs: Logs, place: Place) -> None:
    """As one does that was brought back from a copy."""
    log, primary, standby, copy = logs("directory"), place("xfs"), place.absent("btrfs"), place.absent("xfs")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)
    sh("cp", "-a", primary, copy)
    done("recover", copy, "--adopt")
    fill(primary / "file", 0, 50_000, 2)
    log.sync(primary, log.address)
    refused = run("sync", copy, log.address, "--quiet")
    assert_told(refused, "does not have snapshot", "promote a standby", "rejoin", codes=(3,))
    log.sync(log.address, standby)
    done("promote", standby)
    fill(standby / "file", 0, 50_000, 3)
    log.sync(standby, log.address)
    done("rejoin", copy, log.address)
    assert_same(standby, copy)
    fill(standby / "file", 0, 50_000, 4)
    log.sync(standby, log.address)
    log.sync(log.address, copy)
    assert_same(standby, copy)


def test_a_prune_deletes_what_killed_writers_left_in_a_directory(logs: Logs, place: Place) -> None:
    """A file that has no name yet may still be written to, unless it is old."""
    log, primary = logs("directory"), place("xfs")
    fill(primary / "file", 0, 50_000, 1)
    log.sync(primary, log.address)
    left = ["packs/some/000000-abc#1", "commits/00000000000000000001.json#1", "upload.json#2", "readers/x#1"]
    others = ["packs/some/000000-new#1", "manifests/some#a"]
    for name in (*left, *others):
        log.write(name, b"half")
    for name in left:
        os.utime(log.path / name, (1, 1))
    told = done("prune", log.address, "--keep-last", "1", "--dry-run")
    assert set(left) <= set(log.names())
    done("prune", log.address, "--keep-last", "1")
    assert not set(left) & set(log.names())
    assert others[0] in log.names()
    assert "5 objects" in " ".join(told["notes"])
    log.sync(primary, log.address)
