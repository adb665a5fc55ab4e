"""`snapsync snapshot`: take one."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import snapshots
from snapsync.cli.arguments import VolumeArgument
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Unpack
from snapsync.errors import ExitCode
from snapsync.options import Name
from snapsync.options_of_taking import TakeOptions
from snapsync.reports.snapshots import SnapshotReport


@verb(
    place=100, examples=["snapsync snapshot /srv/data", "snapsync snapshot /srv/data --name before-upgrade"]
)
def snapshot(
    output: Output, volume: VolumeArgument, name: Name = None, **options: Unpack[TakeOptions]
) -> int:
    """Take a snapshot of VOLUME.

    On Btrfs it is instant; elsewhere only files that changed since the last snapshot are cloned or copied.

    --before-snapshot and --after-snapshot run commands around it, which make what writes there stand still
    and let it go on; the second one runs whatever happened in between.

    What cannot be read fails it. With --keep-going that is listed, and is in the snapshot as in the one
    before, or absent if it is new; the exit code is 6.
    """
    with output.progress() as progress:
        report = snapshots.snapshot(volume, name, progress=progress, **options)
    output.notes(report.notes)
    output.summary(report, _summary(report))
    return ExitCode.SKIPPED if report.skipped else ExitCode.DONE


def _summary(report: SnapshotReport) -> Iterator[str]:
    taken = render.snapshot(report.snapshot)
    path = render.name(report.volume.path)
    yield f"{taken} of {path}, in {render.seconds(report.seconds)}"
    yield from render.skipped(report.skipped)
