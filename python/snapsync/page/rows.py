"""The rows of one kept manifest, summed up by directory.

Rows are read batch by batch, and only the columns that are asked for are unpacked. What leaves here is a line
for each directory, and a few single rows: never the rows themselves as objects of Python.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from snapsync import render
from snapsync.errors import IntegrityError, told
from snapsync.manifest import Manifest

LARGE = 20
"""How many of the largest changes and deletions are shown."""

SUMS = ("bytes", "entries", "growth", "changes", "deletions", "data_bytes")
"""What is summed up for each directory, of the entries directly in it."""

_PATHS = ("path", "old_path", "path_raw", "old_path_raw")
_COLUMNS = (
    *_PATHS,
    "kind",
    "change",
    "size",
    "size_old",
    "data_bytes",
)
_FLAGS = ("created", "deleted", "renamed", "data", "attributes", "xattrs", "links")
_BATCHES_AT_ONCE = 16
_LARGE = ("path", "path_raw", "created", "size", "weight")


@dataclass(frozen=True, slots=True)
class Large:
    """A row that names many bytes: `created` tells a new file from one that changed."""

    path: str
    created: bool
    size: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Summed:
    """One manifest: its sums by directory, which directories were renamed, and its largest rows.

    `before` and `after` have the path of a directory, empty for the root, and then SUMS: of what left the
    directories of the base, and of what came into those of the target.
    """

    before: list[tuple[Any, ...]]
    after: list[tuple[Any, ...]]
    moved: list[tuple[str, str]]
    largest: list[Large]
    gone: list[Large]


def summed(manifest: Manifest) -> Summed:
    """Read all rows of a manifest. Raises IntegrityError where they are damaged."""
    try:
        return _summed(manifest)
    except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
        message = f"cannot read the manifest {manifest.path}: it is damaged: {error}"
        raise told(IntegrityError(message), message) from error


def _summed(manifest: Manifest) -> Summed:
    before, after = _Sums(), _Sums()
    moved: list[tuple[str, str]] = []
    largest, gone = pa.table({}), pa.table({})
    for rows in _tables(manifest):
        before.add(_left(rows))
        after.add(_came(rows))
        moved += _moved(rows)
        largest = _best(largest, _brought(rows))
        gone = _best(gone, _deleted(rows))
    return Summed(before.lines(), after.lines(), moved, _large(largest), _large(gone))


class _Sums:
    """Sums by directory, added up now and then: they take as much memory as there are directories."""

    def __init__(self) -> None:
        self._tables: list[Any] = []

    def add(self, table: Any) -> None:
        self._tables.append(table)
        if len(self._tables) > _BATCHES_AT_ONCE:
            self._tables = [_added_up(self._tables)]

    def lines(self) -> list[tuple[Any, ...]]:
        columns = _added_up(self._tables).to_pydict().values() if self._tables else ()
        return list(zip(*columns, strict=True))


def _tables(manifest: Manifest) -> Iterator[Any]:
    """The changed rows, many at once, without the columns that nobody asks about here."""
    wanted = [manifest.schema.get_field_index(name) for name in _COLUMNS]
    options = pa.ipc.IpcReadOptions(included_fields=sorted(wanted))
    with pa.memory_map(manifest.path) as source:
        file = pa.ipc.open_file(source, options=options)
        for first in range(0, file.num_record_batches, _BATCHES_AT_ONCE):
            last = min(first + _BATCHES_AT_ONCE, file.num_record_batches)
            batches = [file.get_batch(number) for number in range(first, last)]
            for batch in batches:
                batch.validate(full=True)
            yield _prepared(pa.Table.from_batches(batches).combine_chunks())


def _prepared(rows: Any) -> Any:
    """What is really changed (other rows only anchor names), in plain columns."""
    flags = {name: pc.struct_field(rows["change"], name) for name in _FLAGS}
    is_file = pc.equal(rows["kind"], "file")
    size, old = (
        pc.if_else(is_file, pc.fill_null(pc.cast(rows[name], pa.int64()), 0), 0)
        for name in ("size", "size_old")
    )
    zero = pa.scalar(0, pa.int64())
    table = pa.table(
        {
            **{name: rows[name] for name in _PATHS},
            "is_directory": pc.equal(rows["kind"], "directory"),
            "created": flags["created"],
            "deleted": flags["deleted"],
            "renamed": flags["renamed"],
            "size": pc.if_else(flags["deleted"], zero, size),
            "size_old": pc.if_else(flags["created"], zero, old),
            "data_bytes": pc.cast(rows["data_bytes"], pa.int64()),
        }
    )
    return table.filter(reduce(pc.or_, flags.values()))


def _left(rows: Any) -> Any:
    """What is not in the directories of the base any more, for deletion or because its size is added anew."""
    rows = rows.filter(pc.invert(rows["created"]))
    gone, size = pc.cast(rows["deleted"], pa.int64()), pc.negate(rows["size_old"])
    nothing = pc.multiply(gone, 0)
    growth = pc.multiply(size, gone)
    return _sums(rows["old_path"], size, pc.subtract(nothing, 1), growth, gone, gone, nothing)


def _came(rows: Any) -> Any:
    """What is in the directories of the target, and by how much it grew."""
    rows = rows.filter(pc.invert(rows["deleted"]))
    nothing = pc.multiply(rows["size"], 0)
    one = pc.add(nothing, 1)
    growth = pc.subtract(rows["size"], rows["size_old"])
    return _sums(rows["path"], rows["size"], one, growth, one, nothing, rows["data_bytes"])


def _sums(paths: Any, *columns: Any) -> Any:
    directory = pc.replace_substring_regex(paths, r"/?[^/]*$", "")
    return _added_up([pa.table({"directory": directory, **dict(zip(SUMS, columns, strict=True))})])


def _added_up(tables: list[Any]) -> Any:
    grouped = pa.concat_tables(tables).group_by("directory").aggregate([(name, "sum") for name in SUMS])
    return grouped.select(["directory", *(f"{name}_sum" for name in SUMS)]).rename_columns(
        ["directory", *SUMS]
    )


def _moved(rows: Any) -> Iterator[tuple[str, str]]:
    """Directories that were renamed: where they were, and where they are."""
    named = pc.and_(pc.is_valid(rows["old_path"]), pc.is_valid(rows["path"]))
    found = rows.filter(pc.and_(pc.and_(rows["is_directory"], rows["renamed"]), named))
    found = found.select(["old_path", "path"])
    for row in found.to_pylist():
        yield row["old_path"], row["path"]


def _brought(rows: Any) -> Any:
    rows = rows.filter(pc.greater(rows["data_bytes"], 0))
    return rows.append_column("weight", rows["data_bytes"]).select(_LARGE)


def _deleted(rows: Any) -> Any:
    rows = rows.filter(pc.and_(rows["deleted"], pc.greater(rows["size_old"], 0)))
    columns = (rows["old_path"], rows["old_path_raw"], rows["created"], rows["size_old"], rows["size_old"])
    return pa.table(dict(zip(_LARGE, columns, strict=True)))


def _best(best: Any, rows: Any) -> Any:
    rows = pa.concat_tables([best, rows]) if best.num_rows else rows
    order = [("weight", "descending"), ("path", "ascending")]
    return rows.take(pc.select_k_unstable(rows, min(LARGE, rows.num_rows), order))


def _large(rows: Any) -> list[Large]:
    return [Large(_name(row), row["created"], row["size"], row["weight"]) for row in rows.to_pylist()]


def _name(row: dict[str, Any]) -> str:
    raw = row["path_raw"]
    return render.name(row["path"] if raw is None else os.fsdecode(raw))
