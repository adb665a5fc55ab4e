"""A dry run tells what the round after it does, and writes nothing on either side."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from machine import Pair, Place, done, run
from remote import HOST, Server

PAIRS = [("btrfs", "xfs"), ("xfs", "ext4"), ("btrfs", "btrfs"), ("xfs", "btrfs")]
pairs = pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
SAME = ("changes", "data_bytes", "tree_bytes", "tree_entries", "unchanged")
Stamps = dict[str, tuple[int, ...]]


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
    """All that a write would change of a tree and its store, the times of the inodes too."""
    if not root.exists():
        return {}
    found = [root, *root.rglob("*")]
    stats = {str(path): path.lstat() for path in found}
    # Where a snapshot on Btrfs had a subvolume, the kernel makes up a directory, with the time of now.
    stats = {path: found for path, found in stats.items() if (found.st_ino, found.st_size) != (2, 0)}
    return {p: (s.st_ino, s.st_size, s.st_mode, s.st_mtime_ns, s.st_ctime_ns) for p, s in stats.items()}


def assert_unwritten(roots: tuple[Path, ...], before: list[Stamps]) -> None:
    for root, old in zip(roots, before, strict=True):
        new = stamps(root)
        assert {
            path: (old.get(path), new.get(path)) for path in old | new if old.get(path) != new.get(path)
        } == {}


def assert_foretold(ends: tuple[object, object], roots: tuple[Path, Path], *options: str) -> None:
    """The dry run writes nothing, and the round does what it told."""
    before = [stamps(root) for root in roots]
    planned = done("sync", *ends, *options, "--dry-run")
    assert_unwritten(roots, before)
    report = done("sync", *ends, *options)
    assert {name: planned[name] for name in SAME} == {name: report[name] for name in SAME}
    assert (planned["base"] and planned["base"]["id"]) == (report["base"] and report["base"]["id"])


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


def test_a_dry_run_tells_that_a_guard_would_refuse(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    lay_out(pair.source)
    pair.sync()
    shutil.rmtree(pair.source / "team-2")
    before = [stamps(root) for root in (pair.source, pair.target)]
    ran = run("sync", pair.source, pair.target, "--guard-deleted", "10%", "--dry-run", "--json")
    assert ran.code == 3, ran
    assert "deleted" in json.loads(ran.out)["refused"]
    assert_unwritten((pair.source, pair.target), before)
    assert run("sync", pair.source, pair.target, "--guard-deleted", "10%", "--quiet").code == 3
    done("sync", pair.source, pair.target, "--guard-deleted", "10%", "--accept-changes", "--dry-run")


def test_only_a_primary_here_has_a_plan(place: Place, tmp_path: Path) -> None:
    ran = run("sync", f"file://{tmp_path}/log", place.absent("xfs"), "--dry-run")
    assert ran.code == 2
    assert "--dry-run" in ran.err
