"""The rounds of a volume as bars: each a round or, where there are too many, a day or a week of them."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import groupby

from snapsync.record import Record
from snapsync.reports.pages import RoundFigure

BARS = 400
"""How many bars a chart has at most, unless there are more weeks."""

COUNTS = ("created", "changed", "renamed", "deleted", "data_bytes")


class Bar(Record):
    """Some rounds: what they are called, the time of the first, and the sums of COUNTS."""

    label: str
    time: datetime
    rounds: int
    counts: tuple[int, ...]
    unusual: tuple[str, ...]


class Timeline(Record):
    """The bars, and what each is of: round, day or week."""

    unit: str
    bars: tuple[Bar, ...]


def timeline(rounds: Sequence[RoundFigure]) -> Timeline:
    """The bars of all rounds but the one that created everything."""
    changes = [figure for figure in rounds if not figure.whole]
    ways: tuple[tuple[str, Callable[[RoundFigure], str]], ...] = (
        ("round", lambda figure: figure.snapshot),
        ("day", lambda figure: f"{figure.time:%Y-%m-%d}"),
        ("week", lambda figure: f"week of {figure.time - timedelta(days=figure.time.weekday()):%Y-%m-%d}"),
    )
    for unit, key in ways:
        bars = tuple(_bar(unit, label, list(some)) for label, some in groupby(changes, key))
        if len(bars) <= BARS or unit == "week":
            break
    return Timeline(unit, bars)


def _bar(unit: str, label: str, some: list[RoundFigure]) -> Bar:
    counts = tuple(sum(getattr(figure, name) for figure in some) for name in COUNTS)
    unusual = tuple(dict.fromkeys(what for figure in some for what in figure.unusual))
    return Bar(some[0].name if unit == "round" else label, some[0].time, len(some), counts, unusual)
