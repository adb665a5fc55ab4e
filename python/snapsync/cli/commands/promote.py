"""`snapsync promote`: a standby becomes the primary."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import roles
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import promoted
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode
from snapsync.options import DiscardDrift, JobsOptions, Name
from snapsync.reports.roles import PromotePreviewReport


@verb(place=50, examples=["snapsync promote /mnt/standby", "snapsync promote /mnt/standby --discard-drift"])
def promote(
    output: Output,
    volume: Annotated[str, Argument(metavar="VOLUME", help="The root directory of a standby.")],
    name: Name = None,
    discard_drift: DiscardDrift = False,
    accept_drift: Annotated[
        bool,
        Option("--accept-drift", help="Go on with what was changed by hand on the standby."),
    ] = False,
    dry_run: Annotated[
        bool,
        Option("--dry-run", "-n", help="Only say what becomes of older snapshots; change nothing."),
    ] = False,
    **options: Unpack[JobsOptions],
) -> int:
    """Make a standby the primary.

    What an interrupted round left is finished or discarded without the old primary, and the tree is checked
    to be what its newest snapshot holds. From then on every standby refuses the old primary: `snapsync
    rejoin` makes it a standby of this one. If the standby follows a log, the log is told first: it has to be
    reachable, and to have no newer snapshot.

    Older snapshots find bytes in the tree that others write to from then on. Where blocks can be shared, they
    are cloned first; elsewhere those snapshots lose what changes. --dry-run tells which these are, how much
    that is, and how long it takes by a few trials. It does not look for what was changed by hand.
    """
    if dry_run:
        preview = roles.preview_promote(volume, **options)
        output.notes(preview.notes)
        output.result(preview, _preview(preview))
        return ExitCode.DONE
    with output.progress() as progress:
        report = roles.promote(
            volume,
            name=name,
            discard_drift=discard_drift,
            accept_drift=accept_drift,
            progress=progress,
            **options,
        )
    output.healed(report.recovered)
    output.notes(report.notes)
    output.summary(report, promoted(report))
    return ExitCode.DONE


def _preview(report: PromotePreviewReport) -> Iterator[str]:
    name = render.name(report.volume.path)
    yield f"{name} would be promoted, and go on from {render.snapshot(report.newest)}"
    if report.unfinished:
        unfinished = f"{report.unfinished.phase} of snapshot {report.unfinished.snapshot}"
        yield f"  the {render.name(unfinished)} is finished or discarded first, which may change this"
    what = f"{render.count(report.files, 'file')} of {render.size(report.bytes)}"
    if not report.files:
        yield "  its snapshots have all that they hold by themselves"
    elif report.clones:
        yield f"  {what} would be cloned for its snapshots first, in about {report.clone_seconds:.1f} s"
    else:
        yield f"  {what} are in its tree alone, where no blocks are shared. What changes is lost to"
        for thinning in report.thins:
            files = render.count(thinning.files, "file")
            yield f"    {render.snapshot(thinning.snapshot)}: {files}"
