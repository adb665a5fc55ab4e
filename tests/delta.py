"""Reads and writes deltas as docs/format.md describes them, and nothing of snapsync.

`parse` makes every check of that page and raises `Broken`; `Delta.pieces` writes what it is told to, lies
included: each field of the format can be given another value, and what depends on it follows or does not.
"""

from __future__ import annotations

import copy
import json
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from blake3 import blake3
from told import Row, rows_of

MAGIC = b"\x89SNSD\r\n\x1a"
MIB = 1 << 20
MOST = 4 * MIB
"""The most bytes of a frame, raw or stored, and the largest window."""
KEYS = {"snapshot", "origin", "base", "volume", "lineage", "epoch", "filesystem", "totals", "software"}
TOTALS = {
    "rows": "rows",
    "created": "created_count",
    "changed": "changed_count",
    "renamed": "renamed_count",
    "deleted": "deleted_count",
    "data_bytes": "data_bytes",
}
"""What the header's totals are called in the manifest's schema."""


class Broken(AssertionError):
    """Something that the page does not allow."""


def check(true: object, what: str) -> None:
    if not true:
        raise Broken(what)


def digest(content: bytes) -> bytes:
    return blake3(content).digest()


class Piece(NamedTuple):
    """One field of a delta as it is written: `frame 3 digest`."""

    name: str
    content: bytes


class Span(NamedTuple):
    """Where a field is."""

    name: str
    start: int
    end: int


@dataclass
class Frame:
    """A run of bytes of one file. `lies` takes the place of what its header would say."""

    inode: int
    offset: int
    raw: bytes
    codec: int = 0
    stored: bytes = b""
    lies: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, inode: int, offset: int, raw: bytes, *, codec: int = 0, **lies: Any) -> Frame:
        return cls(inode, offset, raw, codec, compressed(raw) if codec == 1 else raw, lies)

    def pieces(self) -> list[Piece]:
        say = self.lies.get
        stored = say("stored", self.stored)
        return [
            Piece("kind", say("kind", b"F")),
            Piece("codec", struct.pack("<B", say("codec", self.codec))),
            Piece("reserved", say("reserved", bytes(2))),
            Piece("raw length", struct.pack("<I", say("raw_length", len(self.raw)))),
            Piece("stored length", struct.pack("<I", say("stored_length", len(stored)))),
            Piece("reserved too", say("reserved_too", bytes(4))),
            Piece("inode", struct.pack("<Q", say("inode", self.inode))),
            Piece("offset", struct.pack("<Q", say("offset", self.offset))),
            Piece("digest", say("digest", digest(self.raw))),
            Piece("bytes", stored),
        ]


