"""`run --watch` and its service: rounds as often as every second, from a process that has all loaded."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from configured import Jobs
from machine import (
    Pair,
    Place,
    assert_told,
    command,
    environment,
    need,
    run,
    sh,
    snapshots,
    wait_until,
)
from oracle import assert_same

OFTEN = 'period = "1s"\nkeep = { last = 3 }'

SLOW = """rsh = "sh -c 'sleep 600'\""""


class Watch:
    """A command that watches the jobs, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process, self._out, self._err = process, out, err

    def rounds(self, job: str = "web") -> list[dict[str, Any]]:
        whole = self._out.read_text().rpartition("\n")[0]
        ran = [job for line in whole.splitlines() for job in json.loads(line).get("jobs", ())]
        return [one for one in ran if one["job"] == job]

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_for(self, count: int, job: str = "web") -> None:
        wait_until(lambda: len(self.rounds(job)) >= count or self.process.poll() is not None)
        assert self.process.poll() is None, self.err

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def watch(jobs: Jobs, *args: object, wrap: tuple[str, ...] = ()) -> Iterator[Watch]:
    folder = jobs.file.parent
    words = [*wrap, *command(), "run", "--watch", "--json", "--config", str(jobs.file), *map(str, args)]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment(jobs.env),
            start_new_session=True,
        )
    try:
        yield Watch(process, folder / "out", folder / "err")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def members(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes of its session, which it leads."""
    lines = sh("ps", "-eo", "sid=,pid=,stat=").splitlines()
    found = (line.split() for line in lines)
    return [int(pid) for sid, pid, state in found if int(sid) == process.pid and not state.startswith("Z")]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_rounds_follow_each_other_and_no_interpreter_starts_for_them(jobs: Jobs, place: Place) -> None:
    need("strace")
    pair = Pair.make(place, ("btrfs", "xfs"))
    (pair.source / "file").write_text("0")
    jobs.add("web", pair.source, pair.target, OFTEN)
    trace = jobs.file.with_name("trace")
    with watch(jobs, wrap=("strace", "-f", "-qq", "-e", "trace=execve", "-o", str(trace))) as watching:
        for count in (1, 2, 3):
            watching.wait_for(count)
            (pair.source / "file").write_text(str(count))
        os.killpg(watching.process.pid, signal.SIGTERM)
        assert watching.process.wait(60) == 5
    assert [one["exit_code"] for one in watching.rounds()] == [0] * len(watching.rounds())
    started = [line for line in trace.read_text().splitlines() if re.search(r"execve\(.* = 0$", line)]
    assert len(started) == 1, started
    assert len(snapshots(pair.target)) >= 3
    jobs.outcomes("web")
    assert_same(pair.source, pair.target)


def test_closed_streams_are_no_hindrance(jobs: Jobs, place: Place) -> None:
    pair = Pair.make(place, ("btrfs", "xfs"))
    jobs.add("web", pair.source, pair.target, OFTEN)
    words = shlex.join([*command(), "run", "--watch", "--config", str(jobs.file)])
    process = subprocess.Popen(
        ["sh", "-c", f"exec {words} <&- >&- 2>&-"], env=environment(jobs.env), start_new_session=True
    )
    try:
        wait_until(lambda: process.poll() is not None or len(snapshots_of(pair.target)) >= 2)
        process.terminate()
        assert process.wait(60) == 5
    finally:
        process.kill()
        process.wait()


def snapshots_of(volume: Path) -> list[Path]:
    return list((volume / ".snapsync/store/snapshots").glob("*/snapshot.json"))


def test_a_slow_job_holds_up_no_other(jobs: Jobs, place: Place) -> None:
    pair = Pair.make(place, ("btrfs", "xfs"))
    jobs.add("web", pair.source, pair.target, OFTEN)
    jobs.add("slow", Path("host:away"), pair.target.with_name("away"), f"{OFTEN}\n{SLOW}")
    with watch(jobs) as watching:
        watching.wait_for(3)
        assert watching.rounds("slow") == []
        assert watching.stop() == 5


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=["TERM", "INT", "KILL"]
)
def test_whatever_ends_it_its_rounds_end_too(jobs: Jobs, place: Place, number: signal.Signals) -> None:
    pair = Pair.make(place, ("btrfs", "xfs"))
    jobs.add("slow", Path("host:away"), pair.target, f'period = "1s"\n{SLOW}')
    with watch(jobs) as watching:
        wait_until(lambda: len(members(watching.process)) >= 4)  # it, the server, the round and its sleep
        code = watching.stop(number)
        assert code in (5, -signal.SIGKILL)
        wait_until(lambda: members(watching.process) == [])


def test_without_the_process_that_starts_rounds_it_ends_and_says_so(jobs: Jobs, place: Place) -> None:
    pair = Pair.make(place, ("btrfs", "xfs"))
    jobs.add("web", pair.source, pair.target, OFTEN)
    with watch(jobs) as watching:
        watching.wait_for(1)
        (server,) = children(watching.process.pid)
        os.kill(server, signal.SIGKILL)
        assert watching.process.wait(60) == 1
        assert "the process that starts the rounds has ended" in watching.err


def test_the_configuration_is_read_again_and_a_mistake_in_it_changes_nothing(
    jobs: Jobs, place: Place
) -> None:
    one, two = (Pair.make(place, ("btrfs", "xfs")) for _ in range(2))
    jobs.add("web", one.source, one.target, OFTEN)
    with watch(jobs) as watching:
        watching.wait_for(1)
        jobs.write(jobs.text + "[job.two]\nsource = ")
        wait_until(lambda: "the jobs stay as they were" in watching.err)
        watching.wait_for(len(watching.rounds()) + 2)
        jobs.add("two", two.source, two.target, OFTEN)
        watching.wait_for(1, "two")
        assert watching.err.count("the jobs stay as they were") == 1
        assert watching.stop() == 5


def test_what_would_never_run_is_not_watched(jobs: Jobs) -> None:
    jobs.add("web", Path("/a"), Path("/b"), "")
    assert_told(jobs.run("--watch"), "has a period", codes=(2,))
    assert_told(jobs.run("--watch", "--now"), "leave out --now", codes=(2,))
    assert_told(jobs.run("--watch", "other"), "there is no job 'other'", codes=(2,))


@pytest.mark.parametrize("user", [(), ("--user",)], ids=["system", "user"])
def test_its_service_stays_and_takes_the_place_of_the_timer(jobs: Jobs, user: tuple[str, ...]) -> None:
    need("systemd-analyze")
    jobs.add("web", Path("/srv/web"), Path("/mnt/web"), OFTEN)
    units = jobs.file.parent / "units"
    words = ("service", "install", "--config", jobs.file, "--dir", units, *user)
    run(*words)
    ran = run(*words, "--watch", "--json")
    assert os.listdir(units) == ["snapsync.service"]
    assert [line.split()[-1] for line in ran.json["commands"]] == [
        "snapsync@web.timer",
        "daemon-reload",
        "snapsync.service",
    ]
    text = (units / "snapsync.service").read_text()
    assert f"run --watch --config {jobs.file}\n" in text
    assert "Restart=always" in text
    scope = "--user" if user else "--system"
    checked = subprocess.run(
        ["systemd-analyze", scope, "verify", units / "snapsync.service"],
        capture_output=True,
        text=True,
        env=environment({"XDG_RUNTIME_DIR": jobs.file.parent}),
    )
    assert [line for line in checked.stderr.splitlines() if "snapsync" in line] == []
    assert "stop snapsync.service" in run("service", "uninstall", "--dir", units, *user).out
    assert os.listdir(units) == []
