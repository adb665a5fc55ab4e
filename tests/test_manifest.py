"""The manifest: a plain Arrow file that says what changed, all of it and nothing else."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars
import pool
import pyarrow as pa
import pytest
import worlds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import KINDS, FileSystems, Place, done, store
from oracle import BLOCK, freeze
from worlds import World

import snapsync

FLAGS = ["created", "deleted", "renamed", "data", "attributes", "xattrs", "links"]
LINKS = pa.list_(pa.struct([("parent", pa.uint64()), ("name", pa.binary())]))
XATTRS = pa.list_(pa.struct([("name", pa.binary()), ("value", pa.binary())]))
EXTENTS = pa.list_(
    pa.struct(
        [
            ("offset", pa.uint64()),
            ("length", pa.uint64()),
            ("op", pa.utf8()),
            ("source", pa.utf8()),
            ("source_inode", pa.uint64()),
            ("source_offset", pa.uint64()),
            ("checksum", pa.binary(32)),
        ]
    )
)
TIME = pa.timestamp("ns", "UTC")
RARE = pa.struct(
    [(name, pa.uint32()) for name in ("project", "xflags", "extent_size", "cow_extent_size")]
    + [("far_second", pa.int64())]
)
COLUMNS: dict[str, pa.DataType] = {
    "inode": pa.uint64(),
    "generation": pa.uint64(),
    "kind": pa.utf8(),
    "path": pa.utf8(),
    "old_path": pa.utf8(),
    "path_raw": pa.binary(),
    "old_path_raw": pa.binary(),
    "change": pa.struct([(flag, pa.bool_()) for flag in FLAGS]),
    "links_added": LINKS,
    "links_removed": LINKS,
    "nlink": pa.uint32(),
    "nlink_old": pa.uint32(),
    "size": pa.uint64(),
    "size_old": pa.uint64(),
    **{name + old: pa.uint32() for name in ("mode", "uid", "gid", "flags") for old in ("", "_old")},
    **{"rdev" + old: pa.uint64() for old in ("", "_old")},
    **{"mtime" + old: TIME for old in ("", "_old")},
    "symlink_target": pa.binary(),
    "xattr": XATTRS,
    "extents": EXTENTS,
    **{"rare" + old: RARE for old in ("", "_old")},
    "data_bytes": pa.uint64(),
}
TOTALS = ["rows", "created_count", "changed_count", "renamed_count", "deleted_count", "data_bytes"]
METADATA = ["version", "format", "base", "target", "volume", "provider", "filesystem", "created", *TOTALS]


class Changed:
    """Two snapshots of a random tree and the manifest between them."""

    def __init__(self, place: Place, folder: Path, kind: str) -> None:
        self.volume = place(kind)
        world = World(self.volume, seed=21)
        world.grow(120)
        self.base = done("snapshot", self.volume)["snapshot"]
        self.before = freeze(self.volume)
        world.churn(200)
        self.target = done("snapshot", self.volume)["snapshot"]
        self.after = freeze(self.volume)
        self.file = folder / "changes.arrow"
        self.report = self.diff(self.file)
        self.table = pa.ipc.open_file(self.file).read_all()

    def diff(self, file: Path, *options: object) -> dict[str, Any]:
        sides = (f"{self.volume}@{self.base['id']}", f"{self.volume}@{self.target['id']}")
        return done("diff", *sides, "-o", file, *options)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.table)


@pytest.fixture(scope="module", params=KINDS)
def changed(
    request: pytest.FixtureRequest, file_systems: FileSystems, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Changed]:
    place = Place(file_systems)
    try:
        yield Changed(place, tmp_path_factory.mktemp("changed"), request.param)
    finally:
        place.clear()


def rows_of(source: Path | pa.Table) -> list[dict[str, Any]]:
    """The rows of a manifest; times as nanoseconds, which Python's own times cannot hold."""
    table = source if isinstance(source, pa.Table) else pa.ipc.open_file(source).read_all()
    for name in ("mtime", "mtime_old"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def path_of(row: dict[str, Any], column: str = "path") -> bytes:
    """A path as bytes: the text column, or the raw one where a name is not UTF-8."""
    raw: bytes | None = row[column + "_raw"]
    return raw if raw is not None else row[column].encode()


# --- form -------------------------------------------------------------------------------------


def test_the_schema_is_as_documented(changed: Changed) -> None:
    schema = changed.table.schema
    types = {field.name: field.type for field in schema}
    assert set(types) == set(COLUMNS)
    for name, expected in COLUMNS.items():
        assert same_type(types[name], expected), f"{name}: {types[name]}"
    assert {f"snapsync.{key}" for key in METADATA} <= {key.decode() for key in schema.metadata}


def same_type(one: pa.DataType, two: pa.DataType) -> bool:
    """Equal but for nullability and the name of list items, which no reader sees."""
    plain = [re.sub(r"(?<=list<)\w+: | not null", "", str(kind)) for kind in (one, two)]
    return plain[0] == plain[1]


def test_the_metadata_says_what_was_compared(changed: Changed) -> None:
    metadata = {key.decode(): value.decode() for key, value in changed.table.schema.metadata.items()}
    assert metadata["snapsync.base"] == changed.base["id"]
    assert metadata["snapsync.target"] == changed.target["id"]
    assert metadata["snapsync.provider"] == changed.base["provider"]
    assert metadata["snapsync.version"] == snapsync.__version__


def test_rows_are_sorted_by_inode_and_the_deleted_comes_first(changed: Changed) -> None:
    keys = [(row["inode"], not row["change"]["deleted"]) for row in changed.rows]
    assert keys == sorted(keys)
    assert len(keys) == len(set(keys))


def test_totals_match_the_rows(changed: Changed) -> None:
    metadata = {key.decode(): value.decode() for key, value in changed.table.schema.metadata.items()}
    total = {key: int(metadata[f"snapsync.{key}"]) for key in TOTALS}
    changes = [row["change"] for row in changed.rows]
    assert total["rows"] == len(changes)
    for flag in ("created", "deleted", "renamed"):
        assert total[f"{flag}_count"] == sum(change[flag] for change in changes)
        assert changed.report["changes"][flag] == total[f"{flag}_count"]
    assert total["data_bytes"] == sum(row["data_bytes"] for row in changed.rows)
    assert total["data_bytes"] == changed.report["data_bytes"]
    for row in changed.rows:
        data = sum(extent["length"] for extent in row["extents"] or [] if extent["op"] == "data")
        assert row["data_bytes"] == data


def test_equal_input_gives_equal_rows_with_any_number_of_threads(changed: Changed) -> None:
    """Down to the bytes of the record batches."""
    for jobs in (1, 4):
        other = changed.file.with_name(f"{jobs}.arrow")
        changed.diff(other, "--jobs", jobs)
        assert batches(other) == batches(changed.file)


def batches(file: Path) -> bytes:
    """The file's batches; its metadata holds the time of making it."""
    reader, sink = pa.ipc.open_file(file), io.BytesIO()
    with pa.ipc.new_stream(sink, reader.schema.remove_metadata()) as writer:
        for index in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(index))
    return sink.getvalue()


