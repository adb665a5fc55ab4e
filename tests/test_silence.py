"""A peer that goes silent is given up at both ends, and one that is busy is not."""

from __future__ import annotations

import os
import shlex
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import liar
import pytest
from machine import (
    MIB,
    FileSystems,
    Pair,
    Place,
    Ran,
    assert_told,
    command,
    done,
    run,
    sh,
    start,
    status,
    wait_until,
)
from oracle import assert_same
from remote import Network, descendants, is_gone, is_serve, script
from transfer import stored
from worlds import fill

SLOW = ("--bwlimit", "4M", "--compress", "none", "--quiet", "--timeout", "2")


@pytest.fixture
def near(tmp_path: Path) -> tuple[str, ...]:
    """What reaches another snapsync on this machine without ssh."""
    return ("--rsh", script(tmp_path / "rsh", 'shift; exec sh -c "exec $1"'), "--remote-path", command()[0])


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def servers(process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid in descendants(process.pid) if is_serve(pid)]


def under_way(pair: Pair, near: tuple[str, ...], way: str, *more: str) -> subprocess.Popen[str]:
    """A round in the middle of its data."""
    (pair.source / "large").write_bytes(os.urandom(24 * MIB))
    sides = (pair.source, f"there:{pair.target}") if way == "push" else (f"there:{pair.source}", pair.target)
    process = start("sync", *sides, *near, *SLOW, *more)
    wait_until(lambda: process.poll() is not None or stored(pair.target) > 4 * MIB)
    assert process.poll() is None, process.communicate()
    return process


def goes_on(pair: Pair) -> None:
    """What had arrived is kept, and the next round begins with it."""
    report = pair.sync()
    assert report["kept_bytes"] > 2 * MIB
    assert_same(pair.source, pair.target)
    assert status(pair.target)["unfinished"] is None


@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize("who", ["the server", "one further channel"])
def test_a_server_that_goes_silent_is_given_up(pair: Pair, near: tuple[str, ...], way: str, who: str) -> None:
    process = under_way(pair, near, way, "--channels", "2")
    first, *further = servers(process)
    with stopped(first if who == "the server" else further[0]):
        out, err = process.communicate(timeout=30)
    assert_told(Ran((), process.returncode, out, err), codes=(5,))
    if who == "the server":
        assert "nothing was heard of there for 2 s" in err
    wait_until(lambda: all(map(is_gone, (first, *further))), 30)
    goes_on(pair)


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_client_that_goes_silent_is_given_up(pair: Pair, near: tuple[str, ...], way: str) -> None:
    process = under_way(pair, near, way)
    serving = servers(process)
    with stopped(process.pid):
        wait_until(lambda: all(map(is_gone, serving)), 30)
        volume = pair.target if way == "push" else pair.source
        assert not status(volume)["busy"], "its lock is free"
    process.communicate(timeout=30)
    assert process.returncode == 5
    goes_on(pair)


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_cable_that_is_pulled_is_noticed_without_the_help_of_ssh(
    place: Place, network: Network, way: str
) -> None:
    client, pair = network.server.client(), Pair.make(place, ("xfs", "xfs"))
    (pair.source / "large").write_bytes(os.urandom(24 * MIB))
    sides = (pair.source, client.at(pair.target)) if way == "push" else (client.at(pair.source), pair.target)
    process = start("sync", *sides, *client.options, *SLOW)
    wait_until(lambda: process.poll() is not None or stored(pair.target) > 4 * MIB)
    network.link(up=False)
    try:
        began = time.monotonic()
        process.communicate(timeout=60)
        assert process.returncode == 5
        assert time.monotonic() - began < 20
        wait_until(lambda: not network.server.serving(), 20)
    finally:
        network.link(up=True)
    done("sync", *sides, *client.options)
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("verb", ["sync", "verify", "switch"])
def test_a_host_that_never_says_a_word_is_given_up(pair: Pair, tmp_path: Path, verb: str) -> None:
    fill(pair.source / "file", 0, 10_000, 1)
    pair.sync()
    silent = script(tmp_path / "silent", "exec sleep 1000")
    ran = run(verb, pair.source, f"there:{pair.target}", "--rsh", silent, "--timeout", "2", "--quiet")
    assert_told(ran, "nothing was heard", codes=(5,))
    assert status(pair.source)["volume"]["role"] == "primary"


def test_a_server_whose_client_never_says_a_word_ends() -> None:
    """Where it has said how long it waits; else that is a minute."""
    server = subprocess.Popen([*command(), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-3)
    assert server.stdin is not None
    assert server.stdout is not None
    wire = liar.Wire(server.stdout, server.stdin, patience=1)
    wire.greeted()
    assert server.wait(20) == 5


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_busy_end_is_not_taken_for_a_silent_one(
    file_systems: FileSystems, place: Place, near: tuple[str, ...], way: str
) -> None:
    """The standby's file system stands still for longer than the other end waits for a word."""
    source, disk = place("xfs"), file_systems.mount("xfs", 400 * MIB)
    fill(source / "file", 0, 10 * MIB, 1)
    target = disk / "s"
    sides = (source, f"there:{target}") if way == "push" else (f"there:{source}", target)
    done("sync", *sides, *near, "--timeout", "2")
    fill(source / "file", 0, 10 * MIB, 2)
    sh("fsfreeze", "-f", disk)
    thaw = threading.Timer(5, lambda: sh("fsfreeze", "-u", disk))
    thaw.start()
    try:
        done("sync", *sides, *near, "--timeout", "2")
    finally:
        thaw.join()
    assert_same(source, target)
    sh("umount", disk)


# --- other versions -------------------------------------------------------------------------------

OLD = """
import json, struct, sys
def tell(message):
    text = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack("<I", len(text)) + text)
    sys.stdout.buffer.flush()
sys.stdout.buffer.write(b"snapsync protocol 1\\n")
tell({"software": "snapsync 0.0.9", "features": []})
sys.stdin.buffer.readline()
"""


def test_an_older_server_is_told_with_both_versions(pair: Pair, tmp_path: Path) -> None:
    fill(pair.source / "file", 0, 10_000, 1)
    (old := tmp_path / "old.py").write_text(OLD)
    rsh = shlex.join([sys.executable, str(old)])
    ran = run("sync", pair.source, f"there:{pair.target}", "--rsh", rsh, "--quiet")
    assert_told(ran, "snapsync 0.0.9", "protocol 1", "protocol 3", "the one on there is older", codes=(1,))
    assert not (pair.source / ".snapsync").exists()


def test_an_older_client_is_told_in_its_own_words() -> None:
    server = subprocess.Popen([*command(), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-3)
    out, to = server.stdout, server.stdin
    assert out is not None
    assert to is not None

    def tell(message: bytes) -> None:
        to.write(struct.pack("<I", len(message)) + message)
        to.flush()

    def hear() -> bytes:
        (length,) = struct.unpack("<I", out.read(4))
        return out.read(length)

    to.write(b"snapsync protocol 1\n")
    tell(b'{"software": "snapsync 0.0.9", "features": []}')
    assert out.readline() == b"snapsync protocol 1\n"
    assert b"software" in hear()
    tell(b'{"push": {"target": [47], "channels": 1}}')
    said = hear()
    assert b'"failed"' in said
    assert b"protocol 3" in said
    assert b"snapsync 0.0.9" in said
    assert server.wait(20) != 0
