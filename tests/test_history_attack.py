"""History tells what was, after odd operations and on bad days: tests look at the tree at each snapshot."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import shlex
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from blake3 import blake3
from machine import Pair, Place, assert_told, command, done, need, run, snapshots, status, store
from test_history import clock_before, let_files_age

Looks = dict[bytes, tuple[str, int]]
"""The kind and the size of each path."""

KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
}

SEEDS = range(int(os.environ.get("ODD_SEEDS", "1")))

NAMES = [b"a", b"b", b"c", b"\xff\xfe", b"new\nline", b"n" * 255, b"sp ace", b"-dash", "ü".encode(), b"*"]


def looks(root: Path) -> Looks:
    found: Looks = {}

    def below(fd: int, prefix: bytes) -> None:
        for name in map(os.fsencode, os.listdir(fd)):
            path = prefix + name
            if path == b".snapsync":
                continue
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            found[path] = (KINDS[stat.S_IFMT(status.st_mode)], status.st_size)
            if stat.S_ISDIR(status.st_mode):
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                below(inner, path + b"/")
                os.close(inner)

    fd = os.open(root, os.O_RDONLY)
    below(fd, b"")
    os.close(fd)
    return found


@dataclass
class Odd:
    """A tree in which odd things happen, and how it looked at each snapshot."""

    root: Path
    rng: random.Random
    was: list[tuple[int, Looks]] = field(default_factory=list)

    def any(self, kind: str | None = None) -> bytes:
        found = [path for path, look in looks(self.root).items() if kind in (None, look[0])]
        return self.rng.choice(found) if found else b""

    def at(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.root), path)

    def fresh(self) -> bytes:
        above = self.any("directory") if self.rng.random() < 0.8 else b""
        return os.path.join(above, self.rng.choice(NAMES))

    def act(self) -> None:
        acts = [self.swap, self.replace, self.rename, self.rename, self.link, self.write, self.write]
        act = self.rng.choice([*acts, self.special, self.gone, self.mkdir, self.mkdir, self.lift])
        # Whatever cannot be done is not.
        with contextlib.suppress(OSError):
            act()

    def swap(self) -> None:
        one, two = self.any(), self.any()
        if (
            not one
            or not two
            or one == two
            or (one + b"/").startswith(two + b"/")
            or two.startswith(one + b"/")
        ):
            return
        aside = self.at(b"aside")
        os.rename(self.at(one), aside)
        os.rename(self.at(two), self.at(one))
        os.rename(aside, self.at(two))

    def replace(self) -> None:
        """Something becomes another kind of thing, under the same name."""
        path = self.any()
        if not path:
            return
        was_dir = os.path.isdir(self.at(path)) and not os.path.islink(self.at(path))
        self.remove(path)
        if was_dir:
            Path(os.fsdecode(self.at(path))).write_bytes(b"x" * self.rng.randrange(99))
        else:
            os.mkdir(self.at(path))
            Path(os.fsdecode(self.at(path + b"/a"))).write_bytes(b"in")

    def remove(self, path: bytes) -> None:
        at = self.at(path)
        shutil.rmtree(at) if os.path.isdir(at) and not os.path.islink(at) else os.unlink(at)

    def gone(self) -> None:
        if self.rng.random() < 0.3 and (path := self.any()):
            self.remove(path)

    def rename(self) -> None:
        one, two = self.any(), self.fresh()
        if one and not (two + b"/").startswith(one + b"/"):
            os.rename(self.at(one), self.at(two))

    def lift(self) -> None:
        """A directory changes places with the one above it."""
        path = self.any("directory")
        above = os.path.dirname(path)
        if above:
            os.rename(self.at(path), self.at(b"lifted"))
            os.rename(self.at(above), self.at(b"lifted/" + self.rng.choice(NAMES)))
            os.rename(self.at(b"lifted"), self.at(above))

    def link(self) -> None:
        one, two = self.any("file"), self.fresh()
        if one:
            os.link(self.at(one), self.at(two))

    def write(self) -> None:
        path = self.any("file") if self.rng.random() < 0.5 else self.fresh()
        if path:
            # What is there may be a pipe, which nobody reads, or a link to another file.
            fd = os.open(self.at(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK)
            os.write(fd, self.rng.randbytes(self.rng.randrange(3000)))
            os.close(fd)

    def mkdir(self) -> None:
        os.mkdir(self.at(self.fresh()))

    def special(self) -> None:
        path = self.fresh()
        if self.rng.random() < 0.5:
            os.symlink(self.rng.choice([b"a", b"/etc/passwd", b"\xff"]), self.at(path))
        else:
            os.mkfifo(self.at(path))

    def remember(self) -> None:
        self.was.append((snapshots(self.root)[-1]["sequence"], looks(self.root)))

    def stretches(self, path: bytes) -> list[list[int]]:
        found: list[list[int]] = []
        before = False
        for sequence, there in self.was:
            if path in there:
                if before:
                    found[-1][1] = sequence
                else:
                    found.append([sequence, sequence])
            before = path in there
        return found


def raw(path: dict[str, Any]) -> bytes:
    return base64.b64decode(path["path_raw"]) if path.get("path_raw") else os.fsencode(path["path"])


def assert_told_all(volume: Path, odd: Odd) -> None:
    told = {raw(path): path for path in done("find", volume, "*")["found"]}
    every = {path for _, there in odd.was for path in there}
    assert told.keys() == every
    for path, found in told.items():
        last = next(there[path] for _, there in reversed(odd.was) if path in there)
        assert found["stretches"] == odd.stretches(path), path
        assert found["kind"] == last[0], path
        if last[0] == "file":
            assert found["size"] == last[1], path


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4"])
@pytest.mark.parametrize("seed", SEEDS)
def test_odd_operations_are_told_as_the_tree_was(place: Place, kind: str, seed: int) -> None:
    volume = place(kind)
    odd = Odd(volume, random.Random(f"{kind}{seed}"))
    for _ in range(12):
        for _ in range(odd.rng.randrange(1, 25)):
            odd.act()
        done("snapshot", volume)
        odd.remember()
        if odd.rng.random() < 0.4:
            gone = odd.rng.choice(snapshots(volume)[:-1] or [None])
            if gone:
                done("delete", f"{volume}@{gone['name']}")
    assert_told_all(volume, odd)


PAIRS = [("xfs", "btrfs"), ("ext4", "xfs"), ("btrfs", "ext4")]


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
@pytest.mark.parametrize("seed", SEEDS)
def test_odd_operations_are_told_on_both_sides(place: Place, kinds: tuple[str, str], seed: int) -> None:
    pair = Pair.make(place, kinds)
    odd = Odd(pair.source, random.Random(f"{kinds}{seed}"))
    for _ in range(12):
        for _ in range(odd.rng.randrange(1, 25)):
            odd.act()
        done("sync", pair.source, pair.target)
        odd.remember()
        for side in (pair.source, pair.target):
            if odd.rng.random() < 0.3:
                done("prune", side, "--keep-last", "2")
    for side in (pair.source, pair.target):
        assert_told_all(side, odd)


def test_a_path_is_shown_as_it_was_when_it_lay_there(place: Place) -> None:
    """Also where only a directory above it was renamed, and it grew later."""
    volume = place("xfs")
    (volume / "d").mkdir()
    (volume / "d/f").write_text("1")
    done("snapshot", volume)
    (volume / "d").rename(volume / "e")
    done("snapshot", volume)
    (volume / "e/f").write_text("12345")
    done("snapshot", volume)
    assert {path["path"]: path["size"] for path in done("find", volume, "f")["found"]} == {"d/f": 1, "e/f": 5}


def deep(volume: Path, levels: int) -> None:
    fd = os.open(volume, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_trees_as_deep_as_paths_can_be_are_searched_at_once(place: Place) -> None:
    volume = place("xfs")
    deep(volume, 30_000)
    done("snapshot", volume)
    found = done("find", volume, "leaf")
    assert [path["path"] for path in found["found"]] == ["d/" * 30_000 + "leaf"]
    assert found["seconds"] < 20


def rewritten(volume: Path, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes what the kept manifests say of a path, and makes their names fit."""
    for file in list((store(volume) / "history").iterdir()):
        with pa.OSFile(str(file)) as opened:
            table = pa.ipc.open_file(opened).read_all()
        rows = table.to_pylist()
        for row in rows:
            if row["path"] == path:
                change(row)
        with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_file(opened, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
        file.rename(
            file.with_name(f"{file.name.split('.')[0]}.{blake3(file.read_bytes()).hexdigest()}.arrow")
        )


def test_a_manifest_in_which_a_directory_lies_beneath_itself_is_refused(place: Place) -> None:
    volume = place("xfs")
    (volume / "d/e").mkdir(parents=True)
    (volume / "d/e/f").write_text("x")
    done("snapshot", volume)
    done("log", volume)

    def turn(row: dict[str, Any]) -> None:
        row["links_added"][0]["parent"] = row["inode"]

    rewritten(volume, "d/e", turn)
    for verb in (("find", volume, "f"), ("log", volume, "d/e/f")):
        assert_told(run(*verb, "--quiet"), "beneath itself", codes=(4,))


def test_history_reaches_back_to_the_oldest_snapshot_that_is_there(place: Place) -> None:
    """However old it is: what it has would be found nowhere."""
    volume = place("xfs")
    (volume / "gone").write_text("x")
    done("snapshot", volume, "--name", "ancient", env=clock_before(900))
    (volume / "gone").unlink()
    for number in range(70):
        (volume / str(number)).write_text("x")
        done("snapshot", volume, env=clock_before(500))
    done("snapshot", volume)
    done("log", volume)
    let_files_age(volume)
    done("prune", volume, "--keep-last", "3", "--keep-yearly", "5")
    assert snapshots(volume)[0]["name"] == "ancient"
    [found] = done("find", volume, "gone")["found"]
    assert found["restorable"] == "ancient"
    assert done("log", volume, "gone")["restore"]["snapshot"]["name"] == "ancient"
    done("delete", f"{volume}@ancient")
    let_files_age(volume)
    done("prune", volume, "--keep-last", "3")
    assert status(volume)["manifests"] < 5


@pytest.mark.parametrize("name", [*NAMES, b"it's", b"a$b `c`", b"back\\slash\x1b[31m"])
def test_the_line_that_gets_a_path_back_can_be_typed(place: Place, name: bytes) -> None:
    need("bash")
    volume = place("xfs")
    lost = os.path.join(os.fsencode(volume), name)
    Path(os.fsdecode(lost)).write_text("back")
    done("snapshot", volume)
    os.unlink(lost)
    done("snapshot", volume)
    told = run("log", volume, "--", os.fsdecode(name))
    line = told.out.splitlines()[-1].removeprefix("to get it back: snapsync ")
    assert line.startswith("restore ")
    assert line.isprintable()
    ran = subprocess.run(["bash", "-c", f"{shlex.join(command())} {line}"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert Path(os.fsdecode(lost)).read_text() == "back"


def test_the_line_that_gets_a_path_of_a_part_back_can_be_typed(place: Place) -> None:
    volume, standby = place("xfs"), place.absent("ext4")
    (volume / "mail").mkdir()
    (volume / "mail/4.eml").write_text("back")
    round = ("sync", "--part", "mail", volume, standby)
    done(*round, "--include", "/mail")
    (volume / "mail/4.eml").unlink()
    done(*round)
    line = run("log", f"{volume}@mail/", "mail/4.eml").out.splitlines()[-1]
    _, _, words = line.partition("to get it back: snapsync ")
    done(*shlex.split(words))
    assert (volume / "mail/4.eml").read_text() == "back"


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_both_sides_of_a_round_keep_its_manifest(place: Place, kinds: tuple[str, str]) -> None:
    pair = Pair.make(place, kinds)
    for number in range(3):
        (pair.source / str(number)).write_text("x")
        pair.sync()
        for side in (pair.source, pair.target):
            kept = [file.name for file in (store(side) / "history").iterdir()]
            ids = {name.split(".")[0] for name in kept}
            assert ids == {found["id"] for found in snapshots(side)}, side
            assert len(kept) == number + 1


def test_what_a_primary_without_history_has_lost_is_told_without_its_bytes(place: Place) -> None:
    """On ext4 a snapshot holds no bytes: they are gone when the tree changes, and its paths are not."""
    pair = Pair.make(place, ("ext4", "xfs"))
    volume = pair.source
    (volume / "f").write_bytes(b"x" * 5000)
    pair.sync()
    (volume / "f").write_bytes(b"y" * 6000)
    (volume / "g").write_text("1")
    done("snapshot", volume)
    (volume / "f").write_bytes(b"z" * 7000)
    (volume / "g").unlink()
    done("snapshot", volume)
    found = {path["path"]: path for path in done("find", volume, "*")["found"]}
    assert {path: (told["size"], told["stretches"]) for path, told in found.items()} == {
        "f": (7000, [[0, 2]]),
        "g": (1, [[1, 1]]),
    }
    assert [found["changes"]["created"] for found in done("log", volume)["rounds"]] == [0, 1, 2]
    assert [event["what"] for event in done("log", volume, "g")["events"]] == ["deleted", "created"]


def test_a_fold_that_is_killed_loses_nothing_and_leaves_nothing(place: Place) -> None:
    volume = place("xfs")
    for number in range(70):
        (volume / str(number)).write_text("x")
        done("snapshot", volume, env=clock_before(500 if number < 68 else 0))
    done("log", volume)
    let_files_age(volume)
    killed = run("prune", volume, "--keep-last", "2", env={"SNAPSYNC_FAULT": "history.folded:1"})
    assert killed.code == -signal.SIGKILL
    first = done("find", volume, "*")["found"]
    assert len(first) == 70
    assert status(volume)["manifests"] > 3
    done("prune", volume, "--keep-last", "2")
    assert status(volume)["manifests"] == 3
    assert done("find", volume, "*")["found"] == first
