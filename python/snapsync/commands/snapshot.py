"""`snapsync snapshot`: take one."""

from collections.abc import Iterator

from snapsync import _native, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import SnapshotReport


def run(output: Output, volume: str, *, name: str | None, jobs: int) -> int:
    with output.progress() as progress:
        text = _native.snapshot(volume, name=name, jobs=jobs, progress=progress)
    report = SnapshotReport.from_json(text)
    for note in report.notes:
        output.note(note)
    output.summary(report, _summary(report))
    return ExitCode.DONE


def _summary(report: SnapshotReport) -> Iterator[str]:
    taken = render.snapshot(report.snapshot)
    path = render.name(report.volume.path)
    yield f"{taken} of {path}, in {render.seconds(report.seconds)}"
