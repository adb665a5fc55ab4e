"""Fixtures: places on real file systems, and pairs of volumes on them."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import remote
from configured import Jobs
from machine import FileSystems, Pair, Place, own_mounts, subvolume
from object_store import BucketLog, Logs

_KEYS = tempfile.TemporaryDirectory(prefix="snapsync-keys-")


def pytest_sessionstart() -> None:
    # Before any thread exists: a thread made earlier would not see the mounts.
    own_mounts()
    # Under sudo the variables that name directories would not count.
    os.environ.pop("SUDO_USER", None)
    # The keys of this machine are not those of tests.
    os.environ["SNAPSYNC_KEYS"] = _KEYS.name
    os.environ.pop("SNAPSYNC_IDENTITY", None)
    # A run that is told to end cleans up, as after Ctrl-C; what a background job ignores is not handed on.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@pytest.fixture(scope="session")
def file_systems() -> Iterator[FileSystems]:
    """Btrfs, XFS with reflinks and ext4, each made when it is first asked for."""
    systems = FileSystems()
    try:
        yield systems
    finally:
        systems.close()


@pytest.fixture
def place(file_systems: FileSystems) -> Iterator[Place]:
    """`place(kind)` is a new empty directory there, `place.absent(kind)` a free path."""
    places = Place(file_systems)
    try:
        yield places
    finally:
        places.clear()


@pytest.fixture
def mount(file_systems: FileSystems) -> Iterator[Callable[..., Path]]:
    """`mount(kind, size, *options)` is a directory or subvolume on a new file system, gone with the test."""
    points: list[Path] = []

    def make(kind: str, size: int, *mkfs: str) -> Path:
        points.append(file_systems.mount(kind, size, *mkfs))
        volume = points[-1] / "volume"
        subvolume(volume) if kind == "btrfs" else volume.mkdir()
        return volume

    yield make
    for point in points:
        file_systems.unmount(point)


@pytest.fixture
def kinds() -> tuple[str, str]:
    """The file systems of `pair`; tests parametrize it."""
    return ("btrfs", "xfs")


@pytest.fixture
def pair(place: Place, kinds: tuple[str, str]) -> Pair:
    """An empty primary and the path of its standby to be."""
    return Pair.make(place, kinds)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """A configuration of the test's own."""
    return Jobs(tmp_path)


@pytest.fixture(scope="session")
def server() -> Iterator[remote.Server]:
    """An sshd on loopback."""
    with remote.sshd() as server:
        yield server


@pytest.fixture(scope="session")
def network() -> Iterator[remote.Network]:
    """An sshd behind a cable that can be pulled out."""
    with remote.network() as network:
        yield network


@pytest.fixture(scope="session")
def logs(file_systems: FileSystems) -> Iterator[Logs]:
    """`logs(kind)` is a place for a new log: in a directory, in SeaweedFS, in moto."""
    logs = Logs(file_systems.home)
    try:
        yield logs
    finally:
        logs.close()


@pytest.fixture
def bucket(logs: Logs) -> BucketLog:
    """A place for a log in SeaweedFS."""
    log = logs("seaweedfs")
    assert isinstance(log, BucketLog)
    return log
