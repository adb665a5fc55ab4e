"""`snapsync status`: where a volume stands."""

from collections.abc import Iterator

from snapsync import _native, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import Standby, StatusReport


def run(output: Output, volume: str) -> int:
    report = StatusReport.from_json(_native.status(volume))
    output.result(report, _lines(report))
    return ExitCode.DONE


def _lines(report: StatusReport) -> Iterator[str]:
    volume = report.volume
    yield f"{render.name(volume.path)}: {volume.role}"
    yield f"  volume     {volume.id}"
    yield f"  lineage    {volume.lineage}, epoch {volume.epoch}"
    yield f"  provider   {volume.provider}, on {volume.filesystem}"
    yield f"  subset     {render.subset(volume.subset)}"
    yield f"  snapshots  {report.snapshots:,}{_latest(report)}"
    if report.replaced:
        by = report.replaced
        yield f"  replaced   by the primary of epoch {by.epoch}, met at {render.name(by.path)}: rejoin it"
    if report.read_only:
        yield "  read-only  between rounds, while it is a standby"
    yield f"  unfinished {_unfinished(report)}"
    if report.busy:
        yield "  busy       another command holds the volume"
    for standby in report.standbys:
        yield f"  standby    {_standby(standby)}"


def _latest(report: StatusReport) -> str:
    if report.latest is None:
        return ""
    return f", latest {render.snapshot(report.latest)} of {render.moment(report.latest.created)}"


def _unfinished(report: StatusReport) -> str:
    if report.unfinished is None:
        return "nothing"
    left = f"{report.unfinished.phase} of snapshot {report.unfinished.snapshot}"
    return f"{render.name(left)}; the next sync finishes or discards it"


def _standby(standby: Standby) -> str:
    behind = f"{render.count(standby.lag, 'snapshot')} behind" if standby.lag else "up to date"
    return f"{render.name(standby.path)}: {behind}, at {render.name(standby.name)}"
