"""`snapsync hold` and `snapsync release`: what must not go, and what may again."""

from collections.abc import Iterator

from snapsync import api, render
from snapsync.commands.delete import split
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import HoldReport, ReleaseReport


def hold(output: Output, address: str, reason: str) -> int:
    volume, snap = split(address, "hold")
    report = api.Volume(volume).hold(snap, reason)
    why = f": {render.name(reason)}" if reason else ""
    output.summary(report, [f"holding {_snapshot(report)}{why}"])
    return ExitCode.DONE


def release(output: Output, address: str, standby: str | None) -> int:
    if standby is None:
        volume, snap = split(address, "release")
        report = api.Volume(volume).release(snap)
    else:
        report = api.Volume(address).forget_standby(standby)
    output.summary(report, _released(report))
    return ExitCode.DONE


def _released(report: ReleaseReport) -> Iterator[str]:
    if report.standby is None:
        yield f"released {_snapshot(report)}"
        return
    yield f"forgot the standby {render.name(report.standby)}"
    if report.snapshot is not None:
        yield f"  {_snapshot(report)} need not stay for it any more"


def _snapshot(report: HoldReport | ReleaseReport) -> str:
    assert report.snapshot is not None
    return f"{render.snapshot(report.snapshot)} of {render.name(report.volume.path)}"
