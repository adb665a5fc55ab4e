"""Times snapsync and its peers in turn, on the same data, as whole processes whose result is durable.

    python benches/bench.py [--scene NAME]... [--scale 0.1] [--repeat 5] [--calls]
                            [--out FILE.json] [--page PAGE.md]

Needs root, for file systems on loop devices in /dev/shm. docs/benchmarks.md tells the method.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tools
from places import MIB, own_mounts
from scenes import SCENES
from stage import ALONE, Scene, Stage
from tools import SNAPSYNC, Run

BEGIN, END = "<!-- measured -->", "<!-- end -->"
VERSIONS = {
    "snapsync": (SNAPSYNC, "--version"),
    "rsync": ("rsync", "--version"),
    "btrfs": ("btrfs", "--version"),
    "tar": ("tar", "--version"),
    "cp": ("cp", "--version"),
}


@dataclass(frozen=True)
class Line:
    """A row of the table: a peer in a scene."""

    scene: str
    peer: str
    ours: str
    theirs: str
    ratio: str
    aim: str
    processor: str
    calls: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", action="append", choices=SCENES, help="only these")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of files and bytes")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--calls", action="store_true", help="count system calls too, in one more turn")
    parser.add_argument("--out", type=Path, default=Path("benches/result.json"))
    parser.add_argument("--page", type=Path, help="draw the table into this page")
    options = parser.parse_args()
    own_mounts()
    compileall.compile_dir("python/snapsync", quiet=1)  # as pip does with what it installs
    machine = about()
    result: dict[str, Any] = {"about": machine, "scenes": earlier(options.out, machine)}
    for name in options.scene or SCENES:
        result["scenes"][name] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "scale": options.scale,
            **measure(SCENES[name], options.scale, options.repeat, calls=options.calls),
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        print(*table(lines_of(name, result["scenes"][name]))[2:], sep="\n", flush=True)
        if options.page:
            draw(options.page, result)


def earlier(file: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """The scenes that were measured before with the same tools on the same machine: they stay as they are."""
    try:
        result = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    scenes: dict[str, Any] = result["scenes"]
    return scenes if result["about"] == machine else {}


def measure(scene: Scene, scale: float, repeat: int, *, calls: bool) -> dict[str, Any]:
    """The runs of each tool, without the first, which warms up, and the system calls of one more."""
    print(f"{scene.title} …", flush=True)
    with scene.open(scale) as stage:
        runs: dict[str, list[Run]] = {tool: [] for tool in stage.tools}
        for turn in range(min(repeat + 1, scene.turns)):
            time.sleep(1)  # rsync takes a file of the same size and second for the same file
            for tool, run in turn_of(stage, turn):
                if turn or scene.counts_first:
                    runs[tool].append(run)
        counted = {}
        if calls:
            tools.Counting.is_on = True
            counted = {tool: run.calls for tool, run in turn_of(stage, repeat + 1)}
            tools.Counting.is_on = False
        stage.check()
    shown = {tool: [asdict(run) for run in found] for tool, found in runs.items()}
    return {"files": stage.files, "runs": shown, "calls": counted}


def turn_of(stage: Stage, turn: int) -> Iterator[tuple[str, Run]]:
    """Each tool's run of one turn."""
    stage.change(turn)
    for tool, run in stage.tools.items():
        stage.clear(tool)
        os.sync()
        yield tool, run()


def lines_of(name: str, found: dict[str, Any]) -> list[Line]:
    """snapsync beside each peer, whole and, where it is asked for, the engine alone."""
    scene = SCENES[name]
    if ALONE in scene.aims:
        return [alone(scene, found)]
    asked = [(scene.measures, scene.aims), *([("engine", scene.engine_aims)] if scene.engine_aims else [])]
    lines = [
        line(scene, found, peer, what, aims.get(peer))
        for peer in sorted(found["runs"].keys() - {"snapsync"})
        for what, aims in asked
        if what != "engine" or peer in aims
    ]
    return sorted(lines, key=lambda line: (line.scene, line.peer))


def alone(scene: Scene, found: dict[str, Any]) -> Line:
    ours, most = [Run(**run) for run in found["runs"]["snapsync"]], scene.aims[ALONE]
    seconds = [run.seconds for run in ours]
    aim = f"{most:g} s, {'reached' if statistics.median(seconds) <= most else 'missed'}"
    costs = (costs_of(found, "snapsync", processor) for processor in (True, False))
    return Line(titled(scene, found), "", shown(seconds, "seconds"), "", "", aim, *costs)


def line(scene: Scene, found: dict[str, Any], peer: str, what: str, aim: float | None) -> Line:
    ours = [measured(Run(**run), what) for run in found["runs"]["snapsync"]]
    theirs = [measured(Run(**run), scene.measures) for run in found["runs"][peer]]
    ratio = statistics.median(theirs) / statistics.median(ours)
    told = "" if aim is None else f"{aim:g}, {'reached' if ratio >= aim else 'missed'}"
    title = titled(scene, found) + (", engine" if what == "engine" else "")
    costs = (
        " / ".join(filter(None, (costs_of(found, tool, processor) for tool in ("snapsync", peer))))
        for processor in (True, False)
    )
    return Line(title, peer, shown(ours, what), shown(theirs, what), f"{ratio:.2f}", told, *costs)


def titled(scene: Scene, found: dict[str, Any]) -> str:
    return scene.title + ("" if found["scale"] == 1 else f", scale {found['scale']:g}")


def costs_of(found: dict[str, Any], tool: str, processor: bool) -> str:
    """Microseconds of the processor, or system calls, for each file of the scene."""
    files = found["files"]
    if processor:
        return f"{statistics.median(run['processor'] for run in found['runs'][tool]) * 1e6 / files:,.0f}"
    return f"{found['calls'][tool] / files:,.1f}" if tool in found["calls"] else ""


def measured(run: Run, what: str) -> float:
    if what == "memory":
        return run.memory / MIB
    return run.seconds if what == "seconds" or run.engine is None else run.engine


def shown(values: list[float], what: str) -> str:
    unit, digits = ("MiB", 0) if what == "memory" else ("s", 2)
    middle, least, most = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} {unit} ({least} to {most})"


def table(lines: list[Line]) -> list[str]:
    rows = [
        "| scene | snapsync | peer | | peer / snapsync | aim | us of processor a file | calls a file |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in lines:
        cells = (one.scene, one.ours, one.peer, one.theirs, one.ratio, one.aim, one.processor, one.calls)
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def about() -> dict[str, Any]:
    versions = {
        name: subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]
        for name, command in VERSIONS.items()
        if shutil.which(command[0])
    }
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "processor": f"{os.cpu_count()} x {processor}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 30} GiB",
        "kernel": platform.release(),
        "versions": versions,
    }


def draw(page: Path, result: dict[str, Any]) -> None:
    text, told = page.read_text(), result["about"]
    scenes = {name: result["scenes"][name] for name in SCENES if name in result["scenes"]}
    lines = [line for name, found in scenes.items() for line in lines_of(name, found)]
    dates = sorted({found["date"][:10] for found in scenes.values()})
    counts = sorted({len(runs) for found in scenes.values() for runs in found["runs"].values()})
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    versions = ", ".join(told["versions"].values())
    where = f"{told['processor']}, {told['memory']}, Linux {told['kernel']}; {versions}."
    how = f"{span(dates)}, {span(counts)} runs each: median (least to most)."
    page.write_text("\n".join([before + BEGIN, "", how, where, "", *table(lines), "", END + after]))


def span(values: list[Any]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


if __name__ == "__main__":
    main()
