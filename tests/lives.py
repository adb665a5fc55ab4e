"""The life of a made-up volume, round by round: its kept manifests, and the truth about it.

The truth is kept by inode: a directory is its number whatever it is called, and what happened in it is a list
of events. Nothing here knows how the product adds up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import manifests

ROOT = 0
Name = tuple[int, bytes]


@dataclass(frozen=True)
class Node:
    """An inode: where it is, and how large."""

    kind: str
    parent: int
    name: bytes
    size: int = 0


@dataclass(frozen=True)
class Event:
    """One change of an entry in a directory."""

    directory: int
    time: datetime
    growth: int
    data: int
    deleted: bool


@dataclass
class Life:
    """A volume whose tree is changed by the methods; `round` then writes what changed since the last one."""

    folder: Path
    now: datetime
    nodes: dict[int, Node] = field(default_factory=dict)
    before: dict[int, Node] = field(default_factory=dict)
    ever: dict[int, Node] = field(default_factory=dict)
    data: dict[int, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)
    last: int = 0

    def add(self, parent: int, name: bytes, size: int | None = None) -> int:
        """A new file of that size, or a directory."""
        self.last += 1
        self.nodes[self.last] = Node("directory" if size is None else "file", parent, name, size or 0)
        if size:
            self.data[self.last] = size
        return self.last

    def write(self, number: int, size: int, data: int) -> None:
        node = self.nodes[number]
        self.nodes[number] = Node(node.kind, node.parent, node.name, size)
        self.data[number] = self.data.get(number, 0) + data

    def rename(self, number: int, parent: int, name: bytes) -> None:
        node = self.nodes[number]
        self.nodes[number] = Node(node.kind, parent, name, node.size)

    def remove(self, number: int) -> None:
        """Remove an inode with all below it."""
        for other in [other for other, node in self.nodes.items() if node.parent == number]:
            self.remove(other)
        del self.nodes[number]

    def find(self, path: bytes) -> int:
        number = ROOT
        for name in path.split(b"/"):
            number = next(n for n, node in self.nodes.items() if (node.parent, node.name) == (number, name))
        return number

    def path(self, number: int, nodes: dict[int, Node]) -> bytes:
        names = []
        while number != ROOT:
            names.append(nodes[number].name)
            number = nodes[number].parent
        return b"/".join(reversed(names))

    def round(self, after: timedelta, name: str | None = None) -> Path:
        """Write the manifest of a round that is taken so much later."""
        sequence = len(self.files)
        self.now += after if sequence else timedelta()
        rows = [
            self._row(number)
            for number in sorted({*self.before, *self.nodes})
            if self.before.get(number) != self.nodes.get(number) or self.data.get(number)
        ]
        self.ever |= self.nodes
        file = manifests.write(
            self.folder / f"{sequence}.arrow",
            rows,
            base=f"id-{sequence - 1}" if sequence else "",
            target=f"id-{sequence}",
            name=name or f"round-{sequence}",
            sequence=sequence,
            time=self.now,
        )
        self.files.append(file)
        self.counts.append(_count(rows))
        self.before, self.data = dict(self.nodes), {}
        return file

    def _row(self, number: int) -> dict[str, Any]:
        old, new = self.before.get(number), self.nodes.get(number)
        data = self.data.get(number, 0) if new else 0
        here = new or old
        assert here
        size_old, size = old.size if old else 0, new.size if new else 0
        if self.files:
            growth = size - size_old
            self.events.append(Event(here.parent, self.now, growth, data, new is None))
        return manifests.row(
            self.path(number, self.before) if old else None,
            self.path(number, self.nodes) if new else None,
            old.size if old else None,
            size,
            data,
            here.kind,
            renamed=bool(old and new and (old.parent, old.name) != (new.parent, new.name)),
        )

    # --- the truth ------------------------------------------------------------------------------------

    def held(self) -> dict[bytes, tuple[int, int]]:
        """Bytes and entries below each directory that is there."""
        found: dict[bytes, tuple[int, int]] = {b"": (0, 0)}
        for number, node in self.nodes.items():
            for path in self.above(number, self.nodes):
                bytes_, entries = found.get(path, (0, 0))
                found[path] = (bytes_ + node.size, entries + 1)
            if node.kind == "directory":
                found.setdefault(self.path(number, self.nodes), (0, 0))
        return found

    def happened(self, since: datetime | None = None) -> dict[bytes, dict[str, int]]:
        """What happened below each directory, by where it is now, or was last."""
        found: dict[bytes, dict[str, int]] = {}
        known = self.ever | self.nodes
        for event in self.events:
            if since is not None and event.time <= since:
                continue
            path = self.path(event.directory, known)
            for above in [path, *self.above(event.directory, known)] if path else [b""]:
                sums = found.setdefault(above, dict.fromkeys(("growth", "changes", "deletions", "data"), 0))
                sums["growth"] += event.growth
                sums["changes"] += 1
                sums["deletions"] += event.deleted
                sums["data"] += event.data
        return found

    def above(self, number: int, nodes: dict[int, Node]) -> list[bytes]:
        """The directories that an inode is in, the root as an empty path."""
        parts = self.path(number, nodes).split(b"/")[:-1]
        return [b"/".join(parts[:length]) for length in range(len(parts) + 1)]


def _count(rows: list[dict[str, Any]]) -> dict[str, int]:
    flags = [row["change"] for row in rows]
    count = {name: sum(flag[name] for flag in flags) for name in ("created", "renamed", "deleted")}
    return count | {
        "changed": len(rows) - sum(count.values()),
        "data": sum(row["data_bytes"] for row in rows),
    }
