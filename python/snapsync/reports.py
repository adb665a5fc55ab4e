"""What each verb answers: frozen dataclasses, built from the JSON text of the native half.

Sizes are bytes, durations seconds, moments timezone-aware (UTC). Keys that a class does not name are
ignored, so a report can grow without breaking its readers.
"""

import json
from datetime import datetime
from types import GenericAlias, UnionType

from snapsync.record import Record, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self


class Report(Record):
    """The base of all reports; `verb` is the verb that made it."""

    verb = ""

    @classmethod
    def from_json(cls, text: str) -> "Self":
        """Read the report that the native half wrote."""
        report: Self = _build(cls, json.loads(text))
        return report

    def as_dict(self) -> "dict[str, Any]":
        """The same as nested dictionaries and sequences, with `verb` first."""
        return {"verb": self.verb, **plain(self)}

    def to_json(self) -> str:
        """The same as one JSON object. Moments are written as RFC 3339."""
        return json.dumps(self.as_dict(), default=datetime.isoformat)


class Subset(Record):
    """Which part of a volume is replicated: gitignore patterns of what is left out and what is brought back.

    Without any it is everything.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.exclude)


class Snapshot(Record):
    """The immutable state of a volume at one moment.

    `sequence` counts from 0 along the lineage, `parent` is the id of the snapshot before it. `entries`
    and `bytes` describe the tree; they are None where nobody counted (Btrfs). `subset` is what of the
    volume it is of. Kept `aside` is what was there before the volume went back to an older snapshot.
    """

    id: str
    name: str
    sequence: int
    parent: str | None
    created: datetime
    provider: str
    entries: int | None
    bytes: int | None
    subset: Subset = Subset()
    aside: bool = False


class VolumeInfo(Record):
    """A volume as it stands. `role` is primary or standby, `provider` btrfs or pool.

    `subset` is what its next snapshot is of.
    """

    path: str
    id: str
    lineage: str
    epoch: int
    role: str
    provider: str
    filesystem: str
    subset: Subset = Subset()


class Changes(Record):
    """How many inodes changed, by kind of change; `rows` is the number of rows of the manifest."""

    created: int
    changed: int
    renamed: int
    deleted: int
    rows: int


class Counters(Record):
    """How much was looked at. The same for the same snapshots, whatever the number of threads.

    `visited`: entries of directories, items of trees or rows of tables. `bytes_read` were read from files, to
    compare them and to send them. `ghosts`: runs of bytes that moved and stayed the same, which are not sent.
    """

    visited: int
    inodes_compared: int
    extents_compared: int
    bytes_read: int
    bytes_sent: int
    ghosts: int
    ghost_bytes: int


class Loss(Record):
    """Something that the standby's file system cannot hold: what, how often, and one path."""

    what: str
    count: int
    example: str


class Difference(Record):
    """One difference that verify found: at which path, in what, and the value on each side."""

    path: str
    what: str
    a: str
    b: str


class Unfinished(Record):
    """A round that was cut short in `phase`; the next command finishes or discards it.

    Where it `can_go_back`, `snapsync recover --back` makes the tree what it was before.
    """

    phase: str
    snapshot: str
    can_go_back: bool


class ScrubStatus(Record):
    """What was read again of a standby and its primary so far: `files` and `bytes`, on each side.

    `differences` were found in all; those files whose paths are `pending` travel again with the next round.
    Everything was read since `all_since`.
    """

    files: int
    bytes: int
    differences: int
    pending: tuple[str, ...]
    all_since: datetime


class Claim(Record):
    """The epoch that a standby said it is of, higher than its primary's. `shown`: with promotions to it."""

    epoch: int
    shown: bool
    at: datetime


class Standby(Record):
    """A standby that the primary knows: the snapshot it holds, since when, how many it is behind.

    One with a `claim` is not fed.
    """

    volume: str
    path: str
    snapshot: str
    name: str
    at: datetime
    lag: int
    scrub: ScrubStatus | None = None
    claim: Claim | None = None


class Unlike(Record):
    """A file that was found to differ between primary and standby, and what is wrong with it."""

    path: str
    what: str


