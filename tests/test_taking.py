"""Snapshots by other means: a command makes the tree that a round reads, and another takes it away."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from configured import Jobs
from machine import Place, assert_told, done, run, snapshots, start, stopped_at, store, wait_until
from oracle import assert_same

import snapsync

SCRIPT = """
import os, pathlib, subprocess, sys
what, subvolume, more = sys.argv[1:4]
with open(sys.argv[4], "a") as log:
    log.write(what + "\\n")
copy = pathlib.Path(subvolume).parent / os.environ["SNAPSYNC_TAKEN_NAME"]
if what == "take":
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", "-r", subvolume, copy], check=True)
elif copy.exists():
    subprocess.run(["btrfs", "-q", "subvolume", "delete", copy], check=True)
exec(more)
"""


@dataclass
class Taking:
    """A directory in a subvolume, of which a script makes snapshots."""

    home: Path
    source: Path
    script: Path
    log: Path

    def words(self, what: str, more: str = "") -> list[str]:
        return [sys.executable, str(self.script), what, str(self.home), more, str(self.log)]

    def options(self, *, take: str = "", release: str = "", at: str | None = None) -> list[str]:
        import shlex

        at = f"{self.home.parent}/{{name}}/data" if at is None else at
        return [
            f"--take={shlex.join(self.words('take', take))}",
            f"--release={shlex.join(self.words('release', release))}",
            *([f"--taken-at={at}"] if at else []),
        ]

    @property
    def ran(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    @property
    def left(self) -> list[Path]:
        return list(self.home.parent.glob("snapsync-*"))


@pytest.fixture
def taking(place: Place, tmp_path: Path) -> Taking:
    home, script = place("btrfs"), tmp_path / "take.py"
    script.write_text(SCRIPT)
    (home / "data").mkdir()
    (home / "data/file").write_text("old")
    return Taking(home, home / "data", script, tmp_path / "log")


def change(tree: Path, turn: int) -> None:
    """Something of each kind: new, other bytes of the same size, another name, one name more, gone."""
    (tree / f"new{turn}").write_bytes(os.urandom(50_000))
    (tree / "same").write_bytes(os.urandom(70_000))
    os.utime(tree / "same", (1, 1))
    (tree / f"dir{turn}").mkdir()
    (tree / f"dir{turn}/inner").write_text(str(turn))
    os.link(tree / f"new{turn}", tree / f"dir{turn}/linked")
    if turn:
        (tree / f"new{turn - 1}").rename(tree / f"moved{turn}")
        (tree / f"dir{turn - 1}").rename(tree / f"away{turn}")
    if turn > 1:
        (tree / f"moved{turn - 1}").unlink()


@pytest.mark.parametrize(("history", "identity"), [("full", "inode"), ("full", "path"), ("light", "inode")])
def test_rounds_bring_what_the_command_has_made_and_nothing_later(
    taking: Taking, place: Place, history: str, identity: str
) -> None:
    target = place.absent("ext4")
    done("init", taking.source, "--history", history)
    later = f"pathlib.Path({str(taking.source / 'file')!r}).write_text('later')"
    for turn in range(4):
        change(taking.source, turn)
        (taking.source / "file").write_text("old")
        before = snapshots(target) if turn else []
        report = done(
            "sync", taking.source, target, f"--identity={identity}", *taking.options(take=later), "--check"
        )
        assert len(snapshots(target)) == len(before) + 1
        assert (taking.source / "file").read_text() == "later"
        assert (target / "file").read_text() == "old"
        (taking.source / "file").write_text("old")
        os.utime(taking.source / "file", ns=(0, os.stat(target / "file").st_mtime_ns))
        assert_same(taking.source, target)
        assert taking.left == []
        assert not (store(taking.source) / "taken.json").exists()
        assert report["unchanged"] is False
    assert taking.ran == ["take", "release"] * 4
    # The next round reads the tree itself again.
    (taking.source / "file").write_text("last")
    done("sync", taking.source, target)
    assert_same(taking.source, target)


def test_a_file_with_other_bytes_and_the_same_times_is_noticed(taking: Taking, place: Place) -> None:
    """Nothing but its bytes proves that a file of such a tree did not change."""
    target = place.absent("ext4")
    done("sync", taking.source, target, *taking.options())
    was = os.stat(taking.source / "file")
    (taking.source / "file").write_text("new")
    os.utime(taking.source / "file", ns=(was.st_atime_ns, was.st_mtime_ns))
    done("sync", taking.source, target, *taking.options())
    assert (target / "file").read_text() == "new"
    report = done("sync", taking.source, target, *taking.options())
    assert report["unchanged"]


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_any_copy_will_do_where_files_are_known_by_their_paths(
    place: Place, kind: str, tmp_path: Path
) -> None:
    source, target = place(kind), place.absent("btrfs")
    copies = place(kind)
    take = "cp -a --reflink=auto {path}/. {copies}/{name}".replace("{path}", str(source))
    take = take.replace("{copies}", str(copies))
    options = [
        f"--take={take}",
        f"--taken-at={copies}/{{name}}",
        f"--release=rm -rf {copies}/{{name}}",
        "--identity=path",
    ]
    for turn in range(3):
        change(source, turn)
        done("sync", source, target, *options)
        assert_same(source, target)
        assert list(copies.iterdir()) == []
    first = done("diff", f"{target}@-2", f"{target}@latest", "--json")
    assert first


def test_the_command_may_print_where_the_tree_is(taking: Taking, place: Place) -> None:
    target = place.absent("ext4")
    done("sync", taking.source, target, *taking.options(take="print('made'); print(copy / 'data')", at=""))
    assert_same(taking.source, target)
    ran = run("sync", taking.source, target, *taking.options(at=""))
    assert_told(ran, "printed no path")
    assert taking.left == []


def test_hooks_stand_around_the_command(taking: Taking, place: Place) -> None:
    target = place.absent("ext4")
    done("init", taking.source, "--history=light")
    hook = f"sh -c 'echo $SNAPSYNC_HOOK >>{taking.log}'"
    done(
        "sync",
        taking.source,
        target,
        *taking.options(),
        f"--before-snapshot={hook}",
        f"--after-snapshot={hook}",
    )
    assert taking.ran == ["before_snapshot", "take", "after_snapshot", "release"]


@pytest.mark.parametrize(
    ("take", "at", "told"),
    [
        ("sys.exit('no space in the group')", None, "and said: no space in the group"),
        ("import time; time.sleep(600)", None, "longer than 2 seconds"),
        ("", "/nowhere/{name}", "there is no tree at /nowhere/snapsync-"),
        ("", "{home}/{name}/data/file", "there is no tree at"),
        ("", "{source}", "does not stand still"),
        ("", "{source}/deep", "does not stand still"),
        ("", "relative/{name}", "no whole path"),
        ("", "/proc", "no snapshot of it"),
    ],
)
def test_a_tree_that_is_not_made_leaves_nothing(
    taking: Taking, place: Place, take: str, at: str | None, told: str
) -> None:
    target = place.absent("ext4")
    (taking.source / "deep").mkdir()
    if at is not None:
        at = at.replace("{home}", str(taking.home.parent)).replace("{source}", str(taking.source))
    options = [*taking.options(take=take, at=at), "--take-timeout=2s"]
    ran = run("sync", taking.source, target, *options)
    assert ran.code in (1, 2, 3), ran
    assert told in ran.err
    assert taking.ran == ["take", "release"]
    assert taking.left == []
    assert not (taking.source / ".snapsync").exists() or snapshots(taking.source) == []
    done("sync", taking.source, target, *taking.options())
    assert_same(taking.source, target)


def test_a_round_that_fails_or_is_interrupted_releases_the_tree(taking: Taking, place: Place) -> None:
    target = place.absent("ext4")
    done("sync", taking.source, target, *taking.options())
    (target / "file").write_text("by hand")
    (taking.source / "file").write_text("new")
    ran = run("sync", taking.source, target, *taking.options())
    assert ran.code == 3, ran
    process = start("sync", taking.source, target, *taking.options(take="import time; time.sleep(600)"))
    wait_until(lambda: taking.ran.count("take") == 3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 5
    assert taking.left == []
    done("sync", taking.source, target, "--discard-drift", *taking.options())
    assert_same(taking.source, target)


@pytest.mark.parametrize("history", ["full", "light"])
@pytest.mark.parametrize(
    "point",
    [
        "taking.recorded",
        "taking.made",
        "taking.taken",
        "snapshot.begin",
        "snapshot.table",
        "stage.frame",
        "commit.marked",
        "commit.cleaned",
        "taking.releasing",
    ],
)
def test_after_a_kill_the_next_round_releases_what_was_left(
    taking: Taking, place: Place, point: str, history: str
) -> None:
    target = place.absent("ext4")
    done("init", taking.source, "--history", history)
    (taking.source / "large").write_bytes(os.urandom(3_000_000))
    done("sync", taking.source, target, *taking.options())
    change(taking.source, 0)
    (taking.source / "large").write_bytes(os.urandom(3_000_000))
    ran = run("sync", taking.source, target, *taking.options(), env={"SNAPSYNC_FAULT": f"{point}:1"})
    assert ran.code == -signal.SIGKILL, ran
    change(taking.source, 1)
    report = done("sync", taking.source, target, *taking.options())
    assert any("released snapsync-" in what for what in report["recovered"])
    assert taking.left == []
    assert_same(taking.source, target)
    assert done("verify", taking.source, target)["equal"] or history == "light"


@pytest.mark.parametrize("also", [True, False])
def test_a_second_round_waits_for_the_first_ones_tree(
    taking: Taking, place: Place, also: bool, tmp_path: Path
) -> None:
    one, other = place.absent("ext4"), place.absent("ext4")
    done("init", taking.source, "--history=light")
    (taking.source / "large").write_bytes(os.urandom(3_000_000))
    with stopped_at("stage.frame", "sync", taking.source, one, *taking.options()):
        second = start("sync", taking.source, other, *(taking.options() if also else taking.options()[1:2]))
        time.sleep(1.5)
        assert second.poll() is None
        assert len(taking.left) == 1
        assert taking.ran == ["take"]
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert taking.ran == ["take", "release", *(["take", "release"] if also else [])]
    assert_same(taking.source, other)


def test_a_tree_that_cannot_be_released_is_told_and_tried_again(taking: Taking, place: Place) -> None:
    target = place.absent("ext4")
    report = done("sync", taking.source, target, *taking.options(release="sys.exit('busy')"))
    assert any("busy" in note for note in report["notes"])
    assert_same(taking.source, target)
    ran = run("sync", taking.source, target, *taking.options(release="sys.exit('still busy')"))
    assert ran.code == 1
    assert "still busy" in ran.err
    assert any("may still be there" in note for note in done("sync", taking.source, target)["notes"])
    report = done("sync", taking.source, target, *taking.options())
    assert any("released" in what for what in report["recovered"])


def test_what_takes_its_own_snapshots_needs_no_command(place: Place, taking: Taking) -> None:
    target = place.absent("ext4")
    ran = run("sync", taking.home, target, *taking.options())
    assert_told(ran, "Btrfs subvolume", codes=(2,))
    assert not (taking.home / ".snapsync").exists()
    done("init", taking.source, "--history=light")
    assert_told(run("sync", taking.source, target, "--identity=path", *taking.options()), "--history full")
    assert_told(run("sync", taking.source, target, "--taken-at=/x"), "--take")
    assert_told(run("sync", "host:/srv", target, *taking.options(), "--rsh=false"), "are taken there")
    assert taking.ran == []


def test_a_job_has_them_in_a_table_of_its_own(taking: Taking, place: Place, tmp_path: Path) -> None:
    target, jobs = place.absent("ext4"), Jobs(tmp_path)
    words = {what: json.dumps(taking.words(what)) for what in ("take", "release")}
    path = f"{taking.home.parent}/{{name}}/data"
    jobs.add(
        "lvm",
        taking.source,
        target,
        f'period = "1h"\nsnapshot = {{ take = {words["take"]}, path = "{path}", release = {words["release"]},'
        ' identity = "inode", timeout = "1m" }',
    )
    assert jobs.outcomes()["lvm"]["outcome"] == "done"
    assert taking.ran == ["take", "release"]
    assert_same(taking.source, target)


def test_the_api_takes_lists_of_words(taking: Taking, place: Place) -> None:
    target = place.absent("ext4")
    path = f"{taking.home.parent}/{{name}}/data"
    take, release = taking.words("take"), taking.words("release")
    snapsync.sync(taking.source, target, take=take, release=release, taken_at=path, identity="inode")
    assert_same(taking.source, target)
    assert taking.left == []
