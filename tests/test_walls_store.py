"""A store is opened beneath its volume's root, and looked at before it is believed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import Place, Ran, done, is_stopped, run, sh, snapshots, start, store, verified, wait_until
from worlds import exchange, set_acl

KINDS = pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
USER = 65534
REFUSED = 3


def volume_in(place: Place, kind: str, victim: Path = Path("/nowhere")) -> Path:
    """A primary of root's with two snapshots, in a directory of a user who has forged a store in it."""
    volume = place(kind)
    (volume / "f").write_text("content")
    (volume / "forged" / "incoming").mkdir(parents=True)
    for name in ("store", "latest.new"):
        (volume / "forged" / name).symlink_to(victim)
    sh("chown", "-hR", f"{USER}:{USER}", volume / "forged")
    done("snapshot", volume, "--name", "one")
    (volume / "g").write_text("more")
    done("snapshot", volume, "--name", "two")
    os.chown(volume, USER, USER)
    return volume


def verbs(volume: Path, other: Path, source: Path) -> Iterator[tuple[object, ...]]:
    """Each way to a volume; `other` is a directory that is not there yet, `source` an empty one."""
    yield "status", volume
    yield "list", volume
    yield "snapshot", volume
    yield "prune", volume, "--keep-last", 1
    yield "recover", volume
    yield "recover", volume, "--adopt"
    yield "promote", volume
    yield "delete", f"{volume}@one"
    yield "restore", f"{volume}@one"
    yield "restore", f"{volume}@one", "--to", other
    yield "diff", f"{volume}@one", f"{volume}@two"
    yield "verify", f"{volume}@two", volume
    yield "versions", volume / "f"
    yield "clone", f"{volume}@one", other
    yield "sync", volume, other
    yield "sync", source, volume
    yield "rejoin", volume, other
    yield "init", volume
    yield "receive", volume, "-i", "/dev/null"
    yield "send", f"{volume}@two", "-o", "/dev/null"


