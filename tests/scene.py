"""An ordinary user who exchanges names in a directory of his while root's snapsync works there.

What he may reach by that is nothing: `Scene.assert_safe` says so, whichever names he exchanges, and for
what. `tried` lets him do it before calls of a command that a seed chooses (`SNAPSYNC_SWAPS_SEED`): before
some, before each with `SNAPSYNC_SWAPS=all`, before so many with `SNAPSYNC_SWAPS=N`.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cue import Cues, User, on_cue
from machine import Pair, Place, done, run, status
from oracle import Picture, assert_same, freeze, same

SEED = int(os.environ.get("SNAPSYNC_SWAPS_SEED", "1"))
HOW_MANY = os.environ.get("SNAPSYNC_SWAPS", "3")
USER = 65534
MINE = b"written by an ordinary user in turn %d, and his"
FOR_ROOT = b"for root's eyes"
PRIVILEGED = (b"tool" * 1000, b"given" * 1000, b"by hand")

NAMES = [
    "tool", "note", "gone", "old", "new", "dir", "dead", "link", "fresh", "given", "many", "deep", "shadow",
]  # fmt: skip
"""Whatever a round touches in the user's directory."""

EXCHANGES = [
    "file", "directory", "link", "link to a directory", "fifo", "another", "gone", "appears", "hard link",
]  # fmt: skip


def chance(*of: object) -> random.Random:
    return random.Random(" ".join(map(str, (SEED, *of))))


@dataclass
class Scene:
    """A pair of volumes with a directory that belongs to an ordinary user, and what lies outside of both."""

    pair: Pair
    outside: Path
    tree: Path
    """What he has the directory in."""
    yard: Path
    """The directory."""
    turn: int = 0
    his: int = 0
    user: User = field(default_factory=User)

    @classmethod
    def make(cls, place: Place, kinds: tuple[str, str], *, keeps_history: bool = False) -> Scene:
        pair, outside = Pair.make(place, kinds), place(kinds[1])
        (outside / "secret").write_bytes(FOR_ROOT + b", outside" * 1000)
        (outside / "secret").chmod(0o600)
        (outside / "d").mkdir(mode=0o700)
        (outside / "d/inner").write_bytes(FOR_ROOT + b", outside, too")
        outside.chmod(0o755)
        home = pair.source / "home"
        home.mkdir()
        for name in ("tool", "gone", "old", "given", "many"):
            (home / name).write_bytes(name.encode() * 1000)
        (home / "note").write_bytes(bytes(200_000))
        (home / "shadow").write_bytes(FOR_ROOT * 10_000)
        (home / "shadow").chmod(0o600)
        for name in ("dir", "dead", "deep"):
            (home / name).mkdir()
            (home / name / "inner").write_text(name)
        (home / "link").symlink_to("tool")
        for name in (".", "note", "given", "deep", "deep/inner"):
            os.chown(home / name, USER, USER)
        pair.source.chmod(0o755)
        for above in (*pair.source.parents, *pair.target.parents, *outside.parents):
            above.chmod(above.stat().st_mode | 0o111)
        if keeps_history:
            pair.keep_history()
        pair.sync()
        scene = cls(pair, outside, pair.target, pair.target / "home")
        scene.expect_his()
        return scene

    @property
    def home(self) -> Path:
        return self.tree / "home"

    def moves_to(self, tree: Path) -> None:
        """From now on he exchanges names in this volume."""
        self.tree, self.yard = tree, tree / "home"
        self.expect_his()

    def expect_his(self) -> None:
        assert self.user.does(lambda: os.listdir(self.yard)), "he does not get there"

    def change(self) -> None:
        """What root does on the primary: each sort of change that a commit knows, there and back."""
        self.turn, self.his = self.turn + 1, 0
        home, odd = self.pair.source / "home", self.turn % 2
        (home / "tool").chmod(0o4755 if odd else 0o755)
        os.chown(home / "given", *((0, 0) if odd else (USER, USER)))
        (home / "given").chmod(0o6711 if odd else 0o644)
        for name in ("note", "shadow"):
            with (home / name).open("r+b") as file:
                file.seek(len(FOR_ROOT))
                file.write(b"%d" % self.turn * 1000)
                file.seek(100_000)
                file.write(b"%d" % self.turn * 70_000)
        names = [("old", "new"), ("many", "dir/many")]
        for here, there in names:
            (home / (here if odd else there)).rename(home / (there if odd else here))
        (home / "dir").chmod(0o700 if odd else 0o755)
        (home / "dir" / f"{self.turn}").write_text(f"{self.turn}")
        (home / "deep" / "inner").chmod(0o4711 if odd else 0o644)
        (home / "link").unlink()
        (home / "link").symlink_to(f"{self.turn}")
        for gone, come in (
            (("gone", "fresh"), ("dead", "born")) if odd else (("fresh", "gone"), ("born", "dead"))
        ):
            for name in (gone, come):
                path = home / name
                if path.is_dir():
                    (path / "inner").unlink()
                    path.rmdir()
                elif path.exists():
                    path.unlink()
            (home / come).mkdir()
            (home / come / "inner").write_text(f"{self.turn}")

    def begin_again(self) -> None:
        """The primary is what it was before the first change, whatever was made of it."""
        done("restore", f"{self.pair.source}@0")
        self.turn += self.turn % 2

    # --- what the user does ---

    def exchange(self, kind: str, *names: str) -> None:
        """Puts something of his own in the place of names in his directory."""

        def each() -> None:
            for name in names:
                with suppress(OSError):
                    at, aside = self.yard / name, self.yard / f".was-{name}-{self.turn}"
                    self.own(at) if kind == "appears" else self.replace(kind, at, aside)

        self.user.does(each)
        self.his = len(list(self.all_of_his()))

    def replace(self, kind: str, at: Path, aside: Path) -> None:
        at.rename(aside)
        if kind == "file":
            self.own(at)
        elif kind == "directory":
            at.mkdir(mode=0o700)
            self.own(at / "inner")
        elif kind == "link":
            at.symlink_to(self.outside / "secret")
        elif kind == "link to a directory":
            at.symlink_to(self.outside / "d")
        elif kind == "fifo":
            os.mkfifo(at)
        elif kind == "another":
            (self.yard / "note").rename(at)
        elif kind == "hard link":
            os.link(aside, at)
        else:
            assert kind == "gone"

    @property
    def mine(self) -> bytes:
        return MINE % self.turn

    def own(self, path: Path) -> None:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(fd, self.mine)
        os.close(fd)

    def files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """All in the tree and what is kept aside; not what snapshots have."""
        for above, below, names in os.walk(self.tree):
            if above.endswith("/.snapsync") and "store" in below:
                below.remove("store")
            for name in names:
                path = Path(above, name)
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    yield path, found

    def all_of_his(self) -> Iterator[tuple[Path, os.stat_result]]:
        """What he made in this turn."""
        return ((path, found) for path, found in self.files() if path.read_bytes() == self.mine)

    # --- what must be true then ---

    def assert_safe(self, before: Picture) -> None:
        assert_same(self.outside, before)
        found = list(self.all_of_his())
        for path, status_ in found:
            assert status_.st_uid == USER, f"{path} is another's now"
            assert stat.S_IMODE(status_.st_mode) == 0o600, f"{path}: {status_.st_mode:o}"
        assert len(found) >= self.his or self.is_in_a_snapshot(), "a file of the user's was destroyed"
        self.assert_private()

    def assert_private(self) -> None:
        """Whatever was root's alone still is, and what lies outside is nowhere."""
        for path, found in self.files():
            content = path.read_bytes()
            if FOR_ROOT in content:
                assert b"outside" not in content, f"{path} has what is outside"
                assert (found.st_uid, found.st_mode & 0o77) == (0, 0), f"{path}: {found}"
            if found.st_uid == 0 and found.st_mode & 0o6000:
                assert content in PRIVILEGED, f"{path} has got privileges"

    def is_in_a_snapshot(self) -> bool:
        """What he made before a restore looked is in the snapshot that it takes first."""
        store = self.tree / ".snapsync/store"
        files = (path for path in store.rglob("*") if path.is_file() and not path.is_symlink())
        return any(self.mine in path.read_bytes() for path in files)


