"""A copy of the primary that is there already becomes its standby, and only what differs travels."""

from __future__ import annotations

import random
import shlex
import signal
from collections import Counter
from itertools import count
from pathlib import Path
from threading import Event, Thread

import pytest
from machine import Pair, Place, assert_told, command, done, need, passed, run, sh, snapshots, store, verified
from oracle import assert_same, freeze, same
from remote import Server
from test_crash import advance, lay_out
from worlds import World, bulk, fill, link, rewrite_quietly, set_xattr

KIB, MIB = 1 << 10, 1 << 20
TOP = (
    ("btrfs", "btrfs"),
    ("xfs", "xfs"),
    ("ext4", "ext4"),
    ("btrfs", "ext4"),
    ("ext4", "xfs"),
    ("xfs", "btrfs"),
)
kinds = pytest.mark.parametrize("kinds", TOP, ids="-".join)
one = pytest.mark.parametrize("kinds", [("ext4", "ext4"), ("btrfs", "btrfs")], ids="-".join)


@pytest.fixture
def copied(place: Place, kinds: tuple[str, str]) -> Pair:
    """The target is a directory."""
    return Pair(place(kinds[0]), place(kinds[1]))


def copy(pair: Pair, *options: str) -> None:
    need("rsync")
    sh("rsync", *(options or ("-aHAX",)), f"{pair.source}/", f"{pair.target}/")


def kept(volume: Path) -> list[str]:
    return [snapshot["name"] for snapshot in snapshots(volume) if snapshot["name"].startswith("adopted-")]


@kinds
def test_an_equal_copy_is_a_standby_and_nothing_travels(copied: Pair, kinds: tuple[str, str]) -> None:
    bulk(copied.source, 300)
    fill(copied.source / "large", 0, 5 * MIB, 1)
    link(copied.source / "large", copied.source / "further")
    set_xattr(copied.source / "large", b"user.x", b"y")
    sh("cp", "-a", f"{copied.source}/.", copied.target)
    report = copied.sync("--adopt")
    assert report["data_bytes"] == 0
    assert report["changes"]["rows"] <= 1, "at most the time of the root, in which the store is made"
    assert report["set_aside"] is None
    assert kept(copied.target) == []
    fill(copied.source / "large", MIB, 1, 2)
    assert copied.sync()["base"]["id"] == report["snapshot"]["id"]
    verified(copied.source, copied.target)


@kinds
def test_only_the_parts_of_files_that_differ_travel(copied: Pair, kinds: tuple[str, str]) -> None:
    fill(copied.source / "large", 0, 20 * MIB, 1)
    fill(copied.source / "small", 0, KIB, 2)
    copy(copied)
    fill(copied.target / "large", 7 * MIB + 5, 1, 9)
    fill(copied.target / "small", 0, 1, 9)
    (copied.target / "extra").write_bytes(b"not there")
    before = freeze(copied.target)
    report = copied.sync("--adopt")
    assert report["data_bytes"] == 64 * KIB + KIB
    aside = report["set_aside"]["name"]
    assert kept(copied.target) == [aside]
    there = copied.target.parent / f"{copied.target.name}-before"
    done("restore", f"{copied.target}@{aside}", "--to", there)
    assert_same(before, there)


@kinds
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_copy_is_it_becomes_the_primary(copied: Pair, kinds: tuple[str, str], seed: int) -> None:
    chance = random.Random(seed)
    world = World(copied.source, seed)
    world.grow(150)
    world.churn(100)
    how = chance.choice([("-aHAX",), ("-rlt",), ("-aX", "--size-only"), ("-aHAXS",)])
    # Holes in the place of zeros are not looked for.
    ignore = {"layout"} if how == ("-aHAXS",) else set()
    copy(copied, *how)
    World(copied.target, seed + 100).churn(chance.choice([0, 5, 80]))
    before = freeze(copied.target)
    report = copied.sync("--adopt", ignore=ignore)
    if report["set_aside"]:
        there = copied.target.parent / f"{copied.target.name}-before"
        done("restore", f"{copied.target}@{report['set_aside']['name']}", "--to", there)
        assert_same(before, there)
    for _ in range(2):
        world.churn(40)
        copied.sync(ignore=ignore)
    verified(copied.source, copied.target)


