"""The Python face of the verbs: thin, typed calls into the native half.

Paths may be `str`, `bytes` or anything with `__fspath__`; where a snapshot may stand, `VOLUME@SNAP` names
one, SNAP being a name, an id, a sequence number or `latest`. Long calls release the GIL. Ctrl-C stops them
with KeyboardInterrupt in a state that the next call heals.

Raised by all: UsageError (the arguments make no sense), RefusedError (going on would destroy something),
IntegrityError (something is not what it should be), InterruptedRound (stopped, can be resumed), all under
SnapsyncError; and OSError for what the file systems answer. Each has `.advice` and `.exit_code`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from snapsync import _native
from snapsync.errors import IntegrityError, UsageError, told
from snapsync.reports import (
    BrowseReport,
    Clone,
    CloneReport,
    DeleteCloneReport,
    DeleteReport,
    DiffReport,
    HoldReport,
    ListReport,
    PromoteReport,
    PruneReport,
    ReceiveReport,
    RecoverReport,
    RejoinReport,
    ReleaseReport,
    RestorePathsReport,
    RestoreReport,
    RestoreToReport,
    SendReport,
    Snapshot,
    SnapshotReport,
    StatusReport,
    SwitchReport,
    SyncReport,
    VerifyReport,
    Version,
    VersionsReport,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import TypeAlias

    from snapsync.manifest import Manifest

AnyPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

Progress: TypeAlias = Callable[[str, int, int, str], object]
"""Called as `progress(stage, done, total, unit)` about ten times a second, on the caller's thread.
`unit` is "bytes" or "entries"; `total` is 0 while it is not known."""


class Volume:
    """A directory tree under snapsync's care. Making one of these touches nothing on disk."""

    def __init__(self, path: AnyPath) -> None:
        from pathlib import Path

        self.path = Path(os.fsdecode(path))

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Volume({str(self.path)!r})"

    def snapshot(
        self, name: str | None = None, *, jobs: int = 0, progress: Progress | None = None
    ) -> Snapshot:
        """Take a snapshot now; a directory that is not a volume yet becomes a primary.

        Raises RefusedError on a standby: its snapshots come from its primary.
        """
        text = _native.snapshot(str(self.path), name=_name(name), jobs=jobs, progress=progress)
        return SnapshotReport.from_json(text).snapshot

    def snapshots(self) -> list[Snapshot]:
        """The volume's snapshots, oldest first."""
        return list(ListReport.from_json(_native.list(str(self.path))).snapshots)

    def delete(self, snap: str | int | Snapshot) -> Snapshot:
        """Delete one snapshot, in any order, and return what it was.

        Raises RefusedError where it is held, or a standby still needs it as its base.
        """
        return DeleteReport.from_json(_native.delete(str(self.path), _key(snap))).deleted

    def prune(self, keep: Mapping[str, int], *, dry_run: bool = False) -> PruneReport:
        """Delete what `keep` does not keep; see `prune`."""
        return prune(self, keep, dry_run=dry_run)

    def hold(self, snap: str | int | Snapshot, reason: str = "") -> HoldReport:
        """Keep a snapshot from being deleted and pruned until it is released."""
        return HoldReport.from_json(_native.hold(str(self.path), _key(snap), _reason(reason)))

    def release(self, snap: str | int | Snapshot) -> ReleaseReport:
        """Let a snapshot go that is held by hand. Raises UsageError where it is not."""
        return ReleaseReport.from_json(_native.release(str(self.path), _key(snap)))

    def forget_standby(self, standby: AnyPath) -> ReleaseReport:
        """Forget a standby that is gone, by its path or id, so that its base need not stay for it."""
        known = os.fsencode(standby).decode("utf-8", "replace")  # as it was written down
        return ReleaseReport.from_json(_native.forget_standby(str(self.path), known))

    def clones(self) -> list[Clone]:
        """The writable copies of this volume's snapshots, by name."""
        return list(ListReport.from_json(_native.list(str(self.path))).clones)

    def delete_clone(self, name: str) -> Clone:
        """Delete a clone with its directory, if that still is it, and return what it was."""
        report = delete_clone(self.path, name)
        if report is None:
            message = f"{self.path} has no clone {name!r}"
            raise told(UsageError(message), message, "Volume.clones() tells which it has")
        return report.clone

    def status(self) -> StatusReport:
        """Role, snapshots, standbys and their lag, and what is unfinished."""
        return StatusReport.from_json(_native.status(str(self.path)))


