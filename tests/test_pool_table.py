"""The table that a standby's pool snapshot is made of: from the last one and the manifest, without a walk.

It must say what a walk would find, whatever was changed, and whatever was done to the standby meanwhile.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pool
import pyarrow as pa
import pytest
import worlds
from machine import GIB, FileSystems, Pair, Place, done, need, passed, run, snapshots, store, verified
from oracle import BLOCK, assert_same, freeze
from test_crash import Primed, hits_of_a_round, kill
from worlds import World, bulk, exchange, fill, preallocate, rewrite_quietly

PAIRS = [("xfs", "xfs"), ("btrfs", "xfs"), ("btrfs", "ext4"), ("xfs", "ext4")]
FLAGS = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x4 | 0x1_0000 | 0x80_0000
UNSETTLED = -(1 << 63)

libc = ctypes.CDLL(None, use_errno=True)

Rows = dict[int, dict[str, Any]]


# --- what is there ----------------------------------------------------------------------------


def born(path: bytes) -> int:
    """The birth time in ns, by statx."""
    at_fdcwd, no_follow, everything = -100, 0x100, 0xFFF
    buffer = ctypes.create_string_buffer(256)
    assert not libc.statx(at_fdcwd, path, no_follow, everything, buffer), path
    sec, nsec = struct.unpack_from("=qI", buffer, 80)
    return int(sec) * 1_000_000_000 + int(nsec)


def number(root: bytes, path: bytes) -> int:
    return 0 if path in (b"", b".") else os.lstat(os.path.join(root, path)).st_ino


def walked(volume: Path) -> Rows:
    """What a table of this tree has to say, by inode number."""
    root, picture = os.fsencode(volume), freeze(volume)
    rows: Rows = {}
    for path, entry in picture.entries.items():
        whole = os.path.join(root, path)
        status, ino = os.lstat(whole), number(root, path)
        row = rows.setdefault(
            ino,
            {
                "generation": born(whole),
                "kind": entry.kind.replace(" ", "_"),
                "size": 0 if entry.kind == "directory" else entry.size,
                "attributes": (entry.mode, entry.uid, entry.gid, entry.device, entry.mtime_ns),
                "ctime": status.st_ctime_ns,
                "flags": entry.flags & FLAGS,
                "links": [],
                "symlink_target": entry.target or None,
                "xattr": list(entry.xattrs),
                "unwritten": {
                    block
                    for first, end, what in entry.layout
                    if what == "unwritten"
                    for block in range(first, end)
                },
                "content": entry.content,
            },
        )
        if ino:
            row["links"].append((number(root, os.path.dirname(path)), os.path.basename(path)))
            row["links"].sort()
    return rows


def told(volume: Path, identity: str) -> Rows:
    """What a table says, in the same form."""
    rows: Rows = {}
    for row in pool.rows(volume, identity):
        assert not rows or row["inode"] > max(rows), "not in order"
        end = -(-row["size"] // BLOCK)
        blocks = {
            block
            for range_ in row["unwritten"]
            for block in range(range_["offset"] // BLOCK, -(-(range_["offset"] + range_["length"]) // BLOCK))
        }
        rows[row["inode"]] = {
            "generation": row["generation"],
            "kind": row["kind"],
            "size": row["size"],
            "attributes": tuple(row[name] for name in ("mode", "uid", "gid", "rdev", "mtime")),
            "ctime": row["ctime"],
            "flags": row["flags"],
            "links": [(link["parent"], link["name"]) for link in row["links"]],
            "symlink_target": row["symlink_target"],
            "xattr": [(xattr["name"], xattr["value"]) for xattr in row["xattr"]],
            "unwritten": {block for block in blocks if block < end},
            "content": pool.digest(volume, row) if row["kind"] == "file" else "",
        }
    return rows


def assert_table_is_the_tree(volume: Path) -> None:
    """Row by row. A change time may also be the one that no file has."""
    newest = snapshots(volume)[-1]
    table, tree = told(volume, newest["id"]), walked(volume)
    assert table.keys() == tree.keys()
    for ino, row in table.items():
        if row["ctime"] == UNSETTLED:
            row["ctime"] = tree[ino]["ctime"]
        assert row == tree[ino], f"inode {ino}"
    assert newest["entries"] == len(tree)
    assert newest["bytes"] == sum(row["size"] for row in tree.values() if row["kind"] == "file")


def walk_started(volume: Path, identity: str) -> int:
    file = store(volume) / "snapshots" / identity / "patch.arrow"
    metadata = pa.ipc.open_file(file).schema.metadata
    return int(metadata[b"snapsync.walk_started"])


def assert_nothing_became_settled(volume: Path) -> None:
    """A row that was copied with its change time was settled when it was last looked at."""
    last, newest = (snap["id"] for snap in snapshots(volume)[-2:])
    before, since = told(volume, last), walk_started(volume, last)
    settled = walk_started(volume, newest)
    assert all(row["ctime"] < settled for row in told(volume, newest).values())
    if walk_started(volume, newest) == since:
        return
    for ino, row in told(volume, newest).items():
        if ino in before and row["ctime"] == before[ino]["ctime"] != UNSETTLED:
            assert row["ctime"] < since, f"inode {ino}"


def walks(reports: Iterable[dict[str, Any]]) -> list[str]:
    """The notes that say that the standby was walked after all."""
    return [note for report in reports for note in report["notes"] if "was walked for its snapshot" in note]


# --- what a round writes ------------------------------------------------------------------------


def files_of_table(volume: Path) -> list[Path]:
    return [store(volume) / "snapshots" / snapshots(volume)[-1]["id"] / name for name in pool.TABLE]


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_a_round_writes_the_rows_that_changed_and_shares_the_rest(pair: Pair, kinds: tuple[str, str]) -> None:
    bulk(pair.source, 2_000)
    # What is newer when it is first walked is looked at again, and has rows in the patch.
    time.sleep(0.2)
    pair.sync()
    volumes = [
        volume for volume, kind in zip((pair.source, pair.target), kinds, strict=True) if kind != "btrfs"
    ]
    whole = [files_of_table(volume)[0].stat().st_ino for volume in volumes]
    for turn in range(3):
        for number in range(0, 500, 100):
            fill(pair.source / f"bulk-0000/{number // 100:06}", turn, 100, turn)
        (pair.source / f"bulk-0001/{100 + turn:06}").unlink()
        pair.sync()
    for volume, shared in zip(volumes, whole, strict=True):
        table, patch = files_of_table(volume)
        assert table.stat().st_ino == shared
        # Five files, three that went, and their directories.
        assert pa.ipc.open_file(patch).read_all().num_rows < 30
    assert_table_is_the_tree(pair.target)


@pytest.mark.parametrize("kinds", [("xfs", "ext4")], ids="-".join)
def test_when_much_has_changed_a_whole_table_is_written_again(pair: Pair) -> None:
    bulk(pair.source, 1_500)
    pair.sync()
    before = [files_of_table(volume)[0].stat().st_ino for volume in (pair.source, pair.target)]
    for path in sorted(pair.source.glob("bulk-*/*")):
        path.chmod(0o600)
    shutil.rmtree(pair.source / "bulk-0003")
    bulk(pair.source / "more", 300, seed=1)
    pair.sync()
    for volume, ino in zip((pair.source, pair.target), before, strict=True):
        table, patch = files_of_table(volume)
        assert table.stat().st_ino != ino
        assert pa.ipc.open_file(patch).read_all().num_rows == 0
    assert_table_is_the_tree(pair.target)
    pair.sync()
    verified(f"{pair.target}@latest", pair.source)


@pytest.mark.parametrize("kinds", [("xfs", "ext4")], ids="-".join)
def test_tables_of_the_version_before_are_read_and_replaced(pair: Pair) -> None:
    bulk(pair.source, 50)
    pair.sync()
    for volume in (pair.source, pair.target):
        table, patch = files_of_table(volume)
        rows = pa.ipc.open_file(table).read_all()
        metadata = {
            b"snapsync.table": b"1",
            b"snapsync.walk_started": str(walk_started(volume, latest(volume))).encode(),
        }
        assert pa.ipc.open_file(patch).read_all().num_rows == 0
        for file in (table, patch):
            file.unlink()
        with pa.ipc.new_file(table, rows.schema.with_metadata(metadata)) as writer:
            writer.write_table(rows)
        record = json.loads((store(volume) / "volume.json").read_text())
        (store(volume) / "volume.json").write_text(json.dumps(record | {"format": 3}))
    fill(pair.source / "bulk-0000/000007", 3, 100, 1)
    report = done("sync", pair.source, pair.target)
    assert len(walks([report])) == 1
    assert report["changes"]["changed"] == 1
    assert_table_is_the_tree(pair.target)
    verified(f"{pair.target}@latest", pair.source)
    assert not walks([done("sync", pair.source, pair.target)])


def latest(volume: Path) -> str:
    identity: str = snapshots(volume)[-1]["id"]
    return identity


# --- the same as a walk -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(int(os.environ.get("SNAPSYNC_TABLE_SEEDS", 2))))
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_after_random_rounds_the_table_is_what_a_walk_finds(
    pair: Pair, kinds: tuple[str, str], seed: int
) -> None:
    world = World(pair.source, 7_000 + 10 * PAIRS.index(kinds) + seed)
    world.grow(80)
    try:
        pair.sync()
        for operations in (1, 40, 80, 0, 3, 60):
            world.churn(operations)
            pair.sync()
            assert_table_is_the_tree(pair.target)
            assert_nothing_became_settled(pair.target)
            verified(f"{pair.target}@latest", pair.source)
        assert not walks(pair.reports)
    except Exception as error:
        error.add_note("\n".join(world.log))
        raise


@pytest.mark.parametrize("kinds", [("xfs", "ext4")], ids="-".join)
def test_numbers_that_are_used_again_within_one_commit(pair: Pair) -> None:
    """ext4 gives the number of what was just deleted to what is made next."""
    for number_ in range(20):
        fill(pair.source / f"old-{number_}", 0, 3_000, number_)
    (pair.source / "folder/below").mkdir(parents=True)
    fill(pair.source / "folder/below/file", 0, 3_000, 1)
    pair.sync()
    for turn in range(3):
        shutil.rmtree(pair.source / "folder")
        for path in pair.source.glob("old-*"):
            path.unlink()
        (pair.source / "folder").mkdir()
        fill(pair.source / "folder/below", 0, 3_000, turn)
        for number_ in range(20):
            fill(pair.source / f"old-{number_ % 10}-{turn}", 0, 3_000, number_)
        pair.sync()
        assert_table_is_the_tree(pair.target)
        worlds.remove(pair.source / "folder/below")
        (pair.source / "folder/below").mkdir()
        pair.sync()
        assert_table_is_the_tree(pair.target)
    assert not walks(pair.reports)


@pytest.mark.parametrize("kinds", [("xfs", "xfs")], ids="-".join)
def test_an_object_is_kept_until_the_data_changes(pair: Pair) -> None:
    """A new name, mode or neighbour makes no second object."""
    (pair.source / "folder").mkdir()
    fill(pair.source / "folder/file", 0, 50_000, 1)
    preallocate(pair.source / "folder/file", 60_000, 50_000)
    fill(pair.source / "other", 0, 50_000, 2)
    pair.sync()

    def objects() -> dict[bytes, int]:
        rows = {row["inode"]: row for row in pool.rows(pair.target, snapshots(pair.target)[-1]["id"])}
        files = [row for row in rows.values() if row["kind"] == "file"]
        return {path: row["object"] for row in files for path in pool.paths(rows, row)}

    first = objects()
    os.link(pair.source / "folder/file", pair.source / "second")
    (pair.source / "folder").rename(pair.source / "moved")
    (pair.source / "other").chmod(0o600)
    pair.sync()
    moved = {
        b"moved/file": first[b"folder/file"],
        b"second": first[b"folder/file"],
        b"other": first[b"other"],
    }
    assert objects() == moved
    rewrite_quietly(pair.source / "other", 10, 10, 3)
    pair.sync()
    assert objects()[b"other"] != first[b"other"]
    assert objects()[b"second"] == first[b"folder/file"]
    assert_table_is_the_tree(pair.target)
    assert not walks(pair.reports)


# --- what it costs ----------------------------------------------------------------------------


def calls_of_the_standbys_snapshot(place: Place, tmp_path: Path, files: int) -> tuple[Counter[str], str]:
    """The system calls of taking it: by the command that heals a standby whose commit is done."""
    pair = Pair.make(place, ("xfs", "xfs"))
    bulk(pair.source, files)
    work = pair.source / "work"
    work.mkdir()
    for name in ("a", "b", "c"):
        fill(work / name, 0, 9_000, files)
    pair.sync()
    fill(work / "a", 10, 10, 1)
    exchange(work / "b", work / "c")
    fill(work / "d", 0, 9_000, 2)
    killed = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": "commit.applied:1"})
    assert killed.code == -signal.SIGKILL
    trace = tmp_path / f"calls-{files}"
    which = "trace=open,openat,openat2,getdents64,statx,newfstatat"
    ran = run("snapshot", pair.target, wrap=("strace", "-f", "-qq", "-e", which, "-o", str(trace)))
    assert ran.code == 3, ran
    assert snapshots(pair.target)[-1]["sequence"] == 1
    assert_table_is_the_tree(pair.target)
    text = trace.read_text(errors="surrogateescape")
    return Counter(re.findall(r"^\d+ +(\w+)\(", text, re.MULTILINE)), text


def test_nothing_of_what_did_not_change_is_looked_at(place: Place, tmp_path: Path) -> None:
    need("strace")
    few, _ = calls_of_the_standbys_snapshot(place, tmp_path, 500)
    many, text = calls_of_the_standbys_snapshot(place, tmp_path, 5_000)
    assert "work" in text
    assert "bulk-" not in text
    assert many["getdents64"] == few["getdents64"]
    # What the interpreter and the threads do by themselves may differ a little.
    assert many.total() <= few.total() + 20


def records_read_by_a_round(pair: Pair, tmp_path: Path) -> int:
    (pair.source / "work").write_bytes(os.urandom(9))
    trace, which = tmp_path / "calls", "trace=openat2"
    ran = run("sync", pair.source, pair.target, wrap=("strace", "-f", "-qq", "-e", which, "-o", str(trace)))
    assert ran.code == 0, ran
    return trace.read_text(errors="replace").count('/snapshot.json"')


def test_the_record_of_a_snapshot_is_read_once_for_each_lock(place: Place, tmp_path: Path) -> None:
    """The primary is locked three times in a round, and the standby once."""
    need("strace")
    pair = Pair.make(place, ("xfs", "xfs"))
    pair.sync()
    few = records_read_by_a_round(pair, tmp_path)
    for _ in range(4):
        pair.sync()
    # The one that was traced is there too.
    assert records_read_by_a_round(pair, tmp_path) - few <= 4 * 5


# --- where there is no table from the last one -------------------------------------------------


def stop_when_applied(pair: Pair) -> Path:
    """The tree is the new one and its snapshot is missing; the stage."""
    killed = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": "commit.applied:1"})
    assert killed.code == -signal.SIGKILL
    (stage,) = (pair.target / ".snapsync/incoming").iterdir()
    return stage


def some_rounds(pair: Pair) -> None:
    (pair.source / "folder").mkdir()
    fill(pair.source / "folder/file", 0, 9_000, 1)
    fill(pair.source / "single", 0, 9_000, 2)
    pair.sync()
    (pair.source / "single").chmod(0o640)
    fill(pair.source / "folder/file", 5, 10, 3)
    fill(pair.source / "folder/new", 0, 3_000, 3)


def remove_inodes(pair: Pair, stage: Path) -> None:
    (stage / "known").unlink()


def cut_inodes(pair: Pair, stage: Path) -> None:
    os.truncate(stage / "known", 32)


def cut_inodes_amid(pair: Pair, stage: Path) -> None:
    os.truncate(stage / "known", 40)


def remove_the_last_table(pair: Pair, stage: Path) -> None:
    # Of a snapshot that somebody deleted: the walk after it has nothing to go by.
    shutil.rmtree(store(pair.target) / "snapshots" / snapshots(pair.target)[-1]["id"])


def drop_the_row_of_a_file(pair: Pair, stage: Path) -> None:
    drop(pair, b"single")


def drop_the_row_of_a_directory(pair: Pair, stage: Path) -> None:
    drop(pair, b"folder")


def replace_a_file(pair: Pair, stage: Path) -> None:
    with same_times(pair.target):
        (pair.target / "single").rename(pair.target / "copy")
        shutil.copy2(pair.target / "copy", pair.target / "single")
        (pair.target / "copy").unlink()


def remove_a_new_file(pair: Pair, stage: Path) -> None:
    (pair.target / "folder/new").unlink()


@contextmanager
def same_times(folder: Path) -> Iterator[None]:
    before = os.stat(folder)
    yield
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def drop(pair: Pair, name: bytes) -> None:
    """Takes a row out of the newest table."""
    dropped = 0
    for file in pool.TABLE:
        path = store(pair.target) / "snapshots" / snapshots(pair.target)[-1]["id"] / file
        table = pa.ipc.open_file(path).read_all()
        names = [{link["name"] for link in links} for links in table["links"].to_pylist()]
        kept = table.filter(pa.array([name not in row for row in names], pa.bool_()))
        dropped += table.num_rows - kept.num_rows
        path.unlink()
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(kept)
    assert dropped


@pytest.mark.parametrize(
    "spoil",
    [
        remove_inodes,
        cut_inodes,
        cut_inodes_amid,
        remove_the_last_table,
        drop_the_row_of_a_file,
        drop_the_row_of_a_directory,
        replace_a_file,
        remove_a_new_file,
    ],
)
@pytest.mark.parametrize("kinds", [("xfs", "xfs")], ids="-".join)
def test_what_does_not_fit_is_walked_and_said(pair: Pair, spoil: Callable[[Pair, Path], None]) -> None:
    some_rounds(pair)
    spoil(pair, stop_when_applied(pair))
    report = done("sync", pair.source, pair.target)
    assert len(walks([report])) == 1
    assert report["recovered"]
    # The round that followed had nothing to do.
    tables = [told(pair.target, snap["id"]) for snap in snapshots(pair.target)[-2:]]
    assert tables[0] == tables[1]
    if spoil is remove_a_new_file:
        # What the primary has is counted.
        return
    assert_table_is_the_tree(pair.target)
    fill(pair.source / "single", 100, 10, 4)
    assert not walks([done("sync", pair.source, pair.target)])
    assert_table_is_the_tree(pair.target)


@pytest.mark.parametrize("kinds", [("btrfs", "xfs")], ids="-".join)
def test_what_a_walk_found_beside_the_manifest_leaves_no_row_without_a_place(pair: Pair) -> None:
    """A file made by hand came into a table, and was removed again; then the directory it was in goes."""
    some_rounds(pair)
    remove_inodes(pair, stop_when_applied(pair))
    with same_times(pair.target / "folder"):
        fill(pair.target / "folder/by-hand", 0, 100, 1)
    report = done("sync", pair.source, pair.target)
    assert len(walks([report])) == 1
    with same_times(pair.target / "folder"):
        (pair.target / "folder/by-hand").unlink()
    shutil.rmtree(pair.source / "folder")
    assert len(walks([pair.sync()])) == 1
    assert_table_is_the_tree(pair.target)
    (pair.source / "single").chmod(0o600)
    assert not walks([pair.sync()])
    assert_table_is_the_tree(pair.target)


def test_lost_and_found_that_made_way_leaves_no_row(place: Place, file_systems: FileSystems) -> None:
    target = file_systems.mount("ext4", GIB)
    pair = Pair(place("xfs"), target)
    fill(pair.source / "file", 0, 9_000, 1)
    pair.sync()
    (pair.source / "lost+found").mkdir()
    fill(pair.source / "lost+found/file", 0, 9_000, 1)
    pair.sync()
    assert_table_is_the_tree(target)
    (pair.source / "lost+found/file").chmod(0o600)
    assert not walks([pair.sync()])
    assert_table_is_the_tree(target)


@pytest.mark.parametrize("kinds", [("xfs", "xfs"), ("xfs", "ext4")], ids="-".join)
def test_what_was_changed_by_hand_is_not_taken_for_the_snapshots(pair: Pair) -> None:
    """A file's bytes were changed on the standby, its size and time were not. Then it gets a new mode."""
    fill(pair.source / "file", 0, 9_000, 1)
    fill(pair.source / "calm", 0, 9_000, 2)
    done("sync", pair.source, pair.target)
    rewrite_quietly(pair.target / "file", 100, 100, 5)
    (pair.source / "file").chmod(0o600)
    done("sync", pair.source, pair.target)
    # Its bytes were in the tree alone. What is there now is not taken for them.
    told = run("verify", f"{pair.target}@latest", pair.source, "--json")
    assert told.code == 4
    assert [(one["path"], one["a"]) for one in told.json["differences"]] == [("file", "cannot be read")]
    rows = {
        row["links"][0]["name"]: row for row in pool.rows(pair.target, snapshots(pair.target)[-1]["id"])[1:]
    }
    assert rows[b"file"]["ctime"] == UNSETTLED


