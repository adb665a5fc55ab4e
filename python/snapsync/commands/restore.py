"""`snapsync restore`: a snapshot, or paths of it, elsewhere or in place."""

from collections.abc import Iterator, Sequence

from snapsync import api, render
from snapsync.errors import ExitCode, UsageError, told
from snapsync.output import Output
from snapsync.reports import RestorePathsReport, RestoreReport, RestoreToReport


def run(
    output: Output,
    address: str,
    paths: Sequence[str],
    *,
    to: str | None,
    name: str | None,
    strict: bool,
    no_space_check: bool,
    jobs: int,
) -> int:
    if name is not None and (to is not None or paths):
        message = "--name is for the snapshot of a whole volume that was restored"
        raise told(UsageError(message), message, "leave it out with --to and with paths")
    if to is not None:
        return _elsewhere(output, address, paths, to, strict=strict, no_space_check=no_space_check, jobs=jobs)
    if paths:
        return _in_place(output, address, paths, strict=strict, no_space_check=no_space_check, jobs=jobs)
    return _whole(output, address, name=name, strict=strict, no_space_check=no_space_check, jobs=jobs)


def _whole(
    output: Output, address: str, *, name: str | None, strict: bool, no_space_check: bool, jobs: int
) -> int:
    with output.progress() as progress:
        report = api.restore(
            address, name=name, strict=strict, no_space_check=no_space_check, jobs=jobs, progress=progress
        )
    for recovered in report.recovered:
        output.note(f"healed: {recovered}")
    for note in report.notes:
        output.note(note)
    output.summary(report, summary_of_whole(report))
    return ExitCode.DONE


def _elsewhere(
    output: Output,
    address: str,
    paths: Sequence[str],
    to: str,
    *,
    strict: bool,
    no_space_check: bool,
    jobs: int,
) -> int:
    with output.progress() as progress:
        report = api.restore_to(
            address, to, paths, strict=strict, no_space_check=no_space_check, jobs=jobs, progress=progress
        )
    for note in report.notes:
        output.note(note)
    output.summary(report, summary(report))
    return ExitCode.DONE


def _in_place(
    output: Output, address: str, paths: Sequence[str], *, strict: bool, no_space_check: bool, jobs: int
) -> int:
    with output.progress() as progress:
        report = api.restore_paths(
            address, paths, strict=strict, no_space_check=no_space_check, jobs=jobs, progress=progress
        )
    for said in (*report.recovered, *report.notes):
        output.note(said)
    output.summary(report, summary_in_place(report))
    return ExitCode.DONE


def summary_of_whole(report: RestoreReport) -> Iterator[str]:
    """What was restored, in lines."""
    yield f"{render.name(report.volume.path)} holds {render.snapshot(report.source)} again"
    yield f"  {render.changes(report.changes)}"
    yield f"  wrote {render.size(report.data_bytes)}, in {render.seconds(report.seconds)}"
    yield f"  it held {render.snapshot(report.before)} before, and is {render.snapshot(report.snapshot)} now"
    yield from render.losses(report.losses)


def summary(report: RestoreToReport) -> Iterator[str]:
    """What was made elsewhere, in lines."""
    what = render.count(len(report.paths), "path") + " of " if report.paths else ""
    yield f"{what}{render.snapshot(report.snapshot)} -> {render.name(report.to)}"
    yield _brought(report)
    yield from render.losses(report.losses)


def summary_in_place(report: RestorePathsReport) -> Iterator[str]:
    """What was made in place, in lines."""
    volume = render.name(report.volume.path)
    for path in report.paths:
        yield f"{render.name(path)} of {volume} is that of {render.snapshot(report.snapshot)}"
    yield _brought(report)
    yield f"  what was there before is in {render.snapshot(report.before)}"
    yield from render.losses(report.losses)


def _brought(report: RestoreToReport | RestorePathsReport) -> str:
    shared = f", {render.size(report.shared_bytes)} of it shared" if report.shared_bytes else ""
    created = render.entries(report.changes.created)
    return (
        f"  {created}, {render.size(report.data_bytes)} of data{shared}, in {render.seconds(report.seconds)}"
    )
