"""A standby's host that holds the door, as the program of `--rsh`: it comes so far, and no further.

python holder.py STAGE HABIT HOST COMMAND

It says nothing more after STAGE, and HABIT is what it does from then on.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, BinaryIO, NoReturn

from liar import VOLUME, Wire

STAGES = ("started", "greeted", "asked", "looked", "opened", "begun", "frames", "commit", "done")
HABITS = ("is silent", "is alive", "says a little", "half a message", "shouts", "hears nothing more")


class Holder:
    def __init__(self, stage: str, habit: str) -> None:
        self.stage, self.habit = stage, habit
        self.source: BinaryIO = sys.stdin.buffer
        self.sink: BinaryIO = sys.stdout.buffer

    def reached(self, stage: str) -> None:
        if stage == self.stage:
            self.hold()

    def hold(self) -> NoReturn:
        if self.habit == "half a message":
            self.put(b"\4\0\0\1\0\0")
        if self.habit == "hears nothing more":
            os.close(0)
        while True:
            if self.habit == "is alive":
                self.put(b"\0\0")
            if self.habit == "says a little":
                # Of a message that is long.
                self.put(b"\5\0\0\0\x20\0 " if not self.came else b"\1\0 ")
                self.came = True
            if self.habit == "shouts":
                os.write(2, b"x" * (1 << 16))
            else:
                time.sleep(0.2)

    came = False

    def put(self, text: bytes) -> None:
        self.sink.write(text)
        self.sink.flush()

    def round(self) -> None:
        self.reached("started")
        wire = Wire(self.source, self.sink)
        wire.greeted()
        self.reached("greeted")
        wire.hear()
        self.reached("asked")
        wire.tell("ready")
        wire.hear()
        wire.tell({"looked": {"path": "/there", "lineage": None, "pending": None}})
        lineage = wire.hear()["open"]["lineage"]
        self.reached("looked")
        nothing: dict[str, Any] = {"newest": None, "pending": None, "recovered": [], "join": None}
        wire.tell({"opened": {"volume": volume(lineage), **nothing}})
        self.reached("opened")
        wire.hear()
        self.reached("begun")
        wire.pass_delta()
        wire.tell({"begun": {"losses": [], "held": {"runs": [], "parts": {}}, "kept": 0}})
        self.reached("frames")
        wire.pass_frames()
        wire.hear()
        self.reached("commit")
        wire.hear()


def volume(lineage: str) -> dict[str, Any]:
    return {
        "path": "/there",
        "id": VOLUME,
        "lineage": lineage,
        "epoch": 1,
        "role": "standby",
        "provider": "pool",
        "filesystem": "ext4",
        "subset": {"exclude": [], "include": []},
    }


if __name__ == "__main__":
    Holder(sys.argv[1], sys.argv[2]).round()
