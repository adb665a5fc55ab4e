"""All snapshots of a volume or a log, mounted: each is there as it was taken, and they come and go."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import Pair, Place, as_nobody, assert_told, done, run, sh, snapshots, store, wait_until
from oracle import assert_same
from test_crash import lay_out
from test_mount import UNSEEN, serving
from worlds import World, chmod, chown, fill, set_acl

KINDS = ("btrfs", "xfs", "ext4")

Look = Callable[..., Path]


@pytest.fixture
def look(place: Place) -> Iterator[Look]:
    """Mounts all snapshots of a volume or a log, and clears up."""
    mounted: list[Path] = []

    def at(source: object, *options: object, to: Path | None = None) -> Path:
        to = to or place.absent("ext4")
        mounted.append(to)
        report = done("mount", source, to, *options)
        assert (report["path"], report["snapshot"], report["served"]) == (str(to), None, True)
        return to

    yield at
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], capture_output=True)


class Grown:
    """A volume with the snapshots `one`, `two` and `three`, and what else holds these."""

    def __init__(self, place: Place, kind: str, folder: Path) -> None:
        self.home = place(kind)
        lay_out(self.home)
        world = World(self.home, 41)
        world.grow(80)
        self.log = f"file://{folder}/log"
        # What a primary on ext4 has no more, it could not show.
        done("init", self.home, "--history", "full")
        for name in ("one", "two", "three"):
            world.churn(40)
            done("sync", self.home, self.log, "--name", name)


@pytest.fixture
def grown(place: Place, kind: str, tmp_path: Path) -> Grown:
    return Grown(place, kind, tmp_path)


def refused(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as error:
        return error.errno or 0
    pytest.fail("it was done")


def restored(place: Place, snapshot: str) -> Path:
    to = place.absent("xfs")
    done("restore", snapshot, "--to", to)
    return to


# --- what is there ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["volume", "log"])
def test_each_snapshot_is_a_directory_of_what_was_taken(
    place: Place, look: Look, grown: Grown, of: str
) -> None:
    source = str(grown.home) if of == "volume" else grown.log
    at = look(source)
    assert sorted(os.listdir(at)) == ["latest", "one", "three", "two"]
    assert os.readlink(at / "latest") == "three"
    for name in ("one", "two", "three"):
        assert_same(restored(place, f"{source}@{name}"), at / name, ignore=UNSEEN)
    assert os.path.samefile(at / "latest", at / "three")
    assert refused((at / "new").mkdir) == errno.EROFS
    assert refused((at / "one/new").touch) == errno.EROFS
    assert refused(lambda: (at / "four").stat()) == errno.ENOENT


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_standby_shows_what_its_tree_and_its_pool_have(place: Place, look: Look, kind: str) -> None:
    pair = Pair.make(place, ("xfs", kind))
    world = World(pair.source, 6)
    world.grow(60)
    pair.sync("--name", "one")
    world.churn(60)
    pair.sync("--name", "two")
    at = look(pair.target)
    for name in ("one", "two"):
        assert_same(restored(place, f"{pair.target}@{name}"), at / name, ignore=UNSEEN)


def test_a_light_primary_shows_what_its_tree_still_has(place: Place, look: Look) -> None:
    volume, standby = place("ext4"), place.absent("ext4")
    fill(volume / "kept", 0, 50_000, 1)
    fill(volume / "lost", 0, 50_000, 2)
    done("init", volume, "--history", "light")
    done("sync", volume, standby, "--name", "one")
    kept = (volume / "kept").read_bytes()
    fill(volume / "lost", 0, 50_000, 3)
    done("sync", volume, standby, "--name", "two")
    at = look(volume)
    assert (at / "one/kept").read_bytes() == kept
    assert (at / "two/lost").read_bytes() == (volume / "lost").read_bytes()
    assert refused((at / "one/lost").read_bytes) == errno.EIO


def test_the_part_of_a_volume_is_mounted_as_a_volume_is(place: Place, look: Look) -> None:
    volume = place("xfs")
    (volume / "mail").mkdir()
    fill(volume / "mail/inbox", 0, 100, 1)
    fill(volume / "other", 0, 100, 1)
    done("sync", "--part", "mail", "--include", "/mail", volume, place.absent("xfs"), "--name", "monday")
    at = look(f"{volume}@mail/")
    assert sorted(os.listdir(at)) == ["latest", "monday"]
    assert sorted(os.listdir(at / "monday")) == ["mail"]


def test_names_that_would_be_one_are_told_apart(place: Place, look: Look) -> None:
    """A standby may know a name twice that its primary gave twice, and others may write to a store."""
    volume = place("xfs")
    for name in ("one", "two", "three"):
        fill(volume / "file", 0, 100, len(name))
        done("snapshot", volume, "--name", name)
    ids = [snapshot["id"] for snapshot in snapshots(volume)]
    for number, name in ((1, "one"), (2, "../../etc")):
        record = store(volume) / "snapshots" / ids[number] / "snapshot.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"name": name}))
    at = look(volume)
    assert set(os.listdir(at)) == {"latest", f"one@{ids[0]}", f"one@{ids[1]}", f"@{ids[2]}"}
    assert (at / "latest/file").read_bytes() == (volume / "file").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_without_a_snapshot_shows_its_first_one(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    done("init", volume)
    at = look(volume)
    assert os.listdir(at) == []
    assert refused(lambda: os.readlink(at / "latest")) == errno.ENOENT
    done("snapshot", volume, "--name", "one")
    wait_until(lambda: sorted(os.listdir(at)) == ["latest", "one"])


# --- inode numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_inode_numbers_are_unique_and_stay(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    for number in range(50):
        fill(volume / f"file-{number}", 0, 4000, number)
    os.link(volume / "file-1", volume / "again")
    for name in ("one", "two"):
        done("snapshot", volume, "--name", name)
    at = look(volume)

    def numbers() -> dict[Path, int]:
        found = [at, *at.rglob("*")]
        return {path.relative_to(at): path.lstat().st_ino for path in found}

    before = numbers()
    assert before[Path("one/again")] == before[Path("one/file-1")] != before[Path("two/file-1")]
    # The other name of one file in each of the two snapshots, and all else once.
    assert len(set(before.values())) == len(before) - 2
    (at / "one" / "file-1").stat()
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert numbers() == before
    listed = {entry.name: entry.inode() for entry in os.scandir(at / "two")}
    assert listed == {name: before[Path("two") / name] for name in listed}


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_other_tools_copy_a_snapshot_whole(place: Place, look: Look, kind: str, tmp_path: Path) -> None:
    volume = place(kind)
    lay_out(volume)
    for number in range(20):
        fill(volume / f"file-{number}", 0, 40_000, number)
        os.link(volume / f"file-{number}", volume / f"link-{number}")
    done("snapshot", volume, "--name", "one")
    at, copies, packed = look(volume), place("xfs"), place("xfs")
    sh("cp", "-a", f"{at}/one/.", copies)
    assert_same(restored(place, f"{volume}@one"), copies, ignore=(*UNSEEN, "xattrs"))
    sh("tar", "-C", at / "one", "-cf", tmp_path / "tar", ".")
    sh("tar", "-C", packed, "-xpf", tmp_path / "tar")
    assert all(os.path.samefile(packed / f"file-{n}", packed / f"link-{n}") for n in range(20))
    told = sh("find", at / "one", "-type", "f", "-printf", "%n\n").split()
    assert told.count("2") >= 40
    once, twice = (
        int(sh("du", "-s", "--block-size=1", "--apparent-size", *links, at / "one").split()[0])
        for links in ((), ("--count-links",))
    )
    assert twice - once >= 20 * 40_000


# --- coming and going -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_that_is_taken_appears(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    fill(volume / "file", 0, 1000, 1)
    done("snapshot", volume, "--name", "one")
    at = look(volume)
    with os.scandir(at) as entries:
        assert {entry.name for entry in entries} == {"latest", "one"}
    assert (at / "latest/file").read_bytes() == (volume / "file").read_bytes()
    fill(volume / "file", 0, 1000, 2)
    done("snapshot", volume, "--name", "two")
    wait_until(lambda: os.readlink(at / "latest") == "two")
    assert sorted(os.listdir(at)) == ["latest", "one", "two"]
    assert (at / "latest/file").read_bytes() == (volume / "file").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["volume", "log"])
def test_a_deleted_snapshot_disappears_and_never_shows_other_bytes(
    place: Place, look: Look, grown: Grown, of: str
) -> None:
    """While one of its files is open, and one of its directories is being listed."""
    source = str(grown.home) if of == "volume" else grown.log
    fill(grown.home / "large", 0, 30_000_000, 7)
    (grown.home / "many").mkdir()
    for number in range(3000):
        (grown.home / f"many/{'n' * 100}-{number}").touch()
    done("sync", grown.home, grown.log, "--name", "four")
    content = (grown.home / "large").read_bytes()
    fill(grown.home / "large", 0, 30_000_000, 8)
    done("sync", grown.home, grown.log, "--name", "five")
    at = look(source)
    with open(at / "four/large", "rb", 0) as file, os.scandir(at / "four/many") as listing:
        assert os.pread(file.fileno(), 1000, 0) == content[:1000]
        next(listing)
        inside = os.open(at / "four", os.O_PATH | os.O_DIRECTORY)
        done("delete", f"{source}@four")
        wait_until(lambda: "four" not in os.listdir(at))
        wait_until(lambda: not (at / "four").exists())
        answers = {read_or_error(file.fileno(), offset, content) for offset in range(0, 30_000_000, 100_000)}
        assert answers <= {"right", errno.ESTALE, errno.EIO}
        assert answers != {"right"}
        assert refused(lambda: list(listing)) == errno.ESTALE
        assert refused(lambda: os.stat("many/new", dir_fd=inside)) in (errno.ESTALE, errno.ENOENT)
        os.close(inside)
    assert sorted(os.listdir(at)) == ["five", "latest", "one", "three", "two"]
    assert_same(restored(place, f"{source}@two"), at / "two", ignore=UNSEEN)
    assert (at / "five/large").read_bytes() == (grown.home / "large").read_bytes()


def read_or_error(file: int, offset: int, content: bytes) -> str | int | None:
    try:
        read = os.pread(file, 4096, offset)
    except OSError as error:
        return error.errno
    return "right" if read == content[offset : offset + 4096] else "wrong"


@pytest.mark.parametrize("kind", KINDS)
def test_one_snapshot_that_is_deleted_under_its_mount_never_shows_other_bytes(
    place: Place, kind: str
) -> None:
    volume, at = place(kind), place.absent(kind)
    fill(volume / "large", 0, 30_000_000, 7)
    done("init", volume, "--history", "full")
    done("snapshot", volume, "--name", "one")
    content = (volume / "large").read_bytes()
    fill(volume / "large", 0, 30_000_000, 8)
    done("snapshot", volume, "--name", "two")
    done("mount", f"{volume}@one", at)
    try:
        with open(at / "large", "rb", 0) as file:
            assert os.pread(file.fileno(), 1000, 0) == content[:1000]
            done("delete", f"{volume}@one")
            assert [snapshot["name"] for snapshot in snapshots(volume)] == ["two"]
            answers = {read_or_error(file.fileno(), at, content) for at in range(0, 30_000_000, 100_000)}
            assert answers <= {"right", errno.ESTALE, errno.EIO}
    finally:
        subprocess.run(["umount", "--lazy", at], capture_output=True)


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_what_a_deleted_snapshot_held_is_free_though_it_was_being_read(
    place: Place, look: Look, kind: str
) -> None:
    volume = place(kind)
    fill(volume / "large", 0, 5_000_000, 1)
    done("init", volume, "--history", "full")
    done("snapshot", volume, "--name", "one")
    (volume / "large").unlink()
    done("snapshot", volume, "--name", "two")
    at = look(volume)
    with open(at / "one/large", "rb", 0) as file:
        file.read(100_000)
        (server,) = serving(at)
        done("delete", f"{volume}@one")
        wait_until(lambda: not any("(deleted)" in held or "/one/" in held for held in held_by(server)), 20)


def held_by(process: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return [held for held in found if held.startswith("/") and "memfd" not in held and "/tmp/" not in held]


# --- who may look -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_another_user_sees_what_that_user_may_read(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    for name, mode in (("open", 0o644), ("closed", 0o600), ("granted", 0o600), ("own", 0o600)):
        fill(volume / name, 0, 100, 1)
        chmod(volume / name, mode)
    set_acl(volume / "granted", "access", 65534, 4)
    chown(volume / "own", 65534, 65534)
    (volume / "shut").mkdir()
    (volume / "shut/file").touch()
    chmod(volume / "shut", 0o700)
    done("snapshot", volume, "--name", "one")
    at = look(volume, "--allow-other")

    def codes(*names: str) -> dict[str, int]:
        reading = {name: ["cat", f"one/{name}"] for name in names}
        return {name: as_another(at, *words) for name, words in reading.items()}

    expected = {"open": 0, "closed": 1, "granted": 0, "own": 0, "shut/file": 1}
    assert codes(*expected) == expected
    assert as_another(at, "ls", "one/shut") != 0
    assert as_another(at, "ls", "one", "latest") == 0
    status = (at / "one/own").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (65534, 0o600)


def as_another(cwd: Path, *words: str) -> int:
    return subprocess.run([*as_nobody(), *words], cwd=cwd, capture_output=True).returncode


@pytest.mark.parametrize("kind", KINDS)
def test_a_root_of_a_snapshot_that_is_closed_stays_closed(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    fill(volume / "open", 0, 100, 1)
    chmod(volume, 0o700)
    done("snapshot", volume, "--name", "one")
    at = look(volume, "--allow-other")
    assert as_another(at, "ls", ".") == 0
    assert as_another(at, "cat", "one/open") != 0
    assert as_another(at, "ls", "-l", "one/") != 0
    chmod(volume, 0o755)


@pytest.mark.parametrize("kind", ["xfs"])
@pytest.mark.parametrize("of", ["", "@one"])
def test_nobody_else_looks_without_being_let_in(place: Place, kind: str, of: str) -> None:
    volume, at = place(kind), place.absent(kind)
    fill(volume / "open", 0, 100, 1)
    chmod(volume / "open", 0o644)
    done("snapshot", volume, "--name", "one")
    done("mount", f"{volume}{of}", at)
    try:
        assert (at / (of and "open")).exists()
        assert subprocess.run([*as_nobody(), "ls", at], capture_output=True).returncode != 0
    finally:
        sh("umount", at)


# --- what it costs, and its end ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_snapshot_is_read_when_somebody_looks_into_it(place: Place, look: Look, kind: str) -> None:
    """So a damaged one is in nobody's way, and a long history takes no time to mount."""
    volume = place(kind)
    for number in range(5):
        fill(volume / "file", 0, 1000, number)
        done("snapshot", volume, "--name", f"s{number}")
    broken = store(volume) / "snapshots" / snapshots(volume)[2]["id"]
    if kind == "btrfs":
        sh("btrfs", "subvolume", "delete", broken / "tree")
    else:
        for table in broken.glob("*.arrow"):
            table.unlink()
    at = look(volume)
    assert len(os.listdir(at)) == 6
    assert refused(lambda: os.listdir(at / "s2")) == errno.EIO
    assert (at / "s4/file").read_bytes() == (volume / "file").read_bytes()
    assert len((at / "s3/file").read_bytes()) == 1000


