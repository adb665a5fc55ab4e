"""`snapsync send`: a snapshot as a delta."""

import sys
from collections.abc import Iterator

from snapsync import render
from snapsync.api import rounds
from snapsync.cli.output import Output, on_terminal, take_stdout
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode, UsageError, told
from snapsync.options import DeltaOptions
from snapsync.reports.rounds import SendReport


@verb(
    place=20,
    examples=[
        "snapsync send /srv/data@monday -o monday.delta",
        "snapsync send /srv/data@tuesday --base /srv/data@monday | ssh host snapsync receive /mnt/standby",
        "snapsync send /snaps/5 --base /snaps/4 | snapsync receive --as-snapshot /backup",
    ],
)
def send(
    output: Output,
    snapshot: Annotated[
        str, Argument(metavar="SNAP", help="VOLUME@SNAP, or a directory that is a snapshot.")
    ],
    base: Annotated[
        list[str] | None,
        Option(
            "--base",
            metavar="BASE",
            help="A snapshot that the receiver has: only what changed since is sent. "
            " Of several the newest is taken.",
        ),
    ] = None,
    file: Annotated[
        str | None, Option("--output", "-o", metavar="FILE", help="Write the delta there.")
    ] = None,
    name: Annotated[
        str | None, Option("--name", metavar="NAME", help="What it is called where it is received.")
    ] = None,
    **options: Unpack[DeltaOptions],
) -> int:
    """Write a snapshot as a delta, to a file or a pipe.

    Without --base all of it is sent. A directory is a snapshot if it is a read-only Btrfs subvolume, or was
    made by `receive --as-snapshot`. Without --output the delta goes to stdout, and the report to stderr.
    """
    if file is None and on_terminal(sys.stdout):
        message = "a delta makes no sense on a terminal"
        raise told(UsageError(message), message, "name a file with -o, or pipe it to `snapsync receive`")
    if file is None:
        take_stdout("delta")
    with output.progress() as progress:
        report = rounds.send(snapshot, base or (), file, name=name, progress=progress, **options)
    output.notes(report.notes)
    if file is None:
        output.aside(report, summary(report))
    else:
        output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: SendReport) -> Iterator[str]:
    """What was sent, in lines."""
    base = f" since {render.name(report.base.name)}" if report.base else ", whole"
    yield f"{render.name(report.snapshot.name)}{base}: {render.changes(report.changes)}"
    data, stored = render.size(report.data_bytes), render.size(report.stored_bytes)
    yield f"  {data} of data, {stored} as sent, in {render.seconds(report.seconds)}"
    if report.output:
        yield f"  written to {render.name(report.output)}"