def sync(
    source: AnyPath,
    target: AnyPath,
    *,
    name: str | None = None,
    snap: str | None = None,
    keep_last: int | None = None,
    keep: Mapping[str, int] | None = None,
    strict: bool = False,
    no_space_check: bool = False,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    everything: bool = False,
    check: bool = False,
    discard_drift: bool = False,
    read_only: bool | None = None,
    new_standby: bool = False,
    scrub: int | None = 30 * 86_400,
    scrub_limit: int = 4 << 30,
    compress: str = "zstd:1",
    bwlimit: int | None = None,
    rsh: Sequence[str] = ("ssh",),
    remote_path: str = "snapsync",
    ssh_options: Sequence[str] = (),
    timeout: int = 60,
    channels: int = 1,
    jobs: int = 0,
    progress: Progress | None = None,
) -> SyncReport:
    """Run one round: snapshot `source`, bring `target` to it, snapshot `target`.

    One of the two may be `[user@]host:PATH`: `rsh` then runs `remote_path` there, with an `-o` for each of
    `ssh_options`, over `channels` connections. `compress` ("none" or "zstd:LEVEL") and `bwlimit` (bytes a
    second) are for what travels between machines. Without a word from the other for `timeout` seconds either
    machine gives up.

    The first round restores the whole tree into an absent or empty `target`; where a standby is known that is
    not there any more, only with `new_standby`. `name` names the snapshot;
    with `snap` none is taken, and that snapshot of `source` (or "latest") is brought to `target`.
    `keep` says which snapshots stay on both sides afterwards (see `prune`), `keep_last` is short for its
    `last`; without them all do. `strict` refuses where the target cannot hold everything, `jobs` is the
    number of threads (0: all cores).

    `exclude` leaves out what its patterns name, in gitignore syntax from the root of `source`; `include`
    brings back some of that. They are kept for later rounds. Given later they take the place of all that
    were kept; `everything` drops them.

    `check` compares all of the standby's tree with its newest snapshot first, and not only what the round
    touches; `discard_drift` keeps what was changed there by hand as a snapshot, and goes back first.
    `read_only` says whether the tree of a standby on Btrfs is read-only between rounds from now on.

    Each round reads a share of the files again that are believed unchanged, on both sides, so that all come
    round in `scrub` seconds (None: never), and at most `scrub_limit` bytes. A difference is not an exception:
    it is in the report's `scrub`, and the next round brings those files again.

    Raises UsageError for a pattern that cannot be understood, RefusedError where `target` is not a standby
    of `source`, or was changed by hand, InterruptedRound where the connection is cut: what has arrived is
    kept, and the next round goes on from there.
    """
    text = _native.sync(
        os.fsdecode(source),
        os.fsdecode(target),
        name=_name(name),
        snap=_name(snap),
        keep=_keep(keep_last, keep),
        strict=strict,
        no_space_check=no_space_check,
        exclude=_text(exclude),
        include=_text(include),
        everything=everything,
        check=check,
        discard_drift=discard_drift,
        read_only=read_only,
        new_standby=new_standby,
        scrub=scrub or 0,
        scrub_limit=scrub_limit,
        compress=compress,
        bwlimit=bwlimit,
        rsh=rsh,
        remote_path=remote_path,
        ssh_options=ssh_options,
        timeout=timeout,
        channels=channels,
        jobs=jobs,
        progress=progress,
    )
    try:
        return SyncReport.from_json(text)
    except (KeyError, TypeError, ValueError, AttributeError):  # the other machine has written it
        message = f"{os.fsdecode(source)} sent a report that makes no sense"
        advice = "the round is done: `snapsync status` tells what came of it"
        raise told(IntegrityError(message), message, advice) from None


def _keep(last: int | None, keep: Mapping[str, int] | None) -> dict[str, int]:
    if last is not None and keep and "last" in keep:
        message = "both keep_last and keep say how many of the newest snapshots stay"
        raise told(UsageError(message), message, "give one of them")
    return dict(keep or {}) if last is None else {**(keep or {}), "last": last}