@pytest.mark.parametrize("kind", ["xfs"])
@pytest.mark.parametrize("of", ["volume", "log"])
def test_umount_ends_it_and_leaves_nothing(place: Place, grown: Grown, of: str, tmp_path: Path) -> None:
    scratch, at = tmp_path / "scratch", place.absent("xfs")
    scratch.mkdir()
    done("mount", grown.home if of == "volume" else grown.log, at, env={"TMPDIR": scratch})
    assert sum(1 for _ in at.rglob("*")) > 100
    sh("umount", at)
    wait_until(lambda: not serving(at))
    assert list(at.iterdir()) == []
    assert list(scratch.iterdir()) == []


def test_python_mounts_all_of_a_volume(place: Place) -> None:
    import snapsync

    volume, at = place("xfs"), place.absent("xfs")
    fill(volume / "file", 0, 100, 1)
    done("snapshot", volume, "--name", "one")
    with snapsync.mount(snapsync.Volume(volume), at) as tree:
        assert (tree / "one/file").read_bytes() == (volume / "file").read_bytes()
    assert not at.is_mount()


def test_what_is_no_volume_is_told(place: Place, tmp_path: Path) -> None:
    directory, absent = place("xfs"), place.absent("xfs")
    assert_told(run("mount", directory, absent, "-q"), "not a volume", codes=(2,))
    assert_told(run("mount", f"file://{tmp_path}/none", absent, "-q"), "is no log", codes=(2,))
    assert not absent.exists()
