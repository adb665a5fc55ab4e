"""Which volume is primary, and what an interrupted command left in one."""

import os
from collections.abc import Sequence

from snapsync import _native
from snapsync.api import checks
from snapsync.api.owners import naming
from snapsync.declare import Unpack, pick
from snapsync.options import ChannelOptions, RoleOptions, SshOptions, TransferOptions, VerifyOptions
from snapsync.reports.roles import (
    InitReport,
    PreviewReport,
    PromotePreviewReport,
    PromoteReport,
    RecoverReport,
    RejoinReport,
    SwitchReport,
    TrustReport,
)
from snapsync.types import AnyPath, Progress


def init(
    volume: AnyPath,
    *,
    read_only: bool | None = None,
    history: str | None = None,
    encrypt_to: Sequence[str] = (),
) -> InitReport:
    """Make a directory a volume, or say how one is kept; or begin a log.

    `history` is `full` or `light`: what a primary without subvolumes keeps of older snapshots. `encrypt_to`
    are the recipients of age to whom a new log is encrypted.
    """
    return InitReport.from_json(
        _native.init(os.fsdecode(volume), read_only=read_only, history=history, encrypt_to=encrypt_to)
    )


def trust(log: AnyPath, key: str) -> TrustReport:
    """Believe from now on, on this machine, what the key (64 hexadecimal digits) signs in a log."""
    return TrustReport.from_json(_native.trust(os.fsdecode(log), key))


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
        name=checks.name(name),
        discard_drift=discard_drift,
        accept_drift=accept_drift,
        jobs=jobs,
        progress=progress,
    )
    return PromoteReport.from_json(text)


def preview_promote(volume: AnyPath, *, jobs: int = 0) -> PromotePreviewReport:
    """Say what `promote` would do for bytes of snapshots that only the tree has. Changes nothing.

    What was changed by hand is not looked for.
    """
    return PromotePreviewReport.from_json(_native.promote_preview(os.fsdecode(volume), jobs=jobs))


def rejoin(
    old: AnyPath, new: AnyPath, *, progress: Progress | None = None, **options: Unpack[RoleOptions]
) -> RejoinReport:
    """Make `old` a standby of the primary `new`, back from the newest snapshot that both have.

    What `old` has of its own since then is kept as snapshots of it. The options are those of `sync`:
    `compress`, `bwlimit`, `rsh`, `remote_path`, `ssh_options`, `timeout`, `channels`, `jobs`, and `owners`,
    which need not be given where `new` has found owners by name.

    Raises RefusedError where they have no snapshot in common, or `new` is no primary of their lineage.
    """
    checks.keywords("rejoin", RoleOptions, options)
    text = _native.rejoin(
        os.fsdecode(old),
        os.fsdecode(new),
        owners=naming(options.get("owners")),
        transfer=pick(TransferOptions, options),
        ssh=pick(ChannelOptions, options),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return RejoinReport.from_json(text)


def preview_rejoin(
    old: AnyPath,
    new: AnyPath,
    output: AnyPath,
    *,
    progress: Progress | None = None,
    **options: Unpack[VerifyOptions],
) -> PreviewReport:
    """Tell what `rejoin` would leave behind, and write it as a manifest to the file `output`."""
    checks.keywords("preview_rejoin", VerifyOptions, options)
    text = _native.rejoin_preview(
        os.fsdecode(old),
        os.fsdecode(new),
        os.fsdecode(output),
        ssh=pick(SshOptions, options),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return PreviewReport.from_json(text)


def switch(
    primary: AnyPath, standby: AnyPath, *, progress: Progress | None = None, **options: Unpack[RoleOptions]
) -> SwitchReport:
    """Let a primary and its standby change roles after a last round. The options are those of `rejoin`.

    Raises RefusedError where the primary is still being written to: nothing has changed roles then.
    """
    checks.keywords("switch", RoleOptions, options)
    text = _native.switch(
        os.fsdecode(primary),
        os.fsdecode(standby),
        owners=naming(options.get("owners")),
        transfer=pick(TransferOptions, options),
        ssh=pick(ChannelOptions, options),
        jobs=options.get("jobs", 0),
        progress=progress,
    )
    return SwitchReport.from_json(text)
