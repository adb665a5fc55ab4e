"""All figures of a volume, out of the manifests that it keeps of its rounds."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from snapsync import render
from snapsync.errors import SnapsyncError, describe
from snapsync.page import rows, unusual
from snapsync.page.kept import Round, read
from snapsync.page.tree import FIELDS, Directory, Tree
from snapsync.reports.pages import DirectoryFigure, LargeChange, RoundFigure, VolumeFigures
from snapsync.reports.snapshots import ListReport, StatusReport

DIRECTORIES = 900
"""How many directories the page shows at most as a map."""
GROWING = 20
"""How many of the directories that grew are shown."""
SHARE = 0.75
"""A directory is left out where one in it grew by this share of its growth: that one is shown instead."""

_WEEK, _MONTH = timedelta(days=7), timedelta(days=30)


@dataclass
class _Found:
    """What the manifests have told so far."""

    tree: Tree = field(default_factory=Tree)
    rounds: list[RoundFigure] = field(default_factory=list)
    largest: list[LargeChange] = field(default_factory=list)
    gone: list[LargeChange] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    newest: str | None = None
    is_whole: bool = False


def of_volume(
    title: str,
    status: StatusReport,
    listed: ListReport,
    files: Iterable[str],
    *,
    problems: Sequence[str] = (),
    damaged: Sequence[str] = (),
    told: Callable[[str], object] = lambda _: None,
) -> VolumeFigures:
    """The figures of a volume by its status, its snapshots and its kept manifests, oldest first.

    `damaged` says which others cannot be read; `told` is called with each of them, and why.
    """
    found = _Found(passed_over=[*damaged])
    opened = _opened(files, found)
    for round_ in opened:
        _take(found, round_, opened[-1].time)
    for sentence in found.passed_over:
        told(sentence)
    found.tree.total_up()
    marks = unusual.marks(found.rounds)
    bytes_, entries = _now(found, listed)
    return VolumeFigures(
        title=title,
        volume=status.volume,
        bytes=bytes_,
        entries=entries,
        rounds=tuple(_marked(figure, mark) for figure, mark in zip(found.rounds, marks, strict=True)),
        directories=_directories(found.tree),
        growing=_growing(found.tree),
        largest=tuple(found.largest),
        gone=tuple(found.gone),
        snapshots=listed.snapshots,
        alone=listed.alone,
        holds=listed.holds,
        standbys=status.standbys,
        lags=status.lags,
        problems=tuple(problems),
        passed_over=tuple(found.passed_over),
    )


def _opened(files: Iterable[str], found: _Found) -> list[Round]:
    opened = []
    for file in files:
        try:
            opened.append(read(file))
        except (SnapsyncError, OSError, ValueError, KeyError) as error:
            found.passed_over.append(_why(file, error))
    return opened


def _why(file: str, error: Exception) -> str:
    if isinstance(error, SnapsyncError | OSError):
        return describe(error).message
    return f"cannot read the manifest {file}: it is damaged: {error}"


def _take(found: _Found, round_: Round, newest: datetime) -> None:
    """Add one manifest, whole or not at all."""
    try:
        summed = rows.summed(round_.manifest)
    except SnapsyncError as error:
        found.passed_over.append(describe(error).message)
        return
    whole = not round_.base and not found.rounds
    windows = (newest - round_.time < _WEEK, newest - round_.time < _MONTH)
    found.tree.add(summed.before, windows=windows, whole=whole)
    found.tree.move(summed.moved)
    found.tree.add(summed.after, windows=windows, whole=whole)
    found.is_whole = whole or (found.is_whole and round_.base == found.newest)
    found.newest = round_.snapshot
    totals = round_.manifest.totals
    counts = (totals.created, totals.changed, totals.renamed, totals.deleted, totals.data_bytes)
    who = (round_.snapshot, render.name(round_.name), round_.sequence, round_.time)
    found.rounds.append(RoundFigure(*who, *counts, whole))
    if not whole:
        found.largest = _larger(found.largest, summed.largest, round_)
        found.gone = _larger(found.gone, summed.gone, round_, "deleted")


def _larger(
    known: list[LargeChange], more: Iterable[rows.Large], round_: Round, what: str = ""
) -> list[LargeChange]:
    name = render.name(round_.name)
    new = [
        LargeChange(
            row.path,
            what or ("created" if row.created else "changed"),
            row.bytes,
            row.size,
            name,
            round_.time,
        )
        for row in more
    ]
    return heapq.nsmallest(rows.LARGE, [*known, *new], key=lambda change: (-change.bytes, change.path))


def _now(found: _Found, listed: ListReport) -> tuple[int | None, int | None]:
    """What the newest snapshot holds: as it was counted, or as all manifests from the first one add up."""
    line = [snap for snap in listed.snapshots if not snap.aside]
    if line and line[-1].bytes is not None:
        return line[-1].bytes, line[-1].entries
    if not found.is_whole or (line and line[-1].id != found.newest):
        return None, None
    total = dict(zip(FIELDS, found.tree.root.total, strict=True))
    return total["bytes"], total["entries"]


def _marked(figure: RoundFigure, mark: tuple[str, ...]) -> RoundFigure:
    values = {name: getattr(figure, name) for name in RoundFigure.__match_args__}
    return RoundFigure(**values | {"unusual": mark})


def _figure(path: str, directory: Directory, above: int | None = None) -> DirectoryFigure:
    return DirectoryFigure(render.name(path) or ".", above, *directory.total)


def _directories(tree: Tree) -> tuple[DirectoryFigure, ...]:
    """The directories in which most happened or most lies, each with all above it, which come first."""
    chosen = {id(tree.root)}
    everything = [directory for _, directory in tree.walk(by_name=False)]
    for name in ("data_bytes", "changes", "bytes"):
        place = FIELDS.index(name)
        weighty = (directory for directory in everything if directory.total[place] > 0)
        best = heapq.nlargest(DIRECTORIES // 3, weighty, key=lambda directory: directory.total[place])
        chosen |= set(map(id, best))
    found: list[DirectoryFigure] = []
    places: dict[str, int] = {}
    # One below others weighs no more than they do; where a tie has put it before them, it is left out.
    for path, directory in tree.walk(into=lambda directory: id(directory) in chosen):
        if id(directory) in chosen:
            places[path] = len(found)
            above = places[path.rpartition("/")[0]] if path else None
            found.append(_figure(path, directory, above))
    return tuple(found)


def _growing(tree: Tree) -> tuple[DirectoryFigure, ...]:
    """The directories that grew most in the last 30 days, without those that only hold one of them."""
    place = FIELDS.index("growth_30_days")
    grown = []
    for path, directory in tree.walk(by_name=False):
        growth = directory.total[place]
        below = max((child.total[place] for child in directory.below.values()), default=0)
        if path and growth > 0 and below < SHARE * growth:
            grown.append((-growth, path, directory))
    best = heapq.nsmallest(GROWING, grown, key=lambda found: found[:2])
    return tuple(_figure(path, directory) for _, path, directory in best)
