"""Part of a volume is replicated: what patterns leave out never reaches the standby."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import worlds
from machine import (
    Pair,
    Place,
    assert_told,
    capless,
    done,
    need,
    run,
    sh,
    snapshots,
    status,
    store,
    subvolume,
    verified,
)
from oracle import Picture, assert_same, freeze, touch_marks

import snapsync

MIXED = [("btrfs", "xfs"), ("xfs", "ext4"), ("ext4", "btrfs")]
all_kinds = pytest.mark.parametrize("kinds", MIXED, ids="-".join)


def part(picture: Picture, keep: Iterable[bytes]) -> Picture:
    """What a tree holds that has only those of the paths, each name judged by itself."""
    keep = {b".", *keep}
    groups = frozenset(group & keep for group in picture.groups)
    links = {path: len(group) for group in groups for path in group}
    grouped = {path for group in picture.groups for path in group}
    entries = {
        path: replace(entry, links=links[path]) if path in grouped else entry
        for path, entry in picture.entries.items()
        if path in keep
    }
    assert entries.keys() == keep, "the test expects paths that are not there"
    return Picture(picture.file_system, entries, frozenset(g for g in groups if len(g) > 1))


def assert_replicated(pair: Pair, keep: Iterable[str | bytes]) -> None:
    """The standby holds those paths of the primary and no others; `verify` says so too."""
    paths = [os.fsencode(path) for path in keep]
    assert_same(part(freeze(pair.source), paths), pair.target)
    verified(pair.source, pair.target)
    verified(f"{pair.source}@latest", f"{pair.target}@latest")
    verified(f"{pair.target}@latest", pair.target)


def sync(pair: Pair, *options: object) -> dict[str, Any]:
    return done("sync", pair.source, pair.target, *options)


def write(path: Path, size: int, seed: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    worlds.fill(path, 0, size, seed)


def patterns(volume: Path) -> tuple[list[str], list[str]]:
    found = status(volume)["volume"]["subset"]
    return found["exclude"], found["include"]


def refused(pair: Pair, *options: object, word: str, code: int) -> None:
    """The round is refused with that word in its message, and changes nothing on either side."""
    before = [(touch_marks(side), stored(side)) for side in (pair.source, pair.target)]
    ran = run("sync", pair.source, pair.target, "--quiet", *options)
    assert (ran.code, ran.out) == (code, "")
    assert word in ran.err
    assert "Traceback" not in ran.err
    assert [(touch_marks(side), stored(side)) for side in (pair.source, pair.target)] == before


def stored(volume: Path) -> object:
    """What a volume's store says of it, its counters aside."""
    file = store(volume) / "volume.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    held = [path.name for path in (store(volume) / "snapshots").iterdir()] if record else []
    return {k: v for k, v in record.items() if not k.startswith("next_")}, sorted(held)


# --- what is replicated -----------------------------------------------------------------------


FILES = """
    a.txt b.tmp build cache/e cache/keep/f cache/keep/g.tmp docs/a.tmp docs/build/h docs/c.txt docs/cache/d
    docs/top/j src/x/y/z.o src/x/z.c top/i
"""


@pytest.fixture
def tree(pair: Pair) -> Pair:
    """A tree with something for each sort of pattern."""
    for path in FILES.split():
        write(pair.source / path, 5_000, len(path))
    (pair.source / "link.tmp").symlink_to("a.txt")
    (pair.source / "link").symlink_to("b.tmp")
    (pair.source / "empty").mkdir()
    os.mkfifo(pair.source / "fifo.tmp")
    return pair


OPTIONS = (
    *("--exclude", "*.tmp", "--exclude", "/cache/*", "--exclude", "build/", "--exclude", "/top"),
    *("--exclude", "src/**/*.o", "--include", "/cache/keep", "--include", "docs/a.tmp"),
)
KEPT_FILES = [
    "a.txt",
    "build",
    "cache/keep/f",
    "docs/a.tmp",
    "docs/c.txt",
    "docs/cache/d",
    "docs/top/j",
    "src/x/z.c",
]
KEPT_FOLDERS = ["cache", "cache/keep", "docs", "docs/cache", "docs/top", "empty", "src", "src/x", "src/x/y"]
KEPT = [*KEPT_FILES, *KEPT_FOLDERS, "link"]


