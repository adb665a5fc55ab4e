"""Clients that speak the protocol themselves to a server, and say what they like."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import liar
from machine import command, store

NOTHING: dict[str, Any] = {"strict": False, "exclude": [], "include": [], "everything": False}


def record(volume: Path) -> dict[str, Any]:
    """`volume.json`, as it is."""
    found: dict[str, Any] = json.loads((store(volume) / "volume.json").read_text())
    return found


def change(volume: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    found = record(volume)
    edit(found)
    (store(volume) / "volume.json").write_text(json.dumps(found))


class Standby:
    """The standby's half of a round that a client pulls, and that says what it likes."""

    def __init__(self, wire: liar.Wire, source: Path, **options: Any) -> None:
        self.wire, self.lineage = wire, record(source)["lineage"]
        asked = {"source": list(os.fsencode(source)), "options": NOTHING | options, "channels": 1}
        self.answer = wire.ask({"pull": asked | {"travel": {"compression": "None", "limit": None}}})

    def open(self, volume: str, **state: Any) -> Any:
        """What comes after it was looked at and opened."""
        assert self.answer == "ready", self.answer
        self.wire.hear()
        looked = {"path": "/there", "lineage": None, "pending": None}
        opened = self.wire.ask({"looked": looked | state.pop("looked", {})})
        if "failed" in opened:
            return opened
        info = {
            "path": "/there",
            "id": volume,
            "lineage": self.lineage,
            "epoch": 1,
            "role": "standby",
            "provider": "pool",
            "filesystem": "ext4",
            "subset": {"exclude": [], "include": []},
        }
        nothing: dict[str, Any] = {"newest": None, "pending": None, "recovered": [], "join": None}
        return self.wire.ask({"opened": {"volume": info} | nothing | state})

    def take(self, snapshot: dict[str, Any]) -> Any:
        """All of a delta that has begun, as `snapshot`; what the primary says last."""
        self.wire.pass_delta()
        self.wire.tell({"begun": {"losses": [], "held": {"runs": [], "parts": {}}, "kept": 0}})
        self.wire.pass_frames()
        assert self.wire.hear() == "commit"
        said = self.wire.ask({"committed": {"snapshot": snapshot, "notes": []}})
        return self.wire.ask("kept") if "secret" in said else said

    def fail(self, needed: bool) -> None:
        self.wire.pass_delta()
        self.wire.tell({"failed": {"exit_code": 1, "what": "no", "advice": "", "needed": needed}})


@contextmanager
def talking(*options: str, kill: bool = False) -> Iterator[liar.Wire]:
    """To a server, which is killed where it would go on for others."""
    words = [*command(), "serve", *options]
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        wire = liar.Wire(server.stdout, server.stdin)
        wire.greeted()
        yield wire
    finally:
        if kill:
            server.kill()
        server.stdin.close()
        server.wait(30)
        server.stdout.close()
