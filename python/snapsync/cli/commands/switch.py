"""`snapsync switch`: a primary and its standby change roles."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import roles
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import round_summary
from snapsync.declare import Annotated, Argument, Unpack
from snapsync.errors import ExitCode
from snapsync.options import RoleOptions
from snapsync.reports.roles import SwitchReport


@verb(place=70, examples=["snapsync switch /srv/data root@backup:/mnt/standby"])
def switch(
    output: Output,
    primary: Annotated[str, Argument(metavar="PRIMARY", help="The primary that is to be a standby.")],
    standby: Annotated[str, Argument(metavar="STANDBY", help="Its standby that is to be the primary.")],
    **options: Unpack[RoleOptions],
) -> int:
    """Let PRIMARY and STANDBY change roles.

    A last round brings STANDBY all that PRIMARY holds; then PRIMARY is a standby, and STANDBY the primary.
    Stop what writes to PRIMARY first: where it is still written to after a few rounds nothing is switched.
    Interrupted, the same command goes on. The other order is refused. One of them may be [user@]host:PATH.
    """
    with output.progress() as progress:
        report = roles.switch(primary, standby, progress=progress, **options)
    output.notes((*report.notes, *report.round.notes))
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: SwitchReport) -> Iterator[str]:
    """Who is primary now, in lines."""
    new, old = report.round.primary, report.round.standby
    yield f"{render.name(new.path)} is the primary of epoch {new.epoch}, {render.name(old.path)} its standby"
    yield from round_summary(report.round)
