"""A log between machines: a primary publishes its rounds to it, and any number of standbys follow."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest
from keepsake import keep
from machine import KINDS, MIB, Place, assert_told, run, snapshots, verified
from object_store import KINDS_OF_LOGS, Log, Logs
from oracle import assert_same, freeze
from worlds import World, fill

K = 1024


@pytest.fixture
def log(logs: Logs) -> Log:
    """One in a directory, which is quickest."""
    return logs("directory")


# --- what arrives -----------------------------------------------------------------------------


@pytest.mark.parametrize(("store", "kind"), list(product(KINDS_OF_LOGS, KINDS)))
def test_standbys_that_never_meet_follow_one_primary(logs: Logs, place: Place, store: str, kind: str) -> None:
    """One follows each round, one comes late, one comes last; each on another file system."""
    log, primary = logs(store), place(kind)
    turn = KINDS.index(kind)
    always, late, last = (place.absent(other) for other in (KINDS * 2)[turn : turn + 3])
    world = World(primary, seed=turn + 10)
    try:
        world.grow(60)
        for number in range(4):
            log.sync(primary, log.address)
            log.sync(log.address, always)
            assert_same(primary, always)
            if number == 0:
                log.sync(log.address, late)
            world.churn(40)
        report = log.sync(primary, log.address)
        for standby in (always, late, last):
            assert log.sync(log.address, standby)["snapshot"]["id"] == report["snapshot"]["id"]
            assert_same(primary, standby)
    except Exception as error:
        error.add_note("\n".join(world.log))
        raise
    line = [snapshot["id"] for snapshot in snapshots(primary)]
    assert [commit["deed"]["snapshot"]["delta"]["snapshot"]["id"] for commit in log.commits()] == line
    for standby in (always, late, last):
        assert [snapshot["id"] for snapshot in snapshots(standby)] == line


def test_a_standby_that_comes_last_holds_each_snapshot(log: Log, place: Place) -> None:
    primary, standby = place("btrfs"), place.absent("xfs")
    world = World(primary, seed=5)
    world.grow(60)
    held: dict[str, Path] = {}
    for _ in range(3):
        identity = log.sync(primary, log.address)["snapshot"]["id"]
        keep(primary, held.setdefault(identity, place("xfs")))
        world.churn(60)
    log.sync(log.address, standby)
    for identity, picture in held.items():
        verified(f"{standby}@{identity}", picture)


def test_a_round_with_no_change_is_a_snapshot_of_its_own(log: Log, place: Place) -> None:
    primary, standby = place("xfs"), place.absent("ext4")
    fill(primary / "file", 0, 5_000, 1)
    log.sync(primary, log.address)
    report = log.sync(primary, log.address, "--name", "same")
    assert report["unchanged"]
    assert len(log.names("packs/")) == 1
    followed = log.sync(log.address, standby)
    assert not followed["unchanged"]
    assert followed["data_bytes"] == 5_000
    assert log.sync(log.address, standby)["unchanged"]
    assert [snapshot["name"] for snapshot in snapshots(standby)][1:] == ["same"]


def test_what_came_in_several_commits_is_told_together(log: Log, place: Place) -> None:
    primary, standby = place("btrfs"), place.absent("xfs")
    for number in range(3):
        fill(primary / f"file-{number}", 0, 5_000, number)
        log.sync(primary, log.address)
    changes = log.sync(log.address, standby)["changes"]
    # The files and the root; the root's time has changed with each of them.
    assert (changes["created"], changes["changed"]) == (3 + 1, 2)


def test_files_larger_than_a_pack_arrive(log: Log, place: Place) -> None:
    """Several packs a round, no faster than allowed; a change sends no more than what is about it."""
    primary, standby = place("xfs"), place.absent("btrfs")
    (primary / "large").write_bytes(random.Random(4).randbytes(40 * MIB))
    fill(primary / "sparse", 900 * MIB, 5_000, 1)
    # The last pack begins when the bytes of all before it are due, and so does the last request.
    published = log.sync(primary, log.address, "--bwlimit", "48M")
    packs = log.names("packs/")
    assert len(packs) > 2
    followed = log.sync(log.address, standby, "--bwlimit", "48M")
    assert min(published["seconds"], followed["seconds"]) > 0.4
    fill(primary / "large", 20 * MIB + 5, 3_000, 2)
    assert log.sync(primary, log.address)["data_bytes"] <= 3 * 4 * K
    (new,) = set(log.names("packs/")) - set(packs)
    assert len(log.read(new)) <= 3 * 4 * K
    assert log.sync(log.address, standby)["data_bytes"] <= 3 * 4 * K
    assert_same(primary, standby)


@pytest.mark.parametrize("options", [("--compress", "none"), ("--compress", "zstd")], ids=" ".join)
def test_what_travels_is_compressed_as_it_was_asked_for(
    log: Log, place: Place, options: tuple[str, ...]
) -> None:
    primary, standby = place("ext4"), place.absent("xfs")
    (primary / "text").write_bytes(b"again and " * 100 * K)
    log.sync(primary, log.address, *options)
    size = sum(len(log.read(name)) for name in log.names("packs/"))
    assert (size > 1000 * K) == (options[1] == "none")
    log.sync(log.address, standby)
    assert_same(primary, standby)


def test_a_part_of_a_volume_has_a_log_of_its_own(log: Log, logs: Logs, place: Place) -> None:
    primary, whole, mail = place("xfs"), place.absent("xfs"), place.absent("ext4")
    (primary / "mail").mkdir()
    fill(primary / "mail/one", 0, 3_000, 1)
    fill(primary / "other", 0, 3_000, 2)
    of_mail = logs("directory")
    log.sync(primary, log.address)
    of_mail.sync("--part", "mail", "--include", "/mail", primary, of_mail.address)
    log.sync(log.address, whole)
    of_mail.sync(of_mail.address, mail)
    assert_same(primary, whole)
    assert (mail / "mail/one").read_bytes() == (primary / "mail/one").read_bytes()
    assert not (mail / "other").exists()


def test_a_primary_feeds_a_log_and_standbys_beside_it(log: Log, place: Place) -> None:
    """Which of them a round is for does not matter to the others."""
    primary, beside, behind = place("btrfs"), place.absent("ext4"), place.absent("xfs")
    world = World(primary, seed=8)
    world.grow(40)
    for _ in range(2):
        log.sync(primary, log.address)
        world.churn(20)
        log.sync(primary, beside)
        world.churn(20)
    log.sync(primary, log.address)
    log.sync(primary, beside)
    log.sync(log.address, behind)
    assert_same(primary, beside)
    assert_same(primary, behind)


def test_a_standby_goes_over_from_its_primary_to_the_log_and_back(log: Log, place: Place) -> None:
    primary, standby = place("xfs"), place.absent("xfs")
    world = World(primary, seed=9)
    world.grow(40)
    for _ in range(2):
        log.sync(primary, log.address)
        log.sync(primary, standby, "--snap", "latest")
        world.churn(20)
        log.sync(primary, log.address)
        log.sync(log.address, standby)
        assert_same(primary, standby)
        world.churn(20)
        log.sync(primary, standby)
        assert_same(primary, standby)
        log.sync(primary, log.address, "--snap", "latest")


# --- what it costs ----------------------------------------------------------------------------


def test_rounds_cost_few_requests_and_little_more_than_the_bytes_of_what_changed(
    logs: Logs, place: Place
) -> None:
    log, proxy = logs.watched()
    primary, standby = place("btrfs"), place.absent("xfs")
    for number in range(300):
        folder = primary / f"{number % 10}"
        folder.mkdir(exist_ok=True)
        fill(folder / f"file-{number}", 0, 4_000, 2 * number + 1)
    log.sync(primary, log.address)
    log.sync(log.address, standby)

    proxy.begin()
    log.sync(primary, log.address)
    asked = proxy.counted()
    assert asked["PUT manifests"] == asked["PUT commits"] == 1
    assert asked["PUT packs"] == asked["PUT index"] == 0
    assert asked.total() <= 8, asked
    assert proxy.brought() <= 20 * K
    assert proxy.fetched() <= 8 * K

    proxy.begin()
    log.sync(log.address, standby)
    asked = proxy.counted()
    assert asked["GET packs"] == 0
    assert asked.total() <= 9, asked
    assert proxy.fetched() <= 32 * K

    changed = 20
    for number in range(changed):
        fill(primary / f"{number % 10}" / f"file-{number}", 0, 4_000, 2 * number + 3)
    proxy.begin()
    log.sync(primary, log.address)
    asked = proxy.counted()
    # One a writer at the most: small rounds fill no pack.
    assert 1 <= asked["PUT packs"] <= 4
    assert asked.total() <= 12, asked
    assert proxy.brought() <= changed * 4_000 + 40 * K

    proxy.begin()
    log.sync(log.address, standby)
    asked = proxy.counted()
    assert asked["GET packs"] <= 4
    assert asked.total() <= 14, asked
    assert proxy.fetched() <= changed * 4_000 + 60 * K
    assert_same(primary, standby)


def test_a_standby_that_has_all_asks_for_four_objects(logs: Logs, place: Place) -> None:
    log, proxy = logs.watched()
    primary, standby = place("xfs"), place.absent("xfs")
    fill(primary / "file", 0, 5_000, 1)
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    proxy.begin()
    assert log.sync(log.address, standby)["unchanged"]
    assert proxy.counted().total() <= 4, proxy.counted()


# --- what is no way to use it -----------------------------------------------------------------


def test_two_logs_or_another_machine_are_no_sides_of_a_round(log: Log, logs: Logs, place: Place) -> None:
    primary = place("xfs")
    both = run("sync", log.address, logs("directory").address)
    assert_told(both, "both source and target are logs", codes=(2,))
    there = run("sync", f"elsewhere:{primary}", log.address)
    assert_told(there, "elsewhere", "another machine", "run `snapsync sync` there", codes=(2,))
    assert not log.path.exists()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///prefix", "file://host/x", "file://", "gs://bucket/x", "az://bucket/x"]
)
def test_an_address_that_names_no_log_is_told(place: Place, address: str) -> None:
    primary = place("xfs")
    assert_told(run("sync", primary, address), address, codes=(2,))
    assert_told(run("sync", address, primary), address, codes=(2,))
    assert not (primary / ".snapsync").exists()


def test_a_log_that_is_not_there_is_told_and_makes_no_standby(log: Log, place: Place) -> None:
    target = place.absent("xfs")
    assert_told(run("sync", log.address, target), log.address, "is no log", codes=(2,))
    assert not target.exists()


def test_a_standby_that_was_changed_is_not_overwritten(log: Log, place: Place) -> None:
    primary, standby = place("xfs"), place.absent("btrfs")
    fill(primary / "file", 0, 5_000, 1)
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    fill(primary / "file", 0, 5_000, 2)
    log.sync(primary, log.address)
    (standby / "file").write_text("by hand")
    before = freeze(standby)
    assert_told(run("sync", log.address, standby), "--discard-drift", codes=(3,))
    assert_same(before, standby)
    report = log.sync(log.address, standby, "--discard-drift")
    assert report["set_aside"]
    assert_same(primary, standby)


def test_a_primary_is_no_target(log: Log, place: Place) -> None:
    primary = place("xfs")
    fill(primary / "file", 0, 5_000, 1)
    log.sync(primary, log.address)
    before = freeze(primary)
    assert_told(run("sync", log.address, primary), "is a primary", codes=(3,))
    assert_same(before, primary)


def test_a_directory_with_something_in_it_is_no_target(log: Log, place: Place) -> None:
    primary, target = place("xfs"), place("xfs")
    fill(primary / "file", 0, 5_000, 1)
    log.sync(primary, log.address)
    (target / "mine").write_text("mine")
    before = freeze(target)
    assert_told(run("sync", log.address, target), "not empty", codes=(3,))
    assert_same(before, target)