@all_kinds
def test_only_the_subset_is_replicated_and_patterns_are_kept(tree: Pair) -> None:
    first = sync(tree, *OPTIONS)
    assert first["tree_entries"] == len(KEPT) + 1
    assert first["data_bytes"] == 5_000 * len(KEPT_FILES)
    assert_replicated(tree, KEPT)
    write(tree.source / "new/k.tmp", 9_000)
    write(tree.source / "new/l", 9_000)
    write(tree.source / "cache/e", 9_000, 7)
    second = sync(tree)
    assert second["data_bytes"] == 9_000
    assert_replicated(tree, [*KEPT, "new", "new/l"])
    write(tree.source / "cache/e", 9_000, 8)
    assert sync(tree)["unchanged"]
    want = (["*.tmp", "/cache/*", "build/", "/top", "src/**/*.o"], ["/cache/keep", "docs/a.tmp"])
    for side in (tree.source, tree.target):
        assert patterns(side) == want
        assert [(s["subset"]["exclude"], s["subset"]["include"]) for s in snapshots(side)] == [want] * 3


@all_kinds
def test_a_snapshot_of_its_own_takes_the_subset_of_the_volume(tree: Pair) -> None:
    sync(tree, *OPTIONS)
    write(tree.source / "more.tmp", 100)
    write(tree.source / "more", 100)
    done("snapshot", tree.source, "--name", "mine")
    report = done("diff", f"{tree.source}@0", f"{tree.source}@mine")
    assert report["changes"]["created"] == 1
    assert done("diff", f"{tree.source}@mine", tree.source)["changes"]["rows"] == 0
    verified(f"{tree.source}@mine", tree.source)
    sync(tree)
    assert_replicated(tree, [*KEPT, "more"])


def test_patterns_leave_out_neither_the_root_nor_let_the_store_in(tree: Pair) -> None:
    sync(tree, "--exclude", "*", "--exclude", "/**")
    assert_replicated(tree, [])
    sync(tree, "--exclude", "/*", "--include", "/.snapsync", "--include", "/build")
    assert_replicated(tree, ["build"])
    assert status(tree.target)["snapshots"] == 2


def test_names_that_are_not_text_are_left_out_by_what_matches_them(pair: Pair) -> None:
    for name in (b"\xff.tmp", b"\xff", b"a\nb.tmp", b"{x,y}", b"x"):
        worlds.fill(os.fsencode(pair.source) + b"/" + name, 0, 10, 1)
    sync(pair, "--exclude", "*.tmp", "--exclude", "{x,y}")
    assert_replicated(pair, [b"\xff", b"x"])


def test_what_is_left_out_is_never_opened(place: Place) -> None:
    """A directory that may not be read stops a round, unless it is left out."""
    pair = Pair.make(place, ("xfs", "xfs"))
    write(pair.source / "file", 10)
    write(pair.source / "secret/file", 10)
    os.chmod(pair.source / "secret", 0)
    assert run("sync", pair.source, pair.target, wrap=capless()).code == 1
    done("sync", pair.source, pair.target, "--exclude", "/secret", wrap=capless())
    os.chmod(pair.source / "secret", 0o700)
    assert_replicated(pair, ["file"])


def test_a_nested_subvolume_that_is_left_out_is_not_spoken_of(pair: Pair) -> None:
    subvolume(pair.source / "nested")
    assert sync(pair)["notes"]
    sync(pair, "--exclude", "/nested")
    assert not sync(pair)["notes"]


# --- coming and going -------------------------------------------------------------------------


@all_kinds
def test_renames_in_and_out_are_creations_and_deletions(pair: Pair) -> None:
    for path in ("in/a", "in/d/b", "in/d/e/c", "out/f", "out/g/h", "out/g/i/j"):
        write(pair.source / path, 8_192, len(path))
    sync(pair, "--exclude", "/out")
    before = ["in", "in/a", "in/d", "in/d/b", "in/d/e", "in/d/e/c"]
    assert_replicated(pair, before)
    (pair.source / "in/a").rename(pair.source / "out/a")
    (pair.source / "in/d").rename(pair.source / "out/d")
    (pair.source / "out/f").rename(pair.source / "in/f")
    (pair.source / "out/g").rename(pair.source / "in/g")
    report = sync(pair)
    changes = report["changes"]
    assert (changes["created"], changes["deleted"], changes["renamed"]) == (5, 5, 0)
    assert report["data_bytes"] == 3 * 8_192
    assert_replicated(pair, ["in", "in/f", "in/g", "in/g/h", "in/g/i", "in/g/i/j"])
    (pair.source / "in/g").rename(pair.source / "g")
    report = sync(pair)
    assert (report["changes"]["renamed"], report["data_bytes"]) == (1, 0)
    assert_replicated(pair, ["in", "in/f", "g", "g/h", "g/i", "g/i/j"])


