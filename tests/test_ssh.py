"""Rounds between two machines: a real sshd, real keys, and every way to lose the connection."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import worlds
from keepsake import keep
from machine import (
    GIB,
    KINDS,
    MIB,
    FileSystems,
    Pair,
    Place,
    Ran,
    assert_told,
    command,
    done,
    run,
    snapshots,
    start,
    status,
    verified,
    wait_until,
)
from oracle import assert_same, freeze, touch_marks
from remote import HOST, Client, Network, Server, descendants, is_gone, script, words_of, wrapped
from transfer import stages, stored
from worlds import World, fill


def assert_told_of(ran: Ran, *words: str, codes: tuple[int, ...]) -> None:
    """`assert_told`, after whatever ssh and the remote shell have said themselves."""
    lines = ran.err.splitlines(keepends=True)
    while lines and not lines[0].startswith("snapsync: "):
        lines.pop(0)
    said = "".join(lines)
    assert said.count("snapsync: ") == 1, f"told more than once: {ran.err}"
    assert all(word in ran.err for word in words), ran.err
    assert_told(Ran(ran.args, ran.code, ran.out, said), codes=codes)


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return server.client()


@pytest.fixture(autouse=True)
def nobody_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever happened, no remote process outlives its round for long."""
    yield
    if "server" in request.fixturenames or "client" in request.fixturenames:
        server = request.getfixturevalue("server")
        wait_until(lambda: not server.serving(), 20)


def push(client: Client, source: Path, target: object, *options: object, **how: Any) -> dict[str, Any]:
    return done("sync", source, client.at(target), *client.options, *options, **how)


def pull(client: Client, source: object, target: Path, *options: object, **how: Any) -> dict[str, Any]:
    return done("sync", client.at(source), target, *client.options, *options, **how)


WAYS = {"push": push, "pull": pull}


# --- rounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kinds", list(product(KINDS, KINDS)), ids="-".join)
def test_a_standby_follows_over_ssh(place: Place, client: Client, kinds: tuple[str, str], way: str) -> None:
    pair = Pair.make(place, kinds)
    world = World(pair.source, seed=71)
    for number in range(3):
        (world.churn if number else world.grow)(100)
        report = WAYS[way](client, pair.source, pair.target, "--name", f"round {number}")
        assert_same(pair.source, pair.target)
        assert (report["base"] or {}).get("name") == (f"round {number - 1}" if number else None)
    ours, theirs = snapshots(pair.source), snapshots(pair.target)
    for key in ("id", "name", "sequence", "parent"):
        assert [snap[key] for snap in ours] == [snap[key] for snap in theirs]
    assert [status(volume)["volume"]["role"] for volume in (pair.source, pair.target)] == [
        "primary",
        "standby",
    ]
    assert not stages(pair.target)


def test_a_round_over_ssh_and_one_without_may_take_turns(place: Place, client: Client) -> None:
    pair = Pair.make(place, ("xfs", "btrfs"))
    world = World(pair.source, seed=72)
    world.grow(60)
    for turn in (push, pull, None, push, None, pull):
        if turn is None:
            pair.sync()
        else:
            turn(client, pair.source, pair.target)
        assert_same(pair.source, pair.target)
        world.churn(30)


@pytest.mark.parametrize("way", WAYS)
def test_a_round_without_changes_moves_nothing(place: Place, client: Client, way: str) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    fill(pair.source / "file", 0, 100_000, 1)
    WAYS[way](client, pair.source, pair.target)
    before = touch_marks(pair.target)
    report = WAYS[way](client, pair.source, pair.target)
    assert (report["unchanged"], report["data_bytes"]) == (True, 0)
    assert touch_marks(pair.target) == before


