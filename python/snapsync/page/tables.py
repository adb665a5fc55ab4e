"""The tables of the page."""

from collections.abc import Sequence
from datetime import datetime

from snapsync import render
from snapsync.page import markup
from snapsync.page.timeline import Timeline
from snapsync.reports.pages import DirectoryFigure, LargeChange, RoundFigure, VolumeFigures
from snapsync.reports.values import Alone, Lag, Snapshot, Standby


def rounds_table(bars: Timeline) -> str:
    """What the bars of a timeline show, newest first."""
    headings = (bars.unit, "taken", ">created", ">changed", "~>renamed", ">deleted", ">data", "~unusual")
    rows = (
        (
            markup.label(bar.label),
            markup.moment(bar.time),
            *(f"{count:,}" for count in bar.counts[:-1]),
            markup.size(bar.counts[-1]),
            " ".join(markup.chip("warn", what) for what in bar.unusual),
        )
        for bar in reversed(bars.bars)
    )
    return markup.table("What each round changed", headings, rows)


def directories_table(caption: str, directories: Sequence[DirectoryFigure]) -> str:
    """Directories with what happened in them."""
    headings = ("directory", ">data", ">changes", "~>deletions", ">holds now")
    rows = (
        (
            markup.path(figure.path),
            markup.size(figure.data_bytes),
            f"{figure.changes:,}",
            f"{figure.deletions:,}",
            markup.size(max(0, figure.bytes)),
        )
        for figure in directories
    )
    return markup.table(caption, headings, rows)


def unusual_table(rounds: Sequence[RoundFigure]) -> str:
    """Rounds that are far above the usual, and in what."""
    counts = ("created", "changed", "renamed", "deleted")
    rows = (
        (
            markup.label(one.name) + _when(one.time),
            markup.moment(one.time),
            " ".join(markup.chip("warn", what) for what in one.unusual),
            *(f"{getattr(one, name):,}" for name in counts),
            markup.size(one.data_bytes),
        )
        for one in rounds
    )
    of_counts = (f"~>{name}" for name in counts)
    headings = ("round", "~taken", "unusual in", *of_counts, ">data")
    return markup.table("Unusual rounds", headings, rows)


def large_table(caption: str, changes: Sequence[LargeChange]) -> str:
    """Single large changes, each with a bar for its share of the largest one."""
    if not changes:
        return ""
    most = max(change.bytes for change in changes)
    rows = (
        (
            markup.path(change.path),
            markup.bar(change.bytes / most, markup.size(change.bytes)),
            f"{markup.text(change.what)} in {markup.label(change.round)}<br>"
            f'<span class="soft">{markup.moment(change.time)}</span>',
        )
        for change in changes
    )
    return markup.table(caption, ("file", ">size", "round"), rows)


def snapshots_table(figures: VolumeFigures) -> str:
    """The snapshots, newest first, with what each holds and would free."""
    alone = {one.snapshot: one for one in figures.alone}
    rows = [_snapshot(snap, alone.get(snap.id), figures) for snap in reversed(figures.snapshots)]
    headings = ("~>number", "name", "~taken", "~>entries", ">holds", ">frees", "kept for")
    return markup.table("Snapshots", headings, rows)


def _when(time: datetime) -> str:
    """The time below a name, where a phone has no room for a column of its own."""
    return f'<br class="narrow"><span class="soft narrow">{markup.moment(time)}</span>'


def _snapshot(snap: Snapshot, alone: Alone | None, figures: VolumeFigures) -> tuple[str, ...]:
    held = [render.hold(hold) for hold in figures.holds if hold.snapshot == snap.id]
    state = alone.state if alone else ""
    odd = markup.chip("warn", state or "unreadable") + " " if alone and state != "whole" else ""
    return (
        "aside" if snap.aside else f"{snap.sequence:,}",
        markup.label(snap.name) + _when(snap.created),
        markup.moment(snap.created),
        "" if snap.entries is None else f"{snap.entries:,}",
        "not counted" if snap.bytes is None else markup.size(snap.bytes),
        "not known" if alone is None or alone.bytes is None else markup.size(alone.bytes),
        odd + f'<span class="long">{markup.text("; ".join(held))}</span>',
    )


def standbys_table(figures: VolumeFigures) -> str:
    """Each standby with its lag and its last proof; of a standby's own page itself."""
    headings = ("standby", "state", "age", "~holds", "proof")
    known = {standby.path: standby for standby in figures.standbys}
    rows = [_standby(lag, known.get(lag.target or "")) for lag in figures.lags]
    told = {lag.target for lag in figures.lags}
    rows += [_standby(_lag_of(standby), standby) for standby in figures.standbys if standby.path not in told]
    return markup.table("Standbys", headings, rows)


def _lag_of(standby: Standby) -> Lag:
    return Lag(standby.path, None, standby.path, standby.lag, None, scrub=standby.scrub)


def _standby(lag: Lag, standby: Standby | None) -> tuple[str, ...]:
    scrub = lag.scrub or (standby.scrub if standby else None)
    proof = "none on record"
    if scrub is not None:
        proof = f"all since {markup.moment(scrub.all_since)}"
        proof += f"<br>{markup.chip('bad', f'{scrub.differences:,} differed')}" if scrub.differences else ""
    problem = f'<br><span class="soft">{markup.text(lag.problem)}</span>' if lag.problem else ""
    return (
        markup.path(lag.target or lag.name),
        _state(lag) + problem,
        "not known" if lag.seconds is None else markup.text(markup.age(lag.seconds)),
        markup.label(standby.name) if standby else "",
        proof,
    )


def _state(lag: Lag) -> str:
    if lag.problem:
        return markup.chip("bad", "problem")
    if lag.snapshots:
        return markup.chip("warn", f"{render.count(lag.snapshots, 'snapshot')} behind")
    if lag.snapshots is None:
        return markup.chip("plain", "not known here" if lag.source else "this volume")
    return markup.chip("good", "up to date")
