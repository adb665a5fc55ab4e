"""A month of a made-up file server, as a page shows it: for pictures, and for tests of how a page looks."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lives import ROOT, Life

from snapsync.page import figures
from snapsync.reports.pages import PageReport, VolumeFigures
from snapsync.reports.snapshots import ListReport, StatusReport
from snapsync.reports.values import Alone, Hold, Lag, ScrubStatus, Snapshot, Standby, VolumeInfo

MIB = 1 << 20
NEWEST = datetime(2026, 11, 27, 6, 0, tzinfo=UTC)
SHAPE = {
    b"home/alice/photos": (60, 6 * MIB, b".jpg"),
    b"home/alice/mail": (40, MIB, b".mbox"),
    b"home/bob/projects/atlas": (90, MIB // 4, b".c"),
    b"home/bob/projects/survey": (40, 2 * MIB, b".csv"),
    b"home/carol/video": (14, 180 * MIB, b".mkv"),
    b"srv/www/shop/static": (80, MIB // 2, b".webp"),
    b"srv/www/shop/uploads": (70, 2 * MIB, b".pdf"),
    b"srv/www/blog": (30, MIB // 8, b".html"),
    b"srv/git/atlas.git/objects": (120, MIB // 6, b".pack"),
    b"var/lib/postgresql/main/base": (30, 96 * MIB, b""),
    b"var/lib/postgresql/main/wal": (16, 16 * MIB, b""),
    b"var/log": (25, 3 * MIB, b".log"),
    b"etc": (60, MIB // 128, b".conf"),
}


class Server:
    """A file server whose days are alike, but for two of them."""

    def __init__(self, folder: Path, rounds: int = 60, seed: int = 5) -> None:
        self.life = Life(folder, NEWEST - timedelta(hours=12 * (rounds - 1)))
        self.random = random.Random(seed)
        self.places: dict[bytes, int] = {}
        for path in SHAPE:
            self._fill(path)
        self.life.round(timedelta(), "first")
        for number in range(1, rounds):
            self._day(number, rounds)
            self.life.round(timedelta(hours=12), f"{self.life.now + timedelta(hours=12):%m-%d-%H}")

    def _fill(self, path: bytes) -> None:
        number = ROOT
        for depth in range(1, path.count(b"/") + 2):
            part = b"/".join(path.split(b"/")[:depth])
            if part not in self.places:
                self.places[part] = self.life.add(number, part.rpartition(b"/")[2])
            number = self.places[part]
        count, size, end = SHAPE[path]
        for index in range(count):
            self.life.add(number, b"%04d%b" % (index, end), int(size * self.random.uniform(0.3, 1.7)))

    def _day(self, number: int, rounds: int) -> None:
        for path, share in (
            (b"var/lib/postgresql/main/base", 0.1),
            (b"var/log", 0.6),
            (b"home/alice/mail", 0.2),
        ):
            for file in self._files(path):
                if self.random.random() < share:
                    size = self.life.nodes[file].size
                    grown = size + int(size * self.random.uniform(0, 0.05))
                    self.life.write(file, grown, max(4096, (grown - size) + size // 40))
        for path, many in (
            (b"srv/www/shop/uploads", 6),
            (b"home/bob/projects/survey", 2),
            (b"home/alice/photos", 3),
        ):
            for index in range(self.random.randint(0, many)):
                size, end = SHAPE[path][1:]
                name = b"new-%03d-%d%b" % (number, index, end)
                self.life.add(self.places[path], name, int(size * self.random.uniform(0.3, 1.7)))
        for file in self.random.sample(self._files(b"srv/www/shop/static"), 2):
            self.life.remove(file)
        for index in range(3):
            self.life.add(self.places[b"srv/www/shop/static"], b"s-%03d-%d.webp" % (number, index), MIB // 2)
        if self.random.random() < 0.2:
            size = int(160 * MIB * self.random.uniform(0.3, 1.2))
            self.life.add(self.places[b"home/carol/video"], b"take-%03d.mkv" % number, size)
        if number == rounds * 2 // 3:
            for file in self._files(b"srv/git/atlas.git/objects")[:110]:
                self.life.remove(file)
            self.life.add(self.places[b"srv/git/atlas.git/objects"], b"all.pack", 14 * MIB)
        if number == rounds - 8:
            for index in range(260):
                self.life.add(self.places[b"home/bob/projects/atlas"], b"generated-%03d.c" % index, MIB)
        if number == rounds // 2:
            self.life.rename(
                self.places[b"home/bob/projects/survey"], self.places[b"home/bob"], b"survey-2026"
            )

    def _files(self, path: bytes) -> list[int]:
        of = self.places[path]
        return [
            number for number, node in self.life.nodes.items() if node.parent == of and node.kind == "file"
        ]

    def figures(self, title: str = "/srv/data") -> VolumeFigures:
        """Its figures, beside a status as a volume with two standbys has it."""
        return figures.of_volume(title, status(self.life), listed(self.life), map(str, self.life.files))

    def report(self) -> PageReport:
        return PageReport("report.html", (self.figures(),), (), NEWEST + timedelta(minutes=20), 0.5)


def info(path: str = "/srv/data") -> VolumeInfo:
    return VolumeInfo(path, "6f1c", "91ab", 1, "primary", "pool", "xfs")


def listed(life: Life) -> ListReport:
    """The last snapshots, as `list` tells of them."""
    taken = [life.now - timedelta(hours=12 * back) for back in range(len(life.files))][::-1]
    size, entries = life.held()[b""]
    snaps = []
    for number, time in list(enumerate(taken))[-14:]:
        parent = f"id-{number - 1}" if number else None
        newer = len(taken) - 1 - number
        name = f"{time:%m-%d-%H}" if number else "first"
        held = (entries - 9 * newer, size - 91 * MIB * newer)
        snaps.append(Snapshot(f"id-{number}", name, number, parent, time, "pool", *held))
    alone = tuple(
        Alone(snap.id, snap.entries and 1234567 * (snap.sequence % 7), 12, "whole") for snap in snaps
    )
    holds = (
        (
            Hold(snaps[0].id, snaps[0].name, "before the audit", None),
            Hold(snaps[-1].id, snaps[-1].name, "", "/mnt/standby"),
            Hold(snaps[-3].id, snaps[-3].name, "", "backup:/mnt/data"),
        )
        if len(snaps) > 2
        else ()
    )
    return ListReport(info(), tuple(snaps), holds, alone=alone)


def status(life: Life) -> StatusReport:
    """Two standbys: one on this machine, and one that has not been fed for a day."""
    scrub = ScrubStatus(8120, 9 << 30, 0, (), life.now - timedelta(days=11))
    last, behind = len(life.files) - 1, max(0, len(life.files) - 3)
    near = Standby("s1", "/mnt/standby", f"id-{last}", f"{life.now:%m-%d-%H}", life.now, 0, scrub)
    old = life.now - timedelta(hours=24)
    far = Standby("s2", "backup:/mnt/data", f"id-{behind}", f"{old:%m-%d-%H}", old, 2)
    lags = (
        Lag("/mnt/standby", "/srv/data", "/mnt/standby", 0, 1200, scrub=scrub),
        Lag("backup:/mnt/data", "/srv/data", "backup:/mnt/data", 2, 87_600),
    )
    return StatusReport(info(), len(life.files), None, None, False, (near, far), None, False, lags=lags)
