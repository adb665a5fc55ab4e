"""The native half of snapsync. Paths go in as text, each answer comes back as one JSON text.

Every function releases the GIL while it works, calls `progress` on the caller's thread about ten times a
second, and raises KeyboardInterrupt after Ctrl-C once it has stopped in a state that the next call heals.
`jobs=0` means all cores.
"""

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

__all__ = [
    "IntegrityError",
    "InterruptedRound",
    "Mounted",
    "RefusedError",
    "SnapsyncError",
    "UsageError",
    "__version__",
    "browse",
    "clone",
    "delete",
    "delete_clone",
    "diff",
    "fault_points",
    "forget_standby",
    "hold",
    "init",
    "inspect_delta",
    "list",
    "promote",
    "prune",
    "receive",
    "receive_as_snapshot",
    "recover",
    "rejoin",
    "rejoin_preview",
    "release",
    "restore",
    "restore_file",
    "restore_paths",
    "restore_to",
    "send",
    "serve",
    "snapshot",
    "status",
    "switch",
    "sync",
    "trusted",
    "verify",
    "verify_and_mend",
    "versions",
]

__version__: Final[str]

class SnapsyncError(Exception):
    exit_code: int
    advice: str

class UsageError(SnapsyncError): ...
class RefusedError(SnapsyncError): ...
class IntegrityError(SnapsyncError): ...
class InterruptedRound(SnapsyncError): ...

def sync(
    source: str,
    target: str,
    *,
    name: str | None = None,
    snap: str | None = None,
    keep: Mapping[str, int] = ...,
    strict: bool = False,
    no_space_check: bool = False,
    exclude: Sequence[str] = ...,
    include: Sequence[str] = ...,
    everything: bool = False,
    check: bool = False,
    discard_drift: bool = False,
    read_only: bool | None = None,
    new_standby: bool = False,
    scrub: int = 0,
    scrub_limit: int = 0,
    compress: str = "zstd:1",
    bwlimit: int | None = None,
    rsh: Sequence[str] | None = None,
    remote_path: str = "snapsync",
    ssh_options: Sequence[str] = ...,
    timeout: int = 60,
    channels: int = 1,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def init(volume: str, *, read_only: bool | None = None) -> str: ...
def recover(
    volume: str,
    *,
    back: bool = False,
    adopt: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def promote(
    volume: str,
    *,
    name: str | None = None,
    discard_drift: bool = False,
    accept_drift: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def rejoin(
    old: str,
    new: str,
    *,
    compress: str = "zstd:1",
    bwlimit: int | None = None,
    rsh: Sequence[str] | None = None,
    remote_path: str = "snapsync",
    ssh_options: Sequence[str] = ...,
    timeout: int = 60,
    channels: int = 1,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def rejoin_preview(
    old: str,
    new: str,
    output: str,
    *,
    rsh: Sequence[str] | None = None,
    remote_path: str = "snapsync",
    ssh_options: Sequence[str] = ...,
    timeout: int = 60,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def switch(
    primary: str,
    standby: str,
    *,
    compress: str = "zstd:1",
    bwlimit: int | None = None,
    rsh: Sequence[str] | None = None,
    remote_path: str = "snapsync",
    ssh_options: Sequence[str] = ...,
    timeout: int = 60,
    channels: int = 1,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def restore(
    address: str,
    *,
    name: str | None = None,
    strict: bool = False,
    no_space_check: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def serve(
    *,
    restrict_to: str | None = None,
    read_only: bool = False,
    receive_only: bool = False,
    allow_prune: bool = False,
    jobs: int = 0,
) -> str: ...
def send(
    snapshot: str,
    bases: Sequence[str],
    output: str | None = None,
    *,
    name: str | None = None,
    compress: str = "zstd:1",
    bwlimit: int | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def receive(
    volume: str,
    delta: str | None = None,
    *,
    strict: bool = False,
    no_space_check: bool = False,
    check: bool = False,
    discard_drift: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def receive_as_snapshot(
    directory: str,
    delta: str | None = None,
    *,
    name: str | None = None,
    strict: bool = False,
    no_space_check: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def snapshot(
    volume: str,
    *,
    name: str | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def list(volume: str) -> str: ...
def delete(volume: str, snap: str) -> str: ...
def prune(volume: str, keep: Mapping[str, int], *, dry_run: bool = False) -> str: ...
def hold(volume: str, snap: str, reason: str = "") -> str: ...
def release(volume: str, snap: str) -> str: ...
def forget_standby(volume: str, standby: str) -> str: ...
def diff(
    base: str,
    target: str,
    output: str | None = None,
    *,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def verify(
    a: str,
    b: str,
    *,
    quick: bool = False,
    sample: float | None = None,
    seed: int | None = None,
    rsh: Sequence[str] | None = None,
    remote_path: str = "snapsync",
    ssh_options: Sequence[str] = ...,
    timeout: int = 60,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def inspect_delta(file: str, manifest: str) -> str: ...
def status(volume: str) -> str: ...
def trusted(what: str, path: str) -> int: ...
def fault_points() -> builtins.list[str]: ...
def restore_to(
    snapshot: str,
    paths: Sequence[str],
    to: str,
    *,
    strict: bool = False,
    no_space_check: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def restore_paths(
    snapshot: str,
    paths: Sequence[str],
    *,
    strict: bool = False,
    no_space_check: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def clone(
    snapshot: str,
    to: str,
    *,
    name: str | None = None,
    strict: bool = False,
    no_space_check: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def delete_clone(volume: str, name: str) -> str: ...

@final
class Mounted:
    """What is mounted: unmounted by `close`, or when it goes, unless `leave` was called."""

    def wait(self, seconds: float) -> bool: ...
    def close(self) -> None: ...
    def leave(self) -> None: ...

def browse(
    snapshot: str,
    at: str,
    *,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> tuple[str, Mounted]: ...
def verify_and_mend(
    primary: str,
    standby: str,
    *,
    discard_drift: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def versions(file: str, *, progress: Callable[[str, int, int, str], object] | None = None) -> str: ...
def restore_file(
    snapshot: str,
    path: str,
    to: str,
    *,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
