"""Reports of rounds, in one step or as a delta that is sent and received."""

from snapsync.reports.base import Report
from snapsync.reports.values import (
    Changes,
    Claimed,
    Counters,
    Guarded,
    Loss,
    PlannedChange,
    Scrubbed,
    Skipped,
    Snapshot,
    VolumeInfo,
)


class SyncReport(Report):
    """One round of sync.

    `base` is None in the first round. `data_bytes` moved, `kept_bytes` of them with an earlier round that
    was cut; the tree holds `tree_bytes` in `tree_entries`. With `unchanged` the standby's tree was not
    written. What was changed there by hand, and discarded, is in the snapshot `set_aside`; so is what a copy
    held that was adopted, if any of it is gone or was changed. `scrub` is what was read again, None from an
    older snapsync. `skipped` could not be read, and is as it was before. What the other end of a
    round has told, and this one could not see, is named in `claimed`.
    """

    verb = "sync"
    primary: VolumeInfo
    standby: VolumeInfo
    base: Snapshot | None
    snapshot: Snapshot
    changes: Changes
    data_bytes: int
    kept_bytes: int
    tree_bytes: int
    tree_entries: int
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]
    recovered: tuple[str, ...]
    set_aside: Snapshot | None
    pruned: tuple[Snapshot, ...]
    unchanged: bool
    counters: Counters
    seconds: float
    scrub: Scrubbed | None = None
    claimed: Claimed | None = None
    skipped: tuple[Skipped, ...] = ()


class PlanReport(Report):
    """What a round would do: `changes` from `base` (None in a first round), of which `data_bytes` travel.

    The tree then holds `tree_bytes` in `tree_entries`. On the way the round takes `needed` bytes and
    `needed_inodes` on the standby's file system, where `available` bytes are free; `losses` are what that
    cannot hold; None where it does not tell. `guard` is what the guard measures, None if there is none or
    nothing to compare with. `refused` says why the round would be refused, None if it would not; `advice`
    what can be done then. `paths` are all changes, None if they were not asked for.
    """

    verb = "plan"
    source: str
    target: str
    base: Snapshot | None
    changes: Changes
    data_bytes: int
    tree_bytes: int
    tree_entries: int
    needed: int | None
    needed_inodes: int | None
    available: int | None
    losses: tuple[Loss, ...] | None
    guard: Guarded | None
    refused: str | None
    advice: str | None
    paths: tuple[PlannedChange, ...] | None
    unchanged: bool
    notes: tuple[str, ...]
    counters: Counters
    seconds: float


class SendReport(Report):
    """A delta that was written to the file `output` (None: to standard output).

    `base` is None for a full one. Its data is `data_bytes` in `frames` frames, which take `stored_bytes`.
    """

    verb = "send"
    snapshot: Snapshot
    base: Snapshot | None
    output: str | None
    changes: Changes
    data_bytes: int
    frames: int
    stored_bytes: int
    notes: tuple[str, ...]
    counters: Counters
    seconds: float


class ReceiveReport(Report):
    """A delta that was applied: to the volume `standby`, or as the snapshot at `path`.

    `kept_bytes` of its `data_bytes` had come with an earlier run that was cut.
    """

    verb = "receive"
    standby: VolumeInfo | None
    path: str | None
    base: Snapshot | None
    snapshot: Snapshot
    changes: Changes
    data_bytes: int
    kept_bytes: int
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]
    recovered: tuple[str, ...]
    set_aside: Snapshot | None
    counters: Counters
    seconds: float
