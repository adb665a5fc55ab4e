"""Verbs about a volume on another machine tell what they tell there, over a real sshd, and no key does more
than it may.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import liar
import pytest
from machine import Pair, Place, assert_told, command, done, run, sh, snapshots
from oracle import assert_same, freeze
from remote import CLIENT_CONFIG, HOST, Client, Server, script
from worlds import fill

MOVING = ("seconds", "counters")
"""What is another figure each time."""


@pytest.fixture
def client(server: Server) -> Client:
    return server.client()


@pytest.fixture
def volume(place: Place) -> Path:
    """The primary of three rounds, with a standby, holds, a clone and names of any bytes."""
    pair = Pair.make(place, ("xfs", "ext4"))
    (pair.source / "dir").mkdir()
    fill(pair.source / "dir/plan", 0, 9_000, 1)
    (pair.source / "text").write_text("one\n")
    fill(pair.source / "odd \udcff", 0, 70, 2)
    pair.sync("--name", "first")
    (pair.source / "text").write_text("two\n")
    os.rename(pair.source / "dir", pair.source / "moved")
    pair.sync("--name", "second")
    (pair.source / "text").unlink()
    fill(pair.source / "moved/plan", 100, 50, 3)
    pair.sync("--name", "third")
    done("hold", f"{pair.source}@first", "--reason", "for the audit")
    done("clone", f"{pair.source}@second", place.absent("xfs"))
    return pair.source


def settled(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in MOVING}


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("list",),
        ("find", "*"),
        ("find", "*plan*", "--deleted"),
        ("find", "*", "--type", "f", "--larger", "1K", "--since", "2020-01-01"),
        ("prune", "--keep-last", "1", "--dry-run"),
    ],
    ids=" ".join,
)
def test_a_verb_tells_from_afar_what_it_tells_there(
    volume: Path, client: Client, words: tuple[str, ...]
) -> None:
    verb, *options = words
    here = settled(done(verb, volume, *options))
    there = settled(done(verb, client.at(volume), *options, *client.options))
    assert there["volume"].pop("path") == client.at(here["volume"].pop("path"))
    for lag in there.get("lags", ()):
        assert lag.pop("source") == client.at(volume)
    for lag in here.get("lags", ()):
        assert lag.pop("source") == str(volume)
    for lag in (*here.get("lags", ()), *there.get("lags", ())):
        lag.pop("age", None)
        lag.pop("seconds", None)
    assert there == here


def test_the_versions_of_a_file_are_told_from_afar(volume: Path, client: Client) -> None:
    for words in (
        ("text",),
        ("text", "--diff"),
        ("text", "1", "2", "--diff"),
        ("odd \udcff", "--diff", "0", "1"),
    ):
        name, *options = words
        here = settled(done("versions", volume / name, *options))
        there = settled(done("versions", client.at(volume / name), *options, *client.options))
        assert there["volume"].pop("path") == client.at(here["volume"].pop("path"))
        assert there == here
    one = run("versions", client.at(volume / "text"), "--diff", "1", "2", *client.options)
    assert one.out == run("versions", volume / "text", "--diff", "1", "2").out
    assert "-one\n+two\n" in one.out
    assert_told(run("versions", client.at(volume / "none"), *client.options, "-q"), "is not in", codes=(2,))


def test_an_old_version_of_a_file_is_restored_from_afar(volume: Path, client: Client, tmp_path: Path) -> None:
    found, words = tmp_path / "found", (client.at(volume / "text"), "--restore", "1")
    done("versions", *words, "--to", found, *client.options)
    assert found.read_text() == "one\n"
    assert_told(run("versions", *words, *client.options, "-q"), "in place", "--to", codes=(2,))


def test_what_changed_is_found_there_and_only_that_travels(
    volume: Path, client: Client, tmp_path: Path
) -> None:
    sides = [f"{volume}@first", f"{volume}@third"]
    here, there = tmp_path / "here.arrow", tmp_path / "there.arrow"
    one = done("diff", *sides, "-o", here)
    far = tuple(map(client.at, sides))
    two = done("diff", *far, "-o", there, *client.options)
    assert there.read_bytes() == here.read_bytes()
    assert (two["base"], two["target"], two["output"]) == (*far, str(there))
    assert two["changes"] == one["changes"]
    assert done("diff", *far, *client.options)["output"] is None
    assert run("diff", *far, *client.options).out == run("diff", *sides).out
    assert_told(run("diff", far[0], sides[1], *client.options, "-q"), "two machines", codes=(2,))
    assert sorted(os.listdir(tmp_path)) == ["here.arrow", "there.arrow"]


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_a_snapshot_is_restored_from_afar(place: Place, client: Client, kind: str) -> None:
    pair = Pair.make(place, (kind, "xfs"))
    (pair.source / "dir/deep").mkdir(parents=True)
    fill(pair.source / "dir/deep/file", 0, 200_000, 1)
    fill(pair.source / "odd \udcff", 0, 70, 2)
    (pair.source / "link").symlink_to("odd")
    pair.sync("--name", "first")
    was = freeze(pair.source)
    fill(pair.source / "dir/deep/file", 0, 100, 9)
    pair.sync("--name", "second")
    whole, some = place.absent("ext4"), place.absent("xfs")
    standby = client.at(pair.target)
    report = done("restore", f"{standby}@first", "--to", whole, *client.options)
    assert report["volume"]["path"] == standby
    assert_same(was, whole)
    done("restore", f"{standby}@-1", "dir/deep", "--to", some, *client.options)
    assert (some / "dir/deep/file").read_bytes() == (whole / "dir/deep/file").read_bytes()
    assert sorted(os.listdir(some)) == ["dir"]
    again = run("restore", f"{standby}@first", "--to", whole, *client.options, "-q")
    assert_told(again, "is not empty", codes=(3,))
    absent = place.absent("ext4")
    for words, why, code in (
        ((f"{standby}@none",), "none", 2),
        ((f"{standby}@first", "no/such"), "no/such", 2),
        ((f"{standby}@first", "--match", "*"), "cannot select", 2),
        ((standby,), "does not name a snapshot", 2),
    ):
        ran = run("restore", *words, "--to", absent, *client.options, "-q")
        assert_told(ran, why, codes=(code,))
        assert not absent.exists()


def test_snapshots_are_pruned_from_afar(volume: Path, client: Client) -> None:
    report = done("prune", client.at(volume), "--keep-last", "1", *client.options)
    assert [snap["name"] for snap in report["pruned"]] == ["second"]
    assert [snap["name"] for snap in snapshots(volume)] == ["first", "third"]
    for words in ((), ("--keep-last", "-1")):
        assert run("prune", client.at(volume), *words, *client.options, "-q").code == 2


# --- what a key may ask -----------------------------------------------------------------------


def restricted(server: Server, *options: str) -> Client:
    return server.client(forced=shlex.join([*command(), "serve", *options]))


def questions(volume: Path, client: Client) -> Iterator[tuple[str, ...]]:
    at = client.at(volume)
    yield "status", at
    yield "list", at
    yield "find", at, "*"
    yield "versions", f"{at}/text"
    yield "diff", f"{at}@first", f"{at}@second"
    yield "prune", at, "--keep-last", "1", "--dry-run"


def test_a_key_that_may_only_read_asks_and_deletes_nothing(volume: Path, server: Server) -> None:
    client = restricted(server, "--restrict-to", str(volume.parent), "--read-only")
    for words in questions(volume, client):
        assert run(*words, *client.options, "-q").code == 0, words
    ran = run("prune", client.at(volume), "--keep-last", "1", *client.options, "-q")
    assert_told(ran, "delete no snapshots", "--allow-prune", codes=(3,))
    assert len(snapshots(volume)) == 3
    client = restricted(server, "--restrict-to", str(volume.parent), "--read-only", "--allow-prune")
    done("prune", client.at(volume), "--keep-last", "1", *client.options)
    assert len(snapshots(volume)) == 2


def test_a_restricted_key_hears_nothing_of_other_places(volume: Path, server: Server) -> None:
    standby = done("status", volume)["standbys"][0]["path"]
    clone = done("list", volume)["clones"][0]["path"]
    client = restricted(server, "--restrict-to", str(volume.parent))
    for words in questions(volume, client):
        told = run(*words, "--json", *client.options)
        assert told.code == 0, told.err
        assert standby not in told.out + told.err
        assert clone not in told.out + told.err
    assert done("list", client.at(volume), *client.options)["holds"][0]["reason"] == "for the audit"


def test_a_key_that_may_only_receive_asks_nothing(volume: Path, server: Server) -> None:
    client = restricted(server, "--restrict-to", str(volume.parent), "--receive-only")
    for words in questions(volume, client):
        assert_told(run(*words, *client.options, "-q"), "--receive-only", codes=(3,))


def test_a_restricted_key_asks_for_nothing_outside(volume: Path, server: Server, place: Place) -> None:
    inside = place("xfs")
    (inside / "link").symlink_to(volume)
    client = restricted(server, "--restrict-to", str(inside))
    for there in (volume, inside / "link", inside / f"../{volume.name}"):
        for words in questions(there, client):
            ran = run(*words, *client.options, "-q")
            assert ran.code in (2, 3), (words, ran.err)
            assert "first" not in ran.out


@pytest.mark.parametrize("file", [".snapsync/volume.json", "../{}/text", "moved/../text", "."])
def test_no_path_of_a_file_leads_out_of_its_volume(volume: Path, server: Server, file: str) -> None:
    client = restricted(server, "--restrict-to", str(volume.parent))
    ran = run("versions", f"{client.at(volume)}/{file.format(volume.name)}", *client.options, "-q")
    assert_told(ran, "in no volume", codes=(2,))


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_restricted_key_hears_nothing_of_what_patterns_leave_out(
    server: Server, place: Place, kind: str
) -> None:
    pair = Pair.make(place, (kind, "ext4"))
    for name in ("kept", "secret"):
        (pair.source / name).write_text(f"{name} it is")
    done("sync", pair.source, pair.target, "--exclude", "/secret")
    client = restricted(server, "--restrict-to", str(pair.source.parent))
    for words in ((), ("--diff", "0")):
        ran = run("versions", client.at(pair.source / "secret"), *words, *client.options, "-q")
        assert_told(ran, "in no volume", codes=(2,))
        assert run("versions", client.at(pair.source / "kept"), *words, *client.options).code == 0
    found = done("find", client.at(pair.source), "*", *client.options)["found"]
    assert "secret" not in [one["path"] for one in found]


# --- other versions and lies ------------------------------------------------------------------

PEER = """
import json, sys
sys.path.insert(0, {tests!r})
import liar
wire = liar.Wire(sys.stdin.buffer, sys.stdout.buffer, *{features!r})
wire.greeted()
if {features!r}:
    wire.hear()
