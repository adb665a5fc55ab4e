"""Reading a manifest: the set of changes between two snapshots, one row a changed inode.

A manifest is a plain Arrow file, so any Arrow program reads it as it is. `Manifest` adds the questions
people ask first, and answers them batch by batch over a memory map: memory does not grow with the number
of changes.
"""

import heapq
import mmap
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from html import escape
from typing import Any, Self
from zlib import crc32

import pyarrow as pa

from snapsync import render
from snapsync.errors import IntegrityError, RefusedError, UsageError, told
from snapsync.reports.values import Changes, Counters
from snapsync.types import AnyPath

FORMAT = 2
_MAGIC = b"ARROW1"
FLAGS = ("created", "deleted", "renamed", "data", "attributes", "xattrs", "links")
_DIRECTORIES_AT_ONCE = 1 << 20
_SHOWN = 20
_READ = {
    "path": pa.string(),
    "old_path": pa.string(),
    "path_raw": pa.binary(),
    "old_path_raw": pa.binary(),
    "kind": pa.string(),
    "size": pa.uint64(),
    "size_old": pa.uint64(),
    "data_bytes": pa.uint64(),
}
"""The columns that the questions below are answered from; `change` beside them is a struct of FLAGS."""


class Totals(Changes):
    """The counts of a manifest, and the bytes of data that its rows name."""

    data_bytes: int


@dataclass(frozen=True, slots=True)
class Change:
    """One changed inode.

    `path` is where it is now (where it was, if it is deleted), `old_path` where it was if it was renamed.
    Names that are not UTF-8 are surrogate-escaped, as everywhere in Python. `flags` is a selection, in
    this order, of created, deleted, renamed, data, attributes, xattrs, links. Sizes are bytes.
    """

    path: str
    old_path: str | None
    kind: str
    flags: tuple[str, ...]
    size: int
    size_old: int | None
    data_bytes: int


@dataclass(frozen=True, slots=True)
class DirectoryChange:
    """How many entries directly in one directory changed, and the bytes of data they name."""

    path: str
    changes: int
    data_bytes: int