@pytest.mark.parametrize("way", WAYS)
def test_data_goes_through_several_channels(place: Place, server: Server, client: Client, way: str) -> None:
    pair = Pair.make(place, ("xfs", "btrfs"))
    for number in range(6):
        (pair.source / f"{number}").write_bytes(os.urandom(20 * MIB))
    logins = server.log().count("Accepted publickey")
    WAYS[way](client, pair.source, pair.target, "--channels", 3, "--compress", "none")
    assert_same(pair.source, pair.target)
    # The data's own connections; whatever holds the conversation may be one more.
    assert server.log().count("Accepted publickey") - logins in (3, 4)
    fill(pair.source / "0", MIB, MIB, 3)
    WAYS[way](client, pair.source, pair.target, "--channels", 3)
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("bad", ["0", "-1", "1000000", "x"])
def test_channels_that_make_no_sense_are_a_usage_error(place: Place, client: Client, bad: str) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    ran = run("sync", pair.source, client.at(pair.target), *client.options, "--channels", bad)
    assert ran.code == 2
    assert not pair.target.exists()


def test_a_subset_goes_over_ssh(place: Place, client: Client) -> None:
    pair = Pair.make(place, ("btrfs", "xfs"))
    fill(pair.source / "kept", 0, 5_000, 1)
    fill(pair.source / "left.out", 0, 5_000, 2)
    pull(client, pair.source, pair.target, "--exclude", "*.out")
    assert sorted(path.name for path in pair.target.iterdir() if path.name != ".snapsync") == ["kept"]
    push(client, pair.source, pair.target, "--everything")
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize(
    "name", ["with space", "qu'ote", 'dou"ble', "$HOME", "`x`;x&", "-dash", "naïve ✓", "a\\b", "~"]
)
@pytest.mark.parametrize("way", WAYS)
def test_no_shell_on_the_way_reads_a_path(place: Place, client: Client, way: str, name: str) -> None:
    home = place("xfs")
    source, target = home / f"source {name}", home / name
    source.mkdir()
    fill(source / "file", 0, 5_000, 1)
    WAYS[way](client, source, target)
    assert_same(source, target)
    assert sorted(path.name for path in home.iterdir()) == sorted([source.name, name])


def test_what_is_remote_and_what_is_a_path(place: Place, client: Client) -> None:
    """A colon before the first slash makes a host; with a slash before it, it is a name like any other."""
    home = place("xfs")
    source = home / "so:urce"
    source.mkdir()
    fill(source / "file", 0, 5_000, 1)
    done("sync", "./so:urce", "./ta:rget", cwd=home)
    assert_same(source, home / "ta:rget")
    user = HOST if os.geteuid() else f"root@{HOST}"
    done("sync", source, f"{user}:{home}/over ssh", *client.options)
    assert_same(source, home / "over ssh")


def test_a_relative_remote_path_is_below_the_home_directory(place: Place, client: Client) -> None:
    source = place("xfs")
    fill(source / "file", 0, 5_000, 1)
    home = client.run("pwd").stdout.strip()
    target = Path(home) / f"snapsync-test-{os.getpid()}"
    try:
        push(client, source, target.name)
        assert_same(source, target, ignore=("layout", "flags"))
    finally:
        subprocess.run(["rm", "-rf", target])


def test_two_remote_sides_are_a_usage_error(place: Place, client: Client) -> None:
    ran = run("sync", client.at("/a"), client.at("/b"), *client.options, "--quiet")
    assert_told_of(ran, codes=(2,))


@pytest.mark.parametrize("host", ["-oProxyCommand=touch {}", "-F{}", "a@-oProxyCommand=touch {}", ""])
def test_a_host_that_is_an_option_is_refused(place: Place, tmp_path: Path, host: str) -> None:
    """`ssh` would run it."""
    source, mark = place("xfs"), tmp_path / "mark"
    (source / "file").touch()
    made = host.format(mark).replace("/", "") if "{}" in host else host
    ran = run("sync", source, f"{made}:target", "--quiet", cwd=tmp_path)
    assert_told_of(ran, codes=(1, 2, 5) if made.startswith("a@") else (2,))
    assert not list(tmp_path.iterdir())


