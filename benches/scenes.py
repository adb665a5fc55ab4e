"""What is measured: each scene has a source that changes from turn to turn, and a target for each tool."""

from __future__ import annotations

import json
import os
import random
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tools
from places import GIB, Tree, discard, fill, half_text, mounted, overwrite, sh, volume
from tools import SNAPSYNC, Btrfs, Run, Tool, diff, rsync, sync, timed

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from remote import HOST, sshd


@dataclass
class Stage:
    """A scene that is set up. `change` is called before each turn, `clear` before each tool runs."""

    tools: dict[str, Tool]
    change: Callable[[int], None] = lambda _: None
    clear: Callable[[str], None] = lambda _: None
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Scene:
    """`aims`: how many times what snapsync takes a peer should, as a whole and beside the engine alone."""

    title: str
    open: Callable[[float], AbstractContextManager[Stage]]
    aims: dict[str, float]
    engine_aims: dict[str, float] = field(default_factory=dict)
    measures: str = "seconds"
    counts_first: bool = False


def same(source: Path, target: Path) -> None:
    """Fails unless a target holds what the source does: a tool that copies nothing is not fast."""
    options = ["-aHAXn", "--delete", "--checksum", "--exclude=/.snapsync", "--out-format=%i %n"]
    differences = sh("rsync", *options, f"{source}/", f"{target}/").splitlines()
    differences = [line for line in differences if line != ".d..t...... ./"]  # its root may hold more
    if differences:
        raise SystemExit(f"{target} is not {source}: {differences[:3]}")


@contextmanager
def _pair(kind: str, size: int) -> Iterator[tuple[Path, Path]]:
    with mounted(kind, size) as one, mounted(kind, size) as two:
        yield one, two


def _btrfs_peer(kind: str, source: Path, target: Path) -> dict[str, Tool]:
    return {"btrfs": Btrfs(source, source.parent / "snapshots", target / "btrfs")} if kind == "btrfs" else {}


def _check(source: Path, target: Path, peers: dict[str, Tool]) -> None:
    for name, tool in peers.items():
        same(source, tool.newest if isinstance(tool, Btrfs) else target / name)


@contextmanager
def small_changes(kind: str, scale: float) -> Iterator[Stage]:
    with _pair(kind, 6 * GIB) as (one, two):
        source = volume(one, kind, "source")
        tree = Tree(source, int(200_000 * scale))
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync"),
            "rsync": rsync(source, two / "rsync"),
        }
        used |= _btrfs_peer(kind, source, two)
        for tool in used.values():
            tool()
        yield Stage(used, change=lambda _: tree.change(200), check=lambda: _check(source, two, used))


@contextmanager
def image(kind: str, scale: float) -> Iterator[Stage]:
    with _pair(kind, 9 * GIB) as (one, two):
        source, chance = volume(one, kind, "source"), random.Random(2)
        fill(source / "image", int(2 * GIB * scale) // 4096 * 4096)
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync"),
            "rsync": rsync(source, two / "rsync", "--inplace", "--no-whole-file"),
        }
        used |= _btrfs_peer(kind, source, two)
        for tool in used.values():
            tool()
        yield Stage(
            used,
            change=lambda _: overwrite(source / "image", 1000, chance),
            check=lambda: _check(source, two, used),
        )


@contextmanager
def first(kind: str, scale: float) -> Iterator[Stage]:
    with _pair(kind, 6 * GIB) as (one, two):
        source = volume(one, kind, "source")
        Tree(source, int(100_000 * scale))
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync"),
            "bare": tools.bare(source, two / "bare"),
            "tar": tools.tar(source, two / "tar"),
            "rsync": rsync(source, two / "rsync"),
        }
        snapshots = one / "snapshots"
        if kind == "btrfs":
            used["btrfs"] = lambda: Btrfs(source, snapshots, two / "btrfs")()

        def clear(name: str) -> None:
            discard(two / name)
            if name == "btrfs":
                discard(snapshots)

        def check() -> None:
            for name in used:
                same(source, two / "btrfs/0" if name == "btrfs" else two / name)

        yield Stage(used, clear=clear, check=check)


@contextmanager
def large(kind: str, scale: float) -> Iterator[Stage]:
    with _pair(kind, 6 * GIB) as (one, two):
        source = volume(one, kind, "source")
        for number in range(16):
            fill(source / f"file-{number}", int(4 * GIB * scale) // 16, number)
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync"),
            "cp": tools.copy(source, two / "cp"),
            "rsync": rsync(source, two / "rsync"),
        }

        def clear(_: str) -> None:
            """One target at a time: memory holds no more."""
            for other in used:
                if (two / other).exists():
                    same(source, two / other)
                discard(two / other)

        yield Stage(used, clear=clear)