@all_kinds
def test_a_directory_that_takes_a_pattern_with_it_takes_what_is_left_out(pair: Pair) -> None:
    """Below another name, the pattern matches nothing."""
    write(pair.source / "a/tmp/x", 8_192)
    write(pair.source / "a/y", 8_192, 2)
    sync(pair, "--exclude", "/a/tmp")
    assert_replicated(pair, ["a", "a/y"])
    (pair.source / "a").rename(pair.source / "b")
    report = sync(pair)
    assert (report["changes"]["renamed"], report["data_bytes"]) == (1, 8_192)
    assert_replicated(pair, ["b", "b/y", "b/tmp", "b/tmp/x"])
    (pair.source / "b").rename(pair.source / "a")
    assert sync(pair)["data_bytes"] == 0
    assert_replicated(pair, ["a", "a/y"])


@all_kinds
def test_of_hard_links_each_name_is_judged_by_itself(pair: Pair) -> None:
    source = pair.source
    write(source / "one", 8_192)
    write(source / "out/alone", 8_192, 2)
    os.link(source / "one", source / "two")
    os.link(source / "one", source / "out/one")
    os.link(source / "out/alone", source / "out/alone-too")
    sync(pair, "--exclude", "/out")
    assert_replicated(pair, ["one", "two"])
    os.link(source / "out/alone", source / "three")
    (source / "two").rename(source / "out/two")
    report = sync(pair)
    assert report["data_bytes"] == 8_192
    assert_replicated(pair, ["one", "three"])
    (source / "one").rename(source / "out/uno")
    (source / "out/two").rename(source / "dos")
    report = sync(pair)
    assert (report["data_bytes"], report["changes"]["renamed"]) == (0, 1)
    assert_replicated(pair, ["dos", "three"])
    assert sync(pair, "--everything")["data_bytes"] == 0
    assert_same(source, pair.target)


@all_kinds
def test_changed_patterns_move_only_what_they_let_in(tree: Pair) -> None:
    write(tree.source / "large", 1 << 20)
    write(tree.source / "cache/large", 1 << 16)
    sync(tree, "--exclude", "/cache")
    all_paths = {path for path in freeze(tree.source).entries if path != b"."}
    cached = {path for path in all_paths if path.split(b"/")[0] == b"cache"}
    assert_replicated(tree, all_paths - cached)
    report = sync(tree, "--exclude", "/docs")
    assert report["data_bytes"] == (1 << 16) + 3 * 5_000
    documents = {path for path in all_paths if path.split(b"/")[0] == b"docs"}
    assert (report["changes"]["created"], report["changes"]["deleted"]) == (len(cached), len(documents))
    assert_replicated(tree, all_paths - documents)
    assert sync(tree, "--exclude", "docs/", "--exclude", "nothing")["unchanged"]
    assert patterns(tree.target) == (["docs/", "nothing"], [])
    report = sync(tree, "--everything")
    assert report["data_bytes"] == 5_000 * 5
    assert_same(tree.source, tree.target)
    assert patterns(tree.source) == patterns(tree.target) == ([], [])
    # Old snapshots are still of what they were of.
    for name in ("0", "1", "2", "3"):
        verified(f"{tree.source}@{name}", f"{tree.target}@{name}")
    assert run("verify", f"{tree.source}@0", f"{tree.target}@1").code == 4


def test_each_standby_follows_at_its_own_round(tree: Pair, place: Place) -> None:
    other = Pair(tree.source, place.absent("ext4"))
    sync(tree, "--exclude", "/cache")
    sync(other)
    sync(tree, "--exclude", "/docs")
    assert patterns(other.target) == (["/cache"], [])
    sync(other)
    assert patterns(other.target) == (["/docs"], [])
    assert_same(tree.target, other.target)
    assert not (other.target / "docs").exists()


