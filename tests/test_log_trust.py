"""Whom a log protects from: what is encrypted only its recipients read, and what nobody has signed is not
believed.

Identities are made by `age-keygen`, and `age` itself opens what lies in the store; signatures are made and
checked by another implementation of Ed25519. So nothing here rests on the product's own idea of either.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import blake3
import pyarrow
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from machine import Place, assert_told, need, run, start, wait_until
from object_store import DirectoryLog, Log, Logs, signed
from oracle import assert_same
from worlds import World

MIB = 1 << 20


@dataclass
class Machine:
    """What differs between machines: the keys that they have."""

    home: Path
    identity: Path | None = None
    store: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        mine = {"SNAPSYNC_KEYS": str(self.home / "keys")}
        return self.store | mine | ({"SNAPSYNC_IDENTITY": str(self.identity)} if self.identity else {})

    @property
    def keys(self) -> list[Path]:
        return sorted((self.home / "keys").glob("*.key"))

    def sync(self, *sides: object) -> dict[str, Any]:
        return self.done("sync", *sides)

    def done(self, *words: object) -> dict[str, Any]:
        ran = run(*words, "--json", env=self.env)
        assert ran.code == 0, ran
        return ran.json

    def refused(self, *words: object, told: str, code: int) -> None:
        assert_told(run(*words, "--quiet", env=self.env), told, codes=(code,))


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    made = [Machine(tmp_path / name) for name in ("primary", "standby", "other")]
    for machine in made:
        machine.home.mkdir()
    return made


def identity(path: Path) -> tuple[Path, str]:
    """A new identity, and its recipient."""
    need("age-keygen", "age")
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
    return path, subprocess.check_output(["age-keygen", "-y", path], text=True).strip()


def opened(sealed: bytes, by: Path) -> bytes:
    return subprocess.run(["age", "-d", "-i", by], input=sealed, capture_output=True, check=True).stdout


# --- encryption ---------------------------------------------------------------------------------------


@dataclass
class Sealed:
    """An encrypted log, whose primary cannot read it."""

    log: Log
    primary: Machine
    standby: Machine
    identity: Path

    @property
    def address(self) -> str:
        return self.log.address


@pytest.fixture(params=["directory", "seaweedfs"])
def sealed(request: pytest.FixtureRequest, logs: Logs, machines: list[Machine], tmp_path: Path) -> Sealed:
    log = logs(request.param)
    own, to = identity(tmp_path / "identity")
    _, spare = identity(tmp_path / "spare")
    primary, standby, _ = machines
    primary.store = standby.store = log.env
    primary.done("init", log.address, "--encrypt-to", to, "--encrypt-to", spare)
    standby.identity = own
    return Sealed(log, primary, standby, own)


def test_only_recipients_read_what_a_primary_publishes(sealed: Sealed, place: Place) -> None:
    source, target = place("xfs"), place.absent("btrfs")
    world = World(source, seed=3)
    world.grow(40)
    (source / "large").write_bytes(os.urandom(3 * MIB))
    for _ in range(3):
        sealed.primary.sync(source, sealed.address)
        sealed.standby.sync(sealed.address, target)
        assert_same(source, target)
        world.churn(20)
    told = "no identity that opens it"
    for words in (
        ("sync", sealed.address, place.absent("xfs")),
        ("restore", f"{sealed.address}@0", "--to", place.absent("xfs")),
        ("verify", sealed.address, source),
        ("log", sealed.address),
        ("find", sealed.address, "*"),
        ("diff", f"{sealed.address}@0", f"{sealed.address}@1"),
        ("prune", sealed.address, "--keep-last", "1"),
    ):
        sealed.primary.refused(*words, told=told, code=2)
    sealed.primary.identity = sealed.identity.with_name("spare")
    sealed.primary.sync(sealed.address, place.absent("ext4"))
    other, _ = identity(sealed.identity.with_name("third"))
    sealed.primary.identity = other
    sealed.primary.refused("sync", sealed.address, place.absent("xfs"), told="for others", code=4)


def test_names_and_contents_are_nowhere_in_the_store(sealed: Sealed, place: Place) -> None:
    source, target = place("xfs"), place.absent("xfs")
    words = [f"marker-{number}-{uuid4().hex}" for number in range(7)]
    name, content, xattr, link, snapshot, reason, late = words
    (source / name).write_text(content * 10)
    os.setxattr(source / name, "user.x", xattr.encode())
    (source / "link").symlink_to(link)
    sealed.primary.done("sync", source, sealed.address, "--name", snapshot, "--compress", "none")
    (source / name).write_text(late)
    sealed.primary.done("sync", source, sealed.address, "--compress", "none")
    sealed.standby.sync(sealed.address, target)
    sealed.standby.done("hold", f"{sealed.address}@{snapshot}", "--reason", reason)
    sealed.standby.done("prune", sealed.address, "--keep-last", "1")
    words += [str(source), str(target)]
    for stored in sealed.log.names():
        held = sealed.log.read(stored)
        assert not [word for word in words if word.encode() in held], stored
        if stored.split("/")[0] in ("packs", "manifests", "index", "readers", "tables"):
            assert held.startswith(b"age-encryption.org/v1\n"), stored
    assert [held["reason"] for held in sealed.standby.done("list", sealed.address)["holds"]] == [reason]
    shown = run("list", sealed.address, env=sealed.primary.env)
    assert shown.code == 0
    assert not [word for word in words if word in shown.out]


def test_age_itself_opens_what_lies_in_the_store(sealed: Sealed, place: Place) -> None:
    source = place("ext4")
    (source / "file").write_bytes(b"of the file" * 1000)
    sealed.primary.done("sync", source, sealed.address, "--compress", "none")
    [manifest] = sealed.log.names("manifests/")
    table = pyarrow.ipc.open_file(io.BytesIO(opened(sealed.log.read(manifest), sealed.identity))).read_all()
    assert "file" in map(str, table["path"].to_pylist())
    [pack] = sealed.log.names("packs/")
    assert b"of the file" * 1000 in opened(sealed.log.read(pack), sealed.identity)
    [commit] = sealed.log.commits()
    private = json.loads(opened(base64.b64decode(commit["sealed"]), sealed.identity))
    assert private["delta"]["snapshot"]["id"] == commit["deed"]["snapshot"]["delta"]["snapshot"]["id"]
    described = json.loads(sealed.log.read("format.json"))
    [key] = sealed.primary.keys
    assert (
        opened(base64.b64decode(described["sealed_key"]), sealed.identity).decode() == key.read_text().strip()
    )


def test_a_cut_upload_goes_on_although_its_primary_reads_nothing_else(sealed: Sealed, place: Place) -> None:
    source, target = place("xfs"), place.absent("xfs")
    for number in range(24):
        (source / f"{number:02}").write_bytes(os.urandom(4 * MIB))
    words = ("sync", source, sealed.address, "--bwlimit", "32M", "--jobs", "1", "-q")
    process = start(*words, env=sealed.primary.env)
    wait_until(lambda: len(sealed.log.names("packs/")) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    [kept] = sealed.primary.home.glob("keys/*.upload")
    once = json.loads(kept.read_text())["identity"]
    report = sealed.primary.sync(source, sealed.address)
    assert report["kept_bytes"] > 20 * MIB, report
    assert not kept.exists()
    sealed.standby.sync(sealed.address, target)
    assert_same(source, target)
    # That key opened these packs, and nothing else.
    with_it = sealed.primary.home / "once"
    with_it.write_text(once + "\n")
    assert b"SNSPACK1" in opened(sealed.log.read(sealed.log.names("packs/")[0]), with_it)
    for name in (sealed.log.names("manifests/")[0], sealed.log.names("index/")[0]):
        with pytest.raises(subprocess.CalledProcessError):
            opened(sealed.log.read(name), with_it)


def test_prune_makes_the_checkpoints_of_a_log_that_its_primary_cannot_read(
    sealed: Sealed, place: Place
) -> None:
    source, target = place("ext4"), place.absent("xfs")
    world = World(source, seed=5)
    world.grow(20)
    for _ in range(10):
        sealed.primary.sync(source, sealed.address)
        world.churn(12)
    assert not sealed.log.names("tables/")
    sealed.standby.done("prune", sealed.address, "--keep-last", "2")
    assert len(sealed.log.names("tables/")) == 3
    # What led to the snapshots that stay is needed, as long as nothing newer came after the checkpoint.
    for _ in range(2):
        sealed.primary.sync(source, sealed.address)
        world.churn(12)
    sealed.standby.done("prune", sealed.address, "--keep-last", "2")
    assert len(sealed.log.names("index/")) < 4
    # What changed is told all the same, also of the snapshots that went, and to recipients alone.
    rounds = sealed.standby.done("log", sealed.address)["rounds"]
    assert [found["snapshot"]["sequence"] for found in rounds] == list(range(11, -1, -1))
    assert sealed.standby.done("find", sealed.address, "*")["searched"] == 12
    sealed.primary.sync(source, sealed.address)
    sealed.standby.sync(sealed.address, target)
    assert_same(source, target)
    sealed.standby.done("verify", sealed.address, target)


def test_a_standby_takes_an_encrypted_log_over(sealed: Sealed, place: Place, machines: list[Machine]) -> None:
    old, new, third = place("xfs"), place.absent("btrfs"), place.absent("ext4")
    other = machines[2]
    other.store, other.identity = sealed.standby.store, sealed.identity
    world = World(old, seed=6)
    world.grow(20)
    sealed.primary.sync(old, sealed.address)
    sealed.standby.sync(sealed.address, new)
    other.sync(sealed.address, third)
    sealed.standby.done("promote", new)
    World(new, seed=7).churn(10)
    sealed.standby.sync(new, sealed.address)
    other.sync(sealed.address, third)
    assert_same(new, third)
    sealed.primary.refused("sync", old, sealed.address, told="was replaced", code=3)
    sealed.primary.identity = sealed.identity
    sealed.primary.done("rejoin", old, sealed.address)
    sealed.primary.sync(sealed.address, old)
    assert_same(new, old)


def test_damage_in_an_encrypted_log_is_found_out(sealed: Sealed, place: Place) -> None:
    source = place("xfs")
    (source / "file").write_bytes(os.urandom(3 * MIB))
    sealed.primary.sync(source, sealed.address)
    for kind in ("packs", "manifests", "index"):
        name = sealed.log.names(f"{kind}/")[0]
        whole = sealed.log.read(name)
        middle = len(whole) // 2
        damages = (
            whole[:middle],
            whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            b"x" * 9,
        )
        for damaged in damages:
            sealed.log.write(name, damaged)
            sealed.standby.refused("sync", sealed.address, place.absent("xfs"), told="cannot use", code=4)
        sealed.log.write(name, whole)
    sealed.standby.sync(sealed.address, place.absent("xfs"))


def test_what_is_no_recipient_or_no_identity_is_refused_before_anything_is_written(
    tmp_path: Path, machines: list[Machine]
) -> None:
    own, to = identity(tmp_path / "identity")
    log = f"file://{tmp_path / 'log'}"
    machine = machines[0]
    for wrong in ("age1", "x", to[:-1], own.read_text().splitlines()[-1]):
        ran = run("init", log, "--encrypt-to", wrong, "--quiet", env=machine.env)
        assert_told(ran, "is no recipient", codes=(2,))
        assert not (tmp_path / "log").exists()
    machine.refused("init", tmp_path, "--encrypt-to", to, told="only logs are encrypted", code=2)
    machine.done("init", log, "--encrypt-to", to)
    machine.done("init", log, "--encrypt-to", to)
    machine.done("init", log)
    _, other = identity(tmp_path / "third")
    machine.refused("init", log, "--encrypt-to", other, told="is encrypted to", code=3)
    plain = f"file://{tmp_path / 'plain'}"
    machine.done("init", plain)
    machine.refused("init", plain, "--encrypt-to", to, told="is not encrypted", code=3)
    machine.identity = tmp_path / "absent"
    machine.refused("status", log, told="cannot read an identity", code=2)
    (tmp_path / "absent").write_text("no key\n")
    machine.refused("status", log, told="cannot read an identity", code=2)
    machine.done("status", plain)


# --- signatures ---------------------------------------------------------------------------------------


@dataclass
class Line:
    """A log in a directory with some commits, and a standby that has seen them."""

    log: DirectoryLog
    primary: Machine
    standby: Machine
    source: Path
    target: Path

    @property
    def address(self) -> str:
        return self.log.address

    def round(self, name: str) -> None:
        (self.source / "file").write_text(name)
        self.primary.done("sync", self.source, self.address, "--name", name)

    def rewrite(self, change: Any, sequence: int, key: Ed25519PrivateKey | None = None) -> None:
        """Changes a commit, and makes all that follow it fit; `key` signs what is changed."""
        records = self.log.commits()
        log = json.loads(self.log.read("format.json"))["id"]
        change(records[sequence])
        for number in range(sequence, len(records)):
            record = records[number]
            if number > sequence:
                before = self.log.read(f"commits/{number - 1:020}.json")
                record["before"] = blake3.blake3(before).hexdigest()
            if key and "signature" in record:
                record["signer"] = key.public_key().public_bytes_raw().hex()
                record = signed(record, log, key)
            self.log.write(f"commits/{number:020}.json", json.dumps(record, indent=2).encode())

    def expect_refused(self, code: int, told: str) -> None:
        self.standby.refused("sync", self.address, self.target, told=told, code=code)

    def expect(self, code: int, told: str) -> None:
        before = (self.target / "file").read_text()
        self.expect_refused(code, told)
        assert (self.target / "file").read_text() == before


@pytest.fixture
def line(logs: Logs, machines: list[Machine], place: Place) -> Line:
    log = logs("directory")
    assert isinstance(log, DirectoryLog)
    line = Line(log, machines[0], machines[1], place("xfs"), place.absent("xfs"))
    for name in ("zero", "one"):
        line.round(name)
    line.standby.sync(log.address, line.target)
    for name in ("two", "three"):
        line.round(name)
    return line


def test_commits_are_signed_as_the_page_says(line: Line) -> None:
    described = json.loads(line.log.read("format.json"))
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(line.primary.keys[0].read_text()))
    for record in [described, *line.log.commits()]:
        assert record["signer"] == key.public_key().public_bytes_raw().hex()
        assert signed(record, described["id"], key) == record
    assert not line.standby.keys


CHANGES = {
    "name": lambda c: c["deed"]["snapshot"]["delta"]["snapshot"].update(name="other"),
    "base": lambda c: c["deed"]["snapshot"]["delta"].update(base=None),
    "packs": lambda c: c["deed"]["snapshot"].update(packs=[]),
    "epoch": lambda c: c.update(epoch=9),
    "since": lambda c: c["since"].update(bytes=0),
    "more": lambda c: c.update(more=1),
    "signature": lambda c: c.update(signature="00" * 64),
    "unsigned": lambda c: [c.pop("signature"), c.pop("signer")],
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("sequence", [2, 3])
def test_a_commit_that_somebody_changes_is_found_out(line: Line, what: str, sequence: int) -> None:
    line.rewrite(CHANGES[what], sequence)
    line.expect(4, "signed")
    line.primary.refused("sync", line.source, line.address, told="signed", code=4)


def test_a_line_that_somebody_else_has_signed_is_believed_where_that_is_said(line: Line) -> None:
    key = Ed25519PrivateKey.generate()
    line.rewrite(lambda c: c, 2, key)
    public = key.public_key().public_bytes_raw().hex()
    line.expect(4, f"snapsync trust {line.address} {public}")
    line.standby.refused("trust", line.address, "12", told="64 hexadecimal digits", code=2)
    line.standby.refused("trust", line.source, public, told="not the address of a log", code=2)
    line.standby.done("trust", line.address, public)
    line.standby.sync(line.address, line.target)
    assert_same(line.source, line.target)


def test_what_lets_go_needs_no_key_and_cannot_say_more(line: Line) -> None:
    line.standby.done("hold", f"{line.address}@zero")
    line.standby.done("delete", f"{line.address}@two")
    *_, held, pruned = line.log.commits()
    assert "signer" not in held
    assert "signer" not in pruned
    line.round("four")
    line.standby.sync(line.address, line.target)
    assert_same(line.source, line.target)
    line.standby.done("release", f"{line.address}@zero")
    for change in (
        lambda c: c.update(epoch=7),
        lambda c: c.update(checkpoint={"sequence": 1, "object": {"key": "x", "size": 1, "blake3": ""}}),
        lambda c: c.update(promotions=[{"epoch": 2, "volume": str(uuid4()), "snapshot": str(uuid4())}]),
    ):
        released = line.log.names("commits/")[-1]
        before = line.log.read(released)
        line.rewrite(change, len(line.log.commits()) - 1)
        ran = run("list", line.address, "--quiet", env=line.standby.env)
        assert ran.code == 4, ran
        line.primary.refused("sync", line.source, line.address, told="cannot use", code=4)
        line.log.write(released, before)


def test_commits_that_a_store_hides_again_are_missed(line: Line) -> None:
    line.standby.sync(line.address, line.target)
    newest = line.log.names("commits/")[-1]
    hidden = line.log.read(newest)
    line.log.remove(newest)
    line.expect(4, "does not show it any more")
    line.primary.refused("sync", line.source, line.address, told="does not show it any more", code=4)
    line.log.write(newest, line.log.read(line.log.names("commits/")[0]))
    line.expect(4, "it is commit 0")
    line.log.write(newest, hidden)
    line.standby.sync(line.address, line.target)


def test_another_line_after_a_lost_commit_is_found_out(
    line: Line, place: Place, machines: list[Machine]
) -> None:
    """A store that hides a commit until the primary has written another one in its place."""
    newcomer = place.absent("xfs")
    line.standby.sync(line.address, line.target)
    newest = line.log.names("commits/")[-1]
    seen = line.log.read(newest)
    line.log.remove(newest)
    # A copy of the primary that does not know of the last round: its own key signs.
    copy = place("xfs")
    shutil.copytree(line.source, copy, dirs_exist_ok=True, symlinks=True)
    record = json.loads(seen)
    log = json.loads(line.log.read("format.json"))["id"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(line.primary.keys[0].read_text()))
    line.log.write(newest, json.dumps(signed(record | {"token": str(uuid4())}, log, key)).encode())
    line.expect(4, "shows another one now")
    machines[2].sync(line.address, newcomer)


def test_another_log_in_the_place_of_one_is_found_out(
    line: Line, machines: list[Machine], place: Place
) -> None:
    line.standby.sync(line.address, line.target)
    stranger, source = machines[2], place("xfs")
    (source / "file").write_text("of somebody else")
    away = line.log.path.with_name("away")
    line.log.path.rename(away)
    stranger.sync(source, line.address)
    line.primary.refused("sync", line.source, line.address, told="another volume", code=3)
    line.expect(3, "the standby of another volume")
    # The line itself, as if it were of this log.
    shutil.rmtree(line.log.path / "commits")
    for folder in ("commits", "packs", "manifests", "index"):
        shutil.copytree(away / folder, line.log.path / folder, dirs_exist_ok=True)
    line.expect(4, "signed")
    line.primary.refused("sync", line.source, line.address, told="signed", code=4)
    shutil.rmtree(line.log.path / "commits")
    log = json.loads(line.log.read("format.json"))["id"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(stranger.keys[0].read_text()))
    before = ""
    for path in sorted((away / "commits").iterdir()):
        record = json.loads(path.read_text()) | {
            "before": before,
            "signer": key.public_key().public_bytes_raw().hex(),
        }
        text = json.dumps(signed(record, log, key)).encode()
        line.log.write(f"commits/{path.name}", text)
        before = blake3.blake3(text).hexdigest()
    line.expect(4, "another log is at")
    # That another standby of this machine has met it says nothing.
    line.standby.sync(line.address, place.absent("xfs"))
    line.expect(4, "another log is at")
    line.standby.done("trust", line.address, key.public_key().public_bytes_raw().hex())
    line.standby.sync(line.address, line.target)


def test_a_pipe_in_the_place_of_an_object_is_not_waited_for(line: Line) -> None:
    [pack] = line.log.commits()[-1]["deed"]["snapshot"]["packs"]
    for name in ("upload.json", line.log.names("commits/")[-1], pack["key"]):
        path = line.log.path / name
        whole = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        if name == "upload.json":
            line.primary.refused("sync", line.source, line.address, told="it is no file", code=4)
        else:
            line.expect_refused(4, "it is no file")
        path.unlink()
        path.write_bytes(whole)
    line.round("five")


def test_a_format_that_names_another_key_or_recipient_is_found_out(line: Line, tmp_path: Path) -> None:
    described = json.loads(line.log.read("format.json"))
    _, to = identity(tmp_path / "identity")
    line.log.write("format.json", json.dumps(described | {"recipients": [to]}).encode())
    line.primary.refused("sync", line.source, line.address, told="not what was signed", code=4)
    key = Ed25519PrivateKey.generate()
    other = described | {"recipients": [to], "signer": key.public_key().public_bytes_raw().hex()}
    line.log.write("format.json", json.dumps(signed(other, described["id"], key)).encode())
    line.primary.refused("sync", line.source, line.address, told="another key", code=4)
    line.expect(4, "another key")


def test_a_round_that_fails_leaves_a_standby_fenced(line: Line) -> None:
    for pack in line.log.names("packs/"):
        line.log.write(pack, b"damaged")
    line.expect(4, "cannot use")
    line.standby.refused("promote", line.target, told="has other snapshots", code=3)


def test_without_the_key_nothing_is_published(line: Line, machines: list[Machine]) -> None:
    stranger = machines[2]
    commits = line.log.names("commits/")
    stranger.refused("sync", line.source, line.address, told="does not have the key that signs", code=3)
    assert line.log.names("commits/") == commits
    [key] = line.primary.keys
    (stranger.home / "keys").mkdir()
    shutil.copy(key, stranger.home / "keys")
    stranger.sync(line.source, line.address)
    assert len(line.log.names("commits/")) == len(commits) + 1


def test_a_standby_is_promoted_without_the_key_and_the_others_are_told(
    line: Line, machines: list[Machine], place: Place
) -> None:
    other, third = machines[2], place.absent("ext4")
    line.standby.sync(line.address, line.target)
    other.sync(line.address, third)
    promoted = line.standby.done("promote", line.target)
    [told] = [note for note in promoted["notes"] if "snapsync trust" in note]
    key = told.rsplit("`", 2)[1].split()[-1]
    (line.target / "file").write_text("of the new primary")
    line.standby.sync(line.target, line.address)
    other.refused("sync", line.address, third, told=key, code=4)
    other.done("trust", line.address, key)
    other.sync(line.address, third)
    assert_same(line.target, third)
    line.primary.refused("sync", line.source, line.address, told=key, code=4)
    line.primary.done("trust", line.address, key)
    line.primary.refused("sync", line.source, line.address, told="was replaced", code=3)
    line.primary.done("rejoin", line.source, line.address)
    line.primary.sync(line.address, line.source)
    assert_same(line.target, line.source)
