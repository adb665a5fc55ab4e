"""How long questions to the history take: 1,000,000 files, 100 snapshots with 200 changes each.

`make bench-history` prints a table in Markdown. SNAPSYNC_BENCH_FILES sets another number of files.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = int(os.environ.get("SNAPSYNC_BENCH_FILES", "1000000"))
SNAPSHOTS, CHANGES, FOLDER = 100, 200, 500
SNAPSYNC = str(Path(sys.executable).with_name("snapsync"))
KINDS = {"btrfs": ["mkfs.btrfs", "-q", "-f"], "xfs": ["mkfs.xfs", "-q", "-f"]}


def sh(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def make(volume: Path, rng: random.Random) -> list[Path]:
    """The tree; its directories."""
    folders = [volume / f"{n // 64:03}" / f"{n:05}" for n in range(FILES // FOLDER)]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        for at in range(FOLDER):
            kind = rng.choice(("txt", "odt", "jpg", "log"))
            (folder / f"file-{number * FOLDER + at}.{kind}").touch()
    return folders


def change(folders: list[Path], turn: int, rng: random.Random) -> None:
    """Files that come, go and are renamed, and now and then a directory that moves."""
    for number in range(CHANGES):
        folder = rng.choice(folders)
        names = os.listdir(folder)
        match rng.randrange(3):
            case 1 if names:
                (folder / rng.choice(names)).unlink()
            case 2 if names:
                (folder / rng.choice(names)).rename(folder / f"moved-{turn}-{number}.odt")
            case _:
                (folder / f"new-{turn}-{number}.odt").write_text("new")
    at = rng.randrange(len(folders))
    moved = folders[at].with_name(f"m{turn}")
    folders[at] = folders[at].rename(moved)


def measured(*words: str) -> tuple[float, int, int]:
    """Seconds, MiB of memory at the most, and lines of the answer; the best of three."""
    best = (float("inf"), 0, 0)
    for _ in range(3):
        began = time.perf_counter()
        with subprocess.Popen([SNAPSYNC, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            lines = child.stdout.read().count(b"\n")
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0, words
        best = min(best, (time.perf_counter() - began, usage.ru_maxrss // 1024, lines))
    return best


def bench(kind: str, home: Path) -> None:
    image, mount = home / f"{kind}.img", home / kind
    with image.open("wb") as file:
        file.truncate(24 << 30)
    sh(*KINDS[kind], str(image))
    mount.mkdir()
    sh("mount", "-o", "loop", str(image), str(mount))
    try:
        volume = mount / "volume"
        sh("btrfs", "subvolume", "create", str(volume)) if kind == "btrfs" else volume.mkdir()
        rng = random.Random(20)
        folders = make(volume, rng)
        for turn in range(SNAPSHOTS):
            sh(SNAPSYNC, "snapshot", str(volume), "--quiet")
            if turn + 1 < SNAPSHOTS:
                change(folders, turn, rng)
        began = time.perf_counter()
        sh(SNAPSYNC, "log", str(volume), "--quiet")
        print(f"| {kind} | all manifests made at once | {time.perf_counter() - began:.2f} | | |", flush=True)
        some = folders[-1].relative_to(volume)
        questions = [
            ("log",),
            ("log", str(some)),
            ("find", "file-77777.*"),
            ("find", "moved-5*-1?.odt"),
            ("find", "*.odt", "--deleted"),
            ("find", "0*/m9*/**/new-*"),
        ]
        for verb, *rest in questions:
            seconds, memory, lines = measured(verb, str(volume), *rest, "--quiet")
            print(f"| {kind} | {verb} {' '.join(rest)} | {seconds:.2f} | {memory} | {lines} |", flush=True)
        kept = [*(volume / ".snapsync/store/history").iterdir()]
        size = sum(file.stat().st_size for file in kept) / (1 << 20)
        largest = max(file.stat().st_size for file in kept) / (1 << 20)
        print(f"| {kind} | {len(kept)} manifests: {size:.1f} MiB, the first {largest:.1f} MiB | | | |")
    finally:
        sh("umount", str(mount))


if __name__ == "__main__":
    print("| | what | s | MiB | lines |\n|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="snapsync-bench-", dir=os.environ.get("TMPDIR")) as home:
        for kind in sys.argv[1:] or KINDS:
            bench(kind, Path(home))
