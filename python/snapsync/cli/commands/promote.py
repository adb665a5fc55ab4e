"""`snapsync promote`: a standby becomes the primary."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import roles
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode
from snapsync.options import DiscardDrift, JobsOptions, Name
from snapsync.reports.roles import PromoteReport


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
    **options: Unpack[JobsOptions],
) -> int:
    """Make a standby the primary.

    What an interrupted round left is finished or discarded without the old primary, and the tree is checked
    to be what its newest snapshot holds. From then on every standby refuses the old primary: `snapsync
    rejoin` makes it a standby of this one.
    """
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
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: PromoteReport) -> Iterator[str]:
    """What was promoted, in lines."""
    volume = report.volume
    yield f"{render.name(volume.path)} is the primary of epoch {volume.epoch}"
    yield f"  it goes on from {render.snapshot(report.newest)}, with {render.snapshot(report.snapshot)}"
    if report.set_aside:
        yield f"  what was changed by hand is kept as {render.snapshot(report.set_aside)}"