def test_polars_and_duckdb_read_it_as_it_is(changed: Changed) -> None:
    created = sum(row["change"]["created"] for row in changed.rows)
    frame = polars.read_ipc(changed.file)
    assert frame.height == changed.table.num_rows
    assert frame["change"].struct.field("created").sum() == created
    table = changed.table  # duckdb finds it by this name
    query = 'select count(*), sum(change.created::int), sum(data_bytes) from "table"'
    assert duckdb.sql(query).fetchall()[0] == (table.num_rows, created, changed.report["data_bytes"])


def test_a_manifest_object_is_an_arrow_stream(changed: Changed) -> None:
    manifest = snapsync.diff(
        f"{changed.volume}@{changed.base['id']}", f"{changed.volume}@{changed.target['id']}"
    )
    assert pa.table(manifest).num_rows == changed.table.num_rows == len(manifest)
    assert polars.DataFrame(manifest).height == len(manifest)
    assert duckdb.sql("select count(*) from manifest").fetchall() == [(len(manifest),)]
    assert pa.table(manifest).equals(changed.table)
    manifest.close()
    assert not Path(manifest.path).exists()


# --- content ----------------------------------------------------------------------------------


def test_every_entry_that_came_or_went_is_named(changed: Changed) -> None:
    """Paths of the manifest against pictures taken by other means."""
    rows = changed.rows
    before, after = set(changed.before.entries), set(changed.after.entries)
    created = {path_of(row) for row in rows if row["change"]["created"]}
    deleted = {path_of(row, "old_path") for row in rows if row["change"]["deleted"]}
    assert created <= after
    assert deleted <= before
    # A path that is new belongs to a row of its own, or lies below a directory that moved.
    moved = [path_of(row) for row in rows if row["change"]["renamed"]]
    linked = {link["name"] for row in rows for link in row["links_added"] or []}
    for path in after - before:
        above = any(path == top or path.startswith(top + b"/") for top in moved)
        assert path in created or above or os.path.basename(path) in linked, path