@pytest.mark.parametrize("kinds", MIXED[1:], ids="-".join)
@pytest.mark.parametrize(
    "point",
    [
        "snapshot.table",
        "snapshot.recorded",
        "stage.done",
        "commit.detach",
        "commit.attached",
        "commit.applied",
    ],
)
def test_a_round_that_changes_patterns_can_be_killed_anywhere(tree: Pair, point: str) -> None:
    sync(tree, "--exclude", "/docs")
    change = ("--exclude", "/cache", "--exclude", "*.tmp")
    run("sync", tree.source, tree.target, *change, env={"SNAPSYNC_FAULT": f"{point}:1"})
    sync(tree, *change)
    keep = {path for path in freeze(tree.source).entries if path != b"."}
    keep = {path for path in keep if path.split(b"/")[0] != b"cache" and not path.endswith(b".tmp")}
    assert_replicated(tree, keep)
    assert patterns(tree.target) == (["/cache", "*.tmp"], [])


# --- what cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["a[", "[z-a]", "a\\", "", " ", "/", "!", "# a", "[[:alpha:]]", "\udcff"])
@pytest.mark.parametrize("option", ["--exclude", "--include"])
def test_a_bad_pattern_changes_nothing(tree: Pair, bad: str, option: str) -> None:
    if option == "--include" and bad.startswith("!"):
        bad = "!a"
    word = repr(bad) if "\udcff" in bad else json.dumps(bad)
    options = ("--exclude", "good", option, os.fsencode(bad).decode(errors="surrogateescape"))
    refused(tree, *options, word=word, code=2)
    assert not (tree.source / ".snapsync").exists()
    assert not tree.target.exists()
    sync(tree, "--exclude", "/docs")
    refused(tree, *options, word=word, code=2)
    assert patterns(tree.source) == (["/docs"], [])


def test_options_that_contradict_each_other_are_refused(tree: Pair) -> None:
    refused(tree, "--everything", "--exclude", "a", word="everything", code=2)
    refused(tree, "--include", "a", word="--exclude", code=2)


def test_a_failed_round_leaves_the_patterns_as_they_were(tree: Pair) -> None:
    sync(tree, "--exclude", "/docs")
    (tree.target / "a.txt").write_text("changed by hand")
    refused(tree, "--exclude", "a.txt", word="a.txt", code=3)
    assert patterns(tree.source) == (["/docs"], [])


def test_patterns_from_a_file_are_read_as_git_reads_them(tree: Pair, tmp_path: Path) -> None:
    file = tmp_path / "patterns"
    file.write_bytes(b"\xef\xbb\xbf# all of it\r\n/*\r\n\r\n!/docs  \r\n!/link\n\\#no\n")
    sync(tree, "--exclude-from", file, "--exclude", "top")
    keep = {path for path in freeze(tree.source).entries if path.split(b"/")[0] in (b"docs", b"link")}
    assert_replicated(tree, keep - {b"docs/top", b"docs/top/j"})
    assert patterns(tree.source)[0] == ["/*", "!/docs  ", "!/link", "\\#no", "top"]
    file.write_text("# nothing\n\n")
    refused(tree, "--exclude-from", file, word="--everything", code=2)
    refused(tree, "--exclude-from", tmp_path / "absent", word="absent", code=2)


def test_a_store_from_before_there_were_subsets_is_of_everything(tree: Pair) -> None:
    sync(tree)
    for side in (tree.source, tree.target):
        file = store(side) / "volume.json"
        record = json.loads(file.read_text())
        assert "subset" not in record
        file.write_text(json.dumps(record | {"format": 1}))
    assert patterns(tree.source) == ([], [])
    sync(tree, "--exclude", "/docs")
    assert json.loads((store(tree.target) / "volume.json").read_text())["format"] == 6


# --- unlisted entries of the standby -------------------------------------------------------------


@all_kinds
def test_what_somebody_makes_in_a_place_that_is_left_out_is_not_touched(tree: Pair) -> None:
    sync(tree, "--exclude", "cache/", "--exclude", "*.log")
    for path in ("cache/own", "docs/own.log", "own.log"):
        write(tree.target / path, 3_000)
    before = {path: (tree.target / path).stat() for path in ("cache/own", "docs/own.log", "own.log")}
    # The directories that hold them change too, and one of them is given another name.
    write(tree.source / "docs/new", 100)
    write(tree.source / "new", 100)
    (tree.source / "docs/c.txt").unlink()
    sync(tree)
    (tree.source / "docs").rename(tree.source / "papers")
    sync(tree)
    now = {path: tree.target / path.replace("docs", "papers") for path in before}
    for path, was in before.items():
        at = now[path].stat()
        assert (at.st_ino, at.st_mtime_ns, at.st_size) == (was.st_ino, was.st_mtime_ns, was.st_size)
    verified(tree.source, tree.target)
    verified(f"{tree.source}@latest", f"{tree.target}@latest")


