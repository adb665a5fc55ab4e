"""Reports of verbs that restore snapshots or show their content."""

from snapsync.reports.base import Report
from snapsync.reports.values import Changes, Clone, Counters, Loss, Snapshot, Version, VolumeInfo


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


class MountReport(Report):
    """What was mounted on the directory `path`: a snapshot, or all of a volume, for which `snapshot` is None.

    `snapshots`: how many there were. `served`: it goes with the process that answers for it; otherwise it is
    there until somebody unmounts it.
    """

    verb = "mount"
    volume: VolumeInfo
    snapshot: Snapshot | None
    snapshots: int
    path: str
    served: bool
    notes: tuple[str, ...]
    seconds: float


class DeleteCloneReport(Report):
    """A clone that was deleted. If it did not exist any more, only its place in the list was."""

    verb = "delete"
    volume: VolumeInfo
    clone: Clone


class RestoreToReport(Report):
    """A snapshot, or `paths` of it, that a directory `to` was made to hold.

    If paths were selected, it was among `searched` entries; without any `to` is as it was.

    `shared_bytes` of its `data_bytes` take no space: the files share the blocks of the snapshot's.
    """

    verb = "restore"
    volume: VolumeInfo
    snapshot: Snapshot
    paths: tuple[str, ...]
    searched: int | None
    to: str
    changes: Changes
    data_bytes: int
    shared_bytes: int
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]
    counters: Counters
    seconds: float


class RestorePathsReport(Report):
    """Paths of a primary that were made what they are in `snapshot`; what they were is in `before`.

    If they were selected, it was among `searched` entries; without any there is no `before`.
    """

    verb = "restore"
    volume: VolumeInfo
    snapshot: Snapshot
    before: Snapshot | None
    paths: tuple[str, ...]
    searched: int | None
    changes: Changes
    data_bytes: int
    shared_bytes: int
    losses: tuple[Loss, ...]
    notes: tuple[str, ...]
    recovered: tuple[str, ...]
    counters: Counters
    seconds: float


class VersionsReport(Report):
    """Each version of the file `path` of a volume, the oldest first.

    `exists`: there is something at `path` now. `diff` is the patch that was asked for, where bytes that are
    not UTF-8 are surrogate-escaped.
    """

    verb = "versions"
    volume: VolumeInfo
    path: str
    exists: bool
    versions: tuple[Version, ...]
    notes: tuple[str, ...]
    seconds: float
    diff: str | None = None


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
