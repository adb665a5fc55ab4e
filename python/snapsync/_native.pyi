"""The native half of snapsync. Paths go in as text, each answer comes back as one JSON text.

Every function releases the GIL while it works, calls `progress` on the caller's thread about ten times a
second, and raises KeyboardInterrupt after Ctrl-C once it has stopped in a state that the next call heals.
`jobs=0` means all cores. Groups of options come whole, as dictionaries; `snapsync.options` declares them.
"""

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

__all__ = [
    "IntegrityError",
    "InterruptedRound",
    "Location",
    "Mounted",
    "RefusedError",
    "SnapsyncError",
    "UsageError",
    "__version__",
    "ask",
    "clone",
    "delete",
    "delete_clone",
    "diff",
    "fault_points",
    "find",
    "forget_standby",
    "hold",
    "init",
    "inspect_delta",
    "kept",
    "list",
    "log",
    "log_of",
    "mount",
    "plan",
    "promote",
    "promote_preview",
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
    "trust",
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

@final
class Location:
    """What people call a place, taken apart as the verbs do it. Making one touches nothing on disk.

    Raises UsageError for any other URL than a log's, and for what may be a mistake; `known` takes whatever a
    volume has recorded.
    """

    def __new__(cls, text: str) -> Location: ...
    @staticmethod
    def known(text: str) -> Location: ...
    @staticmethod
    def part_of(text: str, part: str) -> str:
        """How a part of the tree at a place is written. Raises UsageError for what cannot name one."""

    @property
    def host(self) -> str | None:
        """`[user@]host`, an IPv6 address in brackets; None for this machine."""

    @property
    def is_log(self) -> bool:
        """Whether it is a log, as `s3://BUCKET/PREFIX` or `file:///DIR`; `path` is its address then."""

    @property
    def path(self) -> str:
        """What lies between the host and the snapshot; of a part, with the slash at its end."""

    @property
    def part(self) -> str | None:
        """What stands between an `@` and the last slash, which may as well be part of a directory's name."""

    @property
    def snapshot(self) -> str | None:
        """What follows the last `@` of the last name, or the slash after a part; it may as well be a name."""

    def is_at(self, place: Location) -> bool:
        """Whether `place`, whose path may be relative to a home on its host, names this place."""

def sync(
    source: str,
    target: str,
    options: dict[str, Any],
    *,
    keep: Mapping[str, int],
    hooks: dict[str, Any],
    taking: dict[str, Any],
    transfer: dict[str, Any],
    ssh: dict[str, Any],
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def plan(
    source: str,
    target: str,
    options: dict[str, Any],
    *,
    keep: Mapping[str, int],
    hooks: dict[str, Any],
    taking: dict[str, Any],
    ssh: dict[str, Any],
    paths: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def init(
    volume: str,
    *,
    read_only: bool | None = None,
    history: str | None = None,
    encrypt_to: Sequence[str] = ...,
) -> str: ...
def trust(log: str, key: str) -> str: ...
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
def promote_preview(volume: str, *, jobs: int = 0) -> str: ...
def rejoin(
    old: str,
    new: str,
    *,
    owners: dict[str, Any] | None = None,
    transfer: dict[str, Any],
    ssh: dict[str, Any],
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def rejoin_preview(
    old: str,
    new: str,
    output: str,
    *,
    ssh: dict[str, Any],
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def switch(
    primary: str,
    standby: str,
    *,
    owners: dict[str, Any] | None = None,
    transfer: dict[str, Any],
    ssh: dict[str, Any],
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def restore(
    address: str,
    *,
    name: str | None = None,
    target: dict[str, Any],
    standby: str | None = None,
    ssh: dict[str, Any] | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def serve(
    *,
    restrict_to: str | None = None,
    read_only: bool = False,
    receive_only: bool = False,
    allow_prune: bool = False,
    allow_adopt: bool = False,
    jobs: int = 0,
) -> str: ...
def send(
    snapshot: str,
    bases: Sequence[str],
    output: str | None = None,
    *,
    name: str | None = None,
    transfer: dict[str, Any],
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def receive(
    volume: str,
    delta: str | None = None,
    *,
    target: dict[str, Any],
    drift: dict[str, Any],
    owners: dict[str, Any] | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def receive_as_snapshot(
    directory: str,
    delta: str | None = None,
    *,
    name: str | None = None,
    target: dict[str, Any],
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def snapshot(
    volume: str,
    *,
    name: str | None = None,
    hooks: dict[str, Any],
    keep_going: bool = False,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def list(volume: str, *, alone: bool = False) -> str: ...
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
    ssh: dict[str, Any] | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def inspect_delta(file: str, manifest: str) -> str: ...
def ask(
    place: str,
    question: str,
    *,
    output: str | None = None,
    ssh: Mapping[str, object] | None,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def status(volume: str, *, history: bool = False) -> str: ...
def trusted(what: str, path: str) -> int: ...
def fault_points() -> builtins.list[str]: ...
def restore_to(
    snapshot: str,
    paths: Sequence[str],
    to: str,
    *,
    select: dict[str, Any],
    target: dict[str, Any],
    standby: str | None = None,
    ssh: dict[str, Any] | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def restore_paths(
    snapshot: str,
    paths: Sequence[str],
    *,
    select: dict[str, Any],
    target: dict[str, Any],
    standby: str | None = None,
    ssh: dict[str, Any] | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def clone(
    snapshot: str,
    to: str,
    *,
    name: str | None = None,
    target: dict[str, Any],
    standby: str | None = None,
    ssh: dict[str, Any] | None = None,
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

def mount(
    source: str,
    at: str,
    *,
    allow_other: bool = False,
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
def versions(
    file: str,
    *,
    part: str | None = None,
    diff: Sequence[int] | None = None,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def restore_file(
    snapshot: str,
    path: str,
    to: str,
    *,
    standby: str | None = None,
    ssh: dict[str, Any] | None = None,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def log(
    volume: str,
    *,
    since: str | None = None,
    until: str | None = None,
    most: int | None = None,
    stat: bool = False,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def log_of(
    volume: str,
    path: str,
    *,
    since: str | None = None,
    until: str | None = None,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def find(
    volume: str,
    patterns: Sequence[str],
    *,
    deleted: bool = False,
    kind: str | None = None,
    larger: int | None = None,
    newer: str | None = None,
    since: str | None = None,
    until: str | None = None,
    jobs: int = 0,
    progress: Callable[[str, int, int, str], object] | None = None,
) -> str: ...
def kept(volume: str, directory: str) -> tuple[builtins.list[str], builtins.list[str]]: ...