@all_kinds
@pytest.mark.parametrize("let_in", [("--everything",), ("--exclude", "*.log")], ids=["all", "part"])
def test_what_a_standby_has_of_its_own_where_patterns_let_in_more_gives_way_or_stops_the_round(
    tree: Pair, place: Place, let_in: tuple[str, ...]
) -> None:
    """Two snapshots of one id are of one content, and what nobody else has is kept."""
    write(tree.source / "both.conf", 5000, seed=3)
    sync(tree, "--exclude", "*.log", "--exclude", "*.conf")
    own = ["both.conf", "own.conf", "docs/x.conf/within"]
    for path in own:
        write(tree.target / path, 4000, seed=len(path))
    write(tree.target / "still.log", 20, seed=8)
    content = [(tree.target / path).read_bytes() for path in own]
    before, primary = freeze(tree.target), freeze(tree.source)
    ran = run("sync", tree.source, tree.target, *let_in)
    assert ran.code == 3
    assert all(path in ran.err for path in ("both.conf", "own.conf", "docs/x.conf", "--discard-drift"))
    assert ("still.log" in ran.err) == (let_in == ("--everything",))
    assert_same(before, tree.target)
    told = sync(tree, *let_in, "--discard-drift", "--name", "wide")
    kept = next(snapshot["name"] for snapshot in snapshots(tree.target) if snapshot["name"][:6] == "drift-")
    assert any(kept in note and "own.conf" in note for note in told["notes"])
    verified(f"{tree.source}@wide", f"{tree.target}@wide")
    verified(tree.source, tree.target)
    if let_in == ("--everything",):
        assert_same(primary, tree.target)
    again = place.absent("xfs")
    done("restore", f"{tree.target}@{kept}", "--to", again)
    assert [(again / path).read_bytes() for path in own] == content
    sync(tree, "--check")


@all_kinds
def test_times_of_directories_are_the_primarys_once_nothing_is_left_out(tree: Pair) -> None:
    sync(tree, "--exclude", "*.conf")
    for path in ("x.conf", "docs/x.conf"):
        write(tree.target / path, 10)
        (tree.target / path).unlink()
    sync(tree, "--everything", "--name", "wide")
    assert_same(freeze(tree.source), tree.target)
    verified(f"{tree.source}@wide", f"{tree.target}@wide")
    sync(tree, "--check")


@all_kinds
@pytest.mark.parametrize("point", ["stage.done:1", "commit.marked:1", "commit.attach:1", "commit.snapshot:1"])
def test_times_of_directories_are_the_primarys_if_a_change_of_patterns_is_killed(
    tree: Pair, point: str
) -> None:
    sync(tree, "--exclude", "*.tmp")
    write(tree.target / "docs/x.tmp", 10)
    write(tree.source / "a.log", 50)
    words = ("sync", tree.source, tree.target, "--exclude", "x.tmp", "--exclude", "/a.log")
    killed = run(*words, env={"SNAPSYNC_FAULT": point})
    assert killed.code == -signal.SIGKILL, killed
    run("recover", tree.target)
    done(*words)
    assert (tree.source / "docs").stat().st_mtime_ns == (tree.target / "docs").stat().st_mtime_ns
    verified(tree.source, tree.target)
    verified(f"{tree.source}@latest", f"{tree.target}@latest")