def test_the_rows_lead_from_the_old_tree_to_the_new_one(changed: Changed) -> None:
    """Names are one table of (parent, name): without those removed, with those added, it is the new one."""
    base, target = links(changed, changed.base), links(changed, changed.target)
    for row in changed.rows:
        identity = row["inode"]
        base -= {(link["parent"], link["name"], identity) for link in row["links_removed"] or []}
        base |= {(link["parent"], link["name"], identity) for link in row["links_added"] or []}
    assert base == target


def links(changed: Changed, snap: dict[str, Any]) -> set[tuple[int, bytes, int]]:
    """Every name of a snapshot, read from the file system or from its inode table."""
    tree = store(changed.volume) / "snapshots" / snap["id"] / "tree"
    if tree.is_dir():
        return names_below(os.fsencode(tree))
    rows = pool.rows(changed.volume, snap["id"])
    return {(link["parent"], link["name"], row["inode"]) for row in rows for link in row["links"]}


def names_below(root: bytes) -> set[tuple[int, bytes, int]]:
    found, top = set(), os.stat(root)
    for folder, folders, files in os.walk(root):
        if folder == root and b".snapsync" in folders:
            folders.remove(b".snapsync")
        parent = 0 if folder == root else os.stat(folder).st_ino
        for name in folders + files:
            status = os.lstat(os.path.join(folder, name))
            if status.st_dev == top.st_dev:
                found.add((parent, name, status.st_ino))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_extents_lead_from_the_old_bytes_to_the_new_ones(place: Place, tmp_path: Path, kind: str) -> None:
    """The rows are applied by hand to the old bytes: a byte that changed and is not named shows."""
    volume = place(kind)
    world = World(volume, seed=31)
    for number in range(20):
        world.do(worlds.fill, b"%d" % number, 0, world.size(), world.seed())
    done("snapshot", volume, "--name", "old")
    old = contents(volume)
    data_only = [
        world.write_somewhere,
        world.append_some,
        world.rewrite,
        world.cut,
        world.cut_and_regrow,
        world.punch_some,
        world.fill_hole,
        world.preallocate_some,
        world.zero_some,
    ]
    for _ in range(120):
        world.random.choice(data_only)()
    done("snapshot", volume, "--name", "new")
    new = contents(volume)
    done("diff", f"{volume}@old", f"{volume}@new", "-o", tmp_path / "changes.arrow")
    rows = rows_of(tmp_path / "changes.arrow")
    rebuilt = dict(old)
    for row in rows:
        if row["kind"] == "file":
            rebuilt[row["path"]] = apply(old[row["path"]], row, new[row["path"]])
    assert rebuilt == new


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


