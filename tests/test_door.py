"""Nobody holds the door: who says nothing, or nothing of use, costs a round its time and nothing else."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import holder
import pytest
from machine import MIB, Pair, assert_told, done, run, snapshots, start, status, wait_until
from oracle import assert_same
from remote import descendants, is_gone
from worlds import fill

HOLDER = Path(__file__).with_name("holder.py")
QUICK = ("--timeout", "2", "--quiet")


def held(stage: str, habit: str) -> tuple[str, ...]:
    return ("--rsh", shlex.join([sys.executable, str(HOLDER), stage, habit]))


@pytest.mark.parametrize("stage", holder.STAGES[:-1])
def test_a_standby_that_is_silent_is_given_up_wherever_it_stops(pair: Pair, stage: str) -> None:
    (pair.source / "large").write_bytes(os.urandom(4 * MIB))
    began = time.monotonic()
    ran = run("sync", pair.source, "there:/there", *held(stage, "is silent"), *QUICK)
    assert_told(ran, "nothing was heard of there for 2 s", codes=(5,))
    assert time.monotonic() - began < 15
    report = pair.sync()
    assert report["primary"]["role"] == "primary"
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("habit", ["half a message", "hears nothing more"])
@pytest.mark.parametrize("stage", ["asked", "begun", "commit"])
def test_nor_does_it_help_to_stop_halfway(pair: Pair, stage: str, habit: str) -> None:
    (pair.source / "large").write_bytes(os.urandom(4 * MIB))
    ran = run("sync", pair.source, "there:/there", *held(stage, habit), *QUICK)
    assert ran.code in (1, 5), ran
    pair.sync()


# --- the jobs of one machine ----------------------------------------------------------------------


@contextmanager
def running(
    folder: Path, jobs: dict[str, tuple[Path, str, str]]
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """`snapsync run` with these jobs, and where it notes what becomes of them."""
    text = ""
    for name, (source, target, rsh) in jobs.items():
        more = f"rsh = {json.dumps(rsh)}\n" if rsh else ""
        text += f'[job.{name}]\nsource = "{source}"\ntarget = "{target}"\nperiod = "1h"\n{more}'
    (folder / "jobs.toml").write_text(text)
    state = folder / "state"
    process = start("run", "--config", folder / "jobs.toml", env={"SNAPSYNC_STATE_DIR": str(state)})
    try:
        yield process, state / "jobs.json"
    finally:
        below = descendants(process.pid)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        wait_until(lambda: all(map(is_gone, below)), 20)


def is_done(states: Path, job: str) -> bool:
    with suppress(FileNotFoundError):
        known: dict[str, Any] = json.loads(states.read_text())["jobs"]
        return bool(known.get(job, {}).get("good"))
    return False


@pytest.mark.parametrize(
    ("stage", "habit"),
    [
        ("started", "is silent"),
        ("opened", "is alive"),
        ("begun", "says a little"),
        ("commit", "is alive"),
        ("greeted", "shouts"),
    ],
)
def test_hosts_that_say_nothing_keep_no_other_job_from_running(
    pair: Pair, tmp_path: Path, stage: str, habit: str
) -> None:
    """More of them than there are jobs at a time, and all of one primary."""
    fill(pair.source / "file", 0, 10_000, 1)
    rsh = held(stage, habit)[1]
    bad = {f"bad{n}": (pair.source, f"there{n}:/there", rsh) for n in range(3)}
    with running(tmp_path, {**bad, "good": (pair.source, str(pair.target), "")}) as (_, states):
        wait_until(lambda: is_done(states, "good"), 40)
    assert_same(pair.source, pair.target)


def test_a_round_that_waits_for_its_standby_does_not_hold_the_lock_of_the_primary(pair: Pair) -> None:
    """But what it sends cannot be deleted meanwhile."""
    fill(pair.source / "file", 0, 10_000, 1)
    pair.sync()
    process = start(
        "sync", pair.source, "there:/there", *held("commit", "is alive"), "--quiet", "--name", "sent"
    )
    try:
        wait_until(lambda: [s["name"] for s in snapshots(pair.source)][-1:] == ["sent"])
        wait_until(lambda: not status(pair.source)["busy"])
        assert_told(run("delete", f"{pair.source}@sent"), "is being sent to a standby", codes=(3,))
        pair.sync("--keep-last", "1")
        done("snapshot", pair.source)
        assert "sent" in [snapshot["name"] for snapshot in snapshots(pair.source)]
    finally:
        below = descendants(process.pid)
        process.terminate()
        process.communicate(timeout=60)
    wait_until(lambda: all(map(is_gone, below)), 20)
    fill(pair.source / "file", 0, 10_000, 2)
    pair.sync()
    done("delete", f"{pair.source}@sent")
    assert not any((pair.source / ".snapsync" / "store" / "reading").iterdir())


def test_two_rounds_of_a_primary_at_once_wait_for_each_other(pair: Pair) -> None:
    fill(pair.source / "file", 0, 10_000, 1)
    pair.sync()
    others = [pair.target.with_name(f"{pair.target.name}-{n}") for n in range(3)]
    processes = [start("sync", pair.source, other, "--quiet") for other in others]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err)
    for other in others:
        assert_same(pair.source, other)
