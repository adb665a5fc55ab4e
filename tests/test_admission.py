"""What a client names is opened once, beneath the directory its server is kept to; and who joins a round."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import liar
import pytest
from machine import Pair, Place, assert_told, command, done, run, sh, snapshots, status, store
from oracle import assert_same
from remote import HOST, Server
from talking import Standby, talking
from worlds import fill

README = Path(__file__).parent.parent / "README.md"
KINDS = ("btrfs", "xfs", "ext4")
NOWHERE = str(uuid.UUID(int=7))


def lineage_of(volume: Path) -> str:
    lineage: str = status(volume)["volume"]["lineage"]
    return lineage


def push(wire: liar.Wire, target: object, channels: int = 1) -> Any:
    return wire.ask({"push": {"target": list(os.fsencode(str(target))), "channels": channels}})


def pull(wire: liar.Wire, source: object) -> Any:
    options = {"strict": False, "exclude": [], "include": [], "everything": False}
    asked = {"source": list(os.fsencode(str(source))), "options": options, "channels": 1}
    return wire.ask({"pull": asked | {"travel": {"compression": "None", "limit": None}}})


def digest(wire: liar.Wire, place: object) -> Any:
    return wire.ask({"digest": {"place": list(os.fsencode(str(place))), "reading": "nothing"}})


def describe(wire: liar.Wire, volume: object) -> Any:
    return wire.ask({"do": {"volume": list(os.fsencode(str(volume))), "deed": "describe"}})


def join(wire: liar.Wire, volume: object, token: str = NOWHERE) -> Any:
    return wire.ask({"join": {"volume": list(os.fsencode(str(volume))), "token": token}})


REQUESTS = (push, pull, digest, describe, join)


# --- the README ---------------------------------------------------------------------------------


def test_the_forced_command_of_the_readme_does_what_it_says(server: Server, place: Place) -> None:
    lines = [line for line in README.read_text().splitlines() if line.startswith('command="snapsync serve')]
    assert lines
    for line in lines:
        root, source = place("xfs"), place("btrfs")
        fill(source / "file", 0, 5_000, 1)
        rights = line.removesuffix(" ssh-ed25519 AAAA…").replace("/mnt/xfs", str(root))
        rights = rights.replace("snapsync serve", f"{command()[0]} serve")
        assert rights.endswith(",restrict"), "it allows nothing else"
        client = server.client(rights=rights)
        # As README's example names it.
        done("sync", source, client.at(root / "standby"), *client.options)
        assert_same(source, root / "standby")
        done("verify", f"{source}@latest", client.at(f"{root}/standby@latest"), *client.options)
        for words in (
            ("sync", source, client.at(root.parent / "standby")),
            ("sync", client.at(root / "standby"), place.absent("xfs")),
            ("promote", client.at(root / "standby")),
        ):
            assert run(*words, *client.options, "--quiet").code in (2, 3)
        assert not (root.parent / "standby").exists()
        words = [*shlex.split(client.rsh), HOST, f"touch {root}/mark"]
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
        assert not (root / "mark").exists()


# --- what can be named --------------------------------------------------------------------------


@pytest.fixture
def root(place: Place, kind: str) -> Path:
    """A directory with a volume, in which there is another, and with ways out."""
    root, outside = place(kind), place("xfs")
    for volume in (root / "own", root / "own" / "below" / "inner", outside):
        volume.mkdir(parents=True, exist_ok=True)
        fill(volume / "file", 0, 5_000, 1)
        done("snapshot", volume)
    (root / "link").symlink_to(outside)
    (root / "own" / "link").symlink_to(outside)
    (root / "inward").symlink_to(root / "own")
    (root / "~").mkdir()
    return root


def everything(root: Path) -> dict[str, list[str]]:
    """The snapshots of each store, and each name beside it."""
    found = {
        str(path): snapshots_of(path)
        for path in (root / "own", root / "own" / "below" / "inner", root / "link")
    }
    return found | {"": sorted(str(path) for path in root.rglob("*") if ".snapsync" not in path.parts)}


def snapshots_of(volume: Path) -> list[str]:
    return [snapshot["id"] for snapshot in snapshots(volume)]


OUT = (
    *("own/below/inner", "own/below", "own/new", "own/.snapsync", "own/.snapsync/store", ".snapsync"),
    *("link", "link/new", "inward", "own/link", "..", "own/..", "own/../own", "~", "~/new", "/", "/etc"),
    *("own/below/inner@latest", "link@latest"),
)


@pytest.mark.parametrize("kind", ["xfs"])
@pytest.mark.parametrize("request_of", REQUESTS, ids=lambda how: how.__name__)
def test_no_way_out_and_none_into_a_volume(root: Path, request_of: Callable[..., Any]) -> None:
    before = everything(root)
    for name in OUT if request_of is not push else OUT[:-1]:
        with talking("--restrict-to", str(root)) as wire:
            answer = request_of(wire, name)
            assert answer != "ready", name
            assert answer["failed"]["exit_code"] == 3, (name, answer)
            assert str(root) not in answer["failed"]["what"], "a path of the client's own"
    assert everything(root) == before
    if request_of is not join:
        for name in ("own", "./own", root / "own", f"{root}//own/"):
            with talking("--restrict-to", str(root)) as wire:
                answer = request_of(wire, name)
                assert answer == "ready" or "did" in answer or "primary" in answer["failed"]["what"], answer


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_a_standby_is_no_volume(kind: str, place: Place) -> None:
    """Its content is its client's, be it a store or a link of that name."""
    root, forged = place(kind), place("xfs")
    done("sync", place("xfs"), root / "standby")
    done("snapshot", forged)
    (root / "standby" / "x" / "y").mkdir(parents=True)
    shutil.copytree(forged / ".snapsync", root / "standby" / "x" / ".snapsync", symlinks=True)
    (root / "standby" / "z").mkdir()
    (root / "standby" / "z" / ".snapsync").symlink_to(forged / ".snapsync")
    for name in ("standby/x", "standby/x/y", "standby/z", "standby/z/new"):
        for request_of in (push, pull, digest):
            with talking("--restrict-to", str(root)) as wire:
                assert request_of(wire, name)["failed"]["exit_code"] == 3, name


