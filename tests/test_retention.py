"""Which snapshots stay: by numbers and the calendar, because they are held, and as bases of standbys."""

from __future__ import annotations

import calendar
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import Pair, Place, Ran, assert_told, done, run, snapshots, store
from oracle import assert_same
from worlds import fill

import snapsync
from snapsync import Volume

# --- the model: a calendar of its own, by days since 1970 and lengths of months -----------------


def naive(moments: list[datetime], keep: Mapping[str, int]) -> set[int]:
    """The numbers of the snapshots that stay, of those that were taken at these moments in this order."""
    stay = {len(moments) - 1} if moments else set()
    if not keep:
        return set(range(len(moments)))
    for name, count in keep.items():
        if name == "last":
            stay |= set(range(len(moments))[-count:])
            continue
        periods = sorted({PERIODS[name](moment) for moment in moments})[-count:]
        for period in periods:
            stay.add(max(at for at, moment in enumerate(moments) if PERIODS[name](moment) == period))
    return stay


def hours(moment: datetime) -> int:
    return calendar.timegm(moment.utctimetuple()) // 3600


def days(moment: datetime) -> int:
    return hours(moment) // 24


PERIODS: dict[str, Callable[[datetime], int]] = {
    "hourly": hours,
    "daily": days,
    "weekly": lambda moment: (days(moment) + 3) // 7,  # 1 January 1970 was a Thursday
    "monthly": lambda moment: moment.year * 12 + moment.month,
    "yearly": lambda moment: moment.year,
}


# --- volumes whose snapshots were taken when a test says -----------------------------------------


def history(volume: Path, moments: list[datetime]) -> list[str]:
    """Gives a volume with one snapshot that many more, taken at those moments; their ids, oldest first."""
    home = store(volume) / "snapshots"
    (first,) = [path for path in home.iterdir() if (path / "snapshot.json").exists()]
    record = json.loads((first / "snapshot.json").read_text())
    ids = [str(uuid.uuid4()) for _ in moments]
    for at, (name, moment) in enumerate(zip(ids, moments, strict=True)):
        shutil.copytree(first, home / name, copy_function=os.link)
        (home / name / "snapshot.json").unlink()
        more = {"id": name, "name": f"s{at}", "sequence": at, "created": moment.isoformat()}
        (home / name / "snapshot.json").write_text(json.dumps(record | more))
    shutil.rmtree(first)
    return ids


@pytest.fixture
def volume(place: Place) -> Path:
    """A volume with one snapshot, of one file."""
    path = place("xfs")
    fill(path / "file", 0, 10_000, 1)
    Volume(path).snapshot("s0")
    return path


def ids(found: Any) -> list[str]:
    return [snap["id"] for snap in found]


MOMENTS = st.lists(
    st.datetimes(datetime(2019, 12, 25), datetime(2021, 1, 10)).map(
        lambda moment: moment.replace(tzinfo=UTC)
    ),
    min_size=1,
    max_size=30,
)
KEEPS = st.dictionaries(st.sampled_from(["last", *PERIODS]), st.integers(1, 12), min_size=1)


@settings(
    max_examples=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(moments=MOMENTS, keep=KEEPS, in_order=st.booleans(), dense=st.booleans())
def test_what_stays_is_what_a_naive_calendar_keeps(
    volume: Path, moments: list[datetime], keep: dict[str, int], in_order: bool, dense: bool
) -> None:
    """Also where clocks stepped back between two snapshots."""
    if dense:  # many in one hour or day
        moments = [moments[0] + (moment - moments[0]) / 400 for moment in moments]
    moments = sorted(moments) if in_order else moments
    for stale in (store(volume) / "snapshots").iterdir():
        shutil.rmtree(stale)
    Volume(volume).snapshot()
    taken = history(volume, moments)
    report = Volume(volume).prune(keep, dry_run=True)
    stay = naive(moments, keep)
    assert {snap.id for snap in report.pruned} == {name for at, name in enumerate(taken) if at not in stay}
    assert [kept.snapshot.id for kept in report.kept] == [taken[at] for at in sorted(stay)]
    assert all(kept.why for kept in report.kept)


def test_a_year_of_quarters_of_an_hour_becomes_a_handful(volume: Path) -> None:
    start = datetime(2025, 6, 1, tzinfo=UTC)
    moments = [start + timedelta(hours=7 * at) for at in range(1250)]
    history(volume, moments)
    keep = {"last": 10, "hourly": 24, "daily": 14, "weekly": 8, "monthly": 12}
    report = Volume(volume).prune(keep, dry_run=True)
    assert {kept.snapshot.sequence for kept in report.kept} == naive(moments, keep)
    assert len(report.kept) < 60


def test_pruned_snapshots_are_gone_and_the_others_whole(volume: Path, tmp_path: Path) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    moments = [start + timedelta(hours=6 * at) for at in range(12)]
    taken = history(volume, moments)
    options = ("--keep-daily", "2", "--keep-last", "2")
    told = done("prune", volume, *options, "--dry-run")
    assert ids(snapshots(volume)) == taken, "a dry run deletes nothing"
    report = done("prune", volume, *options)
    assert report["pruned"] == told["pruned"]
    assert report["kept"] == told["kept"]
    assert (told["dry_run"], report["dry_run"]) == (True, False)
    assert {snap["sequence"] for snap in snapshots(volume)} == naive(moments, {"daily": 2, "last": 2})
    for snap in snapshots(volume):
        assert done("verify", f"{volume}@{snap['id']}", volume)["equal"]


def test_what_is_kept_aside_is_neither_counted_nor_pruned(volume: Path) -> None:
    taken = history(volume, [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 6)])
    for aside in (taken[0], taken[4]):
        file = store(volume) / "snapshots" / aside / "snapshot.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"aside": True}))
    report = done("prune", volume, "--keep-last", "2")
    assert ids(report["pruned"]) == [taken[1]]
    assert set(ids(snapshots(volume))) == set(taken) - {taken[1]}


