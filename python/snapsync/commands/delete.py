"""`snapsync delete`: remove one snapshot or clone."""

from snapsync import _native, api, render
from snapsync.errors import ExitCode, UsageError, told
from snapsync.output import Output
from snapsync.reports import DeleteCloneReport, DeleteReport


def run(output: Output, address: str) -> int:
    volume, snap = split(address, "delete")
    unlisted = api.delete_clone(volume, snap)
    if unlisted is not None:
        output.summary(unlisted, [_unlisted(unlisted)])
        return ExitCode.DONE
    report = DeleteReport.from_json(_native.delete(volume, snap))
    path = render.name(report.volume.path)
    output.summary(report, [f"deleted {render.snapshot(report.deleted)} of {path}"])
    return ExitCode.DONE


def split(address: str, verb: str) -> tuple[str, str]:
    """VOLUME and SNAP; a path may hold an @ itself, so the last one counts."""
    volume, at, snap = address.rpartition("@")
    if not (at and volume and snap):
        message = f"cannot {verb} {address}: it does not name a snapshot"
        raise told(
            UsageError(message),
            message,
            "write VOLUME@SNAP; `snapsync list VOLUME` shows the snapshots",
        )
    if snap.encode(errors="ignore").decode() != snap:
        message = f"cannot {verb} {address}: a name that is not UTF-8 is no snapshot's"
        raise told(UsageError(message), message, "`snapsync list VOLUME` shows the snapshots")
    return volume, snap


def _unlisted(report: DeleteCloneReport) -> str:
    name, path = render.name(report.clone.name), render.name(report.clone.path)
    if report.clone.exists:
        return f"deleted clone {name}: {path}"
    return f"forgot clone {name}: {path} is not there any more, or is something else"
