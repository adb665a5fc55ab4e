"""All manifests that a volume keeps, as one dataset of Arrow: what changed from snapshot to snapshot.

Which snapshot a row is of stands in its first columns. They are filled in from the metadata of each file, and
a filter on them leaves files closed: a question about last week does not read the year before.
"""

import mmap
import os
import warnings
from collections.abc import Iterable
from functools import reduce
from operator import and_
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.dataset
from pyarrow.fs import LocalFileSystem

from snapsync import _native
from snapsync.errors import HistoryWarning, IntegrityError, RefusedError, UsageError
from snapsync.manifest import FLAGS, Manifest
from snapsync.types import AnyPath

_TIME = pa.timestamp("ns", "UTC")
_SNAPSHOT = {
    "snapshot": pa.string(),
    "snapshot_id": pa.string(),
    "base_id": pa.string(),
    "sequence": pa.uint64(),
    "time": _TIME,
}
"""The columns that tell which snapshot a row is of: name, id, id of the one before, number and time."""


def of_volume(volume: AnyPath) -> Any:
    """The dataset of all manifests that a volume keeps, or a log; see `dataset`."""
    with TemporaryDirectory(prefix="snapsync-") as passing:
        files, notes = _native.kept(os.fsdecode(volume), passing)
        for note in notes:
            warnings.warn(note, HistoryWarning, stacklevel=3)
        return _joined(map(os.fsdecode, files), passing)


def dataset(manifests: Iterable[AnyPath]) -> Any:
    """A pyarrow.dataset.Dataset of manifests, in their order, with the columns of _SNAPSHOT before their own.

    A file that is damaged, or gone, is named in a HistoryWarning and left out. The columns `rare` and
    `rare_old`, which older manifests lack, are null there.
    """
    return _joined(map(os.fsdecode, manifests), None)


def _joined(paths: Iterable[str], passing: str | None) -> Any:
    """The dataset of some files. Those in the directory `passing` are mapped: they are gone before they are
    read.
    """
    form, system = pyarrow.dataset.IpcFileFormat(), LocalFileSystem()
    fragments = []
    for path in paths:
        values = _read(path)
        if values is None:
            continue
        known = reduce(and_, (_is(name, value) for name, value in values.items()))
        if passing is not None and path.startswith(passing):
            fragments.append(form.make_fragment(_mapped(path), partition_expression=known))
        else:
            fragments.append(form.make_fragment(path, system, partition_expression=known))
    return pyarrow.dataset.FileSystemDataset(fragments, SCHEMA, form, system)


def _mapped(path: str) -> Any:
    with open(path, "rb") as file:
        return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _is(name: str, value: Any) -> Any:
    """Says of all rows of a file what a column of them has."""
    column = pyarrow.dataset.field(name)
    return column == value if value.is_valid else column.is_null()


def _read(path: str) -> dict[str, Any] | None:
    """What the metadata of a file says of its snapshot; None where it cannot be in the dataset."""
    try:
        manifest = Manifest(path)
        _check(manifest)
        return _of_snapshot(manifest.metadata)
    except (IntegrityError, RefusedError, UsageError, OSError, pa.ArrowException, ValueError) as error:
        warnings.warn(f"the history goes on without {path}: {error}", HistoryWarning, stacklevel=4)
        return None


def _check(manifest: Manifest) -> None:
    for field in manifest.schema:
        at = SCHEMA.get_field_index(field.name)
        if at >= 0 and field.type != SCHEMA.field(at).type:
            raise ValueError(f"its column {field.name} is none of a manifest")


def _of_snapshot(metadata: dict[str, str]) -> dict[str, Any]:
    found = {
        "snapshot": metadata.get("snapsync.name"),
        "snapshot_id": metadata.get("snapsync.target"),
        "base_id": metadata.get("snapsync.base"),
        "sequence": metadata.get("snapsync.sequence"),
        "time": metadata.get("snapsync.created"),
    }
    return {name: pa.scalar(found[name] or None, pa.string()).cast(kind) for name, kind in _SNAPSHOT.items()}


def _struct(given: dict[str, Any], absent: dict[str, Any] | None = None) -> Any:
    """A type with some fields that are always given, and some that may be absent."""
    always = [pa.field(name, kind, nullable=False) for name, kind in given.items()]
    return pa.struct([*always, *(absent or {}).items()])


def _list(given: dict[str, Any], absent: dict[str, Any] | None = None) -> Any:
    return pa.list_(pa.field("item", _struct(given, absent), nullable=False))


def _columns() -> dict[str, Any]:
    """The columns of a manifest, as docs/format.md has them: a history without any has them too."""
    long, short, text, raw = pa.uint64(), pa.uint32(), pa.string(), pa.binary()
    links = _list({"parent": long, "name": raw})
    attributes = {"size": long, "mode": short, "uid": short, "gid": short, "rdev": long, "mtime": _TIME}
    attributes["flags"] = short
    sizes = dict.fromkeys(("project", "xflags", "extent_size", "cow_extent_size"), short)
    rare = _struct({**sizes, "far_second": pa.int64()})
    source = {"source": text, "source_inode": long, "source_offset": long, "checksum": pa.binary(32)}
    return {
        "inode": long,
        "generation": long,
        "kind": text,
        **dict.fromkeys(("path", "old_path"), text),
        **dict.fromkeys(("path_raw", "old_path_raw"), raw),
        "change": _struct(dict.fromkeys(FLAGS, pa.bool_())),
        **dict.fromkeys(("links_added", "links_removed"), links),
        **dict.fromkeys(("nlink", "nlink_old"), short),
        **{name + old: kind for name, kind in attributes.items() for old in ("", "_old")},
        "symlink_target": raw,
        "xattr": _list({"name": raw, "value": raw}),
        "extents": _list({"offset": long, "length": long, "op": text}, source),
        "data_bytes": long,
        **dict.fromkeys(("rare", "rare_old"), rare),
    }


SCHEMA: Any = pa.schema((_SNAPSHOT | _columns()).items())
"""All columns of the dataset."""