class Scrubbed(Record):
    """The share of the unchanged files that a round has read again: `files` and `bytes`, on each side.

    `differences` names some of the `difference_count` files that differ: the next round brings them again.
    `mended` were brought again by this one. Everything was read since `all_since` (None: nothing is).
    """

    files: int
    bytes: int
    mended: int
    difference_count: int
    differences: tuple[Unlike, ...]
    all_since: datetime | None


class Hold(Record):
    """Why a snapshot may not go: `standby` goes on from it, or, None, it is held by hand for `reason`."""

    snapshot: str
    name: str
    reason: str
    standby: str | None


class Kept(Record):
    """A snapshot that stays, and each rule and hold that keeps it: newest, last, hourly, …, or a sentence."""

    snapshot: Snapshot
    why: tuple[str, ...]


class Lag(Record):
    """How far a standby is behind: the snapshots that its primary has taken since its newest one, and the
    seconds since that was taken.

    `bytes` is what the newest good round moved, `lost` the number of entries that the standby goes without
    something of. None is what is not known; `problem` says why, or what is wrong.
    """

    name: str
    source: str | None
    target: str | None
    snapshots: int | None
    seconds: float | None
    bytes: int | None = None
    problem: str | None = None
    lost: int = 0
    scrub: ScrubStatus | None = None


class Claimed(Record):
    """What of a report is the word of the other end, by the names of its fields, and who that is."""

    by: str
    what: tuple[str, ...]


