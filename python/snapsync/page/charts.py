"""The data of the charts, as the script of the page takes them."""

from collections.abc import Sequence
from typing import Any

from snapsync import render
from snapsync.page.timeline import Timeline
from snapsync.reports.pages import DirectoryFigure

_METRICS = ("data_bytes", "changes", "bytes", "deletions")


def plain(words: str) -> str:
    """A text for the plotting library, which takes tags and entities for its own."""
    return render.name(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def of_timeline(timeline: Timeline) -> dict[str, Any]:
    """The columns of the bars."""
    bars = timeline.bars
    columns = list(zip(*(bar.counts for bar in bars), strict=True)) or [()] * 5
    return {
        "unit": timeline.unit,
        "labels": [plain(bar.label) for bar in bars],
        "times": [f"{bar.time:%Y-%m-%d %H:%M}" for bar in bars],
        "counts": columns[:4],
        "bytes": columns[4],
        "unusual": [", ".join(bar.unusual) for bar in bars],
    }


def of_map(directories: Sequence[DirectoryFigure]) -> dict[str, Any]:
    """The tree of directories with a value for each way to look at it.

    A directory is at least as large as all that are shown in it: where hard links lie in several directories
    sums may differ by them, and the library draws nothing then.
    """
    values = {name: [max(0, getattr(figure, name)) for figure in directories] for name in _METRICS}
    inside = {name: [0] * len(directories) for name in _METRICS}
    for place in reversed(range(len(directories))):
        above = directories[place].above
        for name in _METRICS:
            values[name][place] = max(values[name][place], inside[name][place])
            if above is not None:
                inside[name][above] += values[name][place]
    return {
        "names": [plain(figure.path.rpartition("/")[2]) for figure in directories],
        "paths": [plain(figure.path) for figure in directories],
        "above": [figure.above for figure in directories],
        "growth_30_days": [figure.growth_30_days for figure in directories],
        **values,
    }