def test_options_go_to_ssh(place: Place, server: Server) -> None:
    """A user's own configuration is wrong about the port, and -o says better."""
    client, pair = server.client(), Pair.make(place, ("xfs", "xfs"))
    fill(pair.source / "file", 0, 5_000, 1)
    config = client.config.read_text()
    client.config.write_text(config.replace(f"Port {server.port}", f"Port {closed_port()}"))
    ran = run("sync", pair.source, client.at(pair.target), *client.options, "--quiet")
    assert_told_of(ran, codes=(1, 5))
    push(client, pair.source, pair.target, "-o", f"Port={server.port}", "-o", "Compression=yes")
    assert_same(pair.source, pair.target)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- what may be done with a key --------------------------------------------------------------


@dataclass
class Restricted:
    """A key that may only do so much, below one directory."""

    client: Client
    root: Path
    outside: Path


@pytest.fixture
def serve(server: Server, place: Place) -> Callable[..., Restricted]:
    def made(*options: str) -> Restricted:
        home = place("xfs")
        root, outside = home / "allowed", home / "outside"
        root.mkdir()
        outside.mkdir()
        words = [*command(), "serve", "--restrict-to", str(root), *options]
        return Restricted(server.client(forced=shlex.join(words)), root, outside)

    return made


def refused_push(key: Restricted, source: Path, target: object, *words: str) -> None:
    marks = touch_marks(key.outside), sorted(os.listdir(key.root.parent))
    ran = run("sync", source, key.client.at(target), *key.client.options, "--quiet")
    assert_told_of(ran, *words, codes=(3,))
    assert (touch_marks(key.outside), sorted(os.listdir(key.root.parent))) == marks
    # A round that fails leaves no snapshot behind.
    assert not (source / ".snapsync").exists() or snapshots(source) == []


def test_a_restricted_key_works_inside(place: Place, serve: Callable[..., Restricted]) -> None:
    key, source = serve(), place("xfs")
    fill(source / "file", 0, 5_000, 1)
    (key.root / "below").mkdir()
    for target in (key.root / "standby", key.root / "below" / "standby"):
        push(key.client, source, target)
        assert_same(source, target)
    other = key.root / "primary"
    other.mkdir()
    fill(other / "file", 0, 5_000, 2)
    target = place.absent("btrfs")
    pull(key.client, other, target)
    assert_same(other, target)


@pytest.mark.parametrize(
    "escape",
    ["{outside}/standby", "{root}/../outside/standby", "{root}/..", "/", "{root}-not/standby", "{outside}"],
)
def test_a_restricted_key_does_nothing_outside(
    place: Place, serve: Callable[..., Restricted], escape: str
) -> None:
    key, source = serve(), place("xfs")
    fill(source / "file", 0, 5_000, 1)
    refused_push(key, source, escape.format(root=key.root, outside=key.outside))


def test_a_restricted_key_follows_no_symlink_outside(place: Place, serve: Callable[..., Restricted]) -> None:
    key, source = serve(), place("xfs")
    fill(source / "file", 0, 5_000, 1)
    (key.root / "link").symlink_to(key.outside)
    (key.root / "relative").symlink_to("../outside")
    (key.root / "standby").symlink_to(key.outside / "standby")
    for target in ("link/standby", "relative/standby", "standby", "link/../outside/standby"):
        refused_push(key, source, f"{key.root}/{target}")


def test_a_restricted_key_reads_nothing_outside(place: Place, serve: Callable[..., Restricted]) -> None:
    key = serve()
    secret = key.outside / "primary"
    secret.mkdir()
    fill(secret / "file", 0, 5_000, 1)
    (key.root / "link").symlink_to(secret)
    marks = touch_marks(key.outside)
    for source in (secret, f"{key.root}/../outside/primary", key.root / "link"):
        target = place.absent("xfs")
        ran = run("sync", key.client.at(source), target, *key.client.options, "--quiet")
        assert_told_of(ran, codes=(3,))
        assert not target.exists() or not [path for path in target.iterdir() if path.name != ".snapsync"]
    assert touch_marks(key.outside) == marks
    assert not (secret / ".snapsync").exists()


