"""What is measured: the scenes of rounds, and the list of all."""

from __future__ import annotations

import json
import os
import random
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import tools
from places import GIB, Tree, discard, fill, half_text, mounted, overwrite, sh, volume
from stage import Scene, Stage, all_same, pair, same
from tools import Btrfs, Run, Tool, rsync, snapsync, sync, timed
from verbs import VERBS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from remote import HOST, sshd


def _btrfs_peer(kind: str, source: Path, target: Path) -> dict[str, Tool]:
    return {"btrfs": Btrfs(source, source.parent / "snapshots", target / "btrfs")} if kind == "btrfs" else {}


@contextmanager
def small_changes(kind: str, scale: float, count: int = 200_000) -> Iterator[Stage]:
    with pair(kind, 6 * GIB if count <= 200_000 else 12 * GIB) as (one, two):
        source = volume(one, kind, "source")
        tree = Tree(source, int(count * scale))
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync"),
            "rsync": rsync(source, two / "rsync"),
        }
        used |= _btrfs_peer(kind, source, two)
        for tool in used.values():
            tool()
        yield Stage(
            used, change=lambda _: tree.change(200), check=lambda: all_same(source, two, used), files=200
        )


@contextmanager
def image(kind: str, scale: float) -> Iterator[Stage]:
    with pair(kind, 9 * GIB) as (one, two):
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
            check=lambda: all_same(source, two, used),
        )


@contextmanager
def first(kind: str, scale: float) -> Iterator[Stage]:
    with pair(kind, 6 * GIB) as (one, two):
        source = volume(one, kind, "source")
        Tree(source, int(100_000 * scale))
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync", "--new-standby"),
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

        yield Stage(used, clear=clear, check=check, files=int(100_000 * scale))


@contextmanager
def large(kind: str, scale: float) -> Iterator[Stage]:
    with pair(kind, 6 * GIB) as (one, two):
        source = volume(one, kind, "source")
        for number in range(16):
            fill(source / f"file-{number}", int(4 * GIB * scale) // 16, number)
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync", "--new-standby"),
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
        snapsync("snapshot", source)
        generations: list[str] = []

        def change(_: int) -> None:
            answer = sh("btrfs", "subvolume", "find-new", source, "9999999999")
            generations.append(answer.split()[-1])  # "transid marker was N"
            tree.change(200)
            snapsync("snapshot", source)

        def newest() -> list[str]:
            listed = json.loads(sh(tools.SNAPSYNC, "list", source, "--json"))["snapshots"]
            return [snapshot["id"] for snapshot in listed[-2:]]

        def send() -> Run:
            base, target = (source / ".snapsync/store/snapshots" / one / "tree" for one in newest())
            return timed(f"btrfs -q send --no-data -p {base} {target} > /dev/null")

        find_new = f"btrfs subvolume find-new {source}"
        yield Stage(
            {
                "snapsync": lambda: snapsync("diff", *(f"{source}@{one}" for one in newest())),
                "find-new": lambda: timed(f"{find_new} {generations[-1]} > /dev/null"),
                "send": send,
            },
            change=change,
        )


@contextmanager
def renamed(kind: str, scale: float) -> Iterator[Stage]:
    with pair(kind, 6 * GIB) as (one, two):
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
            check=lambda: all_same(source, two, used),
        )


@contextmanager
def memory(kind: str, scale: float) -> Iterator[Stage]:
    with pair(kind, 16 * GIB) as (one, two):
        source = volume(one, kind, "source")
        tree = Tree(source, int(1_000_000 * scale))
        used: dict[str, Tool] = {
            "snapsync": sync(source, two / "snapsync"),
            "rsync": rsync(source, two / "rsync"),
        }
        yield Stage(
            used,
            change=lambda turn: tree.change(200 if turn else 0),
            check=lambda: all_same(source, two, used),
        )


