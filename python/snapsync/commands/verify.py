"""`snapsync verify`: prove that two trees hold the same, or name what differs."""

from collections.abc import Iterator

from snapsync import api, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import Difference, VerifyReport


def run(output: Output, a: str, b: str, *, jobs: int) -> int:
    with output.progress() as progress:
        report = api.verify(a, b, jobs=jobs, progress=progress)
    for note in report.notes:
        output.note(note)
    output.summary(report, summary(report))
    return ExitCode.DONE if report.equal else ExitCode.INTEGRITY


def summary(report: VerifyReport) -> Iterator[str]:
    """The verdict, and before it each difference."""
    sides = f"{render.name(report.a)} and {render.name(report.b)}"
    checked = f"{render.entries(report.entries)}, {render.size(report.bytes)}"
    took = render.seconds(report.seconds)
    yield from map(_line, report.differences)
    if report.equal:
        yield f"equal: {sides} hold the same, by content and metadata ({checked}, in {took})"
        return
    unnamed = report.difference_count - len(report.differences)
    if unnamed:
        yield f"... and {unnamed:,} more"
    found = render.count(report.difference_count, "difference")
    yield f"not equal: {found} between {sides} ({checked}, in {took})"


def _line(difference: Difference) -> str:
    path, what = render.name(difference.path), render.name(difference.what)
    return f"{path}: {what}: {render.name(difference.a)} | {render.name(difference.b)}"
