"""`snapsync hold`: a snapshot stays until it is released."""

from snapsync import render
from snapsync.api import snapshots
from snapsync.cli.arguments import split
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option
from snapsync.errors import ExitCode


@verb(
    place=180,
    examples=[
        "snapsync hold /srv/data@monday --reason 'before the audit'",
        "snapsync hold s3://backups/data@monday",
    ],
)
def hold(
    output: Output,
    address: Annotated[str, Argument(metavar="VOLUME@SNAP", help="The snapshot to hold; or LOG@SNAP.")],
    reason: Annotated[
        str | None,
        Option("--reason", metavar="TEXT", help="Why, for whoever asks; without it the former one stays."),
    ] = None,
) -> int:
    """Keep a snapshot from being deleted.

    Neither `delete` nor `prune` nor a sync that keeps only some removes it until it is released. That counts
    for this VOLUME: its standbys hold their own, and so does a log.
    """
    volume, snap = split(address, "hold")
    report = snapshots.hold(volume, snap, reason)
    why = f": {render.name(report.reason)}" if report.reason else ""
    held = f"{render.snapshot(report.snapshot)} of {render.name(report.volume.path)}"
    output.summary(report, [f"holding {held}{why}"])
    return ExitCode.DONE
