"""What is mounted is there as it was taken, and nobody can change it."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import Place, as_nobody, assert_told, done, run, sh, start, wait_until
from oracle import assert_same, freeze
from test_crash import lay_out
from worlds import World, chmod, fill, punch, set_acl, set_xattr, truncate

KINDS = ("btrfs", "xfs", "ext4")
SERVED = ("xfs", "ext4")
UNSEEN = ("flags", "layout")
"""FUSE has no inode flags, and does not tell where blocks are."""

Look = Callable[..., Path]


@pytest.fixture
def look(place: Place) -> Iterator[Look]:
    """Mounts a snapshot, or all of a volume, and clears up."""
    mounted: list[Path] = []

    def at(snapshot: str, *options: object, to: Path | None = None) -> Path:
        to = to or place.absent("ext4")
        mounted.append(to)
        report = done("mount", snapshot, to, *options)
        assert report["path"] == str(to)
        return to

    yield at
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], capture_output=True)


def serving(path: Path) -> list[int]:
    """The processes that serve a snapshot there."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except (NotADirectoryError, FileNotFoundError, ProcessLookupError):
            continue
        if b"mount" in words and os.fsencode(path) in words:
            found.append(int(process.name))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_mounted_snapshot_is_what_was_taken(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    lay_out(volume)
    world = World(volume, 77)
    world.grow(150)
    world.churn(100)
    held = freeze(volume)
    done("snapshot", volume, "--name", "then")
    world.churn(100)
    now = freeze(volume)
    at = look(f"{volume}@then")
    assert_same(held, at, ignore=UNSEEN if kind in SERVED else ())
    assert_same(now, volume)
    assert bool(serving(at)) == (kind in SERVED)


def test_a_part_of_a_btrfs_volume_shows_that_part(place: Place, look: Look) -> None:
    volume, standby = place("btrfs"), place.absent("btrfs")
    lay_out(volume)
    fill(volume / "left.log", 0, 100, 1)
    done("sync", volume, standby, "--exclude", "*.log")
    assert_same(freeze(standby), look(f"{volume}@latest"), ignore=UNSEEN)


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_writes_to_what_is_mounted(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    fill(volume / "file", 0, 100, 1)
    done("snapshot", volume)
    at = look(f"{volume}@latest")
    attempts: list[Callable[[], object]] = [
        lambda: (at / "file").open("r+b"),
        lambda: (at / "new").touch(),
        lambda: (at / "new").mkdir(),
        (at / "file").unlink,
        lambda: (at / "file").rename(at / "other"),
        lambda: os.chmod(at / "file", 0o777),
        lambda: os.utime(at / "file", (1, 1)),
        lambda: set_xattr(at / "file", b"user.a", b"1"),
        lambda: os.link(at / "file", at / "link"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="Read-only file system") as refused:
            attempt()
        assert refused.value.errno == errno.EROFS


@pytest.mark.parametrize("kind", KINDS)
def test_owners_and_modes_bind_who_looks(place: Place, look: Look, kind: str) -> None:
    """Whoever could not read a file cannot read what it was."""
    volume = place(kind)
    for name, mode in (("open", 0o644), ("closed", 0o600), ("granted", 0o600)):
        fill(volume / name, 0, 100, 1)
        chmod(volume / name, mode)
    set_acl(volume / "granted", "access", 65534, 4)
    done("snapshot", volume)
    at = look(f"{volume}@latest", "--allow-other")
    codes = {
        name: subprocess.run([*as_nobody(), "cat", name], cwd=at, capture_output=True).returncode
        for name in ("open", "closed", "granted")
    }
    assert codes == {"open": 0, "closed": 1, "granted": 0}


@pytest.mark.parametrize("kind", SERVED)
def test_any_part_of_a_large_file_reads_as_it_was(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    fill(volume / "large", 0, 5_000_000, 3)
    punch(volume / "large", 1 << 20, 1 << 20)
    truncate(volume / "large", 9_000_001)
    content = (volume / "large").read_bytes()
    done("snapshot", volume)
    chance = random.Random(8)
    with (look(f"{volume}@latest") / "large").open("rb", buffering=0) as file:
        for _ in range(200):
            start_at, length = chance.randrange(9_100_000), chance.choice((1, 4096, 70_000, 2_000_000))
            assert os.pread(file.fileno(), length, start_at) == content[start_at : start_at + length]
        assert file.seek(0, os.SEEK_HOLE) == 1 << 20
        assert file.seek(1 << 20, os.SEEK_DATA) == 2 << 20


@pytest.mark.parametrize("kind", SERVED)
def test_a_directory_of_many_names_is_listed_whole(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    names = {f"{'n' * (at % 200)}{at}" for at in range(5000)}
    (volume / "many").mkdir()
    for name in names:
        (volume / "many" / name).touch()
    done("snapshot", volume)
    listed = os.listdir(look(f"{volume}@latest") / "many")
    assert len(listed) == len(names)
    assert set(listed) == names


def requests(server: int) -> int:
    """The calls in which it has read: a request each, and what it read for them."""
    lines = Path(f"/proc/{server}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscr"])


def test_attributes_are_asked_for_only_where_some_file_has_any(place: Place, look: Look) -> None:
    volume = place("xfs")
    for number in range(200):
        (volume / f"file-{number}").touch()
    done("snapshot", volume, "--name", "without")
    set_xattr(volume / "file-7", b"user.a", b"1")
    done("snapshot", volume, "--name", "with")
    told = {name: look(f"{volume}@{name}") for name in ("without", "with")}
    asked, found = {}, {}
    for name, at in told.items():
        (server,) = serving(at)
        before = requests(server)
        listed = [set_of(at / f"file-{number}") for number in range(200)]
        asked[name], found[name] = requests(server) - before, listed
    assert found["without"] == [set()] * 200
    assert found["with"] == [{"user.a"} if number == 7 else set() for number in range(200)]
    assert os.getxattr(told["with"] / "file-7", "user.a") == b"1"
    assert asked["without"] < 250 < 400 <= asked["with"]
    # All snapshots beneath one directory: another may have some.
    every = look(volume)
    assert set_of(every / "without/file-7") == set()
    assert set_of(every / "with/file-7") == {"user.a"}


def set_of(path: Path) -> set[str]:
    """The names of its attributes; none where there cannot be any."""
    try:
        return set(os.listxattr(path))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return set()


def test_a_directory_takes_few_requests_and_a_small_file_one(place: Place, look: Look) -> None:
    volume = place("xfs")
    for number in range(500):
        fill(volume / f"file-{number}", 0, 1000, number)
    done("snapshot", volume)
    at = look(f"{volume}@latest")
    (server,) = serving(at)
    before = requests(server)
    listed = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in os.scandir(at)}
    assert set(listed.values()) == {1000}
    assert requests(server) - before < 100
    before, read = requests(server), {name: (at / name).read_bytes() for name in list(listed)[:100]}
    # One for the request, and those that find the bytes in the pool.
    assert requests(server) - before < 100 * 8
    assert all(read[name] == (volume / name).read_bytes() for name in read)


ORDERS: dict[str, Callable[[os.DirEntry[str]], object]] = {
    "name": lambda entry: entry.name,
    "number": lambda entry: entry.inode(),
    "none": lambda entry: random.Random(entry.name).random(),
}
SIZES = (0, 1, 4095, 4096, 4097, 70_000, 128 << 10, (128 << 10) + 1)


@pytest.mark.parametrize("order", ORDERS)
def test_files_that_are_read_in_a_row_are_there_before_they_are_asked_for(
    place: Place, look: Look, order: str
) -> None:
    volume, chance = place("xfs"), random.Random(1)
    for folder in ("one", "two"):
        (volume / folder).mkdir()
        for number in chance.sample(range(400), 400):
            fill(volume / folder / f"file-{number}", 0, chance.choice(SIZES), number)
    done("snapshot", volume)
    at = look(f"{volume}@latest")
    for folder, first in (("one", 40), ("two", 1)):
        files = [at / folder / entry.name for entry in sorted(os.scandir(at / folder), key=ORDERS[order])]
        small = [file for file in files if 0 < file.stat().st_size <= 128 << 10]
        assert not in_memory(files)
        for file in small[:first]:
            assert file.read_bytes() == (volume / folder / file.name).read_bytes()
        if order == "none":
            assert in_memory(files) == set(small[:first])
        else:
            expected = small[first : first + 7]
            wait_until(lambda among=expected: len(in_memory(among)) >= 6)  # type: ignore[misc]
        for file in files:
            assert file.read_bytes() == (volume / folder / file.name).read_bytes()


def in_memory(files: list[Path]) -> set[Path]:
    """Those of which the kernel has bytes."""
    told = sh("fincore", "--bytes", "--noheadings", "--raw", "--output", "RES,FILE", *files).splitlines()
    rows = [line.split(" ", 1) for line in told]
    return {Path(name) for size, name in rows if int(size)}


@pytest.mark.parametrize("kind", KINDS)
def test_umount_ends_it(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    fill(volume / "file", 0, 100, 1)
    done("snapshot", volume, "--name", "one")
    fill(volume / "file", 0, 100, 2)
    done("snapshot", volume, "--name", "two")
    at = look(f"{volume}@one")
    one = (at / "file").read_bytes()
    sh("umount", at)
    wait_until(lambda: not serving(at))
    assert not any(at.iterdir())
    look(f"{volume}@two", to=at)
    assert (at / "file").read_bytes() != one


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_what_is_served(place: Place, number: int) -> None:
    volume, at = place("xfs"), place.absent("xfs")
    fill(volume / "file", 0, 100, 1)
    done("snapshot", volume)
    process = start("mount", "--foreground", f"{volume}@latest", at)
    assert process.stdout is not None
    assert str(at) in process.stdout.readline()
    assert (at / "file").exists()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not at.is_mount()


def test_what_a_killed_server_leaves_is_told(place: Place, look: Look) -> None:
    volume = place("xfs")
    fill(volume / "file", 0, 100, 1)
    done("snapshot", volume)
    at = look(f"{volume}@latest")
    for process in serving(at):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: not serving(at))
    assert_told(run("mount", f"{volume}@latest", at, "-q"), f"umount {at}", codes=(3,))
    sh("umount", at)
    look(f"{volume}@latest", to=at)
    assert (at / "file").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_mounted_inside_the_volume_is_not_in_its_next_snapshot(
    place: Place, look: Look, kind: str
) -> None:
    volume, standby = place(kind), place.absent(kind)
    lay_out(volume)
    done("sync", volume, standby)
    look(f"{volume}@latest", to=volume / "old")
    done("sync", volume, standby)
    assert not (standby / "old").exists() or not any((standby / "old").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_cannot_be_mounted_on_what_is_in_use(place: Place, kind: str) -> None:
    volume, full, absent = place(kind), place(kind), place.absent(kind)
    fill(volume / "file", 0, 100, 1)
    fill(full / "file", 0, 100, 1)
    done("snapshot", volume)
    assert_told(run("mount", f"{volume}@latest", full, "-q"), "not empty", codes=(3,))
    assert_told(run("mount", f"{volume}@latest", volume / ".snapsync/new", "-q"), "store", codes=(3,))
    assert_told(run("mount", f"{volume}@other", absent, "-q"), "other", codes=(2,))
    assert_told(run("mount", full, absent, "-q"), "volume", codes=(2,))
    assert_told(run("mount", f"{volume}@latest", full / "file", "-q"), "not a directory", codes=(2,))
    assert not absent.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_python_mounts_for_as_long_as_it_wants(place: Place, kind: str) -> None:
    import snapsync

    volume, at = place(kind), place.absent(kind)
    fill(volume / "file", 0, 100, 1)
    held = freeze(volume)
    done("snapshot", volume)
    with snapsync.mount(f"{volume}@latest", at) as tree:
        assert_same(held, tree, ignore=UNSEEN)
        assert at.is_mount()
    assert not at.is_mount()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_mounted_runs_as_another_or_is_a_device(place: Place, look: Look, kind: str) -> None:
    volume = place(kind)
    fill(volume / "file", 0, 1_000, 1)
    done("snapshot", volume, "--name", "one")
    at = look(f"{volume}@one")
    options = sh("findmnt", "-no", "OPTIONS", "--mountpoint", at).strip().split(",")
    assert {"ro", "nosuid", "nodev"} <= set(options)