def test_each_that_stays_has_its_reasons(volume: Path) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    history(volume, [start, start + timedelta(hours=1), start + timedelta(days=1)])
    Volume(volume).hold("s0", "the audit")
    report = done("prune", volume, "--keep-daily", "5", "--dry-run")
    why = {kept["snapshot"]["name"]: kept["why"] for kept in report["kept"]}
    assert why == {"s0": ["held by hand: the audit"], "s1": ["daily"], "s2": ["newest", "daily"]}
    # Each is told once: what stays by itself needs no note.
    assert not any("s0" in note for note in report["notes"])


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--keep-last", "0"),
        ("--keep-daily", "-1"),
        ("--keep-weekly", "some"),
        ("--keep-hourly", "1", "--keep-yearly", "0"),
        ("--keep-dayly", "1"),
    ],
)
def test_a_request_that_makes_no_sense_deletes_nothing(volume: Path, options: tuple[str, ...]) -> None:
    Volume(volume).snapshot()
    before = ids(snapshots(volume))
    assert_told(run("prune", volume, *options), codes=(2,))
    assert ids(snapshots(volume)) == before


@pytest.mark.parametrize("keep", [{}, {"last": 0}, {"daily": -3}, {"dayly": 3}])
def test_the_api_refuses_the_same(volume: Path, keep: dict[str, int]) -> None:
    with pytest.raises(snapsync.UsageError):
        Volume(volume).prune(keep)


def test_the_api_takes_the_newest_by_one_word_only(pair: Pair) -> None:
    with pytest.raises(snapsync.UsageError):
        snapsync.sync(pair.source, pair.target, keep_last=1, keep={"last": 2})
    assert not store(pair.source).exists()


# --- in a round ----------------------------------------------------------------------------------


def rounds(pair: Pair, number: int, *options: object) -> None:
    for at in range(number):
        fill(pair.source / f"file-{at}", 0, 5_000, at)
        pair.sync(*options)


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("xfs", "btrfs")], ids="-".join)
def test_a_round_keeps_by_the_calendar_on_both_sides(pair: Pair) -> None:
    rounds(pair, 3)
    report = snapsync.sync(pair.source, pair.target, keep={"yearly": 1, "last": 2})
    assert [snap.sequence for snap in report.pruned].count(0) == 2
    assert ids(snapshots(pair.source)) == ids(snapshots(pair.target))
    assert [snap["sequence"] for snap in snapshots(pair.target)] == [2, 3]
    assert_same(pair.source, pair.target)
    pair.sync()


def test_a_round_deletes_nothing_that_is_held_on_either_side(pair: Pair) -> None:
    rounds(pair, 3)
    done("hold", f"{pair.source}@0")
    done("hold", f"{pair.target}@1", "--reason", "the standby's own")
    pair.sync("--keep-last", "1")
    assert [snap["sequence"] for snap in snapshots(pair.source)] == [0, 3]
    assert [snap["sequence"] for snap in snapshots(pair.target)] == [1, 3]


# --- holds ---------------------------------------------------------------------------------------