@pytest.mark.parametrize("kind", ["xfs"])
def test_a_server_kept_to_a_volume_serves_that_and_nothing_in_it(root: Path) -> None:
    own = root / "own"
    for name in ("", ".", own):
        with talking("--restrict-to", str(own)) as wire:
            assert digest(wire, name) == "ready"
    for name in ("below", "below/inner", "new"):
        with talking("--restrict-to", str(own)) as wire:
            assert digest(wire, name)["failed"]["exit_code"] == 3
        with talking("--restrict-to", str(own)) as wire:
            assert push(wire, name)["failed"]["exit_code"] == 3
    assert not (own / "new").exists()


@pytest.mark.parametrize("kind", ["ext4"])
def test_a_file_system_that_is_mounted_beneath_is_reached(server: Server, place: Place, kind: str) -> None:
    root, other, source = place("xfs"), place(kind), place("xfs")
    fill(source / "file", 0, 5_000, 1)
    (root / "disk").mkdir()
    sh("mount", "--bind", other, root / "disk")
    try:
        client = server.client(forced=f"{command()[0]} serve --restrict-to {root}")
        done("sync", source, client.at("disk/standby"), *client.options)
        assert_same(source, other / "standby")
    finally:
        sh("umount", root / "disk")


# --- opened once --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("restricted", [True, False], ids=["restricted", "not"])
def test_a_source_is_the_directory_that_was_admitted(root: Path, place: Place, restricted: bool) -> None:
    secret = place("xfs")
    fill(secret / "secret", 0, 5_000, 1)
    done("snapshot", secret)
    before = snapshots_of(secret)
    own = root / "own"
    lineage = lineage_of(own)
    with talking(*(("--restrict-to", str(root)) if restricted else ())) as wire:
        standby = Standby(wire, own)
        assert standby.answer == "ready"
        own.rename(root / "aside")
        own.symlink_to(secret)
        wire.hear()
        opened = wire.ask({"looked": {"path": "/there", "lineage": None, "pending": None}})
        assert opened["open"]["lineage"] == lineage
    assert snapshots_of(secret) == before
    assert sorted(os.listdir(secret)) == [".snapsync", "secret"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_is_made_where_it_was_admitted(root: Path, place: Place) -> None:
    victim = place("xfs")
    (root / "place").mkdir()
    with talking("--restrict-to", str(root)) as wire:
        assert push(wire, "place/new") == "ready"
        (root / "place").rename(root / "aside")
        (root / "place").symlink_to(victim)
        assert wire.ask({"look": {"lineage": None}})["looked"]["lineage"] is None
        assert "opened" in wire.ask({"open": {"lineage": NOWHERE, "epoch": 1, "join": None}})
        made = root / "aside" / "new"
        assert (made / ".snapsync").is_dir()
        assert stat.S_IMODE(made.stat().st_mode) & 0o077 == 0, (
            "nobody else looks into it before its first commit"
        )
        assert os.listdir(victim) == []
    # What came to nothing is gone from there, too.
    assert os.listdir(root / "aside") == []
    assert os.listdir(victim) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_standby_is_the_directory_that_was_admitted(pair: Pair, place: Place, kind: str) -> None:
    victim = place(kind)
    fill(victim / "file", 0, 5_000, 9)
    pair.sync()
    lineage = lineage_of(pair.target)
    marks = sorted(os.listdir(victim))
    with talking("--restrict-to", str(pair.target.parent)) as wire:
        assert push(wire, pair.target.name) == "ready"
        aside = pair.target.with_name("aside")
        pair.target.rename(aside)
        pair.target.symlink_to(victim)
        assert wire.ask({"look": {"lineage": lineage}})["looked"]["lineage"] == lineage
        opened = wire.ask({"open": {"lineage": lineage, "epoch": 1, "join": None}})
        assert opened["opened"]["newest"]
    pair.target.unlink()
    aside.rename(pair.target)
    assert sorted(os.listdir(victim)) == marks
    pair.sync()


# --- further channels ---------------------------------------------------------------------------


@pytest.fixture
def waiting(pair: Pair) -> Iterator[tuple[liar.Wire, str]]:
    """A round that waits for a second channel, and its token."""
    fill(pair.source / "file", 0, 5_000, 1)
    pair.sync()
    with talking("--restrict-to", str(pair.target.parent)) as wire:
        assert push(wire, pair.target.name, channels=2) == "ready"
        opened = wire.ask({"open": {"lineage": lineage_of(pair.target), "epoch": 1, "join": None}})
        yield wire, opened["opened"]["join"]
    assert list((store(pair.target) / "join").iterdir()) == [], "it goes with its round"


def test_only_who_knows_the_token_of_a_round_joins_it(
    pair: Pair, place: Place, waiting: tuple[liar.Wire, str]
) -> None:
    _, token = waiting
    other = pair.target.with_name("other")
    other.mkdir()
    done("snapshot", other)
    told = set()
    for name, word in (
        (pair.target.name, NOWHERE),
        (pair.target.name, str(uuid.uuid4())),
        ("other", token),
        ("absent", token),
        (pair.target.parent.parent, token),
    ):
        with talking("--restrict-to", str(pair.target.parent)) as wire:
            failed = join(wire, name, word)["failed"]
            told.add((failed["exit_code"], failed["what"], failed["advice"]))
    assert len(told) == 1, told
    # Whoever may not name the volume joins none of its rounds.
    with talking("--restrict-to", str(other)) as wire:
        assert "failed" in join(wire, pair.target, token)
    with talking("--restrict-to", str(pair.target.parent), kill=True) as wire:
        assert join(wire, pair.target.name, token) == "ready"
    shutil.rmtree(other)


def test_the_socket_of_a_round_is_its_users_alone(pair: Pair, waiting: tuple[liar.Wire, str]) -> None:
    _, token = waiting
    sockets = store(pair.target) / "join"
    status = sockets.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, os.geteuid())
    (own,) = sockets.iterdir()
    assert own.name == token
    socket = own / "socket"
    # Somebody else connects to it all the same, where every directory lets him.
    directories = (own, sockets, sockets.parent, sockets.parent.parent)
    for directory in directories:
        directory.chmod(0o711)
    socket.chmod(0o777)
    connect = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(1))"
    )
    words = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "python3",
        "-I",
        "-c",
        connect,
        socket,
    ]
    stranger = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with talking("--restrict-to", str(pair.target.parent), kill=True) as wire:
        assert join(wire, pair.target.name, token) == "ready"
    stranger.kill()
    stranger.wait()
    for directory in directories[1:]:
        directory.chmod(0o700)


def test_the_example_in_the_help_is_that_of_the_readme() -> None:
    pattern = r'command="snapsync serve --restrict-to \S+ --receive-only",restrict ssh-ed25519 AAAA'
    assert re.search(pattern, README.read_text())
    told = re.sub(r"\s+", " ", run("serve", "--help").out)
    assert re.search(pattern, told)


def test_a_directory_that_is_not_there_serves_nobody(place: Place) -> None:
    with talking("--restrict-to", str(place.absent("xfs"))) as wire:
        assert "failed" in digest(wire, ".")
    assert_told(run("serve", "--read-only", "--receive-only", "--quiet"), codes=(2,))
