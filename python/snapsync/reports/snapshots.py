"""Reports of verbs that take, list, hold and delete the snapshots of a volume."""

from snapsync.reports.base import Report
from snapsync.reports.values import (
    Alone,
    Clone,
    Hold,
    Kept,
    Lag,
    Part,
    Replaced,
    Skipped,
    Snapshot,
    Standby,
    Unfinished,
    VolumeInfo,
    Weight,
)


class SnapshotReport(Report):
    """A snapshot that was taken. What is `skipped` could not be read, and is as it was before."""

    verb = "snapshot"
    volume: VolumeInfo
    snapshot: Snapshot
    notes: tuple[str, ...]
    seconds: float
    skipped: tuple[Skipped, ...] = ()


class ListReport(Report):
    """The snapshots of a volume, oldest first, and their clones by name.

    `alone` says for each snapshot what it holds by itself, if that was asked. `parts` are the parts of its
    tree with snapshots of their own.
    """

    verb = "list"
    volume: VolumeInfo
    snapshots: tuple[Snapshot, ...]
    holds: tuple[Hold, ...]
    clones: tuple[Clone, ...] = ()
    alone: tuple[Alone, ...] = ()
    parts: tuple[Part, ...] = ()


class DeleteReport(Report):
    """A snapshot that was deleted."""

    verb = "delete"
    volume: VolumeInfo
    deleted: Snapshot


class PruneReport(Report):
    """Which snapshots went, or would go (`dry_run`), and why the others stay."""

    verb = "prune"
    volume: VolumeInfo
    dry_run: bool
    pruned: tuple[Snapshot, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]


class HoldReport(Report):
    """A snapshot that stays from now on until it is released."""

    verb = "hold"
    volume: VolumeInfo
    snapshot: Snapshot
    reason: str


class ReleaseReport(Report):
    """A hold that is no more: by hand for `reason`, or that of a `standby` that is forgotten."""

    verb = "release"
    volume: VolumeInfo
    snapshot: Snapshot | None
    reason: str
    standby: str | None


class StatusReport(Report):
    """A volume, its snapshots and its standbys. `busy`: another command holds the volume now.

    `replaced`: standbys say that another primary was promoted in the stead of this one. `read_only`: as a
    standby it is writable in rounds alone. `by_name`: it finds the owners of files by name.

    `history` is what the snapshots take beside the tree: None if nobody asked, and of subvolumes, which share
    with it. `manifests` is how many manifests of rounds it keeps, also of snapshots that are gone, and
    `manifest_bytes` what they take. `lags` has an entry for each standby, or for the volume itself where that
    is one; `verdict` is ok, warning, critical or unknown where it was asked for.
    """

    verb = "status"
    volume: VolumeInfo
    snapshots: int
    latest: Snapshot | None
    unfinished: Unfinished | None
    busy: bool
    standbys: tuple[Standby, ...]
    replaced: Replaced | None
    read_only: bool
    by_name: bool = False
    holds: tuple[Hold, ...] = ()
    history: Weight | None = None
    manifests: int = 0
    manifest_bytes: int = 0
    parts: tuple[Part, ...] = ()
    lags: tuple[Lag, ...] = ()
    verdict: str | None = None