@all_kinds
def test_a_protected_directory_whose_time_is_another_is_named_with_what_mends_it(tree: Pair) -> None:
    write(tree.source / "log/sub/file", 10)
    worlds.touch(tree.source / "log", 1_577_836_800_123_456_789)
    worlds.set_flags(tree.source / "log", worlds.APPEND_ONLY)
    sync(tree, "--exclude", "*.tmp")
    # What only the new patterns leave out has changed no time.
    sync(tree, "--exclude", "*.tmp", "--exclude", "log/*/")
    worlds.set_flags(tree.target / "log", 0, worlds.APPEND_ONLY)
    write(tree.target / "log/x.tmp", 10)
    worlds.set_flags(tree.target / "log", worlds.APPEND_ONLY)
    before, words = freeze(tree.target), ("sync", tree.source, tree.target, "--exclude", "x.tmp")
    ran = run(*words)
    assert_told(ran, str(tree.target / "log"), "append-only", codes=(3,))
    assert_same(before, tree.target)
    assert status(tree.target)["unfinished"] is None
    subprocess.run(["sh", "-ec", ran.err.split("`")[1]], check=True)
    done(*words)
    verified(tree.source, tree.target)
    verified(f"{tree.source}@latest", f"{tree.target}@latest")


@all_kinds
def test_patterns_that_let_in_and_leave_out_at_once_remove_nothing_that_a_standby_has(tree: Pair) -> None:
    write(tree.source / "a.log", 50)
    sync(tree, "--exclude", "*.conf")
    write(tree.target / "own.conf", 3000, seed=5)
    before = freeze(tree.target)
    ran = run("sync", tree.source, tree.target, "--exclude", "*.log", "--discard-drift")
    assert ran.code == 3
    assert "own.conf" in ran.err
    assert "leave out less" in ran.err
    assert_same(before, tree.target)
    (tree.target / "own.conf").unlink()
    sync(tree, "--exclude", "*.log", "--name", "other")
    verified(f"{tree.source}@other", f"{tree.target}@other")


@all_kinds
@pytest.mark.parametrize("options", [(), ("--exclude", "*.log")], ids=["all", "part"])
def test_a_deleted_directory_with_something_of_somebodys_in_it_is_refused(
    tree: Pair, options: Sequence[str]
) -> None:
    sync(tree, *options)
    mtime = (tree.target / "docs/cache").stat().st_mtime_ns
    write(tree.target / "docs/cache/own.log", 100)
    # As if nothing had happened: the entry itself has to be found.
    worlds.touch(tree.target / "docs/cache", mtime)
    shutil.rmtree(tree.source / "docs")
    refused(tree, word="docs/cache/own.log", code=3)
    (tree.target / "docs/cache/own.log").unlink()
    worlds.touch(tree.target / "docs/cache", mtime)
    sync(tree)
    assert not (tree.target / "docs").exists()


def test_a_directory_that_patterns_take_away_is_not_taken_with_what_is_somebodys(tree: Pair) -> None:
    sync(tree, "--exclude", "*.log")
    write(tree.target / "docs/own.log", 100)
    refused(tree, "--exclude", "/docs", word="docs/own.log", code=3)
    assert patterns(tree.source) == (["*.log"], [])


def test_what_comes_in_does_not_overwrite_what_is_somebodys(tree: Pair) -> None:
    sync(tree, "--exclude", "/docs")
    write(tree.target / "docs/a.tmp", 100)
    refused(tree, "--everything", word="docs (new)", code=3)


# --- against git --------------------------------------------------------------------------------


class Git:
    """Says what git leaves out: `git check-ignore` on a work tree that need not be a repository."""

    def __init__(self, home: Path) -> None:
        need("git")
        self.home = home / "git"
        sh("git", "init", "--quiet", "--bare", self.home)

    def kept(self, tree: Path, exclude: Sequence[str], include: Sequence[str]) -> set[bytes]:
        lines = [*exclude, *(f"!{pattern}" for pattern in include)]
        (self.home / "info").mkdir(exist_ok=True)
        (self.home / "info/exclude").write_text("".join(f"{line}\n" for line in lines))
        paths = {path for path in freeze(tree).entries if path != b"."}
        if not paths:
            return set()
        plain = ("-c", "core.bare=false", "-c", "core.excludesFile=/dev/null")
        place = (f"--git-dir={self.home}", f"--work-tree={tree}")
        ran = subprocess.run(
            ["git", *place, *plain, "check-ignore", "--no-index", "--stdin", "-z"],
            input=b"".join(path + b"\0" for path in paths),
            capture_output=True,
            cwd=tree,
        )
        assert ran.returncode in (0, 1), ran.stderr
        return paths - set(ran.stdout.split(b"\0"))


