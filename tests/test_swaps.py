"""What is changed is what was checked, whoever exchanges names between any two system calls.

An ordinary user who owns a directory of a volume exchanges its names while root's snapsync works there: at
every call, or at some of them from a seed. Nothing of his comes to be root's, nothing outside is touched, his
files are kept, and the volume is at the old snapshot or the new one. `SNAPSYNC_SWAPS=all` tries each call,
`SNAPSYNC_SWAPS=N` so many.
"""

from __future__ import annotations

import os
import random
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cue import Cues, User, on_cue
from machine import Pair, Place, done, run, status
from oracle import Picture, assert_same, freeze, same

KINDS = [("xfs", "btrfs"), ("btrfs", "xfs"), ("xfs", "ext4")]
SEED = int(os.environ.get("SNAPSYNC_SWAPS_SEED", "1"))
HOW_MANY = os.environ.get("SNAPSYNC_SWAPS", "6")
USER = 65534
MINE = b"written by an ordinary user in turn %d, and his"

NAMES = ["tool", "note", "gone", "old", "new", "dir", "dead", "link", "fresh", "given", "many", "deep"]
"""Whatever a round touches in the user's directory."""


@dataclass
class Scene:
    """A pair of volumes with a directory that belongs to an ordinary user, and what lies outside of both."""

    pair: Pair
    outside: Path
    turn: int = 0
    his: int = 0
    user: User = field(default_factory=User)

    @classmethod
    def make(cls, place: Place, kinds: tuple[str, str]) -> Scene:
        pair, outside = Pair.make(place, kinds), place(kinds[1])
        (outside / "secret").write_bytes(b"root's own" * 1000)
        (outside / "secret").chmod(0o600)
        (outside / "d").mkdir(mode=0o700)
        (outside / "d/inner").write_text("root's, too")
        outside.chmod(0o755)
        scene = cls(pair, outside)
        home = pair.source / "home"
        home.mkdir()
        for name in ("tool", "gone", "old", "given", "many"):
            (home / name).write_bytes(name.encode() * 1000)
        (home / "note").write_bytes(bytes(200_000))
        for name in ("dir", "dead", "deep"):
            (home / name).mkdir()
            (home / name / "inner").write_text(name)
        (home / "link").symlink_to("tool")
        for name in (".", "note", "given", "deep", "deep/inner"):
            os.chown(home / name, USER, USER)
        pair.source.chmod(0o755)
        for above in pair.target.parents:
            above.chmod(above.stat().st_mode | 0o111)
        pair.sync()
        assert scene.user.does(lambda: os.listdir(scene.home)), "he does not get there"
        return scene

    @property
    def home(self) -> Path:
        return self.pair.target / "home"

    def change(self) -> None:
        """What root does on the primary: each sort of change that a commit knows, there and back."""
        self.turn, self.his = self.turn + 1, 0
        home, odd = self.pair.source / "home", self.turn % 2
        (home / "tool").chmod(0o4755 if odd else 0o755)
        os.chown(home / "given", *((0, 0) if odd else (USER, USER)))
        (home / "given").chmod(0o6711 if odd else 0o644)
        with (home / "note").open("r+b") as file:
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

    # --- what the user does ---

    def exchange(self, kind: str, *names: str) -> None:
        """Puts something of his own in the place of names in his directory."""

        def each() -> None:
            for name in names:
                with suppress(OSError):
                    at, aside = self.home / name, self.home / f".was-{name}-{self.turn}"
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
            (self.home / "note").rename(at)
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

    def all_of_his(self) -> Iterator[tuple[Path, os.stat_result]]:
        """What he made in this turn, in the tree and where it is kept aside; not what snapshots have."""
        for above, below, names in os.walk(self.pair.target):
            if above.endswith("/.snapsync") and "store" in below:
                below.remove("store")
            for name in names:
                path = Path(above, name)
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and path.read_bytes() == self.mine:
                    yield path, found

    # --- what must be true then ---

    def assert_safe(self, before: Picture) -> None:
        assert_same(self.outside, before)
        found = list(self.all_of_his())
        for path, status_ in found:
            assert status_.st_uid == USER, f"{path} is another's now"
            assert stat.S_IMODE(status_.st_mode) == 0o600, f"{path}: {status_.st_mode:o}"
        assert len(found) >= self.his or self.is_in_a_snapshot(), "a file of the user's was destroyed"

    def is_in_a_snapshot(self) -> bool:
        """What he made before a restore looked is in the snapshot that it takes first."""
        store = self.pair.target / ".snapsync/store"
        files = (path for path in store.rglob("*") if path.is_file() and not path.is_symlink())
        return any(self.mine in path.read_bytes() for path in files)


