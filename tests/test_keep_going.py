"""With --keep-going what cannot be read is passed over: it stays as it was, is listed, and is tried again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from configured import Jobs
from machine import Pair, Place, Ran, capless, done, run, snapshots, verified
from oracle import assert_same
from test_scrub import disks as disks  # a fixture
from worlds import fill

NO_BODY = 65534


def shut(*paths: Path) -> None:
    """Nobody reads them without capabilities."""
    for path in paths:
        os.chown(path, NO_BODY, NO_BODY)
        path.chmod(0)


def opened(*paths: Path) -> None:
    for path in paths:
        os.chown(path, 0, 0)
        path.chmod(0o755 if path.is_dir() else 0o644)


def going_on(pair: Pair, *options: object, wrap: tuple[str, ...] = ()) -> Ran:
    return run("sync", pair.source, pair.target, "--keep-going", "--json", *options, wrap=wrap)


def skipped(ran: Ran) -> set[str]:
    assert ran.code == 6, ran
    return {entry["path"] for entry in ran.json["skipped"]}


def tree(root: Path) -> None:
    """Files, and a directory with more of them."""
    (root / "dir/deep").mkdir(parents=True)
    for n, name in enumerate(("one", "two", "dir/three", "dir/deep/four")):
        fill(root / name, 0, 20_000, n)
    os.link(root / "dir/three", root / "linked")


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_what_cannot_be_read_stays_on_the_standby_and_is_brought_when_it_can_be(
    place: Place, kind: str
) -> None:
    pair = Pair.make(place, (kind, "ext4"))
    tree(pair.source)
    pair.sync()
    old = {name: (pair.target / name).read_bytes() for name in ("one", "dir/three", "dir/deep/four")}
    fill(pair.source / "one", 0, 20_000, 7)
    fill(pair.source / "two", 0, 20_000, 8)
    fill(pair.source / "dir/deep/four", 0, 30_000, 9)
    fill(pair.source / "new", 0, 5_000, 10)
    (pair.source / "fresh").mkdir()
    fill(pair.source / "fresh/inner", 0, 5_000, 11)
    shut(*(pair.source / name for name in ("one", "dir", "new", "fresh")))
    for _ in range(2):
        assert skipped(going_on(pair, wrap=capless())) == {"one", "dir", "new", "fresh"}
        assert {name: (pair.target / name).read_bytes() for name in old} == old
        assert (pair.target / "linked").stat().st_ino == (pair.target / "dir/three").stat().st_ino
        assert (pair.target / "two").read_bytes() == (pair.source / "two").read_bytes()
        assert not (pair.target / "new").exists()
        assert not (pair.target / "fresh").exists()
    opened(*(pair.source / name for name in ("one", "dir", "new", "fresh")))
    pair.sync()
    verified(pair.source, pair.target)


def test_what_was_moved_out_of_an_unreadable_directory_is_not_in_it_any_more(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    tree(pair.source)
    pair.sync()
    (pair.source / "dir/deep").rename(pair.source / "elsewhere")
    (pair.source / "elsewhere/four").unlink()
    shut(pair.source / "dir")
    assert skipped(going_on(pair, wrap=capless())) == {"dir"}
    assert list((pair.target / "elsewhere").iterdir()) == []
    assert (pair.target / "dir/three").exists()
    opened(pair.source / "dir")
    pair.sync()


@pytest.mark.parametrize("kind", ["btrfs", "subvolume"])
def test_files_that_a_disk_does_not_give_stay_as_they_were(place: Place, disks: Any, kind: str) -> None:
    disk = disks("btrfs")
    pair = Pair(disk.root, place("xfs"))
    if kind == "subvolume":
        from machine import subvolume

        subvolume(disk.root)
    else:
        disk.root.mkdir()
    for n in range(4):
        fill(disk.root / f"file{n}", 0, 200_000, n)
    pair.sync()
    before = (pair.target / "file0").read_bytes()
    for name, seed in (("file0", 20), ("file1", 21), ("new", 22)):
        fill(disk.root / name, 0, 200_000, seed)
    os.sync()
    disk.flip(disk.root / "file0", 100_000)
    disk.flip(disk.root / "new", 100_000)
    refused = run("sync", pair.source, pair.target)
    assert refused.code == 1, refused
    for _ in range(2):
        assert skipped(going_on(pair)) == {"file0", "new"}
        assert (pair.target / "file0").read_bytes() == before
        assert (pair.target / "file1").read_bytes() == (disk.root / "file1").read_bytes()
        assert not (pair.target / "new").exists()
        newest = snapshots(pair.source)[-1]["name"]
        verified(f"{pair.source}@{newest}", pair.target)
    for name in ("file0", "new"):
        (disk.root / name).unlink()
        fill(disk.root / name, 0, 200_000, 21)
    pair.sync()


def test_strict_refuses_a_round_that_would_pass_something_over(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    tree(pair.source)
    pair.sync()
    shut(pair.source / "one")
    ran = run("sync", pair.source, pair.target, "--keep-going", "--strict", wrap=capless())
    assert ran.code == 3, ran
    assert "--strict" in ran.err
    assert "one" in ran.err


def test_a_snapshot_by_itself_lists_every_path_too(place: Place) -> None:
    source = place("ext4")
    tree(source)
    done("snapshot", source)
    shut(source / "one", source / "dir")
    failed = run("snapshot", source, wrap=capless())
    assert failed.code == 1, failed
    ran = run("snapshot", source, "--keep-going", wrap=capless())
    assert ran.code == 6, ran
    assert "    one: " in ran.out
    assert "    dir: " in ran.out


def test_an_unreadable_root_is_no_empty_tree(place: Place) -> None:
    pair = Pair.make(place, ("ext4", "xfs"))
    tree(pair.source)
    pair.sync()
    shut(pair.source)
    ran = run("sync", pair.source, pair.target, "--keep-going", wrap=capless())
    assert ran.code not in (0, 6), ran
    opened(pair.source)
    assert_same(pair.source, pair.target, ignore={"mode", "mtime"})


def test_a_job_that_passed_something_over_is_done_and_its_status_says_so(
    place: Place, disks: Any, jobs: Jobs
) -> None:
    disk = disks("btrfs")
    pair = Pair(disk.root, place("ext4"))
    disk.root.mkdir()
    fill(disk.root / "bad", 0, 200_000, 1)
    fill(disk.root / "good", 0, 200_000, 2)
    os.sync()
    disk.flip(disk.root / "bad", 100_000)
    jobs.add("it", pair.source, pair.target, "keep_going = true")
    outcome = jobs.outcomes("it", code=6)["it"]
    assert outcome["outcome"] == "done"
    assert [entry["path"] for entry in outcome["skipped"]] == ["bad"]
    assert (pair.target / "good").exists()
    status = run("status", "--config", jobs.file, env=jobs.env)
    assert "bad" in status.out
    judged = run("status", "--config", jobs.file, "--max-lag", "1d", env=jobs.env)
    assert judged.code == 1, judged
    assert "bad" in judged.out
