"""What a log costs: the table in docs/log.md, counted against a real server."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from http_proxy import Proxy
from machine import Place, done
from object_store import Log, Logs
from oracle import assert_same
from worlds import fill

PAGE = Path(__file__).parent.parent / "docs/log.md"
FILES, ROUNDS, CHANGED, SIZE = 4_000, 40, 200, 2_000


def table() -> dict[str, tuple[int, float]]:
    """The rows of the page: what is done, the requests, and the KiB in both directions."""
    rows = re.findall(r"^\| ([^|]+?) \| (\d+) \| ([\d.]+) (KiB|MiB) \|$", PAGE.read_text(), re.M)
    return {
        what: (int(asked), float(size) * {"KiB": 1, "MiB": 1024}[unit]) for what, asked, size, unit in rows
    }


@dataclass
class Scene:
    log: Log
    proxy: Proxy
    place: Place
    primary: Path
    standby: Path
    turn: int = 0

    def change(self) -> None:
        self.turn += 1
        for number in range(CHANGED):
            name = (self.turn * CHANGED + number) * 7919 % FILES
            fill(self.primary / f"{name % 40}" / f"{name}", 0, SIZE, 2 * (100 * name + self.turn) + 1)

    def round(self) -> Any:
        return self.log.sync(self.primary, self.log.address)


def measured(proxy: Proxy) -> tuple[int, float]:
    return proxy.counted().total(), (proxy.fetched() + proxy.brought()) / 1024


def restore(scene: Scene) -> None:
    to = scene.place.absent("xfs")
    done("restore", scene.log.address, "7/47", "--to", to, env=scene.log.env)
    assert (to / "7/47").read_bytes() == (scene.primary / "7/47").read_bytes()


def begin(scene: Scene) -> None:
    new = scene.place.absent("xfs")
    scene.log.sync(scene.log.address, new)
    assert_same(scene.primary, new)


STEPS: dict[str, Callable[[Scene], object]] = {
    "a round without a change": Scene.round,
    "a round with 200 changes in 4,000 files": lambda s: (s.change(), s.proxy.begin(), s.round()),
    "a standby gets that": lambda s: s.log.sync(s.log.address, s.standby),
    "a standby that has all": lambda s: s.log.sync(s.log.address, s.standby),
    "`list`": lambda s: done("list", s.log.address, env=s.log.env),
    "`restore` of one file": restore,
    "a new standby": begin,
    "`verify LOG STANDBY`": lambda s: done("verify", s.log.address, s.standby, env=s.log.env),
    "`prune --keep-last 3`": lambda s: done("prune", s.log.address, "--keep-last", "3", env=s.log.env),
}


def test_the_page_tells_what_is_asked_of_a_store_and_how_much_travels(logs: Logs, place: Place) -> None:
    log, proxy = logs.watched()
    scene = Scene(log, proxy, place, place("xfs"), place.absent("xfs"))
    for number in range(FILES):
        folder = scene.primary / f"{number % 40}"
        folder.mkdir(exist_ok=True)
        fill(folder / f"{number}", 0, SIZE, 200 * number + 1)
    scene.round()
    log.sync(log.address, scene.standby)
    for _ in range(ROUNDS):
        scene.change()
        scene.round()
    log.sync(log.address, scene.standby)
    told, found = table(), {}
    proxy.begin()
    while not proxy.counted()["PUT tables"] and scene.turn < 3 * ROUNDS:
        scene.change()
        proxy.begin()
        scene.round()
    found["a round that also makes a checkpoint"] = measured(proxy)
    for what, step in STEPS.items():
        proxy.begin()
        step(scene)
        found[what] = measured(proxy)
    print("\n".join(f"| {what} | {asked} | {size:.0f} KiB |" for what, (asked, size) in found.items()))
    assert list(told) == list(found)
    for what, (asked, size) in found.items():
        assert asked <= told[what][0] <= 2 * asked, what
        assert size <= told[what][1] <= 2 * size, what
