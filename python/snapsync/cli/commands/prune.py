"""`snapsync prune`: delete the snapshots that nothing keeps."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import snapshots
from snapsync.cli.arguments import VolumeOrLog
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Option, Unpack, pick
from snapsync.errors import ExitCode
from snapsync.options import KeepOptions, SshOptions, counts
from snapsync.reports.snapshots import PruneReport


class PruneOptions(KeepOptions, SshOptions, total=False):
    """Which snapshots are kept, and whether any are deleted at all."""

    dry_run: Annotated[bool, Option("--dry-run", "-n", help="Only say what would go.")]


@verb(
    place=170,
    examples=[
        "snapsync prune /srv/data --keep-last 10 --keep-hourly 24 --keep-daily 14 --dry-run",
        "snapsync prune /mnt/standby --keep-weekly 8 --keep-monthly 12 --keep-yearly 10",
        "snapsync prune root@backup:/srv/standby --keep-daily 14 --dry-run",
        "snapsync prune s3://backups/data --keep-last 10 --keep-daily 14 --dry-run",
    ],
)
def prune(output: Output, volume: VolumeOrLog, **options: Unpack[PruneOptions]) -> int:
    """Delete the snapshots of VOLUME that nothing keeps.

    Snapshots that any --keep option keeps are not deleted, nor are the newest one, those that are held, and
    the bases of standbys. Weeks begin on Monday.

    VOLUME may be a log. Then the objects go that neither a snapshot that stays needs nor a standby that is
    behind, and what interrupted rounds left; a note tells how many, and their bytes. What changed in its last
    400 days stays, and --keep-history is for volumes alone.

    On another machine the snapsync there deletes them, if it was started without restrictions or with
    --allow-prune.
    """
    dry_run, ssh = options.get("dry_run", False), pick(SshOptions, options)
    report = snapshots.prune(volume, counts(options), dry_run=dry_run, **ssh)
    output.notes(report.notes)
    output.summary(report, _lines(report))
    return ExitCode.DONE


def _lines(report: PruneReport) -> Iterator[str]:
    went = render.count(len(report.pruned), "snapshot")
    path = render.name(report.volume.path)
    yield f"{path}: {went} {'would go' if report.dry_run else 'pruned'}, {len(report.kept):,} kept"
    if report.dry_run:
        for snap in report.pruned:
            yield f"  would go  {render.snapshot(snap)} of {render.moment(snap.created)}"
        for kept in report.kept:
            why = f": {render.name(', '.join(kept.why))}" if kept.why else ""
            yield f"  stays     {render.snapshot(kept.snapshot)}{why}"
    elif report.pruned:
        yield f"  pruned {', '.join(map(render.snapshot, report.pruned))}"
