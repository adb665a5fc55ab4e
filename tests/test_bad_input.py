"""Input that cannot be right: a refusal in one sentence with advice, and nothing changed on either side."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import worlds
from machine import (
    GIB,
    MIB,
    REFUSALS,
    FileSystems,
    Pair,
    Place,
    Ran,
    assert_told,
    capless,
    done,
    passed,
    run,
    sh,
    snapshots,
    start,
    stopped_at,
    store,
    wait_until,
)
from oracle import assert_same, freeze, touch_marks

import snapsync


def refused(*args: object, sides: tuple[Path, ...], words: tuple[str, ...] = (), **how: object) -> Ran:
    """Runs what must be refused, and proves that it changed nothing on the sides."""
    before = [(touch_marks(side), (side / ".snapsync").exists()) for side in sides]
    ran = run(*args, "--quiet", **how)  # type: ignore[arg-type]
    assert_told(ran, *words)
    assert [(touch_marks(side), (side / ".snapsync").exists()) for side in sides] == before
    return ran


@pytest.fixture
def source(place: Place) -> Path:
    root = place("btrfs")
    (root / "dir").mkdir()
    worlds.fill(root / "file", 0, 10_000, 1)
    worlds.fill(root / "dir/other", 0, 10_000, 2)
    return root


@pytest.fixture
def target(place: Place) -> Path:
    return place.absent("xfs")


# --- sources ----------------------------------------------------------------------------------


def test_more_threads_than_can_work_are_refused(source: Path, target: Path) -> None:
    ran = run("sync", source, target, "--jobs", 100_000)
    assert ran.code == 2, ran
    assert not target.exists()
    with pytest.raises(snapsync.UsageError):
        snapsync.sync(source, target, jobs=100_000)


def test_a_missing_source_is_refused(place: Place, target: Path) -> None:
    missing = place.absent("btrfs")
    refused("sync", missing, target, sides=(missing, target), words=(str(missing),))


def test_a_file_as_source_is_refused(source: Path, target: Path) -> None:
    refused("sync", source / "file", target, sides=(source, target), words=(str(source / "file"),))


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_an_unreadable_source_is_refused(place: Place, target: Path, kind: str) -> None:
    source = place(kind)
    (source / "file").touch()
    os.chown(source, 1000, 1000)
    os.chmod(source, 0)
    sides = (source, target)
    refused("sync", source, target, sides=sides, words=(str(source),), wrap=capless())


def test_an_unreadable_file_is_named_and_nothing_is_copied(place: Place, target: Path) -> None:
    source = place("xfs")
    (source / "file").touch()
    os.chown(source, 0, 0)
    (source / "secret").touch(0)
    os.chown(source / "secret", 1000, 1000)
    ran = run("sync", source, target, "--quiet", wrap=capless())
    assert_told(ran, "secret", codes=(1, 2, 3))
    assert not target.exists() or len(freeze(target).entries) == 1


# --- targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["new", "dir", "dir/new", ".snapsync/new"])
def test_a_target_inside_the_source_is_refused(source: Path, below: str) -> None:
    done("snapshot", source)
    refused("sync", source, source / below, sides=(source,), words=("inside",))


def test_a_source_inside_the_target_is_refused(source: Path) -> None:
    refused("sync", source / "dir", source, sides=(source, source / "dir"))


@pytest.mark.parametrize("way", ["{}", "{}/", "{}/.", "{}/dir/..", "link"])
def test_the_same_directory_on_both_sides_is_refused(place: Place, source: Path, way: str) -> None:
    if way == "link":
        same = place.absent("btrfs")
        same.symlink_to(source)
    else:
        same = Path(way.format(source))
    refused("sync", source, str(same) if way == "link" else way.format(source), sides=(source,))


def test_the_same_directory_by_another_mount_is_refused(place: Place, source: Path) -> None:
    other = place("ext4")
    sh("mount", "--bind", source, other)
    try:
        refused("sync", source, other, sides=(source,))
    finally:
        sh("umount", other)


def test_a_target_with_files_in_it_is_refused(place: Place, source: Path) -> None:
    target = place("xfs")
    (target / "precious").write_text("mine")
    refused("sync", source, target, sides=(source, target), words=(str(target),))


def test_a_file_as_target_is_refused(place: Place, source: Path) -> None:
    target = place("xfs") / "file"
    target.write_text("mine")
    refused("sync", source, target, sides=(source, target.parent), words=(str(target),))


def test_a_target_whose_parent_is_missing_is_refused(place: Place, source: Path) -> None:
    target = place.absent("xfs") / "below"
    refused("sync", source, target, sides=(source, target.parent), words=(str(target.parent),))


def test_a_standby_of_another_lineage_is_refused(place: Place, source: Path, target: Path) -> None:
    done("sync", source, target)
    other = place("ext4")
    (other / "file").touch()
    refused("sync", other, target, sides=(other, target))


def test_another_primary_as_target_is_refused(place: Place, source: Path) -> None:
    target = place("xfs")
    (target / "file").touch()
    done("snapshot", target)
    refused("sync", source, target, sides=(source, target), words=("primary",))


def test_a_snapshot_of_a_standby_is_refused(source: Path, target: Path) -> None:
    done("sync", source, target)
    assert_told(run("snapshot", target, "--quiet"), "standby", codes=(3,))
    assert len(snapshots(target)) == 1


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    sh("mount", "--bind", path, path)
    try:
        sh("mount", "-o", "remount,bind,ro", path)
        yield
    finally:
        sh("umount", path)


def test_a_new_target_on_a_read_only_file_system_is_refused(place: Place, source: Path) -> None:
    parent = place("xfs")
    with read_only(parent):
        refused("sync", source, parent / "new", sides=(source, parent), words=("read-only",))


def test_a_standby_on_a_read_only_file_system_is_refused(source: Path, target: Path) -> None:
    done("sync", source, target)
    (source / "new").touch()
    with read_only(target):
        refused("sync", source, target, sides=(source, target), words=("read-only",))


def test_a_standby_that_someone_changed_is_refused_by_path(source: Path, target: Path) -> None:
    done("sync", source, target)
    (target / "file").write_text("changed by hand")
    worlds.fill(source / "file", 0, 100, 9)
    before = touch_marks(target)
    ran = run("sync", source, target, "--quiet")
    assert_told(ran, "file", codes=(3,))
    assert touch_marks(target) == before
    assert (target / "file").read_text() == "changed by hand"


@pytest.mark.parametrize("change", ["mode", "moved", "gone", "in the way", "protected", "another link"])
def test_drift_of_every_kind_is_refused(source: Path, target: Path, change: str) -> None:
    """The primary changes, makes or removes an entry, and the standby's is not what the last round left."""
    os.link(source / "file", source / "other name")
    done("sync", source, target)

    def link_elsewhere() -> None:
        (target / "other name").unlink()
        (target / "other name").mkdir()

    drift: dict[str, Callable[[], object]] = {
        "mode": lambda: os.chmod(target / "file", 0o600),
        "moved": lambda: (target / "file").rename(target / "elsewhere"),
        "gone": lambda: (target / "file").unlink(),
        "in the way": lambda: (target / "new").write_text("precious"),
        "protected": lambda: worlds.set_flags(target / "file", 0x10),
        "another link": link_elsewhere,
    }
    drift[change]()
    worlds.fill(source / "file", 0, 100, 9)
    (source / "other name").unlink()
    (source / "new").touch()
    before = touch_marks(target)
    assert_told(run("sync", source, target, "--quiet"), codes=(3,))
    assert touch_marks(target) == before


