"""Reports about what changed from snapshot to snapshot."""

from datetime import datetime

from snapsync.record import Record
from snapsync.reports.base import Report
from snapsync.reports.values import Changes, VolumeInfo


class PastSnapshot(Record):
    """A snapshot that may be gone; `exists` says whether something can be restored from it."""

    id: str
    name: str
    sequence: int
    created: datetime
    exists: bool


class LoggedPath(Record):
    """A path of a round.

    `what` is created, changed, touched, renamed, linked or deleted. `old_path` is None where the path did
    not change. Sizes are in bytes.
    """

    what: str
    kind: str
    path: str
    old_path: str | None
    size: int | None
    old_size: int | None


class Round(Record):
    """What changed up to `snapshot` since the one before.

    `first`: nothing is known of earlier times, and all that there was counts as created. `after_gap`: a
    manifest before it is missing. `paths` are some of those that changed, if they were asked for, and `more`
    is how many more there are.
    """

    snapshot: PastSnapshot
    first: bool
    after_gap: bool
    changes: Changes
    data_bytes: int
    paths: tuple[LoggedPath, ...]
    more: int


class LogReport(Report):
    """The rounds of a volume, newest first. `searched` is how many there are in the time asked for."""

    verb = "log"
    volume: VolumeInfo
    rounds: tuple[Round, ...]
    searched: int
    notes: tuple[str, ...]


class Event(Record):
    """What became of a path up to `snapshot`.

    `what` is created, changed, touched (its attributes, or what is beneath it), renamed, moved (with a
    directory above it), linked or deleted. `paths` are its names then, `old_paths` those before. `beneath`
    counts what changed beneath a directory.
    """

    snapshot: PastSnapshot
    what: str
    kind: str
    paths: tuple[str, ...]
    old_paths: tuple[str, ...]
    size: int | None
    old_size: int | None
    data_bytes: int
    beneath: Changes | None


class RestorableFrom(Record):
    """From where a path can be restored: a snapshot, and the path in that."""

    snapshot: PastSnapshot
    path: str


class LifeReport(Report):
    """The life of whatever had a path at any time, newest first, under all its names.

    `exists`: whether it is in the tree now. Otherwise `restore` is the newest snapshot that has it, if one is
    there, and its path in that.
    """

    verb = "log"
    volume: VolumeInfo
    path: str
    events: tuple[Event, ...]
    exists: bool
    restore: RestorableFrom | None
    searched: int
    notes: tuple[str, ...]


class FoundPath(Record):
    """A path, and the first and the last snapshot that has it.

    `size` in bytes and `mtime` in ns since 1970 are those in the last. `stretches` are the sequences of the
    first and the last of successive snapshots that have it. `deleted`: it is not in the tree any more.
    `restorable` is the name of the newest snapshot that has it and is there.
    """

    path: str
    kind: str
    size: int
    mtime: int
    first: PastSnapshot
    last: PastSnapshot
    stretches: tuple[tuple[int, int], ...]
    deleted: bool
    restorable: str | None


class FindReport(Report):
    """Paths that were looked for, each once. `searched` snapshots were looked through, gone ones as well."""

    verb = "find"
    volume: VolumeInfo
    patterns: tuple[str, ...]
    found: tuple[FoundPath, ...]
    searched: int
    notes: tuple[str, ...]
    seconds: float
