"""The commands of a job run when they should, may stop its round, and never outlive their time."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from configured import Jobs
from machine import Pair, Place, run, snapshots, start, wait_until
from worlds import fill

SAY = "import os, sys, json; "


@pytest.fixture
def pair(place: Place) -> Pair:
    pair = Pair.make(place, ("xfs", "ext4"))
    fill(pair.source / "file", 0, 10_000, 1)
    return pair


def python(*lines: str) -> str:
    """A command of a configuration that does this."""
    return json.dumps([sys.executable, "-c", SAY + "; ".join(lines)])


def diary(jobs: Jobs) -> Path:
    return jobs.file.parent / "diary"


def writes(jobs: Jobs, *more: str) -> str:
    """A command that writes down what it is told."""
    known = "{k: v for k, v in os.environ.items() if k.startswith('SNAPSYNC_')}"
    return python(f"open({str(diary(jobs))!r}, 'a').write(json.dumps({known}) + chr(10))", *more)


def told(jobs: Jobs) -> list[dict[str, str]]:
    return [json.loads(line) for line in diary(jobs).read_text().splitlines()] if diary(jobs).exists() else []


def hooked(jobs: Jobs, pair: Pair, *keys: str) -> None:
    hooks = "\n".join(keys)
    jobs.add("one", pair.source, pair.target, f'period = "15m"\n[job.one.hooks]\n{hooks}')


def test_they_run_around_a_round_and_are_told_of_it(jobs: Jobs, pair: Pair) -> None:
    hooked(jobs, pair, *(f"{name} = {writes(jobs)}" for name in ("before", "after", "failed")))
    assert jobs.outcomes("one")["one"]["outcome"] == "done"
    before, after = told(jobs)
    assert before["SNAPSYNC_HOOK"] == "before"
    assert before["SNAPSYNC_JOB"] == after["SNAPSYNC_JOB"] == "one"
    assert (after["SNAPSYNC_SOURCE"], after["SNAPSYNC_TARGET"]) == (str(pair.source), str(pair.target))
    assert (after["SNAPSYNC_HOOK"], after["SNAPSYNC_OUTCOME"], after["SNAPSYNC_EXIT_CODE"]) == (
        "after",
        "done",
        "0",
    )
    assert after["SNAPSYNC_SNAPSHOT"] == snapshots(pair.target)[0]["name"]
    assert int(after["SNAPSYNC_DATA_BYTES"]) == 10_000


def test_before_that_fails_stops_the_round_and_the_others_run(jobs: Jobs, pair: Pair) -> None:
    hooked(
        jobs,
        pair,
        f"before = {python('print(chr(100) + str(7), flush=True)', 'sys.exit(3)')}",
        f"after = {writes(jobs)}",
        f"failed = {writes(jobs)}",
    )
    outcome = jobs.outcomes("one", code=1)["one"]
    assert outcome["outcome"] == "failed"
    assert "`before` failed: it ended with exit code 3: d7" in outcome["error"]
    assert [one["SNAPSYNC_HOOK"] for one in told(jobs)] == ["failed", "after"]
    assert "exit code 3" in told(jobs)[0]["SNAPSYNC_ERROR"]
    assert not pair.target.exists()
    assert not (pair.source / ".snapsync").exists()


def test_after_that_fails_is_told_and_the_round_counts(jobs: Jobs, pair: Pair) -> None:
    hooked(jobs, pair, f"after = {python('sys.exit(1)')}")
    outcome = jobs.outcomes("one")["one"]
    assert outcome["outcome"] == "done"
    assert any("`after` failed" in note for note in outcome["notes"])
    (status,) = run("status", "--json", "--config", jobs.file, env=jobs.env).json["jobs"]
    assert any("`after` failed" in note for note in status["notes"])


def test_one_that_hangs_is_ended_with_all_that_it_started(jobs: Jobs, pair: Pair) -> None:
    child = jobs.file.parent / "child"
    hang = python(
        "import subprocess, time",
        f"open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))",
        "time.sleep(600)",
    )
    hooked(jobs, pair, f"before = {hang}", 'timeout = "2s"')
    began = time.monotonic()
    assert "longer than 2.0 s" in jobs.outcomes("one", code=1)["one"]["error"]
    assert time.monotonic() - began < 30
    wait_until(lambda: not Path(f"/proc/{child.read_text()}").exists() or is_dead(int(child.read_text())))


def is_dead(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_one_that_talks_without_end_fills_no_memory_and_its_last_words_are_kept(
    jobs: Jobs, pair: Pair
) -> None:
    talk = python("[print('x' * 1000) for _ in range(50000)]", "print('z')")
    hooked(jobs, pair, f"after = {talk}")
    ran = jobs.run("one")
    assert ran.code == 0
    lines = [line for line in ran.err.splitlines() if "after: " in line]
    assert 0 < len(lines) <= 20
    assert lines[-1].endswith("after: z")


def test_one_that_leaves_something_behind_does_not_hold_up_the_job(jobs: Jobs, pair: Pair) -> None:
    leave = python("import subprocess", "subprocess.Popen(['sleep', '30'])")
    hooked(jobs, pair, f"after = {leave}")
    began = time.monotonic()
    assert jobs.outcomes("one")["one"]["outcome"] == "done"
    assert time.monotonic() - began < 20


def test_an_interrupt_ends_a_hook_too(jobs: Jobs, pair: Pair) -> None:
    hooked(jobs, pair, f"before = {writes(jobs, 'import time', 'time.sleep(600)')}")
    process = start("run", "one", "--config", jobs.file, env=jobs.env)
    wait_until(lambda: told(jobs))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 5
    assert not pair.target.exists()


def test_a_command_that_others_can_write_is_not_run(jobs: Jobs, pair: Pair, tmp_path: Path) -> None:
    program = tmp_path / "hook"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o757)
    hooked(jobs, pair, f'before = ["{program}"]')
    assert "cannot be started" in jobs.outcomes("one", code=1)["one"]["error"]
    program.chmod(0o755)
    assert jobs.outcomes("one")["one"]["outcome"] == "done"
    hooked_missing = jobs.text.replace(str(program), "/does/not/exist")
    jobs.write(hooked_missing)
    assert "cannot be started" in jobs.outcomes("one", code=1)["one"]["error"]


def test_the_usual_hooks_and_a_jobs_own_count_together(jobs: Jobs, pair: Pair) -> None:
    hooked(jobs, pair, f"after = {writes(jobs)}")
    jobs.write(f"[defaults.hooks]\nbefore = {writes(jobs)}\nafter = {python('sys.exit(1)')}\n{jobs.text}")
    assert jobs.outcomes("one")["one"]["notes"] == []
    assert [one["SNAPSYNC_HOOK"] for one in told(jobs)] == ["before", "after"]


@pytest.mark.parametrize(
    "keys", ["before = []", 'before = "ls"', 'befor = ["ls"]', 'timeout = "soon"', "before = [1]"]
)
def test_a_mistake_in_the_table_is_told_with_its_place(jobs: Jobs, pair: Pair, keys: str) -> None:
    hooked(jobs, pair, keys)
    ran = jobs.run("one")
    assert ran.code == 2
    assert "[job.one] hooks" in ran.err
    assert os.listdir(pair.source) == ["file"]