def tree(top: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """What lies there, for comparison: mode, owner, links, content."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (stat.st_mode, stat.st_uid, stat.st_nlink, content)
    return found


def assert_refused(ran: Ran, *words: str) -> None:
    assert ran.code == REFUSED, ran
    for word in words:
        assert word in ran.err, ran


def assert_refused_by_all(volume: Path, place: Place, kind: str, *words: str) -> None:
    other, source = place.absent(kind), place(kind)
    for verb in verbs(volume, other, source):
        ran = run(*verb)
        assert ran.code != 0, ran
        if verb[0] not in ("versions", "receive", "rejoin"):
            assert_refused(ran, *words)
        assert not other.exists() or not any(other.iterdir()), ran


@KINDS
@pytest.mark.parametrize("led", [".snapsync", "store"])
def test_a_link_in_the_place_of_a_store_is_not_followed(place: Place, kind: str, led: str) -> None:
    volume, elsewhere = volume_in(place, kind), place(kind)
    (elsewhere / "etc").mkdir(mode=0o755)
    (elsewhere / "etc" / "passwd").write_text("precious")
    own = volume / ".snapsync"
    own.rename(volume / "kept")
    if led == ".snapsync":
        own.symlink_to(elsewhere / "etc")
    else:
        own.mkdir(mode=0o700)
        (own / "store").symlink_to(volume / "kept" / "store")
    before = tree(elsewhere)
    assert_refused_by_all(volume, place, kind, "is a link")
    assert tree(elsewhere) == before


@KINDS
def test_a_store_that_an_ordinary_user_made_is_not_roots(place: Place, kind: str) -> None:
    volume = volume_in(place, kind)
    sh("chown", f"{USER}:{USER}", volume / ".snapsync", store(volume))
    assert_refused_by_all(volume, place, kind, f"belongs to user {USER}")


@KINDS
def test_a_store_in_which_others_may_write_is_refused(place: Place, kind: str) -> None:
    volume = volume_in(place, kind)
    own = volume / ".snapsync"
    for mode in (0o770, 0o702):
        own.chmod(mode)
        assert run("list", volume).code == REFUSED
    own.chmod(0o700)
    set_acl(own, "access", USER, 7)
    ran = run("snapshot", volume)
    assert_refused(ran, "others may write")
    own.chmod(0o700)
    done("list", volume)


@KINDS
def test_a_mount_in_the_place_of_a_store_is_not_entered(place: Place, kind: str) -> None:
    volume, elsewhere = volume_in(place, kind), place("ext4")
    for point in (volume / ".snapsync", store(volume)):
        sh("mount", "--bind", elsewhere, point)
        try:
            ran = run("snapshot", volume)
            assert_refused(ran, "is a mount")
        finally:
            sh("umount", point)
    assert not any(elsewhere.iterdir())
    done("snapshot", volume)


@KINDS
@pytest.mark.parametrize("at", ["snapshots", "pool", "volume.json", "lock", "journal.json"])
def test_nothing_in_a_store_is_a_link(place: Place, kind: str, at: str) -> None:
    volume, elsewhere = volume_in(place, kind), place(kind)
    (elsewhere / "precious").mkdir()
    (elsewhere / "precious" / "file").write_text("precious")
    spot = store(volume) / at
    was = spot.with_name("was")
    if at == "journal.json":
        was.write_text("{}")
    else:
        spot.rename(was)
    spot.symlink_to(was if at != "snapshots" else elsewhere / "precious")
    (volume / "f").write_text("changed")
    before = tree(elsewhere)
    ran = run("snapshot", volume)
    if at == "pool" and kind == "btrfs":
        assert ran.code == 0, ran
    else:
        assert_refused(ran, "is a link")
    assert tree(elsewhere) == before


@KINDS
@pytest.mark.parametrize("special", ["fifo", "socket"])
def test_nothing_in_a_store_is_a_special_file(place: Place, kind: str, special: str) -> None:
    volume = volume_in(place, kind)
    record = store(volume) / "volume.json"
    record.unlink()
    if special == "fifo":
        os.mkfifo(record)
    else:
        at = os.open(record.parent, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{at}/volume.json")
        os.close(at)
    ran = run("list", volume)
    assert_refused(ran, "a store holds only files and directories")


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_an_object_that_leads_elsewhere_is_not_read(place: Place, kind: str) -> None:
    volume, secret = volume_in(place, kind), place(kind) / "secret"
    secret.write_text("SECRET!")
    (found,) = [
        path
        for path in (store(volume) / "pool").rglob("*")
        if path.is_file() and b"content" in path.read_bytes()
    ]
    for what in ("link", "owner"):
        found.unlink()
        if what == "link":
            found.symlink_to(secret)
        else:
            shutil.copy(secret, found)
            os.chown(found, USER, USER)
        to = place.absent(kind)
        assert run("restore", f"{volume}@one", "--to", to).code == REFUSED
        assert "SECRET" not in "".join(path.read_text() for path in to.rglob("*") if path.is_file())


@KINDS
def test_what_has_the_name_of_a_temporary_file_is_replaced_and_not_written_to(
    place: Place, kind: str
) -> None:
    volume, victim = volume_in(place, kind), place(kind)
    (victim / "linked").write_text("precious")
    (victim / "named").write_text("precious")
    (store(volume) / "volume.json.new").symlink_to(victim / "linked")
    done("snapshot", volume, "--name", "three")
    if kind != "btrfs":
        os.link(victim / "named", store(volume) / "volume.json.new")
        done("snapshot", volume, "--name", "four")
    assert {path.read_text() for path in victim.iterdir()} == {"precious"}


@KINDS
def test_a_journal_of_an_ordinary_user_makes_nothing_roots(place: Place, kind: str) -> None:
    """It tells of a restore that would give a program of his to root, and make it set-user-id."""
    own = place(kind)
    (own / "tool").write_text("his")
    (own / "tool").chmod(0o4755)
    done("snapshot", own, "--name", "s")
    os.chown(own / "tool", USER, USER)
    (own / "tool").chmod(0o755)
    ran = run("restore", f"{own}@s", env={"SNAPSYNC_FAULT": "commit.marked:1"})
    assert ran.code == -signal.SIGKILL, ran
    sh("chown", f"{USER}:{USER}", own / ".snapsync", store(own), store(own) / "journal.json")
    sh("chown", f"{USER}:{USER}", own)
    ran = run("snapshot", own)
    assert ran.code == REFUSED, ran
    assert ((own / "tool").stat().st_uid, (own / "tool").stat().st_mode & 0o7777) == (USER, 0o755)


@KINDS
def test_a_store_belongs_to_one_directory(place: Place, kind: str) -> None:
    """One that was moved is refused, and goes on where an administrator says so."""
    volume, other = volume_in(place, kind), place(kind)
    (other / ".snapsync").mkdir(mode=0o700)
    sh("mv", store(volume), other / ".snapsync" / "store")
    for verb in ("list", "status", "snapshot", "recover"):
        ran = run(verb, other)
        assert_refused(ran, "belongs to another directory")
        assert "--adopt" in ran.err, ran
    done("recover", other, "--adopt")
    assert [found["name"] for found in snapshots(other)] == ["one", "two"]
    done("snapshot", other, "--name", "three")
    verified(f"{other}@three", other)


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_copy_of_a_store_belongs_to_nobody_until_it_is_adopted(place: Place, kind: str) -> None:
    volume, copy = volume_in(place, kind), place.absent(kind)
    sh("cp", "-a", volume, copy)
    assert run("snapshot", copy).code == REFUSED
    found = next(path for path in (store(copy) / "pool").rglob("*") if path.is_file())
    os.chown(found, USER, USER)
    ran = run("recover", copy, "--adopt")
    assert_refused(ran, str(found))
    os.chown(found, 0, 0)
    (copy / ".snapsync" / "x").symlink_to("/etc")
    assert run("recover", copy, "--adopt").code == REFUSED
    (copy / ".snapsync" / "x").unlink()
    done("recover", copy, "--adopt")
    verified(f"{copy}@two", f"{volume}@two")


def test_a_copy_of_the_subvolume_around_a_volume_is_another(place: Place) -> None:
    """Who owns that subvolume can make one, in which all has the same numbers and birth times."""
    around, copy = place("btrfs"), place.absent("btrfs")
    (around / "volume").mkdir()
    (around / "volume" / "f").write_text("content")
    done("snapshot", around / "volume")
    for path in (around, around / "volume"):
        os.chown(path, USER, USER)
    sh("btrfs", "-q", "subvolume", "snapshot", around, copy)
    for verb in ("list", "status", "snapshot"):
        assert_refused(run(verb, copy / "volume"), "belongs to another directory")
    done("recover", copy / "volume", "--adopt")
    done("snapshot", copy / "volume")
    done("snapshot", around / "volume")


@KINDS
def test_a_store_keeps_its_directory_under_another_name(place: Place, kind: str) -> None:
    volume = volume_in(place, kind)
    moved = volume.with_name("moved-" + volume.name)
    volume.rename(moved)
    done("snapshot", moved)
    moved.rename(volume)


@KINDS
def test_a_store_of_the_last_format_is_bound_when_it_is_locked(place: Place, kind: str) -> None:
    volume = volume_in(place, kind)
    file = store(volume) / "volume.json"
    record = json.loads(file.read_text())
    bound = record.pop("root")
    file.write_text(json.dumps({**record, "format": 5}))
    assert "root" not in json.loads(file.read_text())
    done("list", volume)
    assert "root" not in json.loads(file.read_text())
    done("recover", volume)
    after = json.loads(file.read_text())
    assert (after["format"], after["root"]) == (6, bound)


@KINDS
@pytest.mark.parametrize(
    "point", ["snapshot.begin", "snapshot.table", "delete.unlisted", "stage.frame", "commit.marked"]
)
def test_a_store_that_is_exchanged_while_a_command_runs_is_not_looked_at(
    place: Place, kind: str, point: str
) -> None:
    """The root's owner puts one of his own in its place: the command goes on with what it opened."""
    victim = place(kind)
    (victim / "precious").mkdir()
    (victim / "precious" / "file").write_text("precious")
    volume = volume_in(place, kind, victim / "precious")
    (volume / "f").write_text("changed")
    verb = {
        "snapshot.begin": ("snapshot", volume, "--name", "three"),
        "snapshot.table": ("snapshot", volume, "--name", "three"),
        "delete.unlisted": ("delete", f"{volume}@one"),
        "stage.frame": ("restore", f"{volume}@one"),
        "commit.marked": ("restore", f"{volume}@one"),
    }[point]
    if point in ("stage.frame", "commit.marked"):
        (volume / "f").unlink()
    forged = volume / "forged"
    before = tree(victim)
    running = start(*verb, env={"SNAPSYNC_FAULT": f"{point}:1=stop"})
    wait_until(lambda: is_stopped(running.pid))
    exchange(volume / ".snapsync", forged)
    running.send_signal(signal.SIGCONT)
    _, err = running.communicate(timeout=60)
    assert tree(victim) == before
    assert sorted(path.name for path in (volume / ".snapsync").iterdir()) == [
        "incoming",
        "latest.new",
        "store",
    ]
    assert run("list", volume).code == REFUSED
    exchange(volume / ".snapsync", forged)
    done("recover", volume)
    names = [found["name"] for found in snapshots(volume)]
    assert running.returncode == 0, err
    if verb[0] == "snapshot":
        assert names == ["one", "two", "three"]
        # Under whatever name, the store is in no snapshot.
        done("restore", f"{volume}@three", "--to", to := place.absent(kind))
        assert not list(to.rglob("volume.json"))
    elif verb[0] == "delete":
        assert names == ["two"]
    else:
        assert (volume / "f").read_text() == "content"


def test_a_file_system_of_the_user_is_not_asked(place: Place) -> None:
    """As with fusermount: whoever owns a directory may mount on it what never answers."""
    volume, elsewhere = volume_in(place, "ext4"), place("xfs")
    (volume / ".snapsync").rename(volume / "kept")
    (volume / ".snapsync").mkdir()
    sh("mount", "--bind", elsewhere, volume / ".snapsync")
    try:
        assert_refused_by_all(volume, place, "ext4", "is a mount")
    finally:
        sh("umount", volume / ".snapsync")


def test_a_standby_in_its_owners_hands_takes_no_store_of_his(place: Place) -> None:
    source, target = place("xfs"), place.absent("btrfs")
    (source / "f").write_text("content")
    done("sync", source, target)
    os.chown(source, USER, USER)
    done("sync", source, target)
    assert target.stat().st_uid == USER
    (target / ".snapsync").rename(target / "kept")
    shutil.copytree(source / ".snapsync", target / ".snapsync", symlinks=True)
    ran = run("sync", source, target)
    assert ran.code == REFUSED, ran


def test_where_names_fold_only_the_very_name_is_a_store(place: Place, mount: Callable[..., Path]) -> None:
    if not Path("/sys/fs/ext4/features/casefold").exists():
        pytest.skip("this kernel's ext4 does not fold names")
    volume = mount("ext4", 64 << 20, "-O", "casefold")
    sh("chattr", "+F", volume)
    forged = place("ext4")
    (forged / "f").write_text("content")
    done("snapshot", forged)
    shutil.copytree(forged / ".snapsync", volume / ".SNAPSYNC")
    ran = run("list", volume)
    assert ran.code == 2, ran
    assert "is not a volume" in ran.err, ran


@pytest.mark.parametrize("special", ["link", "fifo"])
@pytest.mark.parametrize("verb", ["send", "diff"])
def test_what_others_put_where_a_file_is_to_be_written_leads_nowhere(
    place: Place, special: str, verb: str
) -> None:
    volume, other, open_to_all = place("ext4"), place("ext4"), place("ext4")
    (volume / "f").write_text("content")
    done("snapshot", volume, "--name", "one")
    open_to_all.chmod(0o1777)
    (other / "precious").write_text("precious")
    name = open_to_all / "out"
    if special == "link":
        name.symlink_to(other / "precious")
    else:
        os.mkfifo(name)
    os.chown(name, USER, USER, follow_symlinks=False)
    reader = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    words = ("send", f"{volume}@one") if verb == "send" else ("diff", other, f"{volume}@one")
    ran = run(*words, "-o", name, "-q")
    assert_refused(ran, f"of user {USER}")
    assert os.read(reader, 100) == (b"precious" if special == "link" else b"")
    os.close(reader)
    os.chown(name, 0, 0, follow_symlinks=False)
    if special == "link":
        done(*words, "-o", name)
        assert name.is_symlink()
        assert (other / "precious").read_bytes() != b"precious"
