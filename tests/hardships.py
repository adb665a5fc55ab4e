"""What may befall a round: it is killed, the disk fills up, somebody writes or mounts meanwhile.

Each hardship does one round in which something goes wrong, and takes the cause away again. How that round
ends is part of what is promised: done, or a plain failure, and never a sentence that makes no sense of it.
"""

from __future__ import annotations

import os
import random
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

from machine import MIB, Pair, Ran, passed, run, sh
from oracle import differences
from worlds import World

DONE, FAILED, REFUSED, CUT = 0, 1, 3, 5


class Hardship:
    """One round of a pair in which something goes wrong."""

    def __init__(self, pair: Pair, world: World, chance: random.Random) -> None:
        self.pair, self.world, self.chance = pair, world, chance

    def befall(self) -> None:
        raise NotImplementedError

    def round(self, *options: object, env: dict[str, object] | None = None) -> Ran:
        return run("sync", self.pair.source, self.pair.target, *options, env=env)


class Kill(Hardship):
    """The round is killed at some point, and the one that mends it as well."""

    def befall(self) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            trace = Path(scratch) / "trace"
            for _ in range(2):
                points = passed(trace) or ["stage.manifest", "commit.detach", "commit.attributes"]
                point = self.chance.choice(points)
                trace.unlink(missing_ok=True)
                fault = f"{point}:{self.chance.randrange(1, 3)}"
                self.world.log.append(f"# killed at {fault}")
                ran = self.round(env={"SNAPSYNC_FAULT": fault, "SNAPSYNC_FAULT_TRACE": trace})
                assert ran.code in (DONE, -9), ran


class FullDisk(Hardship):
    """The standby's disk has hardly any room."""

    def befall(self) -> None:
        filler = self.pair.target.parent / "filler"
        free = os.statvfs(filler.parent)
        room = self.chance.choice([0, 64 << 10, MIB, 4 * MIB])
        try:
            take_all_but(filler, free.f_bavail * free.f_frsize, room)
            ran = self.round()
            assert ran.code in (DONE, FAILED, REFUSED, CUT), ran
            assert ran.code == DONE or ran.err.startswith(("snapsync: ", "note: ")), ran
        finally:
            filler.unlink(missing_ok=True)


def take_all_but(filler: Path, free: int, room: int) -> None:
    """Reserves what is free, but for `room` bytes. Some of it may not be had: then a little less."""
    for short in (0, MIB, 16 * MIB, 64 * MIB):
        size = max(4096, free - room - short)
        took = subprocess.run(["fallocate", "--length", str(size), filler], capture_output=True)
        if took.returncode == 0:
            return


class Writers(Hardship):
    """Somebody goes on working in the primary while rounds are done."""

    def befall(self) -> None:
        stop = threading.Event()
        failures: list[Exception] = []

        def work() -> None:
            try:
                while not stop.is_set():
                    self.world.churn(5)
            except Exception as error:
                failures.append(error)

        writer = threading.Thread(target=work)
        writer.start()
        try:
            for _ in range(3):
                ran = self.round()
                assert ran.code == DONE, ran
        finally:
            stop.set()
            writer.join()
        assert not failures, failures


class Mount(Hardship):
    """Something is mounted over a directory of the primary. What it hides stays on the standby."""

    def befall(self) -> None:
        folder = self.world.pick(stat.S_ISDIR)
        if folder is None:
            return
        point = Path(os.fsdecode(os.path.join(self.world.root, folder)))
        sh("mount", "-t", "tmpfs", "none", point)
        try:
            ran = self.round()
            assert ran.code == DONE, ran
        finally:
            sh("umount", point)
        found = differences(self.pair.source, self.pair.target)
        assert not found, found[:20]


class Drift(Hardship):
    """Somebody writes to the standby: that is refused, or kept aside where it is asked for."""

    def befall(self) -> None:
        intruder = self.pair.target / "intruder"
        intruder.write_text("by hand")
        ran = self.round("--discard-drift")
        assert ran.code == DONE, ran
        assert not intruder.exists()


HARDSHIPS: tuple[type[Hardship], ...] = (Kill, FullDisk, Writers, Mount, Drift)