@dataclass
class Delta:
    """A delta in its parts. `lies` takes the place of what would be written; digests that are not lied
    about are right for what is written, so that a lie is told consistently unless its digest is given too."""

    header: dict[str, Any]
    manifest: bytes
    frames: list[Frame]
    version: int = 2
    required: int = 0
    optional: int = 0
    lies: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Delta:
        return copy.deepcopy(self)

    def pieces(self) -> Iterator[Piece]:
        say = self.lies.get
        header = say("header", json.dumps(self.header, ensure_ascii=False, separators=(",", ":")).encode())
        head = [
            Piece("head magic", say("magic", MAGIC)),
            Piece("head version", struct.pack("<I", self.version)),
            Piece("head length", struct.pack("<I", say("header_length", len(header)))),
            Piece("head required", struct.pack("<Q", self.required)),
            Piece("head optional", struct.pack("<Q", self.optional)),
            Piece("head header", header),
        ]
        head_digest = say("head_digest", digest(joined(head)))
        yield from head
        yield Piece("head digest", head_digest)

        manifest_digest = say("manifest_digest", digest(self.manifest))
        yield Piece("manifest kind", say("manifest_kind", b"M"))
        yield Piece("manifest reserved", say("manifest_reserved", bytes(7)))
        yield Piece("manifest length", struct.pack("<Q", say("manifest_length", len(self.manifest))))
        yield Piece("manifest digest", manifest_digest)
        yield Piece("manifest bytes", self.manifest)

        digests = []
        for number, frame in enumerate(self.frames):
            pieces = frame.pieces()
            digests.append(digest(joined(pieces[:-1])))
            for piece in pieces:
                yield Piece(f"frame {number} {piece.name}", piece.content)

        frames = say("frames", len(self.frames))
        raw_bytes = say("raw_bytes", sum(len(frame.raw) for frame in self.frames))
        counts = struct.pack("<QQ", frames, raw_bytes)
        if say("end", True):
            yield Piece("end kind", say("end_kind", b"E"))
            yield Piece("end reserved", say("end_reserved", bytes(7)))
            yield Piece("end frames", counts[:8])
            yield Piece("end raw bytes", counts[8:])
            whole = digest(head_digest + manifest_digest + counts + xor(digests))
            yield Piece("end digest", say("end_digest", whole))
        yield Piece("tail", say("tail", b""))

    def bytes(self) -> bytes:
        return joined(self.pieces())

    def write(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path

    def spans(self) -> list[Span]:
        """Where each field is; those of no bytes are left out."""
        found, at = [], 0
        for name, content in self.pieces():
            if content:
                found.append(Span(name, at, at + len(content)))
            at += len(content)
        return found

    # the manifest

    @property
    def rows(self) -> list[Row]:
        return rows_of(self.manifest)

    def row(self, path: str) -> Row:
        """The row of a path of the target, or of the base where the target has none."""
        return next(row for row in self.rows if path in (row["path"], row["path"] or row["old_path"]))

    def change(self, change: Callable[[list[Row]], object], *, totals: bool = True) -> Delta:
        """Another delta, whose manifest's rows went through `change`, which works in place."""
        made = self.copy()
        made.manifest = rewritten(self.manifest, change, totals=totals)
        if totals:
            told = metadata(made.manifest)
            made.header["totals"] = {ours: int(told[f"snapsync.{theirs}"]) for ours, theirs in TOTALS.items()}
        return made

    def change_row(self, path: str, change: Callable[[Row], object], *, totals: bool = True) -> Delta:
        """The same for the row of one path."""
        return self.change(lambda rows: change(row_in(rows, path)), totals=totals)


def row_in(rows: list[Row], path: str) -> Row:
    return next(row for row in rows if path in (row["path"], row["path"] or row["old_path"]))


def joined(pieces: Iterator[Piece] | list[Piece]) -> bytes:
    return b"".join(piece.content for piece in pieces)


def xor(digests: list[bytes]) -> bytes:
    numbers = (int.from_bytes(one, "little") for one in digests)
    return reduce(int.__xor__, numbers, 0).to_bytes(32, "little")


# --- the manifest -----------------------------------------------------------------------------


def metadata(manifest: bytes) -> dict[str, str]:
    schema = pa.ipc.open_file(manifest).schema
    return {key.decode(): value.decode() for key, value in schema.metadata.items()}


def rewritten(
    manifest: bytes,
    change: Callable[[list[Row]], object] = lambda rows: None,
    *,
    totals: bool = True,
    compression: str | None = "zstd",
) -> bytes:
    """The manifest with other rows and all else as it was; `totals` are counted anew."""
    schema = pa.ipc.open_file(manifest).schema
    rows = rows_of(manifest)
    change(rows)
    plain = schema
    times = [schema.get_field_index(name) for name in ("mtime", "mtime_old")]
    for at in times:
        plain = plain.set(at, schema.field(at).with_type(pa.int64()))
    table = pa.Table.from_pylist(rows, schema=plain)
    for at in times:
        table = table.set_column(at, schema.field(at), table.column(at).cast(schema.field(at).type))
    described = dict(schema.metadata)
    if totals:
        described |= {f"snapsync.{name}".encode(): b"%020d" % value for name, value in counted(rows).items()}
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, schema.with_metadata(described), options=options) as writer:
        writer.write_table(table.replace_schema_metadata(described))
    return bytes(sink.getvalue())


