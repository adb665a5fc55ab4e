"""A peer that lies, as the program of `--rsh`: it speaks the protocol of docs/format.md, and means no good.

python liar.py prune KEEP     a primary that wants all but KEEP snapshots of the standby deleted
python liar.py full           a standby that takes everything, and cannot commit it
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any, BinaryIO

GREETING = b"snapsync protocol 1\n"
VOLUME = "9483410d-a82f-44c2-84f8-089f3de11592"


class Wire:
    """Messages over a pair of pipes."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self.source, self.sink = source, sink
        sink.write(GREETING)
        self.tell({"software": "liar", "features": []})

    def greeted(self) -> None:
        assert self.source.readline() == GREETING
        self.hear()

    def tell(self, message: Any) -> None:
        text = json.dumps(message).encode()
        self.sink.write(struct.pack("<I", len(text)) + text)
        self.sink.flush()

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
    lineage = wire.ask("look")["looked"]["lineage"]
    wire.ask({"open": {"lineage": lineage, "epoch": 1, "join": None}})
    wire.ask({"prune": {"keep": {"last": keep}, "needed": []}})
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


if __name__ == "__main__":
    wire = Wire(sys.stdin.buffer, sys.stdout.buffer)
    wire.greeted()
    if sys.argv[1] == "prune":
        prune(wire, int(sys.argv[2]))
    else:
        full(wire)
