"""What a scene is: a source that changes from turn to turn, and a target for each tool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from places import mounted, sh
from tools import Btrfs, Tool

ALONE = "seconds"
"""In the aims of a scene, the most seconds that snapsync may take: nobody else does the like."""


@dataclass
class Stage:
    """A scene that is set up. `change` is called before each turn, `clear` before each tool runs.

    Processor time and system calls are told for each of `files`.
    """

    tools: dict[str, Tool]
    change: Callable[[int], None] = lambda _: None
    clear: Callable[[str], None] = lambda _: None
    check: Callable[[], None] = lambda: None
    files: int = 1


@dataclass(frozen=True)
class Scene:
    """`aims`: how many times what snapsync takes a peer should, as a whole and beside the engine alone.

    `turns` is how often it is measured at most.
    """

    title: str
    open: Callable[[float], AbstractContextManager[Stage]]
    aims: dict[str, float]
    engine_aims: dict[str, float] = field(default_factory=dict)
    measures: str = "seconds"
    counts_first: bool = False
    turns: int = 1000


def same(source: Path, target: Path) -> None:
    """Fails unless a target holds what the source does: a tool that copies nothing is not fast."""
    options = ["-aHAXn", "--delete", "--checksum", "--exclude=/.snapsync", "--out-format=%i %n"]
    differences = sh("rsync", *options, f"{source}/", f"{target}/").splitlines()
    differences = [line for line in differences if line != ".d..t...... ./"]  # its root may hold more
    if differences:
        raise SystemExit(f"{target} is not {source}: {differences[:3]}")


def all_same(source: Path, target: Path, peers: dict[str, Tool]) -> None:
    """Fails unless each tool's target below `target` holds what the source does."""
    for name, tool in peers.items():
        same(source, tool.newest if isinstance(tool, Btrfs) else target / name)


@contextmanager
def pair(kind: str, size: int) -> Iterator[tuple[Path, Path]]:
    """Two file systems of a kind."""
    with mounted(kind, size) as one, mounted(kind, size) as two:
        yield one, two
