"""A clone holds what its snapshot held, and what is written to it never gets there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import worlds
from machine import Place, assert_told, done, run, sh, snapshots, store
from oracle import assert_same, freeze
from test_crash import lay_out
from worlds import fill

KINDS = ("btrfs", "xfs", "ext4")


def clones(volume: Path) -> list[dict[str, Any]]:
    return list(done("list", volume)["clones"])


def files(root: Path) -> list[Path]:
    return [Path(at) / name for at, _, names in os.walk(root) for name in names]


def scribble(root: Path) -> None:
    """Changes every file in place, and every directory."""
    for path in files(root):
        if path.is_file() and not path.is_symlink():
            worlds.set_flags(path, 0, worlds.IMMUTABLE | worlds.APPEND_ONLY)
            fill(path, 0, 5000, 8)
            fill(path, 70_000, 5000, 9)
            os.chmod(path, 0o600)
    for at, _, _ in os.walk(root):
        worlds.set_flags(at, 0, worlds.IMMUTABLE | worlds.APPEND_ONLY)
        (Path(at) / "added").touch()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_to_a_clone_never_reaches_the_snapshot(place: Place, kind: str) -> None:
    volume, to, again = place(kind), place.absent(kind), place.absent(kind)
    lay_out(volume)
    held = freeze(volume)
    done("snapshot", volume, "--name", "then")
    fill(volume / "large", 0, 100, 5)
    now = freeze(volume)
    report = done("clone", f"{volume}@then", to)
    assert_same(held, to)
    assert not (to / ".snapsync").exists()
    assert report["instant"] == (kind == "btrfs")
    # Small files are in packs, which share nothing.
    small = [entry.size for entry in held.entries.values() if entry.kind == "file" and entry.size <= 32 << 10]
    copied = report["data_bytes"] - report["shared_bytes"]
    assert copied <= sum(small) if kind == "xfs" else not report["shared_bytes"]
    scribble(to)
    assert_same(now, volume)
    done("restore", f"{volume}@then", "--to", again)
    assert_same(held, again)


@pytest.mark.parametrize("kinds", [("btrfs", "btrfs"), ("btrfs", "xfs"), ("xfs", "xfs")], ids="-".join)
def test_a_clone_is_listed_and_deleted(place: Place, kinds: tuple[str, str]) -> None:
    volume, to = place(kinds[0]), place.absent(kinds[1])
    lay_out(volume)
    done("snapshot", volume, "--name", "then")
    done("clone", f"{volume}@then", to, "--name", "trial")
    (clone,) = clones(volume)
    assert (clone["name"], clone["path"], clone["of"], clone["exists"]) == ("trial", str(to), "then", True)
    assert "trial" in run("list", volume).out
    assert_told(run("clone", f"{volume}@then", place.absent(kinds[1]), "--name", "trial"), codes=(2,))
    assert_told(run("clone", f"{volume}@then", place.absent(kinds[1]), "--name", "then"), codes=(2,))
    assert_told(run("snapshot", volume, "--name", "trial"), codes=(2,))
    # The snapshot may go before its clone.
    done("snapshot", volume)
    done("delete", f"{volume}@then")
    assert (to / "large").exists()
    assert done("delete", f"{volume}@trial")["clone"]["exists"]
    assert not to.exists()
    assert not clones(volume)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_directory_that_took_the_clones_place_is_not_deleted(place: Place, kind: str) -> None:
    volume, to = place(kind), place.absent(kind)
    fill(volume / "a", 0, 100, 1)
    done("snapshot", volume)
    done("clone", f"{volume}@latest", to, "--name", "trial")
    moved = to.with_name("moved")
    to.rename(moved)
    assert [clone["exists"] for clone in clones(volume)] == [False]
    if kind == "btrfs":
        sh("btrfs", "-q", "subvolume", "create", to)
    else:
        to.mkdir()
    fill(to / "mine", 0, 100, 1)
    ran = run("delete", f"{volume}@trial")
    assert ran.code == 0
    assert "not there any more" in ran.out
    assert (to / "mine").exists()
    assert (moved / "a").exists()
    assert not clones(volume)


def test_what_is_in_a_clone_and_not_its_own_is_not_deleted(place: Place) -> None:
    volume, to, other = place("btrfs"), place.absent("btrfs"), place.absent("btrfs")
    fill(volume / "a", 0, 100, 1)
    done("snapshot", volume)
    done("clone", f"{volume}@latest", to, "--name", "trial")
    sh("btrfs", "-q", "subvolume", "create", to / "nested")
    assert_told(run("delete", f"{volume}@trial"), "nested", codes=(3,))
    assert (to / "a").exists()
    done("clone", f"{volume}@latest", other, "--name", "other")
    done("snapshot", other)
    assert_told(run("delete", f"{volume}@other"), codes=(3,))
    (to / "nested").rmdir()
    done("delete", f"{volume}@trial")


def test_a_clone_of_a_part_holds_that_part(place: Place) -> None:
    volume, standby, to = place("btrfs"), place.absent("btrfs"), place("btrfs")
    fill(volume / "a", 0, 100, 1)
    fill(volume / "b.log", 0, 100, 1)
    done("sync", volume, standby, "--exclude", "*.log")
    assert not done("clone", f"{volume}@latest", to)["instant"]  # an instant one would hold all of it
    assert {path.name for path in to.iterdir()} == {"a"}
    done("clone", f"{standby}@latest", place.absent("btrfs"), "--name", "of-standby")
    assert [clone["name"] for clone in clones(standby)] == ["of-standby"]
    assert snapshots(standby)


def test_a_killed_clone_leaves_nothing(place: Place) -> None:
    volume, to = place("btrfs"), place.absent("btrfs")
    lay_out(volume)
    done("snapshot", volume)
    ran = run("clone", f"{volume}@latest", to, env={"SNAPSYNC_FAULT": "clone.made:1"})
    assert ran.code == -signal.SIGKILL
    assert not to.exists()
    done("snapshot", volume)
    assert not (store(volume) / "clone").exists()
    done("clone", f"{volume}@0", to)
    assert_same(volume, to)
