"""Who waits for a standby does not hold the lock of the primary: others work there meanwhile.

Whatever they do, each side is one of its snapshots before and after."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machine import (
    MIB,
    Pair,
    Place,
    assert_told,
    done,
    is_stopped,
    run,
    snapshots,
    start,
    status,
    stopped_at,
    store,
    verified,
    wait_until,
)
from oracle import assert_same
from remote import descendants, is_serve, script, wrapped
from worlds import fill

MOMENTS = ("stage.begin", "stage.frame", "commit.marked", "commit.cleaned")
"""Where a round has let the lock go. At the last its standby has got there, and the primary does not know."""

LAST = MOMENTS[-1]


@contextmanager
def waiting(
    pair: Pair, moment: str, *options: object, fails: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A round that sends the snapshot `sent`, and has got so far."""
    fill(pair.source / "file", 0, 2 * MIB, 2)
    words = ("sync", pair.source, pair.target, "--name", "sent", *options)
    with stopped_at(moment, *words, "--quiet", fault="commit.attached:1=fail" if fails else "") as process:
        yield process


def goes_on(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How it ends, and what it says."""
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def names(volume: Path) -> list[str]:
    return [snapshot["name"] for snapshot in snapshots(volume)]


def reading(volume: Path) -> list[str]:
    return os.listdir(store(volume) / "reading")


@pytest.fixture
def fed(pair: Pair) -> Pair:
    """It has had a round, whose snapshot is called `base`."""
    fill(pair.source / "file", 0, 2 * MIB, 1)
    (pair.source / "left out").touch()
    pair.sync("--name", "base")
    return pair


# --- what others may do, and what not -------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "ext4")])
@pytest.mark.parametrize("moment", MOMENTS)
def test_others_work_on_the_primary_and_delete_nothing_that_is_sent(fed: Pair, moment: str) -> None:
    with waiting(fed, moment) as process:
        assert not status(fed.source)["busy"]
        assert status(fed.target)["busy"]
        done("snapshot", fed.source, "--name", "meanwhile")
        # Not even where nobody knows any more whose base it is.
        done("release", fed.source, "--standby", fed.target)
        for name in ("base", "sent"):
            assert_told(run("delete", f"{fed.source}@{name}"), "is being sent to a standby", codes=(3,))
        pruned = done("prune", fed.source, "--keep-last", "1")
        assert len([note for note in pruned["notes"] if "being sent" in note]) == 2
        assert goes_on(process)[0] == 0
    assert names(fed.source) == ["base", "sent", "meanwhile"]
    assert names(fed.target) == ["base", "sent"]
    verified(f"{fed.source}@sent", fed.target)
    assert [known["name"] for known in status(fed.source)["standbys"]] == ["sent"]
    done("delete", f"{fed.source}@base")
    fed.sync()
    assert not reading(fed.source)


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "btrfs")])
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_killed_round_was_sending_hinders_nobody(fed: Pair, moment: str) -> None:
    with waiting(fed, moment) as process:
        process.kill()
        process.communicate()
        assert len(reading(fed.source)) == 1
        done("snapshot", fed.source, "--name", "after")
        assert not reading(fed.source)
        done("release", fed.source, "--standby", fed.target)
        planned = done("prune", fed.source, "--keep-last", "1", "--dry-run")
        assert [snapshot["name"] for snapshot in planned["pruned"]] == ["base", "sent"]
    fed.sync()
    done("delete", f"{fed.source}@base")


def test_a_restore_of_the_primary_meanwhile_changes_nothing_of_what_is_sent(fed: Pair) -> None:
    with waiting(fed, "stage.begin") as process:
        (fed.source / "new").touch()
        done("restore", f"{fed.source}@base")
        assert goes_on(process)[0] == 0
    verified(f"{fed.source}@sent", fed.target)
    fed.sync()


def test_rounds_to_other_standbys_come_and_go(fed: Pair, place: Place) -> None:
    other = place.absent("ext4")
    with waiting(fed, "stage.begin") as process:
        done("sync", fed.source, other, "--keep-last", "1")
        assert_told(run("sync", "-q", fed.source, fed.target), "another command is working on", codes=(3,))
        assert goes_on(process)[0] == 0
    assert len(status(fed.source)["standbys"]) == 2
    fed.sync()
    done("sync", fed.source, other)
    assert_same(fed.source, other)


def test_who_holds_the_lock_is_named(fed: Pair) -> None:
    with stopped_at("snapshot.begin", "snapshot", fed.source, "--quiet") as process:
        ran = run("delete", f"{fed.source}@base")
        assert_told(ran, f"snapsync snapshot (process {process.pid})", codes=(3,))


def test_who_only_looks_keeps_nobody_away(fed: Pair) -> None:
    lock = store(fed.source) / "lock"
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not status(fed.source)["busy"]


# --- a round that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_taken", [False, True])
def test_patterns_go_with_the_snapshot_unless_another_has_them(fed: Pair, is_taken: bool) -> None:
    with waiting(fed, "stage.begin", "--exclude", "left out", fails=True) as process:
        if is_taken:
            done("snapshot", fed.source, "--name", "meanwhile")
        assert goes_on(process)[0] == 1
    assert names(fed.source) == ["base", *(["meanwhile"] if is_taken else [])]
    assert bool(status(fed.source)["volume"]["subset"]["exclude"]) is is_taken
    assert fed.sync(*([] if not is_taken else ["--everything"]))["primary"]["subset"]["exclude"] == []


def test_a_snapshot_that_another_standby_has_got_stays(fed: Pair, place: Place) -> None:
    other = place.absent("ext4")
    with waiting(fed, "stage.begin", fails=True) as process:
        done("sync", fed.source, other, "--snap", "sent")
        assert goes_on(process)[0] == 1
    assert names(fed.source) == ["base", "sent"]
    for target in (other, fed.target):
        done("sync", fed.source, target)
        assert_same(fed.source, target)


def test_a_store_that_another_has_come_to_use_stays(pair: Pair) -> None:
    with waiting(pair, "stage.begin", fails=True) as process:
        done("snapshot", pair.source, "--name", "mine")
        assert goes_on(process)[0] == 1
    assert names(pair.source) == ["mine"]
    pair.sync()


# --- a primary that is none any more --------------------------------------------------------------


def told_of_its_role(process: subprocess.Popen[str]) -> None:
    code, err = goes_on(process)
    assert code == 3, err
    assert "changed its role while a round from it was under way" in err


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "btrfs"), ("ext4", "ext4")])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_primary_rejoins_another_while_a_round_of_its_own_waits(
    fed: Pair, place: Place, kinds: tuple[str, str], moment: str
) -> None:
    new = place.absent(kinds[1])
    done("sync", fed.source, new, "--snap", "base")
    with waiting(fed, moment) as process:
        done("promote", new)
        (new / "of the new one").touch()
        report = done("rejoin", fed.source, new)
        assert report["left"][0]["name"] == "sent"
        told_of_its_role(process)
    assert_same(new, fed.source)
    # All of the new snapshot, or nothing of it.
    at = names(fed.target)[-1]
    assert at == ("sent" if moment in MOMENTS[2:] else "base")
    # A primary that keeps no history has what it gave up, and not what it had before.
    verified(f"{fed.source if at == 'sent' else new}@{at}", fed.target)
    done("rejoin" if at == "sent" else "sync", *((fed.target, new) if at == "sent" else (new, fed.target)))
    assert_same(new, fed.target)


def test_a_primary_hands_over_while_a_round_of_its_own_waits(fed: Pair, place: Place) -> None:
    new = place.absent("ext4")
    done("sync", fed.source, new, "--snap", "base")
    with waiting(fed, "stage.begin") as process:
        done("switch", fed.source, new)
        told_of_its_role(process)
    assert names(fed.target) == ["base"]
    done("sync", new, fed.target)
    assert_same(new, fed.target)


# --- a round that comes late ----------------------------------------------------------------------


def test_a_round_that_comes_late_unmakes_nothing_that_a_later_one_noted(fed: Pair, tmp_path: Path) -> None:
    """Its host is gone, so that another round could begin before it had the lock again."""
    rsh = script(tmp_path / "rsh", 'shift; exec sh -c "$*"')
    server = wrapped(tmp_path / "server", SNAPSYNC_FAULT=f"{LAST}:1=stop")
    fill(fed.source / "file", 0, 10_000, 2)
    there = ("--rsh", rsh, "--remote-path", server, "--channels", "1")
    process = start("sync", fed.source, f"there:{fed.target}", *there, "--quiet")
    try:
        wait_until(lambda: [pid for pid in descendants(process.pid) if is_serve(pid) and is_stopped(pid)])
        serving = next(filter(is_serve, descendants(process.pid)))
        with (store(fed.source) / "lock").open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.kill(serving, signal.SIGCONT)
            time.sleep(0.5)
            process.send_signal(signal.SIGSTOP)
            os.kill(serving, signal.SIGKILL)
        fed.sync("--name", "later")
        goes_on(process)
    finally:
        process.kill()
        process.communicate()
    assert [known["name"] for known in status(fed.source)["standbys"]] == ["later"]
    fed.sync()


def test_a_round_waits_for_another_command_on_its_primary(fed: Pair) -> None:
    with (store(fed.source) / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start("sync", fed.source, fed.target, "--quiet")
        time.sleep(0.5)
        assert process.poll() is None
    assert process.wait(60) == 0, process.communicate()
    process.communicate()


def test_names_of_processes_are_made_printable(fed: Pair) -> None:
    code = "import fcntl,sys,time;f=open(sys.argv[1],'r+b');fcntl.flock(f,2);print(flush=True);time.sleep(60)"
    words = ["/opt/snapsync", "-c", code, str(store(fed.source) / "lock"), "\x1b[2J"]
    with subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            ran = run("snapshot", fed.source)
            assert_told(ran, f"(process {process.pid})", codes=(3,))
            assert "\x1b" not in ran.err
        finally:
            process.kill()
