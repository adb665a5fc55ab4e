"""Lines have a priority where the journal reads them, and nowhere else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from configured import Jobs
from machine import Pair, Place, command, environment
from worlds import fill


@pytest.fixture
def pair(place: Place, jobs: Jobs) -> Pair:
    pair = Pair.make(place, ("xfs", "ext4"))
    fill(pair.source / "file", 0, 10_000, 1)
    jobs.add("web", pair.source, pair.target, '[job.web.hooks]\nbefore = ["echo", "hello"]')
    return pair


def logged(jobs: Jobs, *args: str, mine: bool = True) -> list[str]:
    """What `run` writes into a socket that stands for the journal's; the lines, as systemd would get them."""
    ours, theirs = socket.socketpair()
    about = os.fstat(theirs.fileno())
    number = about.st_ino if mine else about.st_ino + 1
    env = environment({**jobs.env, "JOURNAL_STREAM": f"{about.st_dev}:{number}"})
    words = [*command(), "run", "--config", str(jobs.file), *args]
    with ours, theirs:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=env)
        theirs.close()
        text = b"".join(iter(lambda: ours.recv(1 << 16), b"")).decode()
        process.wait(60)
    return text.splitlines()


def test_each_line_says_the_job_and_how_urgent_it_is(jobs: Jobs, pair: Pair) -> None:
    lines = logged(jobs, "web")
    assert "<5>snapsync: web: before: hello" in lines
    assert any(line.startswith("<6>web: snapshot ") and "moved" in line for line in lines), lines
    pair.source.rename(f"{pair.source}-away")
    lines = logged(jobs, "web")
    errors = [line for line in lines if line.startswith("<3>")]
    assert len(errors) >= 3
    assert all("web: " in line for line in lines)
    assert "<3>web: failed with exit code 3" in errors
    assert all(line[0] == "<" and line[2] == ">" for line in lines)


def test_losses_are_warnings(jobs: Jobs, pair: Pair) -> None:
    os.setxattr(pair.source / "file", "user.large", b"x" * 60_000)
    lines = logged(jobs, "web")
    warnings = [line for line in lines if line.startswith("<4>")]
    assert any("with losses in 1 entry" in line for line in warnings), lines
    assert len(warnings) >= 2


def test_a_mistake_of_the_configuration_is_an_error(jobs: Jobs, pair: Pair) -> None:
    jobs.write("[")
    lines = logged(jobs)
    assert lines
    assert all(line.startswith("<3>") for line in lines)


def test_another_stream_than_the_journals_gets_plain_lines(jobs: Jobs, pair: Pair) -> None:
    """As where a script under a service writes the output into a file: it has the variable, too."""
    lines = logged(jobs, "web", mine=False)
    assert lines
    assert not [line for line in lines if line.startswith("<")]


def test_json_has_no_priority(jobs: Jobs, pair: Pair) -> None:
    lines = logged(jobs, "web", "--json", "--quiet")
    assert json.loads(lines[-1])["jobs"][0]["job"] == "web"


def test_only_the_stream_that_leads_there_is_marked(jobs: Jobs, pair: Pair, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        about = os.fstat(err.fileno())
        env = environment({**jobs.env, "JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"})
        words = [*command(), "run", "--config", str(jobs.file), "web"]
        subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, check=True)
    assert (tmp_path / "out").read_text().startswith("web: snapshot ")
    assert (tmp_path / "err").read_text().startswith("<5>snapsync: web: ")
