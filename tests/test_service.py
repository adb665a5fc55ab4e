"""The service has the rights that rounds need and no more, as root or as a user who reads all."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Place, assert_told, command, done, environment, missing, need, run, sh
from oracle import assert_same
from remote import Server, sshd

SENDER, KEEPER = 65534, 4712
"""Who sends needs a name for ssh; who keeps a standby is a number."""


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        missing("root, to become other users")
    need("setpriv")


def as_user(uid: int, *rights: str) -> tuple[str, ...]:
    """As a service with `User=` and `AmbientCapabilities=` of these rights starts a program."""
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    given = ",".join(f"+{right}" for right in rights)
    words.append(f"--bounding-set={','.join(filter(None, ('-all', given)))}")
    words += [f"--inh-caps={given}", f"--ambient-caps={given}"] if given else []
    if subprocess.run([*words, *command(), "--version"], capture_output=True).returncode:
        missing("an installation that other users can run")
    return tuple(words)


def install(folder: Path, *more: str) -> Path:
    config = folder / "config.toml"
    config.write_text('[job.web]\nsource = "/srv/web"\ntarget = "/mnt/web"\nperiod = "15m"\n')
    done("service", "install", "--config", config, "--dir", folder, *more)
    return folder / "snapsync@web.service"


# --- the sandbox ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "most"), [((), 37), (("--run-as", "daemon"), 26)], ids=["root", "user"])
def test_systemd_finds_the_service_little_exposed(tmp_path: Path, more: tuple[str, ...], most: int) -> None:
    """The figure is ten times what `systemd-analyze security` shows: it goes down, not up."""
    need("systemd-analyze")
    unit = install(tmp_path, *more)
    words = ["systemd-analyze", "--no-pager", "--offline=true", f"--threshold={most}", "security", unit]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    ran = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert [line for line in ran.stderr.splitlines() if "snapsync" in line] == []


@pytest.mark.parametrize("kinds", [("btrfs", "ext4"), ("xfs", "btrfs")], ids="-".join)
def test_a_round_makes_no_system_call_that_the_filter_stops(
    place: Place, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    need("systemd-analyze", "strace", "setcap")
    unit = install(tmp_path).read_text()
    lines = [line.removeprefix("SystemCallFilter=") for line in unit.splitlines()]
    allowed = {call for line in lines if line.startswith("@") for call in calls_of(line)}
    assert {"openat2", "mount_setattr"} <= allowed, "the lists of this systemd are not what they were"
    source, target = place(kinds[0]), place.absent(kinds[1])
    fill_with_everything(source)
    made: set[str] = set()
    for change in (lambda: None, lambda: (source / "file").write_text("changed")):
        change()
        trace = tmp_path / "trace"
        words = ["strace", "-f", "-qq", "-o", str(trace), *command(), "sync", str(source), str(target), "-q"]
        subprocess.run(words, check=True, env=environment())
        calls = (
            line.split(None, 1)[1].split("(")[0] for line in trace.read_text(errors="replace").splitlines()
        )
        made |= {call for call in calls if call.isidentifier()}
    assert_same(source, target)
    assert made - allowed == set()


def fill_with_everything(root: Path) -> None:
    (root / "file").write_text("content")
    (root / "setuid").write_text("#!/bin/sh\n")
    (root / "setuid").chmod(0o4755)
    os.chown(root / "file", 4711, 4711)
    sh("setcap", "cap_net_raw+ep", root / "setuid")
    os.mknod(root / "device", 0o20600, os.makedev(1, 3))
    os.mkfifo(root / "fifo")
    (root / "dir").mkdir()
    (root / "dir/link").symlink_to("nowhere")
    os.link(root / "file", root / "dir/other")
    os.setxattr(root / "dir", "user.note", b"text")


def calls_of(group: str) -> set[str]:
    """The system calls of a group of systemd's, and of those in it."""
    found: set[str] = set()
    for word in sh("systemd-analyze", "--no-pager", "syscall-filter", group).split("\n")[1:]:
        name = word.strip()
        found |= calls_of(name) if name.startswith("@") else {name}
    return {name for name in found if name and not name.startswith("#")}