for message, block in {said!r}:
    wire.tell(message)
    wire.sink.write(block)
"""


def peer(tmp_path: Path, said: list[tuple[Any, bytes]], *features: str) -> str:
    """The program of --rsh that says this, whatever it is asked."""
    tests = str(Path(liar.__file__).parent)
    (program := tmp_path / "peer.py").write_text(PEER.format(tests=tests, features=features, said=said))
    return shlex.join([sys.executable, str(program)])


@pytest.mark.parametrize(
    "words",
    [
        ("status", "there:/v"),
        ("restore", "there:/v@1", "--to", "/nowhere/x"),
        ("verify", "there:/v", "/"),
    ],
    ids=lambda words: words[0],
)
def test_a_snapsync_that_cannot_do_it_is_told_with_both_versions(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    to = [str(tmp_path / "x") if word == "/nowhere/x" else word for word in words]
    ours = run("--version").out.split()[-1]
    ran = run(*to, "--rsh", peer(tmp_path, []), "-q")
    assert_told(ran, "there runs liar", f"snapsync {ours}", "install", codes=(1,))


def page(report: Any) -> list[tuple[Any, bytes]]:
    text = report if isinstance(report, bytes) else json.dumps(report).encode()
    return [({"report": {"length": len(text)}}, text), ("told", b"")]


VOLUME = {"path": "/v", "id": liar.VOLUME, "lineage": liar.VOLUME, "epoch": 1, "role": "standby"}
VOLUME |= {"provider": "pool", "filesystem": "ext4", "subset": {"exclude": [], "include": []}}
LISTED = {"volume": VOLUME, "snapshots": [], "alone": [], "holds": [], "clones": [], "parts": []}
SNAPSHOT = {"id": liar.VOLUME, "name": "n", "sequence": 0, "parent": None, "created": "2026-01-01T00:00:00Z"}
SNAPSHOT |= {"provider": "pool", "entries": 1, "bytes": 1, "subset": {"exclude": [], "include": []}}


def listed(**other: Any) -> list[tuple[Any, bytes]]:
    return page(LISTED | {"snapshots": [SNAPSHOT | other]})


LIES = {
    "nothing": [],
    "no report": page(b"what?"),
    "another kind": page([1, 2]),
    "too little": page({"volume": VOLUME}),
    "text for a number": listed(sequence="0"),
    "a number for text": listed(name=7),
    "a number without end": listed(bytes=10**40),
    "a time that is none": listed(created="yesterday"),
    "a time of nowhere": listed(created="2026-01-01T00:00:00"),
    "a list that is none": page(LISTED | {"snapshots": 3}),
    "no text": page(b"\xff\xfe"),
    "too deep": page(b"[" * 5000),
    "without an end": page(LISTED)[:1],
    "longer than it may be": [({"report": {"length": 1 << 31}}, b"")],
    "no length at all": [({"report": {"length": 0}}, b"")],
    "another answer": [("kept", b"")],
    "changes that nobody asked for": [({"records": {"length": 1}}, b"x"), *page(LISTED)],
}


@pytest.mark.parametrize("lie", LIES)
def test_no_lie_of_a_server_is_more_than_an_error(tmp_path: Path, lie: str) -> None:
    ran = run("list", "there:/v", "--rsh", peer(tmp_path, LIES[lie], "question"))
    assert_told(ran, "there", codes=(4, 5))


def test_a_true_report_is_no_lie_and_moves_no_cursor(tmp_path: Path) -> None:
    said = page(LISTED | {"snapshots": [SNAPSHOT | {"name": "\x1b[2Jn"}]})
    ran = run("list", "there:/v", "--rsh", peer(tmp_path, said, "question"))
    assert ran.code == 0, ran.err
    assert "there:/v: 1 snapshot" in ran.out
    assert "\x1b" not in ran.out


def test_changes_that_are_no_manifest_are_not_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept.arrow"
    kept.write_text("mine")
    words = ("diff", "there:/v@1", "there:/v@2", "-o", kept)
    said = [({"records": {"length": 4}}, b"none"), *page({})]
    assert_told(run(*words, "--rsh", peer(tmp_path, said, "question"), "-q"), codes=(4,))
    assert kept.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["kept.arrow", "peer.py"]


# --- how ssh is called ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nowhere() -> Iterator[tuple[str, ...]]:
    """A network whose other hosts swallow every packet, and what starts a command in it."""
    name = f"snapsync-{os.getpid()}"
    sh("ip", "netns", "add", name)
    try:
        sh("ip", "-n", name, "link", "add", "hole", "type", "veth", "peer", "name", "end")
        sh("ip", "-n", name, "address", "add", "192.0.2.1/24", "dev", "hole")
        for end in ("hole", "end"):
            sh("ip", "-n", name, "link", "set", end, "up")
        where = ("lladdr", "02:00:00:00:00:09", "dev", "hole", "nud", "permanent")
        sh("ip", "-n", name, "neighbour", "add", "192.0.2.9", *where)
        yield ("ip", "netns", "exec", name)
    finally:
        sh("ip", "netns", "delete", name)


def configured(tmp_path: Path, *lines: str) -> str:
    where = {"host": HOST, "address": "192.0.2.9", "port": 22, "user": "root", "home": tmp_path}
    config = tmp_path / "config"
    text = CLIENT_CONFIG.format(key=tmp_path / "none", **where)
    config.write_text(text + "".join(f"    {line}\n" for line in lines))
    return f"ssh -F {config}"


@pytest.mark.parametrize(
    ("lines", "options"),
    [((), ("--timeout", "6")), (("ConnectTimeout 2",), ()), ((), ("-o", "ConnectTimeout=2"))],
    ids=["by itself", "as configured", "as asked"],
)
def test_a_host_that_swallows_packets_is_given_up(
    tmp_path: Path, nowhere: tuple[str, ...], lines: tuple[str, ...], options: tuple[str, ...]
) -> None:
    rsh, began = configured(tmp_path, *lines), time.monotonic()
    words = [*nowhere, *command(), "list", f"{HOST}:/v", "--rsh", rsh, *options]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1, ran.stderr
    assert f"cannot connect to {HOST}" in ran.stderr
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("lines", "options", "connect", "alive"),
    [
        ((), (), "40", "20"),
        ((), ("--timeout", "30"), "20", "10"),
        (("ConnectTimeout 7", "ServerAliveInterval 9"), (), None, None),
        (("ConnectTimeout 7",), (), None, "20"),
        ((), ("-o", "ServerAliveInterval=5"), "40", "5"),
    ],
)
def test_what_the_users_own_configuration_says_counts(
    tmp_path: Path,
    lines: tuple[str, ...],
    options: tuple[str, ...],
    connect: str | None,
    alive: str | None,
) -> None:
    """The program writes down how it was called, and otherwise is the real one."""
    called = tmp_path / "called"
    (tmp_path / "bin").mkdir()
    program = script(tmp_path / "bin/ssh", f'case "$*" in *-G*) exec ssh "$@";; esac; echo "$*" > {called}')
    rsh = configured(tmp_path, *lines).replace("ssh ", f"{program} ", 1)
    assert run("list", f"{HOST}:/v", "--rsh", rsh, *options, "-q").code == 1
    words = called.read_text().split()

    def said(option: str) -> str | None:
        return next((word.split("=")[1] for word in words if word.startswith(f"{option}=")), None)

    assert (said("ConnectTimeout"), said("ServerAliveInterval")) == (connect, alive)
