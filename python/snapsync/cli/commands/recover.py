"""`snapsync recover`: what an interrupted command left is finished, or taken back."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import roles
from snapsync.cli.arguments import VolumeArgument
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Option, Unpack
from snapsync.errors import ExitCode
from snapsync.options import JobsOptions
from snapsync.reports.roles import RecoverReport


@verb(place=40, examples=["snapsync recover /mnt/standby", "snapsync recover /mnt/standby --back"])
def recover(
    output: Output,
    volume: VolumeArgument,
    back: Annotated[
        bool,
        Option("--back", help="Take back what was begun: the tree is what its newest snapshot holds."),
    ] = False,
    adopt: Annotated[
        bool,
        Option("--adopt", help="Go on with a store that was moved, copied or restored to where it is."),
    ] = False,
    **options: Unpack[JobsOptions],
) -> int:
    """Finish what an interrupted command left, or take it back.

    Every command that writes does this first; this one does nothing else. A commit that cannot go on is taken
    back at once. Where that failed too, mend the cause and choose: without --back the commit goes on to the
    new snapshot, with --back the tree becomes again what it was.
    """
    with output.progress() as progress:
        report = roles.recover(volume, back=back, adopt=adopt, progress=progress, **options)
    output.notes(report.notes)
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: RecoverReport) -> Iterator[str]:
    """What was done, and what the volume holds now."""
    holds = "is empty" if report.latest is None else f"is at {render.snapshot(report.latest)}"
    yield f"{render.name(report.volume.path)} {holds}"
    for done in report.recovered or ("nothing was to be done",):
        yield f"  {render.name(done)}"
    if report.unfinished:
        name = render.name(report.unfinished.snapshot)
        yield f"  a part of snapshot {name} has come: the same round goes on from there"
