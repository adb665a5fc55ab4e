"""The figures of `snapsync report`, held against what really happened; and where the page goes."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import manifests
import pytest
import servers
from configured import Jobs
from lives import ROOT, Life
from machine import Pair, Place, assert_told, done, run, store
from worlds import fill

from snapsync.page import figures, markup, unusual
from snapsync.reports.pages import RoundFigure, VolumeFigures

START = datetime(2026, 10, 1, tzinfo=UTC)


# --- against a model --------------------------------------------------------------------------------


def live(folder: Path, seed: int, rounds: int = 30) -> Life:
    """A life of random changes: files, and directories that are made, renamed into each other and removed."""
    chance, life, made = random.Random(seed), Life(folder, START), 0

    def name() -> bytes:
        nonlocal made
        made += 1
        odd = chance.choice([b"", b"", b"\xff", "ü".encode(), b"\n", b" <b>&"])
        return b"%d" % made + odd

    def directories() -> list[int]:
        return [ROOT, *(n for n, node in life.nodes.items() if node.kind == "directory")]

    def files() -> list[int]:
        return [n for n, node in life.nodes.items() if node.kind == "file"]

    def is_below(number: int, other: int) -> bool:
        while number not in (ROOT, other):
            number = life.nodes[number].parent
        return number == other

    for _ in range(12):
        life.add(chance.choice(directories()), name())
    for _ in range(100):
        life.add(chance.choice(directories()), name(), chance.randrange(100_000))
    life.round(timedelta())
    for _ in range(rounds):
        for _ in range(chance.randrange(1, 12)):
            life.add(chance.choice(directories()), name(), chance.randrange(50_000))
        for number in chance.sample(files(), 5):
            life.write(number, chance.randrange(90_000), chance.randrange(1, 90_000))
        for number in chance.sample(files(), 3):
            life.rename(number, chance.choice(directories()), name())
        for number in chance.sample(files(), chance.randrange(4)):
            life.remove(number)
        life.add(chance.choice(directories()), name())
        for _ in range(chance.randrange(3)):
            moving, to = chance.choice(directories()[1:]), chance.choice(directories())
            if not is_below(to, moving):
                life.rename(moving, to, name())
        if chance.random() < 0.3 and len(directories()) > 8:
            life.remove(chance.choice(directories()[1:]))
        life.round(timedelta(hours=chance.randrange(1, 72)))
    return life


def of(life: Life) -> VolumeFigures:
    listed = servers.listed(life)
    # What is added up, and not what the list has counted.
    bare = listed.__class__(listed.volume, (), listed.holds)
    return figures.of_volume("x", servers.status(life), bare, map(str, life.files))


def shown(path: bytes) -> str:
    from snapsync import render

    return render.name(path.decode("utf-8", "replace")) or "."


@pytest.mark.parametrize("seed", range(4))
def test_directories_have_what_really_happened_in_them_across_renames(tmp_path: Path, seed: int) -> None:
    life = live(tmp_path, seed)
    found = {one.path: one for one in of(life).directories}
    held, ever = life.held(), life.happened()
    week, month = (life.happened(life.now - timedelta(days=days)) for days in (7, 30))
    none = dict.fromkeys(("growth", "changes", "deletions", "data"), 0)
    for path, (bytes_, entries) in held.items():
        if not bytes_ and not ever.get(path, none)["changes"]:
            continue
        one, sums = found[shown(path)], ever.get(path, none)
        assert (one.bytes, one.entries) == (bytes_, entries), path
        told = (one.growth, one.changes, one.deletions, one.data_bytes)
        assert told == (sums["growth"], sums["changes"], sums["deletions"], sums["data"]), path
        growths = (week.get(path, none)["growth"], month.get(path, none)["growth"])
        assert (one.growth_7_days, one.growth_30_days) == growths, path
    for path, sums in ever.items():
        assert found[shown(path)].changes == sums["changes"], path


@pytest.mark.parametrize("seed", range(4))
def test_totals_rounds_and_largest_changes_are_those_of_the_model(tmp_path: Path, seed: int) -> None:
    life = live(tmp_path, seed)
    told = of(life)
    assert (told.bytes, told.entries) == life.held()[b""]
    for one, count in zip(told.rounds, life.counts, strict=True):
        counts = (one.created, one.changed, one.renamed, one.deleted, one.data_bytes)
        assert counts == tuple(count[name] for name in ("created", "changed", "renamed", "deleted", "data"))
    assert [one.whole for one in told.rounds] == [True] + [False] * 30
    brought = sorted((event.data for event in life.events if event.data), reverse=True)
    gone = sorted((-event.growth for event in life.events if event.deleted and event.growth), reverse=True)
    assert [one.bytes for one in told.largest] == brought[:20]
    assert [one.bytes for one in told.gone] == gone[:20]


@pytest.mark.parametrize("seed", range(4))
def test_the_directories_that_grow_are_the_deepest_that_account_for_it(tmp_path: Path, seed: int) -> None:
    life = live(tmp_path, seed)
    month = {path: sums["growth"] for path, sums in life.happened(life.now - timedelta(days=30)).items()}

    def stands_for_another(path: bytes) -> bool:
        below = [other for other in month if other and other.rpartition(b"/")[0] == path and other != path]
        return any(month[other] >= 0.75 * month[path] for other in below)

    grown = [path for path, growth in month.items() if path and growth > 0]
    expected = [shown(path) for path in grown if not stands_for_another(path)]
    expected.sort(key=lambda path: next(-month[key] for key in month if shown(key) == path))
    assert [one.path for one in of(life).growing] == expected[:20]


def test_a_directory_that_was_moved_is_no_growth_where_it_came_to(tmp_path: Path) -> None:
    life = Life(tmp_path, START)
    old, new = life.add(ROOT, b"old"), life.add(ROOT, b"new")
    tree = life.add(old, b"tree")
    life.add(tree, b"file", 1000)
    life.round(timedelta())
    life.rename(tree, new, b"moved")
    life.round(timedelta(hours=1))
    found = {one.path: one for one in of(life).directories}
    assert (found["new/moved"].bytes, found["new/moved"].growth) == (1000, 0)
    assert (found["new"].bytes, found["new"].growth) == (1000, 0)
    assert "old/tree" not in found


def test_without_the_first_manifest_nobody_says_what_is_held(tmp_path: Path) -> None:
    life = live(tmp_path, 1)
    listed = servers.listed(life).__class__(servers.info(), (), ())
    told = figures.of_volume("x", servers.status(life), listed, map(str, life.files[3:]))
    assert (told.bytes, told.entries) == (None, None)
    assert not any(one.whole for one in told.rounds)


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "text", "metadata", "time"])
def test_a_damaged_manifest_is_named_and_passed_over_whole(tmp_path: Path, harm: str) -> None:
    life = live(tmp_path, 2)
    victim = life.files[7]
    content = victim.read_bytes()
    half = len(content) // 2
    harmed = {
        "cut": content[:half],
        "flipped": content[:half] + b"\xff" * 64 + content[half + 64 :],
        "empty": b"",
        "text": b"ARROW1 and nothing else",
        "time": content.replace(b"+00:00", b"      "),
        "metadata": content.replace(b"snapsync.sequence", b"snapsync.sequencf"),
    }
    victim.write_bytes(harmed[harm])
    told: list[str] = []
    made = figures.of_volume(
        "x", servers.status(life), servers.listed(life), map(str, life.files), told=told.append
    )
    (sentence,) = told
    assert str(victim) in sentence
    assert made.passed_over == (sentence,)
    assert [one.snapshot for one in made.rounds] == [f"id-{n}" for n in range(31) if n != 7]


# --- what is unusual ---------------------------------------------------------------------------------


def rounds(*values: int, what: str = "deleted") -> list[RoundFigure]:
    usual = {"created": 0, "changed": 0, "renamed": 0, "deleted": 0, "data_bytes": 0}
    return [
        RoundFigure(f"id-{n}", f"{n}", n, START, **usual | {what: value}) for n, value in enumerate(values)
    ]


MARKS: dict[str, tuple[list[RoundFigure], set[int]]] = {
    "far above": (rounds(*[10, 12, 9, 11] * 3, 500, 10), {12}),
    "of a quiet volume": (rounds(*[0] * 10, 100), {10}),
    "little in a quiet volume": (rounds(*[0] * 10, 15), set()),
    "within the usual": (rounds(*[10, 40, 90, 20] * 3, 100), set()),
    "too early to say": (rounds(*[10] * 7, 5000), set()),
    "twice in a row": (rounds(*[10, 12] * 6, 500, 500), {12, 13}),
    "large every fifth time": (rounds(*[10, 10, 10, 10, 500] * 6), set()),
    "changes": (rounds(*[100, 120] * 6, 5000, what="created"), {12}),
    "bytes": (rounds(*[1 << 20] * 12, 1 << 30, what="data_bytes"), {12}),
}


@pytest.mark.parametrize("name", MARKS)
def test_a_round_is_unusual_if_it_is_far_above_those_before_it(name: str) -> None:
    given, odd = MARKS[name]
    assert {place for place, mark in enumerate(unusual.marks(given)) if mark} == odd


def test_odd_rounds_before_it_do_not_hide_a_round() -> None:
    """A mean would: it moves with each of them."""
    given = rounds(*[10, 12, 9] * 9, 9000, 9000, 3000)
    assert [bool(mark) for mark in unusual.marks(given)][-3:] == [True, True, True]


# --- the verb ----------------------------------------------------------------------------------------


@pytest.fixture
def synced(place: Place) -> Pair:
    pair = Pair.make(place, ("btrfs", "xfs"))
    for name in ("a/one", "a/two", "b/three"):
        (pair.source / name).parent.mkdir(exist_ok=True)
        fill(pair.source / name, 0, 10_000, 1)
    pair.sync("--name", "first")
    (pair.source / "a").rename(pair.source / "c")
    fill(pair.source / "c/one", 0, 50_000, 2)
    (pair.source / "b/three").unlink()
    pair.sync("--name", "second")
    return pair


@pytest.mark.parametrize("side", ["source", "target"])
def test_both_sides_tell_what_rounds_did(synced: Pair, tmp_path: Path, side: str) -> None:
    volume, page = getattr(synced, side), tmp_path / "page.html"
    report = done("report", volume, "-o", page)
    assert page.read_text().startswith("<!doctype html>")
    assert report["output"] == str(page)
    (found,) = report["volumes"]
    first, second = found["rounds"]
    assert (first["name"], first["whole"], second["whole"]) == ("first", True, False)
    assert (second["renamed"], second["deleted"], second["data_bytes"]) == (1, 1, 50_000)
    held = {one["path"]: one for one in found["directories"]}
    assert (held["."]["bytes"], held["c"]["bytes"], held["c"]["growth"]) == (60_000, 60_000, 40_000)
    assert [(one["path"], one["bytes"]) for one in found["largest"]] == [("c/one", 50_000)]
    assert [(one["path"], one["bytes"]) for one in found["gone"]] == [("b/three", 10_000)]
    assert [snap["name"] for snap in found["snapshots"]] == ["first", "second"]
    assert not found["passed_over"]


def test_a_damaged_kept_manifest_is_on_the_page_and_on_stderr(synced: Pair, tmp_path: Path) -> None:
    # Of a snapshot that is gone: the others can be made again.
    fill(synced.source / "more", 0, 100, 3)
    synced.sync("--name", "third")
    for volume in (synced.source, synced.target):
        done("prune", volume, "--keep-last", "1")
    volume, page = synced.target, tmp_path / "page.html"
    kept = {json.loads(run("report", volume, "--json").out)["volumes"][0]["rounds"][1]["snapshot"]: 1}
    (victim,) = (file for file in (store(volume) / "history").iterdir() if file.name[:36] in kept)
    victim.write_bytes(victim.read_bytes()[:-100])
    ran = run("report", volume, "-o", page)
    assert ran.code == 0
    assert victim.name in ran.err
    assert victim.name in page.read_text().replace("<wbr>", "")
    assert "passed over" in page.read_text()


def test_a_page_has_a_section_for_each_job_and_names_what_cannot_be_looked_at(
    synced: Pair, place: Place, tmp_path: Path
) -> None:
    jobs = Jobs(tmp_path)
    jobs.add("web", synced.source, synced.target)
    jobs.add("lost", place.absent("xfs"), place.absent("xfs"))
    jobs.add("again", synced.source, place.absent("xfs"))
    page = tmp_path / "page.html"
    ran = run("report", "--config", jobs.file, "-o", page, "--json", env=jobs.env)
    assert ran.code == 0, ran
    assert [one["title"] for one in ran.json["volumes"]] == ["web", "again"]
    assert any(problem.startswith("lost: ") for problem in ran.json["problems"])
    assert "lost" in ran.err
    assert page.read_text().count("<article") == 2


def test_without_the_library_it_says_how_to_install_it(synced: Pair, tmp_path: Path) -> None:
    (tmp_path / "plotly").mkdir()
    (tmp_path / "plotly/__init__.py").write_text("raise ImportError('no')")
    page = tmp_path / "page.html"
    ran = run("report", synced.source, "-o", page, env={"PYTHONPATH": tmp_path})
    assert_told(ran, "pip install 'snapsync[report]'", codes=(2,))
    assert not page.exists()
    figures_alone = run("report", synced.source, "--json", env={"PYTHONPATH": tmp_path})
    assert figures_alone.code == 0
    assert figures_alone.json["output"] is None


def test_the_page_takes_the_place_of_a_file_all_at_once(synced: Pair, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    with page.open() as reader:
        done("report", synced.source, "-o", page)
        assert reader.read() == "old", "it was written to"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_page_can_go_through_a_pipe(synced: Pair) -> None:
    ran = run("report", synced.source, "--quiet", "-o", "/dev/stdout")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("</html>\n")


WRONG: dict[str, Callable[[Path, Path], Path]] = {
    "in the store": lambda volume, _: volume / ".snapsync/page.html",
    "through a link to it": lambda volume, folder: link(folder / "way", volume / ".snapsync") / "page.html",
    "a directory": lambda _, folder: folder,
    "in none": lambda _, folder: folder / "not/there.html",
}


def link(path: Path, to: Path) -> Path:
    path.symlink_to(to)
    return path


@pytest.mark.parametrize("where", WRONG)
def test_no_page_is_written_where_it_may_not_be(synced: Pair, tmp_path: Path, where: str) -> None:
    page = WRONG[where](synced.source, tmp_path)
    assert_told(run("report", synced.source, "-o", page), "cannot write the page")
    assert not (synced.source / ".snapsync/page.html").exists()


def test_it_asks_for_a_file_or_for_json(synced: Pair) -> None:
    assert_told(run("report", synced.source), "-o FILE.html", codes=(2,))


def test_a_row_of_a_manifest_is_as_the_product_writes_it(synced: Pair, tmp_path: Path) -> None:
    """What tests make by hand has the types of the real columns."""
    import pyarrow as pa

    done("diff", f"{synced.source}@first", f"{synced.source}@second", "-o", tmp_path / "real.arrow")
    real = {field.name: field.type for field in pa.ipc.open_file(tmp_path / "real.arrow").schema}
    assert {field.name: field.type for field in manifests.SCHEMA}.items() <= real.items()


def test_data_in_the_page_cannot_end_its_element() -> None:
    value = {"<!--<script>": ["</script>", "]]>&", "\u2028"]}
    text = markup.data(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
