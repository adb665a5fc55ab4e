"""Reports of verbs that change roles or recover a volume."""

from snapsync.reports.base import Report
from snapsync.reports.rounds import SyncReport
from snapsync.reports.values import Changes, Snapshot, Thinning, Unfinished, VolumeInfo


class InitReport(Report):
    """A volume as it is kept. As a standby a `read_only` one is writable in rounds alone."""

    verb = "init"
    volume: VolumeInfo
    read_only: bool
    recovered: tuple[str, ...]
    notes: tuple[str, ...]


class TrustReport(Report):
    """A key whose commits in a log are believed on this machine from now on."""

    verb = "trust"
    log: str
    id: str
    key: str


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


class PromotePreviewReport(Report):
    """What `promote` would do for bytes of snapshots that only the tree has, and what is `unfinished` before.

    `files` of `newest` have no copy in the pool, and `bytes` in the tree. Where blocks can be shared it
    `clones` them, in `clone_seconds` by a few trials; else the snapshots in `thins` lose those that change.
    """

    verb = "promote"
    volume: VolumeInfo
    newest: Snapshot
    clones: bool
    files: int
    bytes: int
    clone_seconds: float | None
    thins: tuple[Thinning, ...]
    unfinished: Unfinished | None
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
