"""Other users who look at a tree, by their own system calls.

What one of them can do is a set of facts: bytes that he reads, overwrites or runs, names that he sees,
directories that he makes entries in. A fact speaks of content and not of paths, so that
what moves carries its own along.

    python -c "import looking; looking.serve()"

calls `look` or `readers` as stdin says. It is a small process: each of them forks one for each of the people,
and to copy the process that runs all tests takes longer than to look.
"""

from __future__ import annotations

import errno
import os
import pickle
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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


def readers(people: list[tuple[int, int]], path: Path) -> set[tuple[int, int]]:
    """Who of some people, by user and group, can open a file for reading, tried by being them."""
    found = set()
    for uid, gid in people:
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(gid)
                os.setuid(uid)
                os.close(os.open(path, os.O_RDONLY))
                os._exit(0)
            except OSError:
                os._exit(1)
        if os.waitpid(child, 0)[1] == 0:
            found.add((uid, gid))
    return found


def serve() -> None:
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            act, *what = pickle.load(asked)
        except EOFError:
            return
        try:
            found: object = {"look": look, "readers": readers}[act](*what)
        except BaseException as error:
            found = repr(error)
        pickle.dump(found, answers)
        answers.flush()
