"""No moment is wider than both ends: whoever looks at a tree while snapsync works on it can do nothing that
he could do neither before nor after, wherever it is stopped, killed, or goes back."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from machine import KINDS, Pair, Place, done, need, run, sh
from onlooker import Fact, Watched, look, reach, watch
from worlds import APPEND_ONLY, IMMUTABLE, set_flags

NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
"""The capability of `ping`, as an extended attribute."""

TAIL = 40


def write(path: Path, text: str) -> None:
    """In place: the inode stays."""
    data = text.encode().rjust(TAIL)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(fd, os.pwrite(fd, data, 0))
    finally:
        os.close(fd)


def program(path: Path, text: str) -> None:
    if not path.exists():
        shutil.copyfile(shutil.which("cat") or "/bin/cat", path)
    fd = os.open(path, os.O_WRONLY)
    try:
        size = os.fstat(fd).st_size
        known = len(Path(shutil.which("cat") or "/bin/cat").read_bytes())
        os.pwrite(fd, text.encode().rjust(TAIL), known)
        assert size in (known, known + TAIL)
    finally:
        os.close(fd)


def dress(path: Path, mode: int, uid: int = 0, gid: int = 0, *, caps: bool = False, acl: str = "") -> None:
    sh("setfacl", "-b", path)
    os.chown(path, uid, gid)
    path.chmod(mode)
    if acl:
        sh("setfacl", "-m", acl, path)
    if caps:
        os.setxattr(path, "security.capability", NET_RAW)


def place_at(root: Path, wanted: str, other: str) -> Path:
    """The thing that is under one of two names has the first one then."""
    if (root / other).exists():
        (root / other).rename(root / wanted)
    return root / wanted


def shape(root: Path, side: int, moving: bool = True) -> None:
    """Makes a tree one of two, in place: every change at issue lies between them, one way or the other."""

    def two(name: str, *looks: tuple[object, ...]) -> None:
        path = root / name
        write(path, f"{name} {side}")
        dress(path, *looks[side])  # type: ignore[arg-type]

    for name, mode in (("closed", 0o700), ("open", 0o755)):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(mode)
    two("shut", (0o644,), (0o600,))
    two("given", (0o644, 1001), (0o600, 0))
    two("regrouped", (0o660, 0, 4242), (0o660, 0, 1003))
    for name, lists in (("masked", ("u:1003:r,m::r", "u:1003:r,m::-")), ("listed", ("", "u:1003:rw"))):
        write(root / name, f"{name} {side}")
        dress(root / name, 0o640, acl=lists[side])
    programs(root, side)
    folders(root, side)
    marked(root, side)
    if moving:
        movers(root, side)


def programs(root: Path, side: int) -> None:
    looks = {
        "taken-over": ((0o666, 1001, 1001), (0o4755, 0, 0)),
        "suid-lost": ((0o4755, 0, 0), (0o755, 1001, 0)),
        "suid-kept": ((0o4755, 0, 0), (0o4755, 0, 0)),
        "sgid-lost": ((0o2755, 0, 4242), (0o755, 0, 0)),
        "suid-shut": ((0o4755, 0, 0), (0o4700, 0, 0)),
    }
    for name, sides in looks.items():
        program(root / name, f"{name} {side}")
        dress(root / name, *sides[side])
    program(root / "caps-kept", f"caps-kept {side}")
    dress(root / "caps-kept", 0o755, caps=True)
    program(root / "caps-lost", f"caps-lost {side}")
    dress(root / "caps-lost", 0o755, caps=side == 0)


def folders(root: Path, side: int) -> None:
    """Tightened before a secret comes, opened after it went; new ones are closed from the start."""
    for name, modes in (
        ("tight", (0o755, 0o700)),
        ("given-dir", (0o755, 0o700)),
        ("sticky", (0o777, 0o1777)),
    ):
        folder = root / name
        folder.mkdir(exist_ok=True)
        secret = folder / f"{name}-secret"
        if side:
            write(secret, f"{name} secret")
            secret.chmod(0o644)
        else:
            secret.unlink(missing_ok=True)
        write(folder / f"{name}-file", f"{name}-file {side}")
        (folder / f"{name}-file").chmod(0o644)
        folder.chmod(modes[side])
    os.chown(root / "given-dir", 0 if side else 1001, 0)
    fresh = root / "fresh"
    if side:
        (fresh / "inner").mkdir(parents=True)
        for at in (fresh, fresh / "inner"):
            write(at / f"{at.name}-file", f"{at.name} secret")
            (at / f"{at.name}-file").chmod(0o644)
        fresh.chmod(0o700)
    elif fresh.exists():
        shutil.rmtree(fresh)


def movers(root: Path, side: int) -> None:
    """What moves between a closed and an open directory and is another there, alone or with a directory."""
    for name, ways in (("out", ("closed", "open")), ("in", ("open", "closed"))):
        for owner in (0, 1001):
            file = f"{name}-{owner}"
            at = place_at(root, f"{ways[side]}/{file}", f"{ways[1 - side]}/{file}")
            write(at, f"{file} {side}")
            dress(at, 0o644, owner)
        folder = place_at(root, f"{ways[side]}/{name}-dir", f"{ways[1 - side]}/{name}-dir")
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        write(folder / f"{name}-below", f"{name}-below {side}")
        (folder / f"{name}-below").chmod(0o644)
        noted = place_at(root, f"{ways[side]}/{name}-noted", f"{ways[1 - side]}/{name}-noted")
        write(noted, f"{name}-noted")
        noted.chmod(0o644)
        os.setxattr(noted, "user.note", f"{name}-note {side}".encode())
        link = root / "open" / f"{name}-link"
        first = root / "closed" / f"{name}-first"
        write(first, f"{name}-first {side}")
        first.chmod(0o644)
        link.unlink(missing_ok=True)
        if (name == "out") == bool(side):
            os.link(first, link)


def marked(root: Path, side: int) -> None:
    """Their flags bind everybody, and are off while a commit writes."""
    for name, flag in (("immutable", IMMUTABLE), ("append", APPEND_ONLY)):
        path = root / name
        if path.exists():
            set_flags(path, 0, flag)
        write(path, f"{name} {side}")
        path.chmod(0o666)
        set_flags(path, flag)
    fresh = root / "fresh-immutable"
    if side:
        write(fresh, "fresh-immutable")
        fresh.chmod(0o666)
        set_flags(fresh, IMMUTABLE)
    elif fresh.exists():
        set_flags(fresh, 0, IMMUTABLE)
        fresh.unlink()


# --- the two ends ------------------------------------------------------------------------------


@dataclass
class Ends:
    """A pair whose primary is one of two trees, and what people can do in each."""

    pair: Pair
    moving: bool
    side: int
    facts: list[set[Fact]]

    @classmethod
    def make(cls, pair: Pair, moving: bool) -> Ends:
        need("setfacl")
        reach(pair.source)
        reach(pair.target)
        pair.source.chmod(0o755)
        facts = []
        for side in (1, 0):
            shape(pair.source, side, moving)
            pair.sync()
            facts.append(look(pair.target))
            assert facts[-1] == look(pair.source), "both sides let the same people do the same"
        return cls(pair, moving, 0, facts[::-1])

    def turn(self) -> None:
        self.side = 1 - self.side
        shape(self.pair.source, self.side, self.moving)

    def round(self, *faults: str) -> Watched:
        return watch(self.pair.target, "sync", self.pair.source, self.pair.target, faults=faults)

    def hold(self, watched: Watched) -> None:
        nothing_wider(watched, *self.facts)

    def arrived(self) -> None:
        self.pair.sync()
        assert look(self.pair.target) == self.facts[self.side]


def nothing_wider(watched: Watched, *ends: set[Fact]) -> None:
    wider = {fact: at for fact, at in watched.facts.items() if fact not in set().union(*ends)}
    assert not wider, "\n".join(f"at moment {at}: {fact}" for fact, at in wider.items())


@pytest.fixture(
    params=[(kind, moving) for kind in KINDS for moving in (False, True)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def ends(request: pytest.FixtureRequest, place: Place) -> Ends:
    """Where directories move, what changes is closed more often than where none does."""
    kind, moving = request.param
    pair = Pair.make(place, (kind, kind))
    pair.keep_history()
    return Ends.make(pair, moving)


def test_nobody_may_more_at_any_moment_of_a_round(ends: Ends) -> None:
    for _ in range(2):
        ends.turn()
        watched = ends.round()
        assert watched.code == 0, watched.err
        ends.hold(watched)
        ends.arrived()


def test_nobody_may_more_while_a_round_goes_back_and_comes_again(ends: Ends) -> None:
    for _ in range(2):
        ends.turn()
        watched = ends.round("commit.attributes:12=fail")
        assert watched.code == 1, watched.err
        assert "nothing was changed" in watched.err
        ends.hold(watched)
        assert look(ends.pair.target) == ends.facts[1 - ends.side]
        ends.arrived()


@pytest.mark.parametrize("point", ["commit.attached:1", "commit.attributes:12"])
def test_nobody_may_more_after_a_round_was_killed_and_while_it_goes_on_or_back(
    ends: Ends, point: str
) -> None:
    for back in ([], ["--back"]):
        ends.turn()
        assert run("sync", ends.pair.source, ends.pair.target, env={"SNAPSYNC_FAULT": point}).code == -9
        watched = watch(ends.pair.target, "recover", ends.pair.target, *back)
        assert watched.code == 0, watched.err
        ends.hold(watched)
        assert look(ends.pair.target) == ends.facts[1 - ends.side if back else ends.side]
        ends.arrived()


def test_nobody_may_more_while_a_volume_goes_back_to_an_older_snapshot(ends: Ends) -> None:
    source = ends.pair.source
    for side in (0, 1):
        done("snapshot", source, "--name", f"side-{ends.side}")
        if side == 0:
            ends.turn()
    for side in (0, 1):
        watched = watch(source, "restore", f"{source}@side-{side}")
        assert watched.code == 0, watched.err
        ends.hold(watched)


# --- what was not there ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_new_root_lets_in_nobody_before_all_is_there(place: Place, kind: str, mode: int) -> None:
    pair = Pair.make(place, (kind, kind))
    for path in (pair.source, pair.target):
        reach(path)
    shape(pair.source, 1)
    pair.source.chmod(mode)
    facts = look(pair.source)
    watched = watch(pair.target, "sync", pair.source, pair.target, umask=0)
    assert watched.code == 0, watched.err
    nothing_wider(watched, facts)
    made = [place.absent(kind), place(kind)]
    made[1].chmod(0o755)
    for to, verb in ((made[0], "restore"), (made[1], "restore"), (place.absent(kind), "clone")):
        where = ("--to", to) if verb == "restore" else (to,)
        watched = watch(to, verb, f"{pair.source}@latest", *where, umask=0)
        assert watched.code == 0, watched.err
        nothing_wider(watched, facts)
        assert look(to) <= facts
    shelf, delta = place(kind), place.absent(kind)
    shelf.chmod(0o755)
    done("send", f"{pair.source}@latest", "-o", delta, "--name", "got")
    assert delta.stat().st_mode & 0o077 == 0
    watched = watch(shelf, "receive", "--as-snapshot", shelf, "-i", delta, umask=0)
    assert watched.code == 0, watched.err
    nothing_wider(watched, facts, {fact for fact in watched.facts if fact[1] == "sees"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_root_that_was_there_has_its_own_mode_back_when_the_round_fails(
    place: Place, kind: str
) -> None:
    pair = Pair(place(kind), place(kind))
    (pair.source / "file").write_text("x")
    for point in ("commit.attached:1=fail", "commit.attributes:1=fail"):
        pair.target.chmod(0o751)
        os.chown(pair.target, 1001, 1002)
        assert run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": point}).code == 1
        stat = pair.target.stat()
        assert (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (0o751, 1001, 1002)
    pair.sync()


def test_nobody_may_more_while_paths_are_restored(ends: Ends) -> None:
    source = ends.pair.source
    ends.turn()
    done("snapshot", source, "--name", "before")
    ends.turn()
    watched = watch(source, "restore", f"{source}@before", *("tight", "suid-lost", "fresh"))
    assert watched.code == 0, watched.err
    ends.hold(watched)
