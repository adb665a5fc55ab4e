"""`snapsync inspect`: what a manifest or a delta holds."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from snapsync import _native, render
from snapsync.errors import ExitCode
from snapsync.manifest import Change, DirectoryChange, Manifest, Totals
from snapsync.output import Output
from snapsync.reports import Delta, Report

_HEADINGS = (">data", ">size", "change", "path")
_DIRECTORY_HEADINGS = (">data", ">changes", "directory")


class InspectReport(Report):
    """The totals of a manifest, its largest changes, the directories with most change; and its delta."""

    verb = "inspect"
    file: str
    metadata: dict[str, str]
    totals: Totals
    largest: list[Change]
    directories: list[DirectoryChange]
    delta: Delta | None

    def as_dict(self) -> dict[str, Any]:
        """The same as nested dictionaries and sequences, with `verb` first."""
        return {"verb": self.verb, **asdict(self)}


def run(output: Output, file: Path, *, top: int) -> int:
    if _is_delta(file):
        with tempfile.TemporaryDirectory(prefix="snapsync-") as directory:
            manifest = Path(directory, "manifest.arrow")
            text = _native.inspect_delta(str(file), str(manifest))
            report = replace(_report(manifest, top), file=str(file), delta=Delta.from_json(text))
    else:
        report = _report(file, top)
    output.result(report, _header(report))
    if not output.as_json:
        _print_tables(output, report)
    return ExitCode.DONE


def _is_delta(file: Path) -> bool:
    """Whether a file begins as a delta does; see docs/format.md."""
    try:
        with file.open("rb") as start:
            return start.read(8) == b"\x89SNSD\r\n\x1a"
    except OSError:
        return False  # told by whoever reads it next


def _report(file: Path, top: int) -> InspectReport:
    with Manifest(file) as manifest:
        return InspectReport(
            file=manifest.path,
            metadata=manifest.metadata,
            totals=manifest.totals,
            largest=manifest.largest(top),
            directories=manifest.by_directory(top),
            delta=None,
        )


def _header(report: InspectReport) -> Iterator[str]:
    totals = report.totals
    yield f"{'delta' if report.delta else 'manifest'} {render.name(report.file)}"
    if report.delta:
        yield from _delta(report.delta)
    for key in ("base", "target", "volume", "provider", "filesystem", "created", "version"):
        value = render.name(report.metadata.get(f"snapsync.{key}", ""))
        yield f"  {key:<11}{value or 'none'}"
    yield f"  {'changes':<11}{render.changes(totals)} ({render.count(totals.rows, 'row')})"
    yield f"  {'data':<11}{render.size(totals.data_bytes)}"


def _delta(delta: Delta) -> Iterator[str]:
    yield f"  {'snapshot':<11}{render.name(delta.snapshot.name)}"
    yield f"  {'lineage':<11}{delta.lineage or 'none'}, epoch {delta.epoch}"
    end = "" if delta.complete else "; it ends before its end record"
    raw, stored = render.size(delta.raw_bytes), render.size(delta.stored_bytes)
    yield f"  {'frames':<11}{delta.frames:,} of {raw}, stored in {stored}{end}"


def _print_tables(output: Output, report: InspectReport) -> None:
    if report.largest:
        output.table("\nLargest changes", _HEADINGS, [_row(c) for c in report.largest])
    if report.directories:
        rows = [(render.size(d.data_bytes), f"{d.changes:,}", d.path) for d in report.directories]
        output.table("\nDirectories with most change", _DIRECTORY_HEADINGS, rows)


def _row(change: Change) -> tuple[str, ...]:
    return (
        render.size(change.data_bytes),
        render.size(change.size),
        ", ".join(change.flags),
        change.path,
    )
