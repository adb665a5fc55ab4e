"""`snapsync diff`: the set of changes between two snapshots, as lines or as an Arrow file."""

import os
from collections.abc import Iterator

from snapsync import api, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import DiffReport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from snapsync.manifest import Change


def run(output: Output, base: str, target: str, file: str | None, *, jobs: int) -> int:
    if file is not None:
        report = _write(output, base, target, file, jobs=jobs)
        output.summary(report, [_totals(report), f"  written to {render.name(file)}"])
        return ExitCode.DONE
    if output.as_json or output.quiet:  # no line for each change
        report = _write(output, base, target, None, jobs=jobs)
        output.summary(report, ())
    else:
        report = _show(output, base, target, jobs=jobs)
    output.note(_totals(report))
    return ExitCode.DONE


def _show(output: Output, base: str, target: str, *, jobs: int) -> DiffReport:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="snapsync-") as directory:
        path = os.path.join(directory, "manifest.arrow")
        report = _write(output, base, target, path, jobs=jobs)
        output.summary(report, lines(path))
    return report


def line(change: "Change") -> str:
    """One changed inode: what happened, from where to where, which parts, how much data."""
    what, *parts = change.flags
    if what not in ("created", "deleted", "renamed"):
        what, parts = "changed", list(change.flags)
    if what == "created":
        parts = [change.kind]
    if change.data_bytes:
        parts.append(render.size(change.data_bytes))
    old = f"{render.name(change.old_path)} -> " if change.old_path is not None else ""
    remarks = f"  ({', '.join(parts)})" if parts else ""
    return f"{what}  {old}{render.name(change.path)}{remarks}"


def lines(path: str) -> Iterator[str]:
    """A line for each change in a manifest."""
    from snapsync.manifest import Manifest

    yield from map(line, Manifest(path).changes())


def _totals(report: DiffReport) -> str:
    took = render.seconds(report.seconds)
    return f"{render.changes(report.changes)}; {render.size(report.data_bytes)} of data, in {took}"


def _write(output: Output, base: str, target: str, file: str | None, *, jobs: int) -> DiffReport:
    with output.progress() as progress:
        report = api.write_manifest(base, target, file, jobs=jobs, progress=progress)
    for note in report.notes:
        output.note(note)
    return report
