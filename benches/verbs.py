"""The scenes of what is done with snapshots besides rounds."""

from __future__ import annotations

import os
import random
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from places import GIB, Tree, discard, fill, mounted, overwrite, sh, volume
from stage import ALONE, Scene, Stage, pair, same
from tools import SNAPSYNC, Run, rsync, snapsync, sync, timed


@contextmanager
def in_step(files: int) -> Iterator[tuple[Path, Path]]:
    """A primary of so many files and its standby, on file systems of their own."""
    with pair("xfs", 6 * GIB) as (one, two):
        source, target = volume(one, "xfs", "source"), two / "standby"
        Tree(source, files)
        sync(source, target)()
        yield source, target


@contextmanager
def verify(scale: float) -> Iterator[Stage]:
    with in_step(int(300_000 * scale)) as (source, target):
        check = ["rsync", "-nacHAX", "--delete", "--exclude=/.snapsync", f"{source}/", f"{target}/"]
        yield Stage(
            {
                "snapsync": lambda: snapsync("verify", source, target),
                "rsync": lambda: timed(shlex.join(check)),
            },
            files=int(300_000 * scale),
        )


@contextmanager
def verify_quick(scale: float) -> Iterator[Stage]:
    with in_step(int(300_000 * scale)) as (source, target):
        words = ("verify", f"{source}@latest", f"{target}@latest", "--quick")
        yield Stage({"snapsync": lambda: snapsync(*words)}, files=int(300_000 * scale))


@contextmanager
def verify_holes(_: float) -> Iterator[Stage]:
    with pair("xfs", 2 * GIB) as (one, two):
        source, target = volume(one, "xfs", "source"), two / "standby"
        with (source / "sparse").open("wb") as file:
            file.truncate(100 * GIB)
            file.seek(70 * GIB)
            file.write(os.urandom(4096))
        sync(source, target)()
        yield Stage({"snapsync": lambda: snapsync("verify", source, target)})


@contextmanager
def adopt(scale: float, *options: str) -> Iterator[Stage]:
    """A copy that is there already, and equal. The primary has its snapshot: that is no part of it."""
    with pair("xfs", 6 * GIB) as (one, two):
        source, target = volume(one, "xfs", "source"), two / "standby"
        Tree(source, int(200_000 * scale))
        sh("cp", "-a", source, target)
        snapsync("snapshot", source)
        words = ("sync", source, target, "--adopt", "--new-standby", *options)
        looking = "-naHAX" if options else "-nacHAX"
        look = ["rsync", looking, "--delete", "--exclude=/.snapsync", f"{source}/", f"{target}/"]
        yield Stage(
            {"snapsync": lambda: snapsync(*words), "rsync": lambda: timed(shlex.join(look))},
            clear=lambda _: discard(target / ".snapsync"),
            check=lambda: same(source, target),
            files=int(200_000 * scale),
        )


@contextmanager
def restore(scale: float) -> Iterator[Stage]:
    with mounted("xfs", 8 * GIB) as mount:
        source = volume(mount, "xfs", "source")
        Tree(source, int(300_000 * scale))
        snapsync("snapshot", source)
        ours, theirs = mount / "snapsync", mount / "cp"

        def restored() -> Run:
            return snapsync("restore", f"{source}@latest", "--to", ours)

        copy = f"mkdir {theirs} && cp -a {source}/* {theirs}/ && sync -f {theirs}"
        yield Stage(
            {"snapsync": restored, "cp": lambda: timed(copy)},
            clear=lambda name: discard(mount / name),
            check=lambda: same(source, ours),
            files=int(300_000 * scale),
        )


@contextmanager
def prune(kind: str, scale: float) -> Iterator[Stage]:
    with mounted(kind, 8 * GIB) as mount:
        source = volume(mount, kind, "source")
        tree = Tree(source, int(200_000 * scale))

        def change(_: int) -> None:
            for _ in range(300):
                tree.change(10)
                snapsync("snapshot", source)

        yield Stage(
            {"snapsync": lambda: snapsync("prune", source, "--keep-last", 5)}, change=change, files=295
        )


@contextmanager
def versions(scale: float) -> Iterator[Stage]:
    with mounted("xfs", 4 * GIB) as mount:
        source = volume(mount, "xfs", "source")
        tree = Tree(source, int(100_000 * scale))
        file = tree.files[0]
        for turn in range(200):
            tree.change(10)
            if turn % 20 == 0:
                file.write_text(str(turn))
            snapsync("snapshot", source)
        yield Stage({"snapsync": lambda: snapsync("versions", file)})


