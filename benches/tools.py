"""snapsync and its peers, each as the processes that people start. Every one ends with a durable target."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BARE = Path(__file__).parent.parent / "target/release/bare"
SNAPSYNC = shutil.which("snapsync", path=os.path.dirname(sys.executable)) or "snapsync"


@dataclass(frozen=True)
class Run:
    """Seconds of the whole, and of the engine alone where it says so; bytes of the largest process.

    `processor` is seconds of all processes on this side; `calls` is their system calls, where these were
    counted, which takes so long that such a run says nothing else.
    """

    seconds: float
    engine: float | None
    memory: int
    processor: float
    calls: int | None = None


Tool = Callable[[], Run]


class Counting:
    """Whether system calls are counted."""

    is_on = False


def timed(command: str, *, reports: bool = False) -> Run:
    """Runs a line of shell; a failure anywhere in it is one."""
    if Counting.is_on:
        return counted(command)
    read, write = os.pipe()
    launcher = [sys.executable, "-I", "-S", Path(__file__).with_name("launch.py"), str(write), command]
    done = subprocess.run(launcher, stdout=subprocess.PIPE, pass_fds=[write], check=True)
    os.close(write)
    with open(read) as told:
        seconds, processor, memory, code = told.read().split()
    if code != "0":
        raise SystemExit(f"failed with {code}: {command}")
    engine = json.loads(done.stdout).get("seconds") if reports else None
    return Run(float(seconds), engine, int(memory), float(processor))


def counted(command: str) -> Run:
    """Runs a line of shell, and counts what it asks of the kernel."""
    with tempfile.NamedTemporaryFile("r") as summary:
        shell = ["bash", "-e", "-o", "pipefail", "-c", command]
        words = ["strace", "-f", "-qq", "-c", "-U", "calls,name", "-o", summary.name, *shell]
        subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
        total = summary.read().split()[-2:]
    return Run(0, None, 0, 0, int(total[0]))


def sync(source: Path, target: Path | str, *options: object) -> Tool:
    return lambda: snapsync("sync", source, target, *options)


def snapsync(*words: object) -> Run:
    """A command of snapsync's whose report says how long it took."""
    return timed(shlex.join([SNAPSYNC, *map(str, words), "--json", "--quiet"]), reports=True)


def rsync(source: Path, target: Path | str, *options: str) -> Tool:
    words, place = " ".join(options), str(target).rpartition(":")[2]
    copy = f"rsync -aHAX --delete --exclude=/.snapsync {words} {source}/ {target}/"
    return lambda: timed(f"{copy} && sync -f {place}")


def tar(source: Path, target: Path) -> Tool:
    archive = f"tar -C {source} --exclude=./.snapsync --xattrs --acls -cf - ."
    command = f"mkdir -p {target} && {archive} | tar -C {target} --xattrs --acls -xpf - && sync -f {target}"
    return lambda: timed(command)


def bare(source: Path, target: Path) -> Tool:
    """The limit for many files: `bare.rs`."""
    return lambda: timed(f"{BARE} {source} {target} && sync -f {target}")


def cat(source: Path, target: Path, rsh: str) -> Tool:
    """The limit for data: its bytes as they are, through ssh."""
    write = f"mkdir -p {target} && cat > {target}/new && sync -f {target}"
    return lambda: timed(f"cat {source}/new* | {rsh} '{write}'")


def copy(source: Path, target: Path) -> Tool:
    """Without the store, whose name no pattern of the shell names."""
    return lambda: timed(f"mkdir -p {target} && cp -a {source}/* {target}/ && sync -f {target}")


class Btrfs:
    """`btrfs send`, from each snapshot to the next; with `rsh` compressed, to where that leads."""

    def __init__(self, source: Path, snapshots: Path, target: Path, rsh: str = "") -> None:
        self.source, self.snapshots, self.target = source, snapshots, target
        self.taken = 0
        receive = f"btrfs -q receive {target} && sync -f {target}"
        self.receive = f"zstd -q -1 | {rsh} 'zstd -q -d | {receive}'" if rsh else receive
        snapshots.mkdir()
        target.mkdir()

    def __call__(self) -> Run:
        """Takes a snapshot and sends it."""
        new, last = self.snapshots / str(self.taken), self.snapshots / str(self.taken - 1)
        base = f"-p {last}" if self.taken else ""
        self.taken += 1
        take = f"btrfs -q subvolume snapshot -r {self.source} {new}"
        return timed(f"{take} && btrfs -q send {base} {new} | {self.receive}")

    def forget(self) -> None:
        """Deletes all but the newest, on both sides."""
        for place in (self.snapshots, self.target):
            for old in place.iterdir():
                if old.name != str(self.taken - 1):
                    subprocess.run(["btrfs", "-q", "subvolume", "delete", old], check=True)

    @property
    def newest(self) -> Path:
        """What the target holds."""
        return self.target / str(self.taken - 1)
