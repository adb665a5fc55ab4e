"""The directories of a volume as a tree, with what happened in each.

A directory that is renamed takes along all that is known of it, so the tree grows with the number of
directories, and a rename costs the depth of its path.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Self

from snapsync.page.rows import SUMS

FIELDS = (
    "bytes",
    "entries",
    "growth_7_days",
    "growth_30_days",
    "growth",
    "changes",
    "deletions",
    "data_bytes",
)
"""What is known of each directory."""

_SUMMED = tuple(map(FIELDS.index, SUMS))
_WINDOWS = tuple(map(FIELDS.index, ("growth_7_days", "growth_30_days")))


class Directory:
    """One directory: `own` has FIELDS of the entries directly in it, `total` with all below."""

    __slots__ = ("below", "own", "total")

    def __init__(self) -> None:
        self.below: dict[str, Self] = {}
        self.own = [0] * len(FIELDS)
        self.total: list[int] = []


class Tree:
    """All directories, by what manifests say one after the other."""

    def __init__(self) -> None:
        self.root = Directory()

    def add(
        self, directories: Iterable[tuple[str | int, ...]], *, windows: tuple[bool, bool], whole: bool
    ) -> None:
        """Add the sums of one manifest. `windows` tells whether it is of the last 7 and 30 days.

        The `whole` tree, as the first manifest has it, is what the others change: no change by itself.
        """
        for path, *sums in directories:
            own = self._at(str(path)).own
            for place, value in zip(_SUMMED[:2] if whole else _SUMMED, sums, strict=False):
                own[place] += int(value)
            growth = 0 if whole else int(sums[SUMS.index("growth")])
            for place, is_in in zip(_WINDOWS, windows, strict=True):
                own[place] += growth if is_in else 0

    def move(self, moved: Iterable[tuple[str, str]]) -> None:
        """Rename directories, all at the same time: first those deepest in the old tree are taken out."""
        pairs = sorted(moved, key=lambda pair: pair[0].count("/"), reverse=True)
        taken = [(new, self._take(old)) for old, new in pairs]
        for new, directory in sorted(taken, key=lambda pair: pair[0].count("/")):
            if directory is not None:
                _merge(self._at(new), directory)

    def total_up(self) -> None:
        """Work out what each directory has with all below it."""
        order = [directory for _, directory in self.walk(by_name=False)]
        for directory in reversed(order):
            parts = [directory.own, *(below.total for below in directory.below.values())]
            directory.total = [sum(values) for values in zip(*parts, strict=True)]

    def walk(
        self, *, by_name: bool = True, into: "Callable[[Directory], bool]" = lambda _: True
    ) -> Iterator[tuple[str, Directory]]:
        """Each directory with its path, those above first; `into` says which to look into."""
        stack = [("", self.root)]
        while stack:
            path, directory = stack.pop()
            yield path, directory
            if into(directory):
                below = sorted(directory.below.items(), reverse=True) if by_name else directory.below.items()
                stack += [(f"{path}/{name}" if path else name, child) for name, child in below]

    def _at(self, path: str) -> Directory:
        directory = self.root
        for name in path.split("/") if path else ():
            directory = directory.below.setdefault(name, Directory())
        return directory

    def _take(self, path: str) -> Directory | None:
        *above, name = path.split("/")
        directory = self.root
        for part in above:
            if part not in directory.below:
                return None
            directory = directory.below[part]
        return directory.below.pop(name, None)


def _merge(into: Directory, other: Directory) -> None:
    """Add what is known of `other` to a directory that may have had its name before."""
    work = [(into, other)]
    while work:
        into, other = work.pop()
        into.own = [a + b for a, b in zip(into.own, other.own, strict=True)]
        for name, child in other.below.items():
            if name in into.below:
                work.append((into.below[name], child))
            else:
                into.below[name] = child