@contextmanager
def looked_at(scale: float, what: str) -> Iterator[Stage]:
    """A snapshot of a pool that is looked at through FUSE."""
    with mounted("xfs", 6 * GIB) as mount:
        source, point = volume(mount, "xfs", "source"), mount / "looked-at"
        Tree(source, int(100_000 * scale))
        snapsync("snapshot", source)

        def look() -> None:
            """Mounts it: the kernel knows nothing yet of what is in it."""
            sh("sh", "-c", f"! mountpoint -q {point} || umount {point}")
            sh(SNAPSYNC, "mount", f"{source}@latest", point, "--quiet")

        def clear(name: str) -> None:
            discard(mount / name)
            look()

        look()
        try:
            if what == "list":
                yield Stage({"snapsync": lambda: timed(f"find {point} -ls > /dev/null")})
            else:

                def copy(name: str, clones: str) -> Run:
                    to = mount / name
                    return timed(f"mkdir {to} && cp -a --reflink={clones} {source}/* {to} && sync -f {mount}")

                yield Stage(
                    {
                        "snapsync": lambda: timed(f"cp -a {point} {mount}/snapsync && sync -f {mount}"),
                        "cp": lambda: copy("cp", "auto"),
                        "cp-bytes": lambda: copy("cp-bytes", "never"),
                    },
                    clear=clear,
                    check=lambda: same(source, mount / "snapsync"),
                    files=int(100_000 * scale),
                )
        finally:
            sh("umount", point)


@contextmanager
def many_extents(scale: float) -> Iterator[Stage]:
    """A file in many pieces, as a database or a log that grew beside others."""
    with pair("xfs", 4 * GIB) as (one, two):
        source, chance = volume(one, "xfs", "source"), random.Random(3)
        pieces = int(20_000 * scale)
        with (source / "file").open("wb") as file:
            for at in chance.sample(range(pieces), pieces):
                os.pwrite(file.fileno(), chance.randbytes(4096), at * 8192)
                os.fdatasync(file.fileno())
        used = {
            "snapsync": sync(source, two / "snapsync"),
            "rsync": rsync(source, two / "rsync", "--inplace", "--no-whole-file"),
        }
        for tool in used.values():
            tool()
        yield Stage(
            used,
            change=lambda _: overwrite(source / "file", 100, chance, step=2),
            check=lambda: [same(source, two / name) for name in used] and None,
        )


@contextmanager
def restore_in_place(scale: float) -> Iterator[Stage]:
    """After the volume was read once, so that all its access times are new."""
    with mounted("btrfs", 6 * GIB, options="strictatime") as mount:
        source = volume(mount, "btrfs", "source")
        tree = Tree(source, int(200_000 * scale))
        fill(source / "large", int(GIB * scale))
        snapsync("snapshot", source, "--name", "before")

        def change(_: int) -> None:
            for path in random.Random(4).sample(tree.files, 1000):
                path.write_bytes(b"changed")
            tree_only = f"{source} -path {source}/.snapsync -prune -o -type f -print0"
            sh("bash", "-c", f"find {tree_only} | xargs -0 cat > /dev/null")
            os.sync()

        yield Stage({"snapsync": lambda: snapsync("restore", f"{source}@before")}, change=change, files=1000)


VERBS = {
    "verify": Scene("verify of 300,000 files, XFS", verify, {"rsync": 2}),
    "verify-quick": Scene("verify --quick of two snapshots of 300,000 files, XFS", verify_quick, {ALONE: 1}),
    "verify-holes": Scene("verify of a file of 100 GiB with 4 KiB of data, XFS", verify_holes, {ALONE: 1}),
    "adopt": Scene("adopt an equal copy of 200,000 files, XFS; rsync -nc", adopt, {"rsync": 1}),
    "adopt-times": Scene(
        "the same with --trust-times; rsync -n", lambda scale: adopt(scale, "--trust-times"), {"rsync": 1}
    ),
    "restore": Scene("restore of 300,000 files elsewhere, XFS", restore, {"cp": 1.5}),
    "restore-in-place": Scene(
        "restore in place after 1,000 changes, all read since, Btrfs", restore_in_place, {ALONE: 0.6}
    ),
    "prune-xfs": Scene(
        "prune 295 of 300 snapshots of 200,000 files, XFS",
        lambda scale: prune("xfs", scale),
        {ALONE: 5},
        counts_first=True,
        turns=1,
    ),
    "prune-ext4": Scene(
        "prune 295 of 300 snapshots of 200,000 files, ext4",
        lambda scale: prune("ext4", scale),
        {ALONE: 5},
        counts_first=True,
        turns=1,
    ),
    "versions": Scene("versions of a file, 200 snapshots of 100,000 files, XFS", versions, {ALONE: 0.2}),
    "mount-copy": Scene(
        "100,000 files copied out of a mounted snapshot, XFS; cp of the tree itself",
        lambda scale: looked_at(scale, "copy"),
        {"cp": 0.7},
    ),
    "mount-list": Scene(
        "find -ls in a mounted snapshot of 100,000 files, XFS",
        lambda scale: looked_at(scale, "list"),
        {ALONE: 0.7},
    ),
    "extents": Scene("a file of 20,000 extents, 100 changes, XFS", many_extents, {"rsync": 1.5}),
}
