"""`snapsync release`: a snapshot that is held may go again."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import snapshots
from snapsync.cli.arguments import split
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option
from snapsync.errors import ExitCode
from snapsync.reports.snapshots import ReleaseReport


@verb(
    place=190,
    examples=[
        "snapsync release /srv/data@monday",
        "snapsync release /srv/data --standby /mnt/gone",
        "snapsync release s3://backups/data --standby 66fca71f-16b2-4c50-ae1a-2398c87e3038",
    ],
)
def release(
    output: Output,
    address: Annotated[
        str,
        Argument(
            metavar="VOLUME@SNAP", help="The snapshot, also LOG@SNAP; with --standby only VOLUME or LOG."
        ),
    ],
    standby: Annotated[
        str | None,
        Option(
            "--standby", metavar="PATH|ID", help="Forget a standby that is gone, and free what was its base."
        ),
    ] = None,
) -> int:
    """Release a held snapshot.

    From then on it can be deleted, and `prune` counts it like any other.

    With --standby a log keeps nothing any more for a standby that was to follow it. Standbys on two machines
    can have the same path: then name the ID, which `snapsync status LOG --json` tells.
    """
    if standby is None:
        volume, snap = split(address, "release")
        report = snapshots.release(volume, snap)
    else:
        report = snapshots.forget_standby(address, standby)
    output.summary(report, _lines(report))
    return ExitCode.DONE


def _lines(report: ReleaseReport) -> Iterator[str]:
    freed = report.snapshot and f"{render.snapshot(report.snapshot)} of {render.name(report.volume.path)}"
    if report.standby is None:
        yield f"released {freed}"
        return
    yield f"forgot the standby {render.name(report.standby)}"
    if freed:
        yield f"  {freed} need not stay for it any more"