@contextmanager
def over_ssh(what: str, scale: float) -> Iterator[Stage]:
    """A first round of small files, changes of some of them, or new large files."""
    with pair("btrfs", 8 * GIB) as (one, two), sshd() as server:
        source, client = volume(one, "btrfs", "source"), server.client()
        shell = f"{client.rsh} {HOST}"
        count = {"first": 100_000, "changes": 200_000, "data": 0}[what]
        more = ["--new-standby"] if what == "first" else ["--keep-last", 1]
        tree = Tree(source, int(count * scale))
        used: dict[str, Tool] = {
            "snapsync": sync(source, client.at(two / "snapsync"), *client.options, *more),
            "rsync": rsync(source, client.at(two / "rsync"), "-z", shlex.join(["-e", client.rsh])),
        }
        if what == "first":
            yield Stage(
                used,
                clear=lambda name: discard(two / name),
                check=lambda: all_same(source, two, used),
                files=int(count * scale),
            )
            return
        peer = Btrfs(source, one / "snapshots", two / "btrfs", rsh=shell)
        for tool in (*used.values(), peer):
            tool()

        def change(turn: int) -> None:
            peer.forget()  # memory holds no more
            if what == "changes":
                tree.change(200)
            for number in range(8 if what == "data" else 0):
                half_text(source / f"new{number}", int(GIB * scale) // 8, 8 * turn + number)

        limit = {"cat": tools.cat(source, two / "cat", shell)} if what == "data" else {}
        peers = {**used, "btrfs": peer}
        yield Stage(
            {**peers, **limit},
            change=change,
            check=lambda: all_same(source, two, peers),
            files=200 if what == "changes" else 8,
        )


def _of(
    make: Callable[[Any, float], AbstractContextManager[Stage]], what: str | int
) -> Callable[[float], AbstractContextManager[Stage]]:
    return lambda scale: make(what, scale)


FINDING = {"find-new": 0.5, "send": 1}
SCENES = {
    "changes-btrfs": Scene(
        "200,000 files, 200 changes, Btrfs",
        _of(small_changes, "btrfs"),
        {"rsync": 12, "btrfs": 0.75},
        {"btrfs": 0.95},
    ),
    "changes-xfs": Scene("200,000 files, 200 changes, XFS", _of(small_changes, "xfs"), {"rsync": 12}),
    "changes-ext4": Scene("200,000 files, 200 changes, ext4", _of(small_changes, "ext4"), {"rsync": 10}),
    "changes-xfs-1m": Scene(
        "1,000,000 files, 200 changes, XFS",
        lambda scale: small_changes("xfs", scale, 1_000_000),
        {"rsync": 20},
        turns=3,
    ),
    "changes-ext4-600k": Scene(
        "600,000 files, 200 changes, ext4",
        lambda scale: small_changes("ext4", scale, 600_000),
        {"rsync": 20},
        turns=3,
    ),
    "image-btrfs": Scene(
        "2 GiB image, 1,000 blocks of 4 KiB, Btrfs",
        _of(image, "btrfs"),
        {"rsync": 20, "btrfs": 0.75},
        {"btrfs": 1},
    ),
    "image-xfs": Scene("2 GiB image, 1,000 blocks of 4 KiB, XFS", _of(image, "xfs"), {"rsync": 12}),
    "image-ext4": Scene("2 GiB image, 1,000 blocks of 4 KiB, ext4", _of(image, "ext4"), {"rsync": 1.5}),
    "first-btrfs": Scene(
        "first round, 100,000 small files, Btrfs",
        _of(first, "btrfs"),
        {"tar": 1, "rsync": 1.5, "btrfs": 1.5},
    ),
    "first-xfs": Scene(
        "first round, 100,000 small files, XFS", _of(first, "xfs"), {"tar": 1.15, "rsync": 1.7}
    ),
    "first-ext4": Scene(
        "first round, 100,000 small files, ext4", _of(first, "ext4"), {"tar": 1.15, "rsync": 1.7}
    ),
    "large": Scene("first round, 4 GiB in 16 files, XFS", _of(large, "xfs"), {"cp": 0.95, "rsync": 1}),
    "diff-50k": Scene(
        "changes only, 200 in 50,000 files, Btrfs", _of(finding, 50_000), {"find-new": 0.5, "send": 1}
    ),
    "diff-200k": Scene(
        "changes only, 200 in 200,000 files, Btrfs", _of(finding, 200_000), {"find-new": 0.5, "send": 1}
    ),
    "diff-800k": Scene(
        "changes only, 200 in 800,000 files, Btrfs", _of(finding, 800_000), {"find-new": 0.5, "send": 1}
    ),
    "rename": Scene("a directory of 100,000 files renamed, XFS", _of(renamed, "xfs"), {"rsync": 40}),
    "memory": Scene(
        "memory: 1,000,000 small files, XFS",
        _of(memory, "xfs"),
        {"rsync": 1},
        measures="memory",
        counts_first=True,
    ),
    "ssh-first": Scene(
        "first round, 100,000 small files, over ssh on loopback, Btrfs",
        _of(over_ssh, "first"),
        {"rsync": 1.3},
    ),
    "ssh-changes": Scene(
        "200,000 files, 200 changes, over ssh on loopback, Btrfs", _of(over_ssh, "changes"), {"rsync": 6}
    ),
    "ssh": Scene(
        "1 GiB of new data in 8 files, over ssh on loopback, Btrfs",
        _of(over_ssh, "data"),
        {"rsync": 2.5, "btrfs": 1},
    ),
    **VERBS,
}
