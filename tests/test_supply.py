"""What a primary has lost of its older snapshots comes from a standby that has them: from one that `--from`
names, or from one on this machine by itself. Nothing else is believed to have it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path

import pool
import pytest
from machine import Pair, Place, assert_told, done, passed, run, snapshots
from oracle import Picture, assert_same, freeze
from remote import Server
from worlds import append, bulk, chmod, fill, link, rename, truncate

KINDS = [("ext4", "btrfs"), ("xfs", "ext4")]
each = pytest.mark.parametrize("kinds", KINDS, ids="-".join)
one = pytest.mark.parametrize("kinds", [("ext4", "ext4")], ids="-".join)
K = 1024


def lay_out(root: Path) -> None:
    (root / "dir/deep").mkdir(parents=True)
    for number, name in enumerate(
        ["edited", "cut", "gone", "moved", "quiet", "linked", "dir/a", "dir/deep/b"]
    ):
        fill(root / name, 0, 9 * K + number, number)
    fill(root / "large", 0, 3000 * K, 50)
    fill(root / "odd \udcff", 0, 70, 9)
    link(root / "linked", root / "dir/linked2")
    (root / "to").symlink_to("quiet")
    bulk(root / "more", 30)


def go_on(root: Path) -> None:
    fill(root / "edited", 100, 50, 61)
    truncate(root / "cut", 100)
    (root / "gone").unlink()
    rename(root / "moved", root / "dir/elsewhere")
    append(root / "dir/linked2", 10, 62)
    shutil.rmtree(root / "dir/deep")
    fill(root / "large", 1000 * K, 10 * K, 63)
    fill(root / "odd \udcff", 0, 60, 64)
    chmod(root / "quiet", 0o640)
    fill(root / "new", 0, 500, 65)


def lose(volume: Path) -> None:
    """Removes every object that the newest snapshot does not name, as if no history was kept."""
    newest = pool.objects_named(volume, {snapshots(volume)[-1]["id"]})
    for place in pool.objects_there(volume) - newest:
        pool.remove_object(volume, place)


def thin(pair: Pair) -> tuple[Picture, Picture]:
    """Two rounds, after which the primary has lost what it changed between them."""
    lay_out(pair.source)
    pair.sync("--name", "first")
    first = freeze(pair.source)
    go_on(pair.source)
    pair.sync("--name", "second")
    lose(pair.source)
    return first, freeze(pair.source)


def move(pair: Pair) -> Path:
    """The standby is not where the primary knows it any more."""
    known = pair.target
    pair.target = known.rename(known.with_name("elsewhere"))
    return known


def assert_nothing_left(volume: Path) -> None:
    assert not list(volume.glob(".snapsync/incoming/*"))
    assert not list(volume.glob(".snapsync/store/journal*"))
    assert pool.objects_there(volume) <= pool.objects_named(volume, {one["id"] for one in snapshots(volume)})


@each
def test_a_named_standby_brings_what_is_lost(pair: Pair, place: Place, kinds: tuple[str, str]) -> None:
    first, second = thin(pair)
    known = move(pair)
    address, standby = f"{pair.source}@first", ("--from", pair.target)
    whole, some, clone = place.absent("xfs"), place.absent("ext4"), place.absent(kinds[0])
    for words in (
        ("restore", address, "--to", whole),
        ("restore", address, "dir", "large", "--to", some),
        ("clone", address, clone),
        ("restore", address, "edited"),
        ("restore", address),
        ("versions", pair.source / "edited", "--restore", "1", "--to", some),
    ):
        ran = run(*words, "-q")
        gone = ("keeps no history of its own",) if kinds[0] == "ext4" else ("the bytes of", "are lost")
        assert_told(ran, *gone, f"`--from {known}`", codes=(4,))
    assert not whole.exists()
    assert not clone.exists()
    assert_same(second, pair.source)
    assert done("restore", address, "--to", whole, *standby)["snapshot"]["name"] == "first"
    assert_same(first, whole)
    done("restore", address, "dir", "large", "--to", some, *standby)
    assert (some / "large").read_bytes() == (whole / "large").read_bytes()
    assert (some / "dir/deep/b").read_bytes() == (whole / "dir/deep/b").read_bytes()
    done("clone", address, clone, *standby)
    assert_same(first, clone)
    (version, *_) = done("versions", pair.source / "edited")["versions"]
    found = some / "found"
    done("versions", pair.source / "edited", "--restore", version["number"], "--to", found, *standby)
    assert found.read_bytes() == (whole / "edited").read_bytes()
    assert_same(second, pair.source)


@each
def test_a_tree_goes_back_with_what_a_standby_has(pair: Pair, place: Place, kinds: tuple[str, str]) -> None:
    first, second = thin(pair)
    fill(pair.source / "more/own", 0, 100, 71)
    fill(pair.source / "edited", 0, 30, 72)
    own = freeze(pair.source)
    report = done("restore", f"{pair.source}@first", "--from", pair.target, "--name", "back")
    assert_same(first, pair.source)
    assert_nothing_left(pair.source)
    to = place.absent("xfs")
    done("restore", f"{pair.source}@{report['before']['id']}", "--to", to)
    assert_same(own, to)
    done("restore", f"{pair.source}@back", "--to", place.absent("xfs"))
    pair.sync()
    # Its standby is where the primary knows it, and is asked by itself.
    ran = done("restore", f"{pair.source}@second", "--to", place.absent("ext4"))
    assert_same(second, Path(ran["to"]))


@pytest.mark.parametrize("kinds", [("ext4", "xfs")], ids="-".join)
def test_the_command_that_brings_a_file_back_brings_it_where_no_history_is_kept(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    """The newest snapshot that had it may be one that no standby was brought."""
    fill(pair.source / "file", 0, 5_000, 1)
    fill(pair.source / "other", 0, 5_000, 2)
    pair.sync("--name", "tue")
    content = (pair.source / "file").read_bytes()
    fill(pair.source / "other", 0, 10, 3)
    done("snapshot", pair.source, "--name", "wed")
    (pair.source / "file").unlink()
    done("snapshot", pair.source)
    told = run("log", pair.source, "file").out.partition("to get it back: snapsync ")[2]
    assert "@tue" in told
    done(*shlex.split(told))
    assert (pair.source / "file").read_bytes() == content
    (pair.source / "file").unlink()
    done("versions", pair.source / "file", "--restore", "1")
    assert (pair.source / "file").read_bytes() == content
    done("versions", pair.source / "file", "--restore", "1", "--to", pair.source / "copy")
    assert (pair.source / "copy").read_bytes() == content


@one
def test_a_standby_here_is_asked_by_itself_and_one_elsewhere_is_named(
    pair: Pair, server: Server, place: Place, kinds: tuple[str, str]
) -> None:
    first, second = thin(pair)
    to = place.absent("xfs")
    report = done("restore", f"{pair.source}@first", "--to", to)
    assert_same(first, to)
    assert any(str(pair.target) in note for note in report["notes"]), report["notes"]
    report = done("restore", f"{pair.source}@first", "edited")
    assert (pair.source / "edited").read_bytes() == (to / "edited").read_bytes()
    done("restore", f"{pair.source}@second")
    assert_same(second, pair.source)
    # The second standby is known by what ssh calls it.
    client, far = server.client(), place.absent("ext4")
    done("sync", pair.source, client.at(far), *client.options)
    lose(pair.source)
    move(pair)
    ran = run("restore", f"{pair.source}@first", "--to", place.absent("xfs"), "-q")
    assert_told(ran, f"`--from {client.at(far)}`", codes=(4,))


@each
def test_a_standby_on_another_machine_brings_what_is_lost(
    pair: Pair, server: Server, place: Place, kinds: tuple[str, str]
) -> None:
    first, second = thin(pair)
    move(pair)
    client, address = server.client(), f"{pair.source}@first"
    standby = ("--from", client.at(pair.target), *client.options)
    whole, some, clone = place.absent("xfs"), place.absent("ext4"), place.absent(kinds[0])
    done("restore", address, "--to", whole, *standby)
    assert_same(first, whole)
    done("restore", address, "dir", "odd \udcff", "--to", some, *standby)
    assert (some / "odd \udcff").read_bytes() == (whole / "odd \udcff").read_bytes()
    done("clone", address, clone, *standby)
    assert_same(first, clone)
    done("versions", pair.source / "edited", "--restore", 1, "--to", some / "found", *standby)
    assert (some / "found").read_bytes() == (whole / "edited").read_bytes()
    done("restore", address, "gone", "dir/deep", *standby)
    assert (pair.source / "dir/deep/b").read_bytes() == (whole / "dir/deep/b").read_bytes()
    done("restore", address, *standby)
    assert_same(first, pair.source)
    assert_nothing_left(pair.source)
    done("restore", f"{pair.source}@second", *standby)
    assert_same(second, pair.source)


@one
def test_what_has_not_the_snapshot_is_refused_before_anything_is_written(
    pair: Pair, server: Server, place: Place, kinds: tuple[str, str]
) -> None:
    _, second = thin(pair)
    other = Pair.make(place, kinds)
    fill(other.source / "edited", 0, 9 * K, 0)
    other.sync("--name", "first")
    client, to = server.client(), place.absent("xfs")
    plain, late = place("ext4"), place.absent("ext4")
    done("sync", pair.source, late, "--snap", "second")
    kept = [one["name"] for one in snapshots(pair.source)]
    places = ((other.target, "lineage"), (plain, "not a volume"), (plain / "no", "no"), (late, "snapshot"))
    for standby, word in places:
        ran = run("restore", f"{pair.source}@first", "--to", to, "-q", "--from", standby)
        assert_told(ran, str(standby), word, codes=(2, 3))
        ran = run("restore", f"{pair.source}@first", "-q", "--from", client.at(standby), *client.options)
        assert_told(ran, client.at(standby), codes=(2, 3))
    ran = run("restore", f"{pair.source}@first", "edited", "-q", "--from", other.target)
    assert_told(ran, str(other.target), "lineage", codes=(3,))
    ran = run("restore", f"{pair.source}@first", "--to", to, "-q", "--from", pair.source)
    assert_told(ran, "the volume itself", codes=(2,))
    ran = run("restore", f"{pair.source}@first", "--to", to, "-q", "--from", "nowhere:/srv", "--rsh", "false")
    assert_told(ran, "nowhere", codes=(1,))
    lose(pair.target)
    (pair.target / "dir/elsewhere").unlink()
    for named in ((pair.target,), (client.at(pair.target), *client.options)):
        ran = run("restore", f"{pair.source}@first", "--to", to, "-q", "--from", *named)
        assert_told(ran, str(pair.target), "the bytes of", "are lost", codes=(4,))
        ran = run("restore", f"{pair.source}@first", "moved", "-q", "--from", *named)
        assert_told(ran, "the bytes of moved", "are lost", codes=(4,))
    assert not to.exists()
    assert_same(second, pair.source)
    assert [one["name"] for one in snapshots(pair.source)][: len(kept)] == kept


@one
def test_a_server_that_only_receives_gives_no_content_away(
    pair: Pair, server: Server, place: Place, kinds: tuple[str, str]
) -> None:
    from machine import command

    first, _ = thin(pair)
    to, above = place.absent("xfs"), pair.target.parent
    for options, is_given in (("--receive-only", False), ("--read-only", True)):
        client = server.client(forced=f"{command()[0]} serve --restrict-to {above} {options}")
        words = ("restore", f"{pair.source}@first", "--to", to, "--from", client.at(pair.target))
        ran = run(*words, *client.options, "-q")
        if is_given:
            assert ran.code == 0, ran
        else:
            assert_told(ran, "sends nothing", codes=(3,))
    assert_same(first, to)


POINTS = ["restore.fetched", "restore.done", "stage.manifest", "commit.detach", "commit.cleaned"]


@pytest.mark.parametrize("point", POINTS)
@one
def test_a_kill_leaves_the_old_tree_or_the_new_one(
    pair: Pair, place: Place, kinds: tuple[str, str], point: str, tmp_path: Path
) -> None:
    first, second = thin(pair)
    words = ("restore", f"{pair.source}@first", "--from", pair.target)
    ran = run(*words, env={"SNAPSYNC_FAULT": f"{point}:1", "SNAPSYNC_FAULT_TRACE": tmp_path / "trace"})
    assert ran.code == -signal.SIGKILL, (ran, passed(tmp_path / "trace"))
    done("recover", pair.source)
    assert_nothing_left(pair.source)
    is_new = (pair.source / "gone").exists()
    assert_same(first if is_new else second, pair.source)
    done(*words)
    assert_same(first, pair.source)


@one
def test_a_restore_elsewhere_that_was_cut_goes_on(
    pair: Pair, server: Server, place: Place, kinds: tuple[str, str]
) -> None:
    first, _ = thin(pair)
    client, to = server.client(), place.absent("xfs")
    words = ("restore", f"{pair.source}@first", "--to", to, "--from", client.at(pair.target), *client.options)
    for point in ("stage.manifest", "commit.attach", "restore.done"):
        ran = run(*words, env={"SNAPSYNC_FAULT": f"{point}:1"})
        assert ran.code == -signal.SIGKILL, (point, ran)
    done(*words)
    assert_same(first, to)


# --- primaries that keep no history -----------------------------------------------------------


def light(pair: Pair) -> tuple[Picture, Picture]:
    """What the first snapshot held, and the tree with work that no round has seen."""
    done("init", pair.source, "--history", "light")
    lay_out(pair.source)
    pair.sync("--name", "first")
    first = freeze(pair.source)
    go_on(pair.source)
    pair.sync("--name", "second")
    fill(pair.source / "edited", 0, 30, 72)
    fill(pair.source / "large", 100, 30, 74)
    append(pair.source / "quiet", 100, 73)
    fill(pair.source / "dir/fresh", 0, 1000, 75)
    link(pair.source / "dir/fresh", pair.source / "more/fresh")
    return first, freeze(pair.source)


BACK = [(), ("edited", "large", "dir")]


@pytest.mark.parametrize("paths", BACK, ids=["whole", "paths"])
@pytest.mark.parametrize("kinds", [("ext4", "ext4"), ("xfs", "btrfs")], ids="-".join)
def test_a_light_primary_loses_nothing_when_it_goes_back(
    pair: Pair, place: Place, kinds: tuple[str, str], paths: tuple[str, ...]
) -> None:
    first, own = light(pair)
    report = done("restore", f"{pair.source}@first", *paths, "--from", pair.target)
    if not paths:
        assert_same(first, pair.source)
    assert (pair.source / "dir/deep/b").stat().st_size == 9 * K + 7
    assert not list(pair.source.glob(".snapsync/incoming/*"))
    before, to = f"{pair.source}@{report['before']['id']}", place.absent("xfs")
    done("restore", before, "--to", to)
    assert_same(own, to)
    pair.sync()
    done("restore", before)
    assert_same(own, pair.source)
    pair.sync()


@one
def test_without_room_for_what_only_a_tree_has_nothing_is_replaced(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    _, own = light(pair)
    free = os.statvfs(pair.source)
    filler = pair.source.parent / "filler"
    try:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - 2000 * K)
        ran = run("restore", f"{pair.source}@first", "large", "-q", "--from", pair.target)
    finally:
        filler.unlink(missing_ok=True)
    assert_told(ran, "free", codes=(3,))
    assert_same(own, pair.source)