# --- killed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("xfs", "xfs"), ("xfs", "ext4")], ids="-".join)
def test_a_killed_commit_is_healed_without_a_walk(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    primed = Primed.fresh(place, kinds)
    primed.next_turn()
    hits = hits_of_a_round(primed.pair, tmp_path / "trace")
    # The last pass of a snapshot's points is the standby's.
    points = [point for point in hits if point.startswith(("commit.", "snapshot."))]
    for point in points:
        _, after = primed.next_turn()
        kill(primed.pair, (point, hits[point]))
        report = primed.pair.sync()
        assert report["recovered"] or point == "commit.cleaned"
        assert not walks([report])
        assert_same(after, primed.pair.target)
        assert_table_is_the_tree(primed.pair.target)


@pytest.mark.parametrize("kinds", [("xfs", "xfs"), ("xfs", "ext4"), ("xfs", "btrfs")], ids="-".join)
def test_a_round_without_changes_heals_wherever_it_is_killed(
    pair: Pair, kinds: tuple[str, str], tmp_path: Path
) -> None:
    some_rounds(pair)
    pair.sync()
    before = freeze(pair.target)
    trace = tmp_path / "trace"
    report = done("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT_TRACE": trace})
    assert report["unchanged"]
    for point, hits in Counter(passed(trace)).items():
        killed = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": f"{point}:{hits}"})
        assert killed.code == -signal.SIGKILL, killed
        healed = run("snapshot", pair.target)
        assert healed.code == 3, healed
        assert_same(before, pair.target)
        if kinds[1] != "btrfs":
            assert_table_is_the_tree(pair.target)
        assert not (pair.target / ".snapsync/incoming").exists()
    assert not walks([pair.sync()])
    done("delete", f"{pair.target}@0")
    verified(f"{pair.target}@latest", pair.source)