@one
@pytest.mark.parametrize("way", ["push", "pull"])
def test_it_holds_over_ssh(copied: Pair, server: Server, way: str, kinds: tuple[str, str]) -> None:
    bulk(copied.source, 200)
    fill(copied.source / "large", 0, 9 * MIB, 1)
    set_xattr(copied.source / "large", b"user.same", b"x" * 100)
    set_xattr(copied.source / "large", b"user.other", b"y" * 100)
    copy(copied)
    fill(copied.target / "large", 5 * MIB, 1, 2)
    set_xattr(copied.target / "large", b"user.other", b"z" * 100)
    (copied.target / "extra").write_bytes(b"not there")
    client = server.client()
    ends = {
        "push": (copied.source, client.at(copied.target)),
        "pull": (client.at(copied.source), copied.target),
    }
    report = done("sync", *ends[way], "--adopt", *client.options)
    assert report["data_bytes"] == 64 * KIB
    assert kept(copied.target) == [report["set_aside"]["name"]]
    assert_same(copied.source, copied.target)
    fill(copied.source / "large", MIB, 1, 3)
    assert done("sync", *ends[way], *client.options)["base"]["id"] == report["snapshot"]["id"]
    assert_same(copied.source, copied.target)


@one
def test_a_client_with_fewer_rights_adopts_nothing_until_it_is_allowed(
    copied: Pair, server: Server, kinds: tuple[str, str]
) -> None:
    bulk(copied.source, 20)
    copy(copied)
    before = freeze(copied.target)
    for number, options in enumerate([("--receive-only",), (), ("--receive-only", "--allow-adopt")]):
        words = [*command(), "serve", "--restrict-to", str(copied.target.parent), *options]
        client = server.client(forced=shlex.join(words))
        ran = run("sync", copied.source, client.at(copied.target.name), "--adopt", *client.options)
        if number < 2:
            assert ran.code == 3, ran
            assert_same(before, copied.target)
        else:
            assert ran.code == 0, ran
    assert_same(copied.source, copied.target)


@one
def test_without_it_a_directory_that_is_not_empty_is_refused_as_it_is(
    copied: Pair, kinds: tuple[str, str]
) -> None:
    bulk(copied.source, 20)
    copy(copied)
    trees = freeze(copied.source), freeze(copied.target)
    assert_told(run("sync", copied.source, copied.target), "is not empty", "--adopt")
    assert_told(run("sync", copied.source, copied.target, "--trust-times"), "--adopt")
    assert_told(run("sync", copied.source, copied.target, "--adopt", "--dry-run"), "snapsync diff")
    assert_told(run("sync", copied.source, "file:///nowhere/log", "--adopt"), "adopted")
    assert_told(run("sync", copied.source, copied.source / "bulk-0000", "--adopt"), "inside")
    assert_same(trees[0], copied.source)
    assert_same(trees[1], copied.target)


@one
def test_a_log_is_never_adopted(copied: Pair, place: Place, kinds: tuple[str, str]) -> None:
    bulk(copied.source, 20)
    log = place("ext4") / "log"
    done("sync", copied.source, f"file://{log}")
    before = freeze(log)
    for options in ((), ("--adopt",), ("--dry-run",)):
        assert_told(run("sync", copied.source, log, *options), "is a log", f"file://{log}", codes=(3,))
    assert_same(before, log)


@one
def test_times_are_believed_only_where_that_is_asked_for(copied: Pair, kinds: tuple[str, str]) -> None:
    fill(copied.source / "file", 0, MIB, 1)
    copy(copied)
    rewrite_quietly(copied.target / "file", 5, 5, 2)
    twin = copied.target.parent / f"{copied.target.name}-twin"
    sh("cp", "-a", copied.target, twin)
    report = done("sync", copied.source, copied.target, "--adopt", "--trust-times")
    assert report["data_bytes"] == 0
    assert any(note.startswith("1 files of") and "were not read" in note for note in report["notes"])
    assert run("verify", copied.source, copied.target).code == 4
    assert done("verify", copied.source, copied.target, "--repair")["equal"]
    assert_same(copied.source, copied.target)
    done("sync", copied.source, twin, "--adopt")
    assert_same(copied.source, twin)


