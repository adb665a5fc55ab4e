"""A dry run tells what the round after it does, and writes nothing on either side."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from machine import KINDS, MIB, FileSystems, Pair, Place, done, run, sh
from oracle import assert_same
from remote import HOST, Server
from test_model import SEEDS, world_of
from test_rehearsal import fuse
from worlds import rewrite_quietly

PAIRS = [("btrfs", "xfs"), ("xfs", "ext4"), ("btrfs", "btrfs"), ("xfs", "btrfs")]
pairs = pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
SAME = ("changes", "data_bytes", "tree_bytes", "tree_entries", "unchanged", "losses")
Stamps = dict[str, tuple[object, ...]]


def lay_out(root: Path) -> None:
    for number in range(60):
        directory = root / f"team-{number % 3}"
        directory.mkdir(exist_ok=True)
        (directory / f"{number}").write_bytes(os.urandom(5000))
    os.link(root / "team-0/0", root / "linked")
    (root / "link").symlink_to("team-0/0")


def work(root: Path) -> None:
    (root / "team-0/new").write_bytes(os.urandom(7000))
    (root / "team-0/3").unlink()
    (root / "team-1/1").rename(root / "renamed")
    (root / "team-1/4").write_bytes(os.urandom(5000))
    (root / "team-1/7").chmod(0o600)
    shutil.rmtree(root / "team-2")


def stamps(root: Path) -> Stamps:
    """All that a write would change of a tree and its store: bytes, and the times of the inodes too.

    The directory that it is in is one of them: nothing comes and goes there.
    """
    found = [root.parent, *([root, *root.rglob("*")] if root.exists() else ())]
    stats = {str(path): path.lstat() for path in found}
    # Where a snapshot on Btrfs had a subvolume, the kernel makes up a directory, with the time of now.
    stats = {path: found for path, found in stats.items() if (found.st_ino, found.st_size) != (2, 0)}
    return {path: (held(path, found), *times(found)) for path, found in stats.items()}


def times(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_nlink, found.st_size, found.st_mode, found.st_mtime_ns, found.st_ctime_ns


def held(path: str, found: os.stat_result) -> str:
    """The bytes of a file."""
    if not stat.S_ISREG(found.st_mode):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def assert_unwritten(roots: tuple[Path, ...], before: list[Stamps]) -> None:
    for root, old in zip(roots, before, strict=True):
        new = stamps(root)
        assert {
            path: (old.get(path), new.get(path)) for path in old | new if old.get(path) != new.get(path)
        } == {}


def assert_foretold(ends: tuple[object, object], roots: tuple[Path, Path], *options: str) -> dict[str, Any]:
    """The dry run writes nothing, and the round does what it told."""
    before = [stamps(root) for root in roots]
    planned = done("sync", *ends, *options, "--dry-run")
    assert_unwritten(roots, before)
    assert_adds_up(planned)
    report = done("sync", *ends, *options)
    told = {name: planned[name] for name in SAME if planned[name] is not None}
    assert told == {name: report[name] for name in told}
    assert (planned["base"] and planned["base"]["id"]) == (report["base"] and report["base"]["id"])
    return planned


def assert_adds_up(planned: dict[str, Any]) -> None:
    """The paths that are told are those that are counted."""
    totals = dict.fromkeys(("created", "changed", "renamed", "deleted"), 0)
    for change in planned["paths"]:
        flags = set(change["flags"])
        for name in totals.keys() & flags:
            totals[name] += 1
        # A renamed one may have changed as well.
        totals["changed"] += not flags & {"created", "deleted"} and flags != {"renamed"}
    changes = planned["changes"]
    assert totals == {name: changes[name] for name in totals}
    assert sum(change["data_bytes"] for change in planned["paths"]) == planned["data_bytes"]


def assert_refused_alike(
    ends: tuple[object, object], roots: tuple[Path, Path], *options: str
) -> dict[str, Any]:
    """The dry run ends as the round does, by the same words, and neither changes anything there."""
    before = [stamps(root) for root in roots]
    planned = run("sync", *ends, *options, "--dry-run", "--json")
    assert_unwritten(roots, before)
    ran = run("sync", *ends, *options, "--json")
    assert (planned.code, ran.code) == (3, 3), (planned, ran)
    told, error = planned.json, ran.json["error"]
    mine = told.get("error", {"message": told.get("refused"), "advice": told.get("advice")})
    for said in (mine, error):  # to make a standby takes some room
        said["message"] = re.sub(r"has [0-9.]+ \w+ free", "has some free", said["message"])
    assert (mine["message"], mine["advice"]) == (error["message"], error["advice"])
    return dict(told)


@pairs
def test_a_dry_run_tells_what_the_round_does(kinds: tuple[str, str], place: Place) -> None:
    pair = Pair.make(place, kinds)
    ends = roots = (pair.source, pair.target)
    lay_out(pair.source)
    assert_foretold(ends, roots)
    work(pair.source)
    assert_foretold(ends, roots)
    assert_foretold(ends, roots)
    assert_foretold(ends, roots, "--exclude", "team-1/")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kinds", list(product(KINDS, KINDS)), ids="-".join)
def test_of_any_changes_each_is_foretold(pair: Pair, kinds: tuple[str, str], seed: int) -> None:
    ends = roots = (pair.source, pair.target)
    with world_of(pair, kinds, seed) as world:
        pair.keep_history()
        for _ in range(3):
            assert_foretold(ends, roots)
            assert_same(*roots)
            world.churn(60)
        assert_foretold(ends, roots, "--strict")


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "ext4")], ids="-".join)
def test_the_paths_of_a_dry_run_are_those_of_the_difference(kinds: tuple[str, str], place: Place) -> None:
    pair = Pair.make(place, kinds)
    lay_out(pair.source)
    pair.sync("--name", "one")
    work(pair.source)
    told = run("sync", pair.source, pair.target, "--dry-run", "--stat").out.splitlines()
    pair.sync("--name", "two")
    shown = run("diff", f"{pair.source}@one", f"{pair.source}@two").out.splitlines()
    assert shown
    assert sorted(told[: len(shown)]) == sorted(shown)
    assert told[len(shown)].startswith("would sync")


def test_without_old_bytes_a_dry_run_tells_the_most_that_the_round_may_do(place: Place) -> None:
    pair = Pair.make(place, ("ext4", "xfs"))
    ends = roots = (pair.source, pair.target)
    lay_out(pair.source)
    assert_foretold(ends, roots)
    work(pair.source)
    before = [stamps(root) for root in roots]
    planned = done("sync", *ends, "--dry-run")
    assert_unwritten(roots, before)
    report = pair.sync()
    assert "the most" in " ".join(planned["notes"])
    for name in ("created", "deleted", "renamed"):
        assert planned["changes"][name] == report["changes"][name]
    assert planned["changes"]["changed"] >= report["changes"]["changed"]
    assert planned["data_bytes"] >= report["data_bytes"]


def test_a_dry_run_tells_what_goes_to_another_machine(server: Server, place: Place) -> None:
    client = server.client()
    pair = Pair.make(place, ("btrfs", "xfs"))
    ends, roots = (pair.source, f"{HOST}:{pair.target}"), (pair.source, pair.target)
    lay_out(pair.source)
    assert_foretold(ends, roots, *client.options)
    work(pair.source)
    assert_foretold(ends, roots, *client.options)


def test_a_dry_run_tells_what_goes_to_a_log(place: Place, tmp_path: Path) -> None:
    source, log = place("btrfs"), tmp_path / "log"
    lay_out(source)
    assert_foretold((source, f"file://{log}"), (source, log))
    work(source)
    assert_foretold((source, f"file://{log}"), (source, log))


@pytest.mark.parametrize("there", [False, True])
def test_a_dry_run_has_the_numbers_of_the_guard_that_refuses(
    there: bool, server: Server, place: Place
) -> None:
    client = server.client()
    pair = Pair.make(place, ("xfs", "ext4"))
    lay_out(pair.source)
    pair.sync()
    shutil.rmtree(pair.source / "team-2")
    target = f"{HOST}:{pair.target}" if there else pair.target
    ends, limit = (pair.source, target), ("--guard-deleted", "10%", "--name", "now", *client.options)
    told = assert_refused_alike(ends, (pair.source, pair.target), *limit)
    error = run("sync", *ends, *limit, "--json").json["error"]
    guard = error["guard"]
    assert guard == told["guard"]
    assert guard["beyond"] == "deleted"
    # Of 60 files, three directories, their root, a symbolic link: a further name is no further entry.
    assert guard["deleted"] == {"part": 21, "whole": 65, "limit": 10}
    assert guard["shrink"] == {"part": 20 * 5000, "whole": 60 * 5000, "limit": 100}
    assert guard["directories"][0] == {"path": "team-2", "entries": 20}
    planned = done("sync", *ends, *limit, "--accept-changes", "--dry-run")
    assert (planned["guard"], planned["refused"]) == (None, None)


@pytest.mark.parametrize("there", [False, True])
def test_a_dry_run_lists_what_the_standby_cannot_hold(there: bool, server: Server, place: Place) -> None:
    """XFS knows no undelete flag, and ext4 not the hints of XFS."""
    client = server.client()
    pair = Pair.make(place, ("ext4", "xfs"))
    lay_out(pair.source)
    sh("chattr", "+u", pair.source / "team-0/3", pair.source / "team-1/4")
    sh("chattr", "+T", pair.source / "team-2")
    target = f"{HOST}:{pair.target}" if there else pair.target
    ends, roots = (pair.source, target), (pair.source, pair.target)
    assert_refused_alike(ends, roots, *client.options, "--strict")
    told = assert_foretold(ends, roots, *client.options)
    assert {loss["what"]: loss["count"] for loss in told["losses"]} == {"inode flag u": 2, "inode flag T": 1}


@pytest.mark.parametrize("there", [False, True])
def test_a_dry_run_tells_what_was_changed_by_hand(there: bool, server: Server, place: Place) -> None:
    client = server.client()
    pair = Pair.make(place, ("xfs", "xfs"))
    lay_out(pair.source)
    pair.sync()
    target = f"{HOST}:{pair.target}" if there else pair.target
    ends, roots = (pair.source, target), (pair.source, pair.target)
    (pair.target / "team-1/stray").write_text("by hand")
    assert_foretold(ends, roots, *client.options)  # nothing there is touched
    told = assert_refused_alike(ends, roots, *client.options, "--check")
    assert "team-1/stray (new)" in told["error"]["message"]
    (pair.source / "team-1/5").write_text("of the primary")
    told = assert_foretold(ends, roots, *client.options, "--discard-drift")
    assert "team-1/stray (new)" in " ".join(told["notes"])
    assert not (pair.target / "team-1/stray").exists()
    (pair.target / "team-1/4").write_text("by hand")
    assert_foretold(ends, roots, *client.options)
    (pair.source / "team-1/4").write_text("of the primary")
    told = assert_refused_alike(ends, roots, *client.options)
    assert "team-1/4 (of another size)" in told["refused"]


def test_a_dry_run_finds_what_only_a_change_time_tells(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    lay_out(pair.source)
    pair.sync()
    ends = roots = (pair.source, pair.target)
    rewrite_quietly(pair.target / "team-1/4", 1, 2, 3)
    assert_foretold(ends, roots)  # nothing there is touched
    with (pair.source / "team-1/4").open("a") as file:
        file.write("more")
    assert "team-1/4 (written" in assert_refused_alike(ends, roots)["refused"]


@pairs
def test_a_dry_run_finds_what_was_left_out_and_is_in_the_way(kinds: tuple[str, str], place: Place) -> None:
    pair = Pair.make(place, kinds)
    lay_out(pair.source)
    ends = roots = (pair.source, pair.target)
    done("sync", *ends, "--exclude", "*.own")
    (pair.target / "by hand.own").write_text("by hand")
    assert_foretold(ends, roots)
    assert "by hand.own" in assert_refused_alike(ends, roots, "--everything")["refused"]
    told = assert_foretold(ends, roots, "--everything", "--discard-drift")
    assert "by hand.own" in " ".join(told["notes"])


def test_on_btrfs_a_dry_run_finds_any_change_by_hand(place: Place) -> None:
    pair = Pair.make(place, ("btrfs", "btrfs"))
    lay_out(pair.source)
    pair.sync()
    assert_foretold((pair.source, pair.target), (pair.source, pair.target))
    (pair.target / "team-1/stray").write_text("by hand")
    ends = roots = (pair.source, pair.target)
    assert "team-1/stray" in assert_refused_alike(ends, roots)["error"]["message"]


def test_a_dry_run_refuses_names_that_the_standby_takes_for_one(
    place: Place, file_systems: FileSystems
) -> None:
    if not Path("/sys/fs/ext4/features/casefold").exists():
        pytest.skip("this kernel folds no names")
    target = file_systems.mount("ext4", 256 * MIB, "-O", "casefold") / "standby"
    target.mkdir()
    sh("chattr", "+F", target)
    pair = Pair(place("xfs"), target)
    lay_out(pair.source)
    pair.sync()
    for name in ("Name", "nAME"):
        (pair.source / name).write_text(name)
    ends = roots = (pair.source, pair.target)
    told = assert_refused_alike(ends, roots)
    assert "takes that name for" in told["refused"]


def test_where_nothing_can_be_tried_unseen_a_dry_run_says_so(place: Place, file_systems: FileSystems) -> None:
    source = place("xfs")
    lay_out(source)
    (source / "link").unlink()
    (source / "linked").unlink()
    with fuse(file_systems, "exfat") as mounted:
        target = mounted / "standby"
        before = [stamps(root) for root in (source, target)]
        planned = done("sync", source, target, "--dry-run")
        assert_unwritten((source, target), before)
        assert "only the round finds out" in " ".join(planned["notes"])
        assert planned["losses"] is None


def test_a_dry_run_knows_how_much_room_the_round_takes(place: Place, file_systems: FileSystems) -> None:
    target = file_systems.mount("xfs", 400 * MIB) / "standby"
    pair = Pair(place("btrfs"), target)
    lay_out(pair.source)
    (pair.source / "large").write_bytes(os.urandom(16 * MIB))
    planned = done("sync", pair.source, target, "--dry-run")
    # 60 files of two blocks, and the large one.
    assert planned["needed"] == 60 * 8192 + 16 * MIB
    assert planned["needed_inodes"] == 66
    assert planned["available"] >= planned["needed"]
    sh("fallocate", "-l", str(planned["available"] - 8 * MIB), target.parent / "filler")
    ends = roots = (pair.source, target)
    told = run("sync", *ends, "--dry-run", "--json")
    assert told.code == 3
    assert told.json["needed"] == planned["needed"] > told.json["available"]
    assert "this round needs" in told.json["refused"]
    assert_refused_alike(ends, roots)
    assert done("sync", *ends, "--dry-run", "--no-space-check")["refused"] is None


def test_a_dry_run_refuses_what_a_round_refuses_at_its_start(place: Place) -> None:
    pair = Pair.make(place, ("ext4", "xfs"))
    lay_out(pair.source)
    pair.sync("--name", "one")
    ends = roots = (pair.source, pair.target)
    hook = ("--before-snapshot", "true", "--after-snapshot", "true")
    assert "keeps no history" in assert_refused_alike(ends, roots, *hook)["error"]["message"]
    other = place("xfs")
    (other / "a").write_text("a")
    done("sync", other, place.absent("xfs"))
    assert_refused_alike((other, pair.target), (other, pair.target))
    assert_refused_alike((pair.target, other), (pair.target, other))
    ran = [run("sync", *ends, "--name", "one", *how) for how in ((), ("--dry-run",))]
    assert [(one.code, one.err) for one in ran] == [(ran[0].code, ran[0].err)] * 2
    assert ran[0].code in (2, 3)


def test_a_list_of_changes_takes_a_dry_run(tmp_path: Path) -> None:
    ran = run("sync", tmp_path / "a", tmp_path / "b", "--stat")
    assert ran.code == 2
    assert "--dry-run" in ran.err


def test_only_a_primary_here_has_a_plan(place: Place, tmp_path: Path) -> None:
    ran = run("sync", f"file://{tmp_path}/log", place.absent("xfs"), "--dry-run")
    assert ran.code == 2
    assert "--dry-run" in ran.err