def test_a_held_snapshot_is_not_deleted_until_it_is_released(volume: Path) -> None:
    Volume(volume).snapshot("later")
    done("hold", f"{volume}@s0", "--reason", "evidence of case 7")
    ran = run("delete", f"{volume}@s0")
    assert_told(ran, "evidence of case 7", "snapsync release", f"{volume}@s0", codes=(3,))
    assert run("prune", volume, "--keep-last", "1", "--json").json["pruned"] == []
    done("release", f"{volume}@s0")
    done("delete", f"{volume}@s0")
    assert [snap["name"] for snap in snapshots(volume)] == ["later"]


def test_holding_again_without_a_reason_keeps_the_former_one(volume: Path) -> None:
    done("hold", f"{volume}@s0", "--reason", "the audit")
    assert run("hold", f"{volume}@s0").out.endswith(": the audit\n")
    assert "by hand: the audit" in run("status", volume).out
    done("hold", f"{volume}@s0", "--reason", "")
    assert done("release", f"{volume}@s0")["reason"] == ""


def test_a_hold_outlives_what_happens_to_the_volume(pair: Pair) -> None:
    pair.sync("--name", "first")
    Volume(pair.source).hold("first", "why not")
    rounds(pair, 2)
    (hold,) = [hold for hold in done("list", pair.source)["holds"] if hold["standby"] is None]
    assert (hold["name"], hold["reason"]) == ("first", "why not")


def test_holding_again_changes_the_reason_and_releasing_twice_is_a_mistake(volume: Path) -> None:
    held = Volume(volume)
    held.hold("s0", "one")
    held.hold(0, "two")
    assert held.hold("latest").reason == "two", "no other one was given"
    assert held.release("latest").reason == "two"
    with pytest.raises(snapsync.UsageError):
        held.release("s0")


@pytest.mark.parametrize(
    "words", [("hold", "{}@nope"), ("hold", "{}"), ("release", "{}@s0"), ("release", "{}")]
)
def test_what_is_not_there_cannot_be_held_or_released(volume: Path, words: tuple[str, str]) -> None:
    assert_told(run(words[0], words[1].format(volume)), codes=(2,))


def test_list_shows_what_is_held_and_why(pair: Pair) -> None:
    rounds(pair, 2)
    assert "by hand" not in run("list", pair.source).out
    done("hold", f"{pair.source}@0", "--reason", "the audit")
    lines = run("list", pair.source).out.splitlines()
    (first,) = [line for line in lines if line.split()[0] == "0"]
    (second,) = [line for line in lines if line.split()[0] == "1"]
    assert first.endswith("by hand: the audit")
    assert second.endswith(f"base of {pair.target}")
    assert "held" in lines[1]


def test_a_standby_that_is_gone_is_forgotten_by_path_or_id(pair: Pair, place: Place) -> None:
    gone = [place.absent("ext4") for _ in range(2)]
    for target in (*gone, pair.target):
        done("sync", pair.source, target)
    refused = run("delete", f"{pair.source}@0")
    assert_told(refused, str(gone[0]), "--standby", codes=(3,))
    known = {standby.path: standby.volume for standby in Volume(pair.source).status().standbys}
    report = done("release", pair.source, "--standby", gone[0])
    assert (report["standby"], report["snapshot"]["sequence"]) == (str(gone[0]), 0)
    done("release", pair.source, "--standby", known[str(gone[1])])
    assert [standby.path for standby in Volume(pair.source).status().standbys] == [str(pair.target)]
    done("delete", f"{pair.source}@0")
    assert_told(run("release", pair.source, "--standby", gone[0]), "status", codes=(2,))
    pair.sync()


def told_of(ran: Ran) -> str:
    return ran.out + ran.err


def test_what_goes_and_stays_is_told_in_lines(volume: Path) -> None:
    history(volume, [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 5)])
    ran = run("prune", volume, "--keep-last", "2", "--dry-run")
    assert ran.code == 0
    for line in (
        "2 snapshots would go, 2 kept",
        "would go  snapshot 0 (s0)",
        "stays     snapshot 3 (s3): newest, last",
    ):
        assert line in told_of(ran)
    done("hold", f"{volume}@s0")
    held = told_of(run("prune", volume, "--keep-last", "2", "--dry-run"))
    assert held.count("stays") == 3
    assert "1 snapshot would go, 3 kept" in held
    done("release", f"{volume}@s0")
    assert "2 snapshots pruned, 2 kept" in run("prune", volume, "--keep-last", "2").out


@pytest.mark.parametrize(
    "words", [("hold", "@s0", "--reason", "a\udcff"), ("hold", "@\udcff"), ("release", "@\udcff")], ids=str
)
def test_a_name_or_reason_that_is_no_text_is_a_mistake(volume: Path, words: tuple[str, ...]) -> None:
    verb, address, *more = words
    assert_told(run(verb, f"{volume}{address}", *more), "UTF-8", codes=(2,))
