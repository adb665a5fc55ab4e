"""Which rounds are unusual: a rule that a few odd rounds do not move."""

from collections.abc import Sequence
from math import ceil
from statistics import median

from snapsync.reports.pages import RoundFigure

WINDOW = 30
"""So many rounds before a round say what is usual."""
NEEDED = 8
"""With fewer rounds before it nothing is said of a round."""
TIMES = 6
"""So many deviations above the median a round is unusual."""

# What a round must have at least: where nearly nothing ever happens, little is no news.
LEAST = {"changes": 50, "deletions": 20, "bytes": 16 << 20}


def marks(rounds: Sequence[RoundFigure]) -> list[tuple[str, ...]]:
    """For each round, oldest first, what of it is far above the usual."""
    found: list[tuple[str, ...]] = []
    for place, figure in enumerate(rounds):
        before = [other for other in rounds[max(0, place - WINDOW) : place] if not other.whole]
        is_judged = len(before) >= NEEDED and not figure.whole
        found.append(
            tuple(what for what in LEAST if _is_far_above(what, before, figure)) if is_judged else ()
        )
    return found


def _is_far_above(what: str, before: Sequence[RoundFigure], figure: RoundFigure) -> bool:
    values = [_value(what, other) for other in before]
    usual = median(values)
    deviation = 1.4826 * median([abs(value - usual) for value in values])
    # A volume whose rounds are all alike has no deviation: then a tenth of the usual takes its place.
    limit = usual + TIMES * max(deviation, usual / 10)
    # What every tenth round has is usual too, as a large round every week.
    often = 1.5 * sorted(values)[ceil(0.9 * len(values)) - 1]
    return _value(what, figure) > max(limit, often, LEAST[what] - 1)


def _value(what: str, figure: RoundFigure) -> int:
    if what == "changes":
        return figure.created + figure.changed + figure.renamed
    return figure.deleted if what == "deletions" else figure.data_bytes
