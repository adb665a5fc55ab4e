"""What is held is held exactly, what is not is told of every entry, and nobody gains a right meanwhile.

Both sides are looked at with `lsattr`, `xfs_io`, `stat` and `getfacl`, and not with the product's own code.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from machine import MIB, FileSystems, Pair, Place, done, need, run, sh
from onlooker import readers
from oracle import assert_same
from worlds import fill, set_acl, set_xattr

POOL_AND_BTRFS = [("btrfs", "ext4"), ("ext4", "btrfs"), ("xfs", "xfs")]


def losses(report: dict[str, Any]) -> dict[str, int]:
    return {loss["what"]: loss["count"] for loss in report["losses"]}


def differences(a: Path, b: Path) -> set[tuple[str, str]]:
    """Paths and what of them differs, by `verify`, which does not call them equal."""
    ran = run("verify", a, b, "--json")
    assert (ran.code == 0) == (not ran.json["differences"]) == ran.json["equal"], ran
    return {(one["path"], one["what"]) for one in ran.json["differences"]}


def refused_when_strict(source: Path, target: Path, *words: str) -> None:
    ran = run("sync", source, target, "--strict")
    assert ran.code == 3, ran
    for word in words:
        assert word in ran.err, ran.err


# --- flags, projects and hints ------------------------------------------------------------------


def lsattr(path: Path) -> str:
    return sh("lsattr", "-d", path).split()[0].replace("e", "").replace("I", "").replace("-", "")


def xfs_stat(path: Path) -> dict[str, str]:
    """What `xfs_io` tells beside size and times: XFS's flags but those it sets itself, project and hints."""
    lines = sh("xfs_io", "-r", "-c", "stat", path).splitlines()
    told = dict(line.split(" = ") for line in lines if line.startswith("fsxattr."))
    told["fsxattr.xflags"] = told["fsxattr.xflags"].split("[")[1].replace("X", "").replace("p", "")
    wanted = ("xflags", "projid", "extsize", "cowextsize")
    return {key: told[f"fsxattr.{key}"] for key in wanted}


LETTERS = ["s", "u", "S", "d", "A", "j", "t", "x", "c"]


@pytest.mark.parametrize("kinds", [("ext4", "ext4")], ids="-".join)
def test_every_flag_that_people_set_is_held(pair: Pair) -> None:
    need("chattr", "lsattr")
    source = pair.source
    for letter in LETTERS:
        fill(source / letter, 0, 5000, 1)
        (source / f"directory-{letter}").mkdir()
        subprocess.run(["chattr", f"+{letter}", source / letter], capture_output=True)
        subprocess.run(["chattr", f"+{letter}", source / f"directory-{letter}"], capture_output=True)
    (source / "top").mkdir()
    sh("chattr", "+TD", source / "top")
    assert lsattr(source / "s") == "s"
    assert lsattr(source / "top") == "DT"
    for round in range(3):
        assert not pair.sync("--strict")["losses"]
        for path in source.iterdir():
            if path.name != ".snapsync":
                assert lsattr(pair.target / path.name) == lsattr(path), (path.name, round)
        for letter in LETTERS[round::2]:
            subprocess.run(["chattr", f"-{letter}", source / letter], capture_output=True)
        sh("chattr", "-T" if round else "+t", source / ("top" if round else "d"))


@pytest.mark.parametrize("kinds", [("ext4", "xfs"), ("ext4", "btrfs")], ids="-".join)
def test_flags_that_the_target_lacks_are_told_of_every_entry_in_every_round(pair: Pair) -> None:
    need("chattr", "lsattr")
    for name in ("a", "b", "c"):
        fill(pair.source / name, 0, 100, 1)
        sh("chattr", "+su", pair.source / name)
    refused_when_strict(pair.source, pair.target, "inode flag s (3 entries)", "inode flag u (3 entries)")
    assert losses(done("sync", pair.source, pair.target)) == {"inode flag s": 3, "inode flag u": 3}
    assert differences(pair.source, pair.target) == {(name, "inode flags") for name in "abc"}
    fill(pair.source / "b", 0, 200, 2)
    assert losses(done("sync", pair.source, pair.target)) == {"inode flag s": 1, "inode flag u": 1}


