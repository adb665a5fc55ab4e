"""`snapsync send`: a snapshot as a delta."""

import sys
from collections.abc import Iterator, Sequence

from snapsync import api, render
from snapsync.errors import ExitCode, UsageError, told
from snapsync.output import Output, on_terminal, take_stdout
from snapsync.reports import SendReport


def run(
    output: Output,
    snapshot: str,
    base: Sequence[str],
    file: str | None,
    *,
    name: str | None,
    compress: str,
    bwlimit: int | None,
    jobs: int,
) -> int:
    if file is None and on_terminal(sys.stdout):
        message = "a delta makes no sense on a terminal"
        raise told(UsageError(message), message, "name a file with -o, or pipe it to `snapsync receive`")
    if file is None:
        take_stdout("delta")
    with output.progress() as progress:
        report = api.send(
            snapshot,
            base,
            file,
            name=name,
            compress=compress,
            bwlimit=bwlimit,
            jobs=jobs,
            progress=progress,
        )
    for note in report.notes:
        output.note(note)
    if file is None:
        output.aside(report, summary(report))
    else:
        output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: SendReport) -> Iterator[str]:
    """What was sent, in lines."""
    base = f" since {render.name(report.base.name)}" if report.base else ", whole"
    yield f"{render.name(report.snapshot.name)}{base}: {render.changes(report.changes)}"
    data, stored = render.size(report.data_bytes), render.size(report.stored_bytes)
    yield f"  {data} of data, {stored} as sent, in {render.seconds(report.seconds)}"
    if report.output:
        yield f"  written to {render.name(report.output)}"
