"""What a peer says is a claim: an epoch, a snapshot that it holds, the end of a round, and any text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from between import between
from machine import Pair, Place, Ran, assert_told, done, run, snapshots, status, store
from oracle import assert_same, freeze
from worlds import bulk, fill

KINDS = [("btrfs", "btrfs"), ("xfs", "xfs"), ("ext4", "ext4")]
ON = pytest.mark.parametrize("kinds", KINDS, ids="-".join)


def record(volume: Path) -> Path:
    return store(volume) / "volume.json"


def edited(volume: Path, **fields: Any) -> None:
    """A store whose record says something else."""
    known = json.loads(record(volume).read_text())
    record(volume).write_text(json.dumps(known | fields))


def known(volume: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record(volume).read_text())
    return found


def epoch(volume: Path) -> int:
    found: int = status(volume)["volume"]["epoch"]
    return found


def ours(ran: Ran) -> Ran:
    """Without what the other end says itself."""
    lines = [line for line in ran.err.splitlines(keepends=True) if not line.startswith("there: ")]
    return Ran(ran.args, ran.code, ran.out, "".join(lines))


# --- epochs -----------------------------------------------------------------------------------


@ON
def test_a_promotion_is_shown_and_travels_with_rounds_and_deltas(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    third, fourth = place.absent(kinds[1]), place.absent(kinds[1])
    bulk(pair.source, 5)
    pair.sync()
    done("sync", pair.source, third, "--snap", "latest")
    done("sync", pair.source, fourth, "--snap", "latest")
    held = snapshots(pair.target)[-1]["id"]
    done("promote", pair.target)
    (first,) = known(pair.target)["promotions"]
    assert (first["epoch"], first["before"], first["after"]) == (2, None, held)
    assert first["volume"] == status(pair.target)["volume"]["id"]
    done("sync", pair.target, third)
    assert known(third)["promotions"] == [first]
    done("switch", pair.target, third)
    _, second = known(third)["promotions"]
    assert (second["epoch"], second["before"]) == (3, first["id"])
    # By a file as well, two promotions later.
    file = place.absent(kinds[1])
    base = snapshots(fourth)[-1]["id"]
    done("send", "--base", f"{third}@{base}", f"{third}@{snapshots(pair.target)[-1]['id']}", "-o", file)
    done("receive", fourth, "-i", file)
    assert known(fourth)["promotions"] == [first, second]
    assert epoch(fourth) == 3


@ON
@pytest.mark.parametrize("way", ["here", "push", "pull"])
def test_a_number_alone_raises_no_epoch(pair: Pair, kinds: tuple[str, str], way: str) -> None:
    bulk(pair.source, 5)
    pair.sync()
    before = freeze(pair.target)
    edited(pair.source, epoch=7)
    (pair.source / "more").write_text("more")
    sides: dict[str, tuple[object, ...]] = {
        "here": (pair.source, pair.target),
        "push": (pair.source, f"there:{pair.target}", *between()),
        "pull": (f"there:{pair.source}", pair.target, *between()),
    }
    assert_told(ours(run("sync", "-q", *sides[way])), "promotions", codes=(3,))
    assert epoch(pair.target) == 1
    assert_same(before, pair.target)
    # What people decide is another matter.
    done("rejoin", pair.target, pair.source)
    assert epoch(pair.target) == 7


@ON
def test_a_delta_whose_epoch_is_not_shown_is_refused(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    bulk(pair.source, 5)
    pair.sync()
    base = snapshots(pair.source)[-1]["id"]
    done("snapshot", pair.source)
    for number in (2, 1 << 62, (1 << 64) - 1):
        edited(pair.source, epoch=number)
        file = place.absent(kinds[1])
        done("send", "--base", f"{pair.source}@{base}", f"{pair.source}@latest", "-o", file)
        ran = run("receive", "-q", pair.target, "-i", file)
        assert_told(ran, codes=(3, 4))
        assert epoch(pair.target) == 1


@ON
def test_two_that_were_promoted_apart_do_not_feed_each_others_standbys(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    """Of one number, and of two lines: what says so is who was promoted."""
    third = place.absent(kinds[1])
    bulk(pair.source, 5)
    pair.sync()
    done("sync", pair.source, third, "--snap", "latest")
    done("promote", pair.target)
    done("rejoin", third, pair.target)
    # The old primary was promoted as well: its own record is all there is of it.
    other = dict(known(pair.target)["promotions"][0], id="9483410d-a82f-44c2-84f8-089f3de11592")
    edited(pair.source, epoch=2, promotions=[other])
    before = freeze(third)
    assert_told(run("sync", "-q", pair.source, third), "apart", "rejoin", codes=(3,))
    edited(
        pair.source,
        epoch=3,
        promotions=[other, dict(other, epoch=3, before=other["id"], id=known(third)["id"])],
    )
    assert_told(run("sync", "-q", pair.source, third), "apart", "rejoin", codes=(3,))
    assert_same(before, third)
    assert epoch(third) == 2


@pytest.mark.parametrize("last", [1 << 48, (1 << 64) - 1])
def test_there_is_no_epoch_after_the_last(pair: Pair, last: int) -> None:
    bulk(pair.source, 5)
    pair.sync()
    edited(pair.target, epoch=last)
    assert_told(run("promote", "-q", pair.target), "epoch", codes=(3,))
    assert status(pair.target)["volume"]["role"] == "standby"


@pytest.mark.parametrize(("field", "kinds"), [("next_sequence", KINDS[0]), ("next_round", KINDS[1])])
def test_numbers_in_a_store_do_not_wrap(pair: Pair, field: str, kinds: tuple[str, str]) -> None:
    bulk(pair.source, 5)
    done("snapshot", pair.source)
    edited(pair.source, **{field: (1 << 64) - 1})
    assert_told(run("snapshot", "-q", pair.source), codes=(3, 4))
    assert len(snapshots(pair.source)) == 1


@ON
@pytest.mark.parametrize("claimed", [2, (1 << 64) - 1])
def test_a_standby_that_claims_an_epoch_is_not_fed_and_silences_nobody(
    pair: Pair, place: Place, kinds: tuple[str, str], claimed: int
) -> None:
    third = place.absent(kinds[1])
    bulk(pair.source, 5)
    done("sync", pair.source, f"there:{pair.target}", *between())
    done("sync", pair.source, third)
    liar = between({"when": "looked", "set": {"epoch": claimed}})
    count = len(snapshots(pair.source))
    ran = run("sync", "-q", pair.source, f"there:{pair.target}", *liar)
    assert_told(ours(ran), "not fed", str(claimed), "rejoin", codes=(3,))
    assert len(snapshots(pair.source)) == count
    told = {standby["path"]: standby for standby in status(pair.source)["standbys"]}
    assert [standby["claim"]["epoch"] for standby in told.values() if standby["claim"]] == [claimed]
    assert told[str(third)]["claim"] is None
    assert not next(standby["claim"]["shown"] for standby in told.values() if standby["claim"])
    assert f"epoch {claimed}, and is not fed" in run("status", pair.source).out
    metrics = place.absent(kinds[1])
    run("status", pair.source, "--prometheus", metrics)
    gauges = [line for line in metrics.read_text().splitlines() if line.startswith("snapsync_problem{")]
    assert sorted(line.rsplit(" ", 1)[1] for line in gauges) == ["0.0", "1.0"]
    # The others are fed, and so is this one when it says so no more.
    (pair.source / "more").write_text("more")
    done("sync", pair.source, third)
    done("sync", pair.source, f"there:{pair.target}", *between())
    assert_same(pair.source, third)
    assert_same(pair.source, pair.target)
    assert status(pair.source)["replaced"] is None


# --- text -------------------------------------------------------------------------------------

EVIL = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u200b\r\nsnapsync: all is well\x9b1m\x7f"
SHOWN = "\\x1b[2J\\x1b]0;owned\\x07\\u202egnp.exe\\u200b\\r\\nsnapsync: all is well\\x9b1m\\x7f"


def is_plain(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def test_what_the_other_end_says_on_standard_error_is_marked_and_bounded(pair: Pair) -> None:
    bulk(pair.source, 5)
    words = [(f"hello {EVIL}\n", 1), ("x", 300_000), ("\nand more", 20_000)]
    said = {"when": "looked", "say": words}
    ran = run("sync", pair.source, f"there:{pair.target}", *between(said))
    assert ran.code == 0, ran
    assert is_plain(ran.err)
    assert "there: hello \\x1b[2J" in ran.err
    assert "not shown" in ran.err
    assert len(ran.err) < 150_000
    lines = [line for line in ran.err.splitlines() if "all is well" in line]
    assert lines == ["there: snapsync: all is well\\x9b1m\\x7f"]


def test_an_error_of_the_other_end_is_one_line(pair: Pair) -> None:
    bulk(pair.source, 5)
    failure = {"exit_code": 0, "what": EVIL, "advice": EVIL}
    rule = {"when": "looked", "instead": [{"failed": failure}]}
    ran = run("sync", pair.source, f"there:{pair.target}", *between(rule))
    assert ran.code == 1
    assert is_plain(ran.err)
    assert f"there:{pair.target}: {SHOWN}" in ran.err
    assert len(ran.err.splitlines()) == 2


def test_names_in_a_hostile_tree_do_not_reach_a_terminal(pair: Pair) -> None:
    bulk(pair.source, 2)
    pair.sync()
    name = "a\x1b[31m\u202e\nb"
    fill(pair.target / name, 0, 10, 1)
    fill(pair.source / name, 0, 20, 1)
    ran = run("sync", pair.source, pair.target)
    assert ran.code == 3
    assert is_plain(ran.err)
    assert "a\\x1b[31m\\u202e\\nb" in ran.err


# --- what was done ----------------------------------------------------------------------------

ELSE = "9483410d-a82f-44c2-84f8-089f3de11592"
"""The id of nothing that is there."""
LIES = [
    {"when": "committed", "set": {"committed.snapshot.id": ELSE}},
    {"when": "committed", "set": {"committed.snapshot.sequence": 77}},
    {"when": "committed", "set": {"committed.snapshot.name": "another"}},
    {"when": "begun", "also": [{"committed": {}}]},
    {"when": "opened", "set": {"opened.volume.id": ELSE}},
    {"when": "opened", "set": {"opened.volume.lineage": ELSE}},
    {"when": "opened", "set": {"opened.volume.role": "primary"}},
]


@ON
@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_standby_holds_what_it_was_brought_and_nothing_else(
    pair: Pair, kinds: tuple[str, str], lie: dict[str, Any]
) -> None:
    """What the primary knows of it stays what it was."""
    bulk(pair.source, 5)
    done("sync", pair.source, f"there:{pair.target}", *between())
    before = known(pair.source)["standbys"]
    (pair.source / "more").write_text("more")
    ran = ours(run("sync", "-q", pair.source, f"there:{pair.target}", *between(lie)))
    assert_told(ran, codes=(4,))
    assert known(pair.source)["standbys"] == before
    done("sync", pair.source, f"there:{pair.target}", *between())
    assert_same(pair.source, pair.target)


def test_a_snapshot_that_a_standby_says_it_has_is_not_remembered(pair: Pair) -> None:
    bulk(pair.source, 5)
    done("sync", pair.source, f"there:{pair.target}", *between())
    held = known(pair.source)["standbys"]
    newer = done("snapshot", pair.source)["snapshot"]
    lie = {"when": "opened", "set": {"opened.newest": newer}}
    report = done("sync", pair.source, f"there:{pair.target}", "--snap", "latest", *between(lie))
    assert any("already" in note for note in report["notes"])
    assert [standby["snapshot"] for standby in known(pair.source)["standbys"].values()] == [
        standby["snapshot"] for standby in held.values()
    ]


def report_of(source: Path) -> dict[str, Any]:
    """What a primary could say of a round."""
    return {
        "verb": "sync",
        "primary": status(source)["volume"],
        "snapshot": snapshots(source)[-1],
        "notes": [],
    }


@ON
@pytest.mark.parametrize("when", ["look", "open", "begin"])
def test_a_round_is_not_done_where_nothing_was_committed(
    pair: Pair, kinds: tuple[str, str], when: str
) -> None:
    bulk(pair.source, 5)
    pair.sync()
    before, count = freeze(pair.target), len(snapshots(pair.target))
    (pair.source / "more").write_text("more")
    lie = {"when": when, "instead": [{"done": {"report": report_of(pair.source)}}]}
    ran = ours(run("sync", "-q", f"there:{pair.source}", pair.target, *between(lie)))
    assert_told(ran, codes=(4,))
    assert_same(before, pair.target)
    assert len(snapshots(pair.target)) == count


@ON
def test_a_pulled_round_is_told_by_the_end_that_saw_it(pair: Pair, kinds: tuple[str, str]) -> None:
    bulk(pair.source, 5)
    pair.sync()
    fill(pair.source / "more", 0, 10_000, 1)
    lies = {
        "snapshot": {"id": ELSE, "name": EVIL},
        "data_bytes": 1 << 62,
        "standby": {"path": "/elsewhere"},
        "losses": [{"what": EVIL, "count": 1 << 63, "example": ""}],
        "notes": [f"{number} {EVIL}" for number in range(150)],
        "scrub": {"files": 1, "differences": [{"path": EVIL, "what": EVIL}] * 50},
    }
    lie = {"when": "done", "set": {f"done.report.{name}": value for name, value in lies.items()}}
    ran = run("sync", "--json", f"there:{pair.source}", pair.target, *between(lie))
    assert ran.code == 4, "files that are said to differ"
    report = json.loads(ran.out)
    assert_same(pair.source, pair.target)
    assert report["snapshot"]["id"] == snapshots(pair.target)[-1]["id"]
    assert report["data_bytes"] == 10_000
    assert report["standby"]["path"] == str(pair.target)
    assert report["losses"] == []
    assert report["claimed"] == {"by": "there", "what": ["counters", "primary", "scrub", "skipped"]}
    assert report["notes"]
    assert all(note.startswith("there: ") for note in report["notes"])
    assert len(report["notes"]) <= 100
    assert len(report["scrub"]["differences"]) <= 20
    assert is_plain(json.dumps(report["notes"], ensure_ascii=False))
    assert is_plain(ran.err)


@pytest.mark.parametrize(
    "asks",
    [
        {"when": "begin", "instead": [{"prune": {"keep": {"last": 1}, "needed": []}}]},
        {"when": "look", "also": [{"look": {"lineage": None}}] * 3},
        {"when": "open", "instead": ["commit"]},
        {"when": "begin", "instead": [{"scrub": {"pieces": []}}]},
    ],
    ids=str,
)
def test_a_round_has_an_order(pair: Pair, asks: dict[str, Any]) -> None:
    bulk(pair.source, 5)
    pair.sync()
    before, count = freeze(pair.target), len(snapshots(pair.target))
    (pair.source / "more").write_text("more")
    ran = ours(run("sync", "-q", f"there:{pair.source}", pair.target, *between(asks)))
    assert_told(ran, codes=(4,))
    assert_same(before, pair.target)
    assert len(snapshots(pair.target)) == count


@ON
def test_options_come_from_the_end_that_began_the_round(pair: Pair, kinds: tuple[str, str]) -> None:
    """A primary says how it wants a round: changes by hand stay, and so does the tree."""
    bulk(pair.source, 5)
    pair.sync()
    (pair.target / "by hand").write_text("mine")
    before = freeze(pair.target)
    fill(pair.source / "by hand", 0, 10, 1)
    care = {"check": False, "discard_drift": True, "read_only": True}
    lie = {"when": "open", "set": {"open.care": care}}
    ran = ours(run("sync", "-q", f"there:{pair.source}", pair.target, *between(lie)))
    assert_told(ran, "changed", codes=(3,))
    assert_same(before, pair.target)
    assert not status(pair.target)["read_only"]
    assert not any(snap.get("aside") for snap in snapshots(pair.target))


def test_a_message_that_is_too_deep_or_too_full_is_refused(pair: Pair) -> None:
    bulk(pair.source, 5)
    for lie in ("deep", "full", "long"):
        ran = ours(
            run("sync", "-q", pair.source, f"there:{pair.target}", *between({"when": "looked", "bomb": lie}))
        )
        assert_told(ran, codes=(4,))
