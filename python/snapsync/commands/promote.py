"""`snapsync promote`: a standby becomes the primary."""

from collections.abc import Iterator

from snapsync import api, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import PromoteReport


def run(
    output: Output, volume: str, *, name: str | None, discard_drift: bool, accept_drift: bool, jobs: int
) -> int:
    with output.progress() as progress:
        report = api.promote(
            volume,
            name=name,
            discard_drift=discard_drift,
            accept_drift=accept_drift,
            jobs=jobs,
            progress=progress,
        )
    for recovered in report.recovered:
        output.note(f"healed: {recovered}")
    for note in report.notes:
        output.note(note)
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: PromoteReport) -> Iterator[str]:
    """What was promoted, in lines."""
    volume = report.volume
    yield f"{render.name(volume.path)} is the primary of epoch {volume.epoch}"
    yield f"  it goes on from {render.snapshot(report.newest)}, with {render.snapshot(report.snapshot)}"
    if report.set_aside:
        yield f"  what was changed by hand is kept as {render.snapshot(report.set_aside)}"
