"""Times a first, a second and an empty round of snapsync and of rsync, as whole processes, side by side.

    python benches/round.py SOURCE_DIR TARGET_DIR [--files 20000] [--changes 200] [--repeat 5]

Both directories must be empty and on the file systems to be measured; SOURCE_DIR may be a subvolume.
rsync is followed by `sync -f` of the target inside its time, because snapsync's answer is durable. Prints the
median of each with the least and the most, and the peak memory of one process.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()

    chance = random.Random(1)
    files = grow(options.source, options.files, chance)
    peers: dict[str, tuple[Path, Callable[[Path], None]]] = {
        "snapsync": (options.target / "snapsync", lambda target: snapsync(options.source, target)),
        "rsync": (options.target / "rsync", lambda target: rsync(options.source, target)),
    }
    for name, (target, run) in peers.items():
        report(name, "first", [timed(run, target)])
    for scene, changes in (("changed", options.changes), ("empty", 0)):
        times: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(options.repeat):
            for path in chance.sample(files, changes):
                path.write_bytes(chance.randbytes(4096))
            for name, (target, run) in peers.items():
                times[name].append(timed(run, target))
        for name in peers:
            report(name, scene, times[name])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"peak memory of the largest process: {peak} MiB")


def grow(root: Path, count: int, chance: random.Random) -> list[Path]:
    """Small files, a hundred to a directory."""
    files = []
    for number in range(count):
        path = root / f"d{number // 100:05}" / f"f{number:07}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randrange(100, 8000)))
        files.append(path)
    os.sync()
    return files


def snapsync(source: Path, target: Path) -> None:
    program = shutil.which("snapsync", path=os.path.dirname(sys.executable)) or "snapsync"
    subprocess.run([program, "sync", "--quiet", source, target], check=True)


def rsync(source: Path, target: Path) -> None:
    subprocess.run(
        ["rsync", "-aHAX", "--delete", "--exclude=/.snapsync", f"{source}/", f"{target}/"], check=True
    )
    subprocess.run(["sync", "-f", target], check=True)


def timed(run: Callable[[Path], None], target: Path) -> float:
    started = time.monotonic()
    run(target)
    return time.monotonic() - started


def report(name: str, scene: str, times: list[float]) -> None:
    middle = statistics.median(times)
    print(f"{scene:8} {name:9} {middle:7.3f} s  ({min(times):.3f} to {max(times):.3f}, {len(times)} runs)")


if __name__ == "__main__":
    main()