class SyncReport(Report):
    """One round of sync.

    `base` is None in the first round. `data_bytes` moved, `kept_bytes` of them with an earlier round that
    was cut; the tree holds `tree_bytes` in `tree_entries`. With `unchanged` the standby's tree was not
    written. What was changed there by hand, and discarded, is in the snapshot `set_aside`. `scrub` is what
    was read again, None from an older snapsync. What the other end of a round has told, and this one could
    not see, is named in `claimed`.
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


class Delta(Report):
    """What a delta file says of itself, and what its frames come to.

    `base`, `origin`, `volume` and `lineage` are ids, or None; `origin` is that of a Btrfs subvolume. Its
    frames hold `raw_bytes` in `stored_bytes`. Not `complete`: it ends before its end record.
    """

    verb = "inspect"
    version: int
    snapshot: Snapshot
    base: str | None
    origin: str | None
    volume: str | None
    lineage: str | None
    epoch: int
    software: str
    frames: int
    raw_bytes: int
    stored_bytes: int
    complete: bool


class SnapshotReport(Report):
    """A snapshot that was taken."""

    verb = "snapshot"
    volume: VolumeInfo
    snapshot: Snapshot
    notes: tuple[str, ...]
    seconds: float


class Clone(Record):
    """A writable copy of the snapshot with id `snapshot`, which is or was called `of`.

    `exists`: the directory at `path` still is this clone.
    """

    name: str
    path: str
    snapshot: str
    of: str
    at: datetime
    exists: bool


class ListReport(Report):
    """The snapshots of a volume, oldest first, and their clones by name."""

    verb = "list"
    volume: VolumeInfo
    snapshots: tuple[Snapshot, ...]
    holds: tuple[Hold, ...]
    clones: tuple[Clone, ...] = ()


class CloneReport(Report):
    """A clone that was made.

    `instant`: as a snapshot itself. Otherwise it has `data_bytes` of data, of which `shared_bytes` take no
    space.
    """

    verb = "clone"
    volume: VolumeInfo
    snapshot: Snapshot
    clone: Clone
    instant: bool
    data_bytes: int
    shared_bytes: int
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]
    seconds: float


class BrowseReport(Report):
    """A snapshot that was mounted on the directory `path`.

    `served`: it goes with the process that answers for it; otherwise it is there until somebody unmounts it.
    """

    verb = "browse"
    volume: VolumeInfo
    snapshot: Snapshot
    path: str
    served: bool
    notes: tuple[str, ...]
    seconds: float


class DeleteCloneReport(Report):
    """A clone that was deleted. If it did not exist any more, only its place in the list was."""

    verb = "delete"
    volume: VolumeInfo
    clone: Clone


class DeleteReport(Report):
    """A snapshot that was deleted."""

    verb = "delete"
    volume: VolumeInfo
    deleted: Snapshot


class RestoreToReport(Report):
    """A snapshot, or `paths` of it, that a directory `to` was made to hold.

    `shared_bytes` of its `data_bytes` take no space: the files share the blocks of the snapshot's.
    """

    verb = "restore"
    volume: VolumeInfo
    snapshot: Snapshot
    paths: tuple[str, ...]
    to: str
    changes: Changes
    data_bytes: int
    shared_bytes: int
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]
    counters: Counters
    seconds: float


class RestorePathsReport(Report):
    """Paths of a primary that were made what they are in `snapshot`; what they were is in `before`."""

    verb = "restore"
    volume: VolumeInfo
    snapshot: Snapshot
    before: Snapshot
    paths: tuple[str, ...]
    changes: Changes
    data_bytes: int
    shared_bytes: int
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]
    recovered: tuple[str, ...]
    counters: Counters
    seconds: float


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


class DiffReport(Report):
    """A set of changes that was written to the Arrow file `output` (None: not kept)."""

    verb = "diff"
    base: str
    target: str
    output: str | None
    changes: Changes
    data_bytes: int
    notes: tuple[str, ...]
    counters: Counters
    seconds: float


class Version(Record):
    """What a file was in `snapshots`, and is now if it is `live`; the oldest has the number 1.

    `mtime` is in nanoseconds since 1970, `target` what a link points at. `content` is a path where a file's
    bytes can be read for as long as it has that version.
    """

    number: int
    kind: str
    size: int
    mtime: int
    target: str | None
    content: str
    snapshots: tuple[Snapshot, ...]
    live: bool


class VersionsReport(Report):
    """Each version of the file `path` of a volume, the oldest first.

    `exists`: there is something at `path` now. `diff` is the one that was asked for.
    """

    verb = "versions"
    volume: VolumeInfo
    path: str
    exists: bool
    versions: tuple[Version, ...]
    notes: tuple[str, ...]
    seconds: float
    diff: str | None = None


class Mended(Record):
    """What a standby that was mended had before: the first of its `difference_count` differences.

    `changes` and `data_bytes` came from the primary. What was changed by hand is in `set_aside`.
    """

    difference_count: int
    differences: tuple[Difference, ...]
    changes: Changes
    data_bytes: int
    losses: tuple[Loss, ...]
    set_aside: Snapshot | None
    recovered: tuple[str, ...]


class VerifyReport(Report):
    """What comparing two trees by content and metadata found.

    `differences` holds the first 1,000 of `difference_count`. `mode` is full, quick or sample, `seed` that of
    the sample. Of the files that look the same `read_entries` were read on both sides, and `bytes` found
    equal. The content of `unproven` files, of `unproven_bytes`, was neither read nor proven by where it lies.
    With `repair` all this is what is so after it, and `mended` what was before.
    """

    verb = "verify"
    a: str
    b: str
    equal: bool
    entries: int
    bytes: int
    mode: str
    seed: int | None
    read_entries: int
    unproven: int
    unproven_bytes: int
    difference_count: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    seconds: float
    mended: Mended | None = None


class InitReport(Report):
    """A volume as it is kept. As a standby a `read_only` one is writable in rounds alone."""

    verb = "init"
    volume: VolumeInfo
    read_only: bool
    recovered: tuple[str, ...]


class RecoverReport(Report):
    """A volume that was healed: `recovered` says what was done, and `latest` is what its tree holds then."""

    verb = "recover"
    volume: VolumeInfo
    latest: Snapshot | None
    unfinished: Unfinished | None
    recovered: tuple[str, ...]
    notes: tuple[str, ...]


class PromoteReport(Report):
    """A standby that became the primary.

    `newest` was its last snapshot from the old primary, `snapshot` is its first as the new one. What was
    changed by hand before, and discarded, is in `set_aside`.
    """

    verb = "promote"
    volume: VolumeInfo
    newest: Snapshot
    snapshot: Snapshot
    set_aside: Snapshot | None
    recovered: tuple[str, ...]
    notes: tuple[str, ...]


class RejoinReport(Report):
    """An old primary that became a standby of the new one.

    It went back to `common`, which took the changes `back`; what it had of its own is in the snapshots
    `left`, oldest first. `round` then brought what the new primary has since.
    """

    verb = "rejoin"
    common: Snapshot
    left: tuple[Snapshot, ...]
    back: Changes
    recovered: tuple[str, ...]
    notes: tuple[str, ...]
    round: SyncReport
    seconds: float


class PreviewReport(Report):
    """What `rejoin` would leave behind: the snapshots `left`, and the `changes` since `common`."""

    verb = "rejoin"
    volume: VolumeInfo
    common: Snapshot
    left: tuple[Snapshot, ...]
    changes: Changes
    data_bytes: int
    output: str | None
    recovered: tuple[str, ...]
    notes: tuple[str, ...]


class SwitchReport(Report):
    """A primary and a standby that changed roles.

    `promoted` is None where an interrupted switch had done that.
    """

    verb = "switch"
    promoted: PromoteReport | None
    round: SyncReport
    notes: tuple[str, ...]
    seconds: float


class RestoreReport(Report):
    """A tree that holds the snapshot `source` again.

    What it held before is kept as `before`; `snapshot` is what it holds now.
    """

    verb = "restore"
    volume: VolumeInfo
    source: Snapshot
    before: Snapshot
    snapshot: Snapshot
    changes: Changes
    data_bytes: int
    losses: tuple[Loss, ...]
    recovered: tuple[str, ...]
    notes: tuple[str, ...]
    counters: Counters
    seconds: float


class Replaced(Record):
    """The standby at `path` says that it is of `epoch`: the highest that any of them claims."""

    epoch: int
    path: str


class StatusReport(Report):
    """A volume, its snapshots and its standbys. `busy`: another command holds the volume now.

    `replaced`: standbys say that another primary was promoted in the stead of this one. `read_only`: as a
    standby it is writable in rounds alone.

    `lags` has an entry for each standby, or for the volume itself where that is one; `verdict` is ok,
    warning, critical or unknown where it was asked for.
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
    holds: tuple[Hold, ...] = ()
    lags: tuple[Lag, ...] = ()
    verdict: str | None = None


