"""A volume, as an object of Python."""

import os
from collections.abc import Mapping, Sequence

from snapsync._native import Location
from snapsync.api import checks, comparisons, restores, snapshots
from snapsync.errors import UsageError, told
from snapsync.reports.restores import VersionsReport
from snapsync.reports.snapshots import HoldReport, PruneReport, ReleaseReport, StatusReport
from snapsync.reports.values import Clone, Snapshot
from snapsync.types import AnyPath, Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from snapsync.declare import Unpack
    from snapsync.manifest import Manifest
    from snapsync.options_of_history import FindOptions
    from snapsync.options_of_taking import TakeOptions
    from snapsync.reports.history import FindReport, LifeReport, LogReport


class Volume:
    """A directory tree under snapsync's care, a part of one, or a log. Making this touches nothing."""

    def __init__(self, path: AnyPath, part: str | None = None) -> None:
        from pathlib import Path

        text = os.fsdecode(path)
        self.path = Path(text)
        # A path would make one slash of the two in the address of a log.
        self._place = text if Location.known(text).is_log else str(self.path)
        self.part = part

    def __fspath__(self) -> str:
        return self._place if self.part is None else Location.part_of(self._place, self.part)

    def __repr__(self) -> str:
        part = "" if self.part is None else f", part={self.part!r}"
        return f"Volume({self._place!r}{part})"

    def snapshot(
        self,
        name: str | None = None,
        *,
        progress: Progress | None = None,
        **options: "Unpack[TakeOptions]",
    ) -> Snapshot:
        """Take a snapshot now; a directory that is not a volume yet becomes a primary.

        The commands `before_snapshot` and `after_snapshot`, lists of words, run around it; see `sync`.

        Raises RefusedError on a standby: its snapshots come from its primary.
        """
        return snapshots.snapshot(self, name, progress=progress, **options).snapshot

    def snapshots(self) -> list[Snapshot]:
        """The volume's snapshots, oldest first."""
        return list(snapshots.list_(self).snapshots)

    def log(
        self, *, since: str | None = None, until: str | None = None, most: int | None = None
    ) -> "LogReport":
        """What changed in each round, newest first; see `log`."""
        from snapsync.api import history

        return history.log(self, since=since, until=until, most=most)

    def log_of(self, path: AnyPath) -> "LifeReport":
        """What became of whatever had a path at any time, newest first, under all its names."""
        from snapsync.api import history

        return history.log_of(self, path)

    def find(self, *patterns: str, deleted: bool = False, **options: "Unpack[FindOptions]") -> "FindReport":
        """The paths that match, in all snapshots, also in those that are gone; see `find`."""
        from snapsync.api import history

        return history.find(self, *patterns, deleted=deleted, **options)

    def delete(self, snap: str | int | Snapshot) -> Snapshot:
        """Delete one snapshot, in any order, and return what it was.

        Raises RefusedError where it is held, or a standby still needs it as its base.
        """
        return snapshots.delete(self, snap).deleted

    def prune(self, keep: Mapping[str, int], *, dry_run: bool = False) -> PruneReport:
        """Delete what `keep` does not keep; see `prune`."""
        return snapshots.prune(self, keep, dry_run=dry_run)

    def hold(self, snap: str | int | Snapshot, reason: str | None = None) -> HoldReport:
        """Keep a snapshot from being deleted and pruned until it is released; see `hold`."""
        return snapshots.hold(self, snap, reason)

    def release(self, snap: str | int | Snapshot) -> ReleaseReport:
        """Release a snapshot that is held by hand. Raises UsageError if it is not."""
        return snapshots.release(self, snap)

    def forget_standby(self, standby: AnyPath) -> ReleaseReport:
        """Forget a standby that is gone, by its path or id, so that its base need not stay for it."""
        return snapshots.forget_standby(self, standby)

    def clones(self) -> list[Clone]:
        """The writable copies of this volume's snapshots, by name."""
        return list(snapshots.list_(self).clones)

    def delete_clone(self, name: str) -> Clone:
        """Delete a clone with its directory, if that still is it, and return what it was."""
        report = restores.delete_clone(self, name)
        if report is None:
            message = f"{self.path} has no clone {name!r}"
            raise told(UsageError(message), message, "Volume.clones() tells which it has")
        return report.clone

    def status(self) -> StatusReport:
        """Role, snapshots, standbys and their lag, and what is unfinished."""
        return snapshots.status(self)

    def history(self) -> "Any":
        """All changes that the volume keeps, snapshot by snapshot, as one pyarrow.dataset.Dataset.

        Its first columns tell which snapshot a row is of: `snapshot`, `snapshot_id`, `base_id`, `sequence`
        and `time`; the others are those of a manifest. What it lacks is told in a HistoryWarning.
        """
        from snapsync.history import of_volume

        return of_volume(self)

    def diff(
        self,
        base: str | int | Snapshot,
        target: str | int | Snapshot = "latest",
        *,
        jobs: int = 0,
        progress: Progress | None = None,
    ) -> "Manifest":
        """What changed from one snapshot to another."""
        sides = self._address(base), self._address(target)
        return comparisons.diff(*sides, jobs=jobs, progress=progress)

    def versions(
        self, path: AnyPath, *, diff: Sequence[int] | None = None, progress: Progress | None = None
    ) -> VersionsReport:
        """Each version of the file at `path` beneath the root; it need not exist any more. See `versions`."""
        file = self.path / os.fsdecode(path)
        return restores.versions(file, part=self.part, diff=diff, progress=progress)

    def _address(self, snap: str | int | Snapshot) -> str:
        """One of the snapshots as the command line names it."""
        place = os.fspath(self)
        return f"{place if place.endswith('/') else f'{place}@'}{checks.key(snap)}"