def test_a_forced_command_is_all_that_runs(tmp_path: Path, serve: Callable[..., Restricted]) -> None:
    key = serve()
    subprocess.run(
        [*shlex.split(key.client.rsh), HOST, f"touch {tmp_path}/mark"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert not (tmp_path / "mark").exists()


def test_a_key_that_may_only_read(place: Place, serve: Callable[..., Restricted]) -> None:
    key, source = serve("--read-only"), place("xfs")
    fill(source / "file", 0, 5_000, 1)
    refused_push(key, source, key.root / "standby")
    assert not (key.root / "standby").exists()
    primary, target = key.root / "primary", place.absent("xfs")
    primary.mkdir()
    done("snapshot", primary)
    fill(primary / "file", 0, 5_000, 2)
    for _ in range(2):
        pull(key.client, primary, target)
        assert_same(primary, target)
        fill(primary / "file", 0, 5_000, 3)


def test_a_key_that_may_only_receive(place: Place, serve: Callable[..., Restricted]) -> None:
    key, source = serve("--receive-only"), place("xfs")
    fill(source / "file", 0, 5_000, 1)
    push(key.client, source, key.root / "standby")
    assert_same(source, key.root / "standby")
    primary, target = key.root / "primary", place.absent("xfs")
    primary.mkdir()
    fill(primary / "file", 0, 5_000, 2)
    before = touch_marks(primary)
    ran = run("sync", key.client.at(primary), target, *key.client.options, "--quiet")
    assert_told_of(ran, codes=(3,))
    assert touch_marks(primary) == before
    assert not (primary / ".snapsync").exists()
    assert not target.exists() or not list(target.iterdir())


# --- a remote that does not answer as it should -----------------------------------------------


def failed_push(
    client: Client, place: Place, remote: str, *words: str, codes: tuple[int, ...] = (1, 4, 5)
) -> Ran:
    pair = Pair.make(place, ("xfs", "xfs"))
    fill(pair.source / "file", 0, 5_000, 1)
    before = freeze(pair.source)
    options = ("--rsh", client.rsh, "--remote-path", remote)
    ran = run("sync", pair.source, client.at(pair.target), *options, "--quiet")
    assert_told_of(ran, *words, codes=codes)
    assert not pair.target.exists()
    assert_same(before, pair.source, root_mtime=False)
    assert not (pair.source / ".snapsync").exists() or snapshots(pair.source) == []
    return ran


def test_a_remote_without_snapsync_is_told(place: Place, client: Client) -> None:
    failed_push(client, place, "/nowhere/snapsync", "/nowhere/snapsync")


def test_a_remote_shell_that_talks_is_told(place: Place, client: Client, tmp_path: Path) -> None:
    """A greeting in .bashrc is the classic."""
    talk = 'echo "Welcome to the machine!"'
    remote = script(tmp_path / "snapsync", talk, f'exec {shlex.quote(command()[0])} "$@"')
    ran = failed_push(client, place, remote, "Welcome to the machine!")
    assert "shell" in ran.err or "snapsync" in ran.err


@pytest.mark.parametrize(
    "answer",
    [
        "exit 0",
        "exit 1",
        "cat",
        "head -c 100000 /dev/urandom",
        "yes | head -c 10000000",
    ],
)
def test_a_remote_that_is_something_else_is_told(
    place: Place, client: Client, tmp_path: Path, answer: str
) -> None:
    failed_push(client, place, script(tmp_path / "snapsync", answer))


def test_a_remote_that_refuses_the_key_is_told(place: Place, server: Server) -> None:
    stranger = server.client()
    keys = server.home / "authorized_keys"
    keys.write_text("".join(keys.read_text().splitlines(keepends=True)[:-1]))
    failed_push(stranger, place, command()[0], "Permission denied")


def test_an_ssh_that_is_not_there_is_told(place: Place) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    (pair.source / "file").touch()
    ran = run("sync", pair.source, f"{HOST}:{pair.target}", "--rsh", "/nowhere/ssh -x", "--quiet")
    assert_told_of(ran, "/nowhere/ssh", codes=(1, 2))


def test_the_remote_side_says_why_it_refuses(place: Place, client: Client) -> None:
    """With the words and the exit code that it would have had here."""
    pair = Pair.make(place, ("xfs", "xfs"))
    fill(pair.source / "file", 0, 5_000, 1)
    pair.target.mkdir()
    (pair.target / "precious").write_text("mine")
    before = touch_marks(pair.target)
    ran = run("sync", pair.source, client.at(pair.target), *client.options, "--quiet")
    assert_told_of(ran, client.at(pair.target), codes=(3,))
    assert touch_marks(pair.target) == before


def test_whatever_the_other_end_tells_names_it_and_the_path(place: Place, client: Client) -> None:
    here, there = place("xfs"), place("xfs")
    done("snapshot", here)
    missing, plain = client.at(there / "missing"), client.at(there)
    for words in (
        ("sync", missing, there.with_name("new")),
        ("sync", here, f"{missing}/below"),
        ("verify", here, missing),
        ("verify", here, f"{plain}@none"),
        ("switch", here, plain),
        ("switch", plain, here),
        ("rejoin", here, plain),
        ("rejoin", missing, here),
    ):
        ran = run(*words, *client.options, "--quiet")
        assert_told_of(ran, f"snapsync: {client.at(there)}", codes=(2,))


def test_the_way_to_try_a_connection_has_the_options_of_the_command(place: Place, client: Client) -> None:
    (source := place("xfs")).joinpath("file").touch()
    options = ("-o", "Port=1", "-o", "ProxyCommand=exec false")
    ran = run("sync", source, client.at("/x"), *client.options, *options, "--quiet")
    told = f"`{client.rsh} -o Port=1 -o 'ProxyCommand=exec false' {HOST} true`"
    assert_told_of(ran, told, codes=(1,))


@pytest.mark.parametrize("way", WAYS)
def test_drift_is_refused_over_ssh(place: Place, client: Client, way: str) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    fill(pair.source / "file", 0, 5_000, 1)
    WAYS[way](client, pair.source, pair.target)
    (pair.target / "file").write_text("changed by hand")
    fill(pair.source / "file", 0, 100, 3)
    before = touch_marks(pair.target)
    sides = (client.at(pair.source), pair.target) if way == "pull" else (pair.source, client.at(pair.target))
    ran = run("sync", *sides, *client.options, "--quiet")
    assert_told_of(ran, "file", codes=(3,))
    assert touch_marks(pair.target) == before
    assert len(snapshots(pair.source)) == 1


def test_serve_alone_ends_with_its_input() -> None:
    ran = subprocess.run([*command(), "serve"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert ran.returncode in (0, 5), ran
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize("noise", [b"\0" * 100_000, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"{" * 5_000])
def test_serve_takes_no_nonsense(noise: bytes) -> None:
    ran = subprocess.run([*command(), "serve"], input=noise, capture_output=True, timeout=30)
    assert ran.returncode in (1, 2, 4, 5), ran
    assert b"Traceback" not in ran.stderr
    assert b"panicked" not in ran.stderr


# --- connections that are lost ----------------------------------------------------------------


@dataclass
class Running:
    """A round over ssh that is under way."""

    process: subprocess.Popen[str]
    server: Server
    target: Path

    def ssh_clients(self) -> list[int]:
        return [
            pid for pid in descendants(self.process.pid) if Path((words_of(pid) or [""])[0]).name == "ssh"
        ]

    def victims(self, who: str) -> list[int]:
        return {
            "the ssh client": self.ssh_clients,
            "sshd": self.server.sessions,
            "the remote side": self.server.serving,
            "this side": lambda: [self.process.pid],
        }[who]()

    def stores(self, size: int) -> None:
        """Waits until so much is on the disk."""
        wait_until(lambda: self.process.poll() is not None or stored(self.target) > size, 300)
        assert self.process.poll() is None, self.process.communicate()

    def reaches(self, moment: str) -> None:
        """Waits until the round has come so far."""
        reached: Callable[[], object] = {
            "the start": self.server.serving,
            "the middle": lambda: stored(self.target) > 8 * MIB,
            "near the end": lambda: stored(self.target) > 22 * MIB,
        }[moment]
        wait_until(lambda: self.process.poll() is not None or reached())
        assert self.process.poll() is None, self.process.communicate()


SLOW = ("--bwlimit", "16M", "--compress", "none", "--quiet")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", ["the ssh client", "sshd", "the remote side", "this side"])
@pytest.mark.parametrize("moment", ["the start", "the middle", "near the end"])
def test_a_lost_connection_is_an_interruption(
    place: Place, server: Server, client: Client, way: str, who: str, moment: str
) -> None:
    pair = Pair.make(place, ("xfs", "btrfs" if way == "push" else "ext4"))
    (pair.source / "file").write_text("first")
    WAYS[way](client, pair.source, pair.target, "--name", "a")
    before = freeze(pair.target)
    (pair.source / "large").write_bytes(os.urandom(32 * MIB))
    copy = place("xfs")
    keep(pair.source, copy)

    sides = (pair.source, client.at(pair.target)) if way == "push" else (client.at(pair.source), pair.target)
    process = start("sync", *sides, *client.options, "--name", "b", *SLOW)
    running = Running(process, server, pair.target)
    running.reaches(moment)
    remote = server.serving()
    assert remote
    for pid in running.victims(who):
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    if who == "this side":
        assert process.returncode == -signal.SIGKILL
    else:
        # Before the two sides have met there is nothing that could go on.
        codes = (1, 5) if moment == "the start" else (5,)
        assert_told_of(Ran((), process.returncode, out, err), codes=codes)
    wait_until(lambda: all(map(is_gone, remote)), 15)
    assert_same(before, pair.target)

    # The next round first completes what was under way, and then takes the present state.
    (pair.source / "file").write_text("second")
    WAYS[way](client, pair.source, pair.target, "--name", "c")
    assert_same(pair.source, pair.target)
    assert not stages(pair.target)
    assert status(pair.target)["unfinished"] is None
    names = [snap["name"] for snap in snapshots(pair.target)]
    assert names in (["a", "b", "c"], ["a", "c"]), names
    if moment != "the start" and who != "this side":
        assert names == ["a", "b", "c"]
    if "b" in names:
        verified(f"{pair.target}@b", copy)
    assert [snap["name"] for snap in snapshots(pair.source)] == names


@pytest.mark.parametrize("way", WAYS)
def test_what_had_arrived_is_not_sent_again(place: Place, server: Server, client: Client, way: str) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    (pair.source / "large").write_bytes(os.urandom(96 * MIB))
    sides = (pair.source, client.at(pair.target)) if way == "push" else (client.at(pair.source), pair.target)
    process = start("sync", *sides, *client.options, "--bwlimit", "64M", "--compress", "none", "--quiet")
    wait_until(lambda: process.poll() is not None or stored(pair.target) > 72 * MIB)
    assert process.poll() is None
    for pid in Running(process, server, pair.target).ssh_clients():
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 5
    wait_until(lambda: not server.serving(), 15)
    kept = stored(pair.target)
    counted = Counted.around(client)
    report = WAYS[way](counted.client, pair.source, pair.target, "--compress", "none")
    assert_same(pair.source, pair.target)
    assert counted.bytes() < 96 * MIB - kept + 8 * MIB, report


@dataclass
class Counted:
    """A client whose ssh is told to say how much it moved."""

    client: Client
    log: Path

    @classmethod
    def around(cls, client: Client) -> Counted:
        log = client.config.with_name(f"{client.config.name}.log")
        log.write_text("")
        config = client.config.with_name(f"{client.config.name}.counted")
        config.write_text(client.config.read_text().replace("LogLevel ERROR", "LogLevel DEBUG1"))
        ssh = script(client.config.with_name("counted-ssh"), f'exec ssh -F {config} -E {log} "$@"')
        return cls(Told(config, client.inside, ssh), log)

    def bytes(self) -> int:
        """`Transferred: sent S, received R bytes, in T seconds`, of every connection."""
        lines = [line for line in self.log.read_text().splitlines() if "Transferred: sent" in line]
        assert lines, self.log.read_text()[-2000:]
        words = [line.split("sent ")[1].replace(",", "").split() for line in lines]
        return sum(int(sent) + int(received) for sent, _, received, *_ in words)


@dataclass
class Told(Client):
    """A client with a program of its own for ssh."""

    program: str = "ssh"

    @property
    def rsh(self) -> str:
        return self.program


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "point", ["stage.frame", "stage.done", "commit.marked", "commit.attach", "commit.snapshot"]
)
def test_a_standby_that_is_killed_at_any_step_heals(
    place: Place, server: Server, client: Client, tmp_path: Path, way: str, point: str
) -> None:
    pair = Pair.make(place, ("btrfs", "xfs"))
    world = World(pair.source, seed=73)
    world.grow(60)
    WAYS[way](client, pair.source, pair.target, "--name", "a")
    world.churn(60)
    fill(pair.source / "noise", 0, 300_000, 1)
    fault = {"SNAPSYNC_FAULT": f"{point}:1"}
    if way == "push":
        remote = wrapped(tmp_path / "snapsync", **fault)
        options = ("--rsh", client.rsh, "--remote-path", remote, "--name", "b", "--quiet")
        ran = run("sync", pair.source, client.at(pair.target), *options)
        assert_told_of(ran, codes=(5,))
    else:
        ran = run("sync", client.at(pair.source), pair.target, *client.options, "--name", "b", env=fault)
        assert ran.code == -signal.SIGKILL
    wait_until(lambda: not server.serving(), 15)
    world.churn(30)
    WAYS[way](client, pair.source, pair.target, "--name", "c")
    assert_same(pair.source, pair.target)
    assert not stages(pair.target)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("point", ["snapshot.begin", "snapshot.table", "snapshot.recorded"])
def test_a_primary_that_is_killed_at_any_step_heals(
    place: Place, server: Server, client: Client, tmp_path: Path, way: str, point: str
) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    world = World(pair.source, seed=74)
    world.grow(60)
    WAYS[way](client, pair.source, pair.target, "--name", "a")
    before = freeze(pair.target)
    world.churn(60)
    fault = {"SNAPSYNC_FAULT": f"{point}:1"}
    if way == "pull":
        remote = wrapped(tmp_path / "snapsync", **fault)
        options = ("--rsh", client.rsh, "--remote-path", remote, "--name", "b", "--quiet")
        ran = run("sync", client.at(pair.source), pair.target, *options)
        assert_told_of(ran, codes=(5,))
    else:
        ran = run("sync", pair.source, client.at(pair.target), *client.options, "--name", "b", env=fault)
        assert ran.code == -signal.SIGKILL
    wait_until(lambda: not server.serving(), 15)
    assert_same(before, pair.target)
    WAYS[way](client, pair.source, pair.target, "--name", "c")
    assert_same(pair.source, pair.target)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_round_over_ssh_says_so(
    place: Place, server: Server, client: Client, way: str, how: signal.Signals
) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    (pair.source / "large").write_bytes(os.urandom(32 * MIB))
    sides = (pair.source, client.at(pair.target)) if way == "push" else (client.at(pair.source), pair.target)
    process = start("sync", *sides, *client.options, *SLOW)
    running = Running(process, server, pair.target)
    running.reaches("the middle")
    remote, clients = server.serving(), running.ssh_clients()
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 5, err
    assert "Traceback" not in err
    # No process outlives the command.
    wait_until(lambda: all(map(is_gone, clients)), 5)
    wait_until(lambda: all(map(is_gone, remote)), 15)
    WAYS[way](client, pair.source, pair.target)
    assert_same(pair.source, pair.target)


def test_one_lost_channel_of_three_is_an_interruption(place: Place, server: Server, client: Client) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    for number in range(8):
        (pair.source / f"{number}").write_bytes(os.urandom(6 * MIB))
    process = start("sync", pair.source, client.at(pair.target), *client.options, "--channels", "3", *SLOW)
    running = Running(process, server, pair.target)
    running.reaches("the middle")
    os.kill(running.ssh_clients()[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert_told_of(Ran((), process.returncode, out, err), codes=(5,))
    wait_until(lambda: not server.serving(), 60)
    push(client, pair.source, pair.target, "--channels", "3")
    assert_same(pair.source, pair.target)


def test_a_remote_standby_is_held_by_one_round(place: Place, server: Server, client: Client) -> None:
    pair = Pair.make(place, ("xfs", "xfs"))
    (pair.source / "large").write_bytes(os.urandom(32 * MIB))
    process = start("sync", pair.source, client.at(pair.target), *client.options, *SLOW)
    Running(process, server, pair.target).reaches("the middle")
    process.send_signal(signal.SIGSTOP)  # so that it does not end before the other has begun
    try:
        ran = run("sync", pair.source, client.at(pair.target), *client.options, "--quiet")
    finally:
        process.send_signal(signal.SIGCONT)
    assert_told_of(ran, "another", codes=(3,))
    assert process.wait(timeout=60) == 0, process.communicate()
    process.communicate()
    assert_same(pair.source, pair.target)


# --- a network that goes away -----------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_pulled_cable_is_an_interruption(place: Place, network: Network, way: str) -> None:
    """Nobody is told that the other side is gone: packets just do not come any more."""
    client, pair = network.server.client(), Pair.make(place, ("xfs", "xfs"))
    (pair.source / "large").write_bytes(os.urandom(32 * MIB))
    sides = (pair.source, client.at(pair.target)) if way == "push" else (client.at(pair.source), pair.target)
    alive = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2")
    process = start("sync", *sides, *client.options, *alive, *SLOW)
    Running(process, network.server, pair.target).reaches("the middle")
    network.link(up=False)
    try:
        out, err = process.communicate(timeout=60)
        assert_told_of(Ran((), process.returncode, out, err), codes=(5,))
        wait_until(lambda: not network.server.serving(), 30)
    finally:
        network.link(up=True)
    WAYS[way](client, pair.source, pair.target)
    assert_same(pair.source, pair.target)


# --- much data --------------------------------------------------------------------------------


def test_a_gigabyte_cut_five_times_arrives(file_systems: FileSystems, server: Server, client: Client) -> None:
    """Each try goes on where the one before was cut."""
    mounts = [file_systems.mount(kind, 5 * GIB) for kind in ("xfs", "btrfs")]
    try:
        pair = Pair(mounts[0] / "primary", mounts[1] / "standby")
        pair.source.mkdir()
        block = os.urandom(32 * MIB)
        for number in range(8):
            with (pair.source / f"{number}").open("wb") as file:
                for part in range(3):
                    # No two blocks are the same, and each file has a hole in its middle.
                    file.seek((part + (part > 1)) * 32 * MIB)
                    file.write(bytes([number, part]) + block[2 + number :] + bytes(number))
                file.write(os.urandom(32 * MIB))
        worlds.bulk(pair.source, 2_000)
        size = 8 * 4 * 32 * MIB
        cuts = 0
        for number in range(1, 6):
            process = start("sync", pair.source, client.at(pair.target), *client.options, "--quiet")
            running = Running(process, server, pair.target)
            running.stores(number * size // 7)
            cuts += 1
            for pid in running.ssh_clients():
                os.kill(pid, signal.SIGKILL)
            out, err = process.communicate(timeout=60)
            assert_told_of(Ran((), process.returncode, out, err), codes=(5,))
            wait_until(lambda: not server.serving(), 30)
        assert cuts == 5
        push(client, pair.source, pair.target)
        assert_same(pair.source, pair.target)
        assert not stages(pair.target)
    finally:
        for mount in mounts:
            file_systems.unmount(mount)
