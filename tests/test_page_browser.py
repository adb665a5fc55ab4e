"""The page of `snapsync report` in a real browser: it draws, tells the right figures, and runs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
from browser import Browser
from lives import ROOT, Life
from machine import Place, done
from servers import Server

from snapsync import render
from snapsync.page import figures, library, page
from snapsync.reports.pages import PageReport, VolumeFigures

NOW = datetime(2026, 11, 27, 7, tzinfo=UTC)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return Server(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def usual(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a usual volume."""
    return written(tmp_path_factory.mktemp("page") / "page.html", server.figures())


def written(file: Path, *volumes: VolumeFigures) -> Path:
    file.write_text(page.page(PageReport(str(file), volumes, (), NOW, 0.1), library.plotly()))
    return file


def of(life: Life) -> VolumeFigures:
    return figures.of_volume("/srv/data", servers.status(life), servers.listed(life), map(str, life.files))


def opened(browser: Browser, file: Path, **how: Any) -> float:
    """Open a page, which may complain about nothing and ask for nothing but itself; the seconds it took."""
    browser.look(**how)
    took = browser.open(file)
    assert browser.value("document.documentElement.dataset.charts") == "drawn"
    assert browser.complaints == []
    assert browser.requests == [file.as_uri()]
    return took


def cells(browser: Browser, heading: str) -> list[list[str]]:
    """The rows of the tables in the part with a heading, as a reader has them, also folded ones."""
    script = """(heading) => {
        const part = [...document.querySelectorAll("section")].find(
            (one) => one.querySelector("h3").textContent === heading);
        return [...part.querySelectorAll("tbody tr")].map(
            (row) => [...row.cells].map((cell) => cell.textContent.replaceAll("\\u00a0", " ")));
    }"""
    rows: list[list[str]] = browser.value(f"({script})({json.dumps(heading)})")
    return rows


# --- it draws what is true ----------------------------------------------------------------------------


def test_the_charts_draw_the_figures(browser: Browser, usual: Path, server: Server) -> None:
    opened(browser, usual)
    told, life = server.figures(), server.life
    bars = browser.value("document.querySelector('.rounds').data.map((trace) => [trace.name, [...trace.y]])")
    drawn = dict(bars)
    for name in ("created", "changed", "renamed", "deleted"):
        assert drawn[name] == [count[name] for count in life.counts[1:]]
    assert drawn["bytes"] == [count["data"] for count in life.counts[1:]]
    odd = [one for one in told.rounds if one.unusual]
    assert len(drawn["unusual"]) == len(odd) > 0
    happened = life.happened()
    fields = browser.value(
        "(({ids, parents, labels, values}) => ids.map((id, at) => [id, parents[at], labels[at], values[at]]))"
        "(document.querySelector('.map').data[0])"
    )
    names = {id_: label for id_, _, label, _ in fields}
    above = {id_: parent for id_, parent, _, _ in fields}

    def path(id_: str) -> str:
        parts = []
        while above[id_]:
            parts.append(names[id_])
            id_ = above[id_]
        return "/".join(reversed(parts))

    values = {path(id_).encode(): value for id_, _, _, value in fields}
    assert values == {path: sums["data"] for path, sums in happened.items() if sums["data"]}
    assert browser.value("document.querySelectorAll('.map .slice').length") > 10


