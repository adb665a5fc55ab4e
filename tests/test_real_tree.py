"""A tree that nobody here wrote: /usr of this machine, a package unpacked into it and removed again.

By default whole directories of /usr are taken, the smallest first, until there are 10,000 entries;
SNAPSYNC_USR=all takes all of it. What was measured is printed (pytest -rP shows it).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import worlds
from machine import GIB, FileSystems, Pair, done, need, sh, subvolume
from oracle import Picture, assert_same, freeze

ENOUGH = 10_000
PACKAGES = ("hello", "nano", "vim-tiny", "vim-common")


def chosen() -> list[Path]:
    """Directories of /usr that hold enough entries."""
    folders = [path for path in Path("/usr").iterdir() if path.is_dir() and not path.is_symlink()]
    folders.sort(key=lambda path: int(sh("du", "-sx", path).split()[0]))
    if os.environ.get("SNAPSYNC_USR") == "all":
        return folders
    taken, entries = [], 0
    for folder in folders:
        if entries > ENOUGH:
            break
        taken.append(folder)
        entries += sum(len(below) + len(files) for _, below, files in os.walk(folder))
    return taken


@pytest.fixture(params=[("btrfs", "xfs"), ("xfs", "ext4")], ids="-".join)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The tree on a file system of its own, and room for its standby on another."""
    need("cp", "du", "tar")
    folders = chosen()
    size = sum(int(sh("du", "-sx", "--block-size=1", path).split()[0]) for path in folders)
    systems = FileSystems(expected=4 * size)
    try:
        source, target = (systems.mount(kind, 4 * size + 4 * GIB) for kind in request.param)
        primary = source / "usr"
        if request.param[0] == "btrfs":
            subvolume(primary)
        else:
            primary.mkdir()
        sh("cp", "-a", "--target-directory", primary, *folders)
        yield Pair(primary, target / "usr")
    finally:
        systems.close()


def test_a_real_tree_follows_a_package_in_and_out(pair: Pair, tmp_path: Path) -> None:
    synced(pair, "first round", tmp_path)
    added = install(pair.source, tmp_path)
    report = synced(pair, f"{len(added)} entries installed", tmp_path)
    assert report["changes"]["created"] >= len(added) > 0
    for path in added:
        worlds.remove(path)
    report = synced(pair, "removed again", tmp_path)
    assert report["changes"]["deleted"] >= len(added)
    proof = done("verify", f"{pair.source}@latest", pair.target)
    assert proof["equal"], proof["differences"][:10]
    print(f"verify: {proof['entries']:,} entries, {proof['bytes']:,} bytes in {proof['seconds']:.1f} s")


# Runs a command and writes the most memory it had, in KiB, to a file.
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def synced(pair: Pair, what: str, folder: Path) -> dict[str, dict[str, int]]:
    """One round, measured, and both sides read side by side to be compared."""
    memory = folder / "memory"
    measure = (sys.executable, "-c", MEASURE, str(memory))
    report = done("sync", pair.source, pair.target, wrap=measure)
    print(
        f"{what}: {report['tree_entries']:,} entries, {report['tree_bytes']:,} bytes in the tree, "
        f"{report['data_bytes']:,} moved, {report['seconds']:.1f} s, "
        f"peak memory {int(memory.read_text()) // 1024} MiB"
    )
    assert_same(*pictures(pair))
    return report


def pictures(pair: Pair) -> list[Picture]:
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as readers:
        return list(readers.map(freeze, [pair.source, pair.target]))


def install(root: Path, folder: Path) -> list[Path]:
    """Unpacks packages as dpkg would, or where none can be had, files as a package would bring them."""
    before = set(root.rglob("*"))
    packages = downloaded(folder)
    for package in packages:
        contents = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True)
        unpack = ["tar", "-x", "--strip-components=2", "-C", str(root), "--wildcards", "./usr/*"]
        subprocess.run(unpack, input=contents.stdout, check=True)
    if not packages:
        print("no package could be downloaded: files of /usr stand in for one")
        stand_in(root)
    new = set(root.rglob("*")) - before
    return [path for path in new if path.parent not in new]


def downloaded(folder: Path) -> list[Path]:
    """Debian packages, where this is Debian and an archive answers."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return []
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
    subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    return sorted(folder.glob("*.deb"))


def stand_in(root: Path) -> None:
    """Some hundred files in new and in existing directories, and a few replaced by a rename."""
    folders = sorted(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())
    for number, folder in enumerate(folders[:: max(1, len(folders) // 200)]):
        new = folder / f"stand-in-{number}"
        new.mkdir()
        for path in [path for path in folder.iterdir() if path.is_file()][:5]:
            shutil.copy2(path, new)
            shutil.copy2(path, new / "unpacked")
            (new / "unpacked").rename(path)
