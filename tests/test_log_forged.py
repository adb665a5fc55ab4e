"""What somebody who may write to a log puts there in place of what a primary or a standby left.

What such a person makes is made here without the product, by the page: signatures by another implementation
of Ed25519, encryption by `age`.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import blake3
import pytest
from machine import Place, start, wait_until
from object_store import DirectoryLog
from oracle import assert_same
from test_log_trust import Line, Machine, identity, line, machines, sealed
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