def counted(rows: list[Row]) -> dict[str, int]:
    """The totals of the schema, from the rows."""
    changes = [row["change"] for row in rows]
    survive = [change for change in changes if not change["created"] and not change["deleted"]]
    content = ("data", "attributes", "xattrs", "links")
    return {
        "rows": len(rows),
        "created_count": sum(change["created"] for change in changes),
        "changed_count": sum(any(change[flag] for flag in content) for change in survive),
        "renamed_count": sum(change["renamed"] for change in changes),
        "deleted_count": sum(change["deleted"] for change in changes),
        "data_bytes": sum(extent["length"] for row in rows for extent in data_extents(row)),
    }


def data_extents(row: Row) -> list[dict[str, Any]]:
    return [extent for extent in row["extents"] if extent["op"] == "data"]


# --- reading ----------------------------------------------------------------------------------


class Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, length: int, what: str) -> bytes:
        check(self.at + length <= len(self.content), f"the delta ends in {what}")
        self.at += length
        return self.content[self.at - length : self.at]

    def integer(self, length: int, what: str) -> int:
        return int.from_bytes(self.take(length, what), "little")


def parse(content: bytes, *, all_frames: bool = True) -> Delta:
    """The delta, with every check of the page. `all_frames`: for a receiver that holds nothing yet."""
    reader = Reader(content)
    delta, head_digest = _head(reader)
    delta.manifest, manifest_digest = _manifest(reader)
    digests: list[bytes] = []
    while (kind := reader.take(1, "a record's kind")) == b"F":
        start = reader.at - 1
        delta.frames.append(_frame(reader))
        digests.append(digest(content[start : start + 64]))
    check(kind == b"E", f"a record of kind {kind!r}")
    check(reader.take(7, "the end") == bytes(7), "reserved bytes of the end")
    counts = reader.take(16, "the end")
    frames, raw_bytes = struct.unpack("<QQ", counts)
    check(frames == len(delta.frames), "the end counts other frames")
    check(raw_bytes == sum(len(frame.raw) for frame in delta.frames), "the end counts other bytes")
    whole = digest(head_digest + manifest_digest + counts + xor(digests))
    check(reader.take(32, "the end") == whole, "the digest of the end")
    check(reader.at == len(content), "something follows the end")
    _agree(delta)
    _frames_fit(delta, all_frames)
    return delta


def _head(reader: Reader) -> tuple[Delta, bytes]:
    check(reader.take(8, "the magic") == MAGIC, "the magic")
    version = reader.integer(4, "the version")
    length = reader.integer(4, "the header's length")
    required, optional = reader.integer(8, "the features"), reader.integer(8, "the features")
    check(version in (1, 2), f"version {version}")
    check(required == 0, f"required features {required:#x}")
    check(length <= MIB, f"a header of {length} bytes")
    content = reader.take(length, "the header")
    expected = digest(reader.content[: reader.at])
    check(reader.take(32, "the head's digest") == expected, "the head's digest")
    header = json.loads(content)
    check(isinstance(header, dict), "the header is no object")
    check(header.keys() >= KEYS, f"the header lacks {KEYS - header.keys()}")
    return Delta(header, b"", [], version, required, optional), expected


def _manifest(reader: Reader) -> tuple[bytes, bytes]:
    check(reader.take(8, "the manifest's kind") == b"M" + bytes(7), "the manifest's kind and reserved bytes")
    length = reader.integer(8, "the manifest's length")
    said = reader.take(32, "the manifest's digest")
    manifest = reader.take(length, "the manifest")
    check(digest(manifest) == said, "the manifest's digest")
    return manifest, said


def _frame(reader: Reader) -> Frame:
    codec = reader.integer(1, "a frame")
    check(codec in (0, 1), f"codec {codec}")
    check(reader.take(2, "a frame") == bytes(2), "reserved bytes of a frame")
    raw_length, stored_length = reader.integer(4, "a frame"), reader.integer(4, "a frame")
    check(reader.take(4, "a frame") == bytes(4), "reserved bytes of a frame")
    inode, offset = reader.integer(8, "a frame"), reader.integer(8, "a frame")
    said = reader.take(32, "a frame")
    check(1 <= raw_length <= MOST and 1 <= stored_length <= MOST, "a frame's length")
    stored = reader.take(stored_length, "a frame's bytes")
    raw = stored
    if codec == 1:
        check(stored_length < raw_length, "a frame that compression made no shorter")
        check(window(stored) <= MOST, "a frame's window")
        raw = decompressed(stored, raw_length)
    check(len(raw) == raw_length, "a frame's raw length")
    check(digest(raw) == said, "a frame's digest")
    return Frame(inode, offset, raw, codec, stored)


