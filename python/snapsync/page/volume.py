"""The part of the page that is about one volume."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from snapsync import render
from snapsync.page import charts, markup, unusual
from snapsync.page.figures import SHARE
from snapsync.page.tables import (
    directories_table,
    large_table,
    rounds_table,
    snapshots_table,
    standbys_table,
    unusual_table,
)
from snapsync.page.timeline import Timeline, timeline
from snapsync.reports.pages import VolumeFigures

_METRICS = (("data_bytes", "Bytes changed"), ("changes", "Entries changed"), ("bytes", "Size now"))


def volume(number: int, figures: VolumeFigures) -> str:
    """Everything about one volume, from its name to its snapshots."""
    bars = timeline(figures.rounds)
    held = {"title": charts.plain(figures.title), "timeline": charts.of_timeline(bars)}
    shown = markup.data(held | {"map": charts.of_map(figures.directories)})
    parts = (
        _head(figures),
        _problems(figures),
        _tiles(figures),
        _timeline(number, bars),
        _unusual(number, figures),
        _standbys(number, figures),
        _map(number, figures),
        _growing(number, figures),
        _large(number, figures),
        _snapshots(number, figures),
    )
    return (
        f'<article class="volume" id="volume-{number}" aria-labelledby="name-{number}">\n'
        f"{''.join(parts).replace('name-of-volume', f'name-{number}')}"
        f'<script type="application/json" class="figures">{shown}</script>\n</article>\n'
    )


def _head(figures: VolumeFigures) -> str:
    of = figures.volume
    role = "log" if of.is_log else of.role
    words = [markup.path(of.path)] if figures.title != of.path else []
    words += [] if of.is_log else [markup.text(f"{of.filesystem}, epoch {of.epoch}")]
    rounds = figures.rounds
    if rounds:
        words.append(f"{markup.moment(rounds[0].time)} to {markup.moment(rounds[-1].time)}")
    return (
        '<header class="head"><p class="over">snapsync report</p>\n'
        f'<div class="name"><h2 id="name-of-volume">{markup.text(figures.title)}</h2>'
        f"{markup.chip('plain', role)}</div>\n"
        f'<p class="soft">{" &middot; ".join(words)}</p></header>\n'
    )


def _problems(figures: VolumeFigures) -> str:
    told = [*figures.problems, *(f"passed over: {sentence}" for sentence in figures.passed_over)]
    if not told:
        return ""
    lines = "".join(f"<li>{markup.text(sentence)}</li>" for sentence in told)
    lead = "What these files know is missing below." if figures.passed_over else ""
    return f'<div class="banner" role="note"><strong>Look at this.</strong> {lead}<ul>{lines}</ul></div>\n'


# --- totals ---------------------------------------------------------------------------------------


def _tiles(figures: VolumeFigures) -> str:
    tiles = "".join(
        f'<div class="tile{" alert" if alert else ""}"><dt>{label}</dt><dd class="big">{big}</dd>'
        f'<dd class="soft">{small}</dd></div>\n'
        for label, big, small, alert in _totals(figures)
    )
    return f'<dl class="tiles">\n{tiles}</dl>\n'


def _totals(figures: VolumeFigures) -> Iterator[tuple[str, str, str, bool]]:
    entries = "" if figures.entries is None else render.entries(figures.entries)
    yield "Holds now", "not counted" if figures.bytes is None else markup.size(figures.bytes), entries, False
    rounds = figures.rounds
    if rounds:
        week = [one for one in rounds if rounds[-1].time - one.time < timedelta(days=7) and not one.whole]
        moved = sum(one.data_bytes for one in week)
        counted = sum(one.created + one.changed + one.renamed + one.deleted for one in week)
        yield (
            "Changed in 7 days",
            markup.size(moved),
            f"{render.entries(counted)} in {len(week):,} rounds",
            False,
        )
    line = [snap for snap in figures.snapshots if not snap.aside]
    newest = (_fitting(line[-1].name), markup.moment(line[-1].created)) if line else ("none", "")
    yield "Newest snapshot", *newest, False
    yield "Snapshots", f"{len(figures.snapshots):,}", f"{len(rounds):,} rounds on record", False
    if figures.lags:
        behind = [lag for lag in figures.lags if lag.problem or lag.seconds is None or lag.snapshots]
        oldest = max((lag.seconds or 0 for lag in figures.lags), default=0)
        state = f"{len(behind):,} behind" if behind else "up to date"
        age = f"oldest state {markup.age(oldest)}"
        yield "Standbys", f"{len(figures.lags):,}", f"{state}, {age}", bool(behind)
    odd = [one for one in rounds if one.unusual]
    told = f"newest: {markup.text(odd[-1].name)}" if odd else "none far above the rest"
    yield "Unusual rounds", f"{len(odd):,}", told, bool(odd)


def _fitting(name: str) -> str:
    """A name in the size that a tile has room for."""
    return markup.text(name) if len(name) < 11 else f'<span class="tight">{markup.text(name)}</span>'


# --- over time ------------------------------------------------------------------------------------


def _timeline(number: int, bars: Timeline) -> str:
    anchor = f"rounds-{number}"
    if not bars.bars:
        lead = "Nothing has changed yet: there is one snapshot, or none."
        return markup.section("What each round changed", lead, "", anchor)
    lead = f"Each bar is a {bars.unit}: entries above, the data that they brought below."
    if any(bar.unusual for bar in bars.bars):
        lead += " A red mark stands over those that are unusual."
    rows = rounds_table(bars)
    chart = _chart(
        "rounds", f"Entries and bytes changed in each {bars.unit}; the table below has the figures"
    )
    return markup.section(
        "What each round changed", lead, chart + markup.details("The figures as a table", rows), anchor
    )


def _chart(kind: str, label: str) -> str:
    wait = '<p class="wait">The chart is drawn by a script; the table below has its figures.</p>'
    return f'<div class="chart {kind}" role="img" aria-label="{markup.text(label)}">{wait}</div>\n'


def _unusual(number: int, figures: VolumeFigures) -> str:
    odd = [one for one in figures.rounds if one.unusual]
    rule = (
        f"A round is marked if its changes, deletions or bytes lie more than {unusual.TIMES} deviations "
        f"above the median of the {unusual.WINDOW} rounds before it. The deviation is 1.4826 times the "
        "median distance from that median, and at least a tenth of the median, so a few odd rounds do not "
        "move the rule. It must also be half as large again as nine in ten of those rounds, so that a large "
        f"round every few days is usual. It takes {unusual.NEEDED} rounds before it to judge one, and "
        f"at least {unusual.LEAST['changes']} changes, {unusual.LEAST['deletions']} deletions or "
        f"{render.size(unusual.LEAST['bytes'])} to be marked."
    )
    if not odd:
        return ""
    table = markup.short_table(unusual_table, odd[::-1])
    content = table + markup.details("What counts as unusual", f'<p class="lead">{rule}</p>')
    return markup.section("Unusual rounds", "", content, f"unusual-{number}")


# --- where ----------------------------------------------------------------------------------------


def _map(number: int, figures: VolumeFigures) -> str:
    if not any(figure.changes or figure.bytes for figure in figures.directories):
        return ""
    pressed = _METRICS[0][0] if any(figure.data_bytes for figure in figures.directories) else _METRICS[2][0]
    buttons = "".join(
        f'<button type="button" data-metric="{name}" '
        f'aria-pressed="{str(name == pressed).lower()}">{label}</button>'
        for name, label in _METRICS
    )
    keys = (
        ("change", "calm", "created and changed"),
        ("change", "half", "half deleted"),
        ("change", "away", "mostly deleted"),
        ("bytes", "still", "as it was 30 days ago"),
        ("bytes", "grown", "new in 30 days"),
    )
    key = "".join(
        f'<span class="key" data-of="{of}"{" hidden" if of == "bytes" else ""}>'
        f'<i style="background:var(--{colour})"></i>{words}</span>'
        for of, colour, words in keys
    )
    switch = f'<div class="switch" role="group" aria-label="Show by">{buttons}</div>'
    tools = f'<div class="tools">{switch}{key}</div>\n'
    lead = (
        "Each field is a directory with all below it. A click goes into it, and the bar above the fields "
        "back out. What is not in a field of its own lies in small directories, or in the directory itself."
    )
    chart = _chart("map", "Directories by what changed in them; the table below has the figures")
    best = sorted(figures.directories, key=lambda one: (-one.data_bytes, -one.changes, one.path))[:60]
    rows = directories_table("Directories with most changes", best)
    content = tools + chart + markup.details(f"The first {len(best)} directories as a table", rows)
    return markup.section("Where it changed", lead, content, f"map-{number}")


def _growing(number: int, figures: VolumeFigures) -> str:
    lead = (
        "By growth in the 30 days before the newest snapshot. Where one directory in it grew by "
        f"{SHARE:.0%} as much, that one stands here instead. What was only moved is no growth."
    )
    if not figures.growing:
        return markup.section(
            "Fastest growing directories", "No directory grew in 30 days.", "", f"grow-{number}"
        )
    headings = ("directory", ">30 days", "~>7 days", "~>all rounds", ">holds now")
    most = max(figure.growth_30_days for figure in figures.growing)
    rows = (
        (
            markup.path(figure.path),
            markup.bar(figure.growth_30_days / most, markup.signed(figure.growth_30_days)),
            markup.signed(figure.growth_7_days),
            markup.signed(figure.growth),
            markup.size(max(0, figure.bytes)),
        )
        for figure in figures.growing
    )
    table = markup.table("Fastest growing directories", headings, rows)
    return markup.section("Fastest growing directories", lead, table, f"grow-{number}")


def _large(number: int, figures: VolumeFigures) -> str:
    largest = markup.section(
        "Largest changes",
        "Files that brought most data in one round." if figures.largest else "No round brought any data.",
        markup.short_table(partial(large_table, "Largest changes"), figures.largest),
        f"largest-{number}",
    )
    gone = markup.section(
        "Largest deletions",
        "The largest files that went." if figures.gone else "No round deleted a file.",
        markup.short_table(partial(large_table, "Largest deletions"), figures.gone),
        f"gone-{number}",
    )
    return f'<div class="two">{largest}<div class="gone">{gone}</div></div>\n'


def _snapshots(number: int, figures: VolumeFigures) -> str:
    lead = (
        "\u201cFrees\u201d is what would be free if that snapshot went, and no other. "
        "It is not known of Btrfs subvolumes, which share with the tree."
    )
    if figures.volume.is_log:
        lead = "What can be restored from the log."
    return markup.section("Snapshots", lead, snapshots_table(figures), f"snapshots-{number}")


def _standbys(number: int, figures: VolumeFigures) -> str:
    if not figures.lags and not figures.standbys:
        return ""
    lead = (
        "A standby is as old as the newest snapshot that it holds. \u201cProof\u201d: since when everything "
        "on both sides was read again and compared."
    )
    return markup.section("Standbys", lead, standbys_table(figures), f"standbys-{number}")
