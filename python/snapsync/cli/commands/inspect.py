"""`snapsync inspect`: what a manifest, a delta or a round of a log holds."""

from collections.abc import Iterator

from snapsync import render
from snapsync._native import Location
from snapsync.api import comparisons
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option
from snapsync.errors import ExitCode
from snapsync.reports.base import Report
from snapsync.reports.comparisons import Delta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from snapsync.manifest import Change, DirectoryChange, Totals

_HEADINGS = (">data", ">size", "change", "path")
_DIRECTORY_HEADINGS = (">data", ">changes", "directory")


@verb(
    place=210,
    examples=[
        "snapsync inspect changes.arrow",
        "snapsync inspect changes.arrow --top 50 --json",
        "snapsync inspect s3://backups/data@monday",
    ],
)
def inspect(
    output: Output,
    file: Annotated[
        str,
        Argument(
            metavar="FILE",
            help="A manifest or a delta, as `diff -o` or `send` writes it; or LOG@SNAP, the round of a log.",
        ),
    ],
    top: Annotated[int, Option("--top", "-n", min=0, metavar="N", help="Rows in each table.")] = 10,
) -> int:
    """Show what a manifest or a delta holds.

    Totals, the largest changes, and the directories with most change.
    """
    from pathlib import Path

    is_log = Location.known(file).is_log
    file = file if is_log else str(Path(file))
    if is_log or _is_delta(file):
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="snapsync-") as directory:
            manifest = f"{directory}/manifest.arrow"
            delta = comparisons.inspect_delta(file, manifest)
            report = _report(manifest, top, file, delta)
    else:
        report = _report(file, top, file, None)
    output.result(report, _header(report))
    if not output.as_json:
        _print_tables(output, report)
    return ExitCode.DONE


class InspectReport(Report):
    """The totals of a manifest, its largest changes, the directories with most change; and its delta."""

    verb = "inspect"
    file: str
    metadata: dict[str, str]
    totals: "Totals"
    largest: "list[Change]"
    directories: "list[DirectoryChange]"
    delta: Delta | None

    def as_dict(self) -> "dict[str, Any]":
        """The same as nested dictionaries and sequences, with `verb` first."""
        from dataclasses import asdict

        return {"verb": self.verb, **asdict(self)}


def _is_delta(file: str) -> bool:
    """Whether a file begins as a delta does; see docs/format.md."""
    try:
        with open(file, "rb") as start:
            return start.read(8) == b"\x89SNSD\r\n\x1a"
    except OSError:
        return False  # the next one to read the file reports it


def _report(path: str, top: int, file: str, delta: Delta | None) -> InspectReport:
    from snapsync.manifest import Manifest

    with Manifest(path) as manifest:
        return InspectReport(
            file=file,
            metadata=manifest.metadata,
            totals=manifest.totals,
            largest=manifest.largest(top),
            directories=manifest.by_directory(top),
            delta=delta,
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


def _row(change: "Change") -> tuple[str, ...]:
    return (
        render.size(change.data_bytes),
        render.size(change.size),
        ", ".join(change.flags),
        change.path,
    )
