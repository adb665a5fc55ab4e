"""A primary that was wiped or encrypted does not walk through its standbys, and honest work does."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from configured import Jobs
from machine import Pair, Place, assert_told, done, run, snapshots
from oracle import assert_same, freeze, same
from remote import HOST, Server

from snapsync.declare import options
from snapsync.options_of_changes import GuardOptions

LIMITS = ("--guard-deleted", "25%", "--guard-changed", "60%", "--guard-shrink", "50%")
FILES = 400
pairs = pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "ext4"), ("ext4", "btrfs")], ids="-".join)


def lay_out(root: Path) -> None:
    for number in range(FILES):
        directory = root / f"team-{number % 4}" / "papers"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}").write_bytes(os.urandom(1000))


def wipe(root: Path) -> None:
    for entry in root.iterdir():
        if entry.name != ".snapsync":
            shutil.rmtree(entry)


def encrypt(root: Path) -> None:
    for file in (file for file in root.glob("team-*/papers/*") if file.is_file()):
        file.write_bytes(os.urandom(1000))


def encrypt_under_new_names(root: Path) -> None:
    for file in list(root.glob("team-*/papers/*")):
        (file.parent / f"{file.name}.locked").write_bytes(os.urandom(1000))
        file.unlink()


def empty(root: Path) -> None:
    """Files stay, fewer than may change, and most of the bytes are gone."""
    for file in list(root.glob("team-[01]/papers/*")):
        file.write_bytes(b"")
    (root / "team-2/papers/2").write_bytes(b"")


def ids(volume: Path) -> list[str]:
    return [snapshot["id"] for snapshot in snapshots(volume)]


DISASTERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "wiped": (wipe, "deleted"),
    "encrypted": (encrypt, "written anew"),
    "encrypted-elsewhere": (encrypt_under_new_names, "deleted"),
    "emptied": (empty, "gone"),
}


@pytest.mark.parametrize("disaster", DISASTERS)
@pairs
def test_a_disaster_stays_on_the_primary_until_it_is_accepted(
    disaster: str, kinds: tuple[str, str], place: Place
) -> None:
    pair = Pair.make(place, kinds)
    lay_out(pair.source)
    pair.sync()
    before, known = freeze(pair.target), ids(pair.source)
    happens, word = DISASTERS[disaster]
    happens(pair.source)
    ran = run("sync", pair.source, pair.target, *LIMITS, "--quiet")
    assert_told(ran, word, "%", "--accept-changes", codes=(3,))
    assert "team-" in ran.err
    assert same(freeze(pair.target), before)
    assert ids(pair.source) == known == ids(pair.target)
    pair.sync(*LIMITS, "--accept-changes")


def encrypt_by_renaming(root: Path) -> None:
    for file in list(root.glob("team-*/papers/*")):
        (root / "new").write_bytes(os.urandom(1000))
        (root / "new").rename(file)


@pairs
def test_a_file_that_is_replaced_counts_as_written_anew(kinds: tuple[str, str], place: Place) -> None:
    pair = Pair.make(place, kinds)
    lay_out(pair.source)
    pair.sync()
    encrypt_by_renaming(pair.source)
    ran = run("sync", pair.source, pair.target, *LIMITS, "--quiet")
    assert_told(ran, "400 of 409 entries (97%) would be written anew", codes=(3,))
    pair.sync("--guard-deleted", "0%")


@pairs
def test_honest_work_is_let_through(kinds: tuple[str, str], place: Place) -> None:
    pair = Pair.make(place, kinds)
    lay_out(pair.source)
    pair.sync(*LIMITS)
    (pair.source / "everything").mkdir()
    for number in range(4):
        (pair.source / f"team-{number}").rename(pair.source / "everything" / f"group-{number}")
    pair.sync(*LIMITS)
    for file in pair.source.glob("everything/*/papers/*"):
        os.chmod(file, 0o600)
    pair.sync(*LIMITS)
    for file in list(pair.source.glob("everything/*/papers/*"))[: FILES // 5]:
        file.unlink()
    pair.sync(*LIMITS)


def test_small_trees_have_no_limits_unless_somebody_sets_them(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    lay_out(pair.source)
    pair.sync()
    wipe(pair.source)
    pair.sync()


def test_large_trees_have_limits_of_their_own(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    for number in range(13_000):
        directory = pair.source / f"{number % 10}"
        directory.mkdir(exist_ok=True)
        (directory / f"{number}").touch()
    done("sync", pair.source, pair.target)
    shutil.rmtree(pair.source / "3")
    shutil.rmtree(pair.source / "4")
    done("sync", pair.source, pair.target)
    for number in (5, 6, 7):
        shutil.rmtree(pair.source / f"{number}")
    ran = run("sync", pair.source, pair.target, "--quiet")
    assert_told(ran, "3903 of 10409 entries (37%) would be deleted", "25%", codes=(3,))
    done("sync", pair.source, pair.target, "--guard-deleted", "off")
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("pull", [False, True], ids=["pushed", "pulled"])
def test_the_other_machine_is_guarded_too(pull: bool, server: Server, place: Place) -> None:
    client = server.client()
    pair = Pair.make(place, ("xfs", "btrfs"))
    lay_out(pair.source)
    ends = (f"{HOST}:{pair.source}", pair.target) if pull else (pair.source, f"{HOST}:{pair.target}")
    done("sync", *ends, *client.options)
    wipe(pair.source)
    before = freeze(pair.target)
    ran = run("sync", *ends, *client.options, *LIMITS, "--quiet")
    assert ran.code == 3, ran
    assert "--accept-changes" in ran.err
    assert same(freeze(pair.target), before)
    done("sync", *ends, *client.options, *LIMITS, "--accept-changes")
    assert_same(pair.source, pair.target)


# A primary that was never told of guards: they are blanked out of what it is asked.
FORGETFUL = """
import os, re, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
while data := os.read(0, 1 << 16):
    blank = lambda found: b'"guard":null'.ljust(len(found[0]))
    child.stdin.write(re.sub(rb'"guard":\\{[^}]*\\}', blank, data))
    child.stdin.flush()