@one
def test_what_patterns_leave_out_is_left_alone_in_the_copy(copied: Pair, kinds: tuple[str, str]) -> None:
    bulk(copied.source, 20)
    (copied.source / "cache").mkdir()
    fill(copied.source / "cache/theirs", 0, KIB, 1)
    copy(copied)
    fill(copied.target / "cache/own", 0, KIB, 2)
    fill(copied.target / "extra", 0, KIB, 2)
    report = done("sync", copied.source, copied.target, "--adopt", "--exclude", "/cache/*")
    assert report["changes"]["deleted"] == 1
    assert (copied.target / "cache/own").exists()
    assert not (copied.target / "extra").exists()
    assert_same(copied.source, copied.target, without={b"cache/own", b"cache"})


@one
def test_another_tree_than_a_copy_is_refused_by_the_guard(copied: Pair, kinds: tuple[str, str]) -> None:
    bulk(copied.source, 50)
    bulk(copied.target / "other", 10_000, size=2)
    before = freeze(copied.target)
    ran = run("sync", copied.source, copied.target, "--adopt")
    assert ran.code == 3, ran
    assert "would be deleted" in ran.err
    assert "--accept-changes" in ran.err
    assert_same(before, copied.target)
    assert not (copied.target / ".snapsync").exists()
    copied.sync("--adopt", "--accept-changes")
    assert len(kept(copied.target)) == 1


@pytest.mark.parametrize("kinds", [("ext4", "ext4")], ids="-".join)
def test_files_that_change_meanwhile_are_as_of_the_snapshot(copied: Pair, kinds: tuple[str, str]) -> None:
    """The primary keeps no copy of what it holds, and reads its tree while others write there."""
    bulk(copied.source, 2000)
    copy(copied)
    names = sorted(path for path in copied.source.rglob("*") if path.is_file())
    stop = Event()

    def write() -> None:
        for number in count():
            if stop.is_set():
                return
            path = names[number * 7 % len(names)]
            path.write_bytes(b"%d" % number * 50)
            (copied.source / f"new-{number % 100}").write_bytes(b"%d" % number)

    writer = Thread(target=write)
    writer.start()
    try:
        report = done("sync", copied.source, copied.target, "--adopt")
    finally:
        stop.set()
        writer.join()
    verified(f"{copied.target}@{report['snapshot']['name']}", copied.target)
    copied.sync()


@pytest.mark.parametrize("kinds", [("xfs", "xfs"), ("btrfs", "btrfs"), ("xfs", "ext4")], ids="-".join)
def test_killed_anywhere_the_copy_is_as_it_was_or_a_standby(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    def prepared() -> Pair:
        pair = Pair(place(kinds[0]), place(kinds[1]))
        lay_out(pair.source)
        copy(pair)
        advance(pair.target, 1)
        return pair

    first = prepared()
    done("sync", first.source, first.target, "--adopt", env={"SNAPSYNC_FAULT_TRACE": tmp_path / "trace"})
    hits = Counter(passed(tmp_path / "trace"))
    assert hits, "no fault point was passed: is fault injection built in?"
    for point, last in hits.items():
        with subtests.test(point=point):
            pair = prepared()
            before, after = freeze(pair.target), freeze(pair.source)
            fault = {"SNAPSYNC_FAULT": f"{point}:{last // 2 + 1}"}
            ran = run("sync", pair.source, pair.target, "--adopt", env=fault)
            assert ran.code == -signal.SIGKILL, ran
            if (store(pair.target) / "volume.json").exists():
                run("snapshot", pair.target)
            held = freeze(pair.target)
            assert same(held, before, root_mtime=False) or same(held, after, root_mtime=False)
            pair.sync("--adopt")
            assert_same(after, pair.target, root_mtime=False)
            pair.sync()
