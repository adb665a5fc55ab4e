"""`snapsync recover`: what an interrupted command left is finished, or taken back."""

from collections.abc import Iterator

from snapsync import api, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import RecoverReport


def run(output: Output, volume: str, *, back: bool, adopt: bool, jobs: int) -> int:
    with output.progress() as progress:
        report = api.recover(volume, back=back, adopt=adopt, jobs=jobs, progress=progress)
    for note in report.notes:
        output.note(note)
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: RecoverReport) -> Iterator[str]:
    """What was done, and what the volume holds now, in lines."""
    holds = "is empty" if report.latest is None else f"is at {render.snapshot(report.latest)}"
    yield f"{render.name(report.volume.path)} {holds}"
    for done in report.recovered or ("nothing was to be done",):
        yield f"  {render.name(done)}"
    if report.unfinished:
        name = render.name(report.unfinished.snapshot)
        yield f"  a part of snapshot {name} has come: the same round goes on from there"