def project_world(source: Path) -> None:
    """Directories of projects, with files of the same, of another and of none, and hints of all sorts."""
    need("xfs_io")
    for directory, project in (("one", 41), ("two", 42)):
        (source / directory / "deep").mkdir(parents=True)
        fill(source / directory / "file", 0, 9000, project)
        fill(source / directory / "of-none", 0, 90, project)
        os.link(source / directory / "file", source / directory / "deep" / "link")
        sh("xfs_io", "-c", f"chproj {project}", source / directory / "file")
        for path in (source / directory / "deep", source / directory):
            sh("xfs_io", "-c", f"chproj {project}", "-c", "chattr +P", path)
        # What came into it of another project, and what has none.
        (source / directory / "symlink").symlink_to("file")
    fill(source / "one" / "strange", 0, 10, 1)
    sh("xfs_io", "-c", "chproj 77", source / "one" / "strange")


def hint_world(source: Path) -> None:
    for name, *commands in (
        ("large", "extsize 1m", "cowextsize 512k"),
        ("still", "chattr +f", "chattr +n"),
        ("late", "extsize 64k"),
    ):
        (source / name).touch()
        sh("xfs_io", *(word for command in commands for word in ("-c", command)), source / name)
        fill(source / name, 0, 70_000, 3)
    (source / "hinted").mkdir()
    sh("xfs_io", "-c", "extsize 2m", "-c", "chattr +f", source / "hinted")
    fill(source / "hinted" / "inherits", 0, 10_000, 2)


def assert_told_alike(pair: Pair) -> None:
    for directory, _, files in os.walk(pair.source):
        if ".snapsync" in directory:
            continue
        below = Path(directory).relative_to(pair.source)
        for path in (below, *(below / file for file in files)):
            if path.name != ".snapsync" and not (pair.source / path).is_symlink():
                assert xfs_stat(pair.target / path) == xfs_stat(pair.source / path), path


@pytest.mark.parametrize("kinds", [("xfs", "xfs")], ids="-".join)
def test_projects_and_hints_are_held_round_after_round(pair: Pair) -> None:
    project_world(pair.source)
    hint_world(pair.source)
    assert not pair.sync("--strict")["losses"]
    assert_told_alike(pair)
    assert differences(pair.source, pair.target) == set()
    source = pair.source
    # Names come, go and move in directories that only let in their own project.
    fill(source / "one" / "new", 0, 100, 5)
    sh("xfs_io", "-c", "chproj 5", source / "one" / "new")
    sh("xfs_io", "-c", "chattr -P", source / "two")
    (source / "one" / "file").rename(source / "two" / "file-of-one")
    (source / "two" / "of-none").unlink()
    sh("xfs_io", "-c", "chattr +P", source / "two")
    sh("xfs_io", "-c", "chproj 43", source / "two" / "deep")
    # A hint that can only be set while the file is empty is set again.
    (source / "late").write_bytes(b"")
    sh("xfs_io", "-c", "extsize 128k", source / "late")
    fill(source / "late", 0, 80_000, 4)
    sh("xfs_io", "-c", "extsize 0", source / "hinted")
    sh("xfs_io", "-c", "chattr -f", source / "still")
    assert not pair.sync("--strict")["losses"]
    assert_told_alike(pair)
    assert differences(pair.source, pair.target) == set()
    sh("xfs_io", "-c", "chproj 6", source / "still")
    assert pair.sync("--strict")["changes"]["changed"] == 1
    assert_told_alike(pair)