class Manifest:
    """An open manifest. Iterating gives pyarrow record batches, each read when it is asked for.

    Any library that speaks the Arrow C stream interface takes it as it is, for example
    `polars.DataFrame(manifest)` or `pyarrow.table(manifest)`.

    Raises OSError where the file cannot be read, UsageError where it is not a manifest, IntegrityError
    where it is damaged, RefusedError where a newer snapsync wrote it.
    """

    def __init__(
        self,
        path: AnyPath,
        *,
        notes: tuple[str, ...] = (),
        counters: Counters | None = None,
        owned: str | None = None,
    ) -> None:
        self.path = os.fsdecode(path)
        self.notes = notes
        """Notes that were made while the changes were found."""
        self.counters = counters
        """How much was looked at to find the changes; None for a file that was only opened."""
        if owned is not None:
            self._remove = weakref.finalize(self, shutil.rmtree, owned, ignore_errors=True)
        self._file = _open(self.path)
        self.schema: Any = self._file.schema
        """The pyarrow schema."""
        self.metadata: dict[str, str] = {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, value in (self.schema.metadata or {}).items()
        }
        """The schema's metadata: `snapsync.base`, `snapsync.target`, `snapsync.created` and so on."""
        with _reading(self.path):
            self.totals = self._read_totals()
            self._check_columns()

    def __len__(self) -> int:
        return self.totals.rows

    def __repr__(self) -> str:
        return f"<Manifest {self.path!r}, {len(self)} rows>"

    def _repr_html_(self) -> str:
        """The totals and the first changes, for a notebook."""
        from itertools import islice

        return _html(self, list(islice(self.changes(), _SHOWN)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file now, if it is a temporary one. What was read from it stays valid."""
        if hasattr(self, "_remove"):
            self._remove()

    def __iter__(self) -> Iterator[Any]:
        for index in range(self._file.num_record_batches):
            with _reading(self.path):
                batch = self._file.get_batch(index)
                batch.validate(full=True)
            yield batch

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        reader = pa.RecordBatchReader.from_batches(self.schema, iter(self))
        return reader.__arrow_c_stream__(requested_schema)

    def changes(self) -> Iterator[Change]:
        """Each changed inode, in the manifest's order (by inode number)."""
        for batch in self:
            with _reading(self.path):
                rows = _changed(batch).to_pylist()
            yield from map(_change, rows)

    def largest(self, n: int = 10) -> list[Change]:
        """The `n` changes that name most bytes of data, largest first. Ties: by path."""
        import pyarrow.compute as pc

        order = [("data_bytes", "descending"), ("path", "ascending")]
        best = pa.table({})
        for batch in self:
            with _reading(self.path):
                rows = _changed(batch)
                rows = rows.filter(pc.not_equal(rows["data_bytes"], 0))
                rows = pa.concat_tables([best, rows]) if best.num_rows else rows
                best = rows.take(pc.select_k_unstable(rows, min(n, rows.num_rows), order))
        return [_change(row) for row in best.to_pylist()]

    def by_directory(self, n: int = 10) -> list[DirectoryChange]:
        """The `n` directories whose entries name most bytes of data, then those with most changes.

        Exact: where there are too many directories to count at once, the rows are read more than once.
        """
        parts = 1 + len(self) // _DIRECTORIES_AT_ONCE
        best: list[DirectoryChange] = []
        for part in range(parts):
            best = heapq.nsmallest(n, [*best, *self._directories(part, parts)], key=_rank)
        return best

    def _directories(self, part: int, parts: int) -> list[DirectoryChange]:
        """The totals of those directories that fall into one part out of `parts`."""
        sums: dict[str, list[int]] = {}
        for batch in self:
            with _reading(self.path):
                found = _sums_by_directory(_changed(batch))
            for path, data_bytes, changes in found:
                if crc32(path.encode()) % parts == part:
                    own = sums.setdefault(path, [0, 0])
                    own[0] += changes
                    own[1] += data_bytes
        return [DirectoryChange(path, *own) for path, own in sums.items()]

    def _read_totals(self) -> Totals:
        """The totals, from the metadata; the presence of all of them also marks the file as ours."""
        if int(self.metadata.get("snapsync.format", FORMAT)) > FORMAT:
            message = f"cannot read {self.path}: a newer snapsync wrote this manifest"
            raise told(RefusedError(message), message, "update snapsync on this machine")
        names = ("created_count", "changed_count", "renamed_count", "deleted_count")
        try:
            values = [int(self.metadata[f"snapsync.{n}"]) for n in (*names, "rows", "data_bytes")]
        except (KeyError, ValueError) as error:
            raise _not_a_manifest(self.path) from error
        return Totals(*values)

    def _check_columns(self) -> None:
        """Check that all columns that are read here are there; others may be there too."""
        found = {field.name: field.type for field in self.schema}
        change = found["change"]
        flags = {field.name: field.type for field in change} if pa.types.is_struct(change) else {}
        sound = all(found.get(name) == kind for name, kind in _READ.items())
        if not sound or any(flags.get(name) != pa.bool_() for name in FLAGS):
            raise _damaged(self.path, "its columns are not those of a manifest")


def _open(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise _not_a_manifest(path)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise told(error, f"cannot open the manifest {path}: {error.strerror}") from None
    with _reading(path):
        return pa.ipc.open_file(pa.py_buffer(mapped))


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn any error while the content is read into one that says so: the file may hold any bytes."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
        raise _damaged(path, error) from error


def _not_a_manifest(path: str) -> UsageError:
    message = f"cannot inspect {path}: it is not a manifest"
    return told(UsageError(message), message, "`snapsync diff BASE TARGET -o FILE.arrow` writes one")


def _damaged(path: str, reason: object) -> IntegrityError:
    message = f"cannot read the manifest {path}: it is damaged: {reason}"
    advice = "make it again with `snapsync diff BASE TARGET -o FILE.arrow`"
    return told(IntegrityError(message), message, advice)


def _changed(batch: Any) -> Any:
    """The rows that really changed (the others only anchor names), with the columns of a Change."""
    import pyarrow.compute as pc

    flags = dict(zip(FLAGS, (batch["change"].field(flag) for flag in FLAGS), strict=True))
    columns = {
        "path": pc.coalesce(batch["path"], batch["old_path"]),
        "path_raw": pc.if_else(pc.is_valid(batch["path"]), batch["path_raw"], batch["old_path_raw"]),
        "old_path": batch["old_path"],
        "old_path_raw": batch["old_path_raw"],
        "kind": batch["kind"],
        "size": batch["size"],
        "size_old": batch["size_old"],
        "data_bytes": batch["data_bytes"],
    }
    return pa.table(columns | flags).filter(reduce(pc.or_, flags.values()))


def _change(row: dict[str, Any]) -> Change:
    return Change(
        path=_name(row["path"], row["path_raw"]),
        old_path=_name(row["old_path"], row["old_path_raw"]) if row["renamed"] else None,
        kind=row["kind"],
        flags=tuple(flag for flag in FLAGS if row[flag]),
        size=row["size"],
        size_old=row["size_old"],
        data_bytes=row["data_bytes"],
    )


def _name(path: str, raw: bytes | None) -> str:
    return path if raw is None else os.fsdecode(raw)


def _html(manifest: Manifest, shown: list[Change]) -> str:
    """A table of some changes under the totals. Names may hold anything, and are shown as text."""
    totals = manifest.totals
    caption = f"{render.changes(totals)}; {render.size(totals.data_bytes)} of data"
    rows = [("path", "was", "kind", "change", "size", "data")]
    for one in shown:
        sizes = render.size(one.size or 0), render.size(one.data_bytes)
        rows.append((one.path, one.old_path or "", one.kind, ", ".join(one.flags), *sizes))
    head, *body = ("".join(f"<td>{escape(render.name(cell))}</td>" for cell in row) for row in rows)
    rest = totals.created + totals.changed + totals.renamed + totals.deleted - len(shown)
    if rest > 0:
        body.append(f'<td colspan="{len(rows[0])}">and {rest:,} more</td>')
    lines = [f"<thead><tr>{head.replace('td>', 'th>')}</tr></thead>", "<tbody>"]
    lines += [*(f"<tr>{row}</tr>" for row in body), "</tbody>"]
    return f"<table><caption>{escape(caption)}</caption>{''.join(lines)}</table>"


def _sums_by_directory(rows: Any) -> list[tuple[str, int, int]]:
    """Directory, bytes of data and number of changes, for the rows of one batch."""
    import pyarrow.compute as pc

    inside = pc.replace_substring_regex(rows["path"], r"/?[^/]*$", "")
    parents = pc.if_else(pc.equal(inside, ""), ".", inside)
    table = pa.table({"path": parents, "data_bytes": rows["data_bytes"]})
    sums = table.group_by("path").aggregate([("data_bytes", "sum"), ("data_bytes", "count")])
    columns = (sums[name].to_pylist() for name in ("path", "data_bytes_sum", "data_bytes_count"))
    return list(zip(*columns, strict=True))


def _rank(directory: DirectoryChange) -> tuple[int, int, str]:
    return -directory.data_bytes, -directory.changes, directory.path
