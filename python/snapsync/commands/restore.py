"""`snapsync restore`: a volume as one of its snapshots has it."""

from collections.abc import Iterator

from snapsync import api, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import RestoreReport


def run(output: Output, address: str, *, name: str | None, strict: bool, jobs: int) -> int:
    with output.progress() as progress:
        report = api.restore(address, name=name, strict=strict, jobs=jobs, progress=progress)
    for recovered in report.recovered:
        output.note(f"healed: {recovered}")
    for note in report.notes:
        output.note(note)
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: RestoreReport) -> Iterator[str]:
    """What was restored, in lines."""
    yield f"{render.name(report.volume.path)} holds {render.snapshot(report.source)} again"
    yield f"  {render.changes(report.changes)}"
    yield f"  wrote {render.size(report.data_bytes)}, in {render.seconds(report.seconds)}"
    yield f"  it held {render.snapshot(report.before)} before, and is {render.snapshot(report.snapshot)} now"
    yield from render.losses(report.losses)