def test_the_tables_tell_the_figures(browser: Browser, usual: Path, server: Server) -> None:
    opened(browser, usual)
    life, told = server.life, server.figures()
    rounds = cells(browser, "What each round changed")
    assert len(rounds) == len(life.counts) - 1
    for row, count in zip(reversed(rounds), life.counts[1:], strict=True):
        assert row[2:6] == [f"{count[name]:,}" for name in ("created", "changed", "renamed", "deleted")]
        assert row[6] == render.size(count["data"])
    largest = [(one.path, render.size(one.bytes)) for one in told.largest]
    assert [(row[0], row[1]) for row in cells(browser, "Largest changes")] == largest
    assert [row[0] for row in cells(browser, "Fastest growing directories")] == [
        one.path for one in told.growing
    ]
    snaps = cells(browser, "Snapshots")
    assert [row[1][: len(snap.name)] for row, snap in zip(snaps, reversed(told.snapshots), strict=True)] == [
        snap.name for snap in reversed(told.snapshots)
    ]
    assert snaps[-1][-1] == "by hand: before the audit"
    near, far = cells(browser, "Standbys")
    assert near[:2] == ["/mnt/standby", "up to date"]
    assert "all since" in near[-1]
    assert far[1:3] == ["2 snapshots behind", "24 h"]
    holds = browser.value("document.querySelector('.tile .big').textContent.replaceAll('\\u00a0', ' ')")
    assert holds == render.size(life.held()[b""][0])
    assert len(cells(browser, "Unusual rounds")) == sum(bool(one.unusual) for one in told.rounds)


def test_a_click_goes_into_a_directory_and_back(browser: Browser, usual: Path) -> None:
    opened(browser, usual, height=4000)
    shown = "[...document.querySelectorAll('.map .slicetext')].map((one) => one.textContent)"
    assert any(text.startswith("var") for text in browser.value(shown))
    browser.click(".map .slicetext", "home")
    browser.until(f"!{shown}.some((text) => text.startsWith('var'))")
    # While it moves it takes no click.
    browser.until_done(
        lambda: browser.click(".map .slicetext", "/srv/data"),
        f"{shown}.some((text) => text.startsWith('var'))",
    )
    assert browser.complaints == []


def test_the_map_can_be_of_entries_and_of_sizes(browser: Browser, usual: Path, server: Server) -> None:
    opened(browser, usual)
    root = "document.querySelector('.map').data[0].values[0]"
    press = "document.querySelector('[data-metric={}]').click()"
    pressed = "[...document.querySelectorAll('.switch [aria-pressed=true]')].map((one) => one.dataset.metric)"
    for metric, value in (
        ("changes", server.life.happened()[b""]["changes"]),
        ("bytes", server.life.held()[b""][0]),
        ("data_bytes", server.life.happened()[b""]["data"]),
    ):
        browser.value(press.format(metric))
        browser.until(f"{root} === {value}")
        assert browser.value(pressed) == [metric]


# --- how it looks ---------------------------------------------------------------------------------------


def test_light_and_dark_follow_the_system(browser: Browser, usual: Path) -> None:
    """Also while the page is open: the colours of the charts too."""
    ground = "getComputedStyle(document.body).backgroundColor"
    bar = "document.querySelector('.rounds').data[0].marker.color"
    opened(browser, usual)
    light = browser.value(ground), browser.value(bar)
    browser.look(dark=True)
    browser.until(f"{bar} !== {json.dumps(light[1])}")
    dark = browser.value(ground), browser.value(bar)
    assert luminance(light[0]) > 0.8
    assert luminance(dark[0]) < 0.05
    browser.look(dark=False)
    browser.until(f"{bar} === {json.dumps(light[1])}")


