"""How far standbys are behind, in the words of a monitoring plugin and for people."""

from collections.abc import Iterable, Sequence
from enum import IntEnum

from snapsync import render
from snapsync.reports.values import Lag


class Verdict(IntEnum):
    """The exit codes of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_BY_WEIGHT = (Verdict.CRITICAL, Verdict.UNKNOWN, Verdict.WARNING, Verdict.OK)


def judge(lag: Lag, most: int) -> Verdict:
    """Critical is a lag that is too long, or a target that is no standby; else a problem is a warning."""
    if not lag.is_standby:
        return Verdict.CRITICAL
    if lag.seconds is None:
        return Verdict.UNKNOWN
    if lag.seconds > most:
        return Verdict.CRITICAL
    return Verdict.WARNING if lag.problem else Verdict.OK


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most urgent of several verdicts; unknown if there is none."""
    return min(verdicts, key=_BY_WEIGHT.index, default=Verdict.UNKNOWN)


def judge_all(lags: Sequence[Lag], most: int, gone: Sequence[str] = ()) -> Verdict:
    """The verdict of all. Directories that are gone are a warning at least, unknown where all are."""
    missing = [Verdict.WARNING] if gone and lags else []
    return worst([*(judge(lag, most) for lag in lags), *missing])


def plugin_line(lags: Sequence[Lag], most: int, gone: Sequence[str] = ()) -> str:
    """The first line of a monitoring plugin: the verdict, the oldest standby, and the lags as numbers.

    `gone` says which directories of wildcards are not there any more.
    """
    verdict = judge_all(lags, most, gone)
    bad = [lag for lag in lags if judge(lag, most) is verdict is not Verdict.OK]
    losing = [lag for lag in lags if lag.lost and lag not in bad]
    shown = bad or losing or ([] if gone else _oldest(lags))
    told = [*(f"{render.name(lag.name)}: {_words(lag)}" for lag in shown), *gone]
    numbers = [f"{_label(lag.name)}={lag.seconds:.0f}s;;{most}" for lag in lags if lag.seconds is not None]
    line = plugin_words(verdict, "; ".join(told) or "no standby is known")
    return f"{line} | {' '.join(numbers)}" if numbers else line


def plugin_words(verdict: Verdict, told: str) -> str:
    """One line of output, without the `|` that would begin its numbers."""
    return f"SNAPSYNC {verdict.name} - {render.name(told)}".replace("|", "/")


def _oldest(lags: Sequence[Lag]) -> list[Lag]:
    return sorted(lags, key=lambda lag: lag.seconds or 0, reverse=True)[:1]


def _label(name: str) -> str:
    return "'" + render.name(name).replace("'", "_").replace("=", "_").replace("|", "_") + "'"


def _words(lag: Lag) -> str:
    lost = [f"with losses in {render.entries(lag.lost)}"] if lag.lost else []
    parts = [behind(lag), *lost, *([lag.problem] if lag.problem else [])]
    return render.name(", ".join(parts))


def behind(lag: Lag) -> str:
    """A lag in words: 4 min 3 s old, 1 snapshot behind."""
    if not lag.is_standby:
        return "not replicated"
    age = "age unknown" if lag.seconds is None else f"{render.seconds(max(0.0, lag.seconds))} old"
    if lag.snapshots is None:
        return age
    return f"{age}, {render.count(lag.snapshots, 'snapshot') + ' behind' if lag.snapshots else 'up to date'}"
