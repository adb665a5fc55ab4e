"""Lines have a priority where the journal reads them, and nowhere else."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
from configured import Jobs
from machine import Pair, Place, command, environment, missing, need
from worlds import fill

ROOT = Path(__file__).parents[1]


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


# What a machine of its own is made of: this one's files, with all that is written kept apart.
BOOT = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" "$1/root"
mount -t tmpfs tmpfs /run
mkdir -p "$1/root/srv/a"
cp "$2" "$1/root/srv/config.toml"
cp "$3" "$1/root/etc/systemd/system/probe.service"
export SYSTEMD_NSPAWN_TMPFS_TMP=0
timeout 120 systemd-nspawn --quiet --boot --register=no --keep-unit --console=pipe \
    --directory="$1/root" --bind-ro="$4" --capability=all systemd.unit=probe.service systemd.mask=tmp.mount \
    > "$5/console" 2>&1 < /dev/null || true
cp "$1/root/srv/journal.json" "$1/root/srv/errors" "$5"
"""
PROBE = """
[Service]
Type=oneshot
Environment=SNAPSYNC_STATE_DIR=/var/lib/probe
ExecStart=-{program} run --config /srv/config.toml web
ExecStart=/bin/touch /srv/ready
ExecStart=-{program} run --config /srv/config.toml web
ExecStartPost=/bin/sh -c 'sleep 1; journalctl --sync; journalctl -u probe -o json > /srv/journal.json'
ExecStartPost=/bin/sh -c 'journalctl -u probe -p err -o cat > /srv/errors'
ExecStopPost=/bin/systemctl poweroff --force
"""


def test_the_journal_of_a_real_systemd_tells_failures_from_the_rest(jobs: Jobs, tmp_path: Path) -> None:
    need("systemd-nspawn", "unshare")
    if os.geteuid() != 0:
        missing("root, to boot a container")
    program = command()
    check = '[job.web.hooks]\nbefore = ["/bin/sh", "-c", "echo hello; test -e /srv/ready"]'
    jobs.add("web", Path("/srv/a"), Path("/srv/b"), check)
    unit, root = tmp_path / "probe.service", tmp_path / "root"
    unit.write_text(PROBE.format(program=shlex.join(program)))
    root.mkdir()
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", BOOT, "sh"]
    ran = subprocess.run([*words, root, jobs.file, unit, ROOT, tmp_path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr + (tmp_path / "console").read_text()
    entries = [json.loads(line) for line in (tmp_path / "journal.json").read_text().splitlines()]
    told = [(entry["PRIORITY"], entry["MESSAGE"]) for entry in entries if "web: " in entry["MESSAGE"]]
    assert [priority for priority, _ in told] == ["5", "3", "3", "3", "5", "6"], told
    assert told[-1][1].startswith("web: snapshot "), "systemd has taken the priority off"
    assert (tmp_path / "errors").read_text().splitlines() == [
        line for priority, line in told if priority == "3"
    ]
