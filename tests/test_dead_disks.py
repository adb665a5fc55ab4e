"""A file system that does not answer is called that, and nothing is said of what may be on it."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from machine import MIB, Pair, Place, done, run

XFS_IOC_GOINGDOWN = 0x8004587D
WITHOUT_THE_LOG = 2


@pytest.mark.parametrize("side", ["source", "target"])
def test_who_looks_at_a_broken_file_system_hears_of_that(
    place: Place, mount: Callable[..., Path], side: str
) -> None:
    disk = mount("xfs", 300 * MIB)
    pair = Pair.make(place, ("ext4", "ext4"))
    pair = Pair(disk / "volume", pair.target) if side == "source" else Pair(pair.source, disk / "volume")
    pair.source.mkdir(exist_ok=True)
    (pair.source / "file").write_text("content")
    done("sync", pair.source, pair.target)
    directory = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(directory, XFS_IOC_GOINGDOWN, struct.pack("I", WITHOUT_THE_LOG))
    os.close(directory)
    for words in (("sync", pair.source, pair.target), ("status", disk / "volume"), ("list", disk / "volume")):
        ran = run(*words)
        assert ran.code == 1, ran
        assert "Input/output error" in ran.err
        assert "does not answer" in ran.err
        assert "--new-standby" not in ran.err
