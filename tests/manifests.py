"""Kept manifests made by a test: the columns that the page reads, and the metadata of a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

FLAGS = ("created", "deleted", "renamed", "data", "attributes", "xattrs", "links")
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("path", pa.string()),
        ("old_path", pa.string()),
        ("path_raw", pa.binary()),
        ("old_path_raw", pa.binary()),
        ("change", pa.struct([pa.field(flag, pa.bool_(), nullable=False) for flag in FLAGS])),
        ("size", pa.uint64()),
        ("size_old", pa.uint64()),
        ("data_bytes", pa.uint64()),
    ]
)


def row(
    old: bytes | None,
    new: bytes | None,
    size_old: int | None = None,
    size: int | None = None,
    data: int = 0,
    kind: str = "file",
    renamed: bool | None = None,
) -> dict[str, Any]:
    """The change of an inode that was called `old` and is called `new`: None where it is not there.

    It is not `renamed` if only a directory above it was.
    """
    flags = dict.fromkeys(FLAGS, False)
    flags["created"], flags["deleted"] = old is None, new is None
    flags["renamed"] = (None not in (old, new) and old != new) if renamed is None else renamed
    flags["data"] = data > 0
    flags["attributes"] = not any(flags.values())
    told = {"path": new, "old_path": old}
    texts = {name: _text(path) for name, path in told.items()}
    raw = {f"{name}_raw": path if _is_odd(path) else None for name, path in told.items()}
    sizes = {"size": (size or 0) if new is not None else 0, "size_old": size_old, "data_bytes": data}
    return {"kind": kind, "change": flags, **texts, **raw, **sizes}


def _text(path: bytes | None) -> str | None:
    return None if path is None else path.decode("utf-8", "replace")


def _is_odd(path: bytes | None) -> bool:
    return path is not None and path.decode("utf-8", "replace").encode() != path


def write(
    file: Path,
    rows: Iterable[Mapping[str, Any]] | pa.Table,
    *,
    base: str,
    target: str,
    name: str,
    sequence: int,
    time: datetime,
) -> Path:
    """A manifest of these rows, in batches of 8,192."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), SCHEMA)
    flags = {flag: pa.compute.struct_field(table["change"], flag) for flag in FLAGS}
    count = {flag: pa.compute.sum(flags[flag]).as_py() or 0 for flag in ("created", "renamed", "deleted")}
    metadata = {
        "format": 2,
        "base": base,
        "target": target,
        "name": name,
        "sequence": sequence,
        "created": time.isoformat(),
        "rows": table.num_rows,
        **{f"{flag}_count": number for flag, number in count.items()},
        "changed_count": table.num_rows - sum(count.values()),
        "data_bytes": pa.compute.sum(table["data_bytes"]).as_py() or 0,
    }
    known = {f"snapsync.{key}": str(value) for key, value in metadata.items()}
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(file, table.schema.with_metadata(known), options=options) as out:
        for batch in table.to_batches(max_chunksize=8192):
            out.write_batch(batch)
    return file