# --- space ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_no_space_is_refused_before_anything_is_staged(
    place: Place, file_systems: FileSystems, kind: str
) -> None:
    source = place("btrfs")
    (source / "file").write_bytes(os.urandom(400 * MIB))
    small = file_systems.mount(kind, 320 * MIB)
    try:
        target, before = small / "standby", freeze(source)
        free = os.statvfs(small).f_bfree
        assert_told(run("sync", source, target, "--quiet"), "space")
        assert not target.exists() or len(freeze(target).entries) == 1
        assert os.statvfs(small).f_bfree > free - 1024
        assert_same(before, source)
    finally:
        file_systems.unmount(small)


def test_running_out_of_inodes_leaves_the_old_snapshot(place: Place, file_systems: FileSystems) -> None:
    """There is room for the bytes, but not for the files."""
    small = file_systems.mount("ext4", 256 * MIB, "-N", "1500")
    try:
        pair = Pair(place("xfs"), small / "standby")
        worlds.bulk(pair.source, 100)
        pair.sync()
        before = freeze(pair.target)
        worlds.bulk(pair.source / "bulk-0000", 3_000, size=10)
        assert_told(run("sync", pair.source, pair.target, "--quiet"), "space", codes=(1, 2, 3))
        assert_same(before, pair.target)
        for path in list((pair.source / "bulk-0000").glob("bulk-*"))[1:]:
            shutil.rmtree(path)
        pair.sync()
    finally:
        file_systems.unmount(small)