@contextmanager
def finding(count: int, scale: float) -> Iterator[Stage]:
    with mounted("btrfs", 12 * GIB) as mount:
        source = volume(mount, "btrfs", "source")
        tree = Tree(source, int(count * scale))
        sh(SNAPSYNC, "snapshot", source, "--quiet")
        generations: list[str] = []

        def change(_: int) -> None:
            answer = sh("btrfs", "subvolume", "find-new", source, "9999999999")
            generations.append(answer.split()[-1])  # "transid marker was N"
            tree.change(200)
            sh(SNAPSYNC, "snapshot", source, "--quiet")

        def newest() -> list[str]:
            listed = json.loads(sh(SNAPSYNC, "list", source, "--json"))["snapshots"]
            return [snapshot["id"] for snapshot in listed[-2:]]

        def send() -> Run:
            base, target = (source / ".snapsync/store/snapshots" / one / "tree" for one in newest())
            return timed(f"btrfs -q send --no-data -p {base} {target} > /dev/null")

        find_new = f"btrfs subvolume find-new {source}"
        yield Stage(
            {
                "snapsync": lambda: diff(*(f"{source}@{one}" for one in newest())),
                "find-new": lambda: timed(f"{find_new} {generations[-1]} > /dev/null"),
                "send": send,
            },
            change=change,
        )


@contextmanager
def renamed(kind: str, scale: float) -> Iterator[Stage]:
    with _pair(kind, 6 * GIB) as (one, two):
        source = volume(one, kind, "source")
        (source / "0").mkdir()
        Tree(source / "0", int(100_000 * scale))
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync"),
            "rsync": rsync(source, two / "rsync"),
        }
        for tool in used.values():
            tool()
        yield Stage(
            used,
            change=lambda turn: os.rename(source / str(turn), source / str(turn + 1)),
            check=lambda: _check(source, two, used),
        )


@contextmanager
def memory(kind: str, scale: float) -> Iterator[Stage]:
    with _pair(kind, 16 * GIB) as (one, two):
        source = volume(one, kind, "source")
        tree = Tree(source, int(1_000_000 * scale))
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync"),
            "rsync": rsync(source, two / "rsync"),
        }
        yield Stage(
            used, change=lambda turn: tree.change(200 if turn else 0), check=lambda: _check(source, two, used)
        )


@contextmanager
def over_ssh(scale: float) -> Iterator[Stage]:
    with _pair("btrfs", 8 * GIB) as (one, two), sshd() as server:
        source, client = volume(one, "btrfs", "source"), server.client()
        shell = f"{client.rsh} {HOST}"
        used: dict[str, Tool] = {
            "snapsync": sync(
                source, client.at(two / "snapsync"), shlex.join(client.options), "--keep-last 1"
            ),
            "rsync": rsync(source, client.at(two / "rsync"), "-z", shlex.join(["-e", client.rsh])),
        }
        peer = used["btrfs"] = Btrfs(source, one / "snapshots", two / "btrfs", rsh=shell)
        for tool in used.values():
            tool()

        def change(turn: int) -> None:
            peer.forget()  # memory holds no more
            half_text(source / "new", int(GIB * scale), turn)

        limit = {"cat": tools.cat(source, two / "cat", shell)}
        yield Stage(used | limit, change=change, check=lambda: _check(source, two, used))


def _of(
    make: Callable[[Any, float], AbstractContextManager[Stage]], what: str | int
) -> Callable[[float], AbstractContextManager[Stage]]:
    return lambda scale: make(what, scale)


FINDING = {"find-new": 0.5, "send": 1}
SCENES = {
    "changes-btrfs": Scene(
        "200,000 files, 200 changes, Btrfs",
        _of(small_changes, "btrfs"),
        {"rsync": 15, "btrfs": 0.67},
        {"btrfs": 1},
    ),
    "changes-xfs": Scene("200,000 files, 200 changes, XFS", _of(small_changes, "xfs"), {"rsync": 10}),
    "changes-ext4": Scene("200,000 files, 200 changes, ext4", _of(small_changes, "ext4"), {"rsync": 5}),
    "image-btrfs": Scene(
        "2 GiB image, 1,000 blocks of 4 KiB, Btrfs",
        _of(image, "btrfs"),
        {"rsync": 20, "btrfs": 0.5},
        {"btrfs": 1},
    ),
    "image-xfs": Scene("2 GiB image, 1,000 blocks of 4 KiB, XFS", _of(image, "xfs"), {"rsync": 20}),
    "first-btrfs": Scene(
        "first round, 100,000 small files, Btrfs", _of(first, "btrfs"), {"tar": 1.4, "rsync": 2, "btrfs": 4}
    ),
    "first-xfs": Scene("first round, 100,000 small files, XFS", _of(first, "xfs"), {"tar": 1.4, "rsync": 2}),
    "large": Scene("first round, 4 GiB in 16 files, XFS", _of(large, "xfs"), {"cp": 1, "rsync": 1}),
    "diff-50k": Scene(
        "changes only, 200 in 50,000 files, Btrfs", _of(finding, 50_000), {"find-new": 0.5, "send": 1}
    ),
    "diff-200k": Scene(
        "changes only, 200 in 200,000 files, Btrfs", _of(finding, 200_000), {"find-new": 0.5, "send": 1}
    ),
    "diff-800k": Scene(
        "changes only, 200 in 800,000 files, Btrfs", _of(finding, 800_000), {"find-new": 0.5, "send": 1}
    ),
    "rename": Scene("a directory of 100,000 files renamed, XFS", _of(renamed, "xfs"), {"rsync": 50}),
    "memory": Scene(
        "memory: 1,000,000 small files, XFS",
        _of(memory, "xfs"),
        {"rsync": 1},
        measures="memory",
        counts_first=True,
    ),
    "ssh": Scene("1 GiB of new data over ssh on loopback, Btrfs", over_ssh, {"rsync": 1, "btrfs": 1}),
}