child.stdin.close()
sys.exit(child.wait())
"""


def test_a_standby_that_pulls_is_guarded_from_a_primary_that_knows_no_guards(
    server: Server, place: Place, tmp_path: Path
) -> None:
    client = server.client()
    pair = Pair.make(place, ("xfs", "btrfs"))
    lay_out(pair.source)
    proxy = tmp_path / "proxy.py"
    proxy.write_text(FORGETFUL)
    words = [str(word) for word in client.options]
    at = words.index("--remote-path") + 1
    words[at] = f"{sys.executable} {proxy} {words[at]}"
    ends = (f"{HOST}:{pair.source}", pair.target)
    done("sync", *ends, *words, *LIMITS)
    wipe(pair.source)
    before, known = freeze(pair.target), ids(pair.target)
    ran = run("sync", *ends, *words, *LIMITS, "--quiet")
    # The other end may have said so as well before it was gone.
    assert ran.code == 3, ran
    assert "would be deleted" in ran.err
    assert "--accept-changes" in ran.err
    assert same(freeze(pair.target), before)
    assert ids(pair.target) == known == ids(pair.source)
    done("sync", *ends, *words, *LIMITS, "--accept-changes")
    assert_same(pair.source, pair.target)


def test_a_log_and_who_follows_it_are_guarded(place: Place, tmp_path: Path) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    log = f"file://{tmp_path}/log"
    lay_out(pair.source)
    done("sync", pair.source, log)
    done("sync", log, pair.target)
    wipe(pair.source)
    assert_told(run("sync", pair.source, log, *LIMITS, "--quiet"), "deleted", "--accept-changes", codes=(3,))
    done("sync", log, pair.target)
    done("sync", pair.source, log, *LIMITS, "--accept-changes")
    before = freeze(pair.target)
    assert_told(run("sync", log, pair.target, *LIMITS, "--quiet"), "deleted", "--accept-changes", codes=(3,))
    assert same(freeze(pair.target), before)
    done("sync", log, pair.target, *LIMITS, "--accept-changes")
    assert_same(pair.source, pair.target)


def test_a_job_is_guarded_by_its_table(place: Place, tmp_path: Path) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    lay_out(pair.source)
    jobs = Jobs(tmp_path)
    jobs.add("papers", pair.source, pair.target)
    jobs.write(f'[defaults]\nguard = {{ deleted = "10%", shrink = "off" }}\n{jobs.text}')
    assert jobs.run("papers").code == 0
    shutil.rmtree(pair.source / "team-3")
    ran = jobs.run("papers")
    assert ran.code == 3, ran
    assert "10%" in ran.err


@pytest.mark.parametrize("share", ["-1", "101", "many", "25,5", "\u0665"])
@pytest.mark.parametrize("name", [n for n in options(GuardOptions) if n.startswith("guard_")])
def test_a_share_that_is_none_is_refused(name: str, share: str, tmp_path: Path) -> None:
    option = f"--{name.replace('_', '-')}={share}"
    assert run("sync", tmp_path / "a", tmp_path / "b", option).code == 2


@pytest.mark.parametrize(
    "table", ['{ deleted = "many" }', '{ erased = "5%" }', '"25%"', "{ deleted = true }"]
)
def test_a_table_of_guards_that_makes_no_sense_is_refused_with_its_place(table: str, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    jobs.add("one", Path("/a"), Path("/b"), f"guard = {table}")
    assert "[job.one] guard" in jobs.run().err


@pairs
def test_a_refused_round_leaves_the_way_to_the_next_honest_one(kinds: tuple[str, str], place: Place) -> None:
    pair = Pair.make(place, kinds)
    lay_out(pair.source)
    pair.sync()
    papers = pair.source.glob("team-*/papers/*")
    good = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in papers}
    encrypt(pair.source)
    assert run("sync", pair.source, pair.target, *LIMITS, "--quiet").code == 3
    for file, (data, mtime) in good.items():
        file.write_bytes(data)
        os.utime(file, ns=(mtime, mtime))
    (pair.source / "honest").write_text("work")
    pair.sync(*LIMITS)
    assert ids(pair.source) == ids(pair.target)
