"""`snapsync delete`: remove one snapshot."""

from snapsync import _native, render
from snapsync.errors import ExitCode, UsageError, told
from snapsync.output import Output
from snapsync.reports import DeleteReport


def run(output: Output, address: str) -> int:
    volume, snap = _split(address)
    report = DeleteReport.from_json(_native.delete(volume, snap))
    path = render.name(report.volume.path)
    output.summary(report, [f"deleted {render.snapshot(report.deleted)} of {path}"])
    return ExitCode.DONE


def _split(address: str) -> tuple[str, str]:
    """VOLUME and SNAP; a path may hold an @ itself, so the last one counts."""
    volume, at, snap = address.rpartition("@")
    if not (at and volume and snap):
        message = f"cannot delete {address}: it does not name a snapshot"
        raise told(
            UsageError(message),
            message,
            "write VOLUME@SNAP; `snapsync list VOLUME` shows the snapshots",
        )
    return volume, snap
