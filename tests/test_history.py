"""What history tells is what was: `log`, `find` and `restore` agree with a model that the test keeps.

The model knows nothing of manifests: it is what the test itself did, and what the tree was at each snapshot.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from machine import Pair, Place, assert_told, done, missing, run, snapshots, status, store

import snapsync

MANY = int(os.environ.get("SNAPSYNC_HISTORY_FILES", 2_000))
"""`make soak` takes more."""

Names = dict[str, int]


@dataclass
class Was:
    """What the tree was at one snapshot: the inode of each path, and the bytes of each file."""

    names: Names
    directories: set[int]
    content: dict[int, bytes]
    sequence: int

    def entry(self, path: str) -> tuple[int, str]:
        """The directory of a path, and its name there."""
        above, _, name = path.rpartition("/")
        return (self.names[above] if above else 0, name)

    def entries(self) -> dict[int, set[tuple[int, str]]]:
        found: dict[int, set[tuple[int, str]]] = {}
        for path, ino in self.names.items():
            found.setdefault(ino, set()).add(self.entry(path))
        return found

    def paths(self, ino: int) -> set[str]:
        return {path for path, found in self.names.items() if found == ino}


@dataclass
class Life:
    """A tree that changes, and all that it ever was."""

    root: Path
    rng: random.Random
    names: Names = field(default_factory=dict)
    directories: set[int] = field(default_factory=set)
    content: dict[int, bytes] = field(default_factory=dict)
    was: list[Was] = field(default_factory=list)
    made: int = 0

    def begin(self, files: int) -> None:
        for number in range(max(files // 50, 3)):
            above = self.any_directory() if number > 5 and self.rng.random() < 0.7 else ""
            self.mkdir(self.beneath(above, f"d{number}"))
        directories = ["", *self.names]
        for number in range(files):
            self.write(self.beneath(self.rng.choice(directories), self.name(number)))

    def name(self, number: int) -> str:
        return f"f{number}.{self.rng.choice(['txt', 'odt', 'log'])}"

    @staticmethod
    def beneath(above: str, name: str) -> str:
        return f"{above}/{name}" if above else name

    def any_file(self) -> str | None:
        paths = [*self.names]
        for _ in range(100):
            path = self.rng.choice(paths)
            # A link is left alone.
            if self.names[path] not in self.directories and self.names[path] > 0:
                return path
        return None

    def any_directory(self) -> str:
        return self.rng.choice(["", *(path for path, ino in self.names.items() if ino in self.directories)])

    def new(self) -> int:
        self.made += 1
        return self.made

    # --- what changes ---

    def mkdir(self, path: str) -> None:
        (self.root / path).mkdir()
        self.names[path] = self.new()
        self.directories.add(self.made)

    def write(self, path: str) -> None:
        if path not in self.names:
            self.names[path] = self.new()
        content = self.rng.randbytes(self.rng.randint(1, 60))
        (self.root / path).write_bytes(content)
        self.content[self.names[path]] = content

    def move(self, path: str, to: str) -> None:
        (self.root / path).rename(self.root / to)
        inside = [found for found in self.names if found == path or found.startswith(f"{path}/")]
        for found in inside:
            self.names[to + found[len(path) :]] = self.names.pop(found)

    def remove(self, path: str) -> None:
        at = self.root / path
        shutil.rmtree(at) if at.is_dir() else at.unlink()
        for found in [found for found in self.names if found == path or found.startswith(f"{path}/")]:
            del self.names[found]

    def link(self, path: str, to: str) -> None:
        (self.root / to).hardlink_to(self.root / path)
        self.names[to] = self.names[path]

    def change(self, acts: int) -> None:
        for _ in range(acts):
            act = self.rng.choices(
                ["write", "new", "move", "away", "gone", "dir", "link", "tree"], weights=WEIGHTS
            )
            fresh = f"n{self.made}-{self.rng.randrange(10**6)}.odt"
            some, above = self.any_file(), self.any_directory()
            match act[0]:
                case "write" if some:
                    self.write(some)
                case "move" if some:
                    self.move(some, self.beneath(above, fresh))
                case "away" if above:
                    to = self.any_directory()
                    if to != above and not f"{to}/".startswith(f"{above}/"):
                        self.move(above, self.beneath(to, f"m{fresh}"))
                case "gone" if some:
                    self.remove(some)
                case "dir":
                    self.mkdir(self.beneath(above, f"d{fresh}"))
                case "link" if some:
                    self.link(some, self.beneath(above, fresh))
                case "tree" if above and self.rng.random() < 0.1:
                    self.remove(above)
                case _:
                    self.write(self.beneath(above, fresh))

    def remember(self, sequence: int) -> None:
        content = {ino: self.content[ino] for ino in self.names.values() if ino not in self.directories}
        self.was.append(Was(dict(self.names), set(self.directories), content, sequence))

    # --- what history must tell ---

    def stretches(self, path: str) -> list[list[int]]:
        found: list[list[int]] = []
        for at, was in enumerate(self.was):
            if path in was.names:
                if found and at and path in self.was[at - 1].names:
                    found[-1][1] = was.sequence
                else:
                    found.append([was.sequence, was.sequence])
        return found

    def all_paths(self) -> set[str]:
        return {path for was in self.was for path in was.names}

    def counts(self) -> Iterator[dict[str, int]]:
        old: dict[int, set[tuple[int, str]]] = {}
        for now in self.was:
            new = now.entries()
            both = old.keys() & new.keys()
            # One of several names may count as renamed, or as gone while another came.
            single = [ino for ino in both if len(old[ino]) == len(new[ino]) == 1]
            yield {
                # The first snapshot has the root as well.
                "created": len(new.keys() - old.keys()) + (not old),
                "deleted": len(old.keys() - new.keys()),
                "renamed": sum(old[ino] != new[ino] for ino in single),
                "linked": sum(old[ino] != new[ino] for ino in both),
            }
            old = new

    def life_of(self, ino: int) -> list[tuple[int, str]]:
        """The events of an inode, but for those of attributes only, newest first."""
        events: list[tuple[int, str]] = []
        old: set[str] = set()
        before = None
        for now in self.was:
            new = now.paths(ino)
            what = self.became(before, now, ino, (old, new))
            if what is not None:
                events.append((now.sequence, what))
            before, old = now, new
        return events[::-1]

    @staticmethod
    def became(before: Was | None, now: Was, ino: int, paths: tuple[set[str], set[str]]) -> str | None:
        old, new = paths
        if before is None or not old:
            return "created" if new else None
        if not new:
            return "deleted"
        ours, theirs = ({side.entry(path) for path in at} for side, at in ((before, old), (now, new)))
        if ours != theirs:
            return "renamed" if ours - theirs and theirs - ours else "linked"
        if old != new:
            return "moved"
        return "changed" if before.content.get(ino) != now.content.get(ino) else None


WEIGHTS = [8, 6, 4, 2, 4, 1, 2, 1]


def taken(volume: Path, life: Life) -> None:
    life.remember(snapshots(volume)[-1]["sequence"])


def assert_found(volume: object, life: Life, pattern: str, *options: str) -> list[dict[str, Any]]:
    report = done("find", volume, pattern, *options)
    assert report["searched"] == len(life.was)
    found = {path["path"]: path["stretches"] for path in report["found"]}
    wanted = {path for path in life.all_paths() if fnmatchcase(path.rpartition("/")[2], pattern)}
    if "--deleted" in options:
        wanted -= life.names.keys()
    assert found == {path: life.stretches(path) for path in wanted}
    return report["found"]


def assert_logged(volume: object, life: Life) -> None:
    rounds = done("log", volume)["rounds"][::-1]
    assert [found["snapshot"]["sequence"] for found in rounds] == [was.sequence for was in life.was]
    for found, wanted in zip(rounds, life.counts(), strict=True):
        told = found["changes"]
        assert (told["created"], told["deleted"]) == (wanted["created"], wanted["deleted"])
        assert wanted["renamed"] <= told["renamed"] <= wanted["linked"]


def assert_lives(volume: Path, life: Life, how_many: int) -> None:
    """The lives of some paths, whatever became of them; what is gone comes back by the line that is told."""
    paths = sorted(life.all_paths())
    for path in life.rng.sample(paths, min(how_many, len(paths))):
        inos = {was.names[path] for was in life.was if path in was.names}
        report = done("log", volume, path)
        told = [(event["snapshot"]["sequence"], event["what"]) for event in report["events"]]
        wanted = [event for ino in inos for event in life.life_of(ino)]
        assert sorted(event for event in told if event[1] != "touched") == sorted(wanted), path
        if len(inos) == 1 and report["restore"] is not None:
            assert_comes_back(volume, life, inos.pop(), report["restore"])


def assert_comes_back(volume: Path, life: Life, ino: int, restore: dict[str, Any]) -> None:
    snapshot = restore["snapshot"]
    was = next(was for was in life.was if was.sequence == snapshot["sequence"])
    assert restore["path"] in was.paths(ino)
    if ino in was.content:
        there = volume.parent / f"restored-{ino}"
        done("restore", f"{volume}@{snapshot['name']}", restore["path"], "--to", there)
        assert (there / restore["path"]).read_bytes() == was.content[ino]
        shutil.rmtree(there)


def assert_dataset(volume: Path, life: Life) -> None:
    """The manifests as one dataset have a row for each inode that came or went."""
    table = snapsync.Volume(volume).history().to_table(columns=["sequence", "change"])
    for was, wanted in zip(life.was, life.counts(), strict=True):
        changes = table.filter(pc.equal(table["sequence"], was.sequence))["change"].combine_chunks()
        for kind in ("created", "deleted"):
            assert pc.sum(changes.field(kind)).as_py() == wanted[kind], (was.sequence, kind)


def assert_page(volume: Path, life: Life) -> None:
    """The figures of the page: its rounds, and what the tree holds now."""
    [figures] = done("report", volume)["volumes"]
    told = [(found["sequence"], found["created"], found["deleted"]) for found in figures["rounds"]]
    wanted = zip(life.was, life.counts(), strict=True)
    assert told == [(was.sequence, counts["created"], counts["deleted"]) for was, counts in wanted]
    root = next(found for found in figures["directories"] if found["path"] == ".")
    assert root["entries"] == len(set(life.was[-1].names.values())) + 1
    assert root["bytes"] == sum(map(len, life.was[-1].content.values()))


@pytest.mark.parametrize(
    ("kinds", "files", "rounds"),
    [
        (("btrfs", "xfs"), MANY, 50),
        (("xfs", "btrfs"), 400, 16),
        (("ext4", "xfs"), 400, 16),
        (("xfs", "ext4"), 400, 16),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_history_agrees_with_what_was_done(
    place: Place, kinds: tuple[str, str], files: int, rounds: int
) -> None:
    pair = Pair.make(place, kinds)
    life = Life(pair.source, random.Random(f"{kinds}"))
    life.begin(files)
    pair.sync()
    taken(pair.source, life)
    for number in range(1, rounds):
        life.change(max(files // 400, 12))
        pair.sync()
        taken(pair.source, life)
        if number % 10 == 9:
            for side in (pair.source, pair.target):
                done("prune", side, "--keep-last", "4")
    for side in (pair.source, pair.target):
        assert_logged(side, life)
        for pattern in ("*", "n*.odt", "f1*.txt", "nothing"):
            assert_found(side, life, pattern)
        assert_found(side, life, "*.odt", "--deleted")
        assert_lives(side, life, 12)
        assert_dataset(side, life)
        assert_page(side, life)


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_snapshots_that_no_round_took_are_in_the_history_also_when_they_are_gone(
    place: Place, kind: str
) -> None:
    volume = place(kind)
    life = Life(volume, random.Random(kind))
    life.begin(60)
    for _ in range(8):
        done("snapshot", volume)
        taken(volume, life)
        life.change(10)
    for gone in (0, 3, 4, 6):
        done("delete", f"{volume}@{life.was[gone].sequence}")
    assert_logged(volume, life)
    assert_found(volume, life, "*")
    assert [found["snapshot"]["exists"] for found in done("log", volume)["rounds"][::-1]] == [
        at not in (0, 3, 4, 6) for at in range(8)
    ]


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_damaged_manifest_is_named_and_made_again_where_that_can_be(place: Place, kind: str) -> None:
    volume = place(kind)
    for number in range(4):
        (volume / f"{number}").write_text("x" * number)
        done("snapshot", volume, "--name", f"s{number}")
    done("log", volume)
    wanted = done("find", volume, "*")
    for kept in (store(volume) / "history").iterdir():
        damage(kept)
    again = done("find", volume, "*")
    assert again["found"] == wanted["found"]
    assert any("damaged" in note for note in again["notes"])
    assert not done("find", volume, "*")["notes"]
    done("delete", f"{volume}@s1")
    ids = {found["name"]: found["id"] for found in snapshots(volume)}
    for kept in (store(volume) / "history").iterdir():
        if ids["s2"] in kept.name:
            damage(kept)
    told = done("find", volume, "*")
    assert any("damaged" in note for note in told["notes"])
    rounds = done("log", volume)["rounds"]
    assert [found["snapshot"]["name"] for found in rounds] != []


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_pattern_that_matches_nothing_says_how_many_snapshots_were_searched(place: Place) -> None:
    volume = place("xfs")
    for _ in range(3):
        done("snapshot", volume)
    ran = run("find", volume, "*.nothing")
    assert (ran.code, ran.out) == (0, "")
    assert "0 paths in 3 snapshots" in ran.err
    assert json.loads(run("find", volume, "*.nothing", "--json").out)["found"] == []


def test_what_never_was_and_what_is_no_date_is_refused(place: Place) -> None:
    volume = place("xfs")
    done("snapshot", volume, "--name", "first")
    assert_told(run("log", volume, "never/was", "--quiet"), "nothing ever was")
    assert_told(run("log", volume, "../x", "--quiet"), "no path in")
    assert_told(run("log", volume, "--until", "2001-01-01", "--quiet"), "first")
    assert_told(run("log", volume, "--since", "soon", "--quiet"), "no date")
    assert_told(run("find", volume, "a[", "--quiet"), "pattern")
    assert_told(run("find", volume, "*", "--type", "z", "--quiet"), "type")


def test_the_life_of_a_file_goes_on_when_its_volume_is_promoted_and_comes_back(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "btrfs"))
    (pair.source / "d").mkdir()
    (pair.source / "d/file").write_text("one")
    pair.sync()
    done("promote", pair.target)
    (pair.target / "d").rename(pair.target / "e")
    done("rejoin", pair.source, pair.target)
    (pair.target / "e/file").rename(pair.target / "e/last")
    done("sync", pair.target, pair.source)
    for volume in (pair.source, pair.target):
        events = done("log", volume, "d/file")["events"]
        told = [event["what"] for event in events if event["what"] != "touched"]
        assert told == ["renamed", "moved", "created"], volume
        assert [path["path"] for path in done("find", volume, "file")["found"]] == ["d/file", "e/file"]


def clock_before(days: int) -> dict[str, str]:
    """The environment of a command that takes this day for one before."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        missing("faketime")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"-{days}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def let_files_age(volume: Path) -> None:
    """The clock of a command is not that of files."""
    for kept in (store(volume) / "history").iterdir():
        os.utime(kept, (0, 0))


