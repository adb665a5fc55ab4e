"""Which parts of a large file changed is found without its old bytes: the standby tells of its own copy."""

from __future__ import annotations

import os
import random
import signal
import struct
from typing import Any

import pytest
from blake3 import blake3
from extents import rot
from machine import Pair, Place, done, forget, run, snapshots
from oracle import assert_same, differences, freeze
from remote import Server
from talking import Standby, record, talking
from worlds import (
    append,
    collapse,
    fill,
    insert,
    preallocate,
    preallocate_past_end,
    punch,
    rename,
    truncate,
    write,
    zero,
)

KIB, MIB = 1 << 10, 1 << 20
WINDOW = 64 * KIB
kinds = pytest.mark.parametrize("kinds", [("ext4", "ext4"), ("xfs", "btrfs")], ids="-".join)
one = pytest.mark.parametrize("kinds", [("ext4", "ext4")], ids="-".join)


def stretch(path: bytes, size: int, offset: int = 0, length: int = 0, window: int = WINDOW) -> dict[str, Any]:
    span = {"offset": offset, "length": length or size}
    return {"path": list(path), "size": size, "range": span, "window": window}


def head_and_manifest(delta: bytes) -> bytes:
    manifest = 64 + struct.unpack_from("<I", delta, 12)[0]
    return delta[: manifest + 48 + struct.unpack_from("<Q", delta, manifest + 8)[0]]


@kinds
def test_the_windows_that_changed_travel_and_no_others(pair: Pair, kinds: tuple[str, str]) -> None:
    fill(pair.source / "large", 0, 64 * MIB, 1)
    fill(pair.source / "same", 0, MIB, 2)
    fill(pair.source / "small", 0, 128 * KIB, 3)
    pair.sync()
    forget(pair.source)
    for number in (0, 511, 1023):
        fill(pair.source / "large", number * WINDOW + 5000, 4096, 5 + number)
    rename(pair.source / "large", pair.source / "larger")
    fill(pair.source / "small", 0, 1, 4)
    report = pair.sync()
    assert report["data_bytes"] == 3 * WINDOW + 128 * KIB
    assert report["notes"] == []


@one
@pytest.mark.parametrize("way", ["push", "pull"])
def test_it_holds_over_ssh(pair: Pair, server: Server, way: str, kinds: tuple[str, str]) -> None:
    names = ("large", "grows", "shrinks")
    for number, name in enumerate(names):
        fill(pair.source / name, 0, 9 * MIB + 1000, number)
    pair.sync()
    forget(pair.source)
    for name in names:
        fill(pair.source / name, 5 * MIB, 1, 2)
    append(pair.source / "grows", 1, 3)
    truncate(pair.source / "shrinks", 8 * MIB + 1000)
    client = server.client()
    ends = {"push": (pair.source, client.at(pair.target)), "pull": (client.at(pair.source), pair.target)}
    report = done("sync", *ends[way], *client.options)
    assert report["data_bytes"] == 3 * WINDOW + 1001 + 1000, "a window that ends elsewhere is another one"
    assert_same(pair.source, pair.target)


@one
def test_many_files_are_asked_for_in_turns(pair: Pair, kinds: tuple[str, str]) -> None:
    """More bytes of paths than one question has room for."""
    deep = pair.source.joinpath(*["x" * 200] * 10)
    deep.mkdir(parents=True)
    paths = [deep / f"file-{number}" for number in range(140)]
    for number, path in enumerate(paths):
        fill(path, 300 * KIB, 1, number)
    pair.sync()
    forget(pair.source)
    for path in paths:
        fill(path, 300 * KIB, 1, 1)
        truncate(path, 200 * KIB)
    report = pair.sync()
    assert report["data_bytes"] == 0
    assert report["notes"] == []


OPERATIONS: list[Any] = [
    lambda path, at, length, seed: fill(path, at, length, seed),
    lambda path, at, length, seed: punch(path, at, length),
    lambda path, at, length, seed: zero(path, at, length),
    lambda path, at, length, seed: append(path, length, seed),
    lambda path, at, length, seed: preallocate(path, at, length),
    lambda path, at, length, seed: preallocate_past_end(path, at, 2 * length),
    lambda path, at, length, seed: truncate(path, at),
    lambda path, at, length, seed: truncate(path, at + length),
    lambda path, at, length, seed: fill(path, at, 1, seed),
    # Zeros where there may have been a hole, and no preallocation behind the end any more.
    lambda path, at, length, seed: write(path, at, bytes(length)),
    lambda path, at, length, seed: truncate(path, path.stat().st_size),
]


