"""`snapsync clone`: a writable copy of a snapshot."""

from collections.abc import Iterator

from snapsync import api, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import CloneReport


def run(
    output: Output,
    address: str,
    directory: str,
    *,
    name: str | None,
    strict: bool,
    no_space_check: bool,
    jobs: int,
) -> int:
    with output.progress() as progress:
        report = api.clone(
            address,
            directory,
            name=name,
            strict=strict,
            no_space_check=no_space_check,
            jobs=jobs,
            progress=progress,
        )
    for note in report.notes:
        output.note(note)
    output.summary(report, _summary(report))
    return ExitCode.DONE


def _summary(report: CloneReport) -> Iterator[str]:
    clone = report.clone
    named = f"clone {render.name(clone.name)} of {render.snapshot(report.snapshot)}"
    yield f"{named}: {render.name(clone.path)}, in {render.seconds(report.seconds)}"
    if not report.instant:
        shared = f", {render.size(report.shared_bytes)} of it shared" if report.shared_bytes else ""
        yield f"  {render.size(report.data_bytes)} of data{shared}"
    yield from render.losses(report.losses)