def test_history_that_is_too_old_becomes_one_manifest_of_what_there_was(place: Place) -> None:
    """As if 500 days had gone by after 80 snapshots of 90, by the times in their manifests."""
    volume = place("xfs")
    life = Life(volume, random.Random("old"))
    life.begin(60)
    (volume / "link").symlink_to("anywhere")
    life.names["link"], life.content[-1] = -1, b""
    for number in range(90):
        done("snapshot", volume, "--name", f"s{number}", env=clock_before(500 if number < 80 else 0))
        taken(volume, life)
        life.change(4)
    before = {path["path"]: path for path in done("find", volume, "*")["found"]}
    let_files_age(volume)
    done("prune", volume, "--keep-last", "5")
    assert status(volume)["manifests"] == 11
    rounds = done("log", volume)["rounds"]
    assert [found["snapshot"]["name"] for found in rounds] == [f"s{number}" for number in range(89, 78, -1)]
    assert rounds[-1]["first"]
    for path in done("find", volume, "*")["found"]:
        was = before.pop(path["path"])
        first = max(was["first"]["sequence"], 79)
        told = (path["first"]["sequence"], path["last"]["sequence"])
        assert told == (first, was["last"]["sequence"]), path
        assert (path["kind"], path["size"], path["mtime"]) == (was["kind"], was["size"], was["mtime"])
    assert all(path["last"]["sequence"] < 79 for path in before.values())


