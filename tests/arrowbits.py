"""The integers inside an Arrow file that a reader has to trust, and how to give them other values.

Reads just as much of the format's flatbuffers as that takes: the footer, messages, record batches.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

COMPRESSED_PREFIX = 8
"""Before a compressed buffer stands how long it is without compression."""


class Place(NamedTuple):
    """Where an integer stands in the file."""

    name: str
    at: int
    form: str


@dataclass(frozen=True)
class Table:
    """A flatbuffer table; fields are found by their number."""

    content: bytes
    at: int

    def field(self, number: int) -> int | None:
        vtable = self.at - integer(self.content, self.at, "<i")
        if 4 + 2 * number >= integer(self.content, vtable, "<H"):
            return None
        offset = integer(self.content, vtable + 4 + 2 * number, "<H")
        return self.at + offset if offset else None

    def follow(self, number: int) -> int:
        at = self.field(number)
        assert at is not None, f"field {number} is not there"
        return at + integer(self.content, at, "<I")

    def structs(self, number: int, size: int) -> list[int]:
        start = self.follow(number)
        return [start + 4 + size * index for index in range(integer(self.content, start, "<I"))]


def integer(content: bytes, at: int, form: str) -> int:
    value: int = struct.unpack_from(form, content, at)[0]
    return value


def root(content: bytes, at: int) -> Table:
    return Table(content, at + integer(content, at, "<I"))


def footer(content: bytes) -> Table:
    length = integer(content, len(content) - 10, "<i")
    return root(content, len(content) - 10 - length)


@dataclass(frozen=True)
class Batch:
    """One record batch: where its message and its body are, and its integers."""

    content: bytes
    block: int

    @property
    def start(self) -> int:
        return integer(self.content, self.block, "<q")

    @property
    def message(self) -> Table:
        return root(self.content, self.start + 8)

    @property
    def record(self) -> Table:
        return Table(self.content, self.message.follow(2))

    @property
    def body(self) -> int:
        return self.start + integer(self.content, self.block + 8, "<i")

    @property
    def body_length(self) -> int:
        return integer(self.content, self.block + 16, "<q")

    def buffers(self) -> list[tuple[int, int, int]]:
        """Where each buffer's entry stands, where the buffer begins in the file, and its length."""
        entries = self.record.structs(2, 16)
        return [
            (at, self.body + integer(self.content, at, "<q"), integer(self.content, at + 8, "<q"))
            for at in entries
        ]


def batches(content: bytes) -> list[Batch]:
    return [Batch(content, at) for at in footer(content).structs(3, 24)]


def places(content: bytes) -> Iterator[Place]:
    """Every length, count and offset by which a reader finds its way."""
    yield Place("footer length", len(content) - 10, "<i")
    for number, batch in enumerate(batches(content)):
        name = f"batch {number}"
        yield Place(f"{name} block offset", batch.block, "<q")
        yield Place(f"{name} block metadata length", batch.block + 8, "<i")
        yield Place(f"{name} block body length", batch.block + 16, "<q")
        yield Place(f"{name} metadata length", batch.start + 4, "<i")
        if (at := batch.message.field(3)) is not None:
            yield Place(f"{name} body length", at, "<q")
        if (at := batch.record.field(0)) is not None:
            yield Place(f"{name} rows", at, "<q")
        for index, at in enumerate(batch.record.structs(1, 16)):
            yield Place(f"{name} node {index} length", at, "<q")
            yield Place(f"{name} node {index} nulls", at + 8, "<q")
        compressed = batch.record.field(3) is not None
        for index, (at, start, length) in enumerate(batch.buffers()):
            yield Place(f"{name} buffer {index} offset", at, "<q")
            yield Place(f"{name} buffer {index} length", at + 8, "<q")
            if compressed and length > COMPRESSED_PREFIX:
                yield Place(f"{name} buffer {index} uncompressed length", start, "<q")
            elif length >= 8:
                # What may be the offsets of a list or of text.
                yield Place(f"{name} buffer {index} first offset", start, "<i")
                yield Place(f"{name} buffer {index} next offset", start + 4, "<i")
                yield Place(f"{name} buffer {index} last offset", start + (length - 4) // 4 * 4, "<i")


def wild(place: Place) -> list[int]:
    """Values that no honest file has there."""
    bits = 31 if place.form == "<i" else 63
    return [-1, (1 << bits) - 1, -(1 << bits), 1 << (bits - 1), (1 << (bits - 8)) + 1]


def patched(content: bytes, place: Place, value: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(place.form, changed, place.at, value)
    return bytes(changed)


def with_buffer(content: bytes, index: int, buffer: bytes) -> bytes:
    """The file with other bytes in one buffer of its only batch, and every length right."""
    (batch,) = batches(content)
    padded = buffer + bytes(-len(buffer) % 8)
    end = batch.body + batch.body_length
    changed = bytearray(content)
    entry = batch.buffers()[index][0]
    struct.pack_into("<qq", changed, entry, batch.body_length, len(buffer))
    at = batch.message.field(3)
    assert at is not None
    struct.pack_into("<q", changed, at, batch.body_length + len(padded))
    struct.pack_into("<q", changed, batch.block + 16, batch.body_length + len(padded))
    changed[end:end] = padded
    return bytes(changed)


def zeros_compressed(length: int, window_log: int = 22) -> bytes:
    """A Zstandard frame of that many zeros, 4 bytes for each 128 KiB."""
    most = 1 << 17
    whole, rest = divmod(length, most)
    sizes = [most] * whole + ([rest] if rest else [])
    blocks = [(size << 3 | 1 << 1).to_bytes(3, "little") + b"\0" for size in sizes[:-1]]
    blocks.append((sizes[-1] << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0")
    return struct.pack("<IBB", 0xFD2F_B528, 0, window_log - 10 << 3) + b"".join(blocks)
