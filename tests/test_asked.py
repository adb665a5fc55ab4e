"""Each field that a client may send, and what a restricted server does with it, as docs/format.md says."""

from __future__ import annotations

import os
import re
import shlex
import uuid
from pathlib import Path
from typing import Any

import pytest
from machine import Place, command, done, forget, run, snapshots
from oracle import assert_same
from talking import NOTHING, change, record, talking
from worlds import fill

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "rust/engine/src"
CARE = {"check": True, "discard_drift": True, "read_only": False}
KEEP = {"last": 1}
# What is tried of each field of `options`, and where the standby is asked for what follows from it.
OPTIONS: dict[str, tuple[Any, str]] = {
    "name": ("mine", "begin"),
    "snap": ("own-1", "begin"),
    "keep": (KEEP, "prune"),
    "strict": (True, "begin"),
    "no_space_check": (True, "begin"),
    "keep_going": (True, "begin"),
    "exclude": (["*"], "begin"),
    "include": (["x"], "begin"),
    "everything": (True, "begin"),
    "care": (CARE, "open"),
    "new_standby": (True, "begin"),
    "scrub": ({"period": 1, "limit": 1 << 20}, "scrub"),
    "history": ("light", "begin"),
    "guard": ({"deleted": 0}, "begin"),
    "adopt": ("all", "open"),
    "owners": ({"rules": []}, "open"),
}
TRAVEL: dict[str, tuple[Any, str]] = {"compression": ({"Zstd": 3}, "commit"), "limit": (1 << 20, "commit")}
PULL = {f"options.{name}": tried for name, tried in OPTIONS.items()} | {
    f"travel.{name}": tried for name, tried in TRAVEL.items()
}
REFUSED = {"options.name", "options.exclude", "options.include", "options.everything", "options.history"}
# By a server that lets its client delete nothing, too.
OWNERS = {"options.history"}
# What a push does with the standby that it feeds, as its primary's user says it.
PUSHED = {
    "strict": ["--strict"],
    "no_space_check": ["--no-space-check"],
    "care": ["--check", "--discard-drift"],
    "spare": ["--keep-last", "1"],
    "keep": ["--keep-last", "1"],
    "needed": ["--keep-last", "1"],
    "pieces": ["--scrub", "1s"],
    "stretches": [],
    "again": ["--history", "light"],
    "adopt": [],
    "owners": ["--owners", "names"],
    "names": ["--owners", "names"],
    "reading": [],
}