def test_a_log_has_the_history_of_its_primary_also_of_what_was_pruned(place: Place) -> None:
    volume, log = place("btrfs"), f"file://{place('xfs')}/log"
    life = Life(volume, random.Random("log"))
    life.begin(200)
    done("init", log)
    for number in range(20):
        done("sync", volume, log)
        taken(volume, life)
        if number < 19:
            life.change(10)
        if number in (9, 15):
            done("prune", log, "--keep-last", "3")
    for place_ in (volume, log):
        assert_logged(place_, life)
        assert_found(place_, life, "*")
        assert_found(place_, life, "*.odt", "--deleted")
    paths = sorted(life.all_paths())
    for path in life.rng.sample(paths, 10):
        ours, theirs = (done("log", place_, path)["events"] for place_ in (volume, log))
        assert [(e["snapshot"]["id"], e["what"]) for e in ours] == [
            (e["snapshot"]["id"], e["what"]) for e in theirs
        ]


def test_python_has_log_and_find_on_volumes(place: Place) -> None:
    volume = snapsync.Volume(place("xfs"))
    (volume.path / "a.txt").write_text("a")
    volume.snapshot(name="one")
    (volume.path / "a.txt").rename(volume.path / "b.txt")
    volume.snapshot(name="two")
    assert [found.snapshot.name for found in volume.log().rounds] == ["two", "one"]
    assert [event.what for event in volume.log_of("b.txt").events] == ["renamed", "created"]
    assert [found.path for found in volume.find("*.txt", deleted=True).found] == ["a.txt"]
    assert [found.path for found in volume.find("*", type="f", larger=0).found] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_primary_without_a_history_of_its_own_tells_what_changed(place: Place, kind: str) -> None:
    """Of two standbys, so that no round has all that changed since the snapshot before its own."""
    volume = place(kind)
    (volume / "plan.odt").write_bytes(b"1" * 100_000)
    (volume / "kept").write_bytes(b"k" * 100_000)
    targets = [place("xfs") / "standby", place("btrfs") / "standby"]
    for turn in range(3):
        for target in targets:
            done("sync", volume, target, "--history", "light")
        (volume / "plan.odt").write_bytes(bytes([turn]) * (120_000 + turn))
    (volume / "plan.odt").unlink()
    done("sync", volume, targets[0])
    found = done("find", volume, "*")["found"]
    assert [(path["path"], path["deleted"]) for path in found] == [("kept", False), ("plan.odt", True)]
    events = done("log", volume, "plan.odt")["events"]
    assert [event["what"] for event in events] == ["deleted", "changed", "changed", "created"]
    rounds = done("log", volume)["rounds"]
    assert [found["data_bytes"] for found in rounds] == [0, 0, 120_001, 0, 120_000, 0, 200_000]


def test_what_find_shows_fits_its_last_snapshot_and_says_how_to_go_on(place: Place) -> None:
    volume = place("xfs")
    (volume / "2026").mkdir()
    (volume / "2026/plan.odt").touch()
    for name in ("a", "b", "c"):
        done("snapshot", volume, "--name", name)
        if name == "b":
            (volume / "2026/plan.odt").unlink()
            (volume / "2026").rename(volume / "old")
    ran = run("find", volume, "*plan*")
    assert re.search(r"  a +b +deleted$", ran.out.splitlines()[1])
    assert f"snapsync log {volume} PATH" in ran.err
    assert "snapsync log" not in run("find", volume, "old").err
    done("delete", f"{volume}@b")
    assert re.search(r"  a +b +deleted; a has it$", run("find", volume, "*plan*").out.splitlines()[1])
    done("delete", f"{volume}@a")
    assert run("find", volume, "*plan*").out.splitlines()[1].endswith("deleted, and its snapshots are gone")
    ran = run("log", volume, "2026/plan.odt")
    assert ran.out.splitlines()[-1].endswith(f"`snapsync status {volume}` names them")
    assert_told(run("log", volume, "old/plan.odt"), f"snapsync find {volume} 'plan.odt'")
