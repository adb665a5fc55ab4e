"""`snapsync diff`: the set of changes between two snapshots, as lines or as an Arrow file."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from snapsync import api, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import DiffReport

if TYPE_CHECKING:
    from snapsync.manifest import Change


def run(output: Output, base: str, target: str, file: Path | None, *, jobs: int) -> int:
    if file is not None:
        report = _write(output, base, target, file, jobs=jobs)
        output.summary(report, [_totals(report), f"  written to {render.name(str(file))}"])
        return ExitCode.DONE
    with tempfile.TemporaryDirectory(prefix="snapsync-") as directory:
        path = Path(directory, "manifest.arrow")
        report = _write(output, base, target, path, jobs=jobs)
        output.summary(replace(report, output=None), lines(path))
    output.note(_totals(report))
    return ExitCode.DONE


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


def lines(path: Path) -> Iterator[str]:
    """A line for each change in a manifest."""
    from snapsync.manifest import Manifest

    yield from map(line, Manifest(path).changes())


def _totals(report: DiffReport) -> str:
    took = render.seconds(report.seconds)
    return f"{render.changes(report.changes)}; {render.size(report.data_bytes)} of data, in {took}"


def _write(output: Output, base: str, target: str, file: Path, *, jobs: int) -> DiffReport:
    with output.progress() as progress:
        report = api.write_manifest(base, target, file, jobs=jobs, progress=progress)
    for note in report.notes:
        output.note(note)
    return report