def apply(old: bytes, row: dict[str, Any], new: bytes) -> bytes:
    """The old bytes with the row's extents put in; data is taken from the new file at that very place."""
    end = -(-row["size"] // BLOCK) * BLOCK
    result = bytearray(old[: row["size"]].ljust(end, b"\0"))
    for extent in row["extents"] or []:
        first, last = extent["offset"], extent["offset"] + extent["length"]
        assert extent["op"] in ("data", "hole", "unwritten"), "no clones were made"
        result[first:last] = new[first:last] if extent["op"] == "data" else bytes(last - first)
    return bytes(result[: row["size"]])


Change = Callable[[Path], object]

# What was done to `file` (or else), and the flags that its row must have, no more and no less.
SINGLE: dict[str, tuple[Change, str, set[str]]] = {
    "chmod": (lambda r: os.chmod(r / "file", 0o600), "file", {"attributes"}),
    "chown": (lambda r: os.chown(r / "file", 5, 5), "file", {"attributes"}),
    "touch": (lambda r: worlds.touch(r / "file", 5), "file", {"attributes"}),
    "flags": (lambda r: worlds.set_flags(r / "file", worlds.NODUMP), "file", {"attributes"}),
    "xattr": (lambda r: worlds.set_xattr(r / "file", b"user.x", b"1"), "file", {"xattrs"}),
    "quietly": (lambda r: worlds.rewrite_quietly(r / "file", 5, 5, 5), "file", {"data"}),
    "rename": (lambda r: (r / "file").rename(r / "dir/new"), "dir/new", {"renamed"}),
    "link": (lambda r: os.link(r / "file", r / "new"), "file", {"links"}),
    "new file": (lambda r: (r / "new").touch(), "new", {"created"}),
    "new directory": (lambda r: (r / "new").mkdir(), "new", {"created"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SINGLE)
def test_a_single_change_sets_its_flag(place: Place, tmp_path: Path, kind: str, name: str) -> None:
    change, path, expected = SINGLE[name]
    root = place(kind)
    worlds.fill(root / "file", 0, 20_000, 1)
    (root / "dir").mkdir()
    snapsync.Volume(root).snapshot("old")
    change(root)
    snapsync.Volume(root).snapshot("new")
    snapsync.diff(f"{root}@old", f"{root}@new", tmp_path / "out.arrow")
    rows = rows_of(tmp_path / "out.arrow")
    (row,) = [row for row in rows if row["path"] == path]
    flags = {flag for flag, on in row["change"].items() if on}
    # A new or moved entry may count its new name as a change of links.
    assert flags - ({"links"} if expected & {"created", "renamed"} else set()) == expected
    if name == "rename":
        assert row["old_path"] == "file"
    if name == "touch":
        assert row["mtime"] == 5
    # Nothing else changed but directories that hold the name.
    assert all(other is row or other["kind"] == "directory" for other in rows)


def test_a_deleted_inode_keeps_its_old_path_only(place: Place, tmp_path: Path) -> None:
    volume = place("xfs")
    worlds.fill(volume / "file", 0, 20_000, 1)
    done("snapshot", volume, "--name", "old")
    (volume / "file").unlink()
    done("snapshot", volume, "--name", "new")
    done("diff", f"{volume}@old", f"{volume}@new", "-o", tmp_path / "out.arrow")
    rows = rows_of(tmp_path / "out.arrow")
    (row,) = [row for row in rows if row["change"]["deleted"]]
    assert (row["path"], row["old_path"], row["size_old"]) == (None, "file", 20_000)


def test_a_name_that_is_not_utf8_has_its_bytes_beside_it(place: Place, tmp_path: Path) -> None:
    volume = place("xfs")
    done("snapshot", volume, "--name", "old")
    worlds.fill(os.fsencode(volume) + b"/\xff\xe9", 0, 1, 1)
    worlds.fill(volume / "näme", 0, 1, 1)
    done("snapshot", volume, "--name", "new")
    done("diff", f"{volume}@old", f"{volume}@new", "-o", tmp_path / "out.arrow")
    rows = rows_of(tmp_path / "out.arrow")
    created = {path_of(row): row["path_raw"] for row in rows if row["change"]["created"]}
    assert created == {b"\xff\xe9": b"\xff\xe9", "näme".encode(): None}


def test_two_directories_are_compared_without_a_store(place: Place, tmp_path: Path) -> None:
    one, two = place("xfs"), place("ext4")
    for root in (one, two):
        worlds.fill(root / "same", 0, 5_000, 1)
        worlds.fill(root / "other", 0, 5_000, 2)
        for name in ("same", "other"):
            worlds.touch(root / name, 10**18)
        worlds.touch(root, 10**18)
    worlds.rewrite_quietly(two / "other", 10, 10, 3)
    done("diff", one, two, "-o", tmp_path / "out.arrow")
    rows = rows_of(tmp_path / "out.arrow")
    assert [row["path"] for row in rows if any(row["change"].values())] == ["other"]
    assert not (one / ".snapsync").exists()
    assert not (two / ".snapsync").exists()


# --- inspect ----------------------------------------------------------------------------------


def test_inspect_shows_totals_largest_and_directories(place: Place, tmp_path: Path) -> None:
    volume = place("btrfs")
    done("snapshot", volume, "--name", "old")
    (volume / "small").mkdir()
    (volume / "large").mkdir()
    for number in range(5):
        worlds.fill(volume / f"small/{number}", 0, 4_096, number)
    worlds.fill(volume / "large/file", 0, 1 << 20, 9)
    done("snapshot", volume, "--name", "new")
    done("diff", f"{volume}@old", f"{volume}@new", "-o", tmp_path / "out.arrow")
    report = done("inspect", tmp_path / "out.arrow")
    assert report["totals"]["created"] == 8
    assert report["largest"][0]["path"] == "large/file"
    folders = {row["path"]: row["changes"] for row in report["directories"]}
    assert next(iter(folders)) == "large"
    assert folders["small"] == 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound manifest, on whatever file system there is."""
    folder = tmp_path_factory.mktemp("manifest")
    old, new = folder / "old", folder / "new"
    old.mkdir()
    new.mkdir()
    worlds.bulk(new, 30)
    done("diff", old, new, "-o", folder / "whole.arrow")
    return folder / "whole.arrow"


@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_damage_gets_more_than_an_error_out_of_a_reader(whole: Path, data: st.DataObject) -> None:
    """A manifest may come from anywhere: any bytes end in one of the promised exceptions, or in an answer."""
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    damaged = whole.with_name("damaged.arrow")
    damaged.write_bytes(content[:end])
    try:
        with snapsync.Manifest(damaged) as manifest:
            list(manifest.changes())
            manifest.largest()
            manifest.by_directory()
    except (snapsync.SnapsyncError, OSError):
        pass