EXCHANGES = [
    "file",
    "directory",
    "link",
    "link to a directory",
    "fifo",
    "another",
    "gone",
    "appears",
    "hard link",
]


def cues(calls: int, rng: random.Random) -> list[int]:
    if HOW_MANY == "all":
        return list(range(calls))
    return sorted(rng.sample(range(calls), min(calls, int(HOW_MANY))))


def settle(scene: Scene, ran: Cues) -> None:
    """The volume is at one of two snapshots, and rounds go on."""
    pair = scene.pair
    assert ran.ran.code in (0, 3), ran.ran
    assert status(pair.target)["unfinished"] is None, ran.ran
    last = run("sync", pair.source, pair.target, "--check", "--discard-drift", "-q")
    assert last.code == 0, (ran.ran, last)
    if not same(pair.source, pair.target):
        # On Btrfs what came between the commit and its snapshot is in that.
        done("verify", "--repair", pair.source, pair.target, "--discard-drift")
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_names_that_are_exchanged_during_a_round(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str], exchange: str
) -> None:
    scene, rng = Scene.make(place, kinds), random.Random(f"{SEED} {kinds} {exchange}")
    pair, outside = scene.pair, freeze(scene.outside)
    scene.change()
    calls = len(on_cue(lambda _, __: None, "sync", pair.source, pair.target, "-q").calls)
    assert_same(pair.source, pair.target)
    for cue in cues(calls, rng):
        names = rng.sample(NAMES, rng.choice([1, 3, len(NAMES)]))
        with subtests.test(cue=cue, names=names):
            scene.change()

            def act(number: int, _: str, cue: int = cue, names: list[str] = names) -> None:
                if number == cue:
                    scene.exchange(exchange, *names)

            ran = on_cue(act, "sync", pair.source, pair.target, "-q")
            scene.assert_safe(outside)
            settle(scene, ran)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("exchange", ["file", "link", "appears"])
def test_names_that_are_exchanged_while_a_killed_commit_waits(
    place: Place, subtests: pytest.Subtests, kinds: tuple[str, str], exchange: str
) -> None:
    scene = Scene.make(place, kinds)
    pair, outside = scene.pair, freeze(scene.outside)
    for point in (
        "commit.marked:1",
        "commit.detach:2",
        "commit.detached:1",
        "commit.attach:2",
        "commit.data:1",
    ):
        for verb in ("recover", "recover --back"):
            with subtests.test(point=point, verb=verb):
                scene.change()
                killed = run("sync", pair.source, pair.target, "-q", env={"SNAPSYNC_FAULT": point})
                assert killed.code == -signal.SIGKILL, killed
                scene.exchange(exchange, *NAMES)
                ran = run(*verb.split()[:1], pair.target, *verb.split()[1:], "-q")
                scene.assert_safe(outside)
                settle(scene, Cues(ran))


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
@pytest.mark.parametrize("exchange", ["file", "directory", "link to a directory", "appears"])
def test_names_that_are_exchanged_while_paths_are_restored(
    place: Place, subtests: pytest.Subtests, kind: str, exchange: str
) -> None:
    scene, rng = Scene.make(place, ("xfs", kind)), random.Random(f"{SEED} {kind} {exchange}")
    pair, outside = scene.pair, freeze(scene.outside)
    done("promote", pair.target)
    scene.pair = Pair(pair.target, pair.target)
    paths = ["home/tool", "home/dir", "home/deep/inner", "home/note"]

    def words() -> list[object]:
        """After changes of root's own."""
        scene.turn, scene.his = scene.turn + 1, 0
        (scene.home / "tool").chmod(0o755)
        (scene.home / "dir" / f"{scene.turn}").write_text("new")
        with (scene.home / "note").open("r+b") as file:
            file.write(b"%d" % scene.turn * 1000)
        (scene.home / "deep/inner").write_text(f"{scene.turn}")
        return ["restore", f"{pair.target}@0", *(pair.target / path for path in paths), "-q"]

    calls = len(on_cue(lambda _, __: None, *words()).calls)
    for cue in cues(calls, rng):
        names = rng.sample(["tool", "dir", "deep", "note"], rng.choice([1, 4]))
        with subtests.test(cue=cue, names=names):
            command = words()

            def act(number: int, _: str, cue: int = cue, names: list[str] = names) -> None:
                if number == cue:
                    scene.exchange(exchange, *names)

            ran = on_cue(act, *command)
            scene.assert_safe(outside)
            assert ran.ran.code in (0, 1, 2, 3), ran.ran
            done("restore", f"{pair.target}@0", pair.target / "home")
            assert_same(pair.source / "home", pair.target / "home")