@pytest.mark.parametrize(
    "kinds", [("ext4", "ext4"), ("xfs", "btrfs"), ("ext4", "xfs"), ("xfs", "ext4-1k")], ids="-".join
)
def test_whatever_happens_to_a_file_the_copy_becomes_the_same(pair: Pair, kinds: tuple[str, str]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    paths = [pair.source / f"file-{number}" for number in range(8)]
    for number, path in enumerate(paths):
        fill(path, chance.choice([0, 0, 300 * KIB]), chance.randrange(MIB), number)
    pair.sync()
    for _ in range(8):
        forget(pair.source)
        for path in paths:
            for _ in range(chance.randrange(4)):
                grain = chance.choice([1, 512, 4096, WINDOW])
                at, length = (chance.randrange(1, MIB) // grain * grain for _ in range(2))
                chance.choice(OPERATIONS)(path, at, max(length, grain), chance.randrange(1000))
        pair.sync()


@one
def test_blocks_that_move_within_a_file_become_the_same(pair: Pair, kinds: tuple[str, str]) -> None:
    fill(pair.source / "large", 0, 2 * MIB, 1)
    pair.sync()
    for change in (collapse, insert):
        forget(pair.source)
        change(pair.source / "large", WINDOW, 4096)
        pair.sync()
        forget(pair.source)
        change(pair.source / "large", WINDOW, 2 * WINDOW)
        pair.sync()


@one
def test_what_rotted_in_the_copy_gets_well(pair: Pair, kinds: tuple[str, str]) -> None:
    fill(pair.source / "large", 0, MIB, 1)
    pair.sync()
    forget(pair.source)
    rot(pair.target / "large", 5 * WINDOW)
    assert differences(freeze(pair.source), freeze(pair.target))
    fill(pair.source / "large", WINDOW, 1, 2)
    assert pair.sync()["data_bytes"] == 2 * WINDOW


@one
@pytest.mark.parametrize("point", ["stage.manifest:1", "stage.frame:4", "save.done:1", "commit.data:1"])
def test_a_round_that_was_killed_goes_on(pair: Pair, point: str, kinds: tuple[str, str]) -> None:
    fill(pair.source / "large", 0, 20 * MIB, 1)
    pair.sync()
    forget(pair.source)
    fill(pair.source / "large", 0, 10 * MIB, 2)
    ran = run("sync", pair.source, pair.target, env={"SNAPSYNC_FAULT": point})
    assert ran.code == -signal.SIGKILL, ran
    report = pair.sync()
    if point.startswith("stage.frame"):
        assert report["kept_bytes"] > 0, "the standby tells the same again, and the manifest is the same"


@pytest.mark.parametrize("kinds", [("ext4", "xfs"), ("ext4", "btrfs")], ids="-".join)
def test_holes_of_a_large_file_cost_nothing(pair: Pair, kinds: tuple[str, str]) -> None:
    """14 TiB of them would take hours to be asked for."""
    with (pair.source / "sparse").open("wb") as file:
        file.truncate(14 << 40)
    for offset in (0, 5 << 40, 13 << 40):
        fill(pair.source / "sparse", offset, 1_000, 1)
    done("sync", pair.source, pair.target)
    forget(pair.source)
    fill(pair.source / "sparse", (5 << 40) + 10, 3, 2)
    fill(pair.source / "sparse", 9 << 40, 3, 3)
    punch(pair.source / "sparse", 13 << 40, 1 << 20)
    assert done("sync", pair.source, pair.target)["data_bytes"] <= 4 << 20
    for offset, length in ((0, 2_000), (5 << 40, 2_000), (9 << 40, 100), (13 << 40, 2_000)):
        pieces = []
        for root in (pair.source, pair.target):
            with (root / "sparse").open("rb") as file:
                file.seek(offset)
                pieces.append(file.read(length))
        assert pieces[0] == pieces[1], offset


@one
def test_a_file_in_very_many_pieces_travels_whole_and_is_noted(pair: Pair, kinds: tuple[str, str]) -> None:
    fill(pair.source / "large", 0, MIB, 1)
    for at in range(0, MIB, 8 * KIB):
        punch(pair.source / "large", at, 4 * KIB)
    pair.sync()
    forget(pair.source)
    fill(pair.source / "large", 4 * KIB, 1, 2)
    report = pair.sync()
    assert report["data_bytes"] == MIB // 2
    assert any("1 changed files" in note and "too many pieces" in note for note in report["notes"])


@one
def test_changes_by_hand_to_the_copy_are_refused_as_ever(pair: Pair, kinds: tuple[str, str]) -> None:
    fill(pair.source / "large", 0, MIB, 1)
    pair.sync()
    forget(pair.source)
    fill(pair.source / "large", WINDOW, 1, 2)
    fill(pair.target / "large", 2 * WINDOW, 1, 3)
    ran = run("sync", pair.source, pair.target)
    assert ran.code == 3, ran
    assert "modified" in ran.err
    pair.sync("--discard-drift")


@one
def test_a_copy_that_changes_after_it_was_told_of_is_refused(
    pair: Pair, place: Place, kinds: tuple[str, str]
) -> None:
    fill(pair.source / "large", 0, MIB, 1)
    pair.sync("--name", "base")
    fill(pair.source / "large", WINDOW, 1, 2)
    done("snapshot", pair.source)
    delta = place.absent("ext4")
    done("send", "--base", f"{pair.source}@base", f"{pair.source}@latest", "-o", delta)
    lineage = record(pair.source)["lineage"]
    terms = {"strict": False, "has_manifest": False, "spare": None}
    with talking(kill=True) as wire:
        assert wire.ask({"push": {"target": list(os.fsencode(pair.target)), "channels": 1}}) == "ready"
        opening = {"lineage": lineage, "epoch": 1, "promotions": [], "join": None}
        assert "opened" in wire.ask({"open": opening})
        assert "copied" in wire.ask({"copies": {"stretches": [stretch(b"large", MIB)]}})
        fill(pair.target / "large", 2 * WINDOW, 1, 3)
        wire.tell({"begin": terms})
        wire.sink.write(head_and_manifest(delta.read_bytes()))
        failed = wire.hear()["failed"]
    assert failed["exit_code"] == 3, failed
    assert "modified" in failed["what"]


# --- what the ends may say --------------------------------------------------------------------


@pytest.fixture
def known(pair: Pair) -> dict[str, Any]:
    """What a standby shows of a primary that has lost the bytes of a file which has changed since."""
    fill(pair.source / "large", 0, MIB, 1)
    pair.sync()
    forget(pair.source)
    fill(pair.source / "large", WINDOW, 1, 2)
    return {"newest": snapshots(pair.target)[-1], "secret": record(pair.target)["secret"]}


HOLES = "-" * 16
WHOLE = {"data": [[0, MIB]], "unwritten": []}
LIES: dict[str, Any] = {
    "nothing": {"digests": HOLES},
    "few": {"laid": WHOLE, "digests": HOLES[1:]},
    "many": {"laid": WHOLE, "digests": HOLES + "-"},
    "cut": {"laid": WHOLE, "digests": HOLES[1:] + "0" * 63},
    "no digits": {"laid": WHOLE, "digests": HOLES[1:] + "\u00fc" * 32},
    "other": {"laid": WHOLE, "digests": "0" * 64 * 16},
    "backward": {"laid": {"data": [[4096, 1], [0, 1]], "unwritten": []}, "digests": HOLES},
    "twice": {"laid": {"data": [[0, 5], [4, 5]], "unwritten": []}, "digests": HOLES},
    "empty": {"laid": {"data": [[0, 0]], "unwritten": []}, "digests": HOLES},
    "beyond": {"laid": {"data": [[1 << 62, 1 << 62]], "unwritten": []}, "digests": HOLES},
    "around": {"laid": {"data": [[1, (1 << 64) - 1]], "unwritten": []}, "digests": HOLES},
    "far": {"laid": {"data": [], "unwritten": [[(1 << 63) - 2, 1]]}, "digests": HOLES},
    "pieces": {"laid": {"data": [[n * 2, 1] for n in range(1000)], "unwritten": []}, "digests": HOLES},
    "lacks": "it is gone",
}


@one
@pytest.mark.parametrize("lie", LIES)
def test_whatever_a_standby_tells_harms_nobody_else(
    pair: Pair, known: dict[str, Any], lie: str, kinds: tuple[str, str]
) -> None:
    ((standby, _),) = record(pair.source)["standbys"].items()
    with talking(kill=True) as wire:
        liar = Standby(wire, pair.source)
        (stretch,) = liar.open(standby, **known)["copies"]["stretches"]
        assert bytes(stretch.pop("path")) == b"large"
        assert stretch == {"size": MIB, "range": {"offset": 0, "length": MIB}, "window": WINDOW}
        told = LIES[lie]
        said = wire.ask({"copied": [{"lacks": told} if isinstance(told, str) else {"holds": told}]})
        assert "begin" in said, said
        liar.fail(needed=False)
    pair.sync()


@one
def test_the_primary_is_free_while_its_standby_reads(
    pair: Pair, known: dict[str, Any], kinds: tuple[str, str]
) -> None:
    ((standby, _),) = record(pair.source)["standbys"].items()
    with talking() as wire:
        liar = Standby(wire, pair.source)
        assert "copies" in liar.open(standby, **known)
        lent = snapshots(pair.source)[-1]
        done("snapshot", pair.source, "--name", "meanwhile")
        assert "begin" in wire.ask({"copied": [{"lacks": "time"}]})
        assert "done" in liar.take(lent)
    assert [one["name"] for one in snapshots(pair.source)][-1] == "meanwhile"


@one
def test_another_number_of_copies_is_refused(
    pair: Pair, known: dict[str, Any], kinds: tuple[str, str]
) -> None:
    ((standby, _),) = record(pair.source)["standbys"].items()
    for copies in ([], [{"lacks": "a"}] * 2):
        with talking() as wire:
            assert "copies" in Standby(wire, pair.source).open(standby, **known)
            assert wire.ask({"copied": copies})["failed"]["exit_code"] == 4


@pytest.fixture
def asking(place: Place) -> Any:
    """Asks the standby beneath a directory that is kept for its primary."""
    source, root = place("ext4"), place("ext4")
    fill(source / "large", 0, MIB, 1)
    fill(source / "left.out", 0, MIB, 1)
    done("sync", source, root / "own", "--exclude", "*.out")
    fill(root / "own/left.out", 0, MIB, 4)
    fill(root / "beside", 0, MIB, 5)
    (root / "own/link").symlink_to("large")
    told = record(source)
    opening = {"lineage": told["lineage"], "epoch": 1, "promotions": [], "join": None}

    def ask(*stretches: dict[str, Any]) -> Any:
        with talking("--restrict-to", str(root), "--receive-only", kill=True) as wire:
            assert wire.ask({"push": {"target": list(b"own"), "channels": 1}}) == "ready"
            assert "looked" in wire.ask({"look": {"lineage": told["lineage"]}})
            assert "opened" in wire.ask({"open": opening})
            return wire.ask({"copies": {"stretches": list(stretches)}})

    ask.large = root / "own/large"  # type: ignore[attr-defined]
    return ask


def test_a_client_is_told_of_replicated_files_alone(asking: Any) -> None:
    others = [b"left.out", b"../beside", b".snapsync/store/volume.json", b"link", b"absent", b"", b"large/x"]
    for path in others:
        answer = asking(stretch(path, MIB), stretch(b"large", MIB))
        if "failed" in answer:
            continue
        lacks, holds = answer["copied"]
        assert set(lacks) == {"lacks"}, (path, lacks)
        assert len(holds["holds"]["digests"]) == 64 * 16
    (lacks,) = asking(stretch(b"large", MIB - 1))["copied"]
    assert "size" in lacks["lacks"]


def test_a_client_that_asks_for_what_makes_no_sense_is_sent_away(asking: Any) -> None:
    wrong = [
        stretch(b"large", MIB, window=4096),
        stretch(b"large", MIB, window=2 * MIB),
        stretch(b"large", MIB, window=WINDOW + 1),
        stretch(b"large", MIB, window=0),
        stretch(b"large", MIB, offset=1, length=WINDOW),
        stretch(b"large", MIB, length=WINDOW - 1),
        stretch(b"large", MIB, offset=MIB, length=WINDOW),
        stretch(b"large", MIB, offset=(1 << 64) - WINDOW, length=WINDOW),
        stretch(b"large", 1 << 40, length=128 * MIB),
    ]
    for one in wrong:
        assert asking(one)["failed"]["exit_code"] == 4, one
    for many in ([], [stretch(b"large", MIB)] * 1025, [stretch(b"x", 64 * MIB)] * 9):
        assert asking(*many)["failed"]["exit_code"] == 4
    assert "copied" in asking(*[stretch(b"large", MIB)] * 512)


def test_what_is_told_is_what_the_format_says(asking: Any) -> None:
    punch(asking.large, WINDOW, 2 * WINDOW)
    (told,) = asking(stretch(b"large", MIB))["copied"]
    text, data = told["holds"]["digests"], asking.large.read_bytes()
    assert told["holds"]["laid"] == {"data": [[0, WINDOW], [3 * WINDOW, 13 * WINDOW]], "unwritten": []}
    windows = [data[at : at + WINDOW] for at in range(0, MIB, WINDOW)]
    assert text == "".join(blake3(one).hexdigest() if any(one) else "-" for one in windows)
    (tail,) = asking(stretch(b"large", MIB, offset=13 * WINDOW, length=3 * WINDOW))["copied"]
    assert "laid" not in tail["holds"]
    assert text.endswith(tail["holds"]["digests"])