def cues(calls: int, rng: random.Random) -> list[int]:
    if HOW_MANY == "all":
        return list(range(calls))
    return sorted(rng.sample(range(calls), min(calls, int(HOW_MANY))))


def tried(
    scene: Scene,
    subtests: pytest.Subtests,
    rng: random.Random,
    command: Callable[[], list[object]],
    settled: Callable[[Cues], None],
    names: Sequence[str] = NAMES,
    exchanges: Sequence[str] = EXCHANGES,
) -> None:
    """Runs a command with names exchanged at one of its calls, again and again: `command` puts
    everything in order for it, and `settled` says what must be true besides."""
    outside = freeze(scene.outside)
    undisturbed = on_cue(lambda _, __: None, *command())
    settled(undisturbed)
    for cue in cues(len(undisturbed.calls), rng):
        exchange, some = rng.choice(exchanges), rng.choice([1, 3, len(names)])
        chosen = rng.sample(names, min(some, len(names)))
        with subtests.test(cue=cue, exchange=exchange, names=chosen):
            words = command()

            def act(number: int, _: str, cue: int = cue, how: tuple[str, ...] = (exchange, *chosen)) -> None:
                if number == cue:
                    scene.exchange(*how)

            ran = on_cue(act, *words)
            scene.assert_safe(outside)
            settled(ran)


def settle(scene: Scene, ran: Cues) -> None:
    """The volume is at one of two snapshots, and rounds go on."""
    pair = scene.pair
    assert ran.ran.code in (0, 3), ran.ran
    assert status(pair.target)["unfinished"] is None, ran.ran
    words = ["sync", pair.source, pair.target, "--check", "--discard-drift", "-q"]
    last = run(*words)
    assert last.code == 0 or "verify --repair" in last.err, (ran.ran, last)
    if last.code or not same(pair.source, pair.target):
        # On Btrfs what came between the check and the snapshot is in that.
        done("verify", "--repair", pair.source, pair.target, "--discard-drift")
        done(*words)
    assert_same(pair.source, pair.target)
