"""`snapsync inspect`: what a manifest holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from snapsync import render
from snapsync.errors import ExitCode
from snapsync.manifest import Change, DirectoryChange, Manifest, Totals
from snapsync.output import Output
from snapsync.reports import Report

_HEADINGS = (">data", ">size", "change", "path")
_DIRECTORY_HEADINGS = (">data", ">changes", "directory")


@dataclass(frozen=True, slots=True)
class InspectReport(Report):
    """The totals of a manifest, its largest changes, and the directories with most change."""

    verb: ClassVar[str] = "inspect"
    file: str
    metadata: dict[str, str]
    totals: Totals
    largest: list[Change]
    directories: list[DirectoryChange]


def run(output: Output, file: Path, *, top: int) -> int:
    with Manifest(file) as manifest:
        report = InspectReport(
            file=manifest.path,
            metadata=manifest.metadata,
            totals=manifest.totals,
            largest=manifest.largest(top),
            directories=manifest.by_directory(top),
        )
    output.result(report, _header(report))
    if not output.as_json:
        _print_tables(output, report)
    return ExitCode.DONE


def _header(report: InspectReport) -> Iterator[str]:
    totals = report.totals
    yield f"manifest {render.name(report.file)}"
    for key in ("base", "target", "volume", "provider", "filesystem", "created", "version"):
        value = render.name(report.metadata.get(f"snapsync.{key}", ""))
        yield f"  {key:<11}{value or 'none'}"
    yield f"  {'changes':<11}{render.changes(totals)} ({render.count(totals.rows, 'row')})"
    yield f"  {'data':<11}{render.size(totals.data_bytes)}"


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
