"""What somebody who may write to a log puts there in place of what a primary or a standby left.

What such a person makes is made here without the product, by the page: signatures by another implementation
of Ed25519, encryption by `age`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import blake3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from machine import Place, assert_told, run, start, wait_until
from object_store import DirectoryLog, signed
from oracle import assert_same
from test_log_trust import Line, Machine, Sealed, identity, line, machines, sealed
from test_log_upload import MIB, fill

__all__ = ["line", "machines", "sealed"]

ROW, END = 64, 80
"""The bytes of a frame in the end of a pack, and those of what comes after the frames."""


# --- an upload that was cut ---------------------------------------------------------------------------


def cut(machine: Machine, source: Path, log: DirectoryLog) -> list[str]:
    """Kills a round once some of its packs are there; tells which."""

    def packs() -> list[str]:
        return [name for name in log.names("packs/") if "#" not in name]

    words = ("sync", source, log.address, "--bwlimit", "32M", "--jobs", "1", "-q", "--compress", "none")
    process = start(*words, env=machine.env)
    wait_until(lambda: len(packs()) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return packs()


def with_other_data(pack: bytes) -> bytes:
    """A pack of the same frames with other bytes, and an end that fits them."""
    count = int.from_bytes(pack[-16:-8], "little")
    frames, end = bytearray(pack[: -END - ROW * count]), bytearray(pack[-END - ROW * count :])
    for row in range(0, ROW * count, ROW):
        length = int.from_bytes(end[row + 20 : row + 24], "little")
        at = int.from_bytes(end[row + 24 : row + 32], "little")
        frames[at : at + length] = (b"FORGED" * length)[:length]
        end[row + 32 : row + ROW] = blake3.blake3(frames[at : at + length]).digest()
    return bytes(frames + end)


@pytest.fixture
def cut_off(line: Line, place: Place) -> tuple[DirectoryLog, Path, list[str]]:
    log, source = DirectoryLog(line.log.path.with_name(f"{line.log.path.name}-cut")), place("xfs")
    fill(source, 24)
    return log, source, cut(line.primary, source, log)


def test_a_primary_signs_no_data_that_somebody_has_put_into_its_upload(
    line: Line, place: Place, cut_off: tuple[DirectoryLog, Path, list[str]]
) -> None:
    log, source, packs = cut_off
    forged = with_other_data(log.read(packs[0]))
    log.remove(packs[0])
    log.write(f"{packs[0].rsplit('-', 1)[0]}-{blake3.blake3(forged).hexdigest()}", forged)
    for garbage in (b"", b"x", b"SNSPACK1"):
        log.write(f"{Path(packs[0]).parent}/000099-{blake3.blake3(garbage).hexdigest()}", garbage)
    log.write(f"{Path(packs[1]).parent}/000098-{'0' * 64}", log.read(packs[1]))
    target = place.absent("xfs")
    report = line.primary.sync(source, log.address)
    assert 0 < report["kept_bytes"] < 24 * 4 * MIB
    line.standby.sync(log.address, target)
    assert_same(source, target)
    line.standby.done("verify", log.address, target)


FOLDERS: dict[str, Any] = {
    "elsewhere": lambda upload: upload["folders"][0].update(key=f"packs/{upload['snapshot']}/elsewhere"),
    "more": lambda upload: upload["folders"].append({"key": f"packs/{upload['snapshot']}/elsewhere"}),
    "after": lambda upload: upload.update(after=2**64 - 1),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_primary_goes_on_with_no_upload_that_somebody_else_describes(
    line: Line, place: Place, cut_off: tuple[DirectoryLog, Path, list[str]], what: str
) -> None:
    log, source, packs = cut_off
    upload = json.loads(log.read("upload.json"))
    for pack in packs:
        log.write(f"packs/{upload['snapshot']}/elsewhere/{Path(pack).name}", log.read(pack))
    FOLDERS[what](upload)
    log.write("upload.json", json.dumps(upload).encode())
    target = place.absent("xfs")
    assert line.primary.sync(source, log.address)["kept_bytes"] == 0
    line.standby.sync(log.address, target)
    assert_same(source, target)


def test_damage_in_the_packs_of_a_cut_upload_does_not_stop_an_encrypted_log(
    line: Line, place: Place, tmp_path: Path
) -> None:
    own, to = identity(tmp_path / "identity")
    log, source, target = (
        DirectoryLog(line.log.path.with_name(f"{line.log.path.name}-cut")),
        place("xfs"),
        place.absent("xfs"),
    )
    fill(source, 24)
    line.primary.done("init", log.address, "--encrypt-to", to)
    packs = cut(line.primary, source, log)
    log.write(packs[0], log.read(packs[0])[:-9] + b"x" * 9)
    log.write(f"{Path(packs[1]).parent}/000099-{'0' * 64}", b"x")
    assert line.primary.sync(source, log.address)["kept_bytes"] > 0
    line.standby.identity = own
    line.standby.sync(log.address, target)
    assert_same(source, target)


# --- another log in the place of one ------------------------------------------------------------------


@dataclass
class Other:
    """A log that somebody else has begun in the place of an encrypted one, and whose key the recipients of
    that one can open too."""

    id: str
    key: Ed25519PrivateKey

    @staticmethod
    def replace(sealed: Sealed, *, with_its_line: bool) -> Other:
        other, log, records = (
            Other(str(uuid4()), Ed25519PrivateKey.generate()),
            sealed.log,
            sealed.log.commits(),
        )
        for name in log.names():
            if name.split("/")[0] in ("format.json", "commits", "readers") or not with_its_line:
                log.remove(name)
        command = ["age-keygen", "-y", sealed.identity]
        to = subprocess.check_output(command, text=True).strip()
        key = other.key.private_bytes_raw().hex().encode()
        closed = subprocess.run(["age", "-r", to], input=key, capture_output=True, check=True).stdout
        described = {
            "snapsync": "log",
            "version": 1,
            "id": other.id,
            "signer": other.public,
            "recipients": [to],
            "sealed_key": base64.b64encode(closed).decode(),
        }
        log.write("format.json", json.dumps(signed(described, other.id, other.key)).encode())
        before = ""
        for record in records if with_its_line else ():
            own = signed(record | {"before": before, "signer": other.public}, other.id, other.key)
            text = json.dumps(own).encode()
            log.write(f"commits/{record['sequence']:020}.json", text)
            before = blake3.blake3(text).hexdigest()
        return other

    @property
    def public(self) -> str:
        return self.key.public_key().public_bytes_raw().hex()


@pytest.fixture
def followed(sealed: Sealed, place: Place) -> tuple[Path, Path]:
    """A volume that is published to an encrypted log, and a standby."""
    source, target = place("xfs"), place.absent("xfs")
    (source / "file").write_text("for the recipients alone")
    sealed.primary.sync(source, sealed.address)
    sealed.standby.sync(sealed.address, target)
    return source, target


@pytest.mark.parametrize("with_its_line", [False, True], ids=["empty", "with-its-line"])
def test_a_primary_publishes_to_no_log_that_took_the_place_of_its_own(
    sealed: Sealed, followed: tuple[Path, Path], *, with_its_line: bool
) -> None:
    source, _ = followed
    sealed.primary.identity = sealed.identity
    other = Other.replace(sealed, with_its_line=with_its_line)
    there = sealed.log.names()
    for _ in range(2):
        sealed.primary.refused("sync", source, sealed.address, told="another log is at", code=4)
        assert sealed.log.names() == there
    sealed.primary.done("trust", sealed.address, other.public)
    sealed.primary.sync(source, sealed.address)


def test_a_command_that_writes_makes_no_other_log_known(sealed: Sealed, followed: tuple[Path, Path]) -> None:
    _, target = followed
    Other.replace(sealed, with_its_line=True)
    told = "another log is at"
    sealed.standby.refused("sync", sealed.address, target, told=told, code=4)
    sealed.standby.done("hold", f"{sealed.address}@0")
    sealed.standby.done("prune", sealed.address, "--keep-last", "1")
    sealed.standby.refused("sync", sealed.address, target, told=told, code=4)
    sealed.standby.refused("promote", target, told=told, code=4)


# --- links in a directory -----------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["packs", "packs/below", "probe"])
def test_prune_deletes_nothing_behind_a_link(line: Line, tmp_path: Path, folder: str) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    for name in ("precious", "below/precious"):
        (outside / name).write_text("of somebody")
    (line.log.path / folder).mkdir(exist_ok=True)
    (line.log.path / folder / "file").symlink_to(outside / "precious")
    line.standby.done("prune", line.address, "--keep-last", "9")
    assert not (line.log.path / folder / "file").is_symlink()
    (line.log.path / folder / "link").symlink_to(outside)
    told = "a symbolic link leads there"
    line.standby.refused("prune", line.address, "--keep-last", "1", told=told, code=4)
    assert (outside / "precious").exists()
    assert (outside / "below" / "precious").exists()
    (line.log.path / folder / "link").unlink()
    line.standby.done("prune", line.address, "--keep-last", "1")


# --- keys ---------------------------------------------------------------------------------------------


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def test_keys_may_be_read_only(line: Line) -> None:
    with read_only(line.primary.home / "keys"), read_only(line.standby.home / "keys"):
        line.round("four")
        line.standby.sync(line.address, line.target)
        line.primary.done("prune", line.address, "--keep-last", "1")
    assert_same(line.source, line.target)


def test_a_machine_that_lost_its_keys_is_promoted_and_goes_on(line: Line) -> None:
    line.standby.sync(line.address, line.target)
    shutil.rmtree(line.standby.home / "keys")
    promoted = line.standby.done("promote", line.target)
    assert any("snapsync trust" in note for note in promoted["notes"])
    (line.target / "file").write_text("of the new primary")
    line.standby.sync(line.target, line.address)


def test_a_promotion_that_was_interrupted_tells_its_key_again(line: Line) -> None:
    line.standby.sync(line.address, line.target)
    log = json.loads(line.log.read("format.json"))["id"]
    (line.standby.home / "keys" / f"{log}.key").write_text("07" * 32)
    [told] = [note for note in line.standby.done("promote", line.target)["notes"] if "snapsync trust" in note]
    own = Ed25519PrivateKey.from_private_bytes(bytes([7] * 32)).public_key().public_bytes_raw().hex()
    assert f"snapsync trust {line.address} {own}`" in told


@pytest.mark.parametrize("name", [b"identity", b"not-\xff-text"])
def test_identities_are_read_however_they_are_laid_out(
    tmp_path: Path, machines: list[Machine], name: bytes
) -> None:
    log, machine = f"file://{tmp_path / 'log'}", machines[0]
    own, to = identity(tmp_path / "own")
    spare, _ = identity(tmp_path / "spare")
    machine.done("init", log, "--encrypt-to", to)
    machine.identity = tmp_path / os.fsdecode(name)
    lines = [
        "  # two of them",
        *spare.read_text().splitlines(),
        "",
        " \t",
        f" {own.read_text().strip()} ",
        "",
    ]
    machine.identity.write_text("\r\n".join(lines))
    told = "has no snapshot"
    machine.refused("prune", log, "--keep-last", "1", told=told, code=2)


def test_who_forgot_the_identity_makes_no_other_key_for_an_encrypted_log(
    sealed: Sealed, followed: tuple[Path, Path]
) -> None:
    _, target = followed
    own, sealed.standby.identity = sealed.standby.identity, None
    sealed.standby.refused("promote", target, told="no identity that opens it", code=2)
    assert sealed.standby.keys == []
    sealed.standby.identity = own
    assert not any("trust" in note for note in sealed.standby.done("promote", target)["notes"])


def test_an_identity_that_is_taken_for_a_recipient_is_not_shown(
    tmp_path: Path, machines: list[Machine]
) -> None:
    own, _ = identity(tmp_path / "own")
    secret = own.read_text().splitlines()[-1]
    for written in (secret, secret.lower(), f" {secret}"):
        ran = run("init", f"file://{tmp_path / 'log'}", "--encrypt-to", written, env=machines[0].env)
        assert_told(ran, "no recipient", codes=(2,))
        assert secret.lower()[20:] not in f"{ran.out}{ran.err}".lower()


@pytest.mark.parametrize("content", [b"", b"x\n", b"\xff\x00", b"0" * 63], ids=repr)
def test_keys_that_cannot_be_read_are_named_and_nothing_is_believed_for_the_lack_of_them(
    line: Line, content: bytes
) -> None:
    [trusted] = (line.standby.home / "keys").glob("*.trusted")
    trusted.write_bytes(content)
    line.expect(2, trusted.name)
    [key] = line.primary.keys
    key.write_bytes(content)
    line.primary.refused("sync", line.source, line.address, told=key.name, code=2)


# --- what standbys say --------------------------------------------------------------------------------


def test_who_reads_no_names_sees_the_state_of_a_log_all_the_same(
    sealed: Sealed, followed: tuple[Path, Path]
) -> None:
    assert sealed.primary.done("status", sealed.address)["standbys"] == []
    [known] = sealed.standby.done("status", sealed.address)["standbys"]
    sealed.primary.done("release", sealed.address, "--standby", known["volume"])
    assert sealed.standby.done("status", sealed.address)["standbys"] == []


def test_a_standby_that_says_nothing_can_be_forgotten(sealed: Sealed, followed: tuple[Path, Path]) -> None:
    [said] = sealed.log.names("readers/")
    sealed.log.write("readers/none.json", b"x")
    for content in (b"x", b"{}", sealed.log.read(said)):
        # Nobody but the recipients reads whose it says to be.
        volume = str(uuid4())
        sealed.log.write(f"readers/{volume}.json", content)
        told = f"release {sealed.address} --standby {volume}"
        for words in (("prune", sealed.address, "--keep-last", "1"), ("status", sealed.address)):
            sealed.standby.refused(*words, told=told, code=4)
        sealed.standby.done("release", sealed.address, "--standby", volume)
    sealed.standby.done("prune", sealed.address, "--keep-last", "1")
    [known] = sealed.standby.done("status", sealed.address)["standbys"]
    assert known["volume"] == Path(said).stem


# --- copies -------------------------------------------------------------------------------------------


def test_a_primary_goes_on_with_an_older_copy_of_its_log_where_that_is_said(line: Line) -> None:
    copy = DirectoryLog(line.log.path.with_name(f"{line.log.path.name}-copy"))
    shutil.copytree(line.log.path, copy.path)
    line.round("four")
    there = copy.names()
    log = json.loads(copy.read("format.json"))["id"]
    told = f"snapsync release {line.source} --standby {log}"
    line.primary.refused("sync", line.source, copy.address, told=told, code=4)
    assert copy.names() == there
    line.primary.done("release", line.source, "--standby", log)
    line.primary.sync(line.source, copy.address)
    line.standby.sync(copy.address, line.target)
    assert_same(line.source, line.target)


def test_nobody_is_told_to_begin_a_log_without_encryption_in_the_place_of_one_that_is_gone(
    sealed: Sealed, followed: tuple[Path, Path]
) -> None:
    source, _ = followed
    for name in sealed.log.names():
        sealed.log.remove(name)
    told = "--encrypt-to if it was encrypted"
    sealed.primary.refused("sync", source, sealed.address, told=told, code=3)
    assert sealed.log.names() == []
    if isinstance(sealed.log, DirectoryLog):
        shutil.rmtree(sealed.log.path)
    else:
        # Folders are left there.
        return
    to = subprocess.check_output(["age-keygen", "-y", sealed.identity], text=True).strip()
    sealed.primary.done("init", sealed.address, "--encrypt-to", to)
    sealed.primary.sync(source, sealed.address)
    [pack] = sealed.log.names("packs/")
    assert sealed.log.read(pack).startswith(b"age-encryption.org/v1\n")
