"""`snapsync receive`: a delta into a standby, or as a snapshot."""

import sys
from collections.abc import Iterator

from snapsync import render
from snapsync.api import rounds
from snapsync.cli.output import Output, on_terminal
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode, UsageError, told
from snapsync.options import ReceiveOptions
from snapsync.reports.rounds import ReceiveReport


@verb(
    place=30,
    examples=[
        "snapsync receive /mnt/standby -i monday.delta",
        "snapsync receive --as-snapshot /backup < monday.delta",
    ],
)
def receive(
    output: Output,
    volume: Annotated[
        str | None,
        Argument(metavar="VOLUME", help="The standby: absent or empty for a first, whole delta."),
    ] = None,
    file: Annotated[
        str | None, Option("--input", "-i", metavar="FILE", help="Read the delta from there.")
    ] = None,
    as_snapshot: Annotated[
        str | None,
        Option(
            "--as-snapshot",
            metavar="DIR",
            help="Make a snapshot in DIR instead, from the base that was received there before.",
        ),
    ] = None,
    name: Annotated[
        str | None, Option("--name", metavar="NAME", help="With --as-snapshot: its name in DIR.")
    ] = None,
    **options: Unpack[ReceiveOptions],
) -> int:
    """Apply a delta, from a file or a pipe, all or nothing.

    A standby takes the deltas of its own primary, each from where the last one led. With --as-snapshot
    DIR/NAME is made, as `btrfs receive` does: a read-only subvolume on Btrfs. If the delta ends too early,
    what has arrived is kept, and the same delta goes on from there.
    """
    if file is None and on_terminal(sys.stdin):
        message = "no delta comes from a terminal"
        raise told(UsageError(message), message, "name a file with -i, or pipe `snapsync send` into this")
    with output.progress() as progress:
        report = rounds.receive(
            volume, file, as_snapshot=as_snapshot, name=name, progress=progress, **options
        )
    output.notes((*report.recovered, *report.notes))
    if report.set_aside:
        output.note(f"what was changed by hand is kept as {render.snapshot(report.set_aside)}")
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: ReceiveReport) -> Iterator[str]:
    """What was received, in lines."""
    where = report.path or (report.standby.path if report.standby else "")
    yield f"{render.name(report.snapshot.name)} -> {render.name(where)}"
    yield f"  {render.changes(report.changes)}"
    kept = f", {render.size(report.kept_bytes)} of it from before" if report.kept_bytes else ""
    yield f"  {render.size(report.data_bytes)} of data{kept}, in {render.seconds(report.seconds)}"
    yield from render.losses(report.losses)