def test_a_disk_that_fills_up_during_a_round_leaves_the_old_snapshot(
    place: Place, file_systems: FileSystems, tmp_path: Path
) -> None:
    small = file_systems.mount("ext4", GIB)
    try:
        pair = Pair(place("xfs"), small / "standby")
        (pair.source / "old").write_bytes(b"old")
        pair.sync()
        before = freeze(pair.target)
        for number in range(4):
            (pair.source / f"{number}").write_bytes(os.urandom(60 * MIB))
        with stopped_at("stage.begin", "sync", pair.source, pair.target, "--quiet") as process:
            fill_up(small)
            process.send_signal(signal.SIGCONT)
            out, err = process.communicate()
            assert_told(Ran((), process.returncode, out, err), "space", codes=(1, 3))
        assert_same(before, pair.target)
        (small / "filler").unlink()
        pair.sync()
    finally:
        file_systems.unmount(small)


def fill_up(mount: Path) -> None:
    """Takes all the space there is, down to the last block."""
    for size in (16 * MIB, MIB, 4096):
        try:
            while True:
                end = (mount / "filler").stat().st_size if (mount / "filler").exists() else 0
                worlds.preallocate(mount / "filler", end, size)
        except OSError:
            continue


# --- the store --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_volume_that_another_command_holds_is_refused(source: Path, target: Path, side: str) -> None:
    done("sync", source, target)
    (source / "new").touch()
    held = source if side == "source" else target
    # A round waits a minute for its primary.
    words = ("sync", source, target) if side == "target" else ("snapshot", source)
    with (store(held) / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(*words, sides=(source, target), words=("another",))
        assert done("status", held)["busy"]
    done("sync", source, target)


def test_a_running_round_holds_its_standby_and_not_its_primary(place: Place, tmp_path: Path) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    for number in range(4):
        (pair.source / f"{number}").write_bytes(os.urandom(40 * MIB))
    pair.sync()
    (pair.source / "more").write_bytes(os.urandom(100 * MIB))
    with stopped_at("stage.begin", "sync", pair.source, pair.target, "--quiet") as process:
        assert_told(run("snapshot", pair.target, "--quiet"), "another", codes=(3,))
        assert done("status", pair.target)["busy"]
        assert not done("status", pair.source)["busy"]
        done("snapshot", pair.source)
        assert_told(run("sync", pair.source, pair.target, "--quiet"), "another", codes=(3,))
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0
    pair.sync()


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("verb", ["sync", "snapshot", "list", "status", "delete"])
def test_a_store_of_a_newer_version_is_left_alone(source: Path, target: Path, side: str, verb: str) -> None:
    done("sync", source, target)
    newer = source if side == "source" else target
    description = store(newer) / "volume.json"
    content = json.loads(description.read_text())
    content["format"] = 99
    description.write_text(json.dumps(content))
    args = {"sync": (source, target), "delete": (f"{newer}@latest",)}.get(verb, (newer,))
    refused(verb, *args, sides=(source, target), words=("newer",))
    assert json.loads(description.read_text()) == content


def test_an_interrupted_first_round_belongs_to_its_primary(
    place: Place, source: Path, target: Path, tmp_path: Path
) -> None:
    run("sync", source, target, env={"SNAPSYNC_FAULT": "stage.done:1"})
    other = place("ext4")
    (other / "file").touch()
    refused("sync", other, target, sides=(other, target))
    assert_told(run("verify", f"{target}@latest", source, "--quiet"), codes=REFUSALS)
    done("sync", source, target)
    assert_same(source, target)


def test_a_command_on_what_is_no_volume_is_refused(place: Place) -> None:
    plain = place("xfs")
    (plain / "file").touch()
    for args in (("list", plain), ("status", plain), ("delete", f"{plain}@latest")):
        refused(*args, sides=(plain,), words=(str(plain),))


def test_a_delete_without_a_snapshot_is_refused(source: Path) -> None:
    done("snapshot", source)
    refused("delete", source, sides=(source,))
    assert len(snapshots(source)) == 1


# --- snapshots and manifests ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nope", "99", "ffffffff-0000-4000-8000-000000000000", "..", ""])
def test_an_unknown_snapshot_is_refused(source: Path, tmp_path: Path, name: str) -> None:
    done("snapshot", source)
    unknown = f"{source}@{name}"
    for args in (
        ("delete", unknown),
        ("diff", unknown, source, "-o", tmp_path / "out.arrow"),
        ("verify", source, unknown),
    ):
        refused(*args, sides=(source,), words=(str(source),))
    assert not (tmp_path / "out.arrow").exists()


@pytest.mark.parametrize("name", ["a/b", "..", "", "x" * 300, "two\nlines", "latest", "7"])
def test_a_name_that_no_snapshot_can_have_is_refused(source: Path, name: str) -> None:
    """It would be a path, or could not be told from a number or `latest`."""
    refused("snapshot", source, "--name", name, sides=(source,))


def test_a_name_is_given_once(source: Path) -> None:
    done("snapshot", source, "--name", "monday")
    refused("snapshot", source, "--name", "monday", sides=(source,), words=("monday",))
    assert len(snapshots(source)) == 1


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "flipped"])
def test_a_damaged_manifest_is_told_apart(source: Path, tmp_path: Path, damage: str) -> None:
    done("snapshot", source, "--name", "a")
    worlds.bulk(source, 200)
    done("snapshot", source, "--name", "b")
    file = tmp_path / "changes.arrow"
    done("diff", f"{source}@a", f"{source}@b", "-o", file)
    whole = file.read_bytes()
    broken = {
        "text": b"not a manifest at all",
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:-200] + bytes(byte ^ 0xFF for byte in whole[-200:]),
    }
    file.write_bytes(broken[damage])
    assert_told(run("inspect", file, "--quiet"), str(file), codes=(2, 3, 4))