def _key(snap: str | int | Snapshot) -> str:
    return snap.id if isinstance(snap, Snapshot) else str(_name(str(snap)))


def _reason(text: str) -> str:
    """The same reason, which holds no bytes that are not UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        message = f"cannot keep the reason {text!r}: it is not UTF-8"
        raise told(UsageError(message), message, "give a reason that is text")
    return text


def _name(name: str | None) -> str | None:
    """The same name, which holds no bytes that are not UTF-8."""
    if name is not None and any("\ud800" <= character <= "\udfff" for character in name):
        message = f"{name!r} cannot be the name of a snapshot: it is not UTF-8"
        raise told(UsageError(message), message, "choose a name that is text")
    return name


def _text(patterns: Sequence[str]) -> Sequence[str]:
    """The same patterns, none of which holds bytes that are not UTF-8."""
    for pattern in patterns:
        if any("\ud800" <= character <= "\udfff" for character in pattern):
            message = f"cannot understand the pattern {pattern!r}: it is not UTF-8"
            raise told(UsageError(message), message, "name such entries with `*` or `?`")
    return patterns


def prune(volume: AnyPath, keep: Mapping[str, int], *, dry_run: bool = False) -> PruneReport:
    """Delete the snapshots of `volume` that nothing keeps; with `dry_run` only say which.

    `keep` counts by name: `last` keeps so many of the newest ones; `hourly`, `daily`, `weekly`, `monthly` and
    `yearly` keep the newest one of each such period (UTC) that has any, for as many of the latest periods.
    What any of them keeps stays, and so do the newest one, what is held, and the bases of standbys.

    Raises UsageError where `keep` is empty, or keeps none of something.
    """
    return PruneReport.from_json(_native.prune(os.fsdecode(volume), keep, dry_run=dry_run))


def send(
    snapshot: AnyPath,
    base: AnyPath | Sequence[AnyPath] = (),
    output: AnyPath | None = None,
    *,
    name: str | None = None,
    compress: str = "zstd:1",
    bwlimit: int | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
) -> SendReport:
    """Write a delta: `snapshot` as what changed since `base`, or whole without one.

    `snapshot` and `base` are VOLUME@SNAP, or directories that are snapshots; of several bases the newest is
    taken. The delta goes to the file `output`, which appears when it is whole, or to standard output. `name`
    is what the snapshot is called where it is received, `compress` "none" or "zstd:LEVEL", `bwlimit` the
    bytes a second that are written at most.

    Raises UsageError for a directory that is no snapshot, InterruptedRound where the reader goes away.
    """
    bases = [base] if isinstance(base, str | bytes | os.PathLike) else base
    text = _native.send(
        os.fsdecode(snapshot),
        [os.fsdecode(path) for path in bases],
        None if output is None else os.fsdecode(output),
        name=_name(name),
        compress=compress,
        bwlimit=bwlimit,
        jobs=jobs,
        progress=progress,
    )
    return SendReport.from_json(text)


def receive(
    volume: AnyPath | None = None,
    delta: AnyPath | None = None,
    *,
    as_snapshot: AnyPath | None = None,
    name: str | None = None,
    strict: bool = False,
    no_space_check: bool = False,
    check: bool = False,
    discard_drift: bool = False,
    jobs: int = 0,
    progress: Progress | None = None,
) -> ReceiveReport:
    """Apply the delta in the file `delta`, or on standard input, all or nothing.

    Either to the standby `volume`, which a full delta makes where there is none; or as a snapshot of its own
    in the directory `as_snapshot`, under `name` or the one it was sent with. `strict` refuses where not
    everything can be held. `check` and `discard_drift` are those of `sync`.

    Raises RefusedError where the delta does not start from what is there, IntegrityError where it is not what
    it should be, InterruptedRound where it ends too early: what has arrived is kept, and the same delta goes
    on from there.
    """
    source = None if delta is None else os.fsdecode(delta)
    if (volume is None) == (as_snapshot is None):
        message = "a delta is received either into a standby or as a snapshot"
        raise told(UsageError(message), message, "name a VOLUME, or a directory with --as-snapshot")
    if as_snapshot is not None:
        into = os.fsdecode(as_snapshot)
        text = _native.receive_as_snapshot(
            into,
            source,
            name=_name(name),
            strict=strict,
            no_space_check=no_space_check,
            jobs=jobs,
            progress=progress,
        )
    elif name is not None:
        message = "a standby's snapshot has the name of its primary's"
        raise told(UsageError(message), message, "leave out --name, or use --as-snapshot")
    else:
        assert volume is not None
        into = os.fsdecode(volume)
        text = _native.receive(
            into,
            source,
            strict=strict,
            no_space_check=no_space_check,
            check=check,
            discard_drift=discard_drift,
            jobs=jobs,
            progress=progress,
        )
    return ReceiveReport.from_json(text)


def recover(
    volume: AnyPath,
    *,
    back: bool = False,
    adopt: bool = False,
    jobs: int = 0,
    progress: Progress | None = None,
) -> RecoverReport:
    """Finish what an interrupted command left in `volume`, or with `back` make it what it was before.

    With `adopt` a store that was moved, copied or restored to it belongs to it from then on.
    Raises RefusedError where there is no way back any more, or somebody else may have written in the store.
    """
    text = _native.recover(os.fsdecode(volume), back=back, adopt=adopt, jobs=jobs, progress=progress)
    return RecoverReport.from_json(text)


def promote(
    volume: AnyPath,
    *,
    name: str | None = None,
    discard_drift: bool = False,
    accept_drift: bool = False,
    jobs: int = 0,
    progress: Progress | None = None,
) -> PromoteReport:
    """Make the standby `volume` the primary of a new epoch, and take its first snapshot, `name`.

    Raises RefusedError where it was changed by hand since its newest snapshot: `discard_drift` keeps that as
    a snapshot and goes back, `accept_drift` goes on with it.
    """
    text = _native.promote(
        os.fsdecode(volume),
        name=_name(name),
        discard_drift=discard_drift,
        accept_drift=accept_drift,
        jobs=jobs,
        progress=progress,
    )
    return PromoteReport.from_json(text)


def rejoin(
    old: AnyPath,
    new: AnyPath,
    *,
    compress: str = "zstd:1",
    bwlimit: int | None = None,
    rsh: Sequence[str] = ("ssh",),
    remote_path: str = "snapsync",
    ssh_options: Sequence[str] = (),
    timeout: int = 60,
    channels: int = 1,
    jobs: int = 0,
    progress: Progress | None = None,
) -> RejoinReport:
    """Make `old` a standby of the primary `new`, back from the newest snapshot that both have.

    What `old` has of its own since then is kept as snapshots of it. The other arguments are those of `sync`.

    Raises RefusedError where they have no snapshot in common, or `new` is no primary of their lineage.
    """
    text = _native.rejoin(
        os.fsdecode(old),
        os.fsdecode(new),
        compress=compress,
        bwlimit=bwlimit,
        rsh=rsh,
        remote_path=remote_path,
        ssh_options=ssh_options,
        timeout=timeout,
        channels=channels,
        jobs=jobs,
        progress=progress,
    )
    return RejoinReport.from_json(text)


def switch(
    primary: AnyPath,
    standby: AnyPath,
    *,
    compress: str = "zstd:1",
    bwlimit: int | None = None,
    rsh: Sequence[str] = ("ssh",),
    remote_path: str = "snapsync",
    ssh_options: Sequence[str] = (),
    timeout: int = 60,
    channels: int = 1,
    jobs: int = 0,
    progress: Progress | None = None,
) -> SwitchReport:
    """Let a primary and its standby change roles after a last round. The rest is as for `sync`.

    Raises RefusedError where the primary is still being written to: nothing has changed roles then.
    """
    text = _native.switch(
        os.fsdecode(primary),
        os.fsdecode(standby),
        compress=compress,
        bwlimit=bwlimit,
        rsh=rsh,
        remote_path=remote_path,
        ssh_options=ssh_options,
        timeout=timeout,
        channels=channels,
        jobs=jobs,
        progress=progress,
    )
    return SwitchReport.from_json(text)


def restore(
    address: AnyPath,
    *,
    name: str | None = None,
    strict: bool = False,
    no_space_check: bool = False,
    jobs: int = 0,
    progress: Progress | None = None,
) -> RestoreReport:
    """Make a primary's tree what VOLUME@SNAP holds; what it held before is kept as a snapshot.

    Raises RefusedError on a standby, and where the snapshot was taken with other patterns.
    """
    text = _native.restore(
        os.fsdecode(address),
        name=_name(name),
        strict=strict,
        no_space_check=no_space_check,
        jobs=jobs,
        progress=progress,
    )
    return RestoreReport.from_json(text)


def restore_to(
    snapshot: AnyPath,
    to: AnyPath,
    paths: Sequence[AnyPath] = (),
    *,
    strict: bool = False,
    no_space_check: bool = False,
    jobs: int = 0,
    progress: Progress | None = None,
) -> RestoreToReport:
    """Make the absent or empty directory `to` hold `snapshot` (VOLUME@SNAP), or only `paths` of it.

    Where both are on one file system that can, files share the blocks of the snapshot's. `strict` refuses
    where `to` cannot hold everything.

    Raises UsageError for a path that the snapshot does not have, RefusedError where `to` is not empty.
    """
    text = _native.restore_to(
        os.fsdecode(snapshot),
        [os.fsdecode(path) for path in paths],
        os.fsdecode(to),
        strict=strict,
        no_space_check=no_space_check,
        jobs=jobs,
        progress=progress,
    )
    return RestoreToReport.from_json(text)


def clone(
    snapshot: AnyPath,
    to: AnyPath,
    *,
    name: str | None = None,
    strict: bool = False,
    no_space_check: bool = False,
    jobs: int = 0,
    progress: Progress | None = None,
) -> CloneReport:
    """Make the absent or empty directory `to` a writable copy of `snapshot` (VOLUME@SNAP).

    On Btrfs, on the volume's own file system, it is instant. `name` is what the clone is called, by default
    as `to` is.
    """
    text = _native.clone(
        os.fsdecode(snapshot),
        os.fsdecode(to),
        name=_name(name),
        strict=strict,
        no_space_check=no_space_check,
        jobs=jobs,
        progress=progress,
    )
    return CloneReport.from_json(text)


def delete_clone(volume: AnyPath, name: str) -> DeleteCloneReport | None:
    """Delete a clone with its directory; None where no clone of `volume` has that name."""
    text = _native.delete_clone(os.fsdecode(volume), name)
    return None if text == "null" else DeleteCloneReport.from_json(text)


class Browsing:
    """A snapshot that is mounted; leaving its context unmounts it."""

    def __init__(self, report: BrowseReport, mounted: _native.Mounted) -> None:
        from pathlib import Path

        self.report = report
        self.path = Path(report.path)
        self._mounted = mounted

    def __enter__(self) -> Path:
        """The directory it is mounted on."""
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmount it. Who still has a file open there may finish, as long as this process lives."""
        self._mounted.close()

    def leave(self) -> None:
        """Leave it mounted; what this process serves ends with it."""
        self._mounted.leave()

    def wait(self, seconds: float) -> bool:
        """Wait so long for somebody else to unmount what is served, and tell whether that is so."""
        return self._mounted.wait(seconds)


