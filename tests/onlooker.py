"""Other users who look at a tree while a command works on it (`looking.py`)."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from looking import Fact
from machine import command, environment


def reach(path: Path) -> None:
    """Everybody may go through the directories above."""
    for above in path.parents:
        if not os.stat(above).st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o111)


@cache
def looker() -> subprocess.Popen[bytes]:
    words = (sys.executable, "-c", "import looking; looking.serve()")
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent)


def look(root: Path) -> set[Fact]:
    """What each of the people can do in a tree, `.snapsync` included."""
    return asked("look", root)


def readers(people: list[tuple[int, int]], path: Path) -> set[tuple[int, int]]:
    """Who of some people, by user and group, can open a file for reading."""
    return asked("readers", people, path)


def asked(*what: object) -> Any:
    process = looker()
    assert process.stdin
    assert process.stdout
    pickle.dump(what, process.stdin)
    process.stdin.flush()
    found = pickle.load(process.stdout)
    assert isinstance(found, set), found
    return found


# --- looking at every moment -------------------------------------------------------------------

PASSES = 2
"""Of a fault point that a command passes often, so many are looked at."""

POINTS = (
    *("init.store", "stage.begin", "stage.manifest", "stage.directory", "stage.entry", "stage.frame"),
    *("save.row", "save.done", "stage.done", "commit.marked", "commit.loosened", "commit.detach"),
    *("commit.detached", "commit.attach", "commit.attached", "commit.data", "commit.attributes"),
    *("commit.settling", "commit.cleared", "commit.protected", "commit.applied", "commit.snapshot"),
    *("commit.discarded", "commit.cleaned", "undo.begin", "undo.loosened", "undo.attached"),
    *("undo.returning", "undo.detached", "undo.data", "undo.attributes", "undo.done"),
    *("restore.manifest", "restore.done", "restore.put", "clone.made", "receive.tree", "receive.made"),
    *("receive.stripped", "receive.recorded", "receive.moved", "receive.settled", "snapshot.object"),
    *("snapshot.table", "snapshot.recorded", "again.made", "again.replaced"),
)


@dataclass
class Watched:
    """How a command that was looked at ended, and what was found."""

    code: int
    err: str
    moments: int = 0
    facts: dict[Fact, int] = field(default_factory=dict)
    """Each fact with the moment at which it was first true."""


def watch(
    root: Path, *args: object, faults: tuple[str, ...] = (), umask: int = 0o022, wrap: tuple[str, ...] = ()
) -> Watched:
    """Runs `snapsync ARGS`, and looks at `root` whenever it passes a fault point.

    It works on one thing at a time: another thread that passes a point would stop it between two calls that
    the kernel does not join, as those for the mode and the flag of what is to be immutable."""
    stops = [f"{point}:{n}=stop" for point in POINTS for n in range(1, PASSES + 1)]
    env = environment({"SNAPSYNC_FAULT": ",".join([*faults, *stops]), "RAYON_NUM_THREADS": "1"})
    with tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [*wrap, *command(), *map(str, args), "-q"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            umask=umask,
        )
        seen = Watched(0, "")
        try:
            while os.WIFSTOPPED(status := os.waitpid(process.pid, os.WUNTRACED)[1]):
                seen.moments += 1
                for fact in look(root) if root.exists() else ():
                    seen.facts.setdefault(fact, seen.moments)
                process.send_signal(signal.SIGCONT)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        err.seek(0)
        seen.code, seen.err = process.returncode, err.read()
    assert seen.moments, f"no fault point was passed: is fault injection built in? {seen.err}"
    return seen
