"""`snapsync verify`: prove that two trees hold the same, or name what differs."""

from collections.abc import Iterator, Sequence

from snapsync import api, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import Difference, Mended, VerifyReport
from snapsync.shell import words


def run(
    output: Output,
    a: str,
    b: str,
    *,
    quick: bool,
    sample: float | None,
    seed: int | None,
    repair: bool,
    discard_drift: bool,
    rsh: str,
    remote_path: str,
    ssh_options: Sequence[str],
    timeout: int,
    jobs: int,
) -> int:
    with output.progress() as progress:
        report = api.verify(
            a,
            b,
            quick=quick,
            sample=sample,
            seed=seed,
            repair=repair,
            discard_drift=discard_drift,
            rsh=words(rsh),
            remote_path=remote_path,
            ssh_options=ssh_options,
            timeout=timeout,
            jobs=jobs,
            progress=progress,
        )
    for note in report.notes:
        output.note(note)
    if report.mended:
        for recovered in report.mended.recovered:
            output.note(f"healed: {recovered}")
        if report.mended.set_aside:
            output.note(f"what was changed by hand is kept as {render.snapshot(report.mended.set_aside)}")
    output.summary(report, summary(report))
    return ExitCode.DONE if report.equal else ExitCode.INTEGRITY


def summary(report: VerifyReport) -> Iterator[str]:
    """The verdict, and before it each difference."""
    sides = f"{render.name(report.a)} and {render.name(report.b)}"
    read = f", {render.size(report.bytes)}" if report.mode != "quick" else ""
    checked = f"{render.entries(report.entries)}{read}, in {render.seconds(report.seconds)}"
    if report.mended and report.mended.difference_count:
        yield from _mended(report.mended)
    yield from map(_line, report.differences)
    unnamed = report.difference_count - len(report.differences)
    if unnamed:
        yield f"... and {unnamed:,} more"
    if not report.equal:
        found = render.count(report.difference_count, "difference")
        yield f"not equal: {found} between {sides} ({checked})"
    elif report.unproven:
        yield f"no difference found: {sides} hold the same entries and metadata ({checked})"
    else:
        yield f"equal: {sides} hold the same, by content and metadata ({checked})"
    if report.unproven:
        yield f"  {_unread(report)}"


def _mended(mended: Mended) -> Iterator[str]:
    yield from (f"mended: {_line(difference)}" for difference in mended.differences)
    unnamed = mended.difference_count - len(mended.differences)
    if unnamed:
        yield f"mended: ... and {unnamed:,} more"
    yield f"  {render.changes(mended.changes)}; moved {render.size(mended.data_bytes)}"
    yield from render.losses(mended.losses)


def _unread(report: VerifyReport) -> str:
    """What was not proven, and how much of the content was read."""
    files, data = render.count(report.unproven, "file"), render.size(report.unproven_bytes)
    whole = report.bytes + report.unproven_bytes
    share = f"; {report.bytes / whole:.1%} of the content was" if report.bytes else ""
    return f"the content of {files} ({data}) was not read{share}"


def _line(difference: Difference) -> str:
    path, what = render.name(difference.path), render.name(difference.what)
    return f"{path}: {what}: {render.name(difference.a)} | {render.name(difference.b)}"
