"""`snapsync receive`: a delta into a standby, or as a snapshot."""

import sys
from collections.abc import Iterator

from snapsync import api, render
from snapsync.errors import ExitCode, UsageError, told
from snapsync.output import Output, on_terminal
from snapsync.reports import ReceiveReport


def run(
    output: Output,
    volume: str | None,
    file: str | None,
    *,
    as_snapshot: str | None,
    name: str | None,
    strict: bool,
    no_space_check: bool,
    check: bool,
    discard_drift: bool,
    jobs: int,
) -> int:
    if file is None and on_terminal(sys.stdin):
        message = "no delta comes from a terminal"
        raise told(UsageError(message), message, "name a file with -i, or pipe `snapsync send` into this")
    with output.progress() as progress:
        report = api.receive(
            volume,
            file,
            as_snapshot=as_snapshot,
            name=name,
            strict=strict,
            no_space_check=no_space_check,
            check=check,
            discard_drift=discard_drift,
            jobs=jobs,
            progress=progress,
        )
    for said in (*report.recovered, *report.notes):
        output.note(said)
    if report.set_aside:
        output.note(f"what was changed by hand is kept as {render.snapshot(report.set_aside)}")
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: ReceiveReport) -> Iterator[str]:
    """What was received, in lines."""
    where = report.path or (report.standby.path if report.standby else "")
    yield f"{render.name(report.snapshot.name)} -> {render.name(where)}"
    yield f"  {render.changes(report.changes)}"
    kept = f", {render.size(report.kept_bytes)} of it from before" if report.kept_bytes else ""
    yield f"  {render.size(report.data_bytes)} of data{kept}, in {render.seconds(report.seconds)}"
    yield from render.losses(report.losses)
