"""Snapshots brought back, in place or elsewhere, copied, mounted and looked into."""

import os
from collections.abc import Mapping, Sequence

from snapsync import _native
from snapsync.api import checks, elsewhere
from snapsync.declare import Unpack, pick
from snapsync.errors import IntegrityError, UsageError, told
from snapsync.options import RestoreOptions, SshOptions, SupplyOptions, TargetOptions
from snapsync.options_of_paths import RestorePathsOptions, SelectOptions
from snapsync.reports.restores import (
    CloneReport,
    DeleteCloneReport,
    MountReport,
    RestorePathsReport,
    RestoreReport,
    RestoreToReport,
    VersionsReport,
)
from snapsync.reports.values import Version
from snapsync.types import AnyPath, Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


def _supply(options: "Mapping[str, Any]") -> "dict[str, Any]":
    """Where lost bytes are taken from, for the native half."""
    standby = options.get("standby")
    return {
        "standby": None if standby is None else os.fsdecode(standby),
        "ssh": pick(SshOptions, options),
    }


def _select(options: "Mapping[str, Any]") -> "dict[str, Any]":
    """What paths are selected by, for the native half."""
    select = pick(SelectOptions, options)
    return {**select, "match": checks.patterns("match", select["match"])}


def restore(
    address: AnyPath,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[RestoreOptions],
) -> RestoreReport:
    """Make a primary's tree what VOLUME@SNAP holds; what it held before is kept as a snapshot.

    Data that is needed and lost here is taken from `standby`, another volume that has the snapshot too, or
    else from a recorded one on this machine.

    Raises RefusedError on a standby, and where the snapshot was taken with other patterns.
    """
    checks.keywords("restore", RestoreOptions, options)
    text = _native.restore(
        os.fsdecode(address),
        name=checks.name(name),
        target=pick(TargetOptions, options),
        **_supply(options),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return RestoreReport.from_json(text)


def restore_to(
    snapshot: AnyPath,
    to: AnyPath,
    paths: Sequence[AnyPath] = (),
    *,
    progress: Progress | None = None,
    **options: Unpack[RestorePathsOptions],
) -> RestoreToReport:
    """Make the absent or empty directory `to` hold `snapshot` (VOLUME@SNAP), or only `paths` of it.

    `match`, `type`, `larger` and `newer` select some of that: the globs match a name anywhere, or with a
    slash a path from the volume's root down, and a directory comes with all that is in it. Where nothing
    is selected, `to` stays as it is.

    Where both are on one file system that can, files share the blocks of the snapshot's. `strict` refuses
    where `to` cannot hold everything. With `standby`, a directory or `[user@]host:DIR`, all data is that of
    the same snapshot there.

    Raises UsageError for a path that the snapshot does not have, RefusedError where `to` is not empty.
    """
    checks.keywords("restore_to", RestorePathsOptions, options)
    text = _native.restore_to(
        os.fsdecode(snapshot),
        [os.fsdecode(path) for path in paths],
        os.fsdecode(to),
        select=_select(options),
        target=pick(TargetOptions, options),
        **_supply(options),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return RestoreToReport.from_json(text)


def clone(
    snapshot: AnyPath,
    to: AnyPath,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[RestoreOptions],
) -> CloneReport:
    """Make the absent or empty directory `to` a writable copy of `snapshot` (VOLUME@SNAP).

    On Btrfs, on the volume's own file system, it is instant. `name` is what the clone is called, by default
    as `to` is.
    """
    checks.keywords("clone", RestoreOptions, options)
    text = _native.clone(
        os.fsdecode(snapshot),
        os.fsdecode(to),
        name=checks.name(name),
        target=pick(TargetOptions, options),
        **_supply(options),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return CloneReport.from_json(text)


def delete_clone(volume: AnyPath, name: str) -> DeleteCloneReport | None:
    """Delete a clone with its directory; None where no clone of `volume` has that name."""
    if _native.Location.known(os.fsdecode(volume)).is_log:
        return None
    text = _native.delete_clone(os.fsdecode(volume), name)
    return None if text == "null" else DeleteCloneReport.from_json(text)


class Mount:
    """A snapshot or all of a volume, mounted; leaving its context unmounts it."""

    def __init__(self, report: MountReport, mounted: "_native.Mounted") -> None:
        from pathlib import Path

        self.report = report
        self.path = Path(report.path)
        self._mounted = mounted

    def __enter__(self) -> "Path":
        """The directory it is mounted on."""
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmount it. Files that are still open there can be read as long as this process runs."""
        self._mounted.close()

    def leave(self) -> None:
        """Leave it mounted. If this process serves it, it ends with the process."""
        self._mounted.leave()

    def wait(self, seconds: float) -> bool:
        """Wait so many seconds for somebody else to unmount it, and return whether it is unmounted."""
        return self._mounted.wait(seconds)


def mount(
    source: AnyPath,
    directory: AnyPath,
    *,
    allow_other: bool = False,
    jobs: int = 0,
    progress: Progress | None = None,
) -> Mount:
    """Mount a snapshot (VOLUME@SNAP), or all of a volume or a log, read-only on `directory`.

    That is empty or absent. All are directories by their names, with a link `latest`, and come and go as the
    snapshots do. A Btrfs snapshot gets a second place in the tree, as root; anything else is served through
    FUSE by this process, to other users only with `allow_other`.
    """
    text, mounted = _native.mount(
        os.fsdecode(source), os.fsdecode(directory), allow_other=allow_other, jobs=jobs, progress=progress
    )
    return Mount(MountReport.from_json(text), mounted)


def versions(
    file: AnyPath,
    *,
    part: str | None = None,
    diff: Sequence[int] | None = None,
    progress: Progress | None = None,
    **options: Unpack[SshOptions],
) -> VersionsReport:
    """Each version of `file` that the snapshots of its volume hold; it need not exist any more.

    With `part` the snapshots of that part of the tree are meant; without it, those of the whole volume, or
    else those of the first part that has the file. Versions differ in content, kind or link target.

    With `diff` the report has a patch from one version to another, as git writes it: `(1, 2)` by their
    numbers, `(1,)` from version 1 to what is there now, `()` the last change. 0 stands for no file. Bytes
    that are not UTF-8 are surrogate-escaped: `diff.encode(errors="surrogateescape")` is the patch.

    `file` may be `[user@]host:PATH`.

    Raises UsageError where nothing ever was at that path, RefusedError for a diff of too large files.
    """
    checks.keywords("versions", SshOptions, options)
    for number in diff or ():
        if number < 0:
            message = f"{number} is the number of no version"
            raise told(UsageError(message), message, "versions count from 1; 0 stands for no file")
    numbers = None if diff is None else list(diff)
    if elsewhere.is_elsewhere(file):
        question = {"versions": {"part": part, "diff": numbers}}
        return VersionsReport.from_peer(*elsewhere.ask(file, question, options, progress=progress))
    text = _native.versions(os.fsdecode(file), part=part, diff=numbers, progress=progress)
    return VersionsReport.from_json(text)


def restore_version(
    report: VersionsReport,
    version: Version,
    to: AnyPath | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[SupplyOptions],
) -> RestorePathsReport | RestoreToReport:
    """Put a version back in place, after a snapshot of what is there, or make the absent file `to` of it.

    It is taken from the newest of its snapshots whose bytes are there, on this side or on a standby.
    """
    checks.keywords("restore_version", SupplyOptions, options)
    if not version.snapshots:
        message = f"version {version.number} of {report.path} is the file as it is, and in no snapshot"
        raise told(UsageError(message), message, "name another version, or copy the file")
    path, lost = report.volume.path, []
    for snapshot in reversed(version.snapshots):
        place = f"{path if path.endswith('/') else f'{path}@'}{snapshot.id}"
        try:
            if to is None:
                return restore_paths(place, [version.path], progress=progress, **options)
            text = _native.restore_file(
                place, version.path, os.fsdecode(to), **_supply(options), progress=progress
            )
            return RestoreToReport.from_json(text)
        except IntegrityError as error:
            lost.append(error)
    raise lost[0]


def restore_paths(
    snapshot: AnyPath,
    paths: Sequence[AnyPath] = (),
    *,
    progress: Progress | None = None,
    **options: Unpack[RestorePathsOptions],
) -> RestorePathsReport:
    """Make `paths` of a primary what they are in `snapshot`; its state before is kept as a snapshot.

    `match`, `type`, `larger` and `newer` select some of them, or of everything if there are none, as with
    `restore_to`. Where nothing is selected, no snapshot is taken.

    Raises UsageError for a path that the snapshot does not have, RefusedError on a standby.
    """
    checks.keywords("restore_paths", RestorePathsOptions, options)
    text = _native.restore_paths(
        os.fsdecode(snapshot),
        [os.fsdecode(path) for path in paths],
        select=_select(options),
        target=pick(TargetOptions, options),
        **_supply(options),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return RestorePathsReport.from_json(text)
