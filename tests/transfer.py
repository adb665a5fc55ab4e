"""Sends and receives deltas through files, pipes and the bytes in between."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delta import Delta, parse
from machine import Ran, command, done, environment, sh


@dataclass(frozen=True)
class Sent:
    """A delta and the report of the `send` that made it."""

    content: bytes
    report: dict[str, Any]

    @property
    def delta(self) -> Delta:
        return parse(self.content)


def send(snap: object, *options: object, **env: object) -> Sent:
    """A delta by way of stdout; the report then is on stderr."""
    words = [*command(), "send", str(snap), *map(str, options), "--json"]
    ran = subprocess.run(
        words, capture_output=True, stdin=subprocess.DEVNULL, env=environment(env), timeout=900
    )
    assert ran.returncode == 0, (words, ran.returncode, ran.stderr.decode())
    return Sent(ran.stdout, report_in(ran.stderr.decode()))


def report_in(text: str) -> dict[str, Any]:
    """The one JSON object among the lines of stderr."""
    (line,) = [line for line in text.splitlines() if line.startswith("{")]
    report = json.loads(line)
    assert isinstance(report, dict)
    return report


def deliver(content: bytes, *args: object, env: dict[str, object] | None = None) -> Ran:
    """`snapsync receive ARGS` with a delta on its stdin."""
    words = ("receive", *map(str, args))
    ran = subprocess.run(
        [*command(), *words], input=content, capture_output=True, env=environment(env), timeout=900
    )
    return Ran(words, ran.returncode, ran.stdout.decode(), ran.stderr.decode(errors="surrogateescape"))


def delivered(content: bytes, *args: object) -> dict[str, Any]:
    """The same, and it must succeed; its report."""
    ran = deliver(content, *args, "--json")
    assert ran.code == 0, ran
    return ran.json


def pipe(sender: tuple[object, ...], receiver: tuple[object, ...]) -> tuple[Ran, Ran]:
    """`snapsync send … | snapsync receive …`; how each of them ended."""
    one, two = ("send", *map(str, sender)), ("receive", *map(str, receiver))
    with tempfile.TemporaryFile() as errors:
        first = subprocess.Popen(
            [*command(), *one],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
        )
        second = subprocess.Popen(
            [*command(), *two],
            stdin=first.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert first.stdout is not None
        first.stdout.close()
        out, err = second.communicate(timeout=900)
        first.wait(timeout=60)
        errors.seek(0)
        return Ran(one, first.returncode, "", errors.read().decode()), Ran(two, second.returncode, out, err)


def piped(sender: tuple[object, ...], receiver: tuple[object, ...]) -> dict[str, Any]:
    """The same, and both must succeed; the receiver's report."""
    first, second = pipe(sender, (*receiver, "--json"))
    assert (first.code, second.code) == (0, 0), (first, second)
    return second.json


@dataclass(frozen=True)
class Cost:
    """How a command ended, and the most memory it had at once."""

    ran: Ran
    peak: int


def measured(content: bytes, *args: object) -> Cost:
    """`deliver`, with a look at what the kernel says it took."""
    words = ("receive", *map(str, args))
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(content)
        stdin.seek(0)
        process = subprocess.Popen(
            [*command(), *words], stdin=stdin, stdout=out, stderr=err, env=environment()
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        ran = Ran(words, process.returncode, out.read().decode(), err.read().decode())
    return Cost(ran, usage.ru_maxrss * 1024)


# --- snapshots --------------------------------------------------------------------------------


def take(volume: Path, name: str) -> str:
    """A snapshot of a volume, as the verbs call it."""
    return f"{volume}@{done('snapshot', volume, '--name', name)['snapshot']['name']}"


def freeze_subvolume(subvolume: Path, snapshot: Path) -> Path:
    """A read-only snapshot by the file system's own tool."""
    sh("btrfs", "-q", "subvolume", "snapshot", "-r", subvolume, snapshot)
    return snapshot


def shown(subvolume: Path) -> dict[str, str]:
    """What `btrfs subvolume show` says: `UUID`, `Received UUID`, `Flags`, …"""
    lines = sh("btrfs", "subvolume", "show", subvolume).splitlines()[1:]
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def stages(volume: Path) -> list[Path]:
    """What cut receives have left, or damage should not have."""
    return sorted((volume / ".snapsync/incoming").glob("*"))


def stored(target: Path) -> int:
    """How much the stages hold on the disk."""
    found = 0
    for folder, _, files in os.walk(target / ".snapsync/incoming"):
        for name in files:
            with suppress(FileNotFoundError):
                found += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return found