@pytest.mark.parametrize("kinds", [("xfs", "btrfs"), ("xfs", "ext4")], ids="-".join)
def test_projects_and_hints_that_the_target_lacks_are_losses(pair: Pair) -> None:
    project_world(pair.source)
    hint_world(pair.source)
    refused_when_strict(pair.source, pair.target, "project (", "extent size (", "XFS flags (")
    told = losses(done("sync", pair.source, pair.target))
    assert told["project"] == 7
    assert told["extent size"] == 4
    assert told["XFS flags"] >= 3
    found = differences(pair.source, pair.target)
    assert {("one/strange", "project"), ("large", "extent size"), ("hinted", "XFS flags")} <= found


@pytest.mark.parametrize("kinds", [("xfs", "xfs")], ids="-".join)
def test_a_restore_brings_projects_and_hints_back(pair: Pair, place: Place) -> None:
    project_world(pair.source)
    hint_world(pair.source)
    pair.sync("--name", "first")
    copies = [place.absent("xfs"), place.absent("xfs")]
    done("restore", f"{pair.source}@first", "--to", copies[0])
    done("clone", f"{pair.source}@first", copies[1])
    for copy in copies:
        assert_told_alike(Pair(pair.source, copy))


# --- times ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("xfs", "btrfs"), ("btrfs", "xfs"), ("xfs", "xfs")], ids="-".join)
def test_times_that_64_bits_of_nanoseconds_do_not_reach_are_held(pair: Pair) -> None:
    for name, time in (("far", "2400-01-01 00:00:00.123456789 UTC"), ("near", "2100-01-01 UTC")):
        fill(pair.source / name, 0, 100, 1)
        sh("touch", "-d", time, pair.source / name)
    (pair.source / "directory").mkdir()
    sh("touch", "-d", "2300-02-03 04:05:06.7 UTC", pair.source / "directory")
    assert not done("sync", pair.source, pair.target, "--strict")["losses"]

    def times(root: Path) -> list[str]:
        return [sh("stat", "-c", "%y", root / name) for name in ("far", "near", "directory")]

    assert times(pair.source) == times(pair.target)
    assert differences(pair.source, pair.target) == set()
    sh("touch", "-d", "2400-01-02 00:00:00.123456789 UTC", pair.source / "far")
    assert done("sync", pair.source, pair.target, "--strict")["changes"]["changed"] == 1
    assert times(pair.source) == times(pair.target)


def test_a_time_outside_the_targets_range_is_told_of_every_entry(
    place: Place, file_systems: FileSystems
) -> None:
    source, point = place("xfs"), file_systems.mount("ext4", 300 * MIB)
    try:
        for name in ("a", "b", "c"):
            fill(source / name, 0, 100, 1)
            sh("touch", "-d", "2470-01-01 UTC", source / name)
        refused_when_strict(source, point / "standby", "outside the target's range (3 entries)")
        report = done("sync", source, point / "standby")
        assert losses(report) == {"modification time outside the target's range": 3}
        assert differences(source, point / "standby") == {(name, "mtime (ns)") for name in "abc"}
        sh("touch", "-d", "2026-01-01 UTC", source / "a")
        assert not done("sync", source, point / "standby")["losses"]
    finally:
        file_systems.unmount(point)


def test_times_finer_than_the_targets_are_told_and_are_no_drift(
    place: Place, file_systems: FileSystems
) -> None:
    """ext4 with small inodes keeps whole seconds."""
    source, point = place("ext4"), file_systems.mount("ext4", 300 * MIB, "-I", "128")
    target = point / "standby"
    try:
        for name, time in (
            ("old", "2000-01-01"),
            ("mid", "2026-01-01 00:00:00.123456789"),
            ("new", "2030-01-01"),
        ):
            fill(source / name, 0, 100, 1)
            sh("touch", "-d", time, source / name)
        sh("touch", "-d", "2000-01-01", source)
        what = "modification time finer than the target's grain of 1000000000 ns"
        refused_when_strict(source, target, f"{what} (1 entry)")
        assert losses(done("sync", source, target)) == {what: 1}
        assert differences(source, target) == {("mid", "mtime (ns)")}
        # It is not in the rows any more, and what the standby has of it is no drift.
        fill(source / "mid", 0, 50, 2)
        sh("touch", "-d", "2026-02-01", source / "mid")
        assert not done("sync", source, target, "--strict")["losses"]
        # A change by hand still is, be it of one second.
        sh("touch", "-d", "2026-02-01 00:00:01", target / "mid")
        (source / "mid").chmod(0o600)
        assert run("sync", source, target).code == 3
    finally:
        file_systems.unmount(point)