def luminance(colour: str) -> float:
    """Of rgb(…), as WCAG has it."""
    parts = [int(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


TEXTS = """[...document.querySelectorAll(".page *")].filter(
    (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
        && !one.closest(".chart") && one.offsetParent
).map((one) => {
    let ground = one;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") { ground = ground.parentElement; }
    const style = getComputedStyle(one);
    return [one.className + " " + one.textContent.slice(0, 30), style.color,
        getComputedStyle(ground).backgroundColor];
})"""


@pytest.mark.parametrize("dark", [False, True])
def test_texts_have_the_contrast_that_wcag_asks_for(browser: Browser, usual: Path, dark: bool) -> None:
    opened(browser, usual, dark=dark)
    texts = browser.value(TEXTS)
    assert len(texts) > 100
    for text, colour, ground in texts:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, colour, ground)


# Tables that are cut off, but for those that are folded.
CUT = """[...document.querySelectorAll("section > .scroll")].filter(
    (one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.getAttribute("aria-label"))"""


@pytest.mark.parametrize("width", [360, 390, 768])
def test_a_phone_needs_no_scrolling_to_the_side(browser: Browser, usual: Path, width: int) -> None:
    opened(browser, usual, width=width, height=800)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.querySelector('.map').getBoundingClientRect().right") <= width
    assert browser.value(CUT) == []
    assert browser.value("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)") >= 13


def test_everything_has_a_name_for_who_cannot_see_it(browser: Browser, usual: Path) -> None:
    opened(browser, usual)
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = {"table", "image", "button", "link", "region", "article", "heading"}
    for node in tree:
        role = node.get("role", {}).get("value")
        # The pieces of a chart are hidden behind the name of the chart.
        if role in named and not node["ignored"]:
            assert node.get("name", {}).get("value"), node
    assert browser.value("document.documentElement.lang") == "en"
    assert browser.value("document.title")


# --- what comes from outside ----------------------------------------------------------------------------

HOSTILE = [
    b"<",
    b"script><script>window.struck = 1<",
    b"<img src=x onerror='window.struck = 2'>",
    b'"><svg onload=window.struck=3>',
    b"'\"`&lt;&amp;${struck}%{customdata}",
    b'<a href="javascript:window.struck=4">x',
    b"<b>bold<br>",
    b"new\nline\r\ttab",
    b"\xff\xfe\x80 bytes",
    "\u202eltr \u2028\u2029 \ufeff".encode(),
    b"<!--<script>",
    b"]]>",
    "emoji \U0001f600 ü".encode(),
    b"a-name-that-has-no-end" * 9,
]


def test_names_are_text_whatever_they_hold(browser: Browser, tmp_path: Path) -> None:
    life = Life(tmp_path, NOW - timedelta(hours=3))
    life.round(timedelta())
    directories = [life.add(ROOT, name) for name in HOSTILE]
    for directory in directories:
        for number, name in enumerate(HOSTILE):
            life.add(directory, name, 1000 + number)
    life.round(timedelta(hours=1), HOSTILE[2].decode())
    file = written(tmp_path / "page.html", of(life))
    opened(browser, file)
    assert browser.value("window.struck") is None
    assert (
        browser.value("document.querySelectorAll('img, a[href^=javascript], .page svg[onload]').length") == 0
    )
    labels = browser.value("document.querySelector('.map').data[0].labels")
    escaped = [render.name(name.decode("utf-8", "replace")) for name in HOSTILE]
    plain = [label.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for label in labels[1:]]
    assert sorted(plain) == sorted(escaped)
    drawn = browser.value("[...document.querySelectorAll('.map .slicetext')].map((one) => one.textContent)")
    for name in escaped:
        assert any(text.startswith(name[:20]) for text in drawn), name
    browser.value("document.querySelector('[data-metric=bytes]').click()")
    assert browser.value("window.struck") is None
    browser.look(width=390)
    browser.until("document.documentElement.scrollWidth <= 390")
    assert browser.value(CUT) == []


def test_a_real_tree_with_hostile_names_is_only_shown(browser: Browser, place: Place, tmp_path: Path) -> None:
    volume, file = place("btrfs"), tmp_path / "page.html"
    done("snapshot", volume, "--name", "before")
    for name in HOSTILE:
        with open(os.path.join(os.fsencode(volume), name), "wb") as out:
            out.write(b"x" * 1000)
    done("snapshot", volume, "--name", "</title><script>window.struck=5<script>".replace("/", "\u2215"))
    done("report", volume, "-o", file)
    opened(browser, file)
    assert browser.value("window.struck") is None
    told = {row[0] for row in cells(browser, "Largest changes")}
    assert told == {render.name(os.fsdecode(name)) for name in HOSTILE}


def test_the_policy_lets_nothing_in_and_out(browser: Browser, usual: Path) -> None:
    """A script that is not one of the page's own does not run, and nobody can be asked."""
    opened(browser, usual)
    add = "(() => { const s = document.createElement('script'); s.textContent = 'window.struck = 6';"
    browser.value(add + " document.head.append(s); })()")
    assert browser.value("window.struck") is None
    forbidden = browser.value(
        """new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
            fetch("http://127.0.0.1:9/").catch(() => setTimeout(() => done("nothing"), 1000));
        })"""
    )
    assert forbidden == "connect-src"
    assert any("Content Security Policy" in text for text in browser.complaints)


def test_a_browser_that_is_too_old_is_told_so_and_has_the_tables(browser: Browser, usual: Path) -> None:
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    try:
        browser.look()
        browser.open(usual)
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert browser.value("document.documentElement.dataset.charts") == "too old"
    assert "too old" in browser.value("document.querySelector('.chart').textContent")
    assert browser.complaints == []
    assert len(cells(browser, "What each round changed")) == 59


# --- how much it takes ----------------------------------------------------------------------------------


def test_100_000_changed_files_stay_small_and_quick(browser: Browser, tmp_path: Path) -> None:
    life = Life(tmp_path, NOW - timedelta(days=1))
    tops = [life.add(ROOT, b"top-%d" % number) for number in range(20)]
    directories = [life.add(tops[number % 20], b"directory-%d" % number) for number in range(4000)]
    files = [life.add(directories[n % 4000], b"some file %d.dat" % n, 1000 + n % 977) for n in range(100_000)]
    life.round(timedelta())
    for number in files:
        life.write(number, 2000, 1500)
    life.round(timedelta(hours=1))
    started = time.monotonic()
    found = of(life)
    took = time.monotonic() - started
    file = written(tmp_path / "page.html", found)
    assert found.rounds[1].data_bytes == 150_000_000
    assert file.stat().st_size < 5_000_000
    took_to_draw = opened(browser, file)
    print(f"{file.stat().st_size:,} bytes; figures in {took:.2f} s, drawn in {took_to_draw:.2f} s")
    # 3 seconds on a machine that does nothing else.
    assert took_to_draw < 20
    assert took < 30


def test_years_of_rounds_are_shown_by_days_or_weeks(browser: Browser, tmp_path: Path) -> None:
    life = Life(tmp_path, NOW - timedelta(days=100))
    file = life.add(ROOT, b"file", 10)
    life.round(timedelta())
    for number in range(600):
        life.write(file, 10, 100 + number)
        life.round(timedelta(hours=4))
    opened(browser, written(tmp_path / "page.html", of(life)))
    columns = browser.value("document.querySelector('.rounds').data.find((one) => one.name === 'bytes').y")
    assert len(columns) in (100, 101)
    assert sum(columns) == sum(100 + number for number in range(600))


def test_a_page_of_several_volumes_draws_them_all(browser: Browser, server: Server, tmp_path: Path) -> None:
    file = written(tmp_path / "page.html", server.figures("web"), server.figures("mail"))
    opened(browser, file)
    assert browser.value("document.querySelectorAll('.chart.js-plotly-plot').length") == 4
    headings = browser.value("[...document.querySelectorAll('h2')].map((one) => one.textContent)")
    assert headings == ["web", "mail"]


def test_a_volume_without_changes_has_a_page_too(browser: Browser, tmp_path: Path) -> None:
    life = Life(tmp_path, NOW)
    life.add(ROOT, b"file", 1 << 20)
    life.round(timedelta())
    opened(browser, written(tmp_path / "page.html", of(life)))
    assert "Nothing has changed yet" in browser.value("document.body.textContent")
    assert browser.value("document.querySelector('.map').data[0].values[0]") == 1 << 20


def test_the_pictures_in_the_manual_are_small(tmp_path: Path) -> None:
    """And there is the command that makes them."""
    script = Path(__file__).parents[1] / "scripts/screenshots"
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=300)
    taken = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    there = {file.name: file.stat().st_size for file in script.parents[1].glob("docs/report-*.png")}
    assert set(taken) == set(there) != set()
    assert all(0 < size < 300_000 for size in [*taken.values(), *there.values()])