def body(source: str, start: str) -> str:
    """What is between the braces behind `start`."""
    text = (ENGINE / source).read_text()
    text = re.sub(r'#\[serde\([^\]]*\brename = "(\w+)"[^\]]*\]\s*(?:pub )?\w+', r"\1", text)
    text = re.sub(r"#\[serde\(skip\)\]\s*pub \w+:", "", text)
    text = re.sub(r"//[^\n]*|#\[[^\]]*\]", "", text)
    text = text[text.index(start) :]
    text = text[text.index("{") :]
    depth = 0
    for at, letter in enumerate(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if not depth:
            return text[1:at]
    raise AssertionError(start)


def fields(source: str, start: str) -> set[str]:
    """As they are called on the wire, without those that never are there."""
    return set(re.findall(r"(\w+)\s*:(?!:)", body(source, start)))


def rows() -> list[list[str]]:
    told = (ROOT / "docs/format.md").read_text()
    table = told[told.index("| the client asks for |") :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def words(text: str) -> set[str]:
    return {
        word.split(".")[-1] for code in re.findall(r"`([^`]*)`", text) for word in re.findall(r"[\w.]+", code)
    }


def test_each_field_of_a_request_is_in_the_table_and_tried() -> None:
    asked = fields("remote/messages.rs", "enum Request")
    assert {"target", "options", "token", "deed", "reading"} <= asked, "the search finds too little"
    options = fields("options.rs", "pub struct Options")
    travel = fields("options.rs", "pub struct TransferOptions")
    assert options == set(OPTIONS)
    assert travel == set(TRAVEL)
    named = set().union(*(words(row[0]) for row in rows()))
    assert asked | options <= named
    half = fields("remote/messages.rs", "enum Ask") - {
        "lineage",
        "epoch",
        "promotions",
        "join",
        "secret",
        "report",
        "plan",
        "spares",
        "subset",
    }
    assert half - {"has_manifest"} == set(PUSHED), (
        "what a primary's half asks is about its standby, and tried"
    )
    for field in REFUSED:
        (row,) = (row for row in rows() if field.split(".")[-1] in words(row[0]))
        assert row[3].startswith("refused"), row


def names(volume: Path) -> list[str]:
    return [snapshot["name"] for snapshot in snapshots(volume)]


@pytest.fixture
def primary(place: Place) -> Path:
    """With patterns, two snapshots of its owner's and a standby."""
    volume = place("xfs")
    for number in range(2):
        fill(volume / "file", 0, 50_000, number)
        done("snapshot", volume, "--name", f"own-{number}")
    done("sync", volume, place.absent("xfs"), "--exclude", "*.tmp", "--name", "own-2")
    return volume


def pulled(primary: Path, server: tuple[str, ...], field: str) -> dict[str, Any]:
    """What the primary's half asks a client whose `field` is what is tried; `failed` where it refuses."""
    kind, name = field.split(".")
    value = PULL[field][0]
    options = NOTHING | ({name: value} if kind == "options" else {})
    if name == "include":
        options["exclude"] = ["/*"]
    travel = {"compression": "None", "limit": None} | ({name: value} if kind == "travel" else {})
    request = {"source": list(os.fsencode(primary)), "options": options, "travel": travel, "channels": 1}
    told = record(primary)
    volume = {
        "path": "/there",
        "id": str(uuid.uuid4()),
        "lineage": told["lineage"],
        "epoch": told["epoch"],
        "role": "standby",
        "provider": "pool",
        "filesystem": "ext4",
        "subset": {"exclude": [], "include": []},
    }
    nothing: dict[str, Any] = {"newest": None, "pending": None, "recovered": [], "join": None}
    if name == "scrub":
        # There is something to read again for who had a round some time ago.
        ((standby, known),) = told["standbys"].items()
        volume["id"] = standby
        newest = snapshots(Path(known["path"]))[-1]
        nothing |= {"newest": newest, "secret": record(Path(known["path"]))["secret"]}
        change(primary, lambda record: record["standbys"][standby]["scrub"].update(until=0))
    asks: dict[str, Any] = {}
    with talking(*server) as wire:
        said = wire.ask({"pull": request})
        while True:
            ask = "ready" if said == "ready" else said if isinstance(said, str) else next(iter(said))
            asks[ask] = said if isinstance(said, str) else said[ask]
            match ask:
                case "done" | "failed":
                    return asks
                case "ready":
                    said = wire.hear()
                case "look":
                    said = wire.ask({"looked": {"path": "/there", "lineage": None, "pending": None}})
                case "open":
                    said = wire.ask({"opened": {"volume": volume} | nothing})
                case "begin":
                    wire.pass_delta()
                    wire.tell({"begun": {"losses": [], "held": {"runs": [], "parts": {}}, "kept": 0}})
                    wire.pass_frames()
                    said = wire.hear()
                case "commit":
                    wanted = value if name in ("name", "snap") else names(primary)[-1]
                    (brought,) = (one for one in snapshots(primary) if one["name"] == wanted)
                    said = wire.ask({"committed": {"snapshot": brought, "notes": []}})
                case "secret":
                    said = wire.ask("kept")
                case "scrub":
                    said = wire.ask({"scrubbed": [{"lacks": "it is gone"}] * len(asks["scrub"]["pieces"])})
                case "prune":
                    said = wire.ask({"pruned": []})


@pytest.mark.parametrize("field", sorted(PULL))
@pytest.mark.parametrize("server", ["--restrict-to", "--read-only"])
def test_a_restricted_server_does_with_each_field_what_the_table_says(
    primary: Path, server: str, field: str
) -> None:
    before, were = record(primary), names(primary)
    asks = pulled(primary, ("--restrict-to", str(primary.parent), *{server} & {"--read-only"}), field)
    now, (value, kind) = record(primary), PULL[field]
    fixed = {"id", "lineage", "epoch", "role", "promotions"}
    if field in OWNERS or (server == "--read-only" and field in REFUSED):
        assert asks["failed"]["exit_code"] == 3, asks
        assert now == before
        assert names(primary) == were
        return
    assert "done" in asks, asks
    if kind != "begin":
        assert kind in asks, asks
    if field == "options.owners":
        assert asks["open"]["owners"] == value
        kind = "owners"
    if field == "options.adopt":
        assert asks["open"]["adopt"]["reading"] == value
        kind = "adopt"
    for name in {"open": ["care"], "begin": ["strict", "no_space_check"]}.get(kind, []):
        wanted = value if field == f"options.{name}" else False
        assert asks[kind][name] == wanted
    assert ("prune" in asks) == (field == "options.keep")
    assert ("scrub" in asks) == (field == "options.scrub")
    assert names(primary)[: len(were)] == were, "nothing is deleted for a client"
    others = {} if field == "options.scrub" else before["standbys"]
    assert others.items() <= now["standbys"].items()
    if server == "--read-only":
        fixed |= {"subset", "secret", "doubted"}
        assert len(names(primary)) - len(were) == (field != "options.snap")
        assert len(now["standbys"]) == len(others) + 1
    assert {name: before.get(name) for name in fixed} == {name: now.get(name) for name in fixed}


@pytest.mark.parametrize("field", sorted(PUSHED))
def test_a_server_that_may_only_receive_does_it_with_the_standby_that_is_fed_alone(
    place: Place, field: str
) -> None:
    source, root, other = place("xfs"), place("xfs"), place("ext4")
    fill(source / "file", 0, 200_000, 1)
    fill(other / "other", 0, 5_000, 2)
    done("sync", source, root / "own")
    done("sync", other, root / "theirs")
    fill(source / "file", 0, 5_000, 3)
    if field == "stretches":
        forget(source)
    theirs, were = record(root / "theirs"), names(root / "own")
    serve = [*command(), "serve", "--restrict-to", str(root), "--receive-only"]
    rsh = ("--rsh", shlex.join(["sh", "-c", f"exec {shlex.join(serve)}"]))
    for target, code in (("own", 0), ("theirs", 3)):
        ran = run("sync", source, f"there:{target}", *rsh, *PUSHED[field], "--json")
        assert ran.code == code, ran
        if field == "stretches" and not code:
            assert ran.json["data_bytes"] == 64 << 10, "what was told is used"
    assert record(root / "theirs") == theirs
    assert names(root / "own")[: len(were)] == were, "only with --allow-prune"
    assert_same(source, root / "own")
    assert_same(other, root / "theirs")