def test_an_old_primary_follows_one_of_coarser_times(place: Place, file_systems: FileSystems) -> None:
    """What it still knows of its times is no change by hand."""
    old, point = place("xfs"), file_systems.mount("ext4", 300 * MIB, "-I", "128")
    new = point / "standby"
    try:
        for name in ("file", "gone", "late"):
            fill(old / name, 0, 100, 1)
        done("sync", old, new)
        done("promote", new)
        fill(new / "file", 0, 50, 2)
        (new / "gone").unlink()
        done("rejoin", old, new)
        fill(new / "late", 0, 50, 3)
        done("sync", new, old)
        assert {what for _, what in differences(new, old)} <= {"mtime (ns)"}
    finally:
        file_systems.unmount(point)


# --- modes and access lists -------------------------------------------------------------------


def getfacl(path: Path) -> list[str]:
    return sh("getfacl", "-cnpE", path).split()


def mode(path: Path) -> str:
    return sh("stat", "-c", "%a", path).strip()


@pytest.mark.parametrize("as_directory", [False, True], ids=["subvolume", "directory"])
def test_a_mode_that_is_not_its_lists_wins_and_nobody_gets_more(
    place: Place, file_systems: FileSystems, as_directory: bool
) -> None:
    """As a snapshot finds it between the two halves of a chmod."""
    need("setfacl", "getfacl")
    mount = file_systems.at("btrfs")
    source, target = place.absent("btrfs"), place.absent("ext4")
    source.mkdir() if as_directory else sh("btrfs", "-q", "subvolume", "create", source)
    for name in ("narrow", "wide", "plain"):
        (source / name).write_text("x")
        sh("setfacl", "-m", "u:1000:rwx,g:7:r-x", source / name)
    sh("setfacl", "-m", "m::r", source / "wide")
    sh("mount", "-o", "remount,noacl", mount)
    try:
        (source / "narrow").chmod(0o600)
        (source / "wide").chmod(0o670)
    finally:
        sh("mount", "-o", "remount,acl", mount)
    assert (mode(source / "narrow"), "mask::rwx" in getfacl(source / "narrow")) == ("600", True)
    refused_when_strict(source, target, "access list that differs from the mode (2 entries)")
    assert losses(done("sync", source, target)) == {"access list that differs from the mode": 2}
    assert [mode(target / name) for name in ("narrow", "wide")] == ["600", "670"]
    assert {"user:1000:rwx", "mask::---", "other::---"} <= set(getfacl(target / "narrow"))
    # The list let this user only read.
    assert {"user:1000:r--", "group:7:r--", "mask::rwx"} <= set(getfacl(target / "wide"))
    assert getfacl(target / "plain") == getfacl(source / "plain")
    lists = {(name, "extended attributes") for name in ("narrow", "wide")}
    assert differences(source, target) == lists
    # It stays a loss while it lasts, and no drift.
    (source / "narrow").write_text("other")
    assert losses(done("sync", source, target)) == {"access list that differs from the mode": 1}
    assert differences(source, target) == lists
    for name in ("narrow", "wide"):
        (source / name).chmod(0o640)
    assert not done("sync", source, target, "--strict")["losses"]
    assert_same(source, target)
    assert differences(source, target) == set()


CHANGES = {
    "shut": ("0644 0 0 -", "0600 0 0 -"),
    "opened": ("0600 0 0 -", "0644 0 0 -"),
    "given": ("0600 1001 1001 -", "0640 1002 1002 -"),
    "listed": ("0640 0 0 -", "0640 0 0 u:1000:rw"),
    "unlisted": ("0660 0 0 u:1000:rw", "0660 0 0 -"),
    "exchanged": ("0660 0 0 u:1000:rw", "0660 0 0 u:1001:rw"),
    "regrouped": ("0660 0 1001 -", "0660 0 1002 -"),
}

