"""Times rounds through a log beside `rclone copy` and restic, with an object store on this machine.

The server is SeaweedFS, as in the tests. Each figure is the median of some runs, each with a new server;
the processes are those that people start, so snapsync's include Python.

    make bench-log
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from http_proxy import proxy  # noqa: E402
from object_store import BUCKET, KEY, SECRET, seaweedfs  # noqa: E402

SNAPSYNC = shutil.which("snapsync", path=os.path.dirname(sys.executable)) or "snapsync"
MIB = 1 << 20
RUNS = 3

SHAPES = {"8 files of 128 MiB": (8, 128 * MIB), "16,384 files of 64 KiB": (16_384, MIB // 16)}


def fill(tree: Path, count: int, size: int) -> None:
    for number in range(count):
        folder = tree / f"{number % 64}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(os.urandom(size))


class Tools:
    """What brings a tree to an empty server, and back from it."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def call(self, url: str, *words: str | Path) -> float:
        # Certificates that AWS_CA_BUNDLE names are not those of this server.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
        environ |= {"AWS_ENDPOINT_URL": url, "SNAPSYNC_KEYS": str(self.home / "keys")}
        environ |= {"RCLONE_CONFIG_S_TYPE": "s3", "RCLONE_CONFIG_S_PROVIDER": "Other"}
        environ |= {"RCLONE_CONFIG_S_ENDPOINT": url, "RCLONE_CONFIG_S_ENV_AUTH": "true"}
        environ |= {"RESTIC_PASSWORD": "of the benchmark"}
        started = time.monotonic()
        subprocess.run(words, env=environ, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    def snapsync(self, url: str, tree: Path, to: Path) -> tuple[float, float]:
        log = f"s3://{BUCKET}/tree"
        self.call(url, SNAPSYNC, "init", log, "-q")
        try:
            up = self.call(url, SNAPSYNC, "sync", tree, log, "-q")
        finally:
            shutil.rmtree(tree / ".snapsync")
        return up, self.call(url, SNAPSYNC, "sync", log, to, "-q")

    def rclone(self, url: str, tree: Path, to: Path) -> tuple[float, float]:
        place = f"s:{BUCKET}/tree"
        up = self.call(url, "rclone", "copy", "-q", tree, place)
        return up, self.call(url, "rclone", "copy", "-q", place, to)

    def restic(self, url: str, tree: Path, to: Path) -> tuple[float, float]:
        restic = ("restic", "-q", "--no-cache", "-r", f"s3:{url}/{BUCKET}/tree")
        self.call(url, *restic, "init")
        up = self.call(url, *restic, "backup", tree)
        return up, self.call(url, *restic, "restore", "latest", "--target", to)


def first_rounds(home: Path) -> None:
    tools = Tools(home)
    known = {"snapsync": tools.snapsync, "`rclone copy`": tools.rclone}
    if shutil.which("restic"):
        known["restic"] = tools.restic
    print("| 1 GiB in | " + " | ".join(f"{name} to | from" for name in known) + " |")
    print("|---|" + "---|" * 2 * len(known))
    for shape, (count, size) in SHAPES.items():
        tree, to = home / "tree", home / "to"
        fill(tree, count, size)
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in known}
        for _ in range(RUNS):
            for name, tool in known.items():
                with seaweedfs() as server:
                    took[name].append(tool(server.url, tree, to))
                shutil.rmtree(to)
        cells = [statistics.median(run[way] for run in took[name]) for name in known for way in (0, 1)]
        print(f"| {shape} | " + " | ".join(f"{cell:.1f} s" for cell in cells) + " |", flush=True)
        shutil.rmtree(tree)


def second_round(home: Path) -> None:
    """200 changes in 200,000 files: what travels, and how long it takes."""
    tree, tools = home / "many", Tools(home)
    fill(tree, 200_000, 1024)
    log = f"s3://{BUCKET}/many"
    with seaweedfs() as server:
        tools.call(server.url, SNAPSYNC, "sync", tree, log, "-q")
        with proxy(server.url) as between:
            for number in range(0, 200_000, 1000):
                (tree / f"{number % 64}" / f"{number}").write_bytes(os.urandom(1024))
            between.begin()
            took = tools.call(between.url, SNAPSYNC, "sync", tree, log, "-q")
            up, down = between.brought() / 1024, between.fetched() / 1024
            print(f"\n200 changes in 200,000 files: {took:.2f} s, {between.counted().total()} requests,")
            print(f"{up:.0f} KiB to the store, {down:.0f} KiB from it")
    shutil.rmtree(tree)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="snapsync-bench-", dir="/dev/shm") as home:
        first_rounds(Path(home))
        second_round(Path(home))


if __name__ == "__main__":
    main()
