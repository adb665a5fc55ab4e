"""The parts of reports: volumes, snapshots, counts, losses, standbys and holds."""

from datetime import datetime

from snapsync.record import Record


class Subset(Record):
    """Which part of a volume is replicated: gitignore patterns of what is left out and what is brought back.

    Without patterns the whole volume is replicated.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.exclude)


class Snapshot(Record):
    """The immutable state of a volume at one moment.

    `sequence` counts from 0 along the lineage, `parent` is the id of the snapshot before it. `entries`
    and `bytes` describe the tree; they are None where nobody counted (Btrfs). `subset` is the
    part of the volume that it holds. A snapshot is `aside` if the volume has gone back to an older one since.
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

    `subset` is the part of it that its next snapshot holds. `history` is what a pool volume keeps of older
    snapshots while it is a primary: full or light; None where nobody has chosen, which is full. A log has
    the filesystem "log", and `path` is its address.
    """

    path: str
    id: str
    lineage: str
    epoch: int
    role: str
    provider: str
    filesystem: str
    subset: Subset = Subset()
    history: str | None = None

    @property
    def is_log(self) -> bool:
        """Whether it is no volume, but a log that stands for one."""
        return self.filesystem == "log"


class Changes(Record):
    """How many inodes changed, by kind of change; `rows` is the number of rows of the manifest."""

    created: int
    changed: int
    renamed: int
    deleted: int
    rows: int


class Counters(Record):
    """How much was looked at. It is the same for the same snapshots, whatever the number of threads.

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
    """Something that a standby goes without: what, how often, and one path.

    `right` is the capability that the process there lacks for it; None if the file system cannot hold it.
    """

    what: str
    count: int
    example: str
    right: str | None = None


class Measure(Record):
    """A share of what the standby holds, and the most per cent that a round may change of it."""

    part: int
    whole: int
    limit: int


class Crowded(Record):
    """A directory, and how many entries beneath it a guard has counted."""

    path: str
    entries: int


class Guarded(Record):
    """What a guard measures: entries deleted, files written anew, bytes that are gone.

    `beyond` names the one that refuses the round, None if none does; `directories` have most of it.
    """

    deleted: Measure
    changed: Measure
    shrink: Measure | None
    beyond: str | None
    directories: tuple[Crowded, ...]


class PlannedChange(Record):
    """One changed inode of a plan, as `manifest.Change` has it."""

    kind: str
    path: str
    old_path: str | None
    flags: tuple[str, ...]
    size: int | None
    size_old: int | None
    data_bytes: int


class Skipped(Record):
    """Something that could not be read, and why: it is as in the snapshot before, or absent if it is new."""

    path: str
    why: str


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
    """How much of a standby and its primary was read again so far: `files` and `bytes`, on each side.

    `differences` counts all that were found; the files in `pending` travel again with the next round.
    Everything was read since `all_since`.
    """

    files: int
    bytes: int
    differences: int
    pending: tuple[str, ...]
    all_since: datetime


class Claim(Record):
    """The epoch that a standby claims, higher than its primary's. `shown`: with the promotions to it."""

    epoch: int
    shown: bool
    at: datetime


class Standby(Record):
    """A standby that the primary knows: the snapshot it holds, since when, and how many it is behind.

    A standby with a `claim` gets no rounds.
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


class Weight(Record):
    """What files take: blocks that nothing else has, in bytes, and inodes."""

    bytes: int
    inodes: int


class Part(Record):
    """A part of a volume's tree with a lineage of its own, whose newest snapshot is `latest`.

    `volume` is the part as a volume, under the path `VOLUME@PART/`; None where `problem` says why it cannot
    be read.
    """

    name: str
    volume: VolumeInfo | None
    snapshots: int
    latest: Snapshot | None
    problem: str | None


class Alone(Record):
    """What deleting a snapshot, and no other, would free: `bytes` and `inodes`; None of a subvolume.

    `state` is whole, or thinned where bytes of it are neither in the pool nor in the tree, which is
    called light on a primary that keeps no history of its own; None if its table cannot be read.
    """

    snapshot: str
    bytes: int | None
    inodes: int | None
    state: str | None


class Thinning(Record):
    """A snapshot of which so many `files` have their bytes in the tree alone: it loses those that change."""

    snapshot: Snapshot
    files: int


class Hold(Record):
    """Why a snapshot is not deleted: `standby` needs it as its base or, if None, it is held for `reason`."""

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
    something of. None is what is not known; `problem` says why, or what is wrong. A target that is not
    `is_standby` takes no rounds of the source, and has no lag.
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
    is_standby: bool = True


class Claimed(Record):
    """What of a report is the word of the other end, by the names of its fields, and who that is."""

    by: str
    what: tuple[str, ...]


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


class Version(Record):
    """What a file was in `snapshots`, and is now if it is `live`; the oldest has the number 1.

    `mtime` is in nanoseconds since 1970, `target` what a link points at. `content` is a path where a file's
    bytes can be read for as long as it has that version: `size` bytes from `content_offset` on. `path` is
    the one that it had in the newest of its snapshots, or has now if none has it.
    """

    number: int
    kind: str
    size: int
    mtime: int
    target: str | None
    content: str
    content_offset: int
    path: str
    snapshots: tuple[Snapshot, ...]
    live: bool


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


class Replaced(Record):
    """The standby at `path` says that it is of `epoch`: the highest that any of them claims."""

    epoch: int
    path: str