def _agree(delta: Delta) -> None:
    """The header says what the manifest says, and the totals are those of the rows."""
    told = metadata(delta.manifest)
    header = delta.header
    check(told["snapsync.format"] in ("1", "2"), "the manifest's format")
    for ours, theirs in TOTALS.items():
        check(header["totals"][ours] == int(told[f"snapsync.{theirs}"]), f"the header's total of {ours}")
    for name, value in counted(delta.rows).items():
        check(int(told[f"snapsync.{name}"]) == value, f"the manifest's total of {name}")
    check((header["volume"] is None) == (header["lineage"] is None), "a lineage without a volume")
    for identity in (header["origin"], (header["base"] or {}).get("origin")):
        check(identity is None or identity.keys() == {"uuid", "transid"}, f"an origin of {identity}")
    for row in delta.rows:
        check(row["data_bytes"] == sum(extent["length"] for extent in data_extents(row)), "data_bytes")
        ends = [(extent["offset"], extent["offset"] + extent["length"]) for extent in row["extents"]]
        check(all(first[1] <= second[0] for first, second in pairwise(ends)), "extents overlap")


def _frames_fit(delta: Delta, all_of_them: bool) -> None:
    """Each frame lies within one data extent; together they hold each byte of the extents once."""
    files = {row["inode"]: row for row in delta.rows if not row["change"]["deleted"]}
    held: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for frame in delta.frames:
        check(frame.inode in files, f"a frame of inode {frame.inode}, which has no row")
        end = frame.offset + len(frame.raw)
        extents = data_extents(files[frame.inode])
        inside = any(e["offset"] <= frame.offset and end <= e["offset"] + e["length"] for e in extents)
        check(inside, f"a frame outside the extents: {frame.inode} at {frame.offset}")
        held[frame.inode].append((frame.offset, end))
    for inode, row in files.items():
        runs = sorted(held[inode])
        check(
            all(first[1] <= second[0] for first, second in pairwise(runs)), f"inode {inode}: bytes come twice"
        )
        there, due = sum(end - start for start, end in runs), sum(e["length"] for e in data_extents(row))
        check(not all_of_them or there == due, f"inode {inode}: {there} bytes came of {due}")


# --- Zstandard --------------------------------------------------------------------------------


def compressed(raw: bytes, level: int = 3) -> bytes:
    return bytes(pa.Codec("zstd", compression_level=level).compress(raw, asbytes=True))


def decompressed(stored: bytes, most: int) -> bytes:
    """What a frame holds, up to one byte more than it should."""
    try:
        with pa.input_stream(pa.BufferReader(stored), compression="zstd") as stream:
            return bytes(stream.read(most + 1))
    except OSError as error:
        raise Broken(f"a frame's bytes: {error}") from error


def window(stored: bytes) -> int:
    """The window of a Zstandard frame (RFC 8878), which must be one frame and nothing else."""
    reader = Reader(stored)
    check(reader.integer(4, "a Zstandard frame") == 0xFD2F_B528, "no Zstandard frame")
    descriptor = reader.integer(1, "a Zstandard frame")
    single = bool(descriptor & 0x20)
    size = 0
    if not single:
        described = reader.integer(1, "a Zstandard frame")
        base = 1 << (10 + (described >> 3))
        size = base + base // 8 * (described & 7)
    reader.take((0, 1, 2, 4)[descriptor & 3], "a dictionary's number")
    width = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    content = reader.integer(width, "a Zstandard frame") + (256 if width == 2 else 0)
    last = False
    while not last:
        block = reader.integer(3, "a Zstandard block")
        last, kind, length = bool(block & 1), block >> 1 & 3, block >> 3
        reader.take(1 if kind == 1 else length, "a Zstandard block")
    reader.take(4 if descriptor & 4 else 0, "a Zstandard checksum")
    check(reader.at == len(stored), "something follows the Zstandard frame")
    return content if single else size
