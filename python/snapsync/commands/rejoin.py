"""`snapsync rejoin`: an old primary becomes a standby of the new one."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from snapsync import _native, api, render
from snapsync.commands.diff import lines as changes
from snapsync.commands.sync import summary as round_summary
from snapsync.errors import ExitCode, UsageError, told
from snapsync.output import Output
from snapsync.reports import PreviewReport, RejoinReport
from snapsync.shell import words


def run(
    output: Output,
    old: str,
    new: str,
    *,
    preview: bool,
    file: Path | None,
    compress: str,
    bwlimit: int | None,
    rsh: str,
    remote_path: str,
    ssh_options: Sequence[str],
    timeout: int,
    channels: int,
    jobs: int,
) -> int:
    if preview:
        return _preview(output, old, new, file, rsh, remote_path, ssh_options, timeout, jobs)
    if file is not None:
        message = "only a preview is written to a file"
        raise told(UsageError(message), message, "add --preview, or leave out --output")
    with output.progress() as progress:
        report = api.rejoin(
            old,
            new,
            compress=compress,
            bwlimit=bwlimit,
            rsh=words(rsh),
            remote_path=remote_path,
            ssh_options=ssh_options,
            timeout=timeout,
            channels=channels,
            jobs=jobs,
            progress=progress,
        )
    for recovered in (*report.recovered, *report.round.recovered):
        output.note(f"healed: {recovered}")
    for note in (*report.notes, *report.round.notes):
        output.note(note)
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: RejoinReport) -> Iterator[str]:
    """How the old primary became a standby, in lines."""
    old, new = report.round.standby, report.round.primary
    yield f"{render.name(old.path)} is a standby of {render.name(new.path)}"
    yield f"  went back to {render.snapshot(report.common)}: {render.changes(report.back)}"
    for left in report.left:
        yield f"  kept {render.snapshot(left)}"
    yield from round_summary(report.round)


def _preview(
    output: Output,
    old: str,
    new: str,
    file: Path | None,
    rsh: str,
    remote_path: str,
    ssh_options: Sequence[str],
    timeout: int,
    jobs: int,
) -> int:
    with tempfile.TemporaryDirectory(prefix="snapsync-") as directory:
        path = file or Path(directory, "manifest.arrow")
        with output.progress() as progress:
            text = _native.rejoin_preview(
                old,
                new,
                os.fsdecode(path),
                rsh=words(rsh),
                remote_path=remote_path,
                ssh_options=ssh_options,
                timeout=timeout,
                jobs=jobs,
                progress=progress,
            )
        report = PreviewReport.from_json(text)
        for said in (*report.recovered, *report.notes):
            output.note(said)
        report = report if file else replace(report, output=None)
        output.result(report, chain([] if file else changes(os.fspath(path)), _left(report)))
        return ExitCode.DONE


def _left(report: PreviewReport) -> Iterator[str]:
    yield f"{render.name(report.volume.path)} would go back to {render.snapshot(report.common)}"
    data = render.size(report.data_bytes)
    yield f"  and keep what it has since as snapshots: {render.changes(report.changes)}, {data} of data"
    for left in report.left:
        yield f"  {render.snapshot(left)} is of its own"
