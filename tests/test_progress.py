"""What is seen on a terminal while rounds are under way."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from configured import Jobs
from machine import MIB, Pair, Place, command, environment, run
from worlds import fill

RATE = 'period = "15m"\nbwlimit = "3M"\ncompress = "none"\nrsh = "{}"\nremote_path = "{}"'


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture
def slow(jobs: Jobs, place: Place, tmp_path: Path) -> Jobs:
    """Two jobs that take some three seconds each."""
    (near := tmp_path / "near").write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    near.chmod(0o755)
    for name in ("web", "mail"):
        pair = Pair.make(place, ("xfs", "ext4"))
        fill(pair.source / "file", 0, 12 * MIB, 1)
        jobs.add(name, pair.source, Path(f"there:{pair.target}"), RATE.format(near, command()[0]))
    return jobs


def on_terminal(*args: object, env: dict[str, object], until: Callable[[str], bool] = lambda _: False) -> str:
    """What a command prints on a terminal of 140 columns; it is stopped once enough was seen."""
    master, slave = pty.openpty()
    words = [*command(), *map(str, args)]
    surroundings = environment(env) | {"TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=surroundings)
    os.close(slave)
    seen, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        try:
            piece = os.read(master, 1 << 16)
        except OSError:
            break
        if not piece:
            break
        seen += piece
        if until(seen.decode(errors="replace")):
            process.terminate()
    assert process.wait(60) in (0, 5)
    os.close(master)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))


BAR = r"{}: \w+ +\S+ +(\d+)% [\d.]+ \w+ of 12\.0 MiB [\d.]+ [KM]iB/s +0?0:0\d"


def test_each_running_job_has_a_line_with_percent_rate_and_what_is_left(slow: Jobs) -> None:
    seen = on_terminal("run", "--now", "--config", slow.file, env=dict(slow.env))
    for name in ("web", "mail"):
        shares = [int(share) for share in re.findall(BAR.format(name), seen)]
        assert len(set(shares)) > 3, seen
        assert shares == sorted(shares)
        assert f"{name}: snapshot 2" in seen
    assert seen.count("\n") > 4
    both = [piece for piece in re.split(r"[\r\n]+", seen) if "web: " in piece and "mail: " in piece]
    assert not both, "a line is of one job"


def test_without_a_terminal_and_quietly_there_are_no_lines(slow: Jobs) -> None:
    ran = slow.run("web")
    assert ran.code == 0
    assert "%" not in ran.out + ran.err
    assert "%" not in on_terminal("run", "--now", "-q", "--config", slow.file, env=dict(slow.env))


def test_a_round_by_itself_tells_the_same(slow: Jobs, place: Place, tmp_path: Path) -> None:
    source = place("xfs")
    fill(source / "file", 0, 12 * MIB, 1)
    words = (source, f"there:{place.absent('ext4')}", "--rsh", tmp_path / "near", "--bwlimit", "3M")
    seen = on_terminal("sync", *words, "--remote-path", command()[0], "--compress", "none", env={})
    assert re.search(BAR.format("").removeprefix(": "), seen), seen


def test_the_rate_of_a_run_is_that_of_each_of_its_rounds(slow: Jobs) -> None:
    began = time.monotonic()
    assert slow.run("web", "--bwlimit", "1G").code == 0
    quick = time.monotonic() - began
    began = time.monotonic()
    assert slow.run("mail", "--bwlimit", "2M").code == 0
    assert time.monotonic() - began > max(4.0, quick)
    assert slow.run("--watch", "--bwlimit", "1M").code == 2


def test_a_round_that_takes_no_time_says_nothing_beside_its_result(place: Place) -> None:
    """Whoever runs it from cron would get mail for each good round."""
    pair = Pair.make(place, ("btrfs", "xfs"))
    fill(pair.source / "file", 0, MIB, 1)
    for verb in (("sync", pair.source, pair.target), ("verify", pair.source, pair.target)):
        for _ in range(5):
            ran = run(*verb)
            assert (ran.code, ran.err) == (0, "")
