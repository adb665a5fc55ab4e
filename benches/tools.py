"""snapsync and its peers, each as the processes that people start. Every one ends with a durable target."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BARE = Path(__file__).parent.parent / "target/release/bare"
SNAPSYNC = shutil.which("snapsync", path=os.path.dirname(sys.executable)) or "snapsync"


@dataclass(frozen=True)
class Run:
    """Seconds of the whole, and of the engine alone where it says so; bytes of the largest process."""

    seconds: float
    engine: float | None
    memory: int


Tool = Callable[[], Run]


def timed(command: str, *, reports: bool = False) -> Run:
    """Runs a line of shell; a failure anywhere in it is one."""
    read, write = os.pipe()
    launcher = [sys.executable, "-I", "-S", Path(__file__).with_name("launch.py"), str(write), command]
    done = subprocess.run(launcher, stdout=subprocess.PIPE, pass_fds=[write], check=True)
    os.close(write)
    with open(read) as told:
        seconds, memory, code = told.read().split()
    if code != "0":
        raise SystemExit(f"failed with {code}: {command}")
    engine = float(json.loads(done.stdout)["seconds"]) if reports else None
    return Run(float(seconds), engine, int(memory))


def sync(source: Path, target: Path | str, *options: str) -> Tool:
    words = " ".join(options)
    return lambda: timed(f"{SNAPSYNC} sync {source} {target} --json --quiet {words}", reports=True)


def diff(base: str, target: str) -> Run:
    return timed(f"{SNAPSYNC} diff {base} {target} --json --quiet", reports=True)


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
    return lambda: timed(f"cat {source}/new | {rsh} '{write}'")


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
