"""Names of snapshots are seen as what they are, and taken for nothing else, whoever gives them.

That is the command line, another machine, a delta, and a store of an older version.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from delta import parse
from machine import Place, assert_told, done, run, store
from talking import talking
from transfer import deliver, delivered, send

HIDDEN = [
    "a\x1b[2Jb",
    "a\x85b",
    "evil\u202etxt.exe",
    "a\u200bb",
    "a\u2028b",
    "a\ufeff",
    "two\nlines",
    "a\x7f",
]
"""What a terminal would obey, turn round, or not show."""
TAKEN = ["-1", "--help", ".hidden", "a/b", "..", ""]
"""What would be an option or a path."""
WORDS = ["latest", "7", "a@b", "x" * 201]
"""What asks for another snapshot of a volume."""


@pytest.fixture
def volume(place: Place) -> Path:
    made = place("ext4")
    (made / "file").write_text("content")
    done("snapshot", made, "--name", "good")
    return made


def test_the_command_line_gives_none(volume: Path, place: Place, subtests: pytest.Subtests) -> None:
    target = place.absent("xfs")
    for name in HIDDEN + TAKEN + WORDS:
        with subtests.test(name=name):
            assert_told(run("snapshot", volume, f"--name={name}", "-q"), "cannot be the name", codes=(2,))
            ran = run("sync", volume, target, f"--name={name}", "-q")
            assert_told(ran, "cannot be the name", codes=(2,))
            assert not target.exists()
    assert [snapshot["name"] for snapshot in done("list", volume)["snapshots"]] == ["good"]


def test_no_delta_and_no_shelf_gives_one(volume: Path, place: Place, subtests: pytest.Subtests) -> None:
    snapshot, shelf = f"{volume}@good", place("xfs")
    content = send(snapshot).content
    delta = parse(content)
    for name in HIDDEN + TAKEN:
        with subtests.test(name=name):
            ran = run("send", snapshot, f"--name={name}", "-o", shelf / "out", "-q")
            assert_told(ran, "cannot be the name", codes=(2,))
            ran = deliver(content, "--as-snapshot", shelf, f"--name={name}", "-q")
            assert_told(ran, "cannot be the name", codes=(2,))
            # The head of a delta is what its sender says.
            delta.header["snapshot"]["name"] = name
            assert_told(deliver(delta.bytes(), "--as-snapshot", shelf, "-q"), "--name", codes=(4,))
            assert [path.name for path in shelf.iterdir() if path.name != ".snapsync"] == []
    made = delivered(delta.bytes(), "--as-snapshot", shelf, "--name", "chosen")
    assert Path(made["path"]).name == "chosen"


def test_a_standby_takes_none(volume: Path, place: Place, subtests: pytest.Subtests) -> None:
    target = place.absent("xfs")
    done("sync", volume, target)
    (volume / "file").write_text("other content")
    done("snapshot", volume, "--name", "next")
    base = done("list", volume)["snapshots"][-2]["name"]
    delta = parse(send(f"{volume}@next", "--base", f"{volume}@{base}").content)
    for name in HIDDEN + TAKEN + WORDS:
        with subtests.test(name=name):
            delta.header["snapshot"]["name"] = name
            assert_told(deliver(delta.bytes(), target, "-q"), "no proper name", codes=(4,))
    assert (target / "file").read_text() == "content"


def test_one_of_an_older_version_is_shown_as_text_and_can_be_deleted(
    volume: Path, subtests: pytest.Subtests
) -> None:
    [record] = (store(volume) / "snapshots").glob("*/snapshot.json")
    for name in [*HIDDEN, "-1", ".hidden", "a@b"]:
        with subtests.test(name=name):
            record.write_text(json.dumps(json.loads(record.read_text()) | {"name": name}))
            ran = run("list", volume)
            assert ran.code == 0
            assert ran.out.replace("\n", "").isprintable()
            assert done("list", volume)["snapshots"][0]["name"] == name
    done("delete", f"{volume}@0")
    assert done("list", volume)["snapshots"] == []


def test_a_directory_hides_no_snapshot(volume: Path, place: Place, subtests: pytest.Subtests) -> None:
    """Whoever may make one beside a volume would say what its snapshots hold."""
    done("snapshot", volume, "--name", "monday")
    forged = volume.with_name(f"{volume.name}@monday")
    forged.mkdir()
    (forged / "file").write_text("forged")
    to = place.absent("ext4")
    for verb in (
        ("send", forged, "-o", to),
        ("diff", forged, volume),
        ("verify", forged, volume),
        ("restore", forged, "--to", to),
        ("clone", forged, to),
    ):
        with subtests.test(verb[0]):
            assert_told(run(*verb, "-q"), "is a directory, and a snapshot", codes=(2,))
            assert not to.exists()
    restriction = ("--restrict-to", str(volume.parent), "--read-only")
    with talking(*restriction) as wire:
        answer = wire.ask(
            {"digest": {"place": list(forged.name.encode()), "reading": "all", "lineage": None}}
        )
        assert "and a snapshot" in answer["failed"]["what"]
    assert run("verify", f"{forged}/.", f"{forged}/.", "-q").code == 0
    done("diff", f"{volume}@0", volume)
