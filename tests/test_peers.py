"""Peers that do not mean well, and what may be done to a standby's history from afar."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import liar
import pytest
from machine import Pair, Place, Ran, assert_told, command, done, run, snapshots, status, store, wait_until
from oracle import assert_same
from remote import Server
from worlds import fill

LIAR = Path(liar.__file__)


def lying(*words: object) -> tuple[str, str]:
    return ("--rsh", shlex.join([sys.executable, str(LIAR), *map(str, words)]))


def two_rounds(pair: Pair) -> list[str]:
    for seed in range(2):
        fill(pair.source / "file", 0, 10_000, seed)
        pair.sync()
    return [snapshot["id"] for snapshot in snapshots(pair.target)]


def kept(pair: Pair, before: list[str]) -> None:
    """All of the standby's history is there, and an honest round goes on from it."""
    assert [snapshot["id"] for snapshot in snapshots(pair.target)] == before
    fill(pair.source / "file", 0, 10_000, 7)
    pair.sync()
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("keep", [0, 1, 1 << 40])
@pytest.mark.parametrize("options", [(), ("--keep-last", "1")], ids=["keep all", "keep one"])
def test_no_primary_deletes_what_its_standby_holds(pair: Pair, keep: int, options: tuple[str, ...]) -> None:
    before = two_rounds(pair)
    ran = run("sync", "there:/x", pair.target, *lying("prune", keep), *options, "--quiet")
    assert_told(ran, codes=(3, 4))
    kept(pair, before)


@pytest.mark.parametrize("keep", [0, 1])
def test_no_client_deletes_what_a_standby_holds_without_bringing_more(pair: Pair, keep: int) -> None:
    before = two_rounds(pair)
    for restriction in ((), ("--receive-only",)):
        server = subprocess.Popen(
            [*command(), "serve", *restriction], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-3
        )
        assert server.stdin is not None
        assert server.stdout is not None
        wire = liar.Wire(server.stdout, server.stdin)
        wire.greeted()
        assert wire.ask({"push": {"target": list(os.fsencode(pair.target)), "channels": 1}}) == "ready"
        lineage = status(pair.target)["volume"]["lineage"]
        assert wire.ask({"look": {"lineage": lineage}})["looked"]["lineage"] == lineage
        assert "opened" in wire.ask({"open": {"lineage": lineage, "epoch": 1, "join": None}})
        assert wire.ask({"prune": {"keep": {"last": keep}, "needed": []}})["failed"]["exit_code"] in (3, 4)
        server.stdin.close()
        assert server.wait(20) != 0
    kept(pair, before)


def test_a_restricted_server_deletes_nothing_unless_it_may(server: Server, place: Place) -> None:
    source, folder = place("xfs"), place("xfs")
    fill(source / "file", 0, 1000, 1)

    def client(*options: str) -> tuple[str, ...]:
        forced = shlex.join([*command(), "serve", "--restrict-to", str(folder), *options])
        return server.client(forced=forced).options

    def sync(*options: str) -> Ran:
        return run("sync", source, f"standby-host:{folder}/standby", *options, "--keep-last", "1", "--quiet")

    assert sync(*client()).code == 0
    ran = sync(*client())
    assert ran.code == 0, "the round is good"
    assert len(snapshots(source)) == 1, "the primary prunes its own side"
    assert len(snapshots(folder / "standby")) == 2
    assert_same(source, folder / "standby")
    assert sync(*client("--allow-prune")).code == 0
    assert len(snapshots(folder / "standby")) == 1


def test_a_standby_that_cannot_commit_leaves_no_snapshot_on_the_primary(place: Place) -> None:
    source = place("xfs")
    fill(source / "file", 0, 100_000, 1)
    for _ in range(2):
        ran = run("sync", source, "there:/x", *lying("full"), "--quiet")
        assert ran.code == 1
        assert "the disk is full" in ran.err
    assert not store(source).exists() or not snapshots(source)


def test_the_socket_of_a_killed_server_goes_with_the_next_round(pair: Pair) -> None:
    two_rounds(pair)
    server = subprocess.Popen([*command(), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    wire = liar.Wire(server.stdout, server.stdin)
    wire.greeted()
    wire.ask({"push": {"target": list(os.fsencode(pair.target)), "channels": 3}})
    lineage = wire.ask({"look": {"lineage": None}})["looked"]["lineage"]
    wire.ask({"open": {"lineage": lineage, "epoch": 1, "join": None}})
    assert list(store(pair.target).glob("join/*"))
    server.kill()
    server.wait()
    pair.sync()
    assert not list(store(pair.target).glob("join/*"))


def test_what_is_no_file_is_written_to_and_not_replaced(pair: Pair, tmp_path: Path) -> None:
    two_rounds(pair)
    device = tmp_path / "null"
    os.mknod(device, 0o020600, os.makedev(1, 3))
    done("send", f"{pair.source}@latest", "-o", device)
    assert device.is_char_device()
    ran = run("diff", f"{pair.source}@0", f"{pair.source}@1", "-o", device, "--quiet")
    assert_told(ran, str(device), codes=(2,))
    assert device.is_char_device()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    assert_told(run("send", f"{pair.source}@latest", "-o", link, "--quiet"), str(link), codes=(2,))
    (tmp_path / "file").touch()
    done("send", f"{pair.source}@latest", "-o", link)
    assert link.is_symlink()
    assert (tmp_path / "file").stat().st_size > 1000


def test_a_wait_for_a_pipe_without_a_writer_can_be_stopped(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*command(), "receive", str(tmp_path / "standby"), "-i", str(pipe)], stderr=subprocess.PIPE
    )
    wait_until(lambda: opened(process.pid, pipe))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 5


def opened(pid: int, path: Path) -> bool:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.readlink(link) == str(path):
                return True
    return False


def test_a_cut_snapshot_is_not_passed_off_as_one_with_other_patterns(place: Place) -> None:
    source, target = place("xfs"), place.absent("ext4")
    for number in range(40):
        fill(source / f"{number}.log", 0, 200_000, number)
    done("snapshot", source, "--name", "b")
    whole = subprocess.run(
        [*command(), "send", f"{source}@b", "--quiet"], stdout=subprocess.PIPE, check=True
    ).stdout
    cut = subprocess.run(
        [*command(), "receive", str(target)], input=whole[: len(whole) // 2], stderr=subprocess.DEVNULL
    )
    assert cut.returncode == 5
    ran = run("sync", source, target, "--name", "b", "--exclude", "*.log", "--quiet")
    assert_told(ran, "b", codes=(3,))
    done("sync", source, target, "--name", "b")
    assert_same(source, target)
    assert [snapshot["name"] for snapshot in snapshots(target)] == ["b"]
