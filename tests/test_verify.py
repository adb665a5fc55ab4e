"""What `verify` proves and what it does not: by content, by tables, by a sample, here and over ssh."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import liar
import pytest
import worlds
from machine import (
    KINDS,
    MIB,
    Place,
    Ran,
    assert_told,
    capless,
    command,
    done,
    need,
    run,
    sh,
    start,
    wait_until,
)
from oracle import assert_same, freeze, touch_marks
from remote import Client, Server, script
from worlds import World, fill

Report = dict[str, Any]

OLD = b"n\xffme"
SHOWN = "n\N{REPLACEMENT CHARACTER}me"
"""A name that is no text, and how it is shown."""


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return server.client()


@pytest.fixture(autouse=True)
def nobody_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames or "client" in request.fixturenames:
        server = request.getfixturevalue("server")
        wait_until(lambda: not server.serving(), 20)


def report(*args: object, **how: Any) -> Report:
    """The answer of a verify that came to one."""
    ran = run("verify", *args, "--json", **how)
    assert ran.code in (0, 4), ran
    assert ran.json["equal"] == (ran.code == 0)
    return ran.json


def named(answer: Report) -> set[tuple[str, str]]:
    return {(difference["path"], difference["what"]) for difference in answer["differences"]}


# --- differences of every kind ----------------------------------------------------------------


def two_trees(place: Place, kind: str) -> tuple[Path, Path]:
    a = place(kind)
    for number in range(3):
        fill(a / f"file-{number}", 0, 300_000, number)
    fill(os.fsencode(a) + b"/" + OLD, 0, 5_000, 7)
    (a / "dir").mkdir()
    (a / "dir/empty").touch()
    os.link(a / "file-0", a / "dir/linked")
    os.link(a / "file-0", a / "dir/linked too")
    (a / "link").symlink_to("file-0")
    worlds.set_xattr(a / "file-1", b"user.kept", b"value")
    os.mkfifo(a / "fifo")
    if os.geteuid() == 0:
        os.mknod(a / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    b = place.absent(kind)
    sh("cp", "-a", a, b)
    assert_same(a, b)
    return a, b


def made_other(path: Path) -> None:
    path.unlink()
    path.mkdir()


def relinked(path: Path) -> None:
    data, status = path.read_bytes(), path.stat()
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def redone(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))


CHANGES: dict[str, tuple[Callable[[Path], object], tuple[str, str]]] = {
    "gone": (lambda b: (b / "dir/empty").unlink(), ("dir/empty", "entry")),
    "more": (lambda b: (b / "more").touch(), ("more", "entry")),
    "kind": (lambda b: made_other(b / "fifo"), ("fifo", "kind")),
    "hard link": (lambda b: relinked(b / "dir/linked too"), ("dir/linked too", "hard link to")),
    "size": (lambda b: worlds.append(b / "file-1", 1, 1), ("file-1", "size")),
    "mode": (lambda b: (b / "dir").chmod(0o711), ("dir", "mode")),
    "root's mode": (lambda b: b.chmod(0o711), (".", "mode")),
    "owner": (lambda b: os.chown(b / "dir", 5, -1), ("dir", "uid")),
    "group": (lambda b: os.lchown(b / "file-2", -1, 5), ("file-2", "gid")),
    "device": (lambda b: redone(b / "device"), ("device", "device")),
    "time": (lambda b: os.utime(os.fsencode(b) + b"/" + OLD, ns=(1, 1)), (SHOWN, "mtime (ns)")),
    "flags": (lambda b: worlds.set_flags(b / "file-1", worlds.NODUMP), ("file-1", "inode flags")),
    "target": (lambda b: worlds.retarget(b / "link", b"file-1"), ("link", "symlink target")),
    "attribute": (
        lambda b: worlds.set_xattr(b / "file-1", b"user.kept", b"other"),
        ("file-1", "extended attributes"),
    ),
    "more attributes": (
        lambda b: worlds.set_xattr(b / "dir", b"user.more", b""),
        ("dir", "extended attributes"),
    ),
}
MODES: dict[str, tuple[str, ...]] = {
    "full": (),
    "quick": ("--quick",),
    "sample": ("--sample", "1%", "--seed", "1"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["here", "over ssh"])
def test_a_difference_of_metadata_is_found_in_every_mode(
    place: Place, client: Client, mode: str, where: str
) -> None:
    a, b = two_trees(place, "xfs")
    there = (client.at(b), *client.options) if where == "over ssh" else (b,)
    assert report(a, *there, *MODES[mode])["equal"]
    for change, _ in CHANGES.values():
        change(b)
    assert {difference for _, difference in CHANGES.values()} <= named(report(a, *there, *MODES[mode]))
    assert not named(report(a, a, *MODES[mode]))


def changed_quietly(b: Path) -> None:
    worlds.rewrite_quietly(b / "file-2", 123_456, 1, 99)
    worlds.rewrite_quietly(os.fsencode(b) + b"/" + OLD, 4_999, 1, 98)


@pytest.mark.parametrize("where", ["here", "over ssh", "both over ssh"])
def test_a_quiet_change_is_found_by_content_and_quick_says_that_it_read_nothing(
    place: Place, client: Client, where: str
) -> None:
    a, b = two_trees(place, "btrfs")
    changed_quietly(b)
    sides: tuple[object, ...] = {
        "here": (a, b),
        "over ssh": (client.at(a), b, *client.options),
        "both over ssh": (client.at(a), client.at(b), *client.options),
    }[where]
    for options in ((), ("--sample", "100%")):
        answer = report(*sides, *options)
        assert named(answer) == {("file-2", "content"), (SHOWN, "content")}
        assert (answer["read_entries"], answer["unproven"]) == (4, 0)
        # The bytes of the two that are the same.
        assert answer["bytes"] == 600_000
        if where == "here":
            assert [line["a"] for line in answer["differences"]] == ["at byte 123456", "at byte 4999"]
    answer = report(*sides, "--quick")
    assert answer["equal"]
    assert (answer["mode"], answer["read_entries"], answer["bytes"]) == ("quick", 0, 0)
    assert (answer["unproven"], answer["unproven_bytes"]) == (4, 905_000)
    text = run("verify", *sides, "--quick").out
    assert "equal" not in text
    assert "4 files" in text
    assert "was not read" in text


@pytest.mark.parametrize("kind", KINDS)
def test_quick_takes_shared_blocks_of_snapshots_for_a_proof(place: Place, kind: str) -> None:
    volume = place(kind)
    for number in range(20):
        fill(volume / f"file-{number}", 0, 200_000, number)
    fill(volume / "small", 0, 100, 1)
    done("snapshot", volume, "--name", "old")
    worlds.rewrite_quietly(volume / "file-3", 100_000, 10, 77)
    (volume / "file-4").chmod(0o600)
    done("snapshot", volume, "--name", "new")
    answer = report(f"{volume}@old", f"{volume}@new", "--quick")
    assert named(answer) == {("file-4", "mode")}
    # What is stored in the tree itself has no address.
    inline = kind == "btrfs"
    assert answer["unproven"] == 1 + inline
    assert answer["unproven_bytes"] == 200_000 + 100 * inline
    assert named(report(f"{volume}@old", f"{volume}@new")) == {("file-3", "content"), ("file-4", "mode")}
    # The tree in use may change where it is: its addresses prove nothing.
    assert report(volume, f"{volume}@new", "--quick")["unproven"] == 21


def test_quick_tells_the_same_where_only_patches_differ(place: Place) -> None:
    """Snapshots that share their whole table; and all beneath a directory that has another name."""
    volume = place("xfs")
    for path in ("a/one", "a/two", "b/deep/file", "b/deep/kept"):
        (volume / path).parent.mkdir(parents=True, exist_ok=True)
        (volume / path).write_text(path)
    os.link(volume / "a/one", volume / "again")
    done("snapshot", volume, "--name", "first")
    (volume / "a/two").chmod(0o600)
    (volume / "b/deep/file").rename(volume / "b/deep/new")
    done("snapshot", volume, "--name", "second")
    (volume / "b").rename(volume / "c")
    done("snapshot", volume, "--name", "third")

    def compared(one: str, other: str) -> tuple[int, set[tuple[str, str]]]:
        answer = report(f"{volume}@{one}", f"{volume}@{other}", "--quick")
        assert answer["unproven"] == 0
        return answer["entries"], named(answer)

    assert compared("first", "first") == (9, set())
    both = {("b/deep/file", "entry"), ("b/deep/new", "entry")}
    assert compared("first", "second") == (9, {("a/two", "mode"), ("b/deep", "mtime (ns)"), *both})
    beneath = {"b", "b/deep", "b/deep/kept", "b/deep/new"}
    moved = {(path.replace("b", name, 1), "entry") for path in beneath for name in "bc"}
    assert compared("second", "third") == (9, {(".", "mtime (ns)"), *moved})


def test_a_small_file_is_opened_and_read_once_on_each_side(place: Place, tmp_path: Path) -> None:
    need("strace")
    a, b = place("xfs"), place.absent("xfs")
    worlds.bulk(a, 300, size=4096, per_directory=100)
    sh("cp", "-a", a, b)
    trace = tmp_path / "calls"
    asked = ("openat2", "pread64", "ioctl", "lseek")
    wrap = ("strace", "-f", "-qq", "-e", f"trace={','.join(asked)}", "-o", str(trace))
    assert report(a, b, wrap=wrap)["equal"]
    calls = trace.read_text()
    counts = {name: calls.count(f" {name}(") for name in asked}
    assert 600 <= counts["pread64"] < 650, counts
    assert max(counts["openat2"], counts["ioctl"]) < 750, counts
    assert counts["lseek"] < 150, counts


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_has_beside_its_bytes_is_found_one_by_one(place: Place, kind: str) -> None:
    """Flags that one call tells of a file without any are asked for where it has one."""
    a, b = place(kind), place.absent(kind)
    for name in ("flags", "more flags", "attribute", "none"):
        fill(a / name, 0, 4096, 1)
    worlds.set_flags(a / "more flags", worlds.NODUMP)
    sh("cp", "-a", a, b)
    worlds.set_flags(b / "more flags", worlds.NODUMP | worlds.NOATIME)
    worlds.set_flags(b / "flags", worlds.NOATIME)
    worlds.set_xattr(b / "attribute", b"user.a", b"a")
    flagged = {("flags", "inode flags"), ("more flags", "inode flags")}
    assert named(report(a, b)) == {*flagged, ("attribute", "extended attributes")}


@pytest.mark.parametrize("size", [1, 4096, 65_535, 65_536, 65_537, 131_072, 200_000])
def test_a_byte_is_found_wherever_it_is_beside_holes(place: Place, size: int) -> None:
    a, b = place("xfs"), place("xfs")
    for at in {0, size // 2, size - 1}:
        for tree, byte in ((a, b"\0"), (b, b"\1")):
            with (tree / f"{at}").open("wb") as file:
                file.truncate(size)
                file.seek(at)
                file.write(byte)
    assert report(a, a)["equal"]
    names = {line["path"] for line in report(a, b)["differences"] if line["what"] == "content"}
    assert names == {f"{at}" for at in (0, size // 2, size - 1)}


def test_holes_and_preallocation_are_compared_as_zeros(place: Place) -> None:
    a, b = place("xfs"), place("xfs")
    for tree, make in ((a, worlds.preallocate), (b, lambda path, _, size: worlds.truncate(path, size))):
        (tree / "file").touch()
        make(tree / "file", 0, 3 * MIB)
        os.utime(tree / "file", ns=(1, 1))
        os.utime(tree, ns=(1, 1))
    assert report(a, b)["equal"]
    fill(b / "file", MIB, 1, 1)
    os.utime(b / "file", ns=(1, 1))
    assert named(report(a, b)) == {("file", "content")}


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "ext4")], ids="-".join)
def test_a_random_world_is_the_same_over_ssh_and_one_byte_is_not(
    place: Place, client: Client, kinds: tuple[str, str]
) -> None:
    a, b = place(kinds[0]), place.absent(kinds[1])
    world = World(a, 4711)
    world.grow(300)
    done("sync", a, b)
    here = report(f"{a}@latest", b)
    there = report(f"{a}@latest", client.at(f"{b}@latest"), *client.options)
    assert here["equal"]
    assert there["equal"]
    assert [here[key] for key in COUNTS] == [there[key] for key in COUNTS]
    assert here["entries"] == len(freeze(a).entries)
    files = [path for path in b.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]
    largest = max(
        (path for path in files if ".snapsync" not in path.parts), key=lambda path: path.stat().st_size
    )
    worlds.set_flags(largest, 0, worlds.IMMUTABLE | worlds.APPEND_ONLY)
    last = largest.stat().st_size - 1
    byte = largest.read_bytes()[-1]
    status = largest.stat()
    worlds.write(largest, last, bytes([byte ^ 1]))
    os.utime(largest, ns=(status.st_atime_ns, status.st_mtime_ns))
    for right in ((b,), (client.at(b), *client.options)):
        assert "content" in {what for _, what in named(report(f"{a}@latest", *right))}


COUNTS = ("entries", "bytes", "read_entries", "unproven", "difference_count")


def test_more_differences_than_are_told_are_counted(place: Place, client: Client) -> None:
    a, b = place("xfs"), place("xfs")
    worlds.bulk(a, 1500)
    answer = report(a, client.at(b), *client.options)
    assert len(answer["differences"]) == 1000
    assert answer["difference_count"] >= 1500 + 15
    assert answer["entries"] == 1500 + 15 + 1
    other = report(client.at(b), a, *client.options)
    assert other["difference_count"] == answer["difference_count"]
    assert other["entries"] == 1


def test_trees_longer_than_a_message_are_merged_whatever_is_where(place: Place, client: Client) -> None:
    """Runs of names that only one side has, longer than what is held of it."""
    a, b = place("xfs"), place("xfs")
    for tree, only in ((a, "a"), (b, "b")):
        worlds.bulk(tree, 6000, size=20)
        os.utime(tree, ns=(1, 1))
        for folder in sorted(tree.iterdir())[5:55]:
            folder.rename(tree / f"{only}-{folder.name}")
        os.utime(tree, ns=(1, 1))
    sh("cp", "-a", "--attributes-only", f"{a}/.", f"{b}/")
    for folder in b.glob("a-*"):
        sh("rm", "-r", folder)
    answers = [
        report(a, b),
        report(a, client.at(b), *client.options),
        report(client.at(a), b, *client.options, "--jobs", "1"),
    ]
    for answer in answers:
        # 50 directories of 100 files on either side.
        assert answer["difference_count"] >= 2 * 50 * 101
        assert answer["entries"] == 1 + 60 + 6000
    assert len({answer["difference_count"] for answer in answers}) == 1


def test_an_empty_lost_and_found_on_one_side_is_a_note_over_ssh_as_well(place: Place, client: Client) -> None:
    a, b = place("xfs"), place("xfs")
    (a / "lost+found").mkdir()
    fill(a / "lost+found.txt", 0, 10, 1)
    fill(b / "lost+found.txt", 0, 10, 1)
    for path in (a / "lost+found.txt", b / "lost+found.txt", a, b):
        os.utime(path, ns=(1, 1))
    for sides in ((a, client.at(b)), (client.at(a), b)):
        answer = report(*sides, *client.options)
        assert answer["equal"], answer
        assert any("lost+found" in note for note in answer["notes"])
    (a / "lost+found/file").touch()
    assert ("lost+found", "entry") in named(report(client.at(a), b, *client.options))


# --- a sample ---------------------------------------------------------------------------------


def sampled(a: object, b: object, seed: int, percent: float) -> set[str]:
    """The files that a sample reads: those of them that were changed quietly, which are all."""
    from snapsync import _native

    answer = json.loads(_native.verify(str(a), str(b), sample=percent, seed=seed))
    assert all(difference["what"] == "content" for difference in answer["differences"])
    assert answer["read_entries"] == answer["difference_count"]
    assert answer["read_entries"] + answer["unproven"] == 300
    return {difference["path"] for difference in answer["differences"]}


@pytest.fixture
def corrupted(place: Place) -> tuple[Path, Path]:
    """Two trees, of which every file has another byte in it and looks the same."""
    a, b = place("xfs"), place.absent("xfs")
    for number in range(300):
        (a / f"file-{number}").write_bytes(b"a" * 1000)
    sh("cp", "-a", a, b)
    for path in b.iterdir():
        before = path.stat()
        path.write_bytes(b"a" * 999 + b"b")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return a, b


@pytest.mark.parametrize("apart", [1, 3600, 86_400])
def test_samples_that_follow_each_other_read_every_file(corrupted: tuple[Path, Path], apart: int) -> None:
    read: set[str] = set()
    seen = []
    for number in range(60):
        share = sampled(*corrupted, seed=1_700_000_000 + number * apart, percent=5)
        seen.append(len(share))
        read |= share
    assert len(read) == 300
    # About a twentieth each, and never all.
    assert 0 < sum(seen) / len(seen) < 30
    assert max(seen) < 60


def test_both_sides_choose_the_same_files_over_ssh(corrupted: tuple[Path, Path], client: Client) -> None:
    a, b = corrupted
    for seed in (1, 2, (1 << 64) - 1):
        answer = report(a, client.at(b), *client.options, "--sample", "20%", "--seed", seed)
        assert {path for path, _ in named(answer)} == sampled(a, b, seed, 20) != set()
        assert answer["seed"] == seed
        assert answer["mode"] == "sample"


def test_a_sample_says_how_much_it_has_read(place: Place) -> None:
    a, b = place("xfs"), place.absent("xfs")
    for number in range(100):
        fill(a / f"file-{number}", 0, 1000, number)
    sh("cp", "-a", a, b)
    answer = report(a, b, "--sample", "30%", "--seed", "3")
    assert answer["equal"]
    assert 0 < answer["read_entries"] < 100
    assert answer["bytes"] == 1000 * answer["read_entries"]
    assert answer["unproven_bytes"] == 1000 * answer["unproven"] == 100_000 - answer["bytes"]
    text = run("verify", a, b, "--sample", "30%", "--seed", "3").out
    assert f"{answer['read_entries']}.0% of the content" in text
    assert f"{answer['unproven']} files" in text
    assert isinstance(report(a, b, "--sample", "30")["seed"], int)


@pytest.mark.parametrize(
    "options",
    [
        ("--sample", "0%"),
        ("--sample", "101%"),
        ("--sample", "-5%"),
        ("--sample", "x"),
        ("--sample", "nan"),
        ("--sample", "5%", "--quick"),
        ("--sample", "5%", "--seed", "-1"),
    ],
    ids=" ".join,
)
def test_shares_that_make_no_sense_are_a_usage_error(place: Place, options: tuple[str, ...]) -> None:
    assert run("verify", tree := place("xfs"), tree, *options).code == 2


# --- what travels -----------------------------------------------------------------------------


def test_only_digests_travel(place: Place, client: Client, tmp_path: Path) -> None:
    a, b = place("xfs"), place.absent("xfs")
    fill(a / "large", 0, 64 * MIB, 1)
    worlds.bulk(a, 500)
    worlds.set_xattr(a / "large", b"user.secret", secret := b"what an attribute says" * 100)
    sh("cp", "-a", a, b)
    up, down = tmp_path / "up", tmp_path / "down"
    rsh = script(tmp_path / "rsh", f'tee {up} | {client.rsh} "$@" | tee {down}')
    for there in (client.at(b), client.at(a)):
        answer = report(a, there, "--rsh", rsh, "--remote-path", command()[0])
        assert answer["equal"]
        assert answer["bytes"] > 64 * MIB
        assert up.stat().st_size + down.stat().st_size < MIB
        assert down.stat().st_size > 500 * 32
        assert secret[:50] not in down.read_bytes()
        assert (a / "large").read_bytes()[:16] not in down.read_bytes()


def test_a_standby_is_verified_over_ssh_and_left_as_it_was(place: Place, client: Client) -> None:
    a, b = place("btrfs"), place.absent("ext4")
    worlds.bulk(a, 200)
    done("sync", a, b, "--exclude", "*7")
    fill(a / "new", 0, 1000, 1)
    done("sync", a, b, "--name", "second")
    marks = touch_marks(b)
    for snap in ("@0", "@second", "@latest"):
        assert report(f"{a}{snap}", client.at(f"{b}{snap}"), *client.options)["equal"]
    assert report(f"{a}@latest", client.at(b), *client.options)["equal"]
    assert named(report(f"{a}@0", client.at(b), *client.options)) >= {("new", "entry")}
    assert touch_marks(b) == marks
    assert_told_of(run("verify", a, client.at(f"{b}@none"), *client.options, "--quiet"), "none", codes=(2,))
    missing = client.at(f"{b}/missing")
    assert_told_of(run("verify", a, missing, *client.options, "--quiet"), "standby-host", codes=(2,))


def assert_told_of(ran: Ran, *words: str, codes: tuple[int, ...]) -> None:
    """`assert_told`, after whatever ssh and the remote shell have said themselves."""
    said = ran.err[ran.err.index("snapsync: ") :]
    assert_told(Ran(ran.args, ran.code, ran.out, said), *words, codes=codes)


# --- what a key may see -----------------------------------------------------------------------


@pytest.fixture
def restricted(server: Server, place: Place) -> Callable[..., tuple[Client, Path, Path]]:
    """A key that may only do so much below the first directory, and one outside."""

    def made(*options: str) -> tuple[Client, Path, Path]:
        home = place("xfs")
        root, outside = home / "allowed", home / "outside"
        for folder in (root, outside):
            folder.mkdir()
            fill(folder / "file", 0, 1000, 1)
        words = [*command(), "serve", "--restrict-to", str(root), *options]
        return server.client(forced=shlex.join(words)), root, outside

    return made


def refused(client: Client, mine: Path, there: object) -> None:
    ran = run("verify", mine, client.at(there), *client.options, "--quiet")
    assert_told_of(ran, "server", codes=(3,))


def test_a_restricted_key_learns_nothing_of_what_is_outside(
    place: Place, restricted: Callable[..., tuple[Client, Path, Path]]
) -> None:
    client, root, outside = restricted()
    (root / "inside").mkdir()
    fill(root / "inside/file", 0, 1000, 1)
    os.utime(root / "inside", ns=(1, 1))
    mine = place.absent("xfs")
    sh("cp", "-a", root / "inside", mine)
    for inside in (str(root / "inside"), "inside", "./inside"):
        assert report(mine, client.at(inside), *client.options)["equal"]
    done("sync", place("xfs"), outside / "standby")
    (root / "link").symlink_to(outside)
    (root / "volume").symlink_to(outside / "standby")
    (root / "inside@latest").symlink_to(outside)
    for there in (
        outside,
        "..",
        "inside/../inside",
        "link",
        "link/standby",
        "volume",
        "volume@latest",
        "volume@none",
    ):
        refused(client, mine, there)
    refused(client, mine, f"{outside}/standby@latest")
    refused(client, mine, f"{outside}/missing")
    ran = run("verify", mine, client.at("inside@latest"), *client.options, "--quiet")
    assert ran.code in (2, 3), ran
    assert ran.out == ""


@pytest.mark.parametrize("option", ["--read-only", "--receive-only"])
def test_a_standby_may_be_verified_in_either_direction(
    place: Place, restricted: Callable[..., tuple[Client, Path, Path]], option: str
) -> None:
    client, root, _ = restricted(option)
    mine = place("xfs")
    fill(mine / "file", 0, 1000, 1)
    done("sync", mine, root / "standby")
    for there in ("standby", "standby@latest", "standby@0"):
        assert report(mine, client.at(there), *client.options)["equal"]
    other = root / "primary"
    other.mkdir()
    done("snapshot", other)
    for there in (root, other, "primary@latest"):
        if option == "--receive-only":
            refused(client, mine, there)
        else:
            assert not report(mine, client.at(there), *client.options)["equal"]


# --- peers that fail or lie -------------------------------------------------------------------


def lying(lie: str) -> tuple[str, str]:
    words = [sys.executable, liar.__file__, "tree", lie]
    return "--rsh", shlex.join(["sh", "-c", f"exec {shlex.join(words)} 2>/dev/null"])


LIES = (*liar.TREES, *liar.NUMBERS, "another answer")


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_peer_is_refused(place: Place, lie: str) -> None:
    tree = place("xfs")
    (tree / "file").touch()
    for sides in ((tree, "there:/x"), ("there:/x", tree)):
        ran = run("verify", *sides, *lying(lie), "--quiet")
        assert_told(ran, "there", codes=(4,))


def test_what_a_lie_is_made_of_is_no_lie(place: Place) -> None:
    """Without this, the test above would pass for a client that believes nobody."""
    answer = report(place("xfs"), "there:/x", *lying("the truth"))
    assert {what for path, what in named(answer) if path != "."} == {"entry"}
    assert answer["difference_count"] >= 2


def test_an_older_peer_is_told_of(place: Place) -> None:
    ran = run("verify", place("xfs"), "there:/x", *lying("an older version"), "--quiet")
    assert_told(ran, "there runs liar", "install the version", codes=(1,))


def test_a_peer_that_is_gone_is_an_interruption(place: Place) -> None:
    ran = run("verify", place("xfs"), "there:/x", *lying("nothing more"), "--quiet")
    assert_told(ran, "there", codes=(5,))


def huge(place: Place) -> Path:
    """What nobody can hash while a test lasts: the same blocks again and again, for holes are not read."""
    tree = place("xfs")
    size = 64 << 20
    worlds.fill(tree / "huge", 0, size, 1)
    while size < 1 << 37:
        worlds.reflink_range(tree / "huge", tree / "huge", 0, size, size)
        size *= 2
    return tree


@pytest.mark.parametrize("who", ["the client", "the server"])
def test_either_end_may_stop(place: Place, server: Server, client: Client, who: str) -> None:
    tree = huge(place)
    process = start("verify", place("xfs"), client.at(tree), *client.options, "--quiet")
    try:
        wait_until(lambda: server.serving() and reads(server.serving()[0], tree / "huge"))
        if who == "the client":
            process.send_signal(signal.SIGINT)
        else:
            os.kill(server.serving()[0], signal.SIGKILL)
        assert process.wait(60) == 5
        wait_until(lambda: not server.serving())
    finally:
        process.kill()
        process.communicate()


def reads(pid: int, path: Path) -> bool:
    """Whatever name it has where the process has mounted it for itself."""
    wanted = path.stat()
    try:
        return any(os.path.samestat(link.stat(), wanted) for link in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False


def test_who_cannot_go_on_does_not_wait_for_the_other_side(place: Place, client: Client) -> None:
    tree, mine = huge(place), place("xfs")
    (mine / "closed").touch(mode=0)
    for sides in ((mine, client.at(tree)), (client.at(tree), mine)):
        ran = run("verify", *sides, *client.options, "--quiet", wrap=capless())
        assert_told_of(ran, "closed", codes=(1,))