def browse(
    snapshot: AnyPath, directory: AnyPath, *, jobs: int = 0, progress: Progress | None = None
) -> Browsing:
    """Mount `snapshot` (VOLUME@SNAP) read-only on `directory`, which is empty or absent.

    A Btrfs snapshot gets a second place in the tree, as root; any other is served through FUSE by this
    process.
    """
    text, mounted = _native.browse(
        os.fsdecode(snapshot), os.fsdecode(directory), jobs=jobs, progress=progress
    )
    return Browsing(BrowseReport.from_json(text), mounted)


def versions(file: AnyPath, *, progress: Progress | None = None) -> VersionsReport:
    """Each version of `file` that the snapshots of its volume hold; it need not exist any more.

    Versions differ in content, kind or link target. Raises UsageError where nothing ever was at that path.
    """
    return VersionsReport.from_json(_native.versions(os.fsdecode(file), progress=progress))


def restore_version(
    report: VersionsReport, version: Version, to: AnyPath | None = None, *, progress: Progress | None = None
) -> RestorePathsReport | RestoreToReport:
    """Put a version back in place, after a snapshot of what is there, or make the absent file `to` of it."""
    if not version.snapshots:
        message = f"version {version.number} of {report.path} is the file as it is, and in no snapshot"
        raise told(UsageError(message), message, "name another version, or copy the file")
    snapshot = f"{report.volume.path}@{version.snapshots[-1].id}"
    if to is None:
        return restore_paths(snapshot, [report.path], progress=progress)
    text = _native.restore_file(snapshot, report.path, os.fsdecode(to), progress=progress)
    return RestoreToReport.from_json(text)