def test_an_output_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    done("snapshot", source)
    output = tmp_path / "missing" / "out.arrow"
    ran = run("diff", f"{source}@latest", source, "-o", output, "--quiet")
    assert_told(ran, str(output), codes=(1, 2, 3))


@pytest.mark.parametrize(
    "args",
    [(), ("nonsense",), ("sync",), ("sync", "a"), ("sync", "a", "b", "c"), ("list", "--nonsense", "v")],
    ids=str,
)
def test_a_command_that_makes_no_sense_is_a_usage_error(args: tuple[str, ...]) -> None:
    ran = run(*args)
    assert ran.code == 2
    assert ran.out == ""
    assert "--help" in ran.err or "Usage" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("verb", ["delete", "hold", "release"])
def test_a_name_that_is_no_text_names_no_snapshot(place: Place, verb: str) -> None:
    volume = place("xfs")
    done("snapshot", volume)
    assert_told(run(verb, "-q", f"{volume}@\udcff"), "UTF-8", codes=(2,))


# --- being stopped ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("first", [True, False], ids=["first round", "later round"])
def test_a_stopped_round_says_so_and_heals(
    place: Place, tmp_path: Path, how: signal.Signals, first: bool
) -> None:
    pair = Pair.make(place, ("xfs", "ext4"))
    (pair.source / "file").write_bytes(b"small")
    if not first:
        pair.sync()
    for number in range(6):
        (pair.source / f"{number}").write_bytes(os.urandom(50 * MIB))
    trace = tmp_path / "trace"
    process = start("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT_TRACE": trace})
    wait_until(lambda: process.poll() is not None or "stage.begin" in passed(trace))
    process.send_signal(how)
    out, err = process.communicate()
    assert process.returncode == 5, err
    assert out == ""
    assert "Traceback" not in err
    pair.sync()
