"""A peer that speaks the truth but for what it is told to lie about, as the program of `--rsh`.

python between.py RULES HOST COMMAND: a snapsync of this machine serves, and its messages are changed on their
way. RULES is a list in JSON, and the first rule for a message holds:

    {"when": KIND, "set": {"a.b": VALUE}}    that field of the message is another
    {"when": KIND, "instead": [MESSAGE…]}    these come in its stead
    {"when": KIND, "also": [MESSAGE…]}       and these behind it
    {"when": KIND, "bomb": NAME}             one of BOMBS is in it

"say" with any of them is a list of texts, each with how often it is put on standard error, and
"times" how often the rule holds.
"""

from __future__ import annotations

import json
import os
import shlex
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from liar import GREETING, Packets
from machine import command

Rule = dict[str, Any]
DEPTH = 100
BOMBS: dict[str, Any] = {
    "deep": json.loads("[" * DEPTH + "]" * DEPTH),
    "full": [[]] * 600_000,
    "long": "x" * 100_000,
}


def between(*rules: Rule) -> tuple[str, ...]:
    """The options of a client whose server lies so."""
    words = [sys.executable, __file__, json.dumps(rules)]
    return ("--rsh", shlex.join(words), "--remote-path", shlex.quote(str(command()[0])))


class Liar:
    """Passes on what a server says."""

    def __init__(self, rules: list[Rule], server: Packets, client: Packets) -> None:
        self.rules, self.server, self.client = rules, server, client

    def run(self) -> None:
        while head := self.server.read(4):
            message = json.loads(self.server.read(struct.unpack("<I", head)[0]))
            kind = message if isinstance(message, str) else next(iter(message))
            told = self.lie(kind, message)
            for text in told:
                self.tell(text)
            if kind == "begin" and message in told:
                self.pass_delta()

    def tell(self, message: Any) -> None:
        text = message.encode() if isinstance(message, str) and message[:1] in "{[" else None
        text = json.dumps(message).encode() if text is None else text
        self.client.write(struct.pack("<I", len(text)) + text)

    def lie(self, kind: str, message: Any) -> list[Any]:
        for rule in self.rules:
            if rule["when"] != kind or rule.get("times", 1) < 1:
                continue
            rule["times"] = rule.get("times", 1 << 30) - 1
            for text, count in rule.get("say", []):
                sys.stderr.write(text * count)
            for path, value in rule.get("set", {}).items():
                *above, last = path.removeprefix(f"{kind}.").split(".")
                place = message[kind]
                for name in above:
                    place = place[name]
                place[last] = value
            if "bomb" in rule:
                message[kind]["more"] = BOMBS[rule["bomb"]]
            return [*rule.get("instead", [message]), *rule.get("also", [])]
        return [message]

    def pass_bytes(self, length: int) -> bytes:
        taken = self.server.read(length)
        self.client.write(taken)
        return taken

    def pass_delta(self) -> None:
        head = self.pass_bytes(32)
        self.pass_bytes(struct.unpack_from("<I", head, 12)[0] + 32)
        self.pass_bytes(struct.unpack_from("<Q", self.pass_bytes(48), 8)[0])
        while (head := self.pass_bytes(1)) == b"F":
            self.pass_bytes(struct.unpack_from("<I", self.pass_bytes(63), 7)[0])
        self.pass_bytes(55)


def upwards(to: Any) -> None:
    with suppress(OSError):
        while taken := sys.stdin.buffer.read1(1 << 16):
            to.write(taken)
            to.flush()
    with suppress(OSError):
        to.close()


if __name__ == "__main__":
    rules, words = json.loads(sys.argv[1]), sys.argv[3:]
    with subprocess.Popen(
        ["sh", "-c", " ".join(words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        threading.Thread(target=upwards, args=[process.stdin], daemon=True).start()
        greeting = process.stdout.readline()
        assert greeting == GREETING
        sys.stdout.buffer.write(greeting)
        sys.stdout.buffer.flush()
        with suppress(BrokenPipeError):
            Liar(
                rules,
                Packets(process.stdout, sys.stdout.buffer),
                Packets(sys.stdin.buffer, sys.stdout.buffer),
            ).run()
        process.kill()
    # The thread may be reading still.
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(0)