PEOPLE = [(uid, gid) for uid in (1000, 1001, 1002, 1003) for gid in (1001, 1002, 1003)]


def shape(path: Path, how: str) -> None:
    bits, uid, gid, acl = how.split()
    sh("setfacl", "-b", path)
    os.chown(path, int(uid), int(gid))
    sh("chmod", bits, path)
    if acl != "-":
        sh("setfacl", "-m", acl, path)


@pytest.mark.parametrize("kinds", POOL_AND_BTRFS, ids="-".join)
def test_at_no_moment_of_a_commit_may_anybody_more_than_before_or_after(pair: Pair) -> None:
    """Also where a commit is killed: what it leaves is between the two, and its replay arrives."""
    need("setfacl")
    for root in [pair.source, *pair.source.parents]:
        if not os.stat(root).st_mode & 0o001:
            root.chmod(root.stat().st_mode | 0o111)
    for name, (before, _) in CHANGES.items():
        (pair.source / name).write_text("old")
        shape(pair.source / name, before)
    pair.sync()
    for above in pair.target.parents:
        if not os.stat(above).st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o111)
    old = {name: readers(PEOPLE, pair.target / name) for name in CHANGES}
    for name, (_, after) in CHANGES.items():
        (pair.source / name).write_text(f"new {name}")
        shape(pair.source / name, after)
    new = {name: readers(PEOPLE, pair.source / name) for name in CHANGES}
    for number, point in enumerate(
        ("commit.detached", "commit.data", "commit.attributes", "commit.attributes")
    ):
        env = {"SNAPSYNC_FAULT": f"{point}:{1 + 3 * (number == 3)}"}
        run("sync", pair.source, pair.target, env=env)
        for name in CHANGES:
            content, may = (pair.target / name).read_text(), readers(PEOPLE, pair.target / name)
            assert may <= old[name] or may <= new[name], (point, name)
            if content != "old":
                assert may <= new[name], (point, name, "reads what is new")
            else:
                assert may <= old[name], (point, name, "reads what was old")
        if number == 3:
            break
    pair.sync()
    assert {name: readers(PEOPLE, pair.target / name) for name in CHANGES} == new


# --- extended attributes ------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("ext4", "btrfs"), ("btrfs", "ext4")], ids="-".join)
def test_names_that_only_xfs_makes_up_are_names_elsewhere(pair: Pair) -> None:
    (pair.source / "file").write_text("x")
    set_xattr(pair.source / "file", b"trusted.SGI_ACL_FILE", b"value")
    set_xattr(pair.source / "file", b"trusted.SGI_ACL_OTHER", b"value")
    assert not pair.sync("--strict")["losses"]
    assert os.getxattr(pair.target / "file", "trusted.SGI_ACL_FILE") == b"value"


@pytest.mark.parametrize("kinds", [("ext4", "xfs")], ids="-".join)
def test_an_access_list_in_disguise_is_never_set(pair: Pair) -> None:
    """On XFS this name is the list, and would open the file."""
    (pair.source / "file").write_text("x")
    (pair.source / "file").chmod(0o600)
    set_acl(pair.source / "file", "access", 1000, 7)
    hidden = bytes.fromhex("0000000100000001ffffffff00070000")
    set_xattr(pair.source / "file", b"trusted.SGI_ACL_FILE", hidden)
    refused_when_strict(pair.source, pair.target, "trusted.SGI_ACL_FILE (1 entry)")
    assert losses(done("sync", pair.source, pair.target)) == {"extended attribute trusted.SGI_ACL_FILE": 1}
    assert getfacl(pair.target / "file") == getfacl(pair.source / "file")
    assert differences(pair.source, pair.target) == {("file", "extended attributes")}
