"""`snapsync clone`: a writable copy of a snapshot."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import restores
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode
from snapsync.options import RestoreOptions
from snapsync.reports.restores import CloneReport


@verb(
    place=140,
    examples=[
        "snapsync clone /srv/data@monday /srv/trial",
        "snapsync clone /srv/data@latest /srv/trial --name try-upgrade",
        "snapsync delete /srv/data@try-upgrade",
    ],
)
def clone(
    output: Output,
    address: Annotated[str, Argument(metavar="VOLUME@SNAP", help="The snapshot to copy.")],
    directory: Annotated[str, Argument(metavar="DIR", help="Where the copy is to be: absent or empty.")],
    name: Annotated[
        str | None, Option("--name", metavar="NAME", help="Name of the clone; that of DIR without it.")
    ] = None,
    **options: Unpack[RestoreOptions],
) -> int:
    """Make a writable copy of a snapshot.

    What is written to it never reaches the snapshot. On Btrfs, on the volume's own file system and without
    patterns, it is instant and takes no space; on XFS its files share their blocks with the snapshot's.
    `list` shows the clones of a volume, `delete` deletes them. With --from the data is that of a standby
    which has the snapshot too.
    """
    with output.progress() as progress:
        report = restores.clone(address, directory, name=name, progress=progress, **options)
    output.notes(report.notes)
    output.summary(report, _summary(report))
    return ExitCode.DONE


def _summary(report: CloneReport) -> Iterator[str]:
    clone = report.clone
    copied = f"cloned {render.snapshot(report.snapshot)} to {render.name(clone.path)}"
    yield f"{copied} as {render.name(clone.name)}, in {render.seconds(report.seconds)}"
    if not report.instant:
        shared = f", {render.size(report.shared_bytes)} of it shared" if report.shared_bytes else ""
        yield f"  {render.size(report.data_bytes)} of data{shared}"
    yield from render.losses(report.losses)
