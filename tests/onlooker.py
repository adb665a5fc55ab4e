"""Other users who look at a tree while a command works on it, by their own system calls.

What one of them can do is a set of facts: bytes that he reads, overwrites or runs, names that he sees,
directories that he makes entries in. A fact speaks of content and not of paths, so that
what moves carries its own along.
"""

from __future__ import annotations

import errno
import os
import pickle
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from machine import command, default_signals, environment

Fact = tuple[object, ...]

SHOWN = 40
"""Contents are told apart by their last bytes."""

CAPABILITIES = "security.capability"


@dataclass(frozen=True)
class Person:
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


NOBODY, MEMBER, OWNER, LISTED = (
    Person(65534, 65534),
    Person(1000, 1000, (4242,)),
    Person(1001, 1001),
    Person(1003, 1003),
)
PEOPLE = (NOBODY, MEMBER, OWNER, LISTED)


def reach(path: Path) -> None:
    """Everybody may go through the directories above."""
    for above in path.parents:
        if not os.stat(above).st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o111)


@dataclass(frozen=True)
class Thing:
    """An entry as root knows it."""

    path: str
    name: str
    mode: int
    content: tuple[object, ...]
    """Its bytes, and whom it makes of who runs it: who writes to it must not do so for another."""


def things(root: Path) -> Iterator[Thing]:
    for above, folders, files in os.walk(root):
        for name in (*folders, *files, "."):
            path = os.path.join(above, name)
            try:
                mode = os.lstat(path).st_mode
                yield Thing(path, os.path.basename(os.path.normpath(path)), mode, content_of(path, mode))
            except FileNotFoundError:
                continue


def content_of(path: str, mode: int) -> tuple[object, ...]:
    if not stat.S_ISREG(mode):
        return ()
    with open(path, "rb") as file:
        tail = file.read()[-SHOWN:]
    return tail, mode & 0o6000, CAPABILITIES in os.listxattr(path)


def look(root: Path) -> set[Fact]:
    """What each of the people can do in a tree, `.snapsync` included."""
    known = list(things(root))
    looking = [(person, *begin_as(person, known)) for person in PEOPLE]
    return {(person, *fact) for person, child, pipe in looking for fact in found_by(child, pipe)}


def begin_as(person: Person, known: list[Thing]) -> tuple[int, int]:
    """Somebody else looks at all that is known; the process and what it tells by."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(person.groups)
            os.setresgid(person.gid, person.gid, person.gid)
            os.setresuid(person.uid, person.uid, person.uid)
            told = pickle.dumps((list(acts(known)), RAN))
        except BaseException as error:
            told = pickle.dumps(repr(error))
        with os.fdopen(there, "wb") as pipe:
            pipe.write(told)
        os._exit(0)
    os.close(there)
    return child, here


def found_by(child: int, told: int) -> list[Fact]:
    with os.fdopen(told, "rb") as pipe:
        found = pickle.load(pipe)
    os.waitpid(child, 0)
    assert isinstance(found, tuple), found
    RAN.update(found[1])
    return list(found[0])


RAN: dict[Fact, tuple[int, int, int]] = {}
"""Whom programs made of people who ran them: one with the same owner and bits makes the same."""


def acts(known: list[Thing]) -> Iterator[Fact]:
    for thing in known:
        if stat.S_ISDIR(thing.mode):
            yield from acts_in(thing)
        elif stat.S_ISREG(thing.mode):
            yield from acts_on(thing)


def acts_in(folder: Thing) -> Iterator[Fact]:
    if os.access(folder.path, os.W_OK | os.X_OK, effective_ids=True):
        yield "makes entries in", folder.name
    try:
        for name in os.listdir(folder.path):
            if name != ".snapsync":
                yield "sees", name
        if os.stat(folder.path).st_uid == os.geteuid():
            yield "owns", folder.name
    except PermissionError:
        pass


def acts_on(file: Thing) -> Iterator[Fact]:
    attempts: list[Callable[[], Iterator[Fact]]] = [
        lambda: reads(file),
        lambda: writes(file),
        lambda: owns(file),
        lambda: learns(file),
    ]
    if file.mode & 0o111:
        attempts.append(lambda: runs(file))
    for attempt in attempts:
        try:
            yield from attempt()
        except PermissionError:
            pass
        except OSError as error:
            # What lies in a read-only subvolume is nobody's to write.
            if error.errno != errno.EROFS:
                raise


def reads(file: Thing) -> Iterator[Fact]:
    with open(file.path, "rb") as opened:
        yield "reads", opened.read()[-SHOWN:]


def writes(file: Thing) -> Iterator[Fact]:
    try:
        os.close(os.open(file.path, os.O_WRONLY))
    except OSError as error:
        # He might, but for somebody who runs it at this moment.
        if error.errno != errno.ETXTBSY:
            raise
    yield "overwrites", *file.content


def owns(file: Thing) -> Iterator[Fact]:
    if os.stat(file.path).st_uid == os.geteuid():
        yield "owns", *file.content


def learns(file: Thing) -> Iterator[Fact]:
    for name in os.listxattr(file.path):
        if name.startswith("user."):
            yield "learns", os.getxattr(file.path, name)


def runs(program: Thing) -> Iterator[Fact]:
    """It is a copy of `cat`, and tells who runs it."""
    if not os.access(program.path, os.X_OK, effective_ids=True):
        return
    tail, found = program.content[0], os.stat(program.path)
    how = (os.geteuid(), found.st_mode, found.st_uid, found.st_gid, program.content[2], found.st_dev)
    yield "runs", tail
    made = RAN.get(how) or started(program.path)
    if made is None:
        # The command itself writes it: he would be this, were it closed.
        uid = found.st_uid if found.st_mode & stat.S_ISUID else os.geteuid()
        gid = found.st_gid if found.st_mode & stat.S_ISGID else os.getegid()
        made = uid, gid, int(program.content[2])
    else:
        RAN[how] = made
    if made != (os.geteuid(), os.getegid(), 0):
        yield "runs as another", tail, *made


def started(program: str) -> tuple[int, int, int] | None:
    """User, group and capabilities of who runs it; None where it is kept open to be written."""
    for _ in range(100):
        try:
            ran = subprocess.run([program, "/proc/self/status"], capture_output=True, text=True)
        except OSError as error:
            # Another of the people has it open at this moment.
            if error.errno != errno.ETXTBSY:
                raise
            time.sleep(0.01)
            continue
        told = dict(line.split(":", 1) for line in ran.stdout.splitlines() if ":" in line)
        return int(told["Uid"].split()[1]), int(told["Gid"].split()[1]), int(told["CapEff"], 16)
    return None


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
            preexec_fn=default_signals,
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
