"""`snapsync prune`: delete what nothing keeps."""

from collections.abc import Iterator, Mapping

from snapsync import api, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import PruneReport


def run(output: Output, volume: str, keep: Mapping[str, int], *, dry_run: bool) -> int:
    report = api.prune(volume, keep, dry_run=dry_run)
    for note in report.notes:
        output.note(note)
    output.summary(report, _lines(report))
    return ExitCode.DONE


def _lines(report: PruneReport) -> Iterator[str]:
    went = render.count(len(report.pruned), "snapshot")
    path = render.name(report.volume.path)
    yield f"{path}: {went} {'would go' if report.dry_run else 'pruned'}, {len(report.kept):,} kept"
    if report.dry_run:
        for snap in report.pruned:
            yield f"  would go  {render.snapshot(snap)} of {render.moment(snap.created)}"
        for kept in report.kept:
            yield f"  stays     {render.snapshot(kept.snapshot)}: {render.name(', '.join(kept.why))}"
    elif report.pruned:
        yield f"  pruned {', '.join(map(render.snapshot, report.pruned))}"
