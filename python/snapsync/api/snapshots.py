"""The snapshots of one volume: taken, listed, held, and deleted; and where the volume stands."""

import os
from collections.abc import Mapping

from snapsync import _native
from snapsync.api import checks, elsewhere
from snapsync.declare import Unpack
from snapsync.options import SshOptions
from snapsync.options_of_taking import TakeOptions
from snapsync.reports.snapshots import (
    DeleteReport,
    HoldReport,
    ListReport,
    PruneReport,
    ReleaseReport,
    SnapshotReport,
    StatusReport,
)
from snapsync.reports.values import Snapshot
from snapsync.types import AnyPath, Progress


def snapshot(
    volume: AnyPath,
    name: str | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[TakeOptions],
) -> SnapshotReport:
    """Take a snapshot of `volume`; see `Volume.snapshot`."""
    checks.keywords("snapshot", TakeOptions, options)
    text = _native.snapshot(
        os.fsdecode(volume),
        name=checks.name(name),
        hooks=checks.hooks(options),
        keep_going=options.get("keep_going", False),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return SnapshotReport.from_json(text)


def list_(volume: AnyPath, *, alone: bool = False, **options: Unpack[SshOptions]) -> ListReport:
    """The snapshots of `volume`, oldest first, what holds them, and their clones.

    With `alone` also what each holds by itself, for which many files of the store are looked at. `volume` may
    be `[user@]host:PATH`, as for `status` and `prune`.
    """
    checks.keywords("list", SshOptions, options)
    if elsewhere.is_elsewhere(volume):
        return ListReport.from_peer(*elsewhere.ask(volume, {"list": {"alone": alone}}, options))
    return ListReport.from_json(_native.list(os.fsdecode(volume), alone=alone))


def delete(volume: AnyPath, snap: str | int | Snapshot) -> DeleteReport:
    """Delete one snapshot of `volume`; see `Volume.delete`."""
    return DeleteReport.from_json(_native.delete(os.fsdecode(volume), checks.key(snap)))


def hold(volume: AnyPath, snap: str | int | Snapshot, reason: str | None = None) -> HoldReport:
    """Keep a snapshot of `volume` from being deleted and pruned until it is released.

    Without a `reason` one that it is held for already stays.
    """
    if reason is not None:
        return _hold(volume, checks.key(snap), checks.reason(reason))
    known = {hold.snapshot: hold.reason for hold in list_(volume).holds if hold.standby is None}
    report = _hold(volume, checks.key(snap), "")  # only now is it known which one is `latest`, or of a date
    before = known.get(report.snapshot.id)
    return _hold(volume, report.snapshot.id, before) if before else report


def _hold(volume: AnyPath, snap: str, reason: str) -> HoldReport:
    return HoldReport.from_json(_native.hold(os.fsdecode(volume), snap, reason))


def release(volume: AnyPath, snap: str | int | Snapshot) -> ReleaseReport:
    """Release a snapshot of `volume` that is held by hand. Raises UsageError if it is not."""
    return ReleaseReport.from_json(_native.release(os.fsdecode(volume), checks.key(snap)))


def forget_standby(volume: AnyPath, standby: AnyPath) -> ReleaseReport:
    """Forget a standby of `volume` that is gone, by its path or id, so that its base need not stay for it."""
    known = os.fsencode(standby).decode("utf-8", "replace")  # as it was written down
    return ReleaseReport.from_json(_native.forget_standby(os.fsdecode(volume), known))


def prune(
    volume: AnyPath, keep: Mapping[str, int], *, dry_run: bool = False, **options: Unpack[SshOptions]
) -> PruneReport:
    """Delete the snapshots of `volume` that nothing keeps; with `dry_run` only say which.

    `keep` counts by name: `last` keeps so many of the newest ones; `hourly`, `daily`, `weekly`, `monthly` and
    `yearly` keep the newest one of each such period (UTC) that has any, for as many of the latest periods.
    What any of them keeps stays, and so do the newest one, what is held, and the bases of standbys. `history`
    is the number of days for which the manifests of rounds stay, which are 400 without it.

    Raises UsageError where `keep` is empty, or keeps none of something.
    """
    checks.keywords("prune", SshOptions, options)
    if elsewhere.is_elsewhere(volume):
        question = {"prune": {"keep": dict(keep), "dry_run": dry_run}}
        return PruneReport.from_peer(*elsewhere.ask(volume, question, options))
    return PruneReport.from_json(_native.prune(os.fsdecode(volume), keep, dry_run=dry_run))


def status(volume: AnyPath, *, history: bool = False, **options: Unpack[SshOptions]) -> StatusReport:
    """The role of `volume`, its snapshots, its standbys and their lag, and what is unfinished.

    With `history` also what that takes, for which every file of the store is looked at.
    """
    checks.keywords("status", SshOptions, options)
    if elsewhere.is_elsewhere(volume):
        return StatusReport.from_peer(*elsewhere.ask(volume, {"status": {"history": history}}, options))
    return StatusReport.from_json(_native.status(os.fsdecode(volume), history=history))
