"""What `snapsync diff` told against what really changed, path by path and block by block.

Both trees are read with the system's own calls. Nothing may have changed that no row tells, and nothing
is told that did not change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from machine import done
from oracle import BLOCK, KNOWN_FLAGS, Entry, Picture, freeze

Row = dict[str, Any]
SUBVOLUME_STUB = 2
"""The inode number of what a Btrfs snapshot shows in the place of a nested subvolume."""


def rows_of(file: Path | bytes) -> list[Row]:
    """The rows of a manifest; times as nanoseconds, which Python's own times cannot hold."""
    table = pa.ipc.open_file(file).read_all()
    for name in ("mtime", "mtime_old"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
    rows: list[Row] = table.to_pylist()
    return rows


def path_of(row: Row, column: str = "path") -> bytes | None:
    """A path as bytes: the text column, or the raw one where a name is not UTF-8."""
    raw, text = row[column + "_raw"], row[column]
    if raw is not None:
        return bytes(raw)
    return None if text is None else str(text).encode()


def changes(base: object, target: object, file: Path, **how: Any) -> list[Row]:
    """The rows of `diff BASE TARGET`, those with them that are there to give names and clones a place."""
    done("diff", base, target, "-o", file, **how)
    return rows_of(file)


def changed(rows: list[Row]) -> list[Row]:
    """The rows that tell of a change."""
    return [row for row in rows if any(row["change"].values())]


def changed_paths(rows: list[Row]) -> set[str]:
    """Every path that a row names, old or new."""
    return {path for row in rows for path in (row["path"], row["old_path"]) if path is not None}


def told(base: Path, target: Path, file: Path) -> list[Row]:
    """The rows of `diff BASE TARGET`, proved to be right and complete for two directories."""
    rows = changes(base, target, file)
    assert_told(base, target, rows)
    return changed(rows)


def assert_told(base: Path, target: Path, rows: list[Row]) -> None:
    """Fails with whatever changed and is not in the rows, or is in them and did not change."""
    wrong = list(Told.between(base, target, rows).wrong())
    assert not wrong, f"{len(wrong)} mistakes:\n  " + "\n  ".join(wrong[:40])


@dataclass(frozen=True)
class Told:
    """Two trees and the rows between them. `row` finds the row of any name of an inode."""

    base: bytes
    target: bytes
    before: dict[bytes, Entry]
    after: dict[bytes, Entry]
    rows: list[Row]
    row: dict[bytes, Row]
    sources: dict[tuple[str, int], bytes]

    @classmethod
    def between(cls, base: Path, target: Path, rows: list[Row]) -> Told:
        old, new = freeze(base), freeze(target)
        row = {path: row for row in changed(rows) if (path := path_of(row)) is not None}
        for group in new.groups:
            for path in group & row.keys():
                row |= dict.fromkeys(group, row[path])
        roots = os.fsencode(base), os.fsencode(target)
        pictures = _without_stubs(roots[0], old), _without_stubs(roots[1], new)
        sources: dict[tuple[str, int], bytes] = {}
        for root, side, column in zip(roots, ("base", "target"), ("old_path", "path"), strict=True):
            for found in rows:
                if (path := path_of(found, column)) is not None:
                    sources[side, found["inode"]] = os.path.join(root, path)
        return cls(*roots, *pictures, changed(rows), row, sources)

    def wrong(self) -> Iterator[str]:
        yield from self.names()
        for path, entry in self.after.items():
            row = self.row.get(path)
            if row is None:
                old = self.before.get(self.origin(path))
                if old is None or _kept(old) != _kept(entry):
                    yield f"{path!r} changed, and no row tells: {old} | {entry}"
                continue
            yield from self.attributes(path, entry, row)
            if entry.kind == "file":
                yield from (f"{path!r}: {what}" for what in self.blocks(path, entry, row))

    def origin(self, path: bytes) -> bytes:
        """Where the path was when nothing happened but to the directories above it."""
        above = os.path.dirname(path)
        while above:
            row = self.row.get(above)
            if row is not None and row["kind"] == "directory":
                old = path_of(row, "old_path")
                return path if old is None else old + path[len(above) :]
            above = os.path.dirname(above)
        return path

    def names(self) -> Iterator[str]:
        """Every name that came or went is the name of a link that a row adds or removes."""
        added = {bytes(link["name"]) for row in self.rows for link in row["links_added"] or []}
        removed = {bytes(link["name"]) for row in self.rows for link in row["links_removed"] or []}
        origins = {self.origin(path): path for path in self.after}
        for path in self.before.keys() - origins.keys():
            if os.path.basename(path) not in removed:
                yield f"{path!r} is gone, and no row tells"
        for path in origins.keys() - self.before.keys():
            if os.path.basename(origins[path]) not in added:
                yield f"{origins[path]!r} is new, and no row tells"

    def attributes(self, path: bytes, entry: Entry, row: Row) -> Iterator[str]:
        size = entry.size if entry.kind == "file" else row["size"]
        is_now = (entry.kind.replace(" ", "_"), entry.mode, entry.uid, entry.gid, entry.mtime_ns, size)
        told = tuple(row[name] for name in ("kind", "mode", "uid", "gid", "mtime", "size"))
        if is_now != told:
            yield f"{path!r}: {told} was told, {is_now} is true"

    def blocks(self, path: bytes, entry: Entry, row: Row) -> Iterator[str]:
        """The extents of a row against both files."""
        origin = None if row["change"]["created"] else path_of(row, "old_path")
        old = self.before[origin] if origin is not None else None
        was = _read(self.base, origin)[: entry.size] if origin is not None else b""
        now = _read(self.target, path)
        grown = old.size if old is not None else 0
        rebuilt = bytearray(was.ljust(-(-entry.size // BLOCK) * BLOCK, b"\0"))
        operations: dict[int, str] = {}
        end = 0
        for extent in row["extents"] or []:
            first, length, op = extent["offset"], extent["length"], extent["op"]
            # What a file grew by begins at its old end, a hole where data ends, all else on a block border.
            if first < end or (first % BLOCK and first != grown and op != "hole"):
                yield f"{extent} overlaps the one before, or cuts a block"
            end = first + length
            # A block that data ends in is data, whatever the rest of it is.
            begins = first // BLOCK if op in ("data", "clone") else -(-first // BLOCK)
            operations |= dict.fromkeys(range(begins, -(-end // BLOCK)), op)
            part = now[first:end]
            rebuilt[first : first + len(part)] = part if op in ("data", "clone") else bytes(len(part))
            if op == "clone" and not self.is_clone(extent, part):
                yield f"{extent} does not hold what its source holds"
        if rebuilt[: entry.size] != now:
            yield "the old bytes and the extents do not make the new bytes"
        for block in range(-(-entry.size // BLOCK)):
            yield from self.block(block, operations.get(block), (was, now), (old, entry))
        data = sum(extent["length"] for extent in row["extents"] or [] if extent["op"] == "data")
        if data != row["data_bytes"]:
            yield f"data_bytes is {row['data_bytes']}, the extents hold {data}"

    def block(
        self, block: int, op: str | None, bytes_: tuple[bytes, bytes], entries: tuple[Entry | None, Entry]
    ) -> Iterator[str]:
        was, now = (part[block * BLOCK :][:BLOCK].ljust(BLOCK, b"\0") for part in bytes_)
        what = [_kind(entry, block) for entry in entries]
        if op is None and what[0] != what[1]:
            yield f"block {block} was {what[0]} and is {what[1]}, and no extent tells"
        if op in ("hole", "unwritten") and (now.strip(b"\0") or what[1] != op):
            yield f"block {block} is told to be {op}, and is {what[1]}"
        whole = entries[0] is not None and (block + 1) * BLOCK <= entries[0].size
        if op == "data" and whole and was == now and what[0] == what[1]:
            yield f"block {block} is the same, and told as data"

    def is_clone(self, extent: dict[str, Any], now: bytes) -> bool:
        """The source has a row, and holds these bytes on the side that is named."""
        path = self.sources.get((extent["source"], extent["source_inode"]))
        if path is None:
            return False
        with open(path, "rb") as file:
            return os.pread(file.fileno(), len(now), extent["source_offset"]) == now


def _without_stubs(root: bytes, picture: Picture) -> dict[bytes, Entry]:
    if picture.file_system != "btrfs":
        return picture.entries
    found = picture.entries.items()
    return {
        path: entry
        for path, entry in found
        if entry.kind != "directory" or os.lstat(os.path.join(root, path)).st_ino != SUBVOLUME_STUB
    }


def _kept(entry: Entry) -> Entry:
    """Without what the file system gives and takes by itself: blocks past the end, that it compresses."""
    return replace(entry, past_end=(), flags=entry.flags & KNOWN_FLAGS["btrfs"])


def _read(root: bytes, path: bytes) -> bytes:
    with open(os.path.join(root, path), "rb") as file:
        return file.read()


def _kind(entry: Entry | None, block: int) -> str:
    """What a block of the file is; beyond its end it is nothing, which is a hole to the next owner."""
    if entry is None or block * BLOCK >= entry.size:
        return "hole"
    runs = entry.layout
    return next((what for first, end, what in runs if first <= block < end), "hole")
