"""A peer that lies, as the program of `--rsh`: it speaks the protocol of docs/format.md, and means no good.

python liar.py prune KEEP     a primary that wants all but KEEP snapshots of the standby deleted
python liar.py full           a standby that takes everything, and cannot commit it
python liar.py tree LIE       a tree to verify, and what LIE makes of it
"""

from __future__ import annotations

import json
import struct
import sys
from contextlib import suppress
from typing import Any, BinaryIO

GREETING = b"snapsync protocol 3\n"
VOLUME = "9483410d-a82f-44c2-84f8-089f3de11592"


class Packets:
    """What comes in packets behind a greeting, and goes in them."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self.source, self.sink = source, sink
        self.come = b""

    def read(self, length: int = -1) -> bytes:
        while length < 0 or len(self.come) < length:
            head = self.source.read(2)
            if len(head) < 2:
                break
            self.come += self.source.read(struct.unpack("<H", head)[0])
        length = len(self.come) if length < 0 else length
        taken, self.come = self.come[:length], self.come[length:]
        return taken

    def write(self, text: bytes) -> None:
        for start in range(0, len(text), 4000):
            piece = text[start : start + 4000]
            self.sink.write(struct.pack("<H", len(piece)) + piece)
        self.sink.flush()


class Wire:
    """Messages over a pair of pipes."""

    def __init__(self, source: BinaryIO, sink: BinaryIO, *features: str, patience: int | None = None) -> None:
        self.raw, self.source = source, Packets(source, sink)
        self.sink = self.source
        sink.write(GREETING)
        self.tell({"software": "liar", "features": features, "patience": patience})

    def greeted(self) -> None:
        assert self.raw.readline() == GREETING
        self.hear()

    def tell(self, message: Any) -> None:
        text = json.dumps(message).encode()
        self.sink.write(struct.pack("<I", len(text)) + text)

    def hear(self) -> Any:
        (length,) = struct.unpack("<I", self.source.read(4))
        return json.loads(self.source.read(length))

    def ask(self, message: Any) -> Any:
        self.tell(message)
        return self.hear()

    def pass_delta(self) -> None:
        head = self.source.read(32)
        self.source.read(struct.unpack_from("<I", head, 12)[0] + 32)
        manifest = self.source.read(48)
        self.source.read(struct.unpack_from("<Q", manifest, 8)[0])

    def pass_frames(self) -> None:
        while self.source.read(1) == b"F":
            head = self.source.read(63)
            self.source.read(struct.unpack_from("<I", head, 7)[0])
        self.source.read(55)


def prune(wire: Wire, keep: int) -> None:
    """Is the primary of that lineage, and asks for one thing only."""
    wire.hear()
    wire.tell("ready")
    lineage = wire.ask({"look": {"lineage": None}})["looked"]["lineage"]
    wire.ask({"open": {"lineage": lineage, "epoch": 1, "join": None}})
    wire.ask({"prune": {"keep": {"last": keep}, "needed": []}})
    # Whoever was asked may have ended already.
    with suppress(BrokenPipeError):
        wire.tell({"done": {"report": {"verb": "sync"}}})


def full(wire: Wire) -> None:
    wire.hear()
    wire.tell("ready")
    wire.hear()
    wire.tell({"looked": {"path": "/there", "lineage": None, "pending": None}})
    lineage = wire.hear()["open"]["lineage"]
    volume = {
        "path": "/there",
        "id": VOLUME,
        "lineage": lineage,
        "epoch": 1,
        "role": "standby",
        "provider": "pool",
        "filesystem": "ext4",
        "subset": {"exclude": [], "include": []},
    }
    nothing: dict[str, Any] = {"newest": None, "pending": None, "recovered": [], "join": None}
    wire.tell({"opened": {"volume": volume, **nothing}})
    wire.hear()
    wire.pass_delta()
    wire.tell({"begun": {"losses": [], "held": {"runs": [], "parts": {}}, "kept": 0}})
    wire.pass_frames()
    wire.hear()
    wire.tell({"failed": {"exit_code": 1, "what": "the disk is full", "advice": "", "needed": False}})


DIRECTORY, FILE = 4, 8


def run_of(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def record(path: bytes, kind: int = FILE, size: int = 0, content: bytes = b"\0") -> bytes:
    """A name of an inode that has no other, and is nobody's."""
    numbers = struct.pack("<IIIIQqQqIIII", 0o644, 0, 0, 0, 0, 0, size, 0, 0, 0, 0, 0)
    return run_of(path) + bytes([kind, 2]) + numbers + run_of(b"") + run_of(b"") + content


ROOT = record(b"", DIRECTORY)
TRUTH = ROOT + record(b"a") + record(b"b")
TREES = {
    "out of order": ROOT + record(b"b") + record(b"a"),
    "the same name twice": ROOT + record(b"a") + record(b"a"),
    "a path that climbs out": ROOT + record(b"../a"),
    "an absolute path": ROOT + record(b"/a"),
    "a kind that is none": ROOT + record(b"a", 77),
    "a file that was not read": ROOT + record(b"a", size=5),
    "a directory that was read": ROOT + record(b"a", DIRECTORY, size=5, content=b"\1" + bytes(32)),
    "a further name with an inode": ROOT + run_of(b"b") + bytes([FILE, 3]) + run_of(b"a") + ROOT[6:],
    "a first name that is not first": ROOT + run_of(b"b") + bytes([FILE, 1]) + run_of(b"c"),
    "a record that is cut": ROOT + record(b"a")[:-9],
    "a name without end": ROOT + struct.pack("<I", 0xFFFF_FFFF) + b"a",
    "attributes without end": ROOT[:-5] + struct.pack("<I", 0xFFFF_FFFF),
}
NUMBERS = {
    "no records at all": (0, 0),
    "records without end": (0xFFFF_FFFF, 1),
    "more than it says": (len(TRUTH), 0),
    "less than it says": (len(TRUTH), 1 << 63),
}


def tree(wire: Wire, lie: str) -> None:
    wire.hear()
    wire.tell("ready")
    if lie == "nothing more":
        return
    if lie == "nothing for ever":
        wire.source.read()
        return
    block, entries = TREES.get(lie, TRUTH), 3
    length = len(block)
    if lie in NUMBERS:
        length, entries = NUMBERS[lie]
    wire.tell({"records": {"length": length}})
    wire.sink.write(block)
    wire.tell("looked" if lie == "another answer" else {"digested": {"entries": entries, "notes": []}})


if __name__ == "__main__":
    knows = () if sys.argv[2:] == ["an older version"] else ("digest 2",)
    wire = Wire(sys.stdin.buffer, sys.stdout.buffer, *knows)
    wire.greeted()
    if sys.argv[1] == "prune":
        prune(wire, int(sys.argv[2]))
    elif sys.argv[1] == "tree":
        tree(wire, sys.argv[2])
    else:
        full(wire)
