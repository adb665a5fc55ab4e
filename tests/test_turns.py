"""A job runs once at a time, whoever starts it, and never seems to run when it does not."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from configured import Jobs
from machine import Pair, Place, command, environment, run, snapshots, wait_until
from worlds import fill


@pytest.fixture
def pair(jobs: Jobs, place: Place) -> Pair:
    """Of a job whose round takes some seconds."""
    pair = Pair.make(place, ("xfs", "ext4"))
    fill(pair.source / "large", 0, 8 << 20, 1)
    jobs.add("one", pair.source, pair.target)
    return pair


def begin(jobs: Jobs, *args: str, stop_at: str = "") -> subprocess.Popen[str]:
    """Starts `run one`, whose round stands still at a fault point."""
    env = environment({**jobs.env, "SNAPSYNC_FAULT": f"{stop_at}:1"} if stop_at else jobs.env)
    return subprocess.Popen(
        [*command(), "run", "--config", str(jobs.file), *(args or ("one",))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def held(jobs: Jobs, pair: Pair) -> subprocess.Popen[str]:
    """A `run one` that is stopped while its round is under way, and that round with it."""
    process = begin(jobs)
    wait_until(lambda: process.poll() is not None or rounds(process.pid))
    assert process.poll() is None
    for pid in rounds(process.pid):
        try_to(pid, signal.SIGSTOP)
    return process


def rounds(parent: int) -> list[int]:
    told = Path(f"/proc/{parent}/task/{parent}/children")
    threads = Path(f"/proc/{parent}/task").glob("*/children") if told.exists() else []
    found = [int(pid) for file in threads for pid in file.read_text().split()]
    # Before it is that program, it is a copy of its parent, with all that this has open.
    return [pid for pid in found if b"\0sync\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def try_to(pid: int, number: signal.Signals) -> None:
    subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)


def test_a_second_run_waits_and_says_for_whom(jobs: Jobs, pair: Pair) -> None:
    first = held(jobs, pair)
    second = begin(jobs)
    try:
        assert second.stderr is not None
        assert f"waiting for process {first.pid}" in second.stderr.readline()
        (status,) = run("status", "--json", "--config", jobs.file, env=jobs.env).json["jobs"]
        assert status["running_since"]
        shown = run("status", "--config", jobs.file, env=jobs.env).out
        assert "running since" in shown
    finally:
        for pid in rounds(first.pid):
            try_to(pid, signal.SIGCONT)
    assert first.wait(60) == 0
    assert second.wait(60) == 0
    assert len(snapshots(pair.target)) == 2
    (status,) = run("status", "--json", "--config", jobs.file, env=jobs.env).json["jobs"]
    assert status["running_since"] is None


@pytest.mark.parametrize("args", [["one", "--no-wait"], []], ids=["told not to wait", "due"])
def test_whoever_does_not_wait_leaves_it_alone_and_does_not_fail(
    jobs: Jobs, pair: Pair, args: list[str]
) -> None:
    first = held(jobs, pair)
    try:
        (outcome,) = jobs.outcomes(*args).values()
        assert outcome["outcome"] == "running"
        assert outcome["error"] is None
    finally:
        for pid in rounds(first.pid):
            try_to(pid, signal.SIGCONT)
    assert first.wait(60) == 0
    assert len(snapshots(pair.target)) == 1


def test_the_round_of_a_run_that_was_killed_is_seen_until_it_ends(jobs: Jobs, pair: Pair) -> None:
    first = held(jobs, pair)
    (child,) = rounds(first.pid)
    first.kill()
    first.wait()
    (status,) = run("status", "--json", "--config", jobs.file, env=jobs.env).json["jobs"]
    assert status["running_since"]
    assert jobs.outcomes("one", "--no-wait")["one"]["outcome"] == "running"
    (planned,) = jobs.outcomes("one", "--dry-run").values()
    assert f"process {child} runs it" in planned["why"]
    try_to(child, signal.SIGKILL)
    assert jobs.outcomes("one")["one"]["outcome"] == "done"
    (status,) = run("status", "--json", "--config", jobs.file, env=jobs.env).json["jobs"]
    assert status["running_since"] is None


def test_what_a_round_starts_does_not_hold_its_turn(jobs: Jobs, pair: Pair) -> None:
    """A session of a database, for example, that a hook leaves behind."""
    leave = json.dumps(["sh", "-c", "setsid sleep 20 > /dev/null 2>&1 &"])
    jobs.text = ""
    jobs.add("one", pair.source, pair.target, f"[job.one.hooks]\nafter_snapshot = {leave}")
    assert jobs.outcomes("one")["one"]["outcome"] == "done"
    assert (
        run("status", "--json", "--config", jobs.file, env=jobs.env).json["jobs"][0]["running_since"] is None
    )


def test_whoever_waits_can_be_interrupted(jobs: Jobs, pair: Pair) -> None:
    first = held(jobs, pair)
    second = begin(jobs)
    try:
        assert second.stderr is not None
        second.stderr.readline()
        second.send_signal(signal.SIGINT)
        assert second.wait(20) == 5
        told = second.stderr.read()
        assert "Traceback" not in told
        assert "interrupted" in told
    finally:
        for pid in rounds(first.pid):
            try_to(pid, signal.SIGCONT)
    assert first.wait(60) == 0


def test_what_a_turn_says_may_be_damaged(jobs: Jobs, pair: Pair) -> None:
    state = jobs.env["SNAPSYNC_STATE_DIR"]
    state.mkdir(mode=0o700)
    (state / "one.running").write_text(json.dumps([1]))
    assert jobs.outcomes("one")["one"]["outcome"] == "done"
