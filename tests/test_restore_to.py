"""What `restore` brings back is what the snapshot held, elsewhere or in place."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from stat import S_ISDIR

import pytest
import worlds
from extents import shares_all
from machine import Place, assert_told, done, passed, run, sh, snapshots
from oracle import assert_same, freeze
from test_crash import advance, lay_out
from worlds import World, fill

KINDS = ("btrfs", "xfs", "ext4")
PAIRS = [("btrfs", "btrfs"), ("xfs", "xfs"), ("xfs", "btrfs"), ("btrfs", "ext4"), ("ext4", "xfs")]
K = 1024


def trees(volume: Path) -> set[str]:
    """The names in a directory."""
    return {entry.name for entry in volume.iterdir()}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_snapshot_is_restored_whole(place: Place, kinds: tuple[str, str], seed: int) -> None:
    volume, to = place(kinds[0]), place.absent(kinds[1])
    world = World(volume, seed)
    world.grow(60)
    world.churn(60)
    held = freeze(volume)
    done("snapshot", volume, "--name", "then")
    world.churn(60)
    done("snapshot", volume)
    report = done("restore", f"{volume}@then", "--to", to)
    assert_same(held, to)
    assert ".snapsync" not in trees(to)
    assert report["snapshot"]["name"] == "then"
    assert report["to"] == str(to)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_directory_is_restored_to(place: Place, kind: str) -> None:
    volume, to = place("xfs"), place(kind)
    lay_out(volume)
    done("snapshot", volume)
    done("restore", f"{volume}@latest", "--to", to)
    assert_same(volume, to)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_what_is_on_the_same_file_system_is_shared(place: Place, kind: str) -> None:
    volume, to = place(kind), place.absent(kind)
    fill(volume / "large", 0, 4000 * K, 1)
    fill(volume / "odd", 0, 300 * K + 17, 3)
    worlds.punch(volume / "large", 1000 * K, 200 * K)
    done("snapshot", volume)
    report = done("restore", f"{volume}@latest", "--to", to)
    assert_same(volume, to)
    assert report["shared_bytes"] == report["data_bytes"] > 4000 * K
    assert report["counters"]["bytes_read"] == 0
    assert shares_all(volume / "large", to / "large")
    assert shares_all(volume / "odd", to / "odd")


def test_clones_within_a_snapshot_stay_clones(place: Place) -> None:
    volume, to = place("xfs"), place.absent("xfs")
    fill(volume / "a", 0, 1000 * K, 1)
    sh("cp", "--reflink=always", volume / "a", volume / "b")
    done("snapshot", volume)
    done("restore", f"{volume}@latest", "--to", to)
    assert_same(volume, to)
    assert shares_all(to / "a", to / "b")


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "xfs"), ("ext4", "btrfs")], ids="-".join)
def test_only_named_paths_are_restored(place: Place, kinds: tuple[str, str]) -> None:
    volume, to = place(kinds[0]), place.absent(kinds[1])
    strange = os.fsdecode(b"deep/\xff\xfe")
    for name in ("deep/er/kept", "deep/er/other", "deep/left", "whole/one", "whole/in/two", "out"):
        (volume / name).parent.mkdir(parents=True, exist_ok=True)
        fill(volume / name, 0, 5000, len(name))
    fill(volume / strange, 0, 300, 5)
    os.link(volume / "whole/one", volume / "deep/link")
    os.link(volume / "whole/one", volume / "whole/again")
    os.chmod(volume / "deep", 0o750)
    worlds.touch(volume / "deep", 1_234_567_890)
    worlds.touch(volume / "deep/er", 234_567_890)
    held = freeze(volume)
    done("snapshot", volume)
    paths = ("deep/er/kept", volume / "whole/", "whole/in/two", strange)
    done("restore", f"{volume}@latest", *paths, "--to", to)
    wanted = [b"deep", b"deep/er", b"deep/er/kept", b"whole", b"whole/one", b"whole/again", b"whole/in",
              b"whole/in/two", os.fsencode(strange)]  # fmt: skip
    restored = freeze(to)
    assert set(restored.entries) == {b".", *wanted}
    without = held.entries.keys() - restored.entries.keys()
    assert_same(held, restored, without=without, ignore=["groups", "links"])
    assert restored.groups == {frozenset({b"whole/one", b"whole/again"})}


@pytest.mark.parametrize("path", ["nowhere", "../out", "/elsewhere", ".snapsync", "a/b"])
def test_a_path_that_the_snapshot_does_not_have_is_refused(place: Place, path: str) -> None:
    volume, to = place("xfs"), place.absent("xfs")
    fill(volume / "a", 0, 10, 1)
    done("snapshot", volume)
    assert_told(run("restore", f"{volume}@latest", "a", path, "--to", to), codes=(2,))
    assert not to.exists()
    assert_told(run("restore", f"{volume}@latest", "a", path), codes=(2,))
    assert len(snapshots(volume)) == 1


def test_what_is_not_empty_is_not_restored_to(place: Place) -> None:
    volume, other, full = place("xfs"), place("btrfs"), place("ext4")
    fill(volume / "a", 0, 10, 1)
    done("snapshot", volume)
    done("snapshot", other)
    fill(full / "b", 0, 10, 1)
    for to in (volume, other, full, volume / ".snapsync/new"):
        before = freeze(to) if to.exists() else None
        assert_told(run("restore", f"{volume}@latest", "--to", to))
        assert before is None or freeze(to) == before


def test_strict_refuses_a_loss_and_leaves_nothing(place: Place) -> None:
    volume, to, empty = place("btrfs"), place.absent("xfs"), place("xfs")
    (volume / "link").symlink_to("x" * 2000)
    fill(volume / "a", 0, 10, 1)
    os.setxattr(volume / "a", b"btrfs.compression", b"zstd")
    done("snapshot", volume)
    for target in (to, empty):
        ran = run("restore", f"{volume}@latest", "--to", target, "--strict")
        assert ran.code in (1, 2, 3), ran
    assert not to.exists()
    assert not trees(empty)


def killed(case: tuple[str, int], *args: object) -> None:
    ran = run(*args, env={"SNAPSYNC_FAULT": f"{case[0]}:{case[1]}"})
    assert ran.code == -signal.SIGKILL, f"not killed: {ran}"


@pytest.mark.parametrize("kinds", [("xfs", "xfs"), ("btrfs", "ext4")], ids="-".join)
def test_a_killed_restore_is_never_taken_for_a_finished_one(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kinds: tuple[str, str]
) -> None:
    volume, trace = place(kinds[0]), tmp_path / "trace"
    lay_out(volume)
    held = freeze(volume)
    done("snapshot", volume, "--name", "one")
    advance(volume, 1)
    done("snapshot", volume, "--name", "two")
    done("restore", f"{volume}@one", "--to", place.absent(kinds[1]), env={"SNAPSYNC_FAULT_TRACE": trace})
    hits = Counter(passed(trace))
    assert {"restore.manifest", "restore.done"} <= hits.keys()
    for point, last in hits.items():
        with subtests.test(point=point):
            to = place.absent(kinds[1])
            killed((point, last // 2 + 1), "restore", f"{volume}@one", "--to", to)
            assert (to / ".snapsync").exists()
            assert run("snapshot", to).code == 3
            if set(trees(to)) == {".snapsync"} and point.startswith("stage."):
                other = place.absent(kinds[1])
                killed((point, 1), "restore", f"{volume}@one", "--to", other)
                done("restore", f"{volume}@two", "--to", other)
                assert_same(volume, other)
            done("restore", f"{volume}@one", "--to", to)
            assert_same(held, to)
            assert ".snapsync" not in trees(to)


# --- in place ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_paths_become_what_they_were_and_what_they_are_is_kept(place: Place, kind: str) -> None:
    volume, out = place(kind), place.absent(kind)
    lay_out(volume)
    (volume / "gone/deep").mkdir(parents=True)
    fill(volume / "gone/deep/file", 0, 9000, 1)
    os.chmod(volume / "gone", 0o710)
    worlds.touch(volume / "gone", 1_000_000_007)
    then = freeze(volume)
    done("snapshot", volume, "--name", "then")
    fill(volume / "large", 0, 100, 9)
    worlds.set_flags(volume / "locked", 0, worlds.IMMUTABLE)
    fill(volume / "locked", 0, 100, 3)
    worlds.set_flags(volume / "locked", worlds.IMMUTABLE)
    fill(volume / "turn/new", 0, 100, 3)
    sh("rm", "-r", volume / "gone")
    now = freeze(volume)
    paths = ("large", volume / "turn", "locked", "gone/deep/file", "gone/deep")
    report = done("restore", f"{volume}@then", *paths)
    after = freeze(volume)
    changed = {b"large", b"locked"} | {p for p in then.entries if p.split(b"/")[0] in (b"turn", b"gone")}
    for path in changed:
        assert after.entries[path] == then.entries[path], path
    assert b"turn/new" not in after.entries
    rest = now.entries.keys() - changed - {b".", b"turn/new"}
    assert all(after.entries[path] == now.entries[path] for path in rest)
    assert [s["name"] for s in snapshots(volume)] == ["then", report["before"]["name"]]
    assert report["before"]["name"].startswith("before-restore-")
    done("restore", f"{volume}@{report['before']['id']}", "--to", out)
    assert_same(now, out)
    assert not (volume / ".snapsync/incoming").exists()


def marks(volume: Path) -> dict[str, tuple[int, int]]:
    """By which files that were left alone are known, and directories that are the same ones."""
    paths = [path for path in volume.rglob("*") if ".snapsync" not in path.parts]
    stats = {str(path.relative_to(volume)): path.lstat() for path in paths}
    return {
        path: (stat.st_ino, 0 if S_ISDIR(stat.st_mode) else stat.st_ctime_ns) for path, stat in stats.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_path_is_written_only_where_it_differs(place: Place, kind: str) -> None:
    volume = place(kind)
    (volume / "dir/below/moves").mkdir(parents=True)
    for name in ("one", "below/other", "below/third", "below/gone", "below/moves/within"):
        fill(volume / "dir" / name, 0, 9_000, len(name))
    (volume / "dir/below/link").symlink_to("third")
    os.link(volume / "dir/one", volume / "beside")
    os.link(volume / "dir/below/third", volume / "dir/again")
    for path in (volume / "dir/below/moves", volume / "dir/below", volume / "dir"):
        worlds.touch(path, 1_000_000_007)
    then, untouched = freeze(volume), marks(volume)
    done("snapshot", volume, "--name", "then")
    restore = ("restore", f"{volume}@then", "dir")
    assert done(*restore)["changes"]["created"] == 0
    assert marks(volume) == untouched
    assert_same(then, volume)
    fill(volume / "dir/below/other", 100, 10, 7)
    (volume / "dir/below/gone").unlink()
    (volume / "dir/below/moves").rename(volume / "dir/moved")
    (volume / "dir/new").mkdir()
    worlds.set_flags(volume / "dir/new", worlds.IMMUTABLE)
    fill(volume / "dir/below/new", 0, 10, 7)
    worlds.set_flags(volume / "dir/below/new", worlds.IMMUTABLE)
    done(*restore)
    assert_same(then, volume)
    changed = {name for name, mark in marks(volume).items() if untouched[name] != mark}
    written = {"dir/below/other", "dir/below/gone", "dir/below/moves", "dir/below/moves/within"}
    assert changed == written
    assert not (volume / ".snapsync/incoming").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_is_immutable_then_and_now_becomes_what_it_was(place: Place, kind: str) -> None:
    volume = place(kind)
    deep, dated = volume / "dir/below/deep", volume / "dir/dated"
    for directory in (deep, volume / "dir/other", dated):
        directory.mkdir(parents=True)
    for name in ("below/deep/one", "below/deep/two", "below/deep/gone", "other/kept", "plain"):
        fill(volume / "dir" / name, 0, 9_000, len(name))
    os.link(deep / "two", volume / "dir/other/two")
    immutable = (deep, deep.parent, volume / "dir/other", dated)

    def protect(on: int, off: int = 0) -> None:
        for directory in immutable:
            worlds.set_flags(directory, on, off)

    protect(worlds.IMMUTABLE)
    then = freeze(volume)
    done("snapshot", volume, "--name", "then")
    for change in ("one", "new", "gone"):
        protect(0, worlds.IMMUTABLE)
        if change == "gone":
            (deep / "gone").unlink()
        else:
            fill(deep / change, 0, 10, 77)
        fill(dated / "made", 0, 1, 1)
        (dated / "made").unlink()
        protect(worlds.IMMUTABLE)
        done("restore", f"{volume}@then", "dir")
        assert_same(then, volume)
    assert not (volume / ".snapsync/incoming").exists()


@pytest.mark.parametrize("seed", [182, 194, 195, 199])
@pytest.mark.parametrize("kind", KINDS)
def test_paths_become_what_they_were_whatever_happened(place: Place, kind: str, seed: int) -> None:
    volume, out = place(kind), place.absent(kind)
    world = World(volume, seed)
    world.grow(80)
    then = freeze(volume)
    done("snapshot", volume, "--name", "then")
    tops = sorted(trees(volume) - {".snapsync"})
    world.churn(60)
    now = freeze(volume)
    report = done("restore", f"{volume}@then", *(volume / name for name in tops))
    done("restore", f"{volume}@{report['before']['id']}", "--to", out)
    assert_same(now, out)
    for name in trees(volume) - {".snapsync", *tops}:
        subprocess.run(["chattr", "-R", "-ia", volume / name], capture_output=True)
        sh("rm", "-rf", "--", volume / name)
    assert_same(then, volume, root_mtime=False)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_restored_into_a_standby(place: Place, kind: str) -> None:
    volume, standby = place(kind), place.absent(kind)
    (volume / "dir").mkdir()
    fill(volume / "dir/file", 0, 100, 1)
    done("sync", volume, standby)
    before, snap = freeze(standby), f"{volume}@latest"
    for verb in (
        ("restore", snap, "--to", standby / "dir/new"),
        ("restore", snap, "dir/file", "--to", standby / "new"),
        ("clone", snap, standby / "new"),
        ("versions", volume / "dir/file", "--restore", "1", "--to", standby / "new"),
    ):
        assert_told(run(*verb), str(standby), "lies in the standby", codes=(3,))
    # What is mounted there is no part of it.
    (standby / "mounted").mkdir()
    other = place("ext4" if kind == "xfs" else "xfs")
    sh("mount", "--bind", other, standby / "mounted")
    try:
        done("restore", snap, "--to", standby / "mounted/new")
        assert (other / "new/dir/file").exists()
    finally:
        sh("umount", standby / "mounted")
        (standby / "mounted").rmdir()
        os.utime(standby, ns=2 * (before.entries[b"."].mtime_ns,))
    for verb in (("restore", f"{standby}@latest"), ("restore", f"{standby}@latest", "dir")):
        assert_told(run(*verb), "is a standby", "--to DIR", "promote", codes=(3,))
    assert_same(before, standby)


def test_a_restore_in_place_leads_nowhere_else(place: Place, tmp_path: Path) -> None:
    volume = place("xfs")
    (volume / "dir").mkdir()
    fill(volume / "dir/file", 0, 100, 1)
    fill(volume / "plain", 0, 100, 1)
    done("snapshot", volume, "--name", "then")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("theirs")
    sh("rm", "-r", volume / "dir")
    (volume / "dir").symlink_to(outside)
    assert_told(run("restore", f"{volume}@then", "dir/file"), codes=(3,))
    assert (outside / "file").read_text() == "theirs"
    # The link itself can be replaced.
    done("restore", f"{volume}@then", "dir")
    assert not (volume / "dir").is_symlink()
    assert (outside / "file").read_text() == "theirs"


def test_what_no_snapshot_holds_is_not_replaced(place: Place) -> None:
    volume, standby = place("btrfs"), place.absent("btrfs")
    (volume / "dir/nested").mkdir(parents=True)
    fill(volume / "dir/file", 0, 100, 1)
    done("sync", volume, standby)
    fill(volume / "dir/log", 0, 100, 1)
    done("sync", volume, standby, "--exclude", "log")
    assert_told(run("restore", f"{volume}@0", "dir"), "dir/log", codes=(3,))
    (volume / "dir/log").unlink()
    sh("btrfs", "-q", "subvolume", "create", volume / "dir/sub")
    fill(volume / "dir/sub/file", 0, 100, 1)
    assert_told(run("restore", f"{volume}@0", "dir"), "dir/sub", codes=(3,))
    assert (volume / "dir/sub/file").exists()
    assert_told(run("restore", f"{standby}@0", "dir"), "standby", codes=(3,))


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_kill_leaves_each_path_old_or_new(
    place: Place, tmp_path: Path, subtests: pytest.Subtests, kind: str
) -> None:
    volume, trace = place(kind), tmp_path / "trace"
    for name in ("a", "b", "c"):
        (volume / name).mkdir()
        fill(volume / name / "file", 0, 70_000, 1)
    then = freeze(volume)
    done("snapshot", volume, "--name", "then")

    def change() -> None:
        for name in ("a", "b", "c"):
            fill(volume / name / "file", 0, 100, 2)

    change()
    args = ("restore", f"{volume}@then", "a", "b", "c")
    done(*args, env={"SNAPSYNC_FAULT_TRACE": trace})
    for point, last in Counter(passed(trace)).items():
        with subtests.test(point=point):
            change()
            now = freeze(volume)
            killed((point, last // 2 + 1), *args)
            left = freeze(volume)
            for name in (b"a", b"b", b"c"):
                paths = (name, name + b"/file")
                old, new = ([picture.entries[path] for path in paths] for picture in (now, then))
                assert [left.entries[path] for path in paths] in (old, new)
            done(*args)
            assert_same(then, volume, root_mtime=False)
            assert not (volume / ".snapsync/incoming").exists()
