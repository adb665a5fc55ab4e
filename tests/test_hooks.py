"""Commands around a snapshot: what writes stands still for it, and goes on whatever happened."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from configured import Jobs
from machine import Place, assert_told, done, run, snapshots, start, store, wait_until
from oracle import assert_same

import snapsync

RECORD = """
import json, os, pathlib, sys
kept = {name: value for name, value in os.environ.items() if name.startswith("SNAPSYNC_")}
with open(sys.argv[1], "a") as log:
    log.write(json.dumps(kept) + "\\n")
for line in sys.argv[2:]:
    exec(line)
"""


class Hooks:
    """Two commands that write down that they ran, and what they were told."""

    def __init__(self, folder: Path) -> None:
        self.script = folder / "hook.py"
        self.script.write_text(RECORD)
        self.log = folder / "log"

    def words(self, *more: str) -> list[str]:
        return [sys.executable, str(self.script), str(self.log), *more]

    def options(self, before: str = "", after: str = "") -> list[str]:
        return [
            f"--before-snapshot={_joined(self.words(before))}",
            f"--after-snapshot={_joined(self.words(after))}",
        ]

    @property
    def told(self) -> list[dict[str, str]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def ran(self) -> list[str]:
        return [told["SNAPSYNC_HOOK"] for told in self.told]


def _joined(words: list[str]) -> str:
    import shlex

    return shlex.join(words)


@pytest.fixture
def hooks(tmp_path: Path) -> Hooks:
    return Hooks(tmp_path)


BOTH = ["before_snapshot", "after_snapshot"]


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_what_is_written_between_the_hooks_and_nothing_later_is_in_the_snapshot(
    place: Place, hooks: Hooks, kind: str
) -> None:
    source, target = place(kind), place.absent("btrfs")
    file = source / "file"
    file.write_text("earlier")
    write = f"pathlib.Path({str(file)!r}).write_text(os.environ['SNAPSYNC_HOOK'])"
    report = done("sync", source, target, *hooks.options(write, write))
    assert (target / "file").read_text() == "before_snapshot"
    assert file.read_text() == "after_snapshot"
    before, after = hooks.told
    assert before == {
        "SNAPSYNC_HOOK": "before_snapshot",
        "SNAPSYNC_VOLUME": str(source),
        "SNAPSYNC_SNAPSHOT": report["snapshot"]["name"],
        "SNAPSYNC_SNAPSHOT_ID": report["snapshot"]["id"],
        **{name: value for name, value in before.items() if name == "SNAPSYNC_KEYS"},
    }
    assert after == {**before, "SNAPSYNC_HOOK": "after_snapshot", "SNAPSYNC_RESULT": "taken"}
    done("sync", source, target)
    assert_same(source, target)


def test_a_snapshot_by_itself_has_hooks_as_well(place: Place, hooks: Hooks) -> None:
    volume = place("btrfs")
    done("snapshot", volume, *hooks.options())
    snapsync.Volume(volume).snapshot(before_snapshot=hooks.words(), after_snapshot=hooks.words())
    assert hooks.ran == BOTH * 2
    one: object = "fsync"
    with pytest.raises(TypeError, match="before_snapshot"):
        snapsync.Volume(volume).snapshot(before_snapshot=one)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_without_the_first_command_there_is_no_snapshot_and_the_second_one_runs(
    place: Place, hooks: Hooks, kind: str
) -> None:
    source, target = place(kind), place.absent("btrfs")
    done("sync", source, target)
    (source / "file").write_text("new")
    ran = run("sync", source, target, *hooks.options("sys.exit('the server does not answer')"))
    assert ran.code == 1
    assert "before_snapshot: the server does not answer" in ran.err
    assert "and said: the server does not answer" in ran.err
    assert hooks.ran == BOTH
    assert hooks.told[1]["SNAPSYNC_RESULT"] == "failed"
    assert len(snapshots(source)) == 1
    done("sync", source, target)
    assert_same(source, target)


def test_a_second_command_that_fails_fails_the_round_and_runs_again_before_the_next(
    place: Place, hooks: Hooks
) -> None:
    source, target = place("btrfs"), place.absent("btrfs")
    ran = run("sync", source, target, *hooks.options("", "sys.exit('stuck')"))
    assert ran.code == 1
    assert "stuck" in ran.err
    assert snapshots(source) == []
    report = done("sync", source, target, *hooks.options())
    assert hooks.ran == [*BOTH, "after_snapshot", *BOTH]
    assert report["recovered"]
    assert_same(source, target)


@pytest.mark.parametrize("which", [0, 1])
def test_a_command_that_hangs_is_ended_with_its_children(
    place: Place, hooks: Hooks, which: int, tmp_path: Path
) -> None:
    source, target = place("btrfs"), place.absent("btrfs")
    child = tmp_path / "child"
    hang = (
        "import subprocess, time; "
        f"pathlib.Path({str(child)!r}).write_text(str(subprocess.Popen(['sleep', '600']).pid)); "
        "time.sleep(600)"
    )
    both = ["", ""]
    both[which] = hang
    started = time.monotonic()
    ran = run("sync", source, target, "--hook-timeout", "1s", *hooks.options(*both))
    assert ran.code == 1
    assert "longer than 1 seconds" in ran.err
    assert time.monotonic() - started < 30
    wait_until(lambda: not _runs(int(child.read_text())))
    assert hooks.ran == BOTH


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_an_interrupt_while_the_first_one_runs_lets_the_second_one_run(place: Place, hooks: Hooks) -> None:
    source, target = place("btrfs"), place.absent("btrfs")
    process = start("sync", source, target, *hooks.options("import time; time.sleep(600)"))
    wait_until(lambda: hooks.ran == BOTH[:1])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 5
    assert hooks.ran == BOTH


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
@pytest.mark.parametrize(
    "point", ["hooks.before", "hooks.held", "snapshot.object", "hooks.after", "snapshot.table"]
)
def test_after_a_kill_the_next_round_first_lets_go_what_was_held(
    place: Place, hooks: Hooks, point: str, kind: str
) -> None:
    source, target = place(kind), place.absent("btrfs")
    (source / "file").write_bytes(os.urandom(100_000))
    done("sync", source, target, "--history=full" if kind == "xfs" else "--check")
    (source / "file").write_bytes(os.urandom(100_000))
    ran = run("sync", source, target, *hooks.options(), env={"SNAPSYNC_FAULT": f"{point}:1"})
    if point == "snapshot.object" and kind == "btrfs":
        assert ran.code == 0, ran
        return
    assert ran.code == -signal.SIGKILL, ran
    was = hooks.ran
    report = done("sync", source, target, *hooks.options())
    is_cut = point != "snapshot.table"
    assert hooks.ran == was + (["after_snapshot"] if is_cut else []) + BOTH
    assert any("interrupted" in what for what in report["recovered"]) == is_cut
    assert not (store(source) / "around.json").exists()
    assert_same(source, target)


def test_a_round_without_hooks_says_that_something_may_still_be_held(place: Place, hooks: Hooks) -> None:
    source, target = place("btrfs"), place.absent("btrfs")
    run("sync", source, target, *hooks.options(), env={"SNAPSYNC_FAULT": "hooks.held:1"})
    assert any("may still be held" in note for note in done("sync", source, target)["notes"])
    done("sync", source, target, *hooks.options())
    assert hooks.ran == [*BOTH[:1], "after_snapshot", *BOTH]


def test_what_the_first_one_leaves_in_the_background_goes_on(place: Place, hooks: Hooks) -> None:
    source, target = place("btrfs"), place.absent("btrfs")
    stay = "import subprocess; pathlib.Path(sys.argv[1] + '.pid').write_text(" + (
        "str(subprocess.Popen(['sleep', '600'], stdout=-3, stderr=-3).pid))"
    )
    done("sync", source, target, *hooks.options(stay))
    pid = int(Path(f"{hooks.log}.pid").read_text())
    assert _runs(pid)
    os.kill(pid, signal.SIGKILL)


def test_hooks_where_the_bytes_are_read_later_are_refused(place: Place, hooks: Hooks) -> None:
    """A light history reads its snapshots from a tree that has gone on."""
    source, target = place("ext4"), place.absent("btrfs")
    (source / "file").write_text("data")
    assert_told(run("sync", source, target, *hooks.options()), "keeps no history", codes=(3,))
    assert not target.exists() or not any(target.iterdir())
    done("sync", source, target)
    assert_told(run("sync", source, target, *hooks.options()), "--history full", codes=(3,))
    assert hooks.ran == []
    done("init", source, "--history", "full")
    done("sync", source, target, *hooks.options())
    assert hooks.ran == BOTH


@pytest.mark.parametrize("source", ["host:/srv/data", "file:///nowhere/log"])
def test_no_command_is_run_around_snapshots_of_another_machine(
    place: Place, hooks: Hooks, source: str
) -> None:
    ran = run("sync", source, place.absent("btrfs"), *hooks.options(), "--rsh", "false")
    assert_told(ran, "are taken there", codes=(2,))


def test_commands_that_are_none_are_refused_before_anything_is_touched(place: Place) -> None:
    source, target = place("btrfs"), place.absent("btrfs")
    for words in ("", "'", "no-such-program-here --flag"):
        ran = run("sync", source, target, f"--before-snapshot={words}")
        assert ran.code == 2, ran
    assert_told(run("sync", source, target, "--snap=x", "--before-snapshot=true"), "--snap")
    assert snapshots(source) == [] if (source / ".snapsync").exists() else True


def test_a_job_has_hooks_in_a_table_of_its_own(place: Place, hooks: Hooks, tmp_path: Path) -> None:
    source, target = place("btrfs"), place.absent("btrfs")
    jobs = Jobs(tmp_path)
    words = json.dumps(hooks.words("a = 'two words'"))
    jobs.add(
        "db",
        source,
        target,
        f'period = "1h"\n[job.db.hooks]\nbefore_snapshot = {words}\nafter_snapshot = {words}\ntimeout = "1m"',
    )
    assert jobs.outcomes()["db"]["outcome"] == "done"
    assert hooks.ran == BOTH


@pytest.mark.parametrize(
    "wrong", ['before_snapshot = "sync"', "after_snapshot = []", 'befor = ["sync"]', "timeout = 0"]
)
def test_a_hook_that_cannot_be_meant_is_named(tmp_path: Path, wrong: str) -> None:
    jobs = Jobs(tmp_path)
    jobs.add("db", tmp_path / "a", tmp_path / "b", f"[job.db.hooks]\n{wrong}")
    assert_told(jobs.run(), "[job.db] hooks", codes=(2,))
