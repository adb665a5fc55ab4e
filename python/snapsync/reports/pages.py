"""The figures on the page of `snapsync report`."""

from datetime import datetime

from snapsync.record import Record
from snapsync.reports.base import Report
from snapsync.reports.values import Alone, Hold, Lag, Snapshot, Standby, VolumeInfo


class RoundFigure(Record):
    """What one round changed, by the kept manifest of its snapshot.

    `whole`: the first one, which created everything; it counts as no change. `unusual` says what of it was
    far above the usual: changes, deletions or bytes.
    """

    snapshot: str
    name: str
    sequence: int
    time: datetime
    created: int
    changed: int
    renamed: int
    deleted: int
    data_bytes: int
    whole: bool = False
    unusual: tuple[str, ...] = ()


class DirectoryFigure(Record):
    """A directory with all below it. Paths are safe to print; `.` is the root of the volume.

    `above` is the place in the same list of the directory that it is in, where the list has it.
    `bytes` and `entries` are what it holds now; the growths are of the last 7 and 30 days before the newest
    snapshot and of all rounds. `changes` counts changed entries, `deletions` those of them that went, and
    `data_bytes` is what they brought. All go with a directory that is renamed.
    """

    path: str
    above: int | None
    bytes: int
    entries: int
    growth_7_days: int
    growth_30_days: int
    growth: int
    changes: int
    deletions: int
    data_bytes: int


class LargeChange(Record):
    """One large change of one file: `bytes` that it brought or, of a deletion, that went."""

    path: str
    what: str
    bytes: int
    size: int
    round: str
    time: datetime


class VolumeFigures(Record):
    """All figures of a volume: `bytes` and `entries` it holds now, and how it came to be so.

    `directories` are those in which most changed, `growing` those that grew most, `largest` and `gone` the
    largest changes and deletions. `standbys` and `lags` are as in a status. `passed_over` names kept
    manifests that cannot be read, and why.
    """

    title: str
    volume: VolumeInfo
    bytes: int | None
    entries: int | None
    rounds: tuple[RoundFigure, ...]
    directories: tuple[DirectoryFigure, ...]
    growing: tuple[DirectoryFigure, ...]
    largest: tuple[LargeChange, ...]
    gone: tuple[LargeChange, ...]
    snapshots: tuple[Snapshot, ...]
    alone: tuple[Alone, ...]
    holds: tuple[Hold, ...]
    standbys: tuple[Standby, ...]
    lags: tuple[Lag, ...]
    problems: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


class PageReport(Report):
    """The figures of each volume, and the file that the page is in, if one was written."""

    verb = "report"
    output: str | None
    volumes: tuple[VolumeFigures, ...]
    problems: tuple[str, ...]
    made: datetime
    seconds: float