PARTS = ["a", "b", "ab", "a*", "*b", "?", "*", "**", "[!a]*"]
NAMES = ["a", "b", "ab", "a.b", "b.a", "A", "a b", "{a,b}", "a,b", "[a]", "-a", "é", "#a", "!a", "]", "a\\b"]
PIECES = ["a", "b", "*", "?", ".", "/", "**", "**/", "/**", "[ab]", "[!a]", "[^b.]", "[]a]", "[a-c]", "[.-0]",
          "{a,b}", "{", ",", "-", "é", "\\*", "\\[", "\\#", "[\\]]", " ", "\\ ", "#", "!"]  # fmt: skip


def random_pattern(dice: random.Random) -> str:
    """Mostly something that matches; now and then anything that can be understood."""
    if dice.random() < 0.5:
        text = "/".join(dice.choices(PARTS, k=dice.randint(1, 3)))
    else:
        text = "".join(dice.choices(PIECES, k=dice.randint(1, 5)))
    text = dice.choice(["", "", "/"]) + text.lstrip("#! /") + dice.choice(["", "", "", "/"])
    return text if text.strip(" /") else "a*"


def grow(dice: random.Random, root: Path, count: int) -> None:
    places = [root]
    for _ in range(count):
        path = dice.choice(places) / dice.choice(NAMES)
        if path.exists():
            continue
        if dice.random() < 0.4:
            path.mkdir()
            places.append(path)
        else:
            write(path, dice.choice([0, 10, 5_000]), dice.randrange(100))


def shuffle(dice: random.Random, root: Path) -> None:
    """Moves, links and removes a few entries."""
    for _ in range(4):
        paths = sorted(path for path in root.rglob("*") if ".snapsync" not in path.parts)
        if len(paths) < 5:
            return
        at, into = dice.choice(paths), dice.choice([root, *(path for path in paths if path.is_dir())])
        to = into / dice.choice(NAMES)
        if to.exists() or at == into or at in into.parents:
            continue
        if at.is_file() and dice.random() < 0.3:
            os.link(at, to)
        elif dice.random() < 0.7:
            at.rename(to)
        elif at.is_file():
            at.unlink()


@all_kinds
@pytest.mark.parametrize("seed", range(3))
def test_patterns_mean_what_git_means_by_them_round_after_round(
    pair: Pair, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    git = Git(tmp_path)
    for _ in range(12):
        grow(dice, pair.source, 25)
        shuffle(dice, pair.source)
        exclude = [dice.choice(["", "", "!"]) + random_pattern(dice) for _ in range(dice.randint(1, 5))]
        include = [random_pattern(dice) for _ in range(dice.randint(0, 3))]
        print(f"seed {seed}: {exclude}, but {include}")
        snapsync.sync(pair.source, pair.target, exclude=exclude, include=include)
        keep = git.kept(pair.source, exclude, include)
        assert_same(part(freeze(pair.source), keep), pair.target)
        verified(f"{pair.source}@latest", f"{pair.target}@latest")


def test_the_python_interface_takes_and_tells_patterns(tree: Pair) -> None:
    report = snapsync.sync(tree.source, tree.target, exclude=["/docs", "*.tmp"], include=["b.tmp"])
    assert report.snapshot.subset == snapsync.Volume(tree.target).status().volume.subset
    assert report.snapshot.subset.exclude == ("/docs", "*.tmp")
    assert report.snapshot.subset.include == ("b.tmp",)
    assert not snapsync.sync(tree.source, tree.target, everything=True).snapshot.subset
    with pytest.raises(snapsync.UsageError) as caught:
        snapsync.sync(tree.source, tree.target, exclude=["a["])
    assert caught.value.exit_code == 2


def test_people_are_told_the_subset(tree: Pair) -> None:
    options = ("--exclude", "/docs", "--exclude", "*.tmp", "--include", "b.tmp")
    told = run("sync", tree.source, tree.target, *options)
    words = "all but /docs, *.tmp, with b.tmp"
    assert words in told.out + told.err
    for verb in ("status", "list"):
        assert words in run(verb, tree.target).out
    sync(tree, "--everything")
    assert "everything" in run("status", tree.source).out


def test_who_cannot_read_the_store_compares_all_of_the_tree(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    write(pair.source / "file", 10)
    pair.sync()
    os.chown(pair.target / ".snapsync", 65534, 65534)
    ran = run("verify", pair.source, pair.target, "--json", wrap=capless())
    assert ran.code == 0
    assert "cannot read the store" in ran.json["notes"][0]
