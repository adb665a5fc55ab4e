"""A log that cannot be used, or not be trusted: it is told, and the standby stays as it was."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from http_proxy import says, where
from machine import FileSystems, Place, Ran, assert_told, run, snapshots
from object_store import KEY, SECRET, BucketLog, DirectoryLog, Log, Logs, unused
from oracle import assert_same, freeze, touch_marks
from test_rehearsal import fuse
from worlds import World, fill

K = 1024


@pytest.fixture
def log(logs: Logs) -> Log:
    return logs("directory")


@pytest.fixture
def primary(place: Place) -> Path:
    primary = place("xfs")
    fill(primary / "file", 0, 50_000, 1)
    return primary


def assert_no_secret(ran: Ran, *more: str) -> None:
    for secret in (SECRET, *more):
        assert secret not in ran.err + ran.out


# --- the store does not let in ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another/secret+of-nobody"}, ("credentials",)),
        ({"AWS_ACCESS_KEY_ID": "AKIAOFNOBODYATALL000"}, ("credentials",)),
        ({"AWS_ENDPOINT_URL": "nowhere"}, ("Connection refused", "endpoint")),
    ],
    ids=["secret", "key", "endpoint"],
)
def test_who_is_not_let_in_is_told_without_the_secret(
    bucket: BucketLog, primary: Path, place: Place, changed: dict[str, str], words: tuple[str, ...]
) -> None:
    target = place.absent("xfs")
    if "AWS_ENDPOINT_URL" in changed:
        changed = {"AWS_ENDPOINT_URL": unused()}
    env = bucket.env | changed
    for sides in ((primary, bucket.address), (bucket.address, target)):
        ran = run("sync", *sides, env=env)
        assert_told(ran, bucket.address, *words, codes=(1,))
        assert_no_secret(ran, *(value for name, value in changed.items() if "SECRET" in name))
    assert not (primary / ".snapsync").exists()
    assert not target.exists()
    assert bucket.names() == []


def test_no_credentials_are_told(bucket: BucketLog, primary: Path) -> None:
    env = {name: value for name, value in bucket.env.items() if "KEY" not in name}
    ran = run("sync", primary, bucket.address, env=env)
    assert_told(ran, bucket.address, "AWS_ACCESS_KEY_ID", codes=(2,))
    assert not (primary / ".snapsync").exists()


def test_what_a_server_repeats_of_the_credentials_is_not_shown(logs: Logs, primary: Path) -> None:
    """Some tell whoever signed badly what they were given."""
    log, proxy = logs.watched()
    told = f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>{SECRET}</StringToSign>"
    for status, code in ((403, "SignatureDoesNotMatch"), (400, f"Bad {KEY} {SECRET}"), (418, "")):
        proxy.begin(where(lambda asked: True, says(status, code, told)))
        ran = run("sync", primary, log.address, env=log.env)
        assert ran.code == 1, ran
        assert_no_secret(ran, KEY)


@pytest.mark.parametrize(
    "address", [f"s3://{KEY}:{SECRET}@bucket/prefix", f"s3://bucket/prefix?secret={SECRET}"]
)
def test_credentials_in_an_address_are_refused_and_not_shown(primary: Path, address: str) -> None:
    ran = run("sync", primary, address)
    assert_told(ran, "is not the address of a log", codes=(2,))
    assert_no_secret(ran, KEY)


def test_credentials_in_an_endpoint_are_not_shown(bucket: BucketLog, primary: Path) -> None:
    endpoint = unused().replace("://", "://somebody:verysecretword@")
    ran = run("sync", primary, bucket.address, env=bucket.env | {"AWS_ENDPOINT_URL": endpoint})
    assert ran.code in (1, 2), ran
    assert_no_secret(ran, "verysecretword")


@pytest.mark.parametrize("kind", ["seaweedfs", "moto"])
def test_a_bucket_that_is_not_there_is_told(logs: Logs, primary: Path, place: Place, kind: str) -> None:
    log, target = logs(kind), place.absent("xfs")
    ran = run("sync", primary, "s3://nobodys/log", env=log.env)
    assert_told(ran, "s3://nobodys/log", "bucket", codes=(1,))
    ran = run("sync", "s3://nobodys/log", target, env=log.env)
    assert_told(ran, "s3://nobodys/log", codes=(1, 2))
    assert not (primary / ".snapsync").exists()
    assert not target.exists()


def test_a_directory_whose_parent_is_not_there_is_told(log: DirectoryLog, primary: Path) -> None:
    ran = run("sync", primary, f"{log.address}/deeper/log")
    assert_told(ran, "deeper/log", "No such file", codes=(1,))
    assert not (primary / ".snapsync").exists()


def test_a_disk_without_hard_links_is_no_place_for_a_log(file_systems: FileSystems, primary: Path) -> None:
    """As sticks have it that are sold for everything: nothing would keep two writers apart."""
    with fuse(file_systems, "exfat") as point:
        ran = run("sync", primary, f"file://{point}/log", "--quiet")
        assert_told(ran, "hard links", codes=(3,))
        assert not [path for path in point.rglob("*") if path.is_file()]
    assert not (primary / ".snapsync").exists()


def test_a_directory_that_becomes_a_log_is_for_its_owner_alone(log: DirectoryLog, primary: Path) -> None:
    log.sync(primary, log.address)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o700


# --- another thing is there -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "seaweedfs"])
def test_a_place_with_other_things_is_no_place_for_a_log(logs: Logs, primary: Path, kind: str) -> None:
    log = logs(kind)
    log.write("mine/letter.txt", b"mine")
    assert_told(run("sync", primary, log.address, env=log.env), "is no log, and has", codes=(3,))
    assert log.names() == ["mine/letter.txt"]
    assert not (primary / ".snapsync").exists()


def test_a_log_of_another_primary_is_refused(log: Log, logs: Logs, primary: Path, place: Place) -> None:
    other, standby = place("ext4"), place.absent("btrfs")
    fill(other / "other", 0, 3_000, 2)
    of_other = logs("directory")
    of_other.sync(other, of_other.address)
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    before, held = touch_marks(standby), {name: of_other.read(name) for name in of_other.names()}
    assert_told(run("sync", primary, of_other.address), "is the standby of another volume", codes=(3,))
    assert_told(run("sync", of_other.address, standby), "of another volume", codes=(3,))
    assert touch_marks(standby) == before
    assert {name: of_other.read(name) for name in of_other.names()} == held


def test_a_log_that_a_newer_snapsync_made_is_refused(log: Log, primary: Path, place: Place) -> None:
    standby = place.absent("xfs")
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    described = json.loads(log.read("format.json"))
    log.write("format.json", json.dumps(described | {"version": 99, "more": True}).encode())
    before = touch_marks(standby)
    for sides in ((primary, log.address), (log.address, standby)):
        assert_told(run("sync", *sides), "version 99", "newer snapsync", codes=(3,))
    assert touch_marks(standby) == before
    assert len(log.commits()) == 1


def test_a_log_that_was_emptied_is_not_begun_again_unasked(log: DirectoryLog, primary: Path) -> None:
    """It may be a disk that is not mounted."""
    log.sync(primary, log.address)
    shutil.rmtree(log.path)
    ran = run("sync", primary, log.address)
    assert_told(ran, "is known", "snapsync init", codes=(3,))
    assert not log.path.exists()
    log.path.mkdir()
    assert_told(run("sync", primary, log.address), "is known", "snapsync init", codes=(3,))
    log.sync(primary, log.address, "--new-standby")
    assert len(log.commits()) == 1


def test_a_standby_whose_snapshot_the_log_does_not_have_is_refused(
    log: Log, logs: Logs, primary: Path, place: Place
) -> None:
    standby, younger = place.absent("xfs"), logs("directory")
    log.sync(primary, log.address)
    younger.sync(primary, younger.address, "--snap", "latest")
    fill(primary / "file", 0, 50_000, 2)
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    before = touch_marks(standby)
    assert_told(run("sync", younger.address, standby), "does not have snapshot", codes=(3,))
    assert touch_marks(standby) == before


# --- damage -----------------------------------------------------------------------------------


@dataclass
class Damaged:
    """A log of three snapshots, and a standby of the first of them."""

    home: Path
    primary: Path
    standby: Path

    def copy(self, name: str) -> DirectoryLog:
        path = self.home.with_name(f"damaged-{name}")
        shutil.copytree(self.home, path)
        return DirectoryLog(path)


@pytest.fixture(scope="module")
def damaged(logs: Logs, file_systems: FileSystems) -> Iterator[Damaged]:
    place = Place(file_systems)
    try:
        log = logs("directory")
        assert isinstance(log, DirectoryLog)
        primary, standby = place("btrfs"), place.absent("xfs")
        world = World(primary, seed=30)
        world.grow(30)
        log.sync(primary, log.address)
        log.sync(log.address, standby)
        for number in range(2):
            world.churn(15)
            fill(primary / f"more-{number}", 0, 30_000, number)
            log.sync(primary, log.address)
        yield Damaged(log.path, primary, standby)
    finally:
        place.clear()


def missing(log: Log, name: str, other: str) -> None:
    log.remove(name)


def short(log: Log, name: str, other: str) -> None:
    content = log.read(name)
    log.write(name, content[: len(content) * 2 // 3])


def empty(log: Log, name: str, other: str) -> None:
    log.write(name, b"")


def flipped(log: Log, name: str, other: str) -> None:
    """Heads of frames in a pack are not read, but no frame is this short."""
    content = bytearray(log.read(name))
    for at in range(20, len(content), 40):
        content[at] ^= 1
    log.write(name, bytes(content))


def swapped(log: Log, name: str, other: str) -> None:
    one, two = log.read(name), log.read(other)
    log.write(name, two)
    log.write(other, one)


def altered(log: Log, name: str, other: str) -> None:
    """It still makes sense by itself: another time in a commit, another byte where Arrow files have none."""
    content = log.read(name)
    if name.startswith("commits/"):
        content = json.dumps(json.loads(content) | {"written": "2001-02-03T04:05:06Z"}).encode()
    else:
        assert content.startswith(b"ARROW1\0\0")
        content = content.replace(b"ARROW1\0\0", b"ARROW1\0\1", 1)
    log.write(name, content)


DAMAGE = (missing, short, empty, flipped, swapped, altered)
CASES = [(kind, how) for kind in ("commits", "manifest", "index", "packs") for how in DAMAGE]
CASES.remove(("packs", altered))


def named(log: Log, kind: str) -> tuple[str, str]:
    """The object of a kind of the second snapshot, and that of the third."""
    if kind == "commits":
        return tuple(log.names("commits/")[1:3])  # type: ignore[return-value]
    parts = [commit["deed"]["snapshot"] for commit in log.commits()[1:]]
    if kind == "packs":
        return tuple(part["packs"][0]["key"] for part in parts)
    return tuple(part[kind]["key"] for part in parts)


@pytest.mark.parametrize(("kind", "damage"), CASES, ids=lambda one: getattr(one, "__name__", one))
def test_a_damaged_object_is_found_out_and_the_standby_stays_as_it_was(
    damaged: Damaged, kind: str, damage: Callable[[Log, str, str], None]
) -> None:
    log = damaged.copy(f"{kind}-{damage.__name__}")
    before, line = freeze(damaged.standby), snapshots(damaged.standby)
    damage(log, *named(log, kind))
    ran = run("sync", log.address, damaged.standby, "--quiet")
    assert_told(ran, codes=(4,))
    assert_same(before, damaged.standby)
    assert snapshots(damaged.standby) == line


def test_a_damaged_newest_commit_is_found_out_or_harmless(damaged: Damaged, place: Place) -> None:
    """Nothing vouches for it yet, so some bits of it mean nothing. None of them makes a wrong tree."""
    chance, codes = random.Random(31), set()
    for number in range(25):
        log, standby = damaged.copy(f"newest-{number}"), place.absent("ext4")
        name = log.names("commits/")[-1]
        content = bytearray(log.read(name))
        at = chance.randrange(len(content))
        content[at] ^= 1 << chance.randrange(7)
        log.write(name, bytes(content))
        ran = run("sync", log.address, standby, "--quiet")
        codes.add(ran.code)
        assert ran.code in (0, 2, 3, 4), (at, ran)
        if ran.code:
            assert_told(ran, codes=(2, 3, 4))
        else:
            assert_same(damaged.primary, standby)
    assert 4 in codes


def test_damage_in_a_bucket_is_found_out(bucket: BucketLog, primary: Path, place: Place) -> None:
    standby = place.absent("xfs")
    bucket.sync(primary, bucket.address)
    bucket.sync(bucket.address, standby)
    before = freeze(primary)
    fill(primary / "file", 0, 50_000, 3)
    bucket.sync(primary, bucket.address)
    (pack,) = (part["key"] for part in bucket.commits()[1]["deed"]["snapshot"]["packs"])
    whole = bucket.read(pack)
    half = len(whole) // 2
    for wrong in (whole[:half], whole[:half] + bytes(len(whole) - half), b"", None):
        bucket.remove(pack) if wrong is None else bucket.write(pack, wrong)
        ran = run("sync", bucket.address, standby, "--quiet", env=bucket.env)
        assert_told(ran, codes=(4,))
        assert_same(before, standby)
        # As it was, it is good again.
        bucket.write(pack, whole)
    bucket.sync(bucket.address, standby)
    assert_same(primary, standby)


def test_a_disk_without_room_keeps_the_standby_as_it_was(
    log: Log, primary: Path, mount: Callable[..., Path]
) -> None:
    standby = mount("ext4", 40 << 20)
    log.sync(primary, log.address)
    log.sync(log.address, standby)
    before = freeze(standby)
    (primary / "large").write_bytes(os.urandom(60 << 20))
    log.sync(primary, log.address)
    ran = run("sync", log.address, standby)
    assert ran.code in (1, 3), ran
    assert_same(before, standby)
    (primary / "large").unlink()
    log.sync(primary, log.address)
    # The snapshot with the large file lies between, and cannot be passed over.
    assert run("sync", log.address, standby).code in (1, 3)
    assert_same(before, standby)