def restore_paths(
    snapshot: AnyPath,
    paths: Sequence[AnyPath],
    *,
    strict: bool = False,
    no_space_check: bool = False,
    jobs: int = 0,
    progress: Progress | None = None,
) -> RestorePathsReport:
    """Make `paths` of a primary what they are in `snapshot`; its state before is kept as a snapshot.

    Raises UsageError for a path that the snapshot does not have, RefusedError on a standby.
    """
    text = _native.restore_paths(
        os.fsdecode(snapshot),
        [os.fsdecode(path) for path in paths],
        strict=strict,
        no_space_check=no_space_check,
        jobs=jobs,
        progress=progress,
    )
    return RestorePathsReport.from_json(text)


def diff(
    base: AnyPath,
    target: AnyPath,
    output: AnyPath | None = None,
    *,
    jobs: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Find the set of changes that leads from `base` to `target`: VOLUME@SNAP or directories.

    The manifest is written to the Arrow file `output`; without one, to a temporary file that is removed
    together with the Manifest.
    """
    from snapsync.manifest import Manifest

    if output is not None:
        report = write_manifest(base, target, output, jobs=jobs, progress=progress)
        return Manifest(output, notes=report.notes, counters=report.counters)
    import shutil
    import tempfile

    directory = tempfile.mkdtemp(prefix="snapsync-")
    try:
        path = os.path.join(directory, "manifest.arrow")
        report = write_manifest(base, target, path, jobs=jobs, progress=progress)
        return Manifest(path, notes=report.notes, counters=report.counters, owned=directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def write_manifest(
    base: AnyPath,
    target: AnyPath,
    output: AnyPath | None = None,
    *,
    jobs: int = 0,
    progress: Progress | None = None,
) -> DiffReport:
    """As `diff`, but only write the file, or only count without one: Arrow is not loaded."""
    paths = os.fsdecode(base), os.fsdecode(target), None if output is None else os.fsdecode(output)
    return DiffReport.from_json(_native.diff(*paths, jobs=jobs, progress=progress))


def verify(
    a: AnyPath,
    b: AnyPath,
    *,
    quick: bool = False,
    sample: float | None = None,
    seed: int | None = None,
    repair: bool = False,
    discard_drift: bool = False,
    rsh: Sequence[str] = ("ssh",),
    remote_path: str = "snapsync",
    ssh_options: Sequence[str] = (),
    timeout: int = 60,
    jobs: int = 0,
    progress: Progress | None = None,
) -> VerifyReport:
    """Prove that two volumes, snapshots or directories hold the same, by content and metadata.

    Each may be `[user@]host:PATH` or `[user@]host:VOLUME@SNAP`, as for `sync`: only digests travel then. Of a
    volume or snapshot that is replicated in part, that part is compared. Differences are not an exception:
    they are in the report, and `equal` is False.

    `quick` reads no file: sizes and times stand for content, and where both are snapshots that share blocks,
    their addresses prove it. `sample` reads so many percent of the files, in each run others until all have
    been read, unless `seed` chooses them. The report says what was not proven.

    `repair` makes the tree of `b`, a standby here, what the newest snapshot that it has in common with its
    primary `a` is. Changes by hand are refused, or kept as a snapshot with `discard_drift`.
    """
    if repair or discard_drift:
        if not repair or quick or sample is not None:
            message = "to repair everything is read" if repair else "only a repair discards drift"
            raise told(UsageError(message), message, "give repair alone, or with discard_drift")
        text = _native.verify_and_mend(
            os.fsdecode(a), os.fsdecode(b), discard_drift=discard_drift, jobs=jobs, progress=progress
        )
        return VerifyReport.from_json(text)
    text = _native.verify(
        os.fsdecode(a),
        os.fsdecode(b),
        quick=quick,
        sample=sample,
        seed=seed,
        rsh=rsh,
        remote_path=remote_path,
        ssh_options=ssh_options,
        timeout=timeout,
        jobs=jobs,
        progress=progress,
    )
    return VerifyReport.from_json(text)