class JobRun(Record):
    """What came of one job: `outcome` is done, failed or waiting (not due before `due`).

    `exit_code` is that of its round, and `advice` goes with `error`; `snapshot`, `data_bytes`, `unchanged`
    and `losses` are of a good one. One that found `differences` is done, with exit code 4.
    """

    job: str
    source: str
    target: str
    outcome: str
    exit_code: int
    seconds: float
    due: datetime | None = None
    snapshot: str | None = None
    data_bytes: int | None = None
    unchanged: bool | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None
    advice: str = ""
    losses: tuple[Loss, ...] = ()
    differences: int = 0


class RunReport(Report):
    """What came of each job, in the order of the configuration. `exit_code` is the highest of theirs."""

    verb = "run"
    jobs: tuple[JobRun, ...]
    exit_code: int


class JobStatus(Record):
    """Where a job stands. `source` and `target` are None where they are elsewhere, or cannot be looked at.

    `good` is when its last good round began, and `notes` what that had to say; `losses` is what the standby
    goes without. `problems` says what cannot be looked at, and how the last round failed.
    """

    job: str
    source: StatusReport | None
    target: StatusReport | None
    good: datetime | None
    lag: Lag
    problems: tuple[str, ...]
    losses: tuple[Loss, ...] = ()
    notes: tuple[str, ...] = ()


class JobsReport(Report):
    """Where all jobs of the configuration stand; `verdict` is the worst of them where it was asked for."""

    verb = "status"
    jobs: tuple[JobStatus, ...]
    verdict: str | None = None


class Unit(Record):
    """A unit of systemd: its file, and what is in it (None where it was removed)."""

    path: str
    text: str | None


class ServiceReport(Report):
    """Units that were written or removed, or would be (`dry_run`), and the commands that come next."""

    verb = "service"
    action: str
    units: tuple[Unit, ...]
    commands: tuple[str, ...]
    dry_run: bool


def _build(kind: "Any", value: "Any") -> "Any":
    """Make an instance of the annotation `kind` out of decoded JSON."""
    if isinstance(kind, GenericAlias):  # always a tuple
        return tuple(_build(kind.__args__[0], item) for item in value)
    if isinstance(kind, UnionType):  # always `kind | None`
        return None if value is None else _build(kind.__args__[0], value)
    if issubclass(kind, Record):
        known = ((name, of) for name, of in kind.__annotations__.items() if name in value)
        return kind(**{name: _build(of, value[name]) for name, of in known})
    return datetime.fromisoformat(value) if kind is datetime else value