def test_only_users_that_there_are_run_it(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[job.web]\nsource = "/a"\ntarget = "/b"\nperiod = "15m"\n')
    for name in ("nobody-of-this-name", "root\nExecStart=/bin/sh", "", "%u"):
        words = ("service", "install", "--config", config, "--dir", tmp_path / "units", "--run-as", name)
        assert_told(run(*words), "there is no user", codes=(2,))
    words = ("service", "install", "--config", config, "--user", "--run-as", "daemon", "--dry-run")
    assert_told(run(*words), "--run-as", codes=(2,))


# --- real users -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with sshd() as running:
        yield running


def reachable(path: Path, owner: int = 0) -> Path:
    """Belongs to `owner`, and other users come to it."""
    os.chown(path, owner, owner)
    for above in path.parents:
        if above.is_relative_to(Path("/dev/shm")) and above != Path("/dev/shm"):
            above.chmod(above.stat().st_mode | 0o011)
    return path


def owners(tree: Path) -> set[int]:
    return {path.lstat().st_uid for path in (tree, *tree.glob("*"), *tree.glob("[!.]*/*"))}


def volume_of_others(place: Place, kind: str) -> Path:
    """A tree of several users that SENDER neither owns nor could read, and whose store is his."""
    source = reachable(place(kind))
    (source / "private").write_text("for one only")
    (source / "closed").mkdir(mode=0o700)
    (source / "closed/deep").write_bytes(os.urandom(100_000))
    for number, path in enumerate((source / "private", source / "closed", source / "closed/deep")):
        os.chown(path, 5000 + number, 5000)
        path.chmod(0o700 if path.is_dir() else 0o600)
    source.chmod(0o711)
    done("init", source)
    sh("chown", "-R", str(SENDER), source / ".snapsync")
    return source


@pytest.mark.parametrize("kinds", [("xfs", "ext4"), ("ext4", "btrfs")], ids="-".join)
def test_a_user_who_may_read_everything_keeps_a_standby_of_his_own(
    place: Place, kinds: tuple[str, str]
) -> None:
    source, home = volume_of_others(place, kinds[0]), reachable(place(kinds[1]), SENDER)
    sender, target = as_user(SENDER, "dac_read_search"), home / "standby"
    report = done("sync", source, target, wrap=sender)
    assert [(loss["what"], loss["right"]) for loss in report["losses"]] == [("owner and group", "CAP_CHOWN")]
    (source / "closed/deep").write_text("changed")
    os.unlink(source / "private")
    report = done("sync", source, target, wrap=sender)
    assert report["data_bytes"] == len("changed")
    assert (target / "closed/deep").read_text() == "changed"
    assert not (target / "private").exists()
    assert owners(target) == {SENDER}
    (source / "closed/new").write_text("new")
    text = run("sync", source, target, wrap=sender).out
    assert "may not set" in text
    assert "takes CAP_CHOWN" in text
    assert "cannot hold" not in text
    # Nothing of the tree itself is another one's now.
    assert (source / "closed").stat().st_uid == 5001


def test_without_that_right_he_sends_nothing_that_is_closed_to_him(place: Place) -> None:
    source, home = volume_of_others(place, "xfs"), reachable(place("ext4"), SENDER)
    ran = run("sync", source, home / "standby", "-q", wrap=as_user(SENDER))
    assert ran.code != 0 or not (home / "standby/private").exists()


def test_he_sends_over_ssh_to_a_standby_of_an_ordinary_user(server: Server, place: Place) -> None:
    source, home = volume_of_others(place, "xfs"), reachable(place("ext4"), KEEPER)
    keeper = as_user(KEEPER)
    serve = [*keeper, *command(), "serve", "--restrict-to", str(home), "--receive-only"]
    client = server.client(forced=shlex.join(serve))
    server.home.chmod(0o711)
    # A key is its user's own.
    for path in (client.config, client.config.with_name(client.config.name.replace("config", "key"))):
        os.chown(path, SENDER, SENDER)
    (server.home / "known_hosts").chmod(0o644)
    words = ("sync", source, client.at("copy"), *client.options)
    report = done(*words, wrap=as_user(SENDER, "dac_read_search"))
    assert [loss["what"] for loss in report["losses"]] == ["owner and group"]
    (source / "closed/deep").write_text("changed")
    done(*words, wrap=as_user(SENDER, "dac_read_search"))
    target = home / "copy"
    assert (target / "closed/deep").read_text() == "changed"
    assert owners(target) == {KEEPER}
    assert {path.stat().st_mode & 0o777 for path in (target / "closed", target / "private")} == {0o700, 0o600}


@pytest.mark.parametrize("kinds", [("btrfs", "xfs"), ("ext4", "btrfs")], ids="-".join)
def test_root_sends_to_a_standby_of_an_ordinary_user(
    server: Server, place: Place, kinds: tuple[str, str]
) -> None:
    source, home = place(kinds[0]), reachable(place(kinds[1]), KEEPER)
    fill_with_everything(source)
    serve = [*as_user(KEEPER), *command(), "serve", "--restrict-to", str(home), "--receive-only"]
    client = server.client(forced=shlex.join(serve))
    words = ("sync", source, client.at("copy"), *client.options)
    assert_told(run(*words, "-q"), "cannot hold device", "leave that entry out", codes=(3,))
    report = done(*words, "--exclude", "/device")
    lost = {loss["what"] for loss in report["losses"]}
    assert "owner and group" in lost
    assert any("capability" in what for what in lost), lost
    assert (home / "copy/file").read_text() == "content"
    assert (home / "copy/setuid").stat().st_mode & 0o7000 == 0
    ran = run("sync", source, client.at("strict"), "--strict", "-q", *client.options)
    assert_told(ran, codes=(3,))
    assert not (home / "strict").exists()
